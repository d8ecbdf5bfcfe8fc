//! Flat images that start in real mode, put together from sections of code and data.

use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError, Instruction};
use softmetal_firmware::layout::{PM1A_CNT_PORT, SLP_TYP_S5};

/// Where an image is loaded and started, as a BIOS does with a boot sector.
pub const ORIGIN: u64 = 0x7c00;
/// Where an image must end: before the extended BIOS data area.
const END: u64 = 0x9_fc00;
/// The first sector holds code up to the place of a partition table.
const SECTOR: usize = 512;
const PARTITIONS: usize = 446;
/// What it ends with.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// The result of a function that emits instructions.
pub type Emit = Result<(), IcedError>;

/// An image under construction. Sections follow each other in the order of the calls, each of which answers where its
/// section will be in memory; so what is referred to comes first, and [`Image::start`] last.
pub struct Image {
    bytes: Vec<u8>,
}

impl Default for Image {
    fn default() -> Self {
        Self { bytes: vec![0; SECTOR] }
    }
}

impl Image {
    /// Room of `len` zero bytes on a multiple of `align`.
    pub fn zeros(&mut self, len: u64, align: u64) -> u64 {
        let at = (ORIGIN + self.bytes.len() as u64).next_multiple_of(align);
        self.bytes.resize((at - ORIGIN + len) as usize, 0);
        at
    }

    /// Data on a multiple of 16.
    pub fn data(&mut self, bytes: &[u8]) -> u64 {
        let at = self.zeros(bytes.len() as u64, 16);
        self.poke(at, bytes);
        at
    }

    /// A text that ends in a NUL; its line ends become CR LF.
    pub fn text(&mut self, text: &str) -> u64 {
        self.data(format!("{}\0", text.replace('\n', "\r\n")).as_bytes())
    }

    /// Code of 16, 32 or 64 bits, as `body` emits it.
    ///
    /// # Panics
    /// If it does not assemble: images are made of constants.
    pub fn code(&mut self, bits: u32, body: impl FnOnce(&mut CodeAssembler) -> Emit) -> u64 {
        let at = self.zeros(0, 16);
        self.bytes.extend(assemble(bits, at, body));
        at
    }

    /// Changes what is in place already.
    ///
    /// # Panics
    /// If `at` is not in the image.
    pub fn poke(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - ORIGIN) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// [`Image::poke`] of a 64-bit word.
    pub fn poke_u64(&mut self, at: u64, value: u64) {
        self.poke(at, &value.to_le_bytes());
    }

    /// Emits the real-mode code that runs first, and gives the image.
    ///
    /// # Panics
    /// If that code is too long for a boot sector, or the image for conventional memory.
    #[must_use]
    pub fn start(mut self, body: impl FnOnce(&mut CodeAssembler) -> Emit) -> Vec<u8> {
        let code = assemble(16, ORIGIN, body);
        assert!(code.len() <= PARTITIONS, "a boot sector holds {PARTITIONS} bytes of code, not {}", code.len());
        self.poke(ORIGIN, &code);
        self.poke(ORIGIN + SECTOR as u64 - 2, &SIGNATURE);
        assert!(ORIGIN + self.bytes.len() as u64 <= END, "the image does not fit in conventional memory");
        self.bytes
    }
}

/// A boot sector with the code that `body` emits, and no partition table.
///
/// # Panics
/// If it is too long.
#[must_use]
pub fn boot_sector(body: impl FnOnce(&mut CodeAssembler) -> Emit) -> Vec<u8> {
    let mut bytes = assemble(16, ORIGIN, body);
    assert!(bytes.len() <= SECTOR - 2, "a boot sector holds {} bytes of code, not {}", SECTOR - 2, bytes.len());
    bytes.resize(SECTOR - 2, 0);
    bytes.extend(SIGNATURE);
    bytes
}

/// Emits: ACPI's soft off, from code of any width.
///
/// # Errors
/// None: the instructions exist.
pub fn power_off(a: &mut CodeAssembler) -> Emit {
    a.mov(dx, u32::from(PM1A_CNT_PORT))?;
    a.mov(ax, u32::from(u16::from(SLP_TYP_S5) << 10 | 1 << 13))?;
    a.out(dx, ax)?;
    a.cli()?;
    a.hlt()
}

