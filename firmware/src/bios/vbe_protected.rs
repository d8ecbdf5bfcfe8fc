//! The functions of the VBE's protected-mode interface (VBE Core Functions Standard 3.0, 4.13). A program copies them to
//! where it likes and calls them with a near call in a 32-bit segment, so they are code that finds its own way to the
//! display, and know nothing of their place.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::vbe::{DATA, FAILED, INDEX, OK, dispi};

/// Bytes of the table of offsets: a word for each function, one for the list of ports.
pub const TABLE_LEN: u16 = 8;
/// Puts a function together.
pub type Function = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// 05h, 07h and 09h, in the order of the table.
pub const FUNCTIONS: [Function; 3] = [window, start, palette];
/// The ports that they use; then the memory, which is none. Each list ends with all ones.
pub const PORTS: [u16; 6] = [INDEX, DATA, DAC_WRITE_INDEX, DAC_DATA, 0xFFFF, 0xFFFF];

const DAC_WRITE_INDEX: u16 = 0x3C8;
const DAC_DATA: u16 = 0x3C9;
/// Colours of the DAC.
const COLORS: i32 = 256;

/// AX = the display interface's register; spoils DX.
fn load(a: &mut CodeAssembler, register: u16) -> Result<(), IcedError> {
    a.mov(ax, i32::from(register))?;
    a.mov(dx, i32::from(INDEX))?;
    a.out(dx, ax)?;
    a.inc(edx)?;
    a.in_(ax, dx)
}

/// Sets the display interface's register to `value`, which is not AX or DX; spoils these.
fn store(a: &mut CodeAssembler, register: u16, value: AsmRegister16) -> Result<(), IcedError> {
    a.mov(ax, i32::from(register))?;
    a.mov(dx, i32::from(INDEX))?;
    a.out(dx, ax)?;
    a.inc(edx)?;
    a.mov(ax, value)?;
    a.out(dx, ax)
}

/// The end of a function: AX tells how it went, all other registers are as they were.
fn ends(a: &mut CodeAssembler, failed: &mut CodeLabel) -> Result<(), IcedError> {
    a.popad()?;
    a.mov(ax, i32::from(OK))?;
    a.ret()?;
    a.set_label(failed)?;
    a.popad()?;
    a.mov(ax, i32::from(FAILED))?;
    a.ret()
}

/// 05h: window A shows bank DX.
fn window(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut failed = a.create_label();
    a.pushad()?;
    a.test(bx, bx)?;
    a.jne(failed)?;
    a.mov(ecx, edx)?;
    store(a, dispi::BANK, cx)?;
    ends(a, &mut failed)
}

/// 07h: what is shown begins at DX:CX, in units of four bytes. Bit 7 of BL asks for the next retrace, which is now.
fn start(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut failed = a.create_label();
    a.pushad()?;
    a.and(bl, 0x7F)?;
    a.jne(failed)?;
    // Its place in bytes.
    a.shl(edx, 16)?;
    a.mov(dx, cx)?;
    a.mov(edi, edx)?;
    a.shl(edi, 2)?;
    // Bytes of a pixel, and of a line.
    load(a, dispi::BPP)?;
    a.movzx(esi, ax)?;
    a.add(esi, 7)?;
    a.shr(esi, 3)?;
    a.je(failed)?;
    load(a, dispi::VIRTUAL_WIDTH)?;
    a.movzx(eax, ax)?;
    a.imul_2(eax, esi)?;
    a.mov(ecx, eax)?;
    a.jecxz(failed)?;
    a.mov(eax, edi)?;
    a.xor(edx, edx)?;
    a.div(ecx)?;
    a.mov(ebx, eax)?;
    a.mov(eax, edx)?;
    a.xor(edx, edx)?;
    a.div(esi)?;
    a.mov(ecx, eax)?;
    store(a, dispi::X_OFFSET, cx)?;
    store(a, dispi::Y_OFFSET, bx)?;
    ends(a, &mut failed)
}

/// 09h: CX colours from DX on, as blue, green, red and a spare byte at ES:EDI.
fn palette(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut failed, mut next, mut end) = (a.create_label(), a.create_label(), a.create_label());
    a.pushad()?;
    a.and(bl, 0x7F)?;
    a.jne(failed)?;
    a.movzx(ecx, cx)?;
    a.movzx(eax, dx)?;
    a.lea(esi, ptr(eax + ecx))?;
    a.cmp(esi, COLORS)?;
    a.ja(failed)?;
    a.mov(dx, i32::from(DAC_WRITE_INDEX))?;
    a.out(dx, al)?;
    a.inc(edx)?;
    a.set_label(&mut next)?;
    a.jecxz(end)?;
    for byte in [2, 1, 0] {
        a.mov(al, byte_ptr(edi + byte).es())?;
        a.out(dx, al)?;
    }
    a.add(edi, 4)?;
    a.dec(ecx)?;
    a.jmp(next)?;
    a.set_label(&mut end)?;
    ends(a, &mut failed)
}
