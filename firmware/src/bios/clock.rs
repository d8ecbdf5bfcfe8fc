//! The timer tick, the time of day, and the clock's interrupt.

use super::{Bios, EBDA, data};

/// Ticks of the timer in a day.
const DAY: u32 = 0x18_00B0;
/// Microseconds between periodic interrupts of the clock.
const PERIOD: u32 = 976;
/// Registers of the clock.
const A: u8 = 0x0A;
const B: u8 = 0x0B;
const C: u8 = 0x0C;
/// Bits of B and C.
const SET: u8 = 0x80;
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;

fn from_bcd(bcd: u8) -> u32 {
    u32::from(bcd >> 4) * 10 + u32::from(bcd & 15)
}

impl Bios<'_> {
    pub(super) fn cmos(&mut self, register: u8) -> u8 {
        self.out8(0x70, register);
        self.in8(0x71)
    }
    fn set_cmos(&mut self, register: u8, value: u8) {
        self.out_indexed(0x70, register, value);
    }

    /// Sets the tick count from the clock.
    pub(super) fn start_clock(&mut self) {
        let [hours, minutes, seconds] = [4, 2, 0].map(|register| self.cmos(register)).map(from_bcd);
        let seconds = u64::from((hours * 60 + minutes) * 60 + seconds);
        let ticks = (seconds * u64::from(DAY) / 86_400) as u32;
        self.set(super::BDA + data::TICKS, &ticks.min(DAY - 1).to_le_bytes());
    }

    /// INT 08h.
    pub(super) fn tick(&mut self) {
        let ticks = self.get32(super::BDA + data::TICKS).wrapping_add(1);
        let midnight = ticks >= DAY;
        self.set(super::BDA + data::TICKS, &(if midnight { 0 } else { ticks }).to_le_bytes());
        if midnight {
            let days = self.bda8(data::MIDNIGHTS);
            self.set_bda8(data::MIDNIGHTS, days.wrapping_add(1));
        }
        let motor = self.bda8(data::MOTOR_TICKS);
        if motor > 0 {
            self.set_bda8(data::MOTOR_TICKS, motor - 1);
        }
    }

    /// INT 1Ah.
    pub(super) fn time(&mut self) {
        self.regs.set_carry(false);
        match self.regs.a.h() {
            0x00 => {
                let [low, high] = [data::TICKS, data::TICKS + 2].map(|at| self.bda16(at));
                self.regs.c.set_x(high);
                self.regs.d.set_x(low);
                let days = self.bda8(data::MIDNIGHTS);
                self.regs.a.set_l(days);
                self.set_bda8(data::MIDNIGHTS, 0);
            }
            0x01 => {
                self.set_bda16(data::TICKS, self.regs.d.x());
                self.set_bda16(data::TICKS + 2, self.regs.c.x());
                self.set_bda8(data::MIDNIGHTS, 0);
            }
            0x02 => {
                let [seconds, minutes, hours, b] = [0, 2, 4, B].map(|register| self.cmos(register));
                self.regs.c.set_x(u16::from(hours) << 8 | u16::from(minutes));
                self.regs.d.set_x(u16::from(seconds) << 8 | u16::from(b & 1));
            }
            0x03 => {
                let b = self.cmos(B);
                self.set_cmos(B, b | SET);
                let registers = [(0, self.regs.d.h()), (2, self.regs.c.l()), (4, self.regs.c.h())];
                registers.into_iter().for_each(|(register, value)| self.set_cmos(register, value));
                self.set_cmos(B, b & !(SET | 1) | self.regs.d.l() & 1);
            }
            0x04 => {
                let [day, month, year, century] = [7, 8, 9, 0x32].map(|register| self.cmos(register));
                self.regs.c.set_x(u16::from(century) << 8 | u16::from(year));
                self.regs.d.set_x(u16::from(month) << 8 | u16::from(day));
            }
            0x05 => {
                let b = self.cmos(B);
                self.set_cmos(B, b | SET);
                let registers = [(7, self.regs.d.l()), (8, self.regs.d.h()), (9, self.regs.c.l()), (0x32, self.regs.c.h())];
                registers.into_iter().for_each(|(register, value)| self.set_cmos(register, value));
                self.set_cmos(B, b & !SET);
            }
            0x06 => {
                let b = self.cmos(B);
                if b & ALARM != 0 {
                    self.regs.set_carry(true);
                    return;
                }
                let registers = [(1, self.regs.d.h()), (3, self.regs.c.l()), (5, self.regs.c.h())];
                registers.into_iter().for_each(|(register, value)| self.set_cmos(register, value));
                self.set_cmos(B, b | ALARM);
                self.unmask_second(8);
            }
            0x07 => {
                let b = self.cmos(B);
                self.set_cmos(B, b & !ALARM);
            }
            0xB1 => self.pci(),
            _ => self.unsupported(),
        }
    }

    /// Starts a wait of `micros` microseconds, at whose end bit 7 of the byte at `segment`:`offset` is set. False if one is
    /// under way.
    pub(super) fn start_wait(&mut self, segment: u16, offset: u16, micros: u32) -> bool {
        if self.bda8(data::WAIT_ACTIVE) & 1 != 0 {
            return false;
        }
        self.set_bda8(data::WAIT_ACTIVE, 1);
        self.set_bda16(data::WAIT_FLAG, offset);
        self.set_bda16(data::WAIT_FLAG + 2, segment);
        self.set(super::BDA + data::WAIT_COUNT, &micros.to_le_bytes());
        self.set_cmos(A, 0x26);
        let b = self.cmos(B);
        self.set_cmos(B, b | PERIODIC);
        // What was pending before is no part of this wait.
        self.cmos(C);
        self.unmask_second(8);
        true
    }

    /// Ends a wait.
    pub(super) fn cancel_wait(&mut self) {
        let b = self.cmos(B);
        self.set_cmos(B, b & !PERIODIC);
        self.set_bda8(data::WAIT_ACTIVE, 0);
    }

    /// INT 70h: carry if the alarm has come.
    pub(super) fn clock_interrupt(&mut self) {
        let (c, b) = (self.cmos(C), self.cmos(B));
        if c & b & PERIODIC != 0 && self.bda8(data::WAIT_ACTIVE) & 1 != 0 {
            let left = self.get32(super::BDA + data::WAIT_COUNT);
            self.set(super::BDA + data::WAIT_COUNT, &left.saturating_sub(PERIOD).to_le_bytes());
            if left <= PERIOD {
                let [offset, segment] = [data::WAIT_FLAG, data::WAIT_FLAG + 2].map(|at| self.bda16(at));
                let flag = super::Seg::real(segment).at(offset);
                self.cancel_wait();
                let old = self.get8(flag);
                self.set(flag, &[old | 0x80]);
            }
        }
        self.regs.set_carry(c & b & ALARM != 0);
    }

    /// The EBDA's segment.
    pub(super) fn ebda_segment() -> u16 {
        (EBDA >> 4) as u16
    }
}
