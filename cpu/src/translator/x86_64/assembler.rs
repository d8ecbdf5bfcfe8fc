//! Bytes of the host instructions that surround re-emitted ones: moves, address arithmetic without flags, jumps.
//!
//! Registers are numbers as instructions encode them. All operations are 64 bits wide and leave the flags alone unless
//! their name says otherwise.

use super::arena::Origin;
use super::thunks::PAGE_BITS;

/// Host registers by name.
pub mod host {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R8: u8 = 8;
    pub const R9: u8 = 9;
    pub const R10: u8 = 10;
    pub const R11: u8 = 11;
    pub const R12: u8 = 12;
    pub const R13: u8 = 13;
    pub const R14: u8 = 14;
    pub const R15: u8 = 15;
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub base: Option<u8>,
    pub index: Option<u8>,
    /// The index is shifted left by this.
    pub scale: u8,
    pub disp: i32,
}

impl At {
    /// `[base + disp]`
    pub const fn base(base: u8, disp: i32) -> Self {
        Self { base: Some(base), index: None, scale: 0, disp }
    }
    /// `[base + index << scale + disp]`
    pub const fn indexed(base: u8, index: u8, scale: u8, disp: i32) -> Self {
        Self { base: Some(base), index: Some(index), scale, disp }
    }
}

/// A register or memory operand.
#[derive(Clone, Copy)]
pub enum Rm {
    Reg(u8),
    Mem(At),
}

/// A reference to a place that is not known yet; see [`Assembler::bind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Jump(usize);

/// What a field of 32 bits counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The next instruction, and it leads to the straight way from what is rare, ...
    Straight,
    /// ... the other way, ...
    Aside,
    /// ... or out of this code.
    Elsewhere,
    /// The number of the code's first edge.
    Edge,
    /// The number of the translation.
    Number,
}

/// A field that depends on where code lies, or what its numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Offset in the code.
    pub at: u32,
    pub base: Base,
}

/// How code goes another way unless RCX has a certain value, leaving the flags alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// By JRCXZ over a JMP.
    #[default]
    Jrcxz,
    /// By LOOP, which is not taken on the usual way: the host's predictor remembers jumps that are taken alone, and much code has
    /// more accesses than it has places. Slow on other processors than AMD's.
    Loop,
}

impl Gate {
    /// What RCX must be.
    pub const fn key(self) -> i32 {
        match self {
            Self::Jrcxz => 0,
            Self::Loop => 1,
        }
    }

    /// What makes the key of the first address of the page where tags of the TLB have their sums with addresses: the page whose number
    /// is the key.
    pub const fn offset(self) -> i32 {
        self.key() - (self.key() << PAGE_BITS)
    }
}

/// Code being made. It will run at `origin`, what is rare somewhere else.
pub struct Assembler {
    /// The bytes so far.
    pub code: Vec<u8>,
    /// What of them is another if the code runs somewhere else.
    pub relocations: Vec<Relocation>,
    origin: Origin,
    /// Where that begins which is rare.
    aside: usize,
}

impl Assembler {
    /// Nothing yet, for addresses `origin`; what is in the lists is overwritten.
    pub fn new(origin: Origin, (mut code, mut relocations): (Vec<u8>, Vec<Relocation>)) -> Self {
        code.clear();
        relocations.clear();
        Self { code, relocations, origin, aside: usize::MAX }
    }

    /// Takes back what was appended since there were `len` bytes.
    pub fn rewind(&mut self, len: usize) {
        self.code.truncate(len);
        self.relocations.retain(|r| (r.at as usize) < len);
    }

    /// The constant that ends here counts from `base`.
    pub fn counts_from(&mut self, base: Base) {
        self.relocations.push(Relocation { at: (self.here() - 4) as u32, base });
    }

    /// What comes from here on is rare.
    pub fn turn_aside(&mut self) {
        self.aside = self.here();
    }

