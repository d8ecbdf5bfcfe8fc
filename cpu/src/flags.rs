//! Lazy arithmetic flags.
//!
//! Instead of six bits, an operation leaves its result and its carries, from which any flag follows without a branch:
//!
//! * `zero`: ZF is set exactly if this is 0;
//! * `sign`: SF is its bit 63, PF the parity of its low byte;
//! * `carry`: the carry out of the top bit (CF) is bit 63, the carry into the top bit is bit 62 (OF is their
//!   difference), the carry out of bit 3 (AF) is bit 3.

use serde::{Deserialize, Serialize};

use crate::width::Width;

/// Carry flag.
pub const CF: u64 = 1 << 0;
/// Parity flag.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry flag.
pub const AF: u64 = 1 << 4;
/// Zero flag.
pub const ZF: u64 = 1 << 6;
/// Sign flag.
pub const SF: u64 = 1 << 7;
/// Trap flag.
pub const TF: u64 = 1 << 8;
/// Interrupt enable flag.
pub const IF: u64 = 1 << 9;
/// Direction flag.
pub const DF: u64 = 1 << 10;
/// Overflow flag.
pub const OF: u64 = 1 << 11;
/// I/O privilege level, two bits.
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume flag.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check.
pub const AC: u64 = 1 << 18;
/// Virtual interrupt flag.
pub const VIF: u64 = 1 << 19;
/// Virtual interrupt pending.
pub const VIP: u64 = 1 << 20;
/// CPUID may be used.
pub const ID: u64 = 1 << 21;
/// The six flags kept lazily.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// The lazily kept flags (see the module).
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Lazy {
    /// ZF source.
    pub zero: u64,
    /// SF and PF source.
    pub sign: u64,
    /// CF, OF and AF source.
    pub carry: u64,
}

const TOP: u64 = 1 << 63;

impl Lazy {
    /// After an addition or subtraction: `carries` has the carry (borrow) out of every bit.
    #[inline(always)]
    pub fn arithmetic<W: Width>(&mut self, result: W, carries: W) {
        let (r, c) = (result.sx(), carries.zx());
        *self = Self { zero: r, sign: r, carry: (c << (64 - W::BITS)) | (c & 8) };
    }
    /// After AND, OR, XOR, TEST: CF, OF and AF clear.
    #[inline(always)]
    pub fn logic<W: Width>(&mut self, result: W) {
        let r = result.sx();
        *self = Self { zero: r, sign: r, carry: 0 };
    }
    /// ZF, SF and PF from `result`; CF and OF as given; AF clear.
    #[inline(always)]
    pub fn result<W: Width>(&mut self, result: W, cf: bool, of: bool) {
        let r = result.sx();
        *self = Self { zero: r, sign: r, carry: pack(cf, of, false) };
    }
    /// As [`Lazy::result`], but AF is set: after shifts.
    #[inline(always)]
    pub fn shifted<W: Width>(&mut self, result: W, cf: bool, of: bool) {
        let r = result.sx();
        *self = Self { zero: r, sign: r, carry: pack(cf, of, true) };
    }
    /// ZF from `count`, CF as given; OF is kept, the others clear: after a count of zeros.
    #[inline(always)]
    pub fn counted(&mut self, count: u64, cf: bool) {
        // A sign of 1 has odd parity.
        *self = Self { zero: count, sign: 1, carry: pack(cf, self.of(), false) };
    }
    /// CF and OF alone.
    #[inline(always)]
    pub fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.carry = pack(cf, of, self.af());
    }
    /// CF alone.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        self.carry = pack(cf, self.of(), self.af());
    }
    /// OF alone.
    #[inline(always)]
    pub fn set_of(&mut self, of: bool) {
        self.carry = pack(self.cf(), of, self.af());
    }
    /// ZF alone.
    #[inline(always)]
    pub fn set_zf(&mut self, zf: bool) {
        self.zero = u64::from(!zf);
    }
    /// CF.
    #[inline(always)]
    #[must_use]
    pub fn cf(&self) -> bool {
        self.carry & TOP != 0
    }
    /// OF.
    #[inline(always)]
    #[must_use]
    pub fn of(&self) -> bool {
        (self.carry ^ (self.carry << 1)) & TOP != 0
    }
    /// AF.
    #[inline(always)]
    #[must_use]
    pub fn af(&self) -> bool {
        self.carry & 8 != 0
    }
    /// ZF.
    #[inline(always)]
    #[must_use]
    pub fn zf(&self) -> bool {
        self.zero == 0
    }
    /// SF.
    #[inline(always)]
    #[must_use]
    pub fn sf(&self) -> bool {
        self.sign & TOP != 0
    }
    /// PF.
    #[inline(always)]
    #[must_use]
    pub fn pf(&self) -> bool {
        (self.sign as u8).count_ones() & 1 == 0
    }
    /// SF != OF.
    #[inline(always)]
    #[must_use]
    pub fn less(&self) -> bool {
        (self.sign ^ self.carry ^ (self.carry << 1)) & TOP != 0
    }
    /// The six flags in their EFLAGS positions.
    #[must_use]
    pub fn bits(&self) -> u64 {
        let bit = |on: bool, f: u64| if on { f } else { 0 };
        bit(self.cf(), CF) | bit(self.pf(), PF) | bit(self.af(), AF) | bit(self.zf(), ZF) | bit(self.sf(), SF) | bit(self.of(), OF)
    }
    /// From the six flags in their EFLAGS positions.
    pub fn set_bits(&mut self, bits: u64) {
        let sign = if bits & SF != 0 { TOP } else { 0 };
        *self = Self {
            zero: u64::from(bits & ZF == 0),
            sign: sign | u64::from(bits & PF == 0),
            carry: pack(bits & CF != 0, bits & OF != 0, bits & AF != 0),
        };
    }
    /// Condition `CC` as encoded in Jcc, SETcc and CMOVcc (SDM 2, appendix B.1.4.7).
    #[inline(always)]
    #[must_use]
    pub fn condition<const CC: u8>(&self) -> bool {
        let c = match CC >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.less(),
            _ => self.less() || self.zf(),
        };
        c != (CC & 1 != 0)
    }
}

#[inline(always)]
fn pack(cf: bool, of: bool, af: bool) -> u64 {
    (u64::from(cf) << 63) | (u64::from(cf != of) << 62) | (u64::from(af) << 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_round_trip() {
        for i in 0..64u64 {
            let bits = [CF, PF, AF, ZF, SF, OF].iter().enumerate().map(|(n, f)| if i >> n & 1 != 0 { *f } else { 0 }).sum();
            let mut l = Lazy::default();
            l.set_bits(bits);
            assert_eq!(l.bits(), bits);
        }
    }
}
