//! System management mode: SMI, RSM and the save-state map (SDM 3C, chapter 31; APM 2, chapter 10).
//!
//! A model with long mode has the map of AMD64 at SMBASE + FE00h, whoever made it: all firmware for the boards that there
//! are knows that one for 64 bits and no other. The others have the map of the Pentium, whose undocumented fields are here
//! where its successors have them.

use iced_x86::Mnemonic as M;
use log::Level;
use serde::{Deserialize, Serialize};
use softmetal_bus::{PAGE_SIZE, PageKind, attention};

use super::cpuid::Feature;
use crate::fault::{Fault, Reason};
use crate::flags;
use crate::op::{Exit, Op, last};
use crate::state::{Cpu, Segment, State, TableRegister, bits, reg, seg};
use crate::table::{Row, row};

/// Instruction rows.
pub const ROWS: &[Row] = &[row(M::Rsm, |l| l.with(rsm)).modifies("oszapcid")];

/// SMBASE after RESET.
pub const SMBASE: u32 = 0x3_0000;
/// Where the handler begins, from SMBASE on.
const ENTRY: u64 = 0x8000;
/// The first byte of the map, from SMBASE on, and its length.
const MAP: u64 = 0xfe00;
const MAP_LEN: usize = 0x200;
/// The revisions: SMBASE can be moved (bit 17). That I/O instructions can be restarted (bit 16) is not said, although they
/// can: SeaBIOS takes these two numbers as a whole.
const REVISION_32: u64 = 0x2_0000;
const REVISION_64: u64 = 0x2_0064;
/// What the handler writes to restart an I/O instruction.
const RESTART: u64 = 0xff;
/// All flags that exist.
const FLAGS: u64 = 0x3f_7fd5;

/// Its state besides the registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smm {
    /// The processor is in system management mode.
    pub active: bool,
    /// SMBASE.
    pub base: u32,
    /// An SMI has come meanwhile; a second one changes nothing.
    latched: bool,
    /// NMIs were blocked before.
    nmi_blocked: bool,
    /// The debug traps that were pending before.
    pending_debug: u64,
    /// The I/O instruction that has raised the SMI which waits.
    io: Option<IoAccess>,
}

impl Smm {
    /// Outside of it, with this SMBASE.
    #[must_use]
    pub const fn outside(base: u32) -> Self {
        Self { active: false, base, latched: false, nmi_blocked: false, pending_debug: 0, io: None }
    }
}

/// An access to a port, as the map tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct IoAccess {
    /// The instruction count after it.
    after: u64,
    /// APM 2, 10.3.8: bit 0 IN, 1 valid, 2 string, 3 repeated, 4 to 6 the size in bytes, 16 to 31 the port.
    what: u64,
    /// RIP, RCX, RSI and RDI before it.
    before: [u64; 4],
}

/// What the map holds.
#[derive(Default)]
struct Saved {
    regs: [u64; 16],
    rip: u64,
    flags: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    dr6: u64,
    dr7: u64,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR: selector, attributes, limit, base.
    segments: [[u64; 4]; 8],
    /// Limit and base.
    gdtr: [u64; 2],
    idtr: [u64; 2],
    cpl: u64,
    base: u64,
    revision: u64,
    /// 1: the processor was in HLT; what is there at RSM says whether it is again.
    halt: u64,
    /// [`RESTART`] at RSM: the I/O instruction is to be carried out again.
    restart: u64,
    io: u64,
    before_io: [u64; 4],
}

impl Saved {
    /// Calls `f` with offset (from [`MAP`] on), size and place of each field; `long` picks the map.
    fn walk(&mut self, long: bool, mut f: impl FnMut(usize, usize, &mut u64)) {
        if long { self.walk_64(&mut f) } else { self.walk_32(&mut f) }
    }

