//! The kernel's own tests of x86 (`tools/testing/selftests/x86` of the distribution's kernel source), built here and run
//! in a guest: single steps, signal frames, segments, I/O rights, system calls by every way in.

use std::path::{Path, PathBuf};
use std::process::Command;

use softmetal_machine::host::catalog::Catalog;
use softmetal_testroms::userland;

use crate::{NEED, images, lacking, passes, softmetal};

/// The package with the kernel's source, and what is needed of it.
const PACKAGE: &str = "linux-source-6.1";
const FOLDER: &str = "tools/testing/selftests/x86";
const ALSO: [&str; 2] = ["tools/testing/selftests/kselftest.h", "arch/x86/include/asm/desc_defs.h"];

/// For 32 and for 64 bits: all that the kernel's Makefile names but `amx`, which wants a processor that has it.
const BOTH: [&str; 16] = [
    "single_step_syscall",
    "sysret_ss_attrs",
    "syscall_nt",
    "test_mremap_vdso",
    "check_initial_reg_state",
    "sigreturn",
    "iopl",
    "ioperm",
    "mov_ss_trap",
    "sigtrap_loop",
    "syscall_arg_fault",
    "fsgsbase_restore",
    "sigaltstack",
    "ldt_gdt",
    "ptrace_syscall",
    "test_vsyscall",
];
const ONLY_32: [&str; 7] =
    ["entry_from_vm86", "test_syscall_vdso", "unwind_vdso", "test_FCMOV", "test_FCOMI", "test_FISTTP", "vdso_restorer"];
const ONLY_64: [&str; 4] = ["fsgsbase", "sysret_rip", "syscall_numbering", "corrupt_xstate_header"];

/// Those that look for the vDSO with the dynamic linker.
const DYNAMIC: [&str; 2] = ["test_vsyscall", "vdso_restorer"];

/// What they may leave out: what takes a second processor, SYSCALL in 32-bit code, which Intel's processors have not, and
/// virtual-8086 mode, which 64-bit kernels have not.
const SKIPPED: [&str; 4] = ["Cannot set affinity to CPU 1", "failed to force CPU 1", "Illegal instruction", "vm86 not supported"];

/// What they need beside their own source.
fn extra(name: &str, bits: u32) -> &'static [&'static str] {
    match (name, bits) {
        ("sysret_ss_attrs", 64) => &["thunks.S"],
        ("ptrace_syscall", 32) => &["raw_syscall_helper_32.S"],
        ("test_syscall_vdso", 32) => &["thunks_32.S"],
        ("check_initial_reg_state", _) => &["-Wl,-ereal_start"],
        _ => &[],
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Fetches the sources into `folder`.
fn fetch(folder: &Path) {
    run(Command::new("apt-get").current_dir(folder).args(["download", "-q", PACKAGE]));
    let package = std::fs::read_dir(folder).unwrap().find_map(|e| e.ok().filter(|e| e.path().extension().is_some_and(|x| x == "deb")));
    let package = package.expect("apt-get download leaves a package").path();
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(folder));
    let archive = folder.join("usr/src").join(format!("{PACKAGE}.tar.xz"));
    let within = |path: &str| format!("{PACKAGE}/{path}");
    run(Command::new("tar").arg("-C").arg(folder).arg("-xf").arg(archive).arg(within(FOLDER)).args(ALSO.map(within)));
}

#[test]
fn the_kernels_own_x86_selftests_pass() {
    if images("busybox-full").is_none() {
        return;
    }
    let can_build = |bits: &str| {
        let probe = tempfile::tempdir().unwrap();
        let source = probe.path().join("t.c");
        std::fs::write(&source, "#include <stdio.h>\nint main(void) { return 0; }\n").unwrap();
        Command::new("gcc")
            .args([bits, "-static", "-o"])
            .arg(probe.path().join("t"))
            .arg(&source)
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if !can_build("-m64") || !can_build("-m32") {
        let why = "gcc cannot build static programs of 64 and 32 bits: install gcc-multilib";
        lacking(NEED, &why);
        return;
    }
    let sources = tempfile::tempdir().unwrap();
    fetch(sources.path());
    let guest = tempfile::tempdir().unwrap();
    let programs = guest.path().join("selftests");
    std::fs::create_dir(&programs).unwrap();
    let all = BOTH.iter().chain(&ONLY_32).map(|name| (*name, 32)).chain(BOTH.iter().chain(&ONLY_64).map(|name| (*name, 64)));
    let mut count = 0;
    for (name, bits) in all {
        let mut gcc = Command::new("gcc");
        gcc.current_dir(sources.path().join(PACKAGE).join(FOLDER)).arg(format!("-m{bits}")).args([
            "-O2",
            "-std=gnu99",
            "-pthread",
            "-w",
            "-s",
            "-no-pie",
            "-DCAN_BUILD_32",
            "-DCAN_BUILD_64",
        ]);
        let program = programs.join(format!("{name}_{bits}"));
        gcc.arg("-o").arg(&program).arg(format!("{name}.c")).args(extra(name, bits));
        if !DYNAMIC.contains(&name) {
            gcc.arg("-static");
        }
        run(gcc.args(["-lrt", "-ldl", "-lm"]));
        if DYNAMIC.contains(&name) {
            let libraries: Vec<_> = userland::libraries(&[&program]).unwrap().into_iter().collect();
            userland::install(guest.path(), &libraries.iter().map(PathBuf::as_path).collect::<Vec<_>>()).unwrap();
        }
        count += 1;
    }
    let script = "cd /selftests; for t in *; do timeout 60 ./$t >/tmp/out 2>&1; rc=$?; echo SELFTEST $t $rc; \
                  grep -E 'FAIL|SKIP' /tmp/out; done; poweroff -f\\n";
    let catalog = Catalog::new(false).unwrap();
    let kernel = images("busybox-full").unwrap().kernel;
    let initrd = catalog.initrd_with("busybox-full", guest.path(), &mut |_| {}).unwrap();
    let log = passes(
        softmetal()
            .args(["test", "--append", "console=ttyS0", "--cpu", "max", "--expect", "guest# ", "--send", script, "--expect", "Power down"])
            .arg("--kernel")
            .arg(kernel)
            .arg("--initrd")
            .arg(initrd),
    );
    let results: Vec<&str> = log.lines().filter(|l| l.starts_with("SELFTEST ")).map(str::trim_end).collect();
    assert_eq!(results.len(), count, "{log}");
    let failed: Vec<&&str> = results.iter().filter(|l| !l.ends_with(" 0")).collect();
    let skipped: Vec<&str> = log.lines().filter(|l| l.starts_with("[SKIP]") && !SKIPPED.iter().any(|s| l.contains(s))).collect();
    assert!(failed.is_empty() && skipped.is_empty(), "{failed:?} {skipped:?}\n{log}");
}
