//! Configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2): the address at 0xCF8, the data at 0xCFC.

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, device_state, ones};

use crate::ports::ResetControl;

const ENABLE: u32 = 1 << 31;
const KEPT: u32 = 0x80ff_fffc;

/// What an access to the ports 0xCF8 to 0xCFF means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The address register: [`PciHost`] itself.
    Address,
    /// The reset control register (byte access at 0xCF9): [`PciHost`] itself.
    Reset,
    /// Configuration space of a function; if there is none, loads give all ones.
    Data {
        /// Bus.
        bus: u8,
        /// Device on the bus, 0 to 31.
        dev: u8,
        /// Function of the device, 0 to 7.
        func: u8,
        /// Byte offset in its configuration space.
        offset: u16,
    },
    /// Nobody: loads give all ones, stores are ignored.
    Absent,
}

/// The address register of configuration mechanism #1, and the reset control register that shares its ports.
/// Region 0: ports 0xCF8 to 0xCFF; the board routes those that [`PciHost::decode`] calls [`Access::Data`].
#[derive(Debug, Default)]
pub struct PciHost {
    state: State,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    address: u32,
    reset: ResetControl,
}

impl PciHost {
    /// A host bridge that addresses nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The function and the dword-aligned register that the address register points to: (bus, device, function,
    /// register). `None` if it is switched off.
    #[must_use]
    pub fn target(&self) -> Option<(u8, u8, u8, u8)> {
        let [register, function, bus, _] = self.state.address.to_le_bytes();
        (self.state.address & ENABLE != 0).then_some((bus, function >> 3, function & 7, register))
    }

    /// What an access of `width` bytes at port 0xCF8 + `port_offset` means.
    #[must_use]
    pub fn decode(&self, port_offset: u64, width: usize) -> Access {
        match (port_offset, width) {
            (0, 4) => Access::Address,
            (1, 1) => Access::Reset,
            (4..8, _) if (port_offset & 3) as usize + width <= 4 => self.target().map_or(Access::Absent, |(bus, dev, func, register)| {
                Access::Data { bus, dev, func, offset: u16::from(register) + (port_offset & 3) as u16 }
            }),
            _ => Access::Absent,
        }
    }
}

impl Device for PciHost {
    fn name(&self) -> &'static str {
        "pci-host"
    }
    fn read(&mut self, ctx: &mut Ctx, _region: u8, offset: u64, width: usize) -> u64 {
        match self.decode(offset, width) {
            Access::Address => self.state.address.into(),
            Access::Reset => self.state.reset.read(ctx, 0, 0, 1),
            Access::Data { .. } | Access::Absent => ones(width),
        }
    }
    fn write(&mut self, ctx: &mut Ctx, _region: u8, offset: u64, width: usize, value: u64) {
        match self.decode(offset, width) {
            Access::Address => self.state.address = value as u32 & KEPT,
            Access::Reset => self.state.reset.write(ctx, 0, 0, 1, value),
            Access::Data { .. } | Access::Absent => {
                log::debug!("pci: write of {value:#x} to port {:#x} ignored", 0xcf8 + offset);
            }
        }
    }
    fn reset(&mut self, _ctx: &mut Ctx) {
        self.state = State::default();
    }
    device_state!(state, 1);
}

#[cfg(test)]
mod tests {
    use softmetal_bus::{Effect, Request};

    use super::*;
    use crate::testing::Rig;

    #[test]
    fn decodes() {
        let (mut rig, mut host) = (Rig::new(), PciHost::new());
        assert_eq!(host.decode(4, 4), Access::Absent);
        rig.write(&mut host, 0, 0, 4, 0x8001_0a47);
        assert_eq!(rig.read(&mut host, 0, 0, 4), 0x8001_0a44);
        assert_eq!(host.target(), Some((1, 1, 2, 0x44)));
        let data = |offset| Access::Data { bus: 1, dev: 1, func: 2, offset };
        assert_eq!(host.decode(4, 4), data(0x44));
        assert_eq!(host.decode(6, 2), data(0x46));
        assert_eq!(host.decode(7, 1), data(0x47));
        assert_eq!(host.decode(7, 2), Access::Absent);
        assert_eq!(host.decode(0, 2), Access::Absent);
        assert_eq!(rig.read(&mut host, 0, 0, 2), 0xffff);
        assert_eq!(rig.take(), []);
        rig.write(&mut host, 0, 1, 1, 0x02);
        rig.write(&mut host, 0, 1, 1, 0x06);
        assert_eq!(rig.take(), [Effect::Request(Request::Reset)]);
        assert_eq!(host.target(), Some((1, 1, 2, 0x44)));
    }
}
