//! The functions of the chipsets that are registers only: what decides who answers where, and where interrupts go. Intel
//! 82441FX, 82371SB and 82371AB datasheets (440FX, PIIX3, PIIX4); Q35 (29C0) and ICH9 datasheets.

use serde::{Deserialize, Serialize};
use softmetal_bus::device::{decode, encode};
use softmetal_bus::{Ctx, Device, Request, StateError};

use super::gpio::{self, Gpio};
use super::smbus::{self, Smbus};
use super::smram::{self, Smram};
use super::{ConfigSpace, FixedPorts, Identity, PciDevice, Registers, command};
use crate::acpi_pm::SmiSwitch;
use crate::lanes::{read_bytes, write_bytes};

const INTEL: u16 = 0x8086;
/// By this subsystem of the host bridge a firmware knows that it is on an emulated board and that fw_cfg is there.
const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);

/// Where a function says where the ACPI registers answer.
#[derive(Clone, Copy, Debug)]
struct PmBase {
    /// The register with the first port, and the bits of it that count.
    base: u8,
    mask: u16,
    /// The register and the bit that switch them on.
    enable: (u8, u8),
}

/// What the registers of a function decide, besides their being there.
#[derive(Clone, Copy, Debug, Default)]
struct Roles {
    /// PAM0 to PAM6. A nibble: bit 0 is "loads go to RAM", bit 1 "stores go to RAM". The high nibble of PAM0 is for 0xF0000 to
    /// 0xFFFFF; PAM1 to PAM6 have 16 KiB a nibble from 0xC0000 on, low nibble first.
    pam: Option<u8>,
    /// The base of the memory-mapped configuration space.
    ecam: Option<u8>,
    /// What of RAM is for system management mode.
    smram: Option<smram::Registers>,
    /// What it says about SMIs.
    smi: Option<SmiRole>,
    /// The routing register of each PIRQ.
    pirqs: &'static [u8],
    pm: Option<PmBase>,
    ports: Option<PortBlock>,
}

/// What a function says about SMIs from the command port.
#[derive(Clone, Copy, Debug)]
enum SmiRole {
    /// APMC_EN, bit 25 of DEVACTB.
    Piix,
    /// SMI_LOCK, a bit of GEN_PMCON_1.
    Ich,
}

/// The byte of DEVACTB with APMC_EN, and that bit.
const APMC_EN: (u8, u8) = (0x5b, 1 << 1);
/// GEN_PMCON_1, and its bit SMI_LOCK, which stays set until a reset.
const SMI_LOCK: (u8, u8) = (0xa0, 1 << 4);

/// Ports of the function itself, at a place that its registers say.
#[derive(Clone, Copy, Debug)]
struct PortBlock {
    /// The register with the first port, and the bits of it that count.
    base: u8,
    mask: u16,
    /// The register and the bit that switch them on.
    enable: (u8, u8),
    /// The command register has a say in it too.
    command: bool,
    len: u16,
}

/// What answers at a [`PortBlock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Ports {
    None,
    Smbus(Smbus),
    Gpio(Gpio),
}

/// Everything that they decide now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decided {
    pam: Option<[u8; 7]>,
    ecam: Option<(u64, u64)>,
    smram: Option<Smram>,
    smi: Option<SmiSwitch>,
    routes: Vec<Option<u8>>,
    pm_base: Option<u16>,
    ports: FixedPorts,
}

const PIRQ_OFF: u8 = 0x80;

/// A function of a chipset that consists of its configuration space.
#[derive(Debug)]
pub struct ChipsetFunction {
    name: &'static str,
    roles: Roles,
    config: ConfigSpace,
    ports: Ports,
}

