//! Printing on the first serial port, for code of every width: the routines use what 16-, 32- and 64-bit code share.

use iced_x86::code_asm::*;

use crate::image::{Emit, Image};

/// The first serial port.
pub const COM1: u16 = 0x3f8;
/// The offset of the line status register: bit 0 "a byte is here", bit 5 "ready to send".
pub const LINE_STATUS: u16 = 5;

/// The addresses of routines to CALL. They change EAX, EBX, ECX, EDX, ESI, EDI and EBP at will.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Prints AL.
    pub put: u64,
    /// Prints the text at SI (ESI, RSI).
    pub print: u64,
    /// Prints EBP as 8 hexadecimal digits.
    pub hex: u64,
    /// Prints CX hexadecimal digits, from the highest of EBP on.
    pub digits: u64,
    /// Prints EBP in decimal.
    pub decimal: u64,
}

/// Emits: send AH when the transmitter is ready.
fn send_ah(a: &mut CodeAssembler) -> Emit {
    let mut ready = a.create_label();
    a.mov(dx, i32::from(COM1 + LINE_STATUS))?;
    a.set_label(&mut ready)?;
    a.in_(al, dx)?;
    a.test(al, 0x20)?;
    a.je(ready)?;
    a.mov(al, ah)?;
    a.mov(dx, i32::from(COM1))?;
    a.out(dx, al)
}

fn put(a: &mut CodeAssembler) -> Emit {
    a.mov(ah, al)?;
    send_ah(a)?;
    a.ret()
}

fn print(a: &mut CodeAssembler) -> Emit {
    let (mut next, mut end) = (a.create_label(), a.create_label());
    a.cld()?;
    a.set_label(&mut next)?;
    a.lodsb()?;
    a.test(al, al)?;
    a.je(end)?;
    a.mov(ah, al)?;
    send_ah(a)?;
    a.jmp(next)?;
    a.set_label(&mut end)?;
    a.ret()
}

fn digits(a: &mut CodeAssembler) -> Emit {
    let (mut next, mut decimal) = (a.create_label(), a.create_label());
    a.set_label(&mut next)?;
    a.rol(ebp, 4)?;
    a.mov(eax, ebp)?;
    a.and(al, 15)?;
    a.add(al, i32::from(b'0'))?;
    a.cmp(al, i32::from(b'9'))?;
    a.jbe(decimal)?;
    a.add(al, i32::from(b'a' - b'9' - 1))?;
    a.set_label(&mut decimal)?;
    a.mov(ah, al)?;
    send_ah(a)?;
    a.dec(cx)?;
    a.jne(next)?;
    a.ret()
}

/// From the billions down; CL stays 0 as long as only zeros were seen.
fn decimal(a: &mut CodeAssembler) -> Emit {
    let (mut next, mut emit, mut skip) = (a.create_label(), a.create_label(), a.create_label());
    a.xor(cx, cx)?;
    a.mov(ebx, 1_000_000_000)?;
    a.set_label(&mut next)?;
    a.mov(eax, ebp)?;
    a.xor(edx, edx)?;
    a.div(ebx)?;
    a.mov(ebp, edx)?;
    a.or(cl, al)?;
    a.jne(emit)?;
    a.cmp(ebx, 1)?;
    a.jne(skip)?;
    a.set_label(&mut emit)?;
    a.add(al, i32::from(b'0'))?;
    a.mov(ah, al)?;
    send_ah(a)?;
    a.set_label(&mut skip)?;
    a.mov(eax, ebx)?;
    a.xor(edx, edx)?;
    a.mov(edi, 10)?;
    a.div(edi)?;
    a.mov(ebx, eax)?;
    a.test(ebx, ebx)?;
    a.jne(next)?;
    a.ret()
}

impl Console {
    /// The routines for code of `bits` bits.
    pub fn new(image: &mut Image, bits: u32) -> Self {
        let digits = image.code(bits, digits);
        Self {
            put: image.code(bits, put),
            print: image.code(bits, print),
            hex: image.code(bits, |a| {
                a.mov(cx, 8)?;
                a.jmp(digits)
            }),
            digits,
            decimal: image.code(bits, decimal),
        }
    }

    /// Emits: print the text at `text`.
    ///
    /// # Errors
    /// As the assembler says.
    pub fn say(&self, a: &mut CodeAssembler, text: u64) -> Emit {
        match a.bitness() {
            16 => a.mov(si, text as i32)?,
            _ => a.mov(esi, text as i32)?,
        }
        a.call(self.print)
    }
}
