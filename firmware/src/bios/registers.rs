//! What a service sees of its caller: general registers by their halves, segments, flags.

/// A general register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reg(pub u32);

impl Reg {
    /// Bits 0 to 15.
    #[must_use]
    pub fn x(self) -> u16 {
        self.0 as u16
    }
    /// Bits 0 to 7.
    #[must_use]
    pub fn l(self) -> u8 {
        self.0 as u8
    }
    /// Bits 8 to 15.
    #[must_use]
    pub fn h(self) -> u8 {
        (self.0 >> 8) as u8
    }
    /// Sets bits 0 to 15.
    pub fn set_x(&mut self, value: u16) {
        self.0 = self.0 & !0xFFFF | u32::from(value);
    }
    /// Sets bits 0 to 7.
    pub fn set_l(&mut self, value: u8) {
        self.0 = self.0 & !0xFF | u32::from(value);
    }
    /// Sets bits 8 to 15.
    pub fn set_h(&mut self, value: u8) {
        self.0 = self.0 & !0xFF00 | u32::from(value) << 8;
    }
}

/// A segment register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seg {
    /// What the register holds.
    pub selector: u16,
    /// The linear address of offset 0.
    pub base: u32,
}

impl Seg {
    /// A real-mode segment.
    #[must_use]
    pub fn real(selector: u16) -> Self {
        Self { selector, base: u32::from(selector) << 4 }
    }
    /// The linear address of an offset.
    #[must_use]
    pub fn at(self, offset: u16) -> u32 {
        self.base.wrapping_add(offset.into())
    }
}

/// The registers that services read and change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    /// EAX.
    pub a: Reg,
    /// EBX.
    pub b: Reg,
    /// ECX.
    pub c: Reg,
    /// EDX.
    pub d: Reg,
    /// ESI.
    pub si: Reg,
    /// EDI.
    pub di: Reg,
    /// EBP.
    pub bp: Reg,
    /// DS.
    pub ds: Seg,
    /// ES.
    pub es: Seg,
    /// The flags that the caller gets back.
    pub flags: u16,
}

const CARRY: u16 = 1;
const ZERO: u16 = 1 << 6;
const INTERRUPT: u16 = 1 << 9;

impl Registers {
    /// The carry flag.
    #[must_use]
    pub fn carry(&self) -> bool {
        self.flags & CARRY != 0
    }
    fn assign(&mut self, bit: u16, on: bool) {
        self.flags = if on { self.flags | bit } else { self.flags & !bit };
    }
    /// Sets the carry flag.
    pub fn set_carry(&mut self, on: bool) {
        self.assign(CARRY, on);
    }
    /// Sets the zero flag.
    pub fn set_zero(&mut self, on: bool) {
        self.assign(ZERO, on);
    }
    /// Sets the interrupt flag.
    pub fn set_interrupts(&mut self, on: bool) {
        self.assign(INTERRUPT, on);
    }
}