impl ChipsetFunction {
    fn new(name: &'static str, identity: Identity, roles: Roles) -> Self {
        let mut config = ConfigSpace::new(Identity { vendor: INTEL, ..identity });
        if let Some(pam) = roles.pam {
            config.define(pam.into(), &[0; 7], &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        }
        if let Some(ecam) = roles.ecam {
            config.define(ecam.into(), &[0; 8], &[0x07, 0, 0, 0xf0, 0x0f]);
        }
        if let Some(smram) = roles.smram {
            smram.define(&mut config);
        }
        for &pirq in roles.pirqs {
            config.define(pirq.into(), &[PIRQ_OFF], &[0x8f]);
        }
        if let Some(pm) = roles.pm {
            config.define(pm.base.into(), &[0x01, 0, 0, 0], &pm.mask.to_le_bytes());
            config.define(pm.enable.0.into(), &[0], &[pm.enable.1]);
        }
        if let Some(block) = roles.ports {
            config.define(block.base.into(), &[0x01, 0, 0, 0], &block.mask.to_le_bytes());
            // On some, the switch shares its register with what selects an interrupt.
            config.define(block.enable.0.into(), &[0], &[block.enable.1 | if block.command { 0x0e } else { 0 }]);
        }
        Self { name, roles, config, ports: Ports::None }
    }

    /// The 440FX host bridge, with all of PAM and SMRAM closed (the ROM and the display adapter answer).
    #[must_use]
    pub fn i440fx() -> Self {
        let identity = Identity { device: 0x1237, class: 0x06_0000, revision: 2, subsystem: SUBSYSTEM, ..Identity::default() };
        let smram = smram::Registers { smram: 0x72, esmramc: None };
        Self::new("i440fx", identity, Roles { pam: Some(0x59), smram: Some(smram), ..Roles::default() })
    }

    /// The PIIX3 ISA bridge, with all routes off.
    #[must_use]
    pub fn piix3_isa() -> Self {
        let identity = Identity { device: 0x7000, class: 0x06_0100, multifunction: true, ..Identity::default() };
        let mut new = Self::new("piix3-isa", identity, Roles { pirqs: &[0x60, 0x61, 0x62, 0x63], ..Roles::default() });
        new.config.define(0x04, &[0x07, 0, 0, 0x02], &[]);
        new.config.define(0x4c, &[0x4d, 0, 0x03, 0], &[0x7f, 0, 0xff, 0x01]);
        new.config.define(0x69, &[0x02], &[0xfe]);
        new
    }

    /// The PIIX4 power management function, with its register block off. The registers themselves are a device of their own.
    /// Without system management mode (`smm`), it looks as if a firmware had set it up, so that none waits for it.
    #[must_use]
    pub fn piix4_pm(smm: bool) -> Self {
        let identity = Identity { device: 0x7113, class: 0x06_8000, revision: 3, interrupt_pin: 1, ..Identity::default() };
        let pm = PmBase { base: 0x40, mask: 0xffc0, enable: (0x80, 0x01) };
        let ports = PortBlock { base: 0x90, mask: 0xfff0, enable: (0xd2, 0x01), command: true, len: smbus::LEN };
        let mut new = Self::new(
            "piix4-pm",
            identity,
            Roles { pm: Some(pm), ports: Some(ports), smi: smm.then_some(SmiRole::Piix), ..Roles::default() },
        );
        new.ports = Ports::Smbus(Smbus::default());
        new.config.define(0x06, &[0x80, 0x02], &[]);
        let fixed = if smm { 0 } else { APMC_EN.1 };
        new.config.define(0x58, &[0, 0, 0, fixed], &[0xff, 0xff, 0xff, !fixed]);
        new.config.define(0x3c, &[9], &[0xff]);
        new
    }

    /// The Q35 host bridge, with all of PAM and SMRAM closed and PCIEXBAR off.
    #[must_use]
    pub fn q35_mch() -> Self {
        let identity = Identity { device: 0x29c0, class: 0x06_0000, subsystem: SUBSYSTEM, ..Identity::default() };
        let smram = smram::Registers { smram: 0x9d, esmramc: Some(0x9e) };
        let mut new = Self::new("q35-mch", identity, Roles { pam: Some(0x90), ecam: Some(0x60), smram: Some(smram), ..Roles::default() });
        // A firmware that finds here what it has written takes it that TSEG has the sizes of the datasheet and no other.
        new.config.define(0x50, &[0; 2], &[0xff; 2]);
        // GBSM, BGSM and TSEGMB (29C0 datasheet, 5.1), in MiB: a firmware notes there for itself what of RAM it keeps back. Where
        // TSEG is follows from its size alone.
        new.config.define(0xa4, &[0; 12], &[0, 0, 0xf0, 0xff].repeat(3));
        new
    }

    /// The ICH9 LPC bridge, with all routes and the ACPI registers off.
    #[must_use]
    pub fn ich9_lpc() -> Self {
        let identity = Identity { device: 0x2918, class: 0x06_0100, revision: 2, multifunction: true, ..Identity::default() };
        let pm = PmBase { base: 0x40, mask: 0xff80, enable: (0x44, 0x80) };
        let pirqs = &[0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b];
        let ports = PortBlock { base: 0x48, mask: 0xff80, enable: (0x4c, 0x10), command: false, len: gpio::LEN };
        let mut new =
            Self::new("ich9-lpc", identity, Roles { pirqs, pm: Some(pm), ports: Some(ports), smi: Some(SmiRole::Ich), ..Roles::default() });
        new.ports = Ports::Gpio(Gpio::default());
        new.config.define(0x04, &[0x07, 0, 0x10, 0x02], &[]);
        // Besides the switch, ACPI_CNTL selects the SCI's interrupt.
        new.config.define(0x44, &[0], &[0x87]);
        new.config.define(0x64, &[0x10], &[0xff]);
        new.config.define(0x80, &[0; 4], &[0xff; 4]);
        new.config.define(0xa0, &[0; 8], &[0xff; 8]);
        // RCBA.
        new.config.define(0xf0, &[0; 4], &[0x01, 0xc0, 0xff, 0xff]);
        new
    }

    /// Register and bits of what can no longer be changed.
    fn frozen(&self) -> Vec<(u8, u8)> {
        let mut frozen = self.roles.smram.map_or_else(Vec::new, |smram| smram.frozen(&self.config));
        let (at, bit) = SMI_LOCK;
        if matches!(self.roles.smi, Some(SmiRole::Ich)) && self.config.byte(at) & bit != 0 {
            frozen.push(SMI_LOCK);
        }
        frozen
    }

    fn decided(&self) -> Decided {
        Decided {
            pam: self.pam(),
            ecam: self.ecam(),
            smram: self.smram(),
            smi: self.smi_switch(),
            routes: (0..self.roles.pirqs.len()).map(|n| self.pirq_route(n)).collect(),
            pm_base: self.pm_base(),
            ports: self.fixed_ports(),
        }
    }
}

impl Device for ChipsetFunction {
    fn name(&self) -> &'static str {
        self.name
    }
    fn read(&mut self, _: &mut Ctx, _: u8, offset: u64, width: usize) -> u64 {
        read_bytes(width, |i| match &self.ports {
            Ports::Smbus(smbus) => smbus.read(offset + i),
            Ports::Gpio(pins) => pins.read(offset + i),
            Ports::None => 0xff,
        })
    }
    fn write(&mut self, _: &mut Ctx, _: u8, offset: u64, width: usize, value: u64) {
        write_bytes(width, value, |i, byte| match &mut self.ports {
            Ports::Smbus(smbus) => smbus.write(offset + i, byte),
            Ports::Gpio(pins) => pins.write(offset + i, byte),
            Ports::None => {}
        });
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        self.config.reset();
        match &mut self.ports {
            Ports::Smbus(smbus) => *smbus = Smbus::default(),
            Ports::Gpio(pins) => *pins = Gpio::default(),
            Ports::None => {}
        }
        ctx.request(Request::Remap);
    }
    fn save(&self) -> Vec<u8> {
        encode(2, &(self.config.registers(), &self.ports))
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let (registers, ports): (Registers, Ports) = decode(self.name, 2, bytes)?;
        if std::mem::discriminant(&ports) != std::mem::discriminant(&self.ports) {
            return Err(StateError::Corrupt(self.name, "other ports than this function has".into()));
        }
        self.config.set_registers(registers);
        self.ports = ports;
        Ok(())
    }
}

