//! INT 14h and INT 17h: serial and parallel ports.

use super::Bios;

/// Offsets of a 16550's registers.
const DATA: u16 = 0;
const IER: u16 = 1;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const DATA_READY: u8 = 0x01;
const HOLDING_EMPTY: u8 = 0x20;
const TIME_OUT: u8 = 0x80;
/// Divisors of 115,200 baud for 110 to 9600 baud.
const DIVISORS: [u16; 8] = [1047, 768, 384, 192, 96, 48, 24, 12];

impl Bios<'_> {
    /// INT 14h. What a port cannot do at once ends as a time-out.
    pub(super) fn serial(&mut self) {
        let n = self.regs.d.x();
        let port = if n < 4 { self.bda16(u32::from(n) * 2) } else { 0 };
        if port == 0 {
            self.regs.a.set_h(TIME_OUT);
            return;
        }
        match self.regs.a.h() {
            0 => {
                let parameters = self.regs.a.l();
                self.out8(port + LCR, 0x80);
                let [low, high] = DIVISORS[usize::from(parameters >> 5)].to_le_bytes();
                self.out8(port + DATA, low);
                self.out8(port + IER, high);
                self.out8(port + LCR, parameters & 0x1F);
                self.out8(port + IER, 0);
                self.serial_status(port);
            }
            1 => {
                self.out8(port + MCR, 3);
                let status = self.in8(port + LSR);
                if status & HOLDING_EMPTY != 0 {
                    self.out8(port + DATA, self.regs.a.l());
                    self.regs.a.set_h(status & !TIME_OUT);
                } else {
                    self.regs.a.set_h(status | TIME_OUT);
                }
            }
            2 => {
                self.out8(port + MCR, 1);
                let status = self.in8(port + LSR);
                if status & DATA_READY != 0 {
                    let byte = self.in8(port + DATA);
                    self.regs.a.set_x(u16::from(status & 0x1E) << 8 | u16::from(byte));
                } else {
                    self.regs.a.set_h(status | TIME_OUT);
                }
            }
            3 => self.serial_status(port),
            _ => self.unsupported(),
        }
    }

    fn serial_status(&mut self, port: u16) {
        let (line, modem) = (self.in8(port + LSR), self.in8(port + MSR));
        self.regs.a.set_x(u16::from(line & !TIME_OUT) << 8 | u16::from(modem));
    }

    /// INT 17h: there is no printer.
    pub(super) fn printer(&mut self) {
        self.regs.a.set_h(0x01);
    }
}
