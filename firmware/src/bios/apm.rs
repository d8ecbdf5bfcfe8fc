//! INT 15h, 53h: Advanced Power Management (APM BIOS Interface Specification 1.2), by INT 15h and by the entry points for
//! 16- and 32-bit protected mode. There is no battery and no event; what it can do is to idle and to switch the machine off.

use super::rom::{SEGMENT, rom};
use super::{Bios, Outcome};
use crate::layout::{PM1A_CNT_PORT, SLP_TYP_S5};

/// AX of the call by which a program says that it is idle. The ROM halts on it.
pub const IDLE: u16 = 0x5305;
/// "PM".
const SIGNATURE: u16 = 0x504D;
/// Version 1.2, as BCD.
const VERSION: u16 = 0x0102;
/// The 16- and the 32-bit interface exist; idling halts the processor until an interrupt.
const FLAGS: u16 = 0x0003;
/// Device identifiers: the BIOS itself, and all devices whose power is managed.
const BIOS: u16 = 0x0000;
const ALL: u16 = 0x0001;
const OFF: u16 = 3;
/// PM1 control: where SLP_TYP is, and SLP_EN (ACPI 6.5, 4.8.3.2.1).
const SLEEP_TYPE: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// Errors, in AH.
mod error {
    pub const DEVICE: u8 = 0x09;
    pub const PARAMETER: u8 = 0x0A;
    pub const NO_FUNCTION: u8 = 0x0C;
    pub const NO_EVENT: u8 = 0x80;
}

impl Bios<'_> {
    /// INT 15h, 53h.
    pub(super) fn apm_interrupt(&mut self) -> Outcome {
        if self.regs.a.x() == IDLE {
            return Outcome::Wait;
        }
        self.apm();
        Outcome::Return
    }

    /// A function of the interface, AL.
    pub(super) fn apm(&mut self) {
        let done = self.apm_function();
        if let Err(code) = done {
            self.regs.a.set_h(code);
        }
        self.regs.set_carry(done.is_err());
    }

    fn apm_function(&mut self) -> Result<(), u8> {
        let (function, device) = (self.regs.a.l(), self.regs.b.x());
        // Installation, connections: of the BIOS alone.
        if function <= 0x04 && device != BIOS {
            return Err(error::DEVICE);
        }
        match function {
            0x00 => {
                self.regs.a.set_x(VERSION);
                self.regs.b.set_x(SIGNATURE);
                self.regs.c.set_x(FLAGS);
            }
            0x01 | 0x04 => self.regs.a.set_h(0),
            // Code and data of the protected-mode interfaces are this segment.
            0x02 => {
                self.regs.a.set_x(SEGMENT);
                self.regs.b.set_x(rom().apm.0);
                self.regs.c.set_x(SEGMENT);
                self.regs.si.set_x(0xFFFF);
                self.regs.di.set_x(0xFFFF);
            }
            0x03 => {
                self.regs.a.set_x(SEGMENT);
                self.regs.b.0 = u32::from(rom().apm.1);
                self.regs.c.set_x(SEGMENT);
                self.regs.d.set_x(SEGMENT);
                self.regs.si.0 = 0xFFFF_FFFF;
                self.regs.di.set_x(0xFFFF);
            }
            // Idle: the ROM has halted already. Busy.
            0x05 | 0x06 => self.regs.a.set_h(0),
            0x07 => match (device, self.regs.c.x()) {
                (ALL, OFF) => {
                    log::info!(target: "bios", "APM: off");
                    self.host.port_out(PM1A_CNT_PORT, 2, (u16::from(SLP_TYP_S5) << SLEEP_TYPE | SLEEP_ENABLE).into());
                }
                // Ready, stand-by, suspend: nothing sleeps, so all is awake again at once.
                (ALL, 0..OFF) => self.regs.a.set_h(0),
                (ALL, _) => return Err(error::PARAMETER),
                _ => return Err(error::DEVICE),
            },
            // Enable, defaults, engage.
            0x08 | 0x09 | 0x0D | 0x0F if matches!(device, ALL | 0xFFFF) => self.regs.a.set_h(0),
            0x0A if device == ALL => {
                // On line, no battery: state, how full, how long unknown.
                self.regs.b.set_x(0x01FF);
                self.regs.c.set_x(0x80FF);
                self.regs.d.set_x(0xFFFF);
                self.regs.a.set_h(0);
            }
            0x0B => return Err(error::NO_EVENT),
            // On, enabled, engaged.
            0x0C if device == ALL => self.regs.c.set_x(0),
            0x0E if device == BIOS => self.regs.a.set_x(VERSION),
            0x10 if device == BIOS => {
                self.regs.b.set_x(0);
                self.regs.c.set_x(0);
                self.regs.a.set_h(0);
            }
            0x08..=0x0A | 0x0C..=0x10 => return Err(error::DEVICE),
            _ => {
                log::debug!(target: "bios", "APM has no function {function:02X}h");
                return Err(error::NO_FUNCTION);
            }
        }
        Ok(())
    }
}
