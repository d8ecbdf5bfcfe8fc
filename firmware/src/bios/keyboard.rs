//! The keyboard: INT 09h turns scan codes into keys in the type-ahead buffer, INT 16h hands them out.

use super::{Bios, Outcome, data};

/// Bits of [`data::SHIFT`].
mod shift {
    pub const RIGHT: u8 = 1 << 0;
    pub const LEFT: u8 = 1 << 1;
    pub const CTRL: u8 = 1 << 2;
    pub const ALT: u8 = 1 << 3;
    pub const SCROLL_LOCK: u8 = 1 << 4;
    pub const NUM_LOCK: u8 = 1 << 5;
    pub const CAPS_LOCK: u8 = 1 << 6;
    pub const INSERT: u8 = 1 << 7;
}
/// Bits of [`data::SHIFT_DOWN`].
mod down {
    pub const LEFT_CTRL: u8 = 1 << 0;
    pub const LEFT_ALT: u8 = 1 << 1;
    pub const PAUSED: u8 = 1 << 3;
}
/// Bits of [`data::KEYBOARD_MODE`].
mod mode {
    pub const E1: u8 = 1 << 0;
    pub const E0: u8 = 1 << 1;
    pub const RIGHT_CTRL: u8 = 1 << 2;
    pub const RIGHT_ALT: u8 = 1 << 3;
}

const BREAK: u8 = 0x80;
/// What marks a key that the first keyboards did not have.
const EXTENDED: u8 = 0xE0;
const NONE: u16 = 0;
/// More than the buffer holds.
const MOST_KEYS: u32 = 128;

/// What a key gives: plain, with Shift, with Ctrl, with Alt; scan code in the high byte, character in the low one.
type Key = [u16; 4];

/// The keys by scan code from 01h to 39h. A zero gives nothing.
#[rustfmt::skip]
const KEYS: [Key; 0x39] = [
    [0x011B, 0x011B, 0x011B, 0x0100],
    [0x0231, 0x0221, NONE,   0x7800], [0x0332, 0x0340, 0x0300, 0x7900], [0x0433, 0x0423, NONE,   0x7A00],
    [0x0534, 0x0524, NONE,   0x7B00], [0x0635, 0x0625, NONE,   0x7C00], [0x0736, 0x075E, 0x071E, 0x7D00],
    [0x0837, 0x0826, NONE,   0x7E00], [0x0938, 0x092A, NONE,   0x7F00], [0x0A39, 0x0A28, NONE,   0x8000],
    [0x0B30, 0x0B29, NONE,   0x8100], [0x0C2D, 0x0C5F, 0x0C1F, 0x8200], [0x0D3D, 0x0D2B, NONE,   0x8300],
    [0x0E08, 0x0E08, 0x0E7F, 0x0E00], [0x0F09, 0x0F00, 0x9400, 0xA500],
    [0x1071, 0x1051, 0x1011, 0x1000], [0x1177, 0x1157, 0x1117, 0x1100], [0x1265, 0x1245, 0x1205, 0x1200],
    [0x1372, 0x1352, 0x1312, 0x1300], [0x1474, 0x1454, 0x1414, 0x1400], [0x1579, 0x1559, 0x1519, 0x1500],
    [0x1675, 0x1655, 0x1615, 0x1600], [0x1769, 0x1749, 0x1709, 0x1700], [0x186F, 0x184F, 0x180F, 0x1800],
    [0x1970, 0x1950, 0x1910, 0x1900], [0x1A5B, 0x1A7B, 0x1A1B, 0x1A00], [0x1B5D, 0x1B7D, 0x1B1D, 0x1B00],
    [0x1C0D, 0x1C0D, 0x1C0A, 0x1C00], [NONE; 4],
    [0x1E61, 0x1E41, 0x1E01, 0x1E00], [0x1F73, 0x1F53, 0x1F13, 0x1F00], [0x2064, 0x2044, 0x2004, 0x2000],
    [0x2166, 0x2146, 0x2106, 0x2100], [0x2267, 0x2247, 0x2207, 0x2200], [0x2368, 0x2348, 0x2308, 0x2300],
    [0x246A, 0x244A, 0x240A, 0x2400], [0x256B, 0x254B, 0x250B, 0x2500], [0x266C, 0x264C, 0x260C, 0x2600],
    [0x273B, 0x273A, NONE,   0x2700], [0x2827, 0x2822, NONE,   0x2800], [0x2960, 0x297E, NONE,   0x2900],
    [NONE; 4],
    [0x2B5C, 0x2B7C, 0x2B1C, 0x2B00],
    [0x2C7A, 0x2C5A, 0x2C1A, 0x2C00], [0x2D78, 0x2D58, 0x2D18, 0x2D00], [0x2E63, 0x2E43, 0x2E03, 0x2E00],
    [0x2F76, 0x2F56, 0x2F16, 0x2F00], [0x3062, 0x3042, 0x3002, 0x3000], [0x316E, 0x314E, 0x310E, 0x3100],
    [0x326D, 0x324D, 0x320D, 0x3200], [0x332C, 0x333C, NONE,   0x3300], [0x342E, 0x343E, NONE,   0x3400],
    [0x352F, 0x353F, NONE,   0x3500], [NONE; 4],
    [0x372A, 0x372A, 0x9600, 0x3700], [NONE; 4], [0x3920, 0x3920, 0x3920, 0x3920],
];