/// Emits: the first 8259 at vectors from `base` on, with the timer's input alone open, and the 8254's channel 0 in mode 2, which
/// counts `divisor` ticks. Changes AL.
///
/// # Errors
/// None: the instructions exist.
pub fn timer(a: &mut CodeAssembler, base: u8, divisor: u16) -> Emit {
    let [low, high] = divisor.to_le_bytes();
    for (port, value) in [(0x20, 0x11), (0x21, base), (0x21, 4), (0x21, 1), (0x21, 0xfe), (0x43, 0x34), (0x40, low), (0x40, high)] {
        a.mov(al, u32::from(value))?;
        a.out(port, al)?;
    }
    Ok(())
}

/// Code of 16, 32 or 64 bits for the address `at`.
fn assemble(bits: u32, at: u64, body: impl FnOnce(&mut CodeAssembler) -> Emit) -> Vec<u8> {
    CodeAssembler::new(bits)
        .and_then(|mut a| {
            body(&mut a)?;
            a.assemble(at)
        })
        .unwrap_or_else(|e| panic!("a section at {at:#x} does not assemble: {e}"))
}

/// A far jump to `selector:target`, for 16- and 32-bit code.
///
/// # Errors
/// When `target` is above 4 GiB.
pub fn jump_far(a: &mut CodeAssembler, selector: u16, target: u64) -> Emit {
    a.add_instruction(Instruction::with_far_branch(Code::Jmp_ptr1632, selector, target as u32)?)
}

/// Where the loader of [`disk`] runs, and the packet with which it asks the BIOS.
const LOADER: u64 = 0x600;
const PACKET: u64 = 0x900;
/// Sectors that the loader reads at once.
const AT_ONCE: u16 = 32;

/// A hard disk (of 16 heads, 63 sectors a track) whose boot sector loads `image` with INT 13h and starts it, for machines
/// that load nothing but a boot sector.
///
/// # Panics
/// If the image does not fit below the BIOS's data.
#[must_use]
pub fn disk(image: &[u8]) -> Vec<u8> {
    let reads = image.len().div_ceil(usize::from(AT_ONCE) * SECTOR);
    let mover = |then| {
        assemble(16, ORIGIN, |a| {
            a.cli()?;
            a.cld()?;
            a.xor(ax, ax)?;
            a.mov(ds, ax)?;
            a.mov(es, ax)?;
            a.mov(ss, ax)?;
            a.mov(sp, LOADER as i32)?;
            a.mov(si, ORIGIN as i32)?;
            a.mov(di, LOADER as i32)?;
            a.mov(cx, SECTOR as i32)?;
            a.rep().movsb()?;
            jump_far(a, 0, then)
        })
    };
    let moved = LOADER + mover(0).len() as u64;
    let mut bytes = mover(moved);
    bytes.extend(assemble(16, moved, |a| {
        let mut next = a.create_label();
        // Its own size, sectors, offset and segment of the place, number of the first sector.
        for (at, word) in [0x10, AT_ONCE, 0, (ORIGIN / 16) as u16, 1, 0, 0, 0].into_iter().enumerate() {
            a.mov(word_ptr(PACKET + 2 * at as u64), u32::from(word))?;
        }
        // Eight bits a character on the serial port, whatever the BIOS has left there.
        a.mov(dx, 0x3fb)?;
        a.mov(al, 3)?;
        a.out(dx, al)?;
        a.mov(dx, 0x80)?;
        a.sti()?;
        a.mov(bp, reads as i32)?;
        a.set_label(&mut next)?;
        a.mov(si, PACKET as i32)?;
        a.mov(ah, 0x42)?;
        a.int(0x13)?;
        a.add(word_ptr(PACKET + 6), i32::from(AT_ONCE) * (SECTOR / 16) as i32)?;
        a.add(word_ptr(PACKET + 8), i32::from(AT_ONCE))?;
        a.dec(bp)?;
        a.jne(next)?;
        a.cli()?;
        jump_far(a, 0, ORIGIN)
    }));
    assert!(bytes.len() <= PARTITIONS);
    bytes.resize(SECTOR, 0);
    bytes[SECTOR - 2..].copy_from_slice(&SIGNATURE);
    bytes.extend(image);
    bytes.resize(bytes.len().next_multiple_of(20 * 16 * 63 * SECTOR), 0);
    bytes
}