    /// APM 2, table 10-1.
    fn walk_64(&mut self, f: &mut impl FnMut(usize, usize, &mut u64)) {
        for (at, segment) in [0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x70, 0x90].into_iter().zip(&mut self.segments) {
            for ((at, size), v) in [(at, 2), (at + 2, 2), (at + 4, 4), (at + 8, 8)].into_iter().zip(segment) {
                f(at, size, v);
            }
        }
        for (at, [limit, base]) in [(0x60, &mut self.gdtr), (0x80, &mut self.idtr)] {
            f(at + 4, 2, limit);
            f(at + 8, 8, base);
        }
        for (n, v) in self.before_io.iter_mut().enumerate() {
            f(0xa0 + 8 * n, 8, v);
        }
        let fields = [
            (0x0c0, 4, &mut self.io),
            (0x0c8, 1, &mut self.restart),
            (0x0c9, 1, &mut self.halt),
            (0x0cb, 1, &mut self.cpl),
            (0x0d0, 8, &mut self.efer),
            (0x0fc, 4, &mut self.revision),
            (0x100, 4, &mut self.base),
            (0x148, 8, &mut self.cr4),
            (0x150, 8, &mut self.cr3),
            (0x158, 8, &mut self.cr0),
            (0x160, 8, &mut self.dr7),
            (0x168, 8, &mut self.dr6),
            (0x170, 8, &mut self.flags),
            (0x178, 8, &mut self.rip),
        ];
        for (at, size, v) in fields {
            f(at, size, v);
        }
        // From R15 down to R8, then in their own order.
        let mut order: Vec<u8> = (8..16).rev().collect();
        order.extend([reg::RDI, reg::RSI, reg::RBP, reg::RSP, reg::RBX, reg::RDX, reg::RCX, reg::RAX]);
        for (n, r) in order.into_iter().enumerate() {
            f(0x180 + 8 * n, 8, &mut self.regs[usize::from(r)]);
        }
    }

    /// SDM 3C, table 31-1.
    fn walk_32(&mut self, f: &mut impl FnMut(usize, usize, &mut u64)) {
        let fields = [
            (0x0f8, &mut self.base),
            (0x0fc, &mut self.revision),
            (0x114, &mut self.cr4),
            (0x118, &mut self.io),
            (0x11c, &mut self.cpl),
            (0x1c8, &mut self.dr7),
            (0x1cc, &mut self.dr6),
            (0x1f0, &mut self.rip),
            (0x1f4, &mut self.flags),
            (0x1f8, &mut self.cr3),
            (0x1fc, &mut self.cr0),
        ];
        for (at, v) in fields {
            f(at, 4, v);
        }
        f(0x100, 2, &mut self.restart);
        f(0x102, 2, &mut self.halt);
        for (at, v) in [0x110, 0x108, 0x104, 0x10c].into_iter().zip(&mut self.before_io) {
            f(at, 4, v);
        }
        for (at, [limit, base]) in [(0x170, &mut self.gdtr), (0x154, &mut self.idtr)] {
            f(at, 4, limit);
            f(at + 4, 4, base);
        }
        let hidden = [0x184, 0x190, 0x19c, 0x12c, 0x138, 0x144, 0x178, 0x15c];
        let selectors = [0x1a8, 0x1ac, 0x1b0, 0x1b4, 0x1b8, 0x1bc, 0x1c0, 0x1c4];
        for ((at, selector), segment) in hidden.into_iter().zip(selectors).zip(&mut self.segments) {
            for (at, v) in [selector, at, at + 4, at + 8].into_iter().zip(segment) {
                f(at, 4, v);
            }
        }
        for n in 0..8 {
            f(0x1d0 + 4 * n, 4, &mut self.regs[n]);
        }
    }
}

impl Cpu {
    /// Tells the board and the caches whether the processor sees what is there in system management mode.
    pub(crate) fn show_smm(&mut self) {
        self.bus.set_smm(self.state.smm.active);
        self.mmu.flush_all();
    }

    /// An SMI was asked for. False if it is kept for later.
    pub(crate) fn smi_due(&mut self) -> bool {
        if self.state.shadow {
            return false;
        }
        self.attention.clear(attention::SMI);
        self.state.smm.latched |= self.state.smm.active;
        !self.state.smm.active
    }

    /// After an access to `width` ports from `port` on by `op` (`what`: bits 0, 2 and 3 of the map's field), whose
    /// registers are still those before it: notes it, if it has raised an SMI.
    pub(super) fn note_io(&mut self, op: &Op, at: u64, port: u16, width: usize, what: u64) {
        if self.attention.bits() & attention::SMI != 0 && !self.state.smm.active {
            let r = &self.state.regs;
            let before = [self.this_rip(op), r[usize::from(reg::RCX)], r[usize::from(reg::RSI)], r[usize::from(reg::RDI)]];
            let what = what | 1 << 1 | (width as u64) << 4 | u64::from(port) << 16;
            self.state.smm.io = Some(IoAccess { after: at + 1, what, before });
        }
    }

