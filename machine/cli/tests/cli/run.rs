//! `run` and `test` with small guests: streams, exit codes, scripts, limits.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::common::{echo, guest, outcome, power_off, print, softmetal};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_testroms::image::timer;

fn spin(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut here = a.create_label();
    a.set_label(&mut here)?;
    a.jmp(here)
}

#[test]
fn serial_output_is_all_of_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), |a| {
        print(a, "hello\r\n")?;
        power_off(a)
    });
    let image = image.to_str().unwrap();
    for args in [&["run", image][..], &["run", "--kernel", image, "--clock", "virtual"], &["test", image]] {
        let (code, out, _) = outcome(&mut softmetal(args));
        assert_eq!((code, out.as_str()), (Some(0), "hello\r\n"), "{args:?}");
    }
    let log = dir.path().join("log");
    let serial = format!("file:{}", log.display());
    assert_eq!(outcome(&mut softmetal(&["run", image, "--serial", &serial])).1, "");
    assert_eq!(std::fs::read(log).unwrap(), b"hello\r\n");
}

#[test]
fn debug_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), |a| {
        a.mov(al, 0x10)?;
        a.out(0xf4, al)
    });
    let image = image.to_str().unwrap();
    assert_eq!(outcome(&mut softmetal(&["run", image])).0, Some(33));
    assert_eq!(outcome(&mut softmetal(&["test", image])).0, Some(33));
    assert_eq!(outcome(&mut softmetal(&["test", image, "--success-code", "33"])).0, Some(0));
    assert_eq!(outcome(&mut softmetal(&["test", image, "--success-code", "33", "--expect", "never"])).0, Some(1));
}

#[test]
fn a_script_types_and_judges() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), echo);
    let image = image.to_str().unwrap();
    let long = "0123456789".repeat(20);
    let typed = ["test", image, "--expect", "^> $", "--send", &long, "--expect", &format!("{long}$"), "--send", "q"];
    let (code, out, err) = outcome(&mut softmetal(&typed));
    assert_eq!((code, out), (Some(0), format!("> {long}")), "{err}");

    let (code, _, err) = outcome(&mut softmetal(&["test", image, "--send", "abc", "--expect", "xyz", "--guest-timeout", "0.01"]));
    assert_eq!(code, Some(124));
    assert!(err.contains("while waiting for `xyz`") && err.contains("| > abc") && err.contains("RIP="), "{err}");

    let (code, _, err) = outcome(&mut softmetal(&["test", image, "--send", "q", "--expect", "xyz"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("the guest ended before its output matched `xyz`"), "{err}");

    let (code, _, err) = outcome(&mut softmetal(&["test", image, "--send", "an Oops!", "--forbid", "Oo+ps", "--expect", "x"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("`Oo+ps` matched `Oops`"), "{err}");
}

#[test]
fn crashes_and_dead_stops_explain_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), |a| {
        print(a, "x")?;
        a.lidt(fword_ptr(0x7dfa))?;
        a.int3()
    });
    for args in [&["test", image.to_str().unwrap()][..], &["run", "--no-reboot", image.to_str().unwrap()]] {
        let (code, _, err) = outcome(&mut softmetal(args));
        assert_eq!(code, Some(3), "{err}");
        assert!(err.contains("triple fault") && err.contains("RIP=") && err.contains("int3"), "{err}");
    }
    let image = guest(dir.path(), |a| a.hlt());
    let (code, _, err) = outcome(&mut softmetal(&["run", image.to_str().unwrap()]));
    assert_eq!(code, Some(3));
    assert!(err.contains("halted with interrupts off"), "{err}");
}

/// `--log cpu=LEVEL` tells what the processor finds unusual, and neither more nor other things.
#[test]
fn the_processors_log_tells_of_unusual_events() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), |a| {
        // What follows the call is the handler of #GP.
        let mut unusual = a.create_label();
        a.call(unusual)?;
        power_off(a)?;
        a.set_label(&mut unusual)?;
        a.pop(word_ptr(4 * 13))?;
        a.mov(word_ptr(4 * 13 + 2), ds)?;
        a.mov(ecx, 0x1234)?;
        a.rdmsr()
    });
    let log = |filter: &str| {
        let (code, _, err) = outcome(&mut softmetal(&["run", image.to_str().unwrap(), "--log", "off", "--log", filter]));
        assert_eq!(code, Some(0), "{err}");
        err
    };
    for filter in ["cpu=debug", "cpu::exec=debug", "debug"] {
        let err = log(filter);
        assert!(err.contains("RDMSR of 0x1234: #GP at 0x"), "{filter}: {err}");
    }
    for line in log("cpu=debug").lines() {
        assert!(line.starts_with("softmetal: debug softmetal_cpu::"), "{line}");
    }
    assert_eq!(log("cpu=info"), "");
}

