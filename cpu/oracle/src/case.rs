//! A case, its outcome, and where things lie in the 64 KiB that both processors have.

/// Linear address of the region: below 4 GiB, so that every mode reaches it.
pub const REGION: u64 = 0x1000_0000;
/// Bytes of the region; pages that are not named below are not present.
pub const REGION_SIZE: u64 = 0x1_0000;
/// Offset of the page of code: executable, not writable, full of INT3.
pub const CODE: u64 = 0x1000;
/// Offset of the two pages of data.
pub const DATA: u64 = 0x4000;
/// Offset of the page of constants: present, not writable.
pub const CONSTANTS: u64 = 0x7000;
/// Offset of the page of stack.
pub const STACK: u64 = 0x9000;
/// Bytes of a page.
pub const PAGE: u64 = 0x1000;
/// Bytes of the writable pages: data, then stack.
pub const WRITABLE: usize = 3 * PAGE as usize;
/// The writable pages: offset in the region, place in [`Machine::memory`], bytes.
pub const WRITABLE_PAGES: [(u64, usize, usize); 2] = [(DATA, 0, 0x2000), (STACK, 0x2000, 0x1000)];

/// Selectors that both processors have; those of a Linux process, and of a local descriptor table.
#[allow(missing_docs, reason = "the rest is named as Linux and the manual call it")]
pub mod selector {
    pub const CODE_32: u16 = 0x23;
    pub const DATA_FLAT: u16 = 0x2b;
    pub const CODE_64: u16 = 0x33;
    /// 16-bit code at the region.
    pub const CODE_16: u16 = 0x07;
    /// 16-bit data at the region.
    pub const DATA_16: u16 = 0x0f;
    /// 32-bit data at the region whose limit lies in the second page of data.
    pub const SHORT: u16 = 0x17;
    /// Expand-down data at the region: from the second page of data on.
    pub const EXPAND_DOWN: u16 = 0x1f;
    pub const READ_ONLY: u16 = 0x27;
    pub const NOT_PRESENT: u16 = 0x2f;
    /// 32-bit code at the region that cannot be read.
    pub const EXECUTE_ONLY: u16 = 0x37;
    /// 32-bit code at the region that can be read.
    pub const READABLE_CODE: u16 = 0x3f;
}

/// A descriptor of the local table, in the words of `modify_ldt`.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Last valid offset.
    pub limit: u32,
    /// D/B.
    pub big: bool,
    /// Descriptor bits 42 and 43: 0 data, 1 expand-down, 2 code.
    pub contents: u8,
    /// Data that cannot be written, or code that cannot be read.
    pub restricted: bool,
    /// P.
    pub present: bool,
}

const fn local(limit: u32, big: bool, contents: u8, restricted: bool, present: bool) -> Local {
    Local { limit, big, contents, restricted, present }
}

/// The local descriptor table, in the order of the selectors; all at [`REGION`], for privilege level 3.
pub const LOCAL: [Local; 8] = [
    local(0xffff, false, 2, false, true),
    local(0xffff, false, 0, false, true),
    local(0x57ff, true, 0, false, true),
    local(0x4fff, true, 1, false, true),
    local(0xffff, true, 0, true, true),
    local(0xffff, true, 0, false, false),
    local(0xffff, true, 2, true, true),
    local(0xffff, true, 2, false, true),
];

impl Local {
    /// As the processor reads it.
    #[must_use]
    pub const fn descriptor(self) -> u64 {
        let kind = (!self.restricted as u64) << 1 | (self.contents as u64) << 2 | 1;
        (self.limit & 0xffff) as u64
            | (REGION & 0xff_ffff) << 16
            | kind << 40
            | 1 << 44
            | 3 << 45
            | (self.present as u64) << 47
            | (self.limit as u64 >> 16) << 48
            | (self.big as u64) << 54
            | (REGION >> 24) << 56
    }
}

/// Bytes of the x87 part of an FXSAVE64 image.
pub const X87_IMAGE: usize = 160;

/// The state that a case begins or ends with.
#[repr(C)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// An offset in CS.
    pub rip: u64,
    /// RFLAGS.
    pub flags: u64,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// ES, CS, SS, DS, FS, GS, and two unused.
    pub selectors: [u16; 8],
    /// MXCSR.
    pub mxcsr: u32,
    /// Unused.
    pub padding: u32,
    /// As FXSAVE64 stores it, without MXCSR.
    pub x87: [u8; X87_IMAGE],
    /// XMM0 to XMM15.
    pub xmm: [[u8; 16]; 16],
    /// Their upper halves as YMM registers.
    pub ymm: [[u8; 16]; 16],
    /// The writable pages.
    pub memory: [u8; WRITABLE],
}

