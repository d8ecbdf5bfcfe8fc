//! Code that writes code: just-in-time compilers give in a guest what they give on this host with both engines, and a kernel
//! patches itself.
//!
//! `SOFTMETAL_LONG_BOOTS=1 cargo test --release -p softmetal --test linux jits -- --nocapture` has more rounds, PyPy, and
//! both engines and the full kernel where it patches itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::boots::wanted;
use crate::images;
use crate::userland::{Guest, able, run};

const LUA: &str = include_str!("userland/jit.lua");
const PYTHON: &str = include_str!("userland/jit.py");
const FILTERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/linux/userland/filters.c");

/// The fast engine of this host, and the one that every host has.
fn engines() -> [&'static str; 2] {
    ["auto", "interpreter"]
}

/// Unpacks packages of the distribution below `root`.
fn unpack(root: &Path, packages: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new("apt-get").current_dir(folder.path()).args(["download", "-q"]).args(packages));
    for package in std::fs::read_dir(folder.path()).unwrap() {
        run(Command::new("dpkg-deb").arg("-x").arg(package.unwrap().path()).arg(root));
    }
}

#[test]
fn luajit_gives_what_it_gives_here() {
    if images("busybox").is_none() || !able(&["apt-get", "dpkg-deb", "ldd"]) {
        return;
    }
    let guest = Guest::new();
    unpack(&guest.here(""), &["luajit"]);
    let luajit: PathBuf = guest.here("usr/bin/luajit");
    guest.install_libraries_of(&luajit);
    std::fs::write(guest.here("jit.lua"), LUA).unwrap();
    let rounds = if wanted() { 200 } else { 3 };
    guest.agrees(&format!("/userland/usr/bin/luajit jit.lua {rounds}"), "256M", &engines().map(Some));
}

#[test]
fn pypy_gives_what_it_gives_here() {
    if !crate::boots::long() || images("busybox").is_none() || !able(&["apt-get", "dpkg-deb", "ldd"]) {
        return;
    }
    let guest = Guest::new();
    unpack(&guest.here(""), &["pypy3", "pypy3-lib", "libffi8", "libexpat1"]);
    let library = guest.here("usr/lib/x86_64-linux-gnu/libpypy3.9-c.so");
    guest.install_libraries_of(&library);
    std::fs::write(guest.here("jit.py"), PYTHON).unwrap();
    let python = "LD_LIBRARY_PATH=/userland/usr/lib/x86_64-linux-gnu /userland/usr/bin/pypy3";
    guest.agrees(&format!("{python} -S jit.py 4"), "1G", &engines().map(Some));
}

/// Socket filters (the BPF compiler), static keys, the function tracers, a probe, trace events, modules.
const PATCHING: &str = r#"
result() { sed 's/^/RESULT /'; }
much() { sed 's/^[1-9][0-9]*$/much/'; }
dmesg -n 1
/userland/filters | result
mount -t tracefs t /sys/kernel/tracing; cd /sys/kernel/tracing
echo JIT $(cat /proc/sys/net/core/bpf_jit_enable) | result
for i in 1 2 3; do for key in 1 0; do echo $key >/proc/sys/kernel/sched_schedstats; /userland/filters | result; done; done
for i in 1 2; do for tracer in function function_graph; do
  echo >trace; echo $tracer >current_tracer; ls / >/dev/null; cat /proc/uptime >/dev/null
  echo TRACED $tracer $(grep -cE '\w+\(\)|<-' trace | much) | result; echo nop >current_tracer
done; done
echo 'p:opened do_sys_openat2' >kprobe_events; echo 1 >events/kprobes/opened/enable; cat /proc/uptime >/dev/null
echo PROBED $(grep -c opened: trace | much) | result; echo 0 >events/kprobes/opened/enable; echo >kprobe_events
echo 1 >events/sched/sched_switch/enable; sleep 0.1; echo 0 >events/sched/sched_switch/enable
echo EVENTS $(grep -c sched_switch: trace | much) | result
for i in 1 2 3; do
  modprobe isofs; grep -c '^isofs' /proc/modules | result; rmmod isofs; grep -c '^isofs' /proc/modules | result
done
/userland/filters | result
"#;

#[test]
fn a_kernel_patches_itself() {
    if images("busybox").is_none() || !able(&["gcc"]) {
        return;
    }
    let guest = Guest::new();
    guest.compile("filters", Path::new("/"), &[FILTERS]);
    std::fs::write(guest.here("run.sh"), PATCHING).unwrap();
    let filters = run(&mut Command::new(guest.here("filters")));
    let filters = filters.trim();
    let mut expected = vec![filters, "JIT 1"];
    expected.extend([filters; 6]);
    expected.extend(["TRACED function much", "TRACED function_graph much"].repeat(2));
    expected.extend(["PROBED much", "EVENTS much"]);
    expected.extend(["1", "0"].repeat(3));
    expected.push(filters);
    let expected: Vec<_> = expected.into_iter().map(|line| format!("RESULT {line}")).collect();
    // The interpreter takes a minute.
    let [kernels, engines]: [&[&str]; 2] =
        if wanted() { [&["busybox", "busybox-full"], &engines()] } else { [&["busybox"], &engines()[..1]] };
    for (kernel, engine) in kernels.iter().flat_map(|k| engines.iter().map(move |e| (k, e))) {
        let (results, log) = guest.boot(kernel, "256M", Some(engine));
        assert_eq!(results, expected, "{kernel}, {engine}: {log}");
    }
}
