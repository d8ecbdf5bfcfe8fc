//! The code of the BIOS in the segment F000: interrupt entries at their traditional places, which write the trap port and
//! return. What a service does is Rust ([`super::serve`]); what has to happen in the guest (waiting, calling other vectors,
//! ending an interrupt) is here.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};

use super::{Call, apm, data, vbe_protected};

/// The port whose writing calls the service that belongs to the instruction.
pub const TRAP_PORT: u16 = 0xB4;
/// The segment of the ROM.
pub const SEGMENT: u16 = 0xF000;
/// Its physical address.
pub const BASE: u32 = 0xF_0000;

/// Offsets in the ROM (IBM PC AT Technical Reference; the vectors point to the same places as on the first PCs).
pub mod at {
    /// The BIOS32 service directory's header.
    pub const BIOS32: u16 = 0x0050;
    /// The Plug and Play header.
    pub const PNP: u16 = 0x0060;
    /// The PCI interrupt routing table.
    pub const PIR: u16 = 0x4800;
    /// Code without a traditional place.
    pub const CODE: u16 = 0x5000;
    /// The font of 16 rows.
    pub const FONT_16: u16 = 0x6000;
    /// The font of 14 rows.
    pub const FONT_14: u16 = 0x7000;
    /// The font of 8 rows.
    pub const FONT_8: u16 = 0x7E00;
    /// Its upper half.
    pub const FONT_8_HIGH: u16 = FONT_8 + 0x400;
    /// What the VBE has to say of itself.
    pub const VBE: u16 = 0x8600;
    /// The table of what the VGA can do.
    pub const STATIC_FUNCTIONS: u16 = 0x8800;
    /// Start of the power-on self-test.
    pub const POST: u16 = 0xE05B;
    /// INT 13h for hard disks.
    pub const INT_13: u16 = 0xE3FE;
    /// Parameters of a hard disk.
    pub const DISK_PARAMETERS: u16 = 0xE401;
    /// INT 19h.
    pub const INT_19: u16 = 0xE6F2;
    /// What INT 15h, C0h answers.
    pub const CONFIGURATION: u16 = 0xE6F5;
    /// INT 14h.
    pub const INT_14: u16 = 0xE739;
    /// INT 16h.
    pub const INT_16: u16 = 0xE82E;
    /// INT 09h.
    pub const INT_09: u16 = 0xE987;
    /// INT 13h for floppies, also INT 40h.
    pub const INT_40: u16 = 0xEC59;
    /// INT 0Eh.
    pub const INT_0E: u16 = 0xEF57;
    /// Parameters of a floppy.
    pub const FLOPPY_PARAMETERS: u16 = 0xEFC7;
    /// INT 17h.
    pub const INT_17: u16 = 0xEFD2;
    /// INT 10h.
    pub const INT_10: u16 = 0xF065;
    /// INT 12h.
    pub const INT_12: u16 = 0xF841;
    /// INT 11h.
    pub const INT_11: u16 = 0xF84D;
    /// INT 15h.
    pub const INT_15: u16 = 0xF859;
    /// Again the lower half of the font of 8 rows, where programs look for it.
    pub const FONT_8_LOW: u16 = 0xFA6E;
    /// INT 1Ah.
    pub const INT_1A: u16 = 0xFE6E;
    /// INT 08h.
    pub const INT_08: u16 = 0xFEA5;
    /// A lone IRET.
    pub const IRET: u16 = 0xFF53;
    /// Where the processor starts.
    pub const RESET: u16 = 0xFFF0;
    /// The BIOS date.
    pub const DATE: u16 = 0xFFF5;
    /// The model byte.
    pub const MODEL: u16 = 0xFFFE;
}

