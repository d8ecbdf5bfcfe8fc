//! What `--log cpu=debug` tells: one line for each unusual event, with where, and the bytes there.

use std::sync::{Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use softmetal_cpu::state::{TableRegister, reg};
use softmetal_cpu::testing::{CODE, Harness, TABLES};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl Log for Collector {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("softmetal_cpu::")
    }
    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

/// The lines that one instruction brings.
fn told(h: &mut Harness) -> Vec<String> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    h.run(1);
    std::mem::take(&mut LINES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// That one line there is which begins with `what`, tells the address and begins the bytes with `bytes`.
#[track_caller]
fn one(lines: &[String], what: &str, bytes: &str) {
    let of_it: Vec<_> = lines.iter().filter(|l| l.starts_with(what)).collect();
    let [line] = of_it[..] else { panic!("{} lines begin with {what:?}: {lines:#?}", of_it.len()) };
    assert!(line.contains(&format!("{CODE:#x}: [{bytes}")), "{line}");
}

/// The log is one for all tests, so this is one test.
#[test]
fn one_line_for_each_unusual_event() {
    log::set_logger(&Collector).expect("nobody else logs");
    log::set_max_level(LevelFilter::Debug);

    let mut h = Harness::long().code(&[0x0f, 0x32]);
    h.set_reg(reg::RCX, 0x1234);
    one(&told(&mut h), "RDMSR of 0x1234: #GP at", "0f, 32");

    let mut h = Harness::long().code(&[0x0f, 0x30]);
    h.set_reg(reg::RCX, 0x1b0);
    h.set_reg(reg::RAX, 0x77);
    h.set_reg(reg::RDX, 0);
    one(&told(&mut h), "WRMSR of 0x1b0 with 0x77: #GP at", "0f, 30");

    let mut h = Harness::long().code(&[0x0f, 0x22, 0xe0]);
    h.set_reg(reg::RAX, 1 << 40);
    one(&told(&mut h), "CR4 does not admit 0x10000000000: #GP at", "0f, 22, e0");

    one(&told(&mut Harness::long().code(&[0x0f, 0x0b])), "invalid opcode at", "0f, 0b");

    let mut h = Harness::long().code(&[0x8a, 0x03]);
    h.set_reg(reg::RBX, 0x60_0000);
    h.set_u64(TABLES + 0x2000 + 8 * 3, 0x60_0000 | 0x87 | 1 << 45);
    one(&told(&mut h), "reserved bit in the page tables for 0x600000", "8a, 03");

    // #UD, whose gate is not there: #GP while it is delivered; then #DF, for which there is none either.
    let mut h = Harness::long().code(&[0x0f, 0x0b]);
    h.p.cpu.state.idtr = TableRegister { base: 0x2000, limit: 0 };
    let lines = told(&mut h);
    one(&lines, "exception 13, error Some(33), while exception 6 was delivered at", "0f, 0b");

    // Nothing unusual, nothing told.
    assert_eq!(told(&mut Harness::long().code(&[0x90])), [] as [&str; 0]);
}
