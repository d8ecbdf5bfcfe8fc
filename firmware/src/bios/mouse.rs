//! INT 15h, C2h and INT 74h: the PS/2 mouse.

use super::{Bios, EBDA, Seg, data};

/// The handler is called.
const ON: u8 = 0x80;
const ACKNOWLEDGE: u8 = 0xFA;
/// Ports and bits of the keyboard controller.
const DATA: u16 = 0x60;
const STATUS: u16 = 0x64;
const FULL: u8 = 1;
const FROM_MOUSE: u8 = 0x20;
const COMMAND_BYTE: u8 = 0x20;
const SET_COMMAND_BYTE: u8 = 0x60;
const MOUSE_DISABLE: u8 = 0xA7;
const KEYBOARD_DISABLE: u8 = 0xAD;
const AS_KEYBOARD: u8 = 0xD2;
const TO_MOUSE: u8 = 0xD4;
/// The controller's pause between bytes of a device, and some more.
const ANSWER_NS: u64 = 300_000;
const MOUSE_INTERRUPT: u8 = 2;
const KEYBOARD_INTERRUPT: u8 = 1;
const KEYBOARD_OFF: u8 = 0x10;
const MOUSE_OFF: u8 = 0x20;
/// Sample rates of C202h.
const RATES: [u8; 7] = [10, 20, 40, 60, 80, 100, 200];

