//! The rules of the house that a compiler does not know.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Licences that what is linked into the program may have.
const ALLOWED: [&str; 8] = ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Zlib", "Unlicense", "Unicode-3.0"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Whether an SPDX expression lets us choose an allowed licence. Expressions here are `OR` within `AND`.
fn allowed(expression: &str) -> bool {
    let one = |name: &str| ALLOWED.contains(&name.trim().trim_end_matches(" WITH LLVM-exception"));
    expression.replace('/', " OR ").split(" AND ").all(|part| part.trim_matches(['(', ')', ' ']).split(" OR ").any(one))
}

#[test]
fn every_licence_is_a_permissive_one() {
    assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0") && allowed("MIT/Apache-2.0") && allowed("MIT OR LGPL-2.1-or-later"));
    assert!(!allowed("GPL-3.0") && !allowed("MIT AND GPL-2.0") && !allowed("(MIT OR Apache-2.0) AND MPL-2.0"));
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--locked"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = all["packages"].as_array().unwrap();
    assert!(packages.len() > 20);
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(allowed(licence), "{} has the licence {licence}", package["name"]);
    }
}

/// Rust sources below `dir`, without what is built.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            if !entry.file_name().to_string_lossy().starts_with('.') && entry.file_name() != "target" {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Crates that have such modules, and so do not forbid unsafe code.
const UNSAFE_CRATES: [&str; 3] = ["cpu/oracle/src/lib.rs", "cpu/src/lib.rs", "machine/bus/src/lib.rs"];

#[test]
fn unsafe_code_stays_where_it_belongs() {
    let root = root();
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 150, "{}", files.len());
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, section) = architecture.split_once("## Unsafe code\n").expect("a section");
    let rows = section.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut named: Vec<&str> = rows.collect();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let mut code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
        let is_unsafe = |line: &str| ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|form| line.contains(form));
        if !name.ends_with("house.rs") && code.any(is_unsafe) {
            let at = named.iter().position(|n| *n == name);
            named.remove(at.unwrap_or_else(|| panic!("{name} has unsafe code, and ARCHITECTURE.md does not say why")));
        }
        let is_crate = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
        let may = UNSAFE_CRATES.contains(&name.as_str());
        assert!(!is_crate || may || text.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
    }
    assert!(named.is_empty(), "ARCHITECTURE.md names files without unsafe code: {named:?}");
}
