//! MSI-X: a table of messages in a BAR, a pending bit for each (PCI Local Bus 3.0, 6.8.2).

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, ones};

use super::ConfigSpace;

const CAPABILITY: u8 = 0x11;
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Where the pending bits start in the BAR; the table is at 0.
const PBA: u64 = 0x800;
/// Bytes of the BAR that holds table and pending bits.
pub const MSIX_BAR_LEN: u64 = 0x1000;

/// A function's MSI-X table and pending bits.
#[derive(Clone, Debug)]
pub struct Msix {
    capability: u8,
    state: MsixState,
}

/// The volatile part of [`Msix`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MsixState {
    table: Vec<Entry>,
    pending: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Entry {
    addr: u64,
    data: u32,
    /// Vector control: bit 0 is the mask.
    control: u32,
}

impl Entry {
    const RESET: Self = Self { addr: 0, data: 0, control: 1 };
}

impl Msix {
    /// Adds the capability to `config`: `vectors` (1 to 64) messages in memory BAR `bar`, which the caller has added with
    /// [`MSIX_BAR_LEN`] bytes.
    pub fn new(config: &mut ConfigSpace, vectors: u16, bar: u8) -> Self {
        assert!((1..=64).contains(&vectors));
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&u32::from(bar).to_le_bytes());
        body[6..].copy_from_slice(&(PBA as u32 | u32::from(bar)).to_le_bytes());
        let capability = config.add_capability(CAPABILITY, &body, &[0, 0xc0]);
        Self { capability, state: MsixState { table: vec![Entry::RESET; vectors.into()], pending: 0 } }
    }

    fn control(&self, config: &ConfigSpace) -> u16 {
        config.word(self.capability + 2)
    }

    /// Whether the function signals by messages, not by INTx#.
    #[must_use]
    pub fn enabled(&self, config: &ConfigSpace) -> bool {
        self.control(config) & ENABLE != 0
    }

    /// How many vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.state.table.len() as u16
    }

    /// Sends message `vector`, or marks it pending while it is masked. Nothing happens when MSI-X is off.
    pub fn notify(&mut self, ctx: &mut Ctx, config: &ConfigSpace, vector: u16) {
        if self.enabled(config) && vector < self.vectors() {
            self.state.pending |= 1 << vector;
            self.deliver(ctx, config);
        }
    }

    /// Sends what is pending and not masked: to be called after a write to the configuration space.
    pub fn deliver(&mut self, ctx: &mut Ctx, config: &ConfigSpace) {
        let s = &mut self.state;
        if s.pending == 0 || config.word(self.capability + 2) & (ENABLE | FUNCTION_MASK) != ENABLE {
            return;
        }
        for (i, entry) in s.table.iter().enumerate() {
            if s.pending & 1 << i != 0 && entry.control & 1 == 0 {
                s.pending &= !(1 << i);
                ctx.msi(entry.addr, entry.data);
            }
        }
    }

    /// A load from the BAR.
    #[must_use]
    pub fn read(&self, offset: u64, width: usize) -> u64 {
        // Accesses are aligned dwords or qwords; a qword is two dwords.
        match width {
            4 => u64::from(self.dword(offset)),
            8 => u64::from(self.dword(offset)) | u64::from(self.dword(offset + 4)) << 32,
            _ => ones(width),
        }
    }

    fn dword(&self, offset: u64) -> u32 {
        if offset >= PBA {
            return match offset - PBA {
                0 => self.state.pending as u32,
                4 => (self.state.pending >> 32) as u32,
                _ => 0,
            };
        }
        let Some(entry) = self.state.table.get((offset / 16) as usize) else {
            return 0;
        };
        match offset % 16 {
            0 => entry.addr as u32,
            4 => (entry.addr >> 32) as u32,
            8 => entry.data,
            12 => entry.control,
            _ => !0,
        }
    }

    /// A store to the BAR; unmasking a pending vector sends it.
    pub fn write(&mut self, ctx: &mut Ctx, config: &ConfigSpace, offset: u64, width: usize, value: u64) {
        if width == 8 {
            self.write_dword(offset, value as u32);
            self.write_dword(offset + 4, (value >> 32) as u32);
        } else if width == 4 {
            self.write_dword(offset, value as u32);
        } else {
            log::debug!("msix: {width}-byte write at {offset:#x} ignored");
        }
        self.deliver(ctx, config);
    }

    fn write_dword(&mut self, offset: u64, value: u32) {
        let Some(entry) = self.state.table.get_mut((offset / 16) as usize) else {
            return;
        };
        match offset % 16 {
            0 => entry.addr = entry.addr & !0xffff_ffff | u64::from(value & !3),
            4 => entry.addr = entry.addr & 0xffff_ffff | u64::from(value) << 32,
            8 => entry.data = value,
            12 => entry.control = value & 1,
            _ => log::debug!("msix: unaligned write at {offset:#x} ignored"),
        }
    }

    /// Everything masked, nothing pending.
    pub fn reset(&mut self) {
        self.state.table.fill(Entry::RESET);
        self.state.pending = 0;
    }

    /// The volatile part, to save.
    #[must_use]
    pub fn state(&self) -> &MsixState {
        &self.state
    }

    /// Puts saved state back; false (and nothing changed) if it is of another number of vectors.
    pub fn set_state(&mut self, state: MsixState) -> bool {
        let fits = state.table.len() == self.state.table.len();
        if fits {
            self.state = state;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pci::Identity, testing::Rig};

    #[test]
    fn masked_messages_wait() {
        let mut rig = Rig::new();
        let mut config = ConfigSpace::new(Identity::default());
        let mut m = Msix::new(&mut config, 3, 1);
        let control = u16::from(m.capability) + 2;
        assert_eq!(config.read(control, 2), 2);
        m.write(&mut rig.ctx(), &config, 16, 8, 0xfee0_1000);
        m.write(&mut rig.ctx(), &config, 24, 4, 0x41);
        m.notify(&mut rig.ctx(), &config, 1);
        assert_eq!(m.read(PBA, 8), 0, "MSI-X is off");
        config.write(control, 2, u32::from(ENABLE));
        m.notify(&mut rig.ctx(), &config, 1);
        m.notify(&mut rig.ctx(), &config, 7);
        assert_eq!(m.read(PBA, 8), 2, "the vector is masked");
        config.write(control, 2, u32::from(ENABLE | FUNCTION_MASK));
        m.write(&mut rig.ctx(), &config, 28, 4, 0);
        assert_eq!(rig.take_msis(), [], "the function is masked");
        config.write(control, 2, u32::from(ENABLE));
        m.deliver(&mut rig.ctx(), &config);
        m.deliver(&mut rig.ctx(), &config);
        assert_eq!(rig.take_msis(), [(0xfee0_1000, 0x41)]);
        m.notify(&mut rig.ctx(), &config, 1);
        assert_eq!(rig.take_msis(), [(0xfee0_1000, 0x41)]);
        assert_eq!(m.read(16, 4), 0xfee0_1000);
        assert_eq!(m.read(28, 4), 0);
        assert_eq!(m.read(12, 4), 1);
    }
}