impl Bios<'_> {
    /// Keeps keyboard and mouse from sending; the controller's command byte as it was, and the byte of the keyboard that
    /// waited, if one did.
    fn quiet_controller(&mut self) -> (u8, Option<u8>) {
        self.out8(STATUS, KEYBOARD_DISABLE);
        self.out8(STATUS, MOUSE_DISABLE);
        let status = self.in8(STATUS);
        let waiting = (status & FULL != 0).then(|| self.in8(DATA)).filter(|_| status & FROM_MOUSE == 0);
        self.out8(STATUS, COMMAND_BYTE);
        (self.in8(DATA) & !(KEYBOARD_OFF | MOUSE_OFF), waiting)
    }

    /// Lets them send again, and gives the keyboard's byte back.
    fn resume_controller(&mut self, (command, waiting): (u8, Option<u8>)) {
        self.set_controller_command(command);
        if let Some(byte) = waiting {
            self.out8(STATUS, AS_KEYBOARD);
            self.out8(DATA, byte);
        }
    }

    fn set_controller_command(&mut self, value: u8) {
        self.out8(STATUS, SET_COMMAND_BYTE);
        self.out8(DATA, value);
    }

    /// Sends bytes to the mouse, which acknowledges each; what it answers after that. `None` if it does not.
    fn ask_mouse<const N: usize>(&mut self, bytes: &[u8]) -> Option<[u8; N]> {
        let (command, waiting) = self.quiet_controller();
        self.set_controller_command(command & !(MOUSE_INTERRUPT | KEYBOARD_INTERRUPT) | KEYBOARD_OFF);
        let mut answers = [0; N];
        let mut ok = bytes.iter().all(|&byte| {
            self.out8(STATUS, TO_MOUSE);
            self.out8(DATA, byte);
            self.answer() == Some(ACKNOWLEDGE)
        });
        for answer in &mut answers {
            match self.answer() {
                Some(byte) if ok => *answer = byte,
                _ => ok = false,
            }
        }
        self.resume_controller((command, waiting));
        ok.then_some(answers)
    }

    /// What the mouse answers within a while.
    fn answer(&mut self) -> Option<u8> {
        self.host.pause(ANSWER_NS);
        self.mouse_byte()
    }

    /// A byte that the mouse has sent.
    fn mouse_byte(&mut self) -> Option<u8> {
        let status = self.in8(STATUS);
        (status & (FULL | FROM_MOUSE) == FULL | FROM_MOUSE).then(|| self.in8(DATA))
    }

    fn mouse_result(&mut self, code: u8) {
        self.regs.a.set_h(code);
        self.regs.set_carry(code != 0);
    }

    fn set_mouse_on(&mut self, on: bool) -> bool {
        let (command, waiting) = self.quiet_controller();
        let changed = if on { command | MOUSE_INTERRUPT } else { command & !MOUSE_INTERRUPT };
        self.resume_controller((changed, waiting));
        if on {
            self.unmask_second(12);
        }
        let flags = self.get8(EBDA + data::MOUSE_FLAGS) & !ON;
        self.set(EBDA + data::MOUSE_FLAGS, &[if on { ON } else { flags }]);
        self.ask_mouse::<0>(&[if on { 0xF4 } else { 0xF5 }]).is_some()
    }

    /// INT 15h, C2h.
    pub(super) fn mouse(&mut self) {
        /// What the interface could not do.
        const INTERFACE: u8 = 3;
        const BAD_VALUE: u8 = 2;
        let value = self.regs.b.h();
        let ok = match self.regs.a.l() {
            0x00 => {
                if value == 1 && self.get8(EBDA + data::MOUSE_FLAGS2) & ON == 0 {
                    // No handler is there to be called.
                    return self.mouse_result(5);
                }
                value <= 1 && self.set_mouse_on(value == 1)
            }
            0x01 | 0x05 => {
                if self.regs.a.l() == 5 {
                    if !(1..=8).contains(&value) {
                        return self.mouse_result(BAD_VALUE);
                    }
                    let flags = self.get8(EBDA + data::MOUSE_FLAGS2) & ON;
                    self.set(EBDA + data::MOUSE_FLAGS2, &[flags | (value - 1)]);
                }
                self.set(EBDA + data::MOUSE_FLAGS, &[0]);
                let answer = self.ask_mouse::<2>(&[0xFF]);
                self.regs.b.set_x(0x00AA);
                answer.is_some()
            }
            0x02 => match RATES.get(usize::from(value)) {
                Some(&rate) => self.ask_mouse::<0>(&[0xF3, rate]).is_some(),
                None => return self.mouse_result(BAD_VALUE),
            },
            0x03 if value <= 3 => self.ask_mouse::<0>(&[0xE8, value]).is_some(),
            0x03 => return self.mouse_result(BAD_VALUE),
            0x04 => {
                let answer = self.ask_mouse::<1>(&[0xF2]);
                self.regs.b.set_h(answer.map_or(0, |[id]| id));
                answer.is_some()
            }
            0x06 => match value {
                0 => match self.ask_mouse::<3>(&[0xE9]) {
                    Some([status, resolution, rate]) => {
                        self.regs.b.set_l(status);
                        self.regs.c.set_l(resolution);
                        self.regs.d.set_l(rate);
                        true
                    }
                    None => false,
                },
                1 | 2 => self.ask_mouse::<0>(&[0xE5 + value]).is_some(),
                _ => return self.mouse_result(BAD_VALUE),
            },
            0x07 => {
                let (offset, segment) = (self.regs.b.x(), self.regs.es.selector);
                self.set(EBDA + data::MOUSE_HANDLER, &[offset.to_le_bytes(), segment.to_le_bytes()].concat());
                let flags = self.get8(EBDA + data::MOUSE_FLAGS2) & !ON;
                let set = (offset, segment) != (0, 0);
                self.set(EBDA + data::MOUSE_FLAGS2, &[if set { flags | ON } else { flags }]);
                set || self.set_mouse_on(false)
            }
            _ => return self.mouse_result(1),
        };
        self.mouse_result(if ok { 0 } else { INTERFACE });
    }

    /// INT 74h: a byte of a packet. Carry asks for the program's handler, with status, X, Y and Z in AX, BX, CX, DX.
    pub(super) fn mouse_interrupt(&mut self) {
        self.regs.set_carry(false);
        let Some(byte) = self.mouse_byte() else { return };
        let flags = self.get8(EBDA + data::MOUSE_FLAGS);
        let flags2 = self.get8(EBDA + data::MOUSE_FLAGS2);
        if flags & ON == 0 || flags2 & ON == 0 {
            return;
        }
        let n = flags & 7;
        self.set(EBDA + data::MOUSE_PACKET + u32::from(n), &[byte]);
        let last = (flags2 & 7).max(2);
        if n < last {
            self.set(EBDA + data::MOUSE_FLAGS, &[flags + 1]);
            return;
        }
        self.set(EBDA + data::MOUSE_FLAGS, &[flags & !7]);
        let [status, x, y, z] = self.array(EBDA + data::MOUSE_PACKET);
        self.regs.a.set_x(status.into());
        self.regs.b.set_x(x.into());
        self.regs.c.set_x(y.into());
        self.regs.d.set_x(if last >= 3 { z.into() } else { 0 });
        self.regs.es = Seg::real(Self::ebda_segment());
        self.regs.set_carry(true);
    }
}
