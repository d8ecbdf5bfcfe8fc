//! A boot sector goes through the whole machine: it prints on the first serial port, waits for a timer interrupt, and
//! powers off.

use iced_x86::code_asm::*;
use softmetal_bus::Request;
use softmetal_machine::board::Plugs;
use softmetal_machine::machine::{Config, Images, Machine, Turn};

/// Where the timer's interrupt handler is.
const HANDLER: u16 = 0x7d00;

fn sector() -> Vec<u8> {
    let mut a = CodeAssembler::new(16).unwrap();
    a.cli().unwrap();
    a.xor(ax, ax).unwrap();
    a.mov(ds, ax).unwrap();
    // The 8259 pair at vectors 0x20 and 0x28, only IRQ 0 open.
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        a.mov(al, value).unwrap();
        a.out(port, al).unwrap();
    }
    // The 8254's channel 0: mode 2, 1000 ticks.
    for (port, value) in [(0x43, 0x34), (0x40, 1000 & 0xff), (0x40, 1000 >> 8)] {
        a.mov(al, value).unwrap();
        a.out(port, al).unwrap();
    }
    a.mov(word_ptr(0x80), i32::from(HANDLER)).unwrap();
    a.mov(word_ptr(0x82), 0).unwrap();
    a.mov(dx, 0x3f8).unwrap();
    for c in b"ok" {
        a.mov(al, i32::from(*c)).unwrap();
        a.out(dx, al).unwrap();
    }
    a.sti().unwrap();
    a.hlt().unwrap();
    a.mov(dx, 0x604).unwrap();
    a.mov(ax, 5 << 10 | 1 << 13).unwrap();
    a.out(dx, ax).unwrap();
    a.hlt().unwrap();
    let mut bytes = a.assemble(0x7c00).unwrap();
    bytes.resize(usize::from(HANDLER) - 0x7c00, 0);
    let mut a = CodeAssembler::new(16).unwrap();
    a.mov(al, i32::from(b'!')).unwrap();
    a.mov(dx, 0x3f8).unwrap();
    a.out(dx, al).unwrap();
    a.mov(al, 0x20).unwrap();
    a.out(0x20, al).unwrap();
    a.iret().unwrap();
    bytes.extend(a.assemble(u64::from(HANDLER)).unwrap());
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xaa]);
    bytes
}

fn run() -> (String, u64) {
    let plugs = Plugs { disks: Vec::new(), console: false, rtc: 0, seed: 1 };
    let images = Images { kernel: sector(), ..Images::default() };
    let mut m = Machine::new(Config { memory: 16 << 20, model: Default::default(), plugs, images }).unwrap();
    assert_eq!(m.run_until(10_000_000), Turn::Request(Request::PowerOff));
    let text = m.take_output().into_iter().flat_map(|(_, bytes)| bytes).collect();
    (String::from_utf8(text).unwrap(), m.icount())
}

#[test]
fn prints_takes_an_interrupt_and_powers_off() {
    let (text, count) = run();
    assert_eq!(text, "ok!");
    assert_eq!(run(), (text, count), "the same run retires the same number of instructions");
}