impl PciDevice for ChipsetFunction {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn config_write(&mut self, ctx: &mut Ctx, offset: u16, width: usize, value: u32) {
        let before = self.decided();
        let frozen: Vec<_> = self.frozen().into_iter().map(|(at, bits)| (at, bits, self.config.byte(at))).collect();
        self.config.write(offset, width, value);
        for (at, bits, value) in frozen {
            self.config.set_bits(at, bits, value);
        }
        if let Some(smram) = self.roles.smram {
            smram.settle(&mut self.config);
        }
        if self.decided() != before {
            ctx.request(Request::Remap);
        }
    }
    fn pam(&self) -> Option<[u8; 7]> {
        self.roles.pam.map(|pam| std::array::from_fn(|i| self.config.byte(pam + i as u8)))
    }
    fn smram(&self) -> Option<Smram> {
        self.roles.smram.map(|registers| registers.smram(&self.config))
    }
    fn smi_switch(&self) -> Option<SmiSwitch> {
        let set = |(at, bit): (u8, u8)| self.config.byte(at) & bit != 0;
        Some(match self.roles.smi? {
            SmiRole::Piix => SmiSwitch::Piix { command: set(APMC_EN) },
            SmiRole::Ich => SmiSwitch::Ich { locked: set(SMI_LOCK) },
        })
    }
    fn ecam(&self) -> Option<(u64, u64)> {
        let at = u16::from(self.roles.ecam?);
        let register = u64::from(self.config.read(at, 4)) | u64::from(self.config.read(at + 4, 4)) << 32;
        let len: u64 = match register >> 1 & 3 {
            0 => 256 << 20,
            1 => 128 << 20,
            2 => 64 << 20,
            _ => return None,
        };
        let base = register & !0xfff_ffff;
        (register & 1 != 0 && base != 0).then_some((base, len))
    }
    fn pm_base(&self) -> Option<u16> {
        let pm = self.roles.pm?;
        let base = self.config.word(pm.base) & pm.mask;
        (self.config.byte(pm.enable.0) & pm.enable.1 != 0 && base != 0).then_some(base)
    }
    fn fixed_ports(&self) -> FixedPorts {
        let Some(block) = self.roles.ports else { return FixedPorts::new() };
        let base = self.config.word(block.base) & block.mask;
        let on = self.config.byte(block.enable.0) & block.enable.1 != 0;
        let admitted = !block.command || self.config.command() & command::IO != 0;
        if on && admitted && base != 0 { vec![(base, block.len, 0)] } else { FixedPorts::new() }
    }
    fn pirq_route(&self, pirq: usize) -> Option<u8> {
        let route = self.config.byte(*self.roles.pirqs.get(pirq)?);
        let irq = route & 0xf;
        (route & PIRQ_OFF == 0 && !matches!(irq, 0 | 1 | 2 | 8 | 13)).then_some(irq)
    }
}

