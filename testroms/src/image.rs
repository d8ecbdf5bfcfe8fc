//! Flat images that start in real mode, put together from sections of code and data.

use iced_x86::code_asm::CodeAssembler;
use iced_x86::{Code, IcedError, Instruction};

/// Where an image is loaded and started, as a BIOS does with a boot sector.
pub const ORIGIN: u64 = 0x7c00;
/// Where an image must end: before the extended BIOS data area.
const END: u64 = 0x9_fc00;
/// The first sector holds code up to the place of a partition table.
const SECTOR: usize = 512;
const PARTITIONS: usize = 446;

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
        self.poke(ORIGIN + 510, &[0x55, 0xaa]);
        assert!(ORIGIN + self.bytes.len() as u64 <= END, "the image does not fit in conventional memory");
        self.bytes
    }
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