impl Machine {
    /// Everything zero, or as after FNINIT.
    #[must_use]
    pub fn new() -> Self {
        let mut x87 = [0; X87_IMAGE];
        x87[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        Self {
            gpr: [0; 16],
            rip: 0,
            flags: 0x202,
            fs_base: 0,
            gs_base: 0,
            selectors: [0; 8],
            mxcsr: 0x1f80,
            padding: 0,
            x87,
            xmm: [[0; 16]; 16],
            ymm: [[0; 16]; 16],
            memory: [0; WRITABLE],
        }
    }

    /// The place in [`Machine::memory`] of `offset` in the region, if it is writable.
    #[must_use]
    pub fn place(offset: u64) -> Option<usize> {
        WRITABLE_PAGES
            .iter()
            .find(|(at, _, len)| (*at..at + *len as u64).contains(&offset))
            .map(|(at, place, _)| place + (offset - at) as usize)
    }

    /// Puts bytes at `offset` of the region, as far as that is writable.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (i, &b) in bytes.iter().enumerate() {
            if let Some(place) = Self::place(offset.wrapping_add(i as u64)) {
                self.memory[place] = b;
            }
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// The most code that a case has, in bytes.
pub const MAX_CODE: usize = 64;

/// What to run: `code` at `start.rip`, in the mode of `start.selectors`. It ends with its first exception; code is followed by INT3.
#[repr(C)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// 16, 32 or 64.
    pub bits: u32,
    /// Bytes of `code` that count.
    pub len: u32,
    /// The instructions.
    pub code: [u8; MAX_CODE],
    /// The state before.
    pub start: Machine,
}

impl Case {
    /// A case without code in the mode of `bits`, everything at rest.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        use selector::{CODE_16, CODE_32, CODE_64, DATA_16, DATA_FLAT, EXPAND_DOWN, SHORT};
        let mut start = Machine::new();
        start.selectors = match bits {
            16 => [DATA_16, CODE_16, DATA_16, DATA_16, SHORT, EXPAND_DOWN, 0, 0],
            32 => [DATA_FLAT, CODE_32, DATA_FLAT, DATA_FLAT, SHORT, EXPAND_DOWN, 0, 0],
            _ => [0, CODE_64, DATA_FLAT, 0, 0, 0, 0, 0],
        };
        if bits != 64 {
            (start.fs_base, start.gs_base) = (REGION, REGION);
        }
        let mut case = Self { bits, len: 0, code: [0; MAX_CODE], start };
        case.start.rip = case.code_base() + CODE;
        case
    }

    /// The offset in CS of the region.
    #[must_use]
    pub fn code_base(&self) -> u64 {
        if self.bits == 16 { 0 } else { REGION }
    }

    /// The instructions' bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.code[..self.len as usize]
    }

    /// The offset in the region of the instructions.
    #[must_use]
    pub fn code_offset(&self) -> u64 {
        self.start.rip - self.code_base()
    }
}

/// Vectors that are none: how a case ended otherwise.
pub mod event {
    /// The host's system has been called.
    pub const SYSTEM_CALL: u32 = 0x100;
    /// The process that ran it is gone.
    pub const DIED: u32 = 0x101;
    /// It did not end.
    pub const ENDLESS: u32 = 0x102;
}

/// What a case came to.
#[repr(C)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The exception's vector (see also [`event`]).
    pub vector: u32,
    /// Its error code, or 0.
    pub error: u32,
    /// Of #PF: the address.
    pub address: u64,
    /// The state that the exception's handler sees.
    pub end: Machine,
}

impl Default for Outcome {
    fn default() -> Self {
        Self { vector: event::DIED, error: 0, address: 0, end: Machine::new() }
    }
}

/// Runs cases.
pub trait Engine {
    /// Runs `case` to its first exception.
    fn run(&mut self, case: &Case, outcome: &mut Outcome);
}

/// What is in the page of constants.
#[must_use]
pub fn constants() -> [u8; PAGE as usize] {
    let mut page = [0; PAGE as usize];
    let mut random = crate::values::Random::new(0x5eed, 0);
    crate::values::fill(&mut random, &mut page);
    page
}