#[cfg(test)]
mod tests {
    use softmetal_bus::Effect;

    use super::*;
    use crate::testing::Rig;

    const REMAP: [Effect; 1] = [Effect::Request(Request::Remap)];

    #[test]
    fn pam_remaps() {
        let (mut rig, mut bridge) = (Rig::new(), ChipsetFunction::i440fx());
        assert_eq!(bridge.config_read(&mut rig.ctx(), 0, 4), 0x1237_8086);
        assert_eq!(bridge.config_read(&mut rig.ctx(), 0x2c, 4), 0x1100_1af4);
        bridge.config_write(&mut rig.ctx(), 0x58, 4, 0x3030_ff00);
        assert_eq!(bridge.pam(), Some([0x30, 0x30, 0x30, 0, 0, 0, 0]));
        assert_eq!(rig.take(), REMAP);
        bridge.config_write(&mut rig.ctx(), 0x59, 1, 0x30);
        assert_eq!(rig.take(), []);
        let mut copy = ChipsetFunction::i440fx();
        copy.load(&bridge.save()).unwrap();
        assert_eq!(copy.pam(), bridge.pam());
        assert!(copy.load(&[1, 3, 0, 0, 0]).is_err());
        bridge.reset(&mut rig.ctx());
        assert_eq!(bridge.pam(), Some([0; 7]));
        assert_eq!(ChipsetFunction::q35_mch().pam(), Some([0; 7]));
    }

    #[test]
    fn smram_is_given_out_and_locked() {
        let mut rig = Rig::new();
        let bridges = [(ChipsetFunction::i440fx(), 0x72u16, 0), (ChipsetFunction::q35_mch(), 0x9d, 8 << 20)];
        for (mut bridge, at, tseg) in bridges {
            let mut store = |bridge: &mut ChipsetFunction, at, value| {
                bridge.config_write(&mut rig.ctx(), at, 1, value);
                rig.take() == REMAP
            };
            assert_eq!(bridge.smram(), Some(Smram::default()));
            assert!(store(&mut bridge, at, 0x4a));
            if tseg != 0 {
                assert!(store(&mut bridge, 0x9e, 0x85));
                assert!(store(&mut bridge, 0x9e, 0x05));
            }
            assert_eq!(bridge.smram(), Some(Smram { enabled: true, open: true, high: false, tseg }));
            // Locking closes; nothing but D_CLS changes from then on.
            assert!(store(&mut bridge, at, 0x5a));
            let locked = Some(Smram { enabled: true, open: false, high: false, tseg });
            assert_eq!((bridge.smram(), bridge.config.byte(at as u8)), (locked, 0x1a));
            assert!(!store(&mut bridge, at, 0x42) && !store(&mut bridge, 0x9e, 0));
            assert_eq!((bridge.smram(), bridge.config.byte(at as u8)), (locked, 0x1a));
            bridge.reset(&mut rig.ctx());
            assert_eq!((bridge.smram(), rig.take()), (Some(Smram::default()), REMAP.to_vec()));
        }
    }