/// The ROM.
pub struct Rom {
    /// Pieces of it: offset and bytes. Between them lie the tables that describe the board.
    pub pieces: Vec<(u16, Vec<u8>)>,
    /// The vectors that do not point to [`at::IRET`].
    pub vectors: BTreeMap<u8, u16>,
    /// Where the 32-bit BIOS32 directory is entered, and what it answers: the 32-bit PCI BIOS.
    pub bios32: (u16, u16),
    /// Where the Plug and Play services are entered.
    pub pnp: u16,
    /// Where the 16- and the 32-bit APM interface is entered.
    pub apm: (u16, u16),
    /// The protected-mode interface of the VBE, and its length.
    pub vbe: (u16, u16),
    /// Where a caller goes who waits for an interrupt; it comes back as [`Call::Resumed`].
    waits: BTreeMap<u8, u16>,
    /// Where nothing more happens.
    pub idle: u16,
    /// The instruction after each trap.
    traps: BTreeMap<u16, Call>,
}

/// The ROM, assembled at its first use.
///
/// # Panics
/// Never: the code is fixed, and a test assembles it.
#[must_use]
pub fn rom() -> &'static Rom {
    static ROM: OnceLock<Rom> = OnceLock::new();
    ROM.get_or_init(|| Rom::build().expect("the BIOS assembles"))
}

impl Rom {
    /// The service whose trap is just before linear address `next`.
    #[must_use]
    pub fn call(&self, next: u64) -> Option<Call> {
        let offset = next.checked_sub(BASE.into())?;
        self.traps.get(&u16::try_from(offset).ok()?).copied()
    }

    /// Where a caller of interrupt `vector` waits.
    #[must_use]
    pub fn wait(&self, vector: u8) -> Option<u16> {
        self.waits.get(&vector).copied()
    }

    fn build() -> Result<Self, IcedError> {
        let mut rom = Self {
            pieces: Vec::new(),
            vectors: BTreeMap::new(),
            bios32: (0, 0),
            pnp: 0,
            apm: (0, 0),
            vbe: (0, 0),
            waits: BTreeMap::new(),
            idle: 0,
            traps: BTreeMap::new(),
        };
        for (vector, at) in [
            (0x0E, at::INT_0E),
            (0x10, at::INT_10),
            (0x11, at::INT_11),
            (0x12, at::INT_12),
            (0x13, at::INT_13),
            (0x14, at::INT_14),
            (0x15, at::INT_15),
            (0x16, at::INT_16),
            (0x17, at::INT_17),
            (0x19, at::INT_19),
            (0x1A, at::INT_1A),
            (0x40, at::INT_40),
        ] {
            rom.interrupt(vector, at)?;
        }
        rom.vectors.insert(0x42, at::INT_10);
        for (vector, at) in [(0x1E, at::FLOPPY_PARAMETERS), (0x1F, at::FONT_8_HIGH), (0x41, at::DISK_PARAMETERS), (0x43, at::FONT_16)] {
            rom.vectors.insert(vector, at);
        }
        rom.vectors.insert(0x46, at::DISK_PARAMETERS);
        let mut next = at::CODE;
        for vector in [0x18].into_iter().chain([0x0A, 0x0B, 0x0C, 0x0D, 0x0F]).chain(0x71..=0x73).chain(0x75..=0x77) {
            let len = rom.interrupt(vector, next)?;
            next += len;
        }
        for vector in [0x13, 0x15, 0x16] {
            rom.waits.insert(vector, next);
            next += rom.code(next, 16, |a, traps| {
                a.sti()?;
                a.hlt()?;
                traps.trap(a, Call::Resumed(vector))?;
                a.iret()
            })?;
        }
        rom.idle = next;
        next += rom.code(next, 16, |a, _| {
            let mut again = a.create_label();
            a.sti()?;
            a.set_label(&mut again)?;
            a.hlt()?;
            a.jmp(again)
        })?;
        rom.start()?;
        rom.hardware(&mut next)?;
        rom.pnp = next;
        next += rom.code(next, 16, |a, traps| {
            traps.trap(a, Call::Pnp)?;
            a.retf()
        })?;
        rom.bios32.0 = next;
        next += rom.code(next, 32, |a, traps| {
            traps.trap(a, Call::Bios32)?;
            a.retf()
        })?;
        rom.bios32.1 = next;
        next += rom.code(next, 32, |a, traps| {
            traps.trap(a, Call::Pci32)?;
            a.retf()
        })?;
        rom.apm.0 = next;
        next += rom.code(next, 16, apm_entry)?;
        rom.apm.1 = next;
        next += rom.code(next, 32, apm_entry)?;
        rom.vbe_interface(&mut next)?;
        debug_assert!(next < at::FONT_16);
        rom.code(at::IRET, 16, |a, _| a.iret())?;
        rom.pieces.extend(data::pieces(&rom));
        Ok(rom)
    }