/// The keypad from 47h to 53h: plain, as a number, with Ctrl.
#[rustfmt::skip]
const KEYPAD: [[u16; 3]; 13] = [
    [0x4700, 0x4737, 0x7700], [0x4800, 0x4838, 0x8D00], [0x4900, 0x4939, 0x8400], [0x4A2D, 0x4A2D, 0x8E00],
    [0x4B00, 0x4B34, 0x7300], [0x4C00, 0x4C35, 0x8F00], [0x4D00, 0x4D36, 0x7400], [0x4E2B, 0x4E2B, 0x9000],
    [0x4F00, 0x4F31, 0x7500], [0x5000, 0x5032, 0x9100], [0x5100, 0x5133, 0x7600], [0x5200, 0x5230, 0x9200],
    [0x5300, 0x532E, 0x9300],
];

/// What a key with the prefix E0 gives.
fn extended(code: u8, state: u8) -> u16 {
    let (ctrl, alt) = (state & shift::CTRL != 0, state & shift::ALT != 0);
    match code {
        0x1C if alt => 0xA600,
        0x1C if ctrl => 0xE00A,
        0x1C => 0xE00D,
        0x35 if alt => 0xA400,
        0x35 if ctrl => 0x9500,
        0x35 => 0xE02F,
        0x47..=0x53 => {
            let [plain, _, with_ctrl] = KEYPAD[usize::from(code - 0x47)];
            if alt {
                return (u16::from(code) + 0x50) << 8;
            }
            (if ctrl { with_ctrl } else { plain & 0xFF00 }) | u16::from(EXTENDED)
        }
        _ => NONE,
    }
}

/// What a key without a prefix gives.
fn plain(code: u8, state: u8) -> u16 {
    let (ctrl, alt) = (state & shift::CTRL != 0, state & shift::ALT != 0);
    let shifted = state & (shift::LEFT | shift::RIGHT) != 0;
    let column = |shifted| {
        if alt {
            3
        } else if ctrl {
            2
        } else {
            usize::from(shifted)
        }
    };
    match code {
        0x01..=0x39 => {
            let key = KEYS[usize::from(code) - 1];
            let letter = (key[0] as u8).is_ascii_lowercase() && state & shift::CAPS_LOCK != 0;
            key[column(shifted != letter)]
        }
        // F1 to F10, F11 and F12.
        0x3B..=0x44 => [u16::from(code), u16::from(code) + 0x19, u16::from(code) + 0x23, u16::from(code) + 0x2D][column(shifted)] << 8,
        0x57 | 0x58 => (u16::from(code - 0x57) + [0x85, 0x87, 0x89, 0x8B][column(shifted)]) << 8,
        0x47..=0x53 => {
            let number = shifted != (state & shift::NUM_LOCK != 0);
            match (code, alt) {
                (0x4A | 0x4E, true) => u16::from(code) << 8,
                (_, true) => NONE,
                _ => KEYPAD[usize::from(code - 0x47)][if ctrl { 2 } else { usize::from(number) }],
            }
        }
        // The key beside the left Shift of European keyboards.
        0x56 => [0x565C, 0x567C, NONE, NONE][column(shifted)],
        _ => NONE,
    }
}

