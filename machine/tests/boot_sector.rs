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
    boot(sector())
}

fn boot(kernel: Vec<u8>) -> (String, u64) {
    let plugs = Plugs { seed: 1, ..Plugs::default() };
    let images = Images { kernel: kernel.into(), ..Images::default() };
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

/// With CR0.NE clear an x87 exception is IRQ 13, as on the first PCs; its handler clears the request at port 0xF0.
#[test]
fn a_float_error_is_an_interrupt() {
    let mut a = CodeAssembler::new(16).unwrap();
    let (mut start, mut handler) = (a.create_label(), a.create_label());
    a.jmp(start).unwrap();
    // 0x7c02
    a.set_label(&mut handler).unwrap();
    a.out(0xf0, al).unwrap();
    a.fnstsw(ax).unwrap();
    a.fnclex().unwrap();
    a.and(al, 4).unwrap();
    a.add(al, i32::from(b'0')).unwrap();
    a.out(dx, al).unwrap();
    a.mov(al, 0x20).unwrap();
    a.out(0xa0, al).unwrap();
    a.out(0x20, al).unwrap();
    a.iret().unwrap();
    a.set_label(&mut start).unwrap();
    a.xor(ax, ax).unwrap();
    a.mov(ds, ax).unwrap();
    a.mov(word_ptr(0x75 * 4), 0x7c02).unwrap();
    a.mov(word_ptr(0x75 * 4 + 2), ax).unwrap();
    for (port, value) in
        [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0xfb), (0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1), (0xa1, 0xdf)]
    {
        a.mov(al, value).unwrap();
        a.out(port, al).unwrap();
    }
    a.sti().unwrap();
    a.mov(dx, 0x3f8).unwrap();
    a.fninit().unwrap();
    // Division by zero is not masked.
    a.mov(word_ptr(0x600), 0x37b).unwrap();
    a.fldcw(word_ptr(0x600)).unwrap();
    for _ in 0..2 {
        a.fld1().unwrap();
        a.fldz().unwrap();
        a.fdivp(st1, st0).unwrap();
        a.mov(al, i32::from(b'-')).unwrap();
        a.out(dx, al).unwrap();
        a.wait().unwrap();
    }
    a.mov(al, i32::from(b'.')).unwrap();
    a.out(dx, al).unwrap();
    a.mov(dx, 0x604).unwrap();
    a.mov(ax, 5 << 10 | 1 << 13).unwrap();
    a.out(dx, ax).unwrap();
    a.hlt().unwrap();
    let mut kernel = a.assemble(0x7c00).unwrap();
    kernel.resize(510, 0);
    kernel.extend([0x55, 0xaa]);
    assert_eq!(boot(kernel).0, "-4-4.");
}

#[test]
fn a_store_to_the_screen_is_a_change_of_it() {
    let mut a = CodeAssembler::new(16).unwrap();
    a.cli().unwrap();
    a.mov(ax, 0xb800).unwrap();
    a.mov(es, ax).unwrap();
    a.mov(word_ptr(0).es(), 0x0741).unwrap();
    a.hlt().unwrap();
    let mut kernel = a.assemble(0x7c00).unwrap();
    kernel.resize(510, 0);
    kernel.extend([0x55, 0xaa]);
    let plugs = Plugs { vga: true, seed: 1, ..Plugs::default() };
    let images = Images { kernel: kernel.into(), ..Images::default() };
    let mut machine = Machine::new(Config { memory: 16 << 20, model: Default::default(), plugs, images }).unwrap();
    let all = std::slice::from_ref(&(0..u32::MAX)).to_vec();
    assert_eq!(machine.screen_changes(), all, "at first");
    assert!(machine.screen_changes().is_empty());
    assert_eq!(machine.run_until(1000), Turn::Dead);
    assert_eq!(machine.screen_changes(), all);
    assert!(machine.screen_changes().is_empty());
    assert!(machine.screen_text(&[]).unwrap().starts_with('A'));
}