    /// From the reset vector to the boot sector.
    fn start(&mut self) -> Result<(), IcedError> {
        // POST: the machine starts here after power-on and reset. Whoever jumps to the reset vector wants a reset.
        self.code(at::POST, 16, |a, traps| {
            traps.trap(a, Call::Post)?;
            a.sti()?;
            a.int(0x19)
        })?;
        let reset = at::POST - 16;
        self.code(reset, 16, |a, _| {
            let mut again = a.create_label();
            a.cli()?;
            a.mov(dx, i32::from(crate::layout::RESET_PORT))?;
            a.mov(al, i32::from(crate::layout::RESET_VALUE))?;
            a.out(dx, al)?;
            a.set_label(&mut again)?;
            a.hlt()?;
            a.jmp(again)
        })?;
        self.pieces.push((at::RESET, [&[0xEA][..], &reset.to_le_bytes(), &SEGMENT.to_le_bytes()].concat()));
        Ok(())
    }

    /// The interrupts of chips that call other vectors.
    fn hardware(&mut self, next: &mut u16) -> Result<(), IcedError> {
        // The timer: the tick count, then INT 1Ch.
        self.vectors.insert(0x08, at::INT_08);
        self.code(at::INT_08, 16, |a, traps| {
            traps.trap(a, Call::Tick)?;
            a.int(0x1C)?;
            a.push(ax)?;
            end_of_interrupt(a, false)?;
            a.pop(ax)?;
            a.iret()
        })?;
        // The keyboard: INT 15h, 4Fh may change or take the code; carry of the trap asks for INT 1Bh.
        self.vectors.insert(0x09, at::INT_09);
        self.code(at::INT_09, 16, |a, traps| {
            let mut end = a.create_label();
            a.push(ax)?;
            a.in_(al, 0x64)?;
            a.and(al, 0x21)?;
            a.cmp(al, 1)?;
            a.jne(end)?;
            a.in_(al, 0x60)?;
            a.mov(ah, 0x4F)?;
            a.stc()?;
            a.int(0x15)?;
            a.jnc(end)?;
            traps.trap(a, Call::Key)?;
            a.jnc(end)?;
            a.int(0x1B)?;
            a.set_label(&mut end)?;
            end_of_interrupt(a, false)?;
            a.pop(ax)?;
            a.iret()
        })?;
        // The clock: carry of the trap asks for the alarm, INT 4Ah.
        self.vectors.insert(0x70, *next);
        *next += self.code(*next, 16, |a, traps| {
            let mut end = a.create_label();
            traps.trap(a, Call::Clock)?;
            a.jnc(end)?;
            a.int(0x4A)?;
            a.set_label(&mut end)?;
            a.push(ax)?;
            end_of_interrupt(a, true)?;
            a.pop(ax)?;
            a.iret()
        })?;
        // The mouse: carry of the trap asks for the program's handler at ES:[22h], with four words on the stack.
        self.vectors.insert(0x74, *next);
        *next += self.code(*next, 16, |a, traps| {
            let mut end = a.create_label();
            a.pusha()?;
            a.push(ds)?;
            a.push(es)?;
            traps.trap(a, Call::Mouse)?;
            a.jnc(end)?;
            for register in [ax, bx, cx, dx] {
                a.push(register)?;
            }
            // call far es:[22h]
            a.db(&[0x26, 0xFF, 0x1E, data::MOUSE_HANDLER as u8, 0])?;
            a.add(sp, 8)?;
            a.set_label(&mut end)?;
            a.cli()?;
            end_of_interrupt(a, true)?;
            a.pop(es)?;
            a.pop(ds)?;
            a.popa()?;
            a.iret()
        })?;
        Ok(())
    }

