//! Every way to reset a PC, one after the other; a byte of RAM tells which was the last.

use iced_x86::code_asm::*;

use super::{outb, power_off, start16};
use crate::console::Console;
use crate::image::{Emit, Image};

/// Outside the image, so that loading it anew changes nothing there.
const STAGE: u64 = 0x600;

pub fn image() -> Vec<u8> {
    let mut image = Image::default();
    let console = Console::new(&mut image, 16);
    let no_idt = image.data(&[0; 6]);
    let mut ways: Vec<u64> = Vec::new();
    let mut way = |name: &str, body: &dyn Fn(&mut CodeAssembler) -> Emit| {
        let text = image.text(&format!("{name}\n"));
        ways.push(image.code(16, |a| {
            console.say(a, text)?;
            body(a)?;
            let mut stay = a.create_label();
            a.set_label(&mut stay)?;
            a.hlt()?;
            a.jmp(stay)
        }));
    };
    way("reset control register, port CF9", &|a| {
        a.mov(dx, 0xcf9)?;
        for value in [2, 6] {
            a.mov(al, value)?;
            a.out(dx, al)?;
        }
        Ok(())
    });
    way("keyboard controller, command FE", &|a| outb(a, 0x64, 0xfe));
    way("system control port A, bit 0", &|a| {
        a.in_(al, 0x92)?;
        a.and(al, 0xfe)?;
        a.out(0x92, al)?;
        a.or(al, 1)?;
        a.out(0x92, al)
    });
    way("triple fault", &|a| {
        a.lidt(ptr(no_idt))?;
        a.int3()
    });
    way("powering off", &power_off);
    image.start(|a| {
        start16(a)?;
        a.inc(byte_ptr(STAGE))?;
        for (n, way) in ways.iter().enumerate() {
            let mut other = a.create_label();
            a.cmp(byte_ptr(STAGE), n as i32 + 1)?;
            a.jne(other)?;
            a.jmp(*way)?;
            a.set_label(&mut other)?;
        }
        power_off(a)
    })
}
