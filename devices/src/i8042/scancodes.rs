//! Scan code sets 1 and 2, the controller's translation between them, and the codes of a US keyboard.

use serde::{Deserialize, Serialize};

/// What the controller makes of a set 2 make code below 0x80: the set 1 code.
#[rustfmt::skip]
const SET1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];
const BREAK: u8 = 0xf0;

/// The set 1 code of a set 2 byte. Above 0x7F only F7 and SysRq are codes; the rest (answers, prefixes) stays.
fn set1_of(code: u8) -> u8 {
    match code {
        0x83 => 0x41,
        0x84 => 0x54,
        0x80.. => code,
        _ => SET1[usize::from(code)],
    }
}

/// The set 2 make code of a set 1 make code (below 0x80).
pub(super) fn set2_of(code: u8) -> u8 {
    match code {
        0x41 => 0x83,
        0x54 => 0x84,
        _ => SET1.iter().position(|&c| c == code).unwrap_or(0) as u8,
    }
}

/// The codes of set 3 that are not those of set 2, by prefix and code of set 1.
#[rustfmt::skip]
const SET3: [(u8, u8, u8); 54] = [
    (0, 0x01, 0x08), (0, 0x3b, 0x07), (0, 0x3c, 0x0f), (0, 0x3d, 0x17), (0, 0x3e, 0x1f), (0, 0x3f, 0x27), (0, 0x40, 0x2f), (0, 0x41, 0x37),
    (0, 0x42, 0x3f), (0, 0x43, 0x47), (0, 0x44, 0x4f), (0, 0x57, 0x56), (0, 0x58, 0x5e), (0, 0x46, 0x5f), (0, 0x1d, 0x11), (0, 0x38, 0x19),
    (0, 0x3a, 0x14), (0, 0x2b, 0x5c), (0, 0x56, 0x13), (0, 0x45, 0x76), (0, 0x37, 0x7e), (0, 0x4a, 0x84), (0, 0x4e, 0x7c), (0, 0x54, 0x57),
    (0xe0, 0x1d, 0x58), (0xe0, 0x38, 0x39), (0xe0, 0x5b, 0x8b), (0xe0, 0x5c, 0x8c), (0xe0, 0x5d, 0x8d), (0xe0, 0x37, 0x57),
    (0xe0, 0x52, 0x67), (0xe0, 0x53, 0x64), (0xe0, 0x47, 0x6e), (0xe0, 0x4f, 0x65), (0xe0, 0x49, 0x6f), (0xe0, 0x51, 0x6d),
    (0xe0, 0x48, 0x63), (0xe0, 0x50, 0x60), (0xe0, 0x4b, 0x61), (0xe0, 0x4d, 0x6a), (0xe0, 0x1c, 0x79), (0xe0, 0x35, 0x77),
    (0, 0x47, 0x6c), (0, 0x48, 0x75), (0, 0x49, 0x7d), (0, 0x4b, 0x6b), (0, 0x4c, 0x73), (0, 0x4d, 0x74),
    (0, 0x4f, 0x69), (0, 0x50, 0x72), (0, 0x51, 0x7a), (0, 0x52, 0x70), (0, 0x53, 0x71), (0, 0x0f, 0x0d),
];

/// The set 3 code of a key of set 1, if it has one: the Shift codes that PCs put around some keys have not.
pub(super) fn set3_of(prefix: u8, code: u8) -> Option<u8> {
    let special = SET3.iter().find(|&&(p, c, _)| (p, c) == (prefix, code)).map(|&(.., code)| code);
    special.or_else(|| (prefix == 0).then(|| set2_of(code)).filter(|&code| code != 0))
}

/// The controller's translator: turns the break prefix into bit 7.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Translator {
    breaking: bool,
}

impl Translator {
    /// What the guest sees of `byte`, if anything.
    pub fn translate(&mut self, byte: u8) -> Option<u8> {
        if byte == BREAK {
            self.breaking = true;
            return None;
        }
        let bit = if std::mem::take(&mut self.breaking) { 0x80 } else { 0 };
        Some(set1_of(byte) | bit)
    }
}

const SHIFT: u8 = 0x2a;
const CONTROL: u8 = 0x1d;
/// The keys of each row from the set 1 code on: without and with Shift.
const ROWS: [(u8, &str, &str); 5] = [
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", ""),
];

/// The set 1 codes (make and break, with Shift or Control where needed) that type `ch` on a US keyboard. Line feed and
/// carriage return are Enter; other control characters are Control with a letter. `None` if no key types it.
#[must_use]
pub fn scancodes_for(ch: char) -> Option<Vec<u8>> {
    let press = |code: u8| vec![code, code | 0x80];
    let with = |modifier: u8, code: u8| vec![modifier, code, code | 0x80, modifier | 0x80];
    match ch {
        '\n' | '\r' => return Some(press(0x1c)),
        '\t' => return Some(press(0x0f)),
        '\x08' | '\x7f' => return Some(press(0x0e)),
        '\x1b' => return Some(press(0x01)),
        '\x01'..='\x1a' => {
            let letter = char::from(ch as u8 + b'a' - 1);
            return Some(with(CONTROL, scancodes_for(letter)?[0]));
        }
        _ => {}
    }
    ROWS.iter().find_map(|&(first, plain, shifted)| {
        let find = |keys: &str| keys.find(ch).map(|i| first + i as u8);
        find(plain).map(press).or_else(|| find(shifted).map(|code| with(SHIFT, code)))
    })
}