    /// Enters system management mode.
    pub(crate) fn enter_smm(&mut self) {
        let mut saved = self.save_all();
        log::debug!("SMI at {:#x}, SMBASE {:#x}", saved.rip, saved.base);
        self.wake();
        let s = &mut self.state;
        s.smm = Smm {
            active: true,
            nmi_blocked: s.nmi_blocked,
            pending_debug: std::mem::take(&mut s.pending_debug),
            ..Smm::outside(s.smm.base)
        };
        s.nmi_blocked = true;
        self.show_smm();
        let mut map = [0; MAP_LEN];
        saved.walk(self.has_long_map(), |at, size, v| map[at..at + size].copy_from_slice(&v.to_le_bytes()[..size]));
        self.store_map(&map);
        self.set_eflags(2);
        let s = &mut self.state;
        s.cr0 &= !(bits::CR0_PE | bits::CR0_EM | bits::CR0_TS | bits::CR0_PG);
        (s.cr4, s.efer, s.dr[7], s.cpl, s.rip) = (0, 0, 0x400, 0, ENTRY);
        for (n, segment) in s.segments.iter_mut().enumerate() {
            let (selector, base) = if n == seg::CS { ((s.smm.base >> 4) as u16, u64::from(s.smm.base)) } else { (0, 0) };
            *segment = Segment { selector, attributes: 0x8093, limit: u32::MAX, base };
            s.bases[n] = base;
        }
        self.update_mode();
        self.update_watches();
    }

    fn has_long_map(&self) -> bool {
        self.model.has(Feature::Lm)
    }

    /// What the map gets.
    fn save_all(&self) -> Saved {
        let s = &self.state;
        let io = s.smm.io.filter(|io| io.after == s.icount).unwrap_or_default();
        let mut regs = [0; 16];
        regs.copy_from_slice(&s.regs[..16]);
        let all: Vec<[u64; 4]> =
            s.segments.iter().chain([&s.ldtr, &s.tr]).map(|s| [s.selector.into(), s.attributes.into(), s.limit.into(), s.base]).collect();
        Saved {
            regs,
            rip: s.rip,
            flags: self.eflags(),
            cr0: s.cr0,
            cr3: s.cr3,
            cr4: s.cr4,
            efer: s.efer,
            dr6: s.dr[6],
            dr7: s.dr[7],
            segments: std::array::from_fn(|n| all[n]),
            gdtr: [s.gdtr.limit.into(), s.gdtr.base],
            idtr: [s.idtr.limit.into(), s.idtr.base],
            cpl: s.cpl.into(),
            base: s.smm.base.into(),
            revision: if self.has_long_map() { REVISION_64 } else { REVISION_32 },
            halt: u64::from(s.halted && !s.monitor.waiting),
            restart: 0,
            io: io.what,
            before_io: io.before,
        }
    }

    /// Leaves system management mode with what the map holds.
    fn leave_smm(&mut self, op: &Op) -> Result<(), Fault> {
        let map = self.load_map();
        let mut saved = Saved::default();
        saved.walk(self.has_long_map(), |at, size, v| {
            let mut bytes = [0; 8];
            bytes[..size].copy_from_slice(&map[at..at + size]);
            *v = u64::from_le_bytes(bytes);
        });
        let Some(mut state) = self.restored(&saved) else {
            let rip = self.this_rip(op);
            self.log_unusual(Level::Warn, "RSM finds a state that cannot be: shutdown", rip);
            self.fault = Reason::Shutdown;
            return Err(Fault);
        };
        log::debug!("RSM to {:#x}, SMBASE {:#x}", saved.rip, saved.base);
        let left = std::mem::replace(&mut state.smm, Smm::outside(saved.base as u32));
        state.nmi_blocked = left.nmi_blocked;
        state.pending_debug = left.pending_debug;
        if left.latched {
            self.attention.raise(attention::SMI);
        }
        self.state = state;
        self.show_smm();
        self.update_mode();
        self.update_watches();
        // A single step in the handler ends with it.
        self.untraced = true;
        Ok(())
    }