    /// The protected-mode interface of the VBE: a table of offsets, the functions, a list of ports.
    fn vbe_interface(&mut self, next: &mut u16) -> Result<(), IcedError> {
        let start = *next;
        let mut table = Vec::new();
        *next += vbe_protected::TABLE_LEN;
        for function in vbe_protected::FUNCTIONS {
            table.push(*next - start);
            *next += self.code(*next, 32, |a, _| function(a))?;
        }
        table.push(*next - start);
        let words = |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let ports = words(&vbe_protected::PORTS);
        self.vbe = (start, *next + ports.len() as u16 - start);
        self.pieces.push((start, words(&table)));
        self.pieces.push((*next, ports));
        *next = start + self.vbe.1;
        Ok(())
    }

    /// An interrupt that is a service alone, at `at`; its length.
    fn interrupt(&mut self, vector: u8, at: u16) -> Result<u16, IcedError> {
        self.vectors.insert(vector, at);
        self.code(at, 16, |a, traps| {
            traps.trap(a, Call::Int(vector))?;
            a.iret()
        })
    }

    /// Assembles a piece at `at`; its length.
    fn code(
        &mut self,
        at: u16,
        bits: u32,
        build: impl FnOnce(&mut CodeAssembler, &mut Traps) -> Result<(), IcedError>,
    ) -> Result<u16, IcedError> {
        let mut a = CodeAssembler::new(bits)?;
        let mut traps = Traps::default();
        build(&mut a, &mut traps)?;
        let base = if bits == 16 { 0 } else { u64::from(BASE) };
        let result = a.assemble_options(base + u64::from(at), BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
        for (label, call) in traps.0 {
            let ip = result.label_ip(&label)? - base;
            self.traps.insert(ip as u16, call);
        }
        let code = result.inner.code_buffer;
        let len = code.len() as u16;
        self.pieces.push((at, code));
        Ok(len)
    }
}

/// The traps of a piece under construction.
#[derive(Default)]
struct Traps(Vec<(CodeLabel, Call)>);

impl Traps {
    /// A trap; an instruction must follow.
    fn trap(&mut self, a: &mut CodeAssembler, call: Call) -> Result<(), IcedError> {
        let mut label = a.create_label();
        a.out(u32::from(TRAP_PORT), al)?;
        a.set_label(&mut label)?;
        self.0.push((label, call));
        Ok(())
    }
}

/// An entry of the APM interface for protected mode: a program that is idle waits for an interrupt.
fn apm_entry(a: &mut CodeAssembler, traps: &mut Traps) -> Result<(), IcedError> {
    let mut awake = a.create_label();
    a.cmp(ax, i32::from(apm::IDLE))?;
    a.jne(awake)?;
    a.sti()?;
    a.hlt()?;
    a.set_label(&mut awake)?;
    traps.trap(a, Call::Apm)?;
    a.retf()
}

/// Ends an interrupt of the first 8259, and of the second if `both`; spoils AL.
fn end_of_interrupt(a: &mut CodeAssembler, both: bool) -> Result<(), IcedError> {
    a.mov(al, 0x20)?;
    if both {
        a.out(0xA0, al)?;
    }
    a.out(0x20, al)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::sum;

    #[test]
    fn pieces_do_not_overlap() {
        let mut pieces: Vec<(usize, usize)> = rom().pieces.iter().map(|(at, bytes)| (usize::from(*at), bytes.len())).collect();
        pieces.sort_unstable();
        for pair in pieces.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        assert!(pieces.iter().all(|(at, len)| at + len <= 0x1_0000));
    }

    #[test]
    fn headers_add_up() {
        for (at, len) in [(at::BIOS32, 16), (at::PNP, 33)] {
            let bytes = &rom().pieces.iter().find(|piece| piece.0 == at).unwrap().1;
            assert_eq!((bytes.len(), sum(bytes)), (len, 0));
        }
    }
}
