//! The functions of the 440FX chipset (Intel 82441FX, 82371SB and 82371AB datasheets) that are registers only.

use softmetal_bus::device::{decode, encode};
use softmetal_bus::{Ctx, Device, Request, StateError, ones};

use super::{ConfigSpace, Identity, PciDevice};

const INTEL: u16 = 0x8086;
/// By this subsystem of the host bridge a firmware knows that it is on an emulated board and that fw_cfg is there.
const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);

/// A function that consists of its configuration space.
macro_rules! registers_only {
    ($type:ident, $name:literal) => {
        impl Default for $type {
            fn default() -> Self {
                Self::new()
            }
        }
        impl Device for $type {
            fn name(&self) -> &'static str {
                $name
            }
            fn read(&mut self, _: &mut Ctx, _: u8, _: u64, width: usize) -> u64 {
                ones(width)
            }
            fn write(&mut self, _: &mut Ctx, _: u8, _: u64, _: usize, _: u64) {}
            fn reset(&mut self, ctx: &mut Ctx) {
                self.config.reset();
                ctx.request(Request::Remap);
            }
            fn save(&self) -> Vec<u8> {
                encode(1, self.config.registers())
            }
            fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
                self.config.set_registers(decode(self.name(), 1, bytes)?);
                Ok(())
            }
        }
    };
}

const PAM: u8 = 0x59;
const SMRAM: u8 = 0x72;

/// The host bridge, 00:00.0: decides what answers at 0xC0000 to 0xFFFFF and at 0xA0000.
#[derive(Debug)]
pub struct I440fx {
    config: ConfigSpace,
}

impl I440fx {
    /// The bridge with all of PAM closed (the ROM answers).
    #[must_use]
    pub fn new() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: 0x1237,
            class: 0x06_0000,
            revision: 2,
            subsystem: SUBSYSTEM,
            ..Identity::default()
        });
        config.define(PAM.into(), &[0; 7], &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        config.define(SMRAM.into(), &[0x02], &[0x78]);
        Self { config }
    }

    /// PAM0 to PAM6 (0x59 to 0x5F). A nibble: bit 0 is "loads go to RAM", bit 1 "stores go to RAM". The high nibble of
    /// PAM0 is for 0xF0000 to 0xFFFFF; PAM1 to PAM6 have 16 KiB a nibble from 0xC0000 on, low nibble first.
    #[must_use]
    pub fn pam(&self) -> [u8; 7] {
        std::array::from_fn(|i| self.config.byte(PAM + i as u8))
    }

    /// SMRAM control (0x72): bit 3 enables SMRAM, bit 6 opens it outside system management mode.
    #[must_use]
    pub fn smram(&self) -> u8 {
        self.config.byte(SMRAM)
    }
}

registers_only!(I440fx, "i440fx");

impl PciDevice for I440fx {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn config_write(&mut self, ctx: &mut Ctx, offset: u16, width: usize, value: u32) {
        let before = (self.pam(), self.smram());
        self.config.write(offset, width, value);
        if (self.pam(), self.smram()) != before {
            ctx.request(Request::Remap);
        }
    }
    fn pam(&self) -> Option<[u8; 7]> {
        Some(self.pam())
    }
}

const PIRQ: u8 = 0x60;
const PIRQ_OFF: u8 = 0x80;

/// The ISA bridge, 00:01.0: routes the PCI interrupt pins to ISA interrupts.
#[derive(Debug)]
pub struct Piix3Isa {
    config: ConfigSpace,
}

impl Piix3Isa {
    /// The bridge with all routes off.
    #[must_use]
    pub fn new() -> Self {
        let mut config =
            ConfigSpace::new(Identity { vendor: INTEL, device: 0x7000, class: 0x06_0100, multifunction: true, ..Identity::default() });
        config.define(0x04, &[0x07, 0, 0, 0x02], &[]);
        config.define(0x4c, &[0x4d, 0, 0x03, 0], &[0x7f, 0, 0xff, 0x01]);
        config.define(PIRQ.into(), &[PIRQ_OFF; 4], &[0x8f; 4]);
        config.define(0x69, &[0x02], &[0xfe]);
        Self { config }
    }

    /// The ISA interrupt that PIRQ `pirq` (0 = A to 3 = D) goes to. `None` if it is off or routed to a reserved number.
    #[must_use]
    pub fn pirq_route(&self, pirq: usize) -> Option<u8> {
        let route = self.config.byte(PIRQ + (pirq & 3) as u8);
        let irq = route & 0xf;
        (route & PIRQ_OFF == 0 && !matches!(irq, 0 | 1 | 2 | 8 | 13)).then_some(irq)
    }
}

registers_only!(Piix3Isa, "piix3-isa");

