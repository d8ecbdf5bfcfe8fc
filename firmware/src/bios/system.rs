//! INT 11h, 12h and 15h: what the board has, memory, waits.

use super::rom::{SEGMENT, at};
use super::{Bios, Outcome, data};
use crate::layout::{E820Entry, EBDA_BASE};

/// "SMAP".
const SMAP: u32 = 0x534D_4150;
/// Bit 1 of system control port A.
const A20: u8 = 2;
const PORT_A: u16 = 0x92;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const WAIT_OVER: u8 = 0x80;
/// The most that INT 15h, 87h moves: 64 KiB.
const MOST_WORDS: u16 = 0x8000;

impl Bios<'_> {
    /// INT 11h.
    pub(super) fn equipment(&mut self) {
        let equipment = self.bda16(data::EQUIPMENT);
        self.regs.a.set_x(equipment);
    }

    /// INT 12h.
    pub(super) fn memory_size(&mut self) {
        let size = self.bda16(data::MEMORY_KIB);
        self.regs.a.set_x(size);
    }

    /// KiB of RAM between 1 MiB and 16 MiB, and 64-KiB blocks above.
    fn extended(&self) -> (u16, u16) {
        let low = self.host.layout().low();
        (low.saturating_sub(MIB).min(15 * MIB).div_euclid(KIB) as u16, (low.saturating_sub(16 * MIB) >> 16).min(0xFFFF) as u16)
    }

    fn done(&mut self) {
        self.regs.a.set_h(0);
        self.regs.set_carry(false);
    }

    /// INT 15h.
    pub(super) fn system(&mut self) -> Outcome {
        let (function, sub) = (self.regs.a.h(), self.regs.a.l());
        match (function, sub) {
            (0x24, _) => self.a20(sub),
            // The key goes on as it is.
            (0x4F, _) => self.regs.set_carry(true),
            (0x53, _) => return self.apm_interrupt(),
            // Programs say that they wait or begin; nobody does something meanwhile.
            (0x80..=0x82 | 0x85 | 0x90 | 0x91, _) => self.done(),
            (0x83, 0) => {
                let micros = u32::from(self.regs.c.x()) << 16 | u32::from(self.regs.d.x());
                let (es, bx) = (self.regs.es.selector, self.regs.b.x());
                let started = self.start_wait(es, bx, micros);
                self.wait_started(started);
            }
            (0x83, 1) => {
                self.cancel_wait();
                self.done();
            }
            (0x86, _) => {
                let micros = u32::from(self.regs.c.x()) << 16 | u32::from(self.regs.d.x());
                let started = self.start_wait((super::BDA >> 4) as u16, data::WAIT_ACTIVE as u16, micros);
                self.wait_started(started);
                if started {
                    return Outcome::Wait;
                }
            }
            (0x87, _) => self.move_block(),
            (0x88, _) => {
                let (kib, blocks) = self.extended();
                // All of it, as far as 16 bits reach.
                self.done();
                self.regs.a.set_x((u32::from(kib) + u32::from(blocks) * 64).min(0xFFFF) as u16);
            }
            (0xC0, _) => {
                self.done();
                self.set_es_bx(SEGMENT, at::CONFIGURATION);
            }
            (0xC1, _) => {
                self.done();
                self.regs.es = super::Seg::real((EBDA_BASE >> 4) as u16);
            }
            (0xC2, _) => self.mouse(),
            (0xE8, 0x01 | 0x81) => {
                let (kib, blocks) = self.extended();
                for register in [&mut self.regs.a, &mut self.regs.c] {
                    if sub == 1 { register.set_x(kib) } else { register.0 = kib.into() }
                }
                for register in [&mut self.regs.b, &mut self.regs.d] {
                    if sub == 1 { register.set_x(blocks) } else { register.0 = blocks.into() }
                }
                self.regs.set_carry(false);
            }
            (0xE8, 0x20) => self.memory_map(),
            _ => self.unsupported(),
        }
        Outcome::Return
    }

    fn wait_started(&mut self, started: bool) {
        if started {
            self.done();
        } else {
            self.regs.a.set_h(0x83);
            self.regs.set_carry(true);
        }
    }

    /// INT 15h, 86h after an interrupt.
    pub(super) fn wait_on(&mut self) -> Outcome {
        if self.bda8(data::WAIT_ACTIVE) & WAIT_OVER == 0 {
            return Outcome::Wait;
        }
        self.set_bda8(data::WAIT_ACTIVE, 0);
        self.done();
        Outcome::Return
    }

    fn set_es_bx(&mut self, segment: u16, offset: u16) {
        self.regs.es = super::Seg::real(segment);
        self.regs.b.set_x(offset);
    }

    /// The A20 gate.
    fn a20(&mut self, function: u8) {
        let port = self.in8(PORT_A);
        match function {
            0 => self.out8(PORT_A, port & !(A20 | 1)),
            1 => self.out8(PORT_A, port & !1 | A20),
            2 => self.regs.a.set_l(u8::from(port & A20 != 0)),
            // The keyboard controller and port 92h.
            3 => self.regs.b.set_x(3),
            _ => return self.unsupported(),
        }
        self.done();
    }

    /// E820h: the map, an entry a call.
    fn memory_map(&mut self) {
        if self.regs.d.0 != SMAP {
            return self.unsupported();
        }
        let map = self.host.layout().e820();
        let n = self.regs.b.0 as usize;
        let Some(&E820Entry { base, len, kind }) = map.get(n) else {
            self.regs.set_carry(true);
            return;
        };
        let entry = [&base.to_le_bytes()[..], &len.to_le_bytes(), &(kind as u32).to_le_bytes()].concat();
        let to = self.regs.es.at(self.regs.di.x());
        let size = self.regs.c.0.min(entry.len() as u32);
        if size < entry.len() as u32 {
            return self.unsupported();
        }
        self.set(to, &entry);
        self.regs.a.0 = SMAP;
        self.regs.b.0 = if n + 1 < map.len() { n as u32 + 1 } else { 0 };
        self.regs.c.0 = size;
        self.regs.set_carry(false);
    }

    /// 87h: moves CX words by the physical addresses in the third and fourth descriptor of the table at ES:SI.
    fn move_block(&mut self) {
        let words = self.regs.c.x();
        if words > MOST_WORDS {
            self.regs.a.set_h(2);
            self.regs.set_carry(true);
            return;
        }
        let table = self.regs.es.at(self.regs.si.x());
        let mut base = |n: u32| {
            let d: [u8; 8] = self.array(table.wrapping_add(8 * n));
            u64::from(u32::from_le_bytes([d[2], d[3], d[4], d[7]]))
        };
        let (from, to) = (base(2), base(3));
        let mut bytes = vec![0; usize::from(words) * 2];
        self.host.read_physical(from, &mut bytes);
        self.host.write_physical(to, &bytes);
        self.done();
    }
}
