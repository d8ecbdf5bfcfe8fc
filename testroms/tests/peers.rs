//! The guest programs on other emulators: QEMU (TCG) and Bochs, of the distribution's packages, must print what Softmetal
//! prints. What they print otherwise is in `DIFFERENCES`, with the manual's words for our line.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use softmetal_testroms::image::disk;
use softmetal_testroms::lacking;
use softmetal_testroms::programs::runs;

/// Set where the peers have been installed.
const NEED: &str = "SOFTMETAL_NEED_PEERS";

/// Ours is in `tests/NAME.log`.
fn expected(name: &str) -> String {
    fs::read_to_string(format!("{}/tests/{name}.log", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Lines of a program that a peer prints otherwise: peer, program, how our lines begin, and why ours are right.
const DIFFERENCES: &[(&str, &str, &str, &str)] = &[
    ("qemu", "exceptions", "INTO in 64-bit mode", "SDM 2, INTO: #UD in 64-bit mode"),
    ("qemu", "exceptions", "a null selector for SS in ring 3", "SDM 2, MOV: #GP(0) unless RPL is CPL"),
    ("qemu", "exceptions", "a load by RBP, not canonical", "SDM 3A, 6.15, interrupt 12: #SS for references by the stack segment"),
    ("qemu", "exceptions", "an MSR that does not exist", "SDM 2, RDMSR: #GP(0)"),
    ("qemu", "exceptions", "a load, reserved bit of the entry", "SDM 3A, 4.7: RSVD is set only together with P"),
    ("qemu", "exceptions", "SSE division by zero", "SDM 1, 11.5.1: #XM; QEMU has no unmasked exceptions of SSE"),
    ("qemu", "exceptions", "a reserved bit of CR4", "SDM 3A, 2.5: #GP(0); it goes astray"),
    ("qemu", "exceptions", "CR0.PG without CR0.PE", "the line before has led it astray"),
    ("qemu", "protected", "a load past the limit", "SDM 3A, 5.3: limits; QEMU has none"),
    ("qemu", "protected", "a load across 4 GiB", "SDM 3A, 5.3"),
    ("qemu", "protected", "expand-down: within", "SDM 3A, 5.3"),
    ("qemu", "protected", "expand-down: above 64", "SDM 3A, 5.3: B is clear"),
    ("qemu", "protected", "a store to a read-only segment", "SDM 3A, 5.4: types; QEMU looks at them at loads of selectors alone"),
    ("qemu", "protected", "a store to the code segment", "SDM 3A, 5.4"),
    ("qemu", "protected", "a load by a null selector", "SDM 3A, 5.4.1"),
    ("qemu", "protected", "a pop past the stack's limit", "SDM 3A, 5.3"),
    ("qemu", "protected", "an LDT: LLDT, LSL, load", "SDM 3A, 5.3"),
    ("qemu", "protected", "ring 3: unaligned with AC and CR0.AM", "SDM 3A, 6.15, interrupt 17; QEMU checks no alignment"),
    ("qemu", "protected", "v86, IOPL 0: a word at FFFF", "SDM 3B, 20.2.1: 64 KiB"),
    ("qemu", "protected", "v86, IOPL 3: a word at FFFF", "SDM 3B, 20.2.1"),
    ("qemu", "protected", "v86, IOPL 0: a push at 1", "SDM 3B, 20.2.1"),
    ("qemu", "protected", "v86, IOPL 3: a push at 1", "SDM 3B, 20.2.1"),
    ("qemu", "protected", "v86, IOPL 0: an address above", "SDM 3B, 20.2.1"),
    ("qemu", "protected", "v86, IOPL 3: an address above", "SDM 3B, 20.2.1"),
    ("qemu", "protected", "general detection", "SDM 3B, 17.3.1.1: RF is pushed as 1 by faults but instruction breakpoints"),
    ("bochs", "protected", "general detection", "SDM 3B, 17.3.1.1: RF is pushed as 1 by faults but instruction breakpoints"),
    ("qemu", "protected", "DR6 and DR7 after", "SDM 3B, 17.2.4 and figure 17-1: bits 12, 14 and 15 of DR7 are 0"),
    ("qemu", "protected", "x87, unmasked: 1 / 0", "SDM 1, 8.5.3: operands and TOP stay as they were"),
    ("qemu", "protected", "x87, masked: the root of -1", "SDM 2, FSQRT: C2 is undefined"),
    ("qemu", "protected", "x87, unmasked: the root of -1", "SDM 2, FSQRT: C2 is undefined"),
    ("qemu", "protected", "x87, masked: a pop of nothing", "SDM 1, 8.5.1.1: stack underflow"),
    ("qemu", "protected", "x87, unmasked: a pop of nothing", "SDM 1, 8.5.1.1"),
    ("qemu", "protected", "x87, masked: nine pushes", "SDM 1, 8.5.1.1: stack overflow"),
    ("qemu", "protected", "x87, unmasked: nine pushes", "SDM 1, 8.5.1.1"),
    ("qemu", "protected", "x87, masked: 1 / 3", "SDM 1, 8.1.3.3: C1 tells that it was rounded up"),
    ("qemu", "protected", "x87, unmasked: 1 / 3", "SDM 1, 8.1.3.3"),
    ("qemu", "protected", "x87, unmasked: FCOM", "SDM 1, 8.7: the next waiting instruction faults"),
    ("qemu", "protected", "x87, unmasked: FIST", "SDM 1, 8.5.1.2: nothing is stored or popped"),
    ("qemu", "processors-pentium3", "CPUID: features", "SDM 3B, 20.3: VME, which QEMU has not"),
    ("qemu", "processors-pentium3", "RDMSR of EFER", "SDM 2, RDMSR: #GP(0), it has no such MSR; QEMU looks at few feature bits"),
    ("qemu", "processors-pentium3", "FISTTP", "SDM 2, FISTTP: #UD without SSE3"),
    ("qemu", "processors-pentium3", "PREFETCHW", "APM 3, PREFETCH: #UD without 3DNow!"),
    ("qemu", "processors-pentium3", "ADDPD with CR4.OSFXSR", "SDM 2, ADDPD: #UD without SSE2"),
    ("qemu", "processors-pentium3", "LFENCE", "SDM 2, LFENCE: #UD without SSE2"),
    ("qemu", "processors-pentium3", "LFENCE with CR4.OSFXSR", "SDM 2, LFENCE"),
    ("qemu", "processors-pentium3", "SYSCALL ", "SDM 2, WRMSR: #GP(0), it has no STAR"),
    ("qemu", "processors-pentium3", "SYSRET", "SDM 2, WRMSR"),
    ("qemu", "processors-athlon", "CPUID: features", "an Athlon of model 4 has no SSE (APM 3, appendix D); QEMU's has SSE2, and no VME"),
    ("qemu", "processors-athlon", "CPUID: AMD's features", "APM 3, SYSCALL, which QEMU takes from 32-bit processors"),
    ("qemu", "processors-athlon", "FISTTP", "APM 5, FISTTP: #UD without SSE3"),
    ("qemu", "processors-athlon", "MOVNTI", "APM 4, MOVNTI: #UD without SSE2"),
    ("qemu", "processors-athlon", "CR4.OSXMMEXCPT", "APM 2, 3.1.3: reserved without SSE"),
    ("qemu", "processors-athlon", "XORPS with CR4.OSFXSR", "APM 4, XORPS: #UD without SSE"),
    ("qemu", "processors-athlon", "ADDPS with CR4.OSFXSR", "APM 4, ADDSS: #UD without SSE"),
    ("qemu", "processors-athlon", "ADDPD with CR4.OSFXSR", "APM 4, ADDPD: #UD without SSE2"),
    ("qemu", "processors-athlon", "LFENCE", "APM 3, LFENCE: #UD without SSE2"),
    ("qemu", "processors-athlon", "LFENCE with CR4.OSFXSR", "APM 3, LFENCE"),
    ("qemu", "processors-athlon", "SYSCALL ", "APM 3, SYSCALL"),
    ("qemu", "processors-athlon", "SYSRET", "APM 3, SYSRET"),
    ("bochs", "processors-pentium3", "PREFETCHW", "APM 3, PREFETCH: #UD without 3DNow!"),
    ("bochs", "processors-pentium3", "PAVGUSB", "APM 5, PAVGUSB: #UD without 3DNow!"),
    ("bochs", "smm", "ES attributes", "APM 2, table 10-1: bits of the descriptor; Bochs adds one of its own"),
    ("bochs", "smm", "CS attributes", "APM 2, table 10-1"),
    ("bochs", "smm", "SS attributes", "APM 2, table 10-1"),
    ("bochs", "smm", "DS attributes", "APM 2, table 10-1"),
    ("bochs", "smm", "ES attributes", "APM 2, table 10-1, at the second SMI"),
    ("bochs", "smm", "CS attributes", "APM 2, table 10-1"),
    ("bochs", "smm", "SS attributes", "APM 2, table 10-1"),
    ("bochs", "smm", "DS attributes", "APM 2, table 10-1"),
];

struct Peer {
    name: &'static str,
    /// What is looked for, and its package.
    needs: &'static [(&'static str, &'static str)],
    /// Programs that it is not given, and why.
    without: &'static [(&'static str, &'static str)],
    /// Its names of our models, the usual one first. Not for QEMU the 486, on which it carries out half of what came later, nor
    /// for Bochs the K6-2, on which it stops at the first PFADD.
    models: &'static [(Option<&'static str>, &'static str)],
    start: fn(folder: &Path, model: &str) -> Command,
}

const PEERS: [Peer; 2] = [
    Peer {
        name: "qemu",
        needs: &[("/usr/bin/qemu-system-x86_64", "qemu-system-x86")],
        without: &[
            ("resets", "the firmware of others takes long, and does not leave memory as it was"),
            ("interrupts", "TCG has no TSC deadline, and its timers run by the host's clock"),
        ],
        models: &[(None, "max,-umip"), (Some("pentium3"), "pentium3"), (Some("athlon"), "athlon")],
        start: qemu,
    },
    Peer {
        name: "bochs",
        needs: &[
            ("/usr/bin/bochs", "bochs"),
            ("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
            ("/usr/share/bochs/VGABIOS-lgpl-latest", "vgabios"),
            ("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so", "bochs-term"),
            ("/usr/bin/script", "bsdutils"),
        ],
        without: &[("resets", "the firmware of others takes long, and does not leave memory as it was")],
        models: &[(None, "corei7_haswell_4770"), (Some("pentium3"), "p3_katmai")],
        start: bochs,
    },
];

/// Both start with `disk.img` and write to `serial.log` in `folder`.
fn qemu(_: &Path, model: &str) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", model, "-m", "64", "-display", "none", "-nodefaults", "-no-user-config", "-vga", "none"]);
    qemu.args(["-serial", "file:serial.log", "-drive", "file=disk.img,format=raw,if=ide"]);
    qemu
}

fn bochs(folder: &Path, model: &str) -> Command {
    let configuration = "\
config_interface: textconfig
display_library: term
megs: 64
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=MODEL, count=1, ips=4000000, ignore_bad_msrs=0
clock: sync=none
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=disk.img, mode=flat, cylinders=20, heads=16, spt=63
boot: disk
com1: enabled=1, mode=file, dev=serial.log
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
";
    fs::write(folder.join("bochsrc"), configuration.replace("MODEL", model)).unwrap();
    // Debian's Bochs is the one with a debugger, which waits for a word, and wants a terminal.
    fs::write(folder.join("words"), "c\n").unwrap();
    let mut bochs = Command::new("script");
    bochs.env("TERM", "vt100").args(["-qec", "exec bochs -q -f bochsrc -rc words", "/dev/null"]);
    bochs
}

struct Running(Child);

impl Drop for Running {
    /// `script` ends what it runs if it is asked to end, but not if it is killed.
    fn drop(&mut self) {
        #[cfg(unix)]
        if rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM).is_ok() {
            for _ in 0..100 {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// What a peer prints, up to as many lines as ours has, or until it has been silent for a while.
fn log_of(peer: &Peer, model: &str, image: &[u8], lines: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("disk.img"), disk(image)).unwrap();
    let mut command = (peer.start)(folder.path(), model);
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _running = Running(command.spawn().unwrap());
    let (mut heard, mut len) = (Instant::now(), 0);
    loop {
        let log = fs::read(folder.path().join("serial.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).replace('\r', "");
        if log.len() > len {
            (heard, len) = (Instant::now(), log.len());
        }
        // A busy host may take long to get to the first line.
        let patience = Duration::from_secs(if len == 0 { 120 } else { 10 });
        if log.lines().count() >= lines && log.ends_with('\n') || heard.elapsed() > patience {
            return log;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_qemu_10() -> bool {
    let output = Command::new("qemu-system-x86_64").arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_once("version ").and_then(|(_, v)| v.split('.').next()?.parse::<u32>().ok()).is_some_and(|major| major >= 10)
}

fn compare_with(peer: &Peer) {
    if let Some((file, package)) = peer.needs.iter().find(|(file, _)| !Path::new(file).exists()) {
        lacking(NEED, &format!("there is no {file}; install the package {package}"));
        return;
    }
    if peer.name == "qemu" && !is_qemu_10() {
        lacking(NEED, &"the table of differences is that of QEMU 10; testroms/setup-peers.sh installs it");
        return;
    }
    let mut wrong = String::new();
    for run in runs().into_iter().filter(|run| peer.without.iter().all(|w| w.0 != run.program)) {
        let Some((_, model)) = peer.models.iter().find(|m| m.0 == run.model) else { continue };
        let name = run.name.as_str();
        let ours = expected(name);
        let theirs = log_of(peer, model, &run.image, ours.lines().count());
        if let Some(folder) = std::env::var_os("SOFTMETAL_KEEP_LOGS") {
            fs::write(Path::new(&folder).join(format!("{name}.{}", peer.name)), &theirs).unwrap();
        }
        let mut known: Vec<_> = DIFFERENCES.iter().filter(|d| d.0 == peer.name && d.1 == name).collect();
        for line in ours.lines() {
            // By the case's name, wherever in a line: a peer may have gone on without ending one.
            let head = &line[..line.find("vector").or(line.find("syscall")).unwrap_or(line.len())];
            let other = theirs.find(head).and_then(|at| theirs[at..].lines().next()).unwrap_or("(nothing)");
            if line == other {
                continue;
            }
            match known.iter().position(|d| line.starts_with(d.2)) {
                Some(at) => _ = known.remove(at),
                None => wrong += &format!("{name}\n  ours   {line}\n  {:<7}{other}\n", peer.name),
            }
        }
        for d in known {
            wrong += &format!("{name}: {:?} is as ours here; take it from the table\n", d.2);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn qemu_prints_the_same() {
    compare_with(&PEERS[0]);
}

#[test]
fn bochs_prints_the_same() {
    compare_with(&PEERS[1]);
}