    /// The straight way, and what is rare.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        self.code.split_at(self.aside.min(self.code.len()))
    }

    /// The host address and the length of each.
    pub fn pieces(&self) -> [(u64, usize); 2] {
        let (straight, aside) = self.parts();
        [(self.origin.straight, straight.len()), (self.origin.aside, aside.len())]
    }

    /// The host address of the code at offset `at`.
    pub fn address(&self, at: usize) -> u64 {
        if at < self.aside { self.origin.straight + at as u64 } else { self.origin.aside + (at - self.aside) as u64 }
    }

    /// The host address of what comes after a jump.
    fn behind(&self, j: Jump) -> u64 {
        self.address(j.0 - 1) + 1
    }

    /// The host address of a jump's displacement.
    pub fn field(&self, j: Jump) -> u64 {
        self.behind(j) - 4
    }

    /// Bytes so far.
    pub fn here(&self) -> usize {
        self.code.len()
    }

    /// Appends bytes.
    pub fn bytes(&mut self, b: &[u8]) {
        self.code.extend_from_slice(b);
    }

    /// The ModRM byte, and what follows it of an operand.
    pub fn modrm(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        match rm {
            Rm::Reg(r) => self.code.push(0xc0 | reg | r & 7),
            Rm::Mem(At { base: Some(base), index, scale, disp }) => {
                let (mode, size) = match disp {
                    0 if base & 7 != host::RBP => (0, 0),
                    -128..=127 => (0x40, 1),
                    _ => (0x80, 4),
                };
                if index.is_some() || base & 7 == host::RSP {
                    let index = index.unwrap_or(host::RSP);
                    self.code.push(mode | reg | 4);
                    self.code.push(scale << 6 | (index & 7) << 3 | base & 7);
                } else {
                    self.code.push(mode | reg | base & 7);
                }
                self.bytes(&disp.to_le_bytes()[..size]);
            }
            Rm::Mem(At { base: None, index, scale, disp }) => {
                self.code.push(reg | 4);
                self.code.push(scale << 6 | (index.unwrap_or(host::RSP) & 7) << 3 | 5);
                self.bytes(&disp.to_le_bytes());
            }
        }
    }

    fn rex_bits(reg: u8, rm: Rm) -> (u8, u8, u8) {
        let (x, b) = match rm {
            Rm::Reg(r) => (0, r >> 3),
            Rm::Mem(m) => (m.index.unwrap_or(0) >> 3, m.base.unwrap_or(0) >> 3),
        };
        (reg >> 3, x, b)
    }

    /// The REX prefix, if there is anything in it, or if it is `needed`.
    pub fn rex(&mut self, wide: bool, needed: bool, reg: u8, rm: Rm) {
        let (r, x, b) = Self::rex_bits(reg, rm);
        let rex = 0x40 | u8::from(wide) << 3 | r << 2 | x << 1 | b;
        if rex != 0x40 || needed {
            self.code.push(rex);
        }
    }

    fn op(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: Rm) {
        self.rex(wide, false, reg, rm);
        self.bytes(opcode);
        self.modrm(reg, rm);
    }

    /// VEX.L0.W1: `map` 2 is 0F38, 3 is 0F3A; `pp` 2 is F3, 3 is F2.
    fn vex(&mut self, map: u8, pp: u8, opcode: u8, reg: u8, vvvv: u8, rm: Rm) {
        let (r, x, b) = Self::rex_bits(reg, rm);
        self.bytes(&[0xc4, (r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | map, 0x80 | (!vvvv & 15) << 3 | pp, opcode]);
        self.modrm(reg, rm);
    }

    pub fn mov(&mut self, to: u8, from: u8) {
        self.op(true, &[0x8b], to, Rm::Reg(from));
    }
    /// Moves 64 or 32 bits; 32 are zero-extended.
    pub fn mov_sized(&mut self, wide: bool, to: u8, from: u8) {
        self.op(wide, &[0x8b], to, Rm::Reg(from));
    }
    /// The address, or its low 32 bits.
    pub fn lea_sized(&mut self, wide: bool, to: u8, at: At) {
        self.op(wide, &[0x8d], to, Rm::Mem(at));
    }
    pub fn load(&mut self, to: u8, from: At) {
        self.op(true, &[0x8b], to, Rm::Mem(from));
    }
    pub fn load32(&mut self, to: u8, from: At) {
        self.op(false, &[0x8b], to, Rm::Mem(from));
    }
    /// Loads a byte, zero-extended.
    pub fn load_byte(&mut self, to: u8, from: At) {
        self.op(false, &[0x0f, 0xb6], to, Rm::Mem(from));
    }
    pub fn store(&mut self, to: At, from: u8) {
        self.op(true, &[0x89], from, Rm::Mem(to));
    }
    /// Stores a sign-extended 32-bit constant as 64 bits.
    pub fn store_imm64(&mut self, to: At, v: i32) {
        self.op(true, &[0xc7], 0, Rm::Mem(to));
        self.bytes(&v.to_le_bytes());
    }
    pub fn mov_imm64(&mut self, to: u8, v: u64) {
        if let Ok(v) = u32::try_from(v) {
            if to >= 8 {
                self.code.push(0x41);
            }
            self.code.push(0xb8 | to & 7);
            self.bytes(&v.to_le_bytes());
        } else {
            self.bytes(&[0x48 | to >> 3, 0xb8 | to & 7]);
            self.bytes(&v.to_le_bytes());
        }
    }
    pub fn lea(&mut self, to: u8, at: At) {
        self.op(true, &[0x8d], to, Rm::Mem(at));
    }
    /// The address cut to 32 bits.
    pub fn lea32(&mut self, to: u8, at: At) {
        self.op(false, &[0x8d], to, Rm::Mem(at));
    }
    /// `to` = bits of `from` where `mask` has ones.
    pub fn pext(&mut self, to: u8, from: u8, mask: At) {
        self.vex(2, 2, 0xf5, to, from, Rm::Mem(mask));
    }
    /// `to` = `from` >> (`count` & 63).
    pub fn shrx(&mut self, to: u8, from: u8, count: u8) {
        self.vex(2, 3, 0xf7, to, count, Rm::Reg(from));
    }
    /// `to` = `from` rotated right.
    pub fn rorx(&mut self, to: u8, from: u8, by: u8) {
        self.vex(3, 3, 0xf0, to, 0, Rm::Reg(from));
        self.code.push(by);
    }
    /// Moves the low byte; the others stay.
    pub fn mov_low_byte(&mut self, to: u8, from: u8) {
        // REX, so that numbers 4 to 7 are not AH to BH.
        self.bytes(&[0x40 | (to >> 3) << 2 | from >> 3, 0x8a, 0xc0 | (to & 7) << 3 | from & 7]);
    }
    /// Moves the low 16 bits; the others stay.
    pub fn mov_low_word(&mut self, to: u8, from: u8) {
        self.code.push(0x66);
        self.op(false, &[0x8b], to, Rm::Reg(from));
    }
    /// Moves the low 16 bits, zero-extended.
    pub fn zero_extend_word(&mut self, to: u8, from: u8) {
        self.op(false, &[0x0f, 0xb7], to, Rm::Reg(from));
    }
    /// Loads 2, 4 or 8 bytes, zero-extended.
    pub fn load_bytes(&mut self, bytes: usize, to: u8, from: At) {
        match bytes {
            2 => self.op(false, &[0x0f, 0xb7], to, Rm::Mem(from)),
            _ => self.op(bytes == 8, &[0x8b], to, Rm::Mem(from)),
        }
    }
    /// Stores the low 2, 4 or 8 bytes.
    pub fn store_bytes(&mut self, bytes: usize, to: At, from: u8) {
        if bytes == 2 {
            self.code.push(0x66);
        }
        self.op(bytes == 8, &[0x89], from, Rm::Mem(to));
    }
    /// Inverts all bits.
    pub fn not(&mut self, r: u8) {
        self.op(true, &[0xf7], 2, Rm::Reg(r));
    }
    /// Compares a byte in memory with a constant; sets the flags.
    pub fn cmp_byte_sets_flags(&mut self, at: At, v: u8) {
        self.op(false, &[0x80], 7, Rm::Mem(at));
        self.code.push(v);
    }
    /// Compares `a` with `b`; sets the flags.
    pub fn cmp_sets_flags(&mut self, wide: bool, a: u8, b: u8) {
        self.op(wide, &[0x3b], a, Rm::Reg(b));
    }
    pub fn push(&mut self, r: u8) {
        if r >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0x50 | r & 7);
    }
    /// PUSH of a sign-extended constant.
    pub fn push_imm(&mut self, v: i32) {
        self.code.push(0x68);
        self.bytes(&v.to_le_bytes());
    }
    pub fn pop(&mut self, r: u8) {
        if r >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0x58 | r & 7);
    }
    pub fn ret(&mut self) {
        self.code.push(0xc3);
    }
    /// RET, with `n` bytes more to drop.
    pub fn ret_dropping(&mut self, n: u16) {
        self.code.push(0xc2);
        self.bytes(&n.to_le_bytes());
    }
    pub fn jmp_indirect(&mut self, at: At) {
        self.op(false, &[0xff], 4, Rm::Mem(at));
    }
    pub fn call_indirect(&mut self, at: At) {
        self.op(false, &[0xff], 2, Rm::Mem(at));
    }
    /// VMOVUPS YMM.
    pub fn load_ymm(&mut self, to: u8, from: At) {
        self.vps(0x10, true, to, 0, from);
    }
    /// VMOVUPS XMM: the upper half becomes 0.
    pub fn load_xmm(&mut self, to: u8, from: At) {
        self.vps(0x10, false, to, 0, from);
    }
    /// VMOVUPS YMM.
    pub fn store_ymm(&mut self, to: At, from: u8) {
        self.vps(0x11, true, from, 0, to);
    }
    /// VORPS XMM with itself.
    pub fn or_xmm(&mut self, to: u8, from: At) {
        self.vps(0x56, false, to, to, from);
    }
    /// VEX.0F without a prefix; `wide` is YMM.
    fn vps(&mut self, opcode: u8, wide: bool, reg: u8, vvvv: u8, at: At) {
        let (r, x, b) = Self::rex_bits(reg, Rm::Mem(at));
        self.bytes(&[0xc4, (r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | 1, (!vvvv & 15) << 3 | u8::from(wide) << 2, opcode]);
        self.modrm(reg, Rm::Mem(at));
    }
    pub fn ldmxcsr(&mut self, at: At) {
        self.op(false, &[0x0f, 0xae], 2, Rm::Mem(at));
    }
    pub fn stmxcsr(&mut self, at: At) {
        self.op(false, &[0x0f, 0xae], 3, Rm::Mem(at));
    }

    /// LEA of an address in this code.
    pub fn lea_of(&mut self, to: u8) -> Jump {
        // RIP-relative.
        self.bytes(&[0x48 | (to >> 3) << 2, 0x8d, 5 | (to & 7) << 3, 0, 0, 0, 0]);
        Jump(self.here())
    }

    /// Overwrites code, of which there are 4 to 8 bytes, by one instruction that does nothing.
    pub fn nothing(&mut self, range: std::ops::Range<usize>) {
        let nop: &[u8] = match range.len() {
            4 => &[0x0f, 0x1f, 0x40, 0],
            5 => &[0x0f, 0x1f, 0x44, 0, 0],
            6 => &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
            7 => &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
            _ => &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        };
        self.code[range].copy_from_slice(nop);
    }

    /// JRCXZ, over what comes next; not far.
    pub fn jrcxz(&mut self) -> ShortJump {
        self.bytes(&[0xe3, 0]);
        ShortJump(self.here())
    }
    /// Goes on if RCX is the key of `gate`, and is 0 then; else the jump leads away, with what RCX was beyond the key.
    pub fn pass(&mut self, gate: Gate) -> Jump {
        match gate {
            Gate::Jrcxz => {
                let fits = self.jrcxz();
                let other = self.jmp();
                self.land(fits);
                other
            }
            Gate::Loop => {
                // LOOP leads into the last five bytes of NOP [RCX + RBP * 8 + disp32], which are a JMP.
                self.bytes(&[0xe2, 3, 0x0f, 0x1f, 0x84, 0xe9, 0, 0, 0, 0]);
                Jump(self.here())
            }
        }
    }
    /// JMP; not far.
    pub fn jmp_short(&mut self) -> ShortJump {
        self.bytes(&[0xeb, 0]);
        ShortJump(self.here())
    }
    /// JRCXZ back to `at` in this code; not far.
    pub fn jrcxz_back(&mut self, at: usize) {
        let by = self.here() + 2 - at;
        debug_assert!(by <= 128, "a short jump over {by} bytes");
        self.bytes(&[0xe3, (by as u8).wrapping_neg()]);
    }
    /// A short jump goes here.
    pub fn land(&mut self, j: ShortJump) {
        let by = self.here() - j.0;
        debug_assert!(by < 128, "a short jump over {by} bytes");
        self.code[j.0 - 1] = by as u8;
    }
    pub fn jmp(&mut self) -> Jump {
        self.bytes(&[0xe9, 0, 0, 0, 0]);
        Jump(self.here())
    }
    pub fn jcc(&mut self, cc: u8) -> Jump {
        self.bytes(&[0x0f, 0x80 | cc, 0, 0, 0, 0]);
        Jump(self.here())
    }
    pub fn call(&mut self) -> Jump {
        self.bytes(&[0xe8, 0, 0, 0, 0]);
        Jump(self.here())
    }
    /// The jump goes to `at` in this code.
    pub fn bind(&mut self, j: Jump, at: usize) {
        let [from, to] = [j.0 - 1, at].map(|place| if place < self.aside { Base::Straight } else { Base::Aside });
        self.bind_to(j, self.address(at), Some(to).filter(|&to| to != from));
    }
    /// The jump goes to a host address within reach.
    pub fn lead_to(&mut self, j: Jump, address: u64) {
        self.bind_to(j, address, Some(Base::Elsewhere));
    }
    fn bind_to(&mut self, j: Jump, address: u64, base: Option<Base>) {
        let by = address.wrapping_sub(self.behind(j)) as i32;
        self.code[j.0 - 4..j.0].copy_from_slice(&by.to_le_bytes());
        self.relocations.extend(base.map(|base| Relocation { at: j.0 as u32 - 4, base }));
    }
    /// JMP to a host address within reach.
    pub fn jmp_to(&mut self, address: u64) {
        let j = self.jmp();
        self.lead_to(j, address);
    }
    /// CALL of a host address within reach.
    pub fn call_to(&mut self, address: u64) {
        let j = self.call();
        self.lead_to(j, address);
    }
}

/// Where a short jump ends.
#[must_use]
pub struct ShortJump(usize);