impl PciDevice for Piix3Isa {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn config_write(&mut self, ctx: &mut Ctx, offset: u16, width: usize, value: u32) {
        let routes = |s: &Self| [0, 1, 2, 3].map(|pirq| s.pirq_route(pirq));
        let before = routes(self);
        self.config.write(offset, width, value);
        if routes(self) != before {
            ctx.request(Request::Remap);
        }
    }
    fn pirq_route(&self, pirq: usize) -> Option<u8> {
        self.pirq_route(pirq)
    }
}

const PM_BASE: usize = 0x40;
const PM_ENABLE: usize = 0x80;
const SMBUS_BASE: usize = 0x90;

/// The power management function, 00:01.3: tells where the ACPI registers are; they are a device of their own.
#[derive(Debug)]
pub struct Piix4Pm {
    config: ConfigSpace,
}

impl Piix4Pm {
    /// The function with its register block off.
    #[must_use]
    pub fn new() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: 0x7113,
            class: 0x06_8000,
            revision: 3,
            interrupt_pin: 1,
            ..Identity::default()
        });
        config.define(0x06, &[0x80, 0x02], &[]);
        config.define(PM_BASE, &[0x01, 0, 0, 0], &[0xc0, 0xff]);
        // Bit 25 of DEVACTB, "a store to APM_CNT raises an SMI", is set as by a firmware that has set up system management
        // mode already: there is none, and a firmware must not wait for it.
        config.define(0x58, &[0, 0, 0, 0x02], &[0xff, 0xff, 0xff, 0xfd]);
        config.define(PM_ENABLE, &[0], &[0x01]);
        config.define(SMBUS_BASE, &[0x01, 0, 0, 0], &[0xf0, 0xff]);
        config.define(0xd2, &[0], &[0x0f]);
        config.define(0x3c, &[9], &[0xff]);
        Self { config }
    }

    /// The first of the 64 ports of the register block (PMBA at 0x40); `None` while PMREGMISC (0x80) has them off.
    #[must_use]
    pub fn pm_base(&self) -> Option<u16> {
        let base = self.config.word(PM_BASE as u8) & 0xffc0;
        (self.config.byte(PM_ENABLE as u8) & 1 != 0 && base != 0).then_some(base)
    }
}

registers_only!(Piix4Pm, "piix4-pm");

impl PciDevice for Piix4Pm {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn config_write(&mut self, ctx: &mut Ctx, offset: u16, width: usize, value: u32) {
        let before = self.pm_base();
        self.config.write(offset, width, value);
        if self.pm_base() != before {
            ctx.request(Request::Remap);
        }
    }
    fn pm_base(&self) -> Option<u16> {
        self.pm_base()
    }
}

#[cfg(test)]
mod tests {
    use softmetal_bus::Effect;

    use super::*;
    use crate::testing::Rig;

    #[test]
    fn pam_remaps() {
        let (mut rig, mut bridge) = (Rig::new(), I440fx::new());
        assert_eq!(bridge.config_read(&mut rig.ctx(), 0, 4), 0x1237_8086);
        bridge.config_write(&mut rig.ctx(), 0x58, 4, 0x3030_ff00);
        assert_eq!(bridge.pam(), [0x30, 0x30, 0x30, 0, 0, 0, 0]);
        assert_eq!(rig.take(), [Effect::Request(Request::Remap)]);
        bridge.config_write(&mut rig.ctx(), 0x59, 1, 0x30);
        assert_eq!(rig.take(), []);
        let mut copy = I440fx::new();
        copy.load(&bridge.save()).unwrap();
        assert_eq!(copy.pam(), bridge.pam());
        assert!(copy.load(&[1, 3, 0, 0, 0]).is_err());
        bridge.reset(&mut rig.ctx());
        assert_eq!(bridge.pam(), [0; 7]);
    }

    #[test]
    fn pirq_routes() {
        let (mut rig, mut isa) = (Rig::new(), Piix3Isa::new());
        assert_eq!(isa.config_read(&mut rig.ctx(), 0x0e, 1), 0x80);
        assert_eq!([0, 1, 2, 3].map(|p| isa.pirq_route(p)), [None; 4]);
        isa.config_write(&mut rig.ctx(), 0x60, 4, 0x0d80_0b0a);
        let routes = [0, 1, 2, 3].map(|p| isa.pirq_route(p));
        assert_eq!(routes, [Some(10), Some(11), None, None]);
    }

    #[test]
    fn power_management_base() {
        let (mut rig, mut pm) = (Rig::new(), Piix4Pm::new());
        pm.config_write(&mut rig.ctx(), 0x40, 4, 0xb03f);
        assert_eq!(pm.config_read(&mut rig.ctx(), 0x40, 4), 0xb001);
        assert_eq!((pm.pm_base(), rig.take()), (None, vec![]));
        pm.config_write(&mut rig.ctx(), 0x80, 1, 0xff);
        assert_eq!(pm.config_read(&mut rig.ctx(), 0x80, 1), 1);
        assert_eq!((pm.pm_base(), rig.take()), (Some(0xb000), vec![Effect::Request(Request::Remap)]));
    }
}
