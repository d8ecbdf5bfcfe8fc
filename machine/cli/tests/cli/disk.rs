//! `softmetal disk`: JSON on stdout, and one sentence for each mistake.

use std::path::Path;

use serde_json::Value;

use crate::bad_input::refused;
use crate::common::{outcome, softmetal};

fn json(dir: &Path, args: &[&str], code: i32) -> Value {
    let all: Vec<&str> = [&["disk"], args, &["--json"]].concat();
    let (found, out, err) = outcome(softmetal(&all).current_dir(dir));
    assert_eq!((found, err.as_str()), (Some(code), ""), "{args:?}: {out}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"))
}

#[test]
fn tells_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let info = json(d, &["create", "a.qcow2", "8M", "--cluster-size", "4K"], 0);
    assert_eq!((&info["format"], &info["virtual-size"], &info["cluster-size"]), (&"qcow2".into(), &(8 << 20).into(), &4096.into()));
    let info = json(d, &["create", "top.qcow2", "--backing-file", "a.qcow2"], 0);
    assert_eq!((&info["backing-filename"], &info["backing-filename-format"]), (&"a.qcow2".into(), &"qcow2".into()));
    assert_eq!(info["virtual-size"], 8 << 20);
    let check = json(d, &["check", "top.qcow2"], 0);
    assert_eq!((&check["check-errors"], &check["total-clusters"]), (&0.into(), &128.into()));
    assert_eq!(json(d, &["resize", "top.qcow2", "+4M"], 0)["virtual-size"], 12 << 20);
    assert_eq!(json(d, &["convert", "top.qcow2", "b.raw"], 0)["format"], "raw");
    assert_eq!(json(d, &["info", "b.raw"], 0)["virtual-size"], 12 << 20);
    assert_eq!(json(d, &["commit", "top.qcow2"], 0)["format"], "qcow2");

    // What is wrong with an image is exit code 1, and in the JSON.
    let mut bytes = std::fs::read(d.join("a.qcow2")).unwrap();
    let block = u64::from_be_bytes(bytes[4096..4104].try_into().unwrap()) as usize;
    bytes[block + 2 * 100 + 1] = 1;
    std::fs::write(d.join("a.qcow2"), bytes).unwrap();
    assert_eq!(json(d, &["check", "a.qcow2"], 1)["leaks"], 1);
    assert_eq!(json(d, &["check", "a.qcow2", "--repair"], 0)["leaks-fixed"], 1);
    assert_eq!(json(d, &["check", "a.qcow2"], 0)["leaks"], Value::Null);
}

#[test]
fn mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::create_dir(d.join("folder")).unwrap();
    std::fs::write(d.join("raw"), [7; 2048]).unwrap();
    std::fs::write(d.join("odd"), [7; 700]).unwrap();
    std::fs::write(d.join("empty"), "").unwrap();
    std::fs::write(d.join("cut.qcow2"), b"QFI\xfb\0\0\0\x03").unwrap();
    let qed = [&b"QED\0"[..], &[0; 508]].concat();
    std::fs::write(d.join("old.qed"), qed).unwrap();
    let create = |args: &[&str]| assert_eq!(outcome(softmetal(args).current_dir(d)).0, Some(0), "{args:?}");
    create(&["disk", "create", "a.qcow2", "1M"]);
    create(&["disk", "create", "top.qcow2", "--backing-file", "a.qcow2"]);

    refused(d, &["disk", "create", "x.qcow2"], &["give its size"]);
    refused(d, &["disk", "create", "x.qcow2", "1Q"], &["1Q", "size"]);
    refused(d, &["disk", "create", "x.qcow2", "700"], &["512"]);
    refused(d, &["disk", "create", "x.qcow2", "0"], &["512"]);
    refused(d, &["disk", "create", "x.qcow2", "1M", "--cluster-size", "5000"], &["power of two"]);
    refused(d, &["disk", "create", "x.qcow2", "4000000T"], &["larger clusters"]);
    refused(d, &["disk", "create", "x.img", "1M", "--cluster-size", "4K"], &["no clusters", "--format qcow2"]);
    refused(d, &["disk", "create", "x.vmdk", "1M", "--format", "vmdk"], &["only be read"]);
    refused(d, &["disk", "create", "x.img", "1M", "--format", "ext4"], &["no format `ext4`"]);
    refused(d, &["disk", "create", "raw", "1M"], &["there already", "--force"]);
    refused(d, &["disk", "create", "folder", "1M"], &["directory"]);
    refused(d, &["disk", "create", "no/x", "1M"], &["no/x", "make it first"]);
    refused(d, &["disk", "create", "x.qcow2", "--backing-file", "missing"], &["missing"]);
    refused(d, &["disk", "create", "x.raw", "--format", "raw", "--backing-file", "raw"], &["--format qcow2"]);
    for command in ["info", "check", "commit"] {
        refused(d, &["disk", command, "missing"], &["missing", "does not exist"]);
        refused(d, &["disk", command, "folder"], &["directory"]);
        refused(d, &["disk", command, "cut.qcow2"], &["damaged"]);
        refused(d, &["disk", command, "old.qed"], &["QED", "convert"]);
    }
    refused(d, &["disk", "info", "odd"], &["512"]);
    refused(d, &["disk", "info", "empty"], &["empty"]);
    refused(d, &["disk", "check", "raw"], &["nothing to check"]);
    refused(d, &["disk", "commit", "a.qcow2"], &["no backing file"]);
    refused(d, &["disk", "convert", "a.qcow2", "raw"], &["--force"]);
    refused(d, &["disk", "convert", "a.qcow2", "a.qcow2", "--force"], &["a.qcow2", "into itself"]);
    refused(d, &["disk", "convert", "a.qcow2", "x", "--snapshot", "one"], &["no snapshot one"]);
    refused(d, &["disk", "convert", "raw", "x", "--snapshot", "one"], &["no internal snapshots"]);
    refused(d, &["disk", "convert", "a.qcow2", "x", "--to-format", "vdi"], &["only be read"]);
    refused(d, &["disk", "resize", "a.qcow2", "512K"], &["--shrink"]);
    refused(d, &["disk", "resize", "a.qcow2", "1000"], &["512"]);
    refused(d, &["disk", "resize", "a.qcow2", "-9M"], &["size"]);
    std::fs::rename(d.join("a.qcow2"), d.join("b.qcow2")).unwrap();
    for command in ["commit", "convert"] {
        let args = [&["disk", command, "top.qcow2"][..], if command == "convert" { &["x"] } else { &[] }].concat();
        refused(d, &args, &["depends on a.qcow2", "put that file where it was"]);
    }
}