    /// The state that RSM leads to; none if the map holds what no processor can be in (SDM 3C, 31.4.1; APM 2, 10.3.5).
    fn restored(&mut self, saved: &Saved) -> Option<State> {
        let cr0 = saved.cr0 & super::control_registers::CR0 | bits::CR0_ET;
        let (pe, pg) = (cr0 & bits::CR0_PE != 0, cr0 & bits::CR0_PG != 0);
        let long = pg && saved.efer & bits::EFER_LME != 0;
        let pae = saved.cr4 & bits::CR4_PAE != 0;
        let cs = Segment { attributes: saved.segments[seg::CS][1] as u16, ..Segment::default() };
        let bad = saved.cr0 >> 32 != 0
            || (pg && !pe)
            || (cr0 & bits::CR0_NW != 0 && cr0 & bits::CR0_CD == 0)
            || saved.cr4 & self.absent_in_cr4() != 0
            || (saved.cr4 & bits::CR4_PCIDE != 0 && !long)
            || saved.efer & !(self.writable_in_efer() | bits::EFER_LMA) != 0
            || (long && (!pae || saved.cr3 & super::control_registers::CR3_RESERVED != 0 || (cs.long() && cs.big())))
            || (saved.dr6 | saved.dr7) >> 32 != 0;
        if bad {
            return None;
        }
        let pointers = if pg && pae && !long { self.directory_pointers(saved.cr3)? } else { self.state.directory_pointers };
        let mut s = self.state.clone();
        s.directory_pointers = pointers;
        s.regs[..16].copy_from_slice(&saved.regs);
        (s.cr0, s.cr3, s.cr4) = (cr0, saved.cr3, saved.cr4);
        s.efer = saved.efer & !bits::EFER_LMA | if long { bits::EFER_LMA } else { 0 };
        (s.dr[6], s.dr[7]) = (saved.dr6, saved.dr7);
        let v86 = pe && !long;
        let flags = saved.flags & FLAGS & if v86 { !0 } else { !flags::VM };
        s.lazy.set_bits(flags);
        s.eflags = flags & !flags::ARITHMETIC | 2;
        s.cpl = if pe { saved.cpl as u8 & 3 } else { 0 };
        let address_bits = if self.model.has(Feature::La57) { 57 } else { 48 };
        let extended = |v: u64| (v as i64) << (64 - address_bits) >> (64 - address_bits);
        for (n, &[selector, attributes, limit, base]) in saved.segments.iter().enumerate() {
            let base = if (seg::ES..=seg::DS).contains(&n) { base & 0xffff_ffff } else { extended(base) as u64 };
            let segment = Segment { selector: selector as u16, attributes: attributes as u16 & 0xf0ff, limit: limit as u32, base };
            match n {
                0..6 => (s.segments[n], s.bases[n]) = (segment, base),
                6 => s.ldtr = segment,
                _ => s.tr = segment,
            }
        }
        let table = |[limit, base]: [u64; 2]| TableRegister { base: extended(base) as u64, limit: limit as u16 };
        (s.gdtr, s.idtr) = (table(saved.gdtr), table(saved.idtr));
        s.rip = saved.rip;
        s.halted = saved.halt & 1 != 0;
        if saved.restart & 0xff == RESTART && saved.io & 1 << 1 != 0 {
            let [rip, rcx, rsi, rdi] = saved.before_io;
            s.rip = rip;
            for (r, v) in [(reg::RCX, rcx), (reg::RSI, rsi), (reg::RDI, rdi)] {
                s.regs[usize::from(r)] = v;
            }
        }
        Some(s)
    }

    /// The place in guest memory of a byte of the map.
    fn map_byte(&mut self, n: usize) -> (u64, PageKind) {
        let mask = PAGE_SIZE as u64 - 1;
        let at = (u64::from(self.state.smm.base) + MAP + n as u64) & 0xffff_ffff;
        (at, self.page_kind(at & !mask))
    }

    fn store_map(&mut self, map: &[u8]) {
        let now = self.state.icount;
        for (n, &byte) in map.iter().enumerate() {
            let (at, kind) = self.map_byte(n);
            match kind {
                PageKind::Memory { offset, writable: true } => {
                    // A page that the map of memory calls so lies within it.
                    let _ = self.memory.write(offset + at % PAGE_SIZE as u64, &[byte]);
                }
                _ => self.bus.write(now, at, 1, byte.into()),
            }
        }
    }

    fn load_map(&mut self) -> [u8; MAP_LEN] {
        let now = self.state.icount;
        let mut map = [0xff; MAP_LEN];
        for (n, byte) in map.iter_mut().enumerate() {
            let (at, kind) = self.map_byte(n);
            match kind {
                PageKind::Memory { offset, .. } => {
                    let _ = self.memory.read(offset + at % PAGE_SIZE as u64, std::slice::from_mut(byte));
                }
                PageKind::Device => *byte = self.bus.read(now, at, 1) as u8,
            }
        }
        map
    }
}

fn rsm(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| if cpu.state.smm.active { cpu.leave_smm(op) } else { Err(cpu.ud()) })
}