#[test]
fn a_reset_really_resets() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), |a| {
        // RAM survives a reset: the second time round, power off.
        let mut again = a.create_label();
        print(a, "x")?;
        a.cmp(byte_ptr(0x9000), 0)?;
        a.jne(again)?;
        a.mov(byte_ptr(0x9000), 1)?;
        a.mov(al, 0xfe)?;
        a.out(0x64, al)?;
        a.hlt()?;
        a.set_label(&mut again)?;
        power_off(a)
    });
    let image = image.to_str().unwrap();
    let (code, out, _) = outcome(&mut softmetal(&["run", image]));
    assert_eq!((code, out.as_str()), (Some(0), "xx"));
    let (code, out, _) = outcome(&mut softmetal(&["run", image, "--no-reboot"]));
    assert_eq!((code, out.as_str()), (Some(0), "x"));
}

#[test]
fn limits() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), spin);
    let image = image.to_str().unwrap();
    assert_eq!(outcome(&mut softmetal(&["run", image, "--timeout", "0.1"])).0, Some(124));
    assert_eq!(outcome(&mut softmetal(&["run", image, "--guest-timeout", "0.02"])).0, Some(124));
    assert_eq!(outcome(&mut softmetal(&["test", image, "--guest-timeout", "0.02"])).0, Some(124));
}

#[test]
fn stdin_reaches_the_guest_and_its_end_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), echo);
    let mut child = softmetal(&["run", image.to_str().unwrap()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed\x01x").unwrap();
    // stdin is closed; the guest has not powered off, so the run goes on until a signal.
    let mut out = child.stdout.take().unwrap();
    let mut got = [0; 9];
    out.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"> typed\x01x", "Ctrl-A is a key of terminals only");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn sigint_ends_with_130() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), echo);
    let mut child = softmetal(&["run", image.to_str().unwrap()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// Counts ticks of the 8254, a thousand a second, for a second of its time-stamp counter; success if none was lost.
fn count_ticks(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut start, mut wait, mut judge) = (a.create_label(), a.create_label(), a.create_label());
    // The handler lies where this would return to.
    a.call(start)?;
    a.inc(word_ptr(0x600))?;
    a.push(ax)?;
    a.mov(al, 0x20)?;
    a.out(0x20, al)?;
    a.pop(ax)?;
    a.iret()?;
    a.set_label(&mut start)?;
    a.pop(word_ptr(8 * 4))?;
    a.mov(word_ptr(8 * 4 + 2), 0)?;
    a.mov(word_ptr(0x600), 0)?;
    print(a, ">")?;
    timer(a, 8, 0x4a9)?;
    a.rdtsc()?;
    a.mov(esi, eax)?;
    a.sti()?;
    a.set_label(&mut wait)?;
    a.rdtsc()?;
    a.sub(eax, esi)?;
    a.cmp(eax, 1_000_000_000)?;
    a.jb(wait)?;
    a.cli()?;
    a.mov(al, 16)?;
    a.cmp(word_ptr(0x600), 980)?;
    a.jae(judge)?;
    a.inc(al)?;
    a.set_label(&mut judge)?;
    a.mov(dx, 0xf4)?;
    a.out(dx, al)
}

/// With the host's clock, time that passes while the process stands still reaches the guest tick by tick.
#[test]
fn a_guest_loses_no_ticks_when_the_host_holds_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), count_ticks);
    let mut child = softmetal(&["test", "--clock", "host", "--success-code", "33"]).arg(image).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    for _ in 0..3 {
        for (signal, ms) in [(rustix::process::Signal::STOP, 150), (rustix::process::Signal::CONT, 20)] {
            rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(ms));
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_same_run_twice_ends_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let image = guest(dir.path(), echo);
    let figures = dir.path().join("stats.json");
    let run = || {
        let args = ["test", image.to_str().unwrap(), "--send", "abcdefghijklmnopqrstuvwxyzq", "--stats-json", figures.to_str().unwrap()];
        assert_eq!(outcome(&mut softmetal(&args)).0, Some(0));
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(&figures).unwrap()).unwrap();
        for key in ["wall_s", "virtual_s", "mips", "engine", "blocks_decoded", "blocks_translated", "tlb_misses", "exits"] {
            assert!(!all[key].is_null(), "{key}");
        }
        (all["instructions"].clone(), all["state_hash"].clone())
    };
    let first = run();
    assert!(first.0.as_u64().unwrap() > 100 && first.1.as_str().unwrap().len() == 32);
    assert_eq!(run(), first);
}

#[test]
fn without_an_image_the_demonstration_runs() {
    for keys in ["q", "a b\n", ""] {
        let mut child = softmetal(&["run"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(keys.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert_eq!(out.status.code(), Some(0), "{text}");
        assert_eq!(text.matches("[ ok ]").count(), 6, "{text}");
        assert!(text.contains("softmetal run busybox"), "{text}");
    }
}