impl Bios<'_> {
    /// INT 09h with a scan code in AL. Carry asks for INT 1Bh.
    pub(super) fn key(&mut self) {
        self.regs.set_carry(false);
        let code = self.regs.a.l();
        let modes = self.bda8(data::KEYBOARD_MODE);
        match code {
            0xE0 => return self.set_bda8(data::KEYBOARD_MODE, modes | mode::E0),
            0xE1 => return self.set_bda8(data::KEYBOARD_MODE, modes | mode::E1),
            // Answers of the keyboard.
            0xFA | 0xFE | 0xAA if modes & (mode::E0 | mode::E1) == 0 && code != 0xAA => return,
            _ => {}
        }
        let prefixed = modes & mode::E0 != 0;
        if modes & mode::E1 != 0 {
            // Pause: E1 1D 45 E1 9D C5. What follows 1D comes without a prefix.
            if code & !BREAK != 0x1D {
                self.set_bda8(data::KEYBOARD_MODE, modes & !mode::E1);
            }
            return;
        }
        self.set_bda8(data::KEYBOARD_MODE, modes & !mode::E0);
        let pressed = code & BREAK == 0;
        let key = code & !BREAK;
        if self.shift_key(key, pressed, prefixed) || !pressed {
            return;
        }
        let state = self.bda8(data::SHIFT);
        let both = shift::CTRL | shift::ALT;
        match (key, state & both) {
            // Ctrl-Alt-Del.
            (0x53, s) if s == both => {
                self.set_bda16(data::WARM_START, 0x1234);
                self.host.port_out(crate::layout::RESET_PORT, 1, crate::layout::RESET_VALUE.into());
            }
            // Ctrl-Break.
            (0x46, shift::CTRL) if prefixed => {
                self.set_bda8(data::BREAK, 0x80);
                let start = self.bda16(data::KEY_START);
                self.set_bda16(data::KEY_HEAD, start);
                self.set_bda16(data::KEY_TAIL, start);
                self.put_key(0);
                self.regs.set_carry(true);
            }
            // Digits of the keypad with Alt make up a character.
            (0x47..=0x52, shift::ALT) if !prefixed && plain(key, shift::NUM_LOCK) as u8 >= b'0' => {
                let digit = plain(key, shift::NUM_LOCK) as u8 - b'0';
                let number = self.bda8(data::ALT_DIGITS).wrapping_mul(10).wrapping_add(digit);
                self.set_bda8(data::ALT_DIGITS, number);
            }
            _ => {
                let what = if prefixed { extended(key, state) } else { plain(key, state) };
                if what != NONE {
                    self.put_key(what);
                }
            }
        }
    }

    /// Notes a key that changes what others mean. False if it is none.
    fn shift_key(&mut self, key: u8, pressed: bool, prefixed: bool) -> bool {
        let assign = |byte: u8, bit: u8, on: bool| if on { byte | bit } else { byte & !bit };
        let state = self.bda8(data::SHIFT);
        let held = self.bda8(data::SHIFT_DOWN);
        let modes = self.bda8(data::KEYBOARD_MODE);
        match key {
            // Prefixed shifts come with keys that cancel Num Lock.
            0x2A | 0x36 if prefixed => {}
            0x2A => self.set_bda8(data::SHIFT, assign(state, shift::LEFT, pressed)),
            0x36 => self.set_bda8(data::SHIFT, assign(state, shift::RIGHT, pressed)),
            0x1D | 0x38 => {
                let ctrl = key == 0x1D;
                let (left, right, bit) =
                    if ctrl { (down::LEFT_CTRL, mode::RIGHT_CTRL, shift::CTRL) } else { (down::LEFT_ALT, mode::RIGHT_ALT, shift::ALT) };
                let held = if prefixed { held } else { assign(held, left, pressed) };
                let modes = if prefixed { assign(modes, right, pressed) } else { modes };
                self.set_bda8(data::SHIFT_DOWN, held);
                self.set_bda8(data::KEYBOARD_MODE, modes);
                self.set_bda8(data::SHIFT, assign(state, bit, held & left != 0 || modes & right != 0));
                let number = self.bda8(data::ALT_DIGITS);
                if !ctrl && !pressed && number != 0 {
                    self.set_bda8(data::ALT_DIGITS, 0);
                    self.put_key(number.into());
                }
            }
            0x3A => self.lock_key(shift::CAPS_LOCK, pressed),
            0x45 => self.lock_key(shift::NUM_LOCK, pressed),
            0x46 if !prefixed => self.lock_key(shift::SCROLL_LOCK, pressed),
            0x52 if prefixed && pressed => {
                self.lock_key(shift::INSERT, true);
                return false;
            }
            0x52 if prefixed => self.lock_key(shift::INSERT, false),
            _ => return false,
        }
        true
    }

    /// A key that toggles `bit`, unless it repeats; the LEDs follow.
    fn lock_key(&mut self, bit: u8, pressed: bool) {
        let held = self.bda8(data::SHIFT_DOWN);
        // The bits of the keys that are down are those of the states, but 3 of Pause.
        if !pressed {
            return self.set_bda8(data::SHIFT_DOWN, held & !bit);
        }
        if held & bit != 0 {
            return;
        }
        self.set_bda8(data::SHIFT_DOWN, (held | bit) & !down::PAUSED);
        let state = self.bda8(data::SHIFT) ^ bit;
        self.set_bda8(data::SHIFT, state);
        let leds = state >> 4 & 7;
        let old = self.bda8(data::KEYBOARD_LEDS);
        if old & 7 != leds {
            self.set_bda8(data::KEYBOARD_LEDS, old & !7 | leds);
            self.out8(0x60, 0xED);
            self.out8(0x60, leds);
        }
    }

    fn after(&mut self, at: u16) -> u16 {
        let (start, end) = (self.bda16(data::KEY_START), self.bda16(data::KEY_END));
        match at.checked_add(2) {
            Some(next) if next < end => next,
            _ => start,
        }
    }

    /// Puts a key into the buffer. False, and it is lost, if there is no room.
    fn put_key(&mut self, key: u16) -> bool {
        let tail = self.bda16(data::KEY_TAIL);
        let next = self.after(tail);
        if next == self.bda16(data::KEY_HEAD) {
            return false;
        }
        self.set_bda16(u32::from(tail), key);
        self.set_bda16(data::KEY_TAIL, next);
        true
    }

    /// The next key, as the enhanced services give it or as the old ones do; keys unknown to the old ones are dropped.
    fn next_key(&mut self, enhanced: bool) -> Option<u16> {
        // The guest may have put head and tail where they never meet.
        for _ in 0..MOST_KEYS {
            let head = self.bda16(data::KEY_HEAD);
            if head == self.bda16(data::KEY_TAIL) {
                return None;
            }
            let key = self.bda16(u32::from(head));
            let (scan, character) = ((key >> 8) as u8, key as u8);
            if enhanced {
                return Some(key);
            }
            match (scan, character) {
                (EXTENDED, b'/') => return Some(0x352F),
                (EXTENDED, _) => return Some(0x1C00 | u16::from(character)),
                (1.., EXTENDED) => return Some(key & 0xFF00),
                (0x85.., _) => self.drop_key(),
                _ => return Some(key),
            }
        }
        None
    }

    fn drop_key(&mut self) {
        let head = self.bda16(data::KEY_HEAD);
        let next = self.after(head);
        self.set_bda16(data::KEY_HEAD, next);
    }

    /// INT 16h. `_resumed`: the caller has waited for a key.
    pub(super) fn keyboard(&mut self, _resumed: bool) -> Outcome {
        let function = self.regs.a.h();
        let enhanced = function & 0x10 != 0;
        match function {
            0x00 | 0x10 => match self.next_key(enhanced) {
                Some(key) => {
                    self.drop_key();
                    self.regs.a.set_x(key);
                }
                None => return Outcome::Wait,
            },
            0x01 | 0x11 => {
                // Whoever polls with interrupts off gets them on, as on a PC.
                self.regs.set_interrupts(true);
                let key = self.next_key(enhanced);
                self.regs.set_zero(key.is_none());
                self.regs.a.set_x(key.unwrap_or(0));
            }
            0x02 => {
                let state = self.bda8(data::SHIFT);
                self.regs.a.set_l(state);
            }
            0x12 => {
                let [state, held, modes] = [data::SHIFT, data::SHIFT_DOWN, data::KEYBOARD_MODE].map(|at| self.bda8(at));
                self.regs.a.set_x(u16::from(state) | u16::from(held & 0x73 | modes & 0x0C) << 8);
            }
            0x03 => {
                // Typematic rate and delay.
                if self.regs.a.l() == 5 {
                    self.out8(0x60, 0xF3);
                    self.out8(0x60, (self.regs.b.h() & 3) << 5 | self.regs.b.l() & 0x1F);
                }
            }
            0x05 => {
                let key = self.regs.c.x();
                let full = !self.put_key(key);
                self.regs.a.set_l(full.into());
            }
            // Typematic settings and the enhanced functions are there.
            0x09 => self.regs.a.set_l(0x24),
            // No identification byte waits.
            0x0A => self.regs.b.set_x(0x41AB),
            _ => self.unsupported(),
        }
        Outcome::Return
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_own_scan_codes() {
        for (n, key) in KEYS.iter().enumerate() {
            assert!(key[0] == NONE || usize::from(key[0] >> 8) == n + 1, "{n}");
        }
        assert_eq!([plain(0x1E, 0), plain(0x1E, shift::CAPS_LOCK), plain(0x1E, shift::CAPS_LOCK | shift::LEFT)], [0x1E61, 0x1E41, 0x1E61]);
        assert_eq!(
            [plain(0x3B, 0), plain(0x3B, shift::LEFT), plain(0x3B, shift::CTRL), plain(0x3B, shift::ALT)],
            [0x3B00, 0x5400, 0x5E00, 0x6800]
        );
        assert_eq!(
            [plain(0x48, 0), plain(0x48, shift::NUM_LOCK), extended(0x48, 0), extended(0x48, shift::ALT)],
            [0x4800, 0x4838, 0x48E0, 0x9800]
        );
    }
}
