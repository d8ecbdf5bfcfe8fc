//! INT 10h, 1Ch and 4F04h: the adapter's state in a buffer of the caller's, saved and put back (IBM PS/2 and PC BIOS
//! Interface Technical Reference; VBE Core Functions Standard 3.0, function 04h).
//!
//! The buffer's layout is the BIOS's own. It holds the parts that were asked for, in the order of their bits.

use super::video::{DAC_WRITE, MISC_WRITE, PEL_MASK, SEQUENCER};
use super::{BDA, Bios, EBDA, data};

/// Bits of CX: what is asked for.
mod part {
    /// Registers of the VGA.
    pub const HARDWARE: u16 = 1;
    /// The BIOS's variables.
    pub const VARIABLES: u16 = 2;
    /// The DAC's mask and colours.
    pub const COLORS: u16 = 4;
    /// The display interface.
    pub const LINEAR: u16 = 8;
}
use part::{COLORS, HARDWARE, LINEAR, VARIABLES};

/// What 1Ch knows, and what 4F04h does.
pub(super) const LEGACY_PARTS: u16 = HARDWARE | VARIABLES | COLORS;
pub(super) const ALL_PARTS: u16 = LEGACY_PARTS | LINEAR;
/// The buffer is measured in blocks of so many bytes.
const BLOCK: usize = 64;

const GRAPHICS: u16 = 0x3CE;
const FEATURE_READ: u16 = 0x3CA;
const MISC_READ: u16 = 0x3CC;
const CRTC_COUNT: u8 = 0x19;
/// The CRT controller's register that locks the first ones, and its lock.
const LOCKING: u8 = 0x11;
const LOCK: u8 = 0x80;
const ATTRIBUTE_COUNT: u8 = 0x15;
/// Miscellaneous output, feature control; sequencer 1 to 4; CRT, graphics and attribute controller.
const HARDWARE_LEN: usize = 2 + 4 + CRTC_COUNT as usize + 9 + ATTRIBUTE_COUNT as usize;
/// Ranges of the BIOS data area and the vectors 1Fh and 43h: linear address and length.
const VARIABLE_RANGES: [(u32, usize); 5] = [(BDA + data::MODE, 30), (BDA + data::ROWS, 7), (BDA + 0xA8, 4), (0x1F * 4, 4), (0x43 * 4, 4)];
const COLORS_LEN: usize = 1 + 3 * 256;

/// What the caller wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Size,
    Save,
    Restore,
}

fn len(part: u16) -> usize {
    match part {
        HARDWARE => HARDWARE_LEN,
        VARIABLES => VARIABLE_RANGES.iter().map(|range| range.1).sum(),
        COLORS => COLORS_LEN,
        _ => super::vbe::STATE_LEN,
    }
}

impl Bios<'_> {
    /// 00h: BX is the size of the buffer for `parts`, in blocks of 64 bytes; 01h: saves them at ES:BX; 02h: puts them back.
    /// False for what does not exist.
    pub(super) fn saved_state(&mut self, function: u8, parts: u16, known: u16) -> bool {
        let action = match function {
            0 => Action::Size,
            1 => Action::Save,
            2 => Action::Restore,
            _ => return false,
        };
        let parts = parts & known;
        if parts == 0 {
            return false;
        }
        let wanted = [HARDWARE, VARIABLES, COLORS, LINEAR].into_iter().filter(|part| parts & part != 0);
        let mut at = self.regs.es.at(self.regs.b.x());
        let mut bytes = 0;
        for part in wanted {
            let len = len(part);
            match action {
                Action::Size => {}
                Action::Save => {
                    let state = self.save_part(part);
                    debug_assert_eq!(state.len(), len);
                    self.set(at, &state);
                }
                Action::Restore => {
                    let mut state = vec![0; len];
                    self.host.read(at, &mut state);
                    self.restore_part(part, &state);
                }
            }
            at = at.wrapping_add(len as u32);
            bytes += len;
        }
        if action == Action::Size {
            self.regs.b.set_x(bytes.div_ceil(BLOCK) as u16);
        }
        true
    }

    fn save_part(&mut self, part: u16) -> Vec<u8> {
        match part {
            HARDWARE => {
                let mut state = vec![self.in8(MISC_READ), self.in8(FEATURE_READ)];
                let crtc = self.bda16(data::CRTC);
                for (port, indices) in [(SEQUENCER, 1..5), (crtc, 0..CRTC_COUNT), (GRAPHICS, 0..9)] {
                    state.extend(indices.map(|index| self.in_indexed(port, index)));
                }
                state.extend((0..ATTRIBUTE_COUNT).map(|index| self.read_attribute(index)));
                state
            }
            VARIABLES => {
                let mut state = Vec::new();
                for (at, len) in VARIABLE_RANGES {
                    let mut range = vec![0; len];
                    self.host.read(at, &mut range);
                    state.extend(range);
                }
                state
            }
            COLORS => {
                let mut state = vec![self.in8(PEL_MASK)];
                state.extend((0..=255).flat_map(|n| self.dac(n)));
                state
            }
            _ => self.save_linear(),
        }
    }

    fn restore_part(&mut self, part: u16, state: &[u8]) {
        match part {
            HARDWARE => self.restore_hardware(state),
            VARIABLES => {
                let mut rest = state;
                for (at, len) in VARIABLE_RANGES {
                    let (range, more) = rest.split_at(len);
                    self.set(at, range);
                    rest = more;
                }
            }
            COLORS => {
                self.out8(PEL_MASK, state[0]);
                self.out8(DAC_WRITE, 0);
                state[1..].iter().for_each(|component| self.out8(super::video::DAC, *component));
            }
            _ => self.restore_linear(state),
        }
    }

    fn restore_hardware(&mut self, state: &[u8]) {
        let (misc, feature) = (state[0], state[1]);
        let crtc = if misc & 1 == 0 { 0x3B4 } else { 0x3D4 };
        let (sequencer, rest) = state[2..].split_at(4);
        let (controller, rest) = rest.split_at(CRTC_COUNT.into());
        let (graphics, attributes) = rest.split_at(9);
        self.out_indexed(SEQUENCER, 0, 1);
        self.out8(MISC_WRITE, misc);
        for (index, value) in (1..).zip(sequencer) {
            self.out_indexed(SEQUENCER, index, *value);
        }
        self.out_indexed(SEQUENCER, 0, 3);
        self.out_indexed(crtc, LOCKING, controller[usize::from(LOCKING)] & !LOCK);
        for (index, value) in (0..).zip(controller) {
            self.out_indexed(crtc, index, if index == LOCKING { *value & !LOCK } else { *value });
        }
        self.out_indexed(crtc, LOCKING, controller[usize::from(LOCKING)]);
        for (index, value) in (0..).zip(graphics) {
            self.out_indexed(GRAPHICS, index, *value);
        }
        self.out8(crtc + 6, feature);
        self.set_attributes(|bios| (0..).zip(attributes).for_each(|(index, value)| bios.attribute(index, *value)));
    }

    fn save_linear(&mut self) -> Vec<u8> {
        let mode = self.get16(EBDA + data::VBE_MODE);
        self.saved_dispi().into_iter().chain([mode]).flat_map(u16::to_le_bytes).collect()
    }

    fn restore_linear(&mut self, state: &[u8]) {
        let (registers, mode) = state.split_at(state.len() - 2);
        self.restore_dispi(registers.chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]])));
        self.set(EBDA + data::VBE_MODE, mode);
    }
}