    #[test]
    fn smis_are_switched() {
        let mut rig = Rig::new();
        let mut pm = ChipsetFunction::piix4_pm(true);
        assert_eq!(pm.smi_switch(), Some(SmiSwitch::Piix { command: false }));
        pm.config_write(&mut rig.ctx(), 0x58, 4, 0x0200_0000);
        assert_eq!((pm.smi_switch(), rig.take()), (Some(SmiSwitch::Piix { command: true }), REMAP.to_vec()));
        let mut without = ChipsetFunction::piix4_pm(false);
        without.config_write(&mut rig.ctx(), 0x58, 4, 0);
        assert_eq!((without.smi_switch(), without.config.byte(0x5b)), (None, 2));
        let mut lpc = ChipsetFunction::ich9_lpc();
        for value in [0x10, 0] {
            lpc.config_write(&mut rig.ctx(), 0xa0, 1, value);
            assert_eq!(lpc.smi_switch(), Some(SmiSwitch::Ich { locked: true }));
        }
    }

    #[test]
    fn pirq_routes() {
        let mut rig = Rig::new();
        let routes = |f: &ChipsetFunction| (0..9).map(|n| f.pirq_route(n)).collect::<Vec<_>>();
        let mut isa = ChipsetFunction::piix3_isa();
        assert_eq!(isa.config_read(&mut rig.ctx(), 0x0e, 1), 0x80);
        assert_eq!(routes(&isa), [None; 9]);
        isa.config_write(&mut rig.ctx(), 0x60, 4, 0x0d80_0b0a);
        assert_eq!(routes(&isa)[..4], [Some(10), Some(11), None, None]);
        assert_eq!(rig.take(), REMAP);
        let mut lpc = ChipsetFunction::ich9_lpc();
        lpc.config_write(&mut rig.ctx(), 0x68, 4, 0x0a0b_0a0b);
        assert_eq!(routes(&lpc)[3..], [None, Some(11), Some(10), Some(11), Some(10), None]);
    }

    #[test]
    fn power_management_base() {
        for (mut function, enable, value) in [(ChipsetFunction::piix4_pm(true), 0x80, 0x01), (ChipsetFunction::ich9_lpc(), 0x44, 0x80)] {
            let mut rig = Rig::new();
            function.config_write(&mut rig.ctx(), 0x40, 4, 0xb03f);
            assert_eq!(function.config_read(&mut rig.ctx(), 0x40, 4), 0xb001);
            assert_eq!((function.pm_base(), rig.take()), (None, vec![]));
            function.config_write(&mut rig.ctx(), enable, 1, value);
            assert_eq!((function.pm_base(), rig.take()), (Some(0xb000), REMAP.to_vec()));
        }
    }

    #[test]
    fn ports_of_the_functions_themselves() {
        let (mut rig, mut function) = (Rig::new(), ChipsetFunction::piix4_pm(true));
        for (at, width, value) in [(0x90, 4, 0x701), (0xd2, 1, 0x09), (0x04, 2, 1)] {
            assert_eq!(function.fixed_ports(), []);
            function.config_write(&mut rig.ctx(), at, width, value);
        }
        assert_eq!((function.fixed_ports(), rig.take()), (vec![(0x700, 16, 0)], REMAP.to_vec()));
        // GPIO registers of the other bridge.
        let mut bridge = ChipsetFunction::ich9_lpc();
        bridge.config_write(&mut rig.ctx(), 0x48, 4, 0x581);
        assert_eq!(bridge.fixed_ports(), []);
        bridge.config_write(&mut rig.ctx(), 0x4c, 1, 0x10);
        assert_eq!((bridge.fixed_ports(), rig.take()), (vec![(0x580, 64, 0)], REMAP.to_vec()));
        // A read of device 50h.
        rig.write(&mut function, 0, 4, 1, 0xa1);
        rig.write(&mut function, 0, 2, 1, 0x48);
        assert_eq!(rig.read(&mut function, 0, 0, 1), 0x04);
        let mut copy = ChipsetFunction::piix4_pm(true);
        copy.load(&function.save()).unwrap();
        assert_eq!((copy.fixed_ports(), rig.read(&mut copy, 0, 0, 1)), (vec![(0x700, 16, 0)], 0x04));
    }

    #[test]
    fn configuration_space_in_memory() {
        let (mut rig, mut mch) = (Rig::new(), ChipsetFunction::q35_mch());
        mch.config_write(&mut rig.ctx(), 0x64, 4, 0);
        mch.config_write(&mut rig.ctx(), 0x60, 4, 0xb000_0000);
        assert_eq!((mch.ecam(), rig.take()), (None, vec![]));
        mch.config_write(&mut rig.ctx(), 0x60, 4, 0xb123_0001);
        assert_eq!((mch.ecam(), rig.take()), (Some((0xb000_0000, 256 << 20)), REMAP.to_vec()));
        mch.config_write(&mut rig.ctx(), 0x60, 1, 0x07);
        assert_eq!(mch.ecam(), None, "a reserved length");
    }
}