/// Keys with names, and their set 1 codes; above 0xFF with an 0xE0 before them.
const NAMES: [(&str, u16); 62] = [
    ("ctrl", 0x1d),
    ("shift", 0x2a),
    ("alt", 0x38),
    ("rctrl", 0xe01d),
    ("rshift", 0x36),
    ("altgr", 0xe038),
    ("win", 0xe05b),
    ("rwin", 0xe05c),
    ("menu", 0xe05d),
    ("esc", 0x01),
    ("enter", 0x1c),
    ("tab", 0x0f),
    ("space", 0x39),
    ("backspace", 0x0e),
    ("insert", 0xe052),
    ("delete", 0xe053),
    ("del", 0xe053),
    ("home", 0xe047),
    ("end", 0xe04f),
    ("pgup", 0xe049),
    ("pgdn", 0xe051),
    ("up", 0xe048),
    ("down", 0xe050),
    ("left", 0xe04b),
    ("right", 0xe04d),
    ("f1", 0x3b),
    ("f2", 0x3c),
    ("f3", 0x3d),
    ("f4", 0x3e),
    ("f5", 0x3f),
    ("f6", 0x40),
    ("f7", 0x41),
    ("f8", 0x42),
    ("f9", 0x43),
    ("f10", 0x44),
    ("f11", 0x57),
    ("f12", 0x58),
    ("caps", 0x3a),
    ("num", 0x45),
    ("scroll", 0x46),
    ("print", 0xe037),
    ("minus", 0x0c),
    ("comma", 0x33),
    ("less", 0x56),
    ("kp0", 0x52),
    ("kp1", 0x4f),
    ("kp2", 0x50),
    ("kp3", 0x51),
    ("kp4", 0x4b),
    ("kp5", 0x4c),
    ("kp6", 0x4d),
    ("kp7", 0x47),
    ("kp8", 0x48),
    ("kp9", 0x49),
    ("kpdot", 0x53),
    ("kpenter", 0xe01c),
    ("kpplus", 0x4e),
    ("kpminus", 0x4a),
    ("kpstar", 0x37),
    ("kpslash", 0xe035),
    ("sysrq", 0x54),
    ("pause", 0xe11d),
];

/// The set 1 codes that press the keys of a chord like `ctrl-alt-del`, `f10`, `shift-tab` or `a` one after the other and
/// release them in reverse. A single character is the key that has it without Shift.
///
/// # Errors
/// The name that no key has.
pub fn chord(keys: &str) -> Result<Vec<u8>, &str> {
    let mut down = Vec::new();
    for name in keys.split('-') {
        let lower = name.to_ascii_lowercase();
        let named = NAMES.iter().find(|(n, _)| *n == lower).map(|&(_, code)| code);
        let mut chars = lower.chars();
        let plain = match (chars.next(), chars.next()) {
            (Some(c), None) => ROWS.iter().find_map(|&(first, plain, _)| plain.find(c).map(|i| u16::from(first) + i as u16)),
            _ => None,
        };
        down.push(named.or(plain).ok_or(name)?);
    }
    let code = |code: u16, bit: u8| match code {
        // Pause has no code of its own: Control and Num Lock behind 0xE1.
        0xe11d => vec![0xe1, 0x1d | bit, 0x45 | bit],
        0xe000.. => vec![0xe0, code as u8 | bit],
        _ => vec![code as u8 | bit],
    };
    let presses = down.iter().flat_map(|&c| code(c, 0));
    Ok(presses.chain(down.iter().rev().flat_map(|&c| code(c, 0x80))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_translates_back() {
        for code in 1..0x80 {
            assert_eq!(set1_of(set2_of(code)), code);
        }
        let mut t = Translator::default();
        assert_eq!(t.translate(0xf0), None);
        assert_eq!(t.translate(0x1c), Some(0x9e));
        assert_eq!(t.translate(0xfa), Some(0xfa));
    }

    #[test]
    fn chords() {
        assert_eq!(chord("ctrl-alt-del").unwrap(), [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]);
        assert_eq!(chord("F10").unwrap(), [0x44, 0xc4]);
        assert_eq!(chord("ctrl-c").unwrap(), [0x1d, 0x2e, 0xae, 0x9d]);
        assert_eq!(chord("pause").unwrap(), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
        assert_eq!((chord("ctrl-foo"), chord(""), chord("ctrl-")), (Err("foo"), Err(""), Err("")));
        let mut names: Vec<_> = NAMES.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }

    #[test]
    fn us_layout() {
        let shifted = |code: u8| Some(vec![0x2a, code, code | 0x80, 0xaa]);
        assert_eq!(scancodes_for('a'), Some(vec![0x1e, 0x9e]));
        assert_eq!(scancodes_for('A'), shifted(0x1e));
        assert_eq!(scancodes_for('"'), shifted(0x28));
        assert_eq!(scancodes_for('`'), Some(vec![0x29, 0xa9]));
        assert_eq!(scancodes_for('|'), shifted(0x2b));
        assert_eq!(scancodes_for('/'), Some(vec![0x35, 0xb5]));
        assert_eq!(scancodes_for('0'), Some(vec![0x0b, 0x8b]));
        assert_eq!(scancodes_for('\u{3}'), Some(vec![0x1d, 0x2e, 0xae, 0x9d]));
        assert!((' '..='~').all(|c| scancodes_for(c).is_some()));
        assert_eq!(scancodes_for('é'), None);
    }
}
