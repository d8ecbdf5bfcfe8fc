//! A boot sector goes through the whole machine: it prints on the first serial port, waits for a timer interrupt, and
//! powers off.

use iced_x86::code_asm::*;
use softmetal_bus::Request;
use softmetal_machine::board::Plugs;
use softmetal_machine::machine::{Config, Images, Machine, Turn};
use softmetal_testroms::image::{boot_sector, power_off, timer};

/// Where the timer's interrupt handler is.
const HANDLER: u16 = 0x7c02;

fn sector() -> Vec<u8> {
    boot_sector(|a| {
        let (mut start, mut handler) = (a.create_label(), a.create_label());
        a.jmp(start)?;
        a.set_label(&mut handler)?;
        a.mov(al, i32::from(b'!'))?;
        a.mov(dx, 0x3f8)?;
        a.out(dx, al)?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.iret()?;
        a.set_label(&mut start)?;
        a.cli()?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        timer(a, 0x20, 1000)?;
        a.mov(word_ptr(0x80), i32::from(HANDLER))?;
        a.mov(word_ptr(0x82), 0)?;
        a.mov(dx, 0x3f8)?;
        for c in b"ok" {
            a.mov(al, i32::from(*c))?;
            a.out(dx, al)?;
        }
        a.sti()?;
        a.hlt()?;
        power_off(a)
    })
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
    let kernel = boot_sector(|a| {
        let (mut start, mut handler) = (a.create_label(), a.create_label());
        a.jmp(start)?;
        // 0x7c02
        a.set_label(&mut handler)?;
        a.out(0xf0, al)?;
        a.fnstsw(ax)?;
        a.fnclex()?;
        a.and(al, 4)?;
        a.add(al, i32::from(b'0'))?;
        a.out(dx, al)?;
        a.mov(al, 0x20)?;
        a.out(0xa0, al)?;
        a.out(0x20, al)?;
        a.iret()?;
        a.set_label(&mut start)?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(word_ptr(0x75 * 4), 0x7c02)?;
        a.mov(word_ptr(0x75 * 4 + 2), ax)?;
        for (port, value) in
            [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0xfb), (0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1), (0xa1, 0xdf)]
        {
            a.mov(al, value)?;
            a.out(port, al)?;
        }
        a.sti()?;
        a.mov(dx, 0x3f8)?;
        a.fninit()?;
        // Division by zero is not masked.
        a.mov(word_ptr(0x600), 0x37b)?;
        a.fldcw(word_ptr(0x600))?;
        for _ in 0..2 {
            a.fld1()?;
            a.fldz()?;
            a.fdivp(st1, st0)?;
            a.mov(al, i32::from(b'-'))?;
            a.out(dx, al)?;
            a.wait()?;
        }
        a.mov(al, i32::from(b'.'))?;
        a.out(dx, al)?;
        power_off(a)
    });
    assert_eq!(boot(kernel).0, "-4-4.");
}

#[test]
fn a_store_to_the_screen_is_a_change_of_it() {
    let kernel = boot_sector(|a| {
        a.cli()?;
        a.mov(ax, 0xb800)?;
        a.mov(es, ax)?;
        a.mov(word_ptr(0).es(), 0x0741)?;
        a.hlt()
    });
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
