//! The fixed hardware of ACPI power management (ACPI 6.5, 4.8): PM1 events and control, the PM timer, an empty GPE0
//! block, and the SMI command port by which the operating system turns ACPI on and firmware calls its own system management
//! mode.
//!
//! Regions: 0 = 64 ports (at 0x600 unless a firmware moves them): PM1a_STS 0, PM1a_EN 2, PM1a_CNT 4, PM_TMR 8, GLBSTS 0x18,
//! GPE0_STS 0x20, GPE0_EN 0x22, GLBCTL 0x28, SMI_EN 0x30, SMI_STS 0x34; 1 = ports 0xB2-0xB3. Output line 0 is the SCI, line 1
//! SMI#.

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, Input, Request, Time, device_state, ones};

use crate::lanes::{read_bytes, write_bytes};

/// The PM timer's frequency in Hz. It is 32 bits wide (FADT flag TMR_VAL_EXT).
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// What the operating system writes to port 0xB2 to turn ACPI mode on (FADT ACPI_ENABLE).
pub const ACPI_ENABLE: u8 = 0xf1;
/// What the operating system writes to port 0xB2 to turn ACPI mode off (FADT ACPI_DISABLE).
pub const ACPI_DISABLE: u8 = 0xf0;
/// SLP_TYP of the S5 state.
pub const SLP_TYP_S5: u8 = 5;

/// PM1_STS and PM1_EN.
const TMR: u16 = 1 << 0;
const GBL: u16 = 1 << 5;
const PWRBTN: u16 = 1 << 8;
const SLPBTN: u16 = 1 << 9;
const RTC: u16 = 1 << 10;
/// Bus master and wake status exist in PM1_STS alone.
const BM: u16 = 1 << 4;
const WAK: u16 = 1 << 15;
const STATUS_BITS: u16 = TMR | BM | GBL | PWRBTN | SLPBTN | RTC | WAK;
const ENABLE_BITS: u16 = TMR | GBL | PWRBTN | SLPBTN | RTC;
/// PM1_CNT.
const SCI_EN: u16 = 1 << 0;
const CONTROL_BITS: u16 = SCI_EN | 1 << 1 | 7 << 10;
/// SLP_EN, in the high byte of PM1_CNT.
const SLP_EN_HIGH: u8 = 1 << 5;

/// Bit of SMI_EN (ICH9): a store to the command port raises an SMI.
const APMC_EN: u32 = 1 << 5;
/// Bit of SMI_EN: SMIs are raised at all. SMI_LOCK freezes it.
const GBL_SMI_EN: u32 = 1 << 0;
/// Bit of SMI_EN: the handler has seen the last SMI. It always has: no firmware for such a board sets it.
const EOS: u32 = 1 << 1;
/// Bits of SMI_EN that can be written.
const SMI_EN_BITS: u32 = 0x0fff_fffd;
/// Bit of SMI_STS: the SMI came from the command port. PIIX4 has it in GLBSTS.
const APM_STS: u32 = 1 << 5;
/// Bits of GLBCTL (PIIX4) that can be written; the lowest is SMI_EN, SMIs are raised at all.
const GLBCTL_BITS: u32 = 0x0701_ff07;
const GLBCTL_SMI_EN: u32 = 1 << 0;

/// What else decides whether a store to the command port raises an SMI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SmiSwitch {
    /// There is no system management mode. SMI_EN reads as if a firmware had set it up, so that none waits for it.
    #[default]
    Absent,
    /// PIIX4, with APMC_EN in its DEVACTB register.
    Piix {
        /// APMC_EN.
        command: bool,
    },
    /// ICH9, with SMI_LOCK in its GEN_PMCON_1 register.
    Ich {
        /// SMI_LOCK.
        locked: bool,
    },
}

/// TMR_STS rises whenever the top bit of the timer changes: every half turn.
const HALF_TURN: u64 = 1 << 31;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    status: u16,
    enable: u16,
    control: u16,
    gpe_enable: u16,
    /// Ports 0xB2 and 0xB3.
    smi: [u8; 2],
    /// SMI_EN of ICH9.
    smi_enable: u32,
    /// SMI_STS of ICH9, GLBSTS of PIIX4.
    smi_status: u32,
    /// GLBCTL of PIIX4.
    global: u32,
    /// The timer's half turns up to which TMR_STS is complete.
    half_turns: u64,
    sci: bool,
}

/// The ACPI power management registers.
#[derive(Debug, Default)]
pub struct AcpiPm {
    // Glue: what a function of the chipset says now.
    switch: SmiSwitch,
    // Volatile.
    state: State,
}

impl AcpiPm {
    /// Registers as at power-on: legacy mode (SCI_EN clear), nothing enabled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells what a function of the chipset says about SMIs now.
    pub fn set_smi_switch(&mut self, switch: SmiSwitch) {
        self.switch = switch;
    }

    /// The registers for SMIs: GLBSTS, GLBCTL, SMI_EN and SMI_STS; what the chipset has not reads as ones.
    fn smi_register(&self, offset: u64) -> u32 {
        let s = &self.state;
        match (self.switch, offset & !3) {
            (SmiSwitch::Absent, 0x30) => APMC_EN,
            (SmiSwitch::Piix { .. }, 0x18) | (SmiSwitch::Ich { .. }, 0x34) => s.smi_status,
            (SmiSwitch::Piix { .. }, 0x28) => s.global,
            (SmiSwitch::Ich { .. }, 0x30) => s.smi_enable | EOS,
            _ => u32::MAX,
        }
    }

    fn set_smi_register(&mut self, offset: u64, value: u8) {
        let shift = 8 * (offset & 3);
        let (mask, bits) = (0xff << shift, u32::from(value) << shift);
        let s = &mut self.state;
        let replaced = |old: u32, writable: u32| old & !(mask & writable) | bits & writable;
        match (self.switch, offset & !3) {
            (SmiSwitch::Piix { .. }, 0x18) | (SmiSwitch::Ich { .. }, 0x34) => s.smi_status &= !bits,
            (SmiSwitch::Piix { .. }, 0x28) => s.global = replaced(s.global, GLBCTL_BITS),
            (SmiSwitch::Ich { locked }, 0x30) => {
                let frozen = if locked { GBL_SMI_EN } else { 0 };
                s.smi_enable = replaced(s.smi_enable, SMI_EN_BITS & !frozen);
            }
            _ => log::debug!("acpi_pm: write {value:#x} to offset {offset:#x} ignored"),
        }
    }

    /// A store to the command port: an SMI, if it is switched on.
    fn raise_smi(&mut self, ctx: &mut Ctx) {
        let s = &mut self.state;
        let (on, enabled) = match self.switch {
            SmiSwitch::Absent => (false, false),
            SmiSwitch::Piix { command } => (command, s.global & GLBCTL_SMI_EN != 0),
            SmiSwitch::Ich { .. } => (s.smi_enable & APMC_EN != 0, s.smi_enable & GBL_SMI_EN != 0),
        };
        if on {
            s.smi_status |= APM_STS;
        }
        if on && enabled {
            ctx.line(1, true);
            ctx.line(1, false);
        }
    }

    fn sync(&mut self, now: Time) {
        let half_turns = now.ticks(PM_TIMER_HZ) / HALF_TURN;
        if half_turns != self.state.half_turns {
            self.state.half_turns = half_turns;
            self.state.status |= TMR;
        }
    }

    /// Drives the SCI and arms the timer for TMR_STS.
    fn update(&mut self, ctx: &mut Ctx) {
        let state = &mut self.state;
        let sci = state.control & SCI_EN != 0 && state.status & state.enable != 0;
        if sci != state.sci {
            state.sci = sci;
            ctx.line(0, sci);
        }
        if state.control & SCI_EN != 0 && state.enable & !state.status & TMR != 0 {
            ctx.arm(0, Time::of_ticks((state.half_turns + 1) * HALF_TURN, PM_TIMER_HZ));
        } else {
            ctx.cancel(0);
        }
    }

    fn byte(&self, offset: u64, now: Time) -> u8 {
        let state = &self.state;
        let (word, index) = match offset {
            0..2 => (u32::from(state.status), offset),
            2..4 => (u32::from(state.enable), offset - 2),
            4..8 => (u32::from(state.control), offset - 4),
            8..12 => (now.ticks(PM_TIMER_HZ) as u32, offset - 8),
            0x20..0x24 => (u32::from(state.gpe_enable) << 16, offset - 0x20),
            _ => (self.smi_register(offset), offset & 3),
        };
        word.to_le_bytes()[index as usize]
    }

    fn set_byte(&mut self, ctx: &mut Ctx, offset: u64, value: u8) {
        let state = &mut self.state;
        let shift = 8 * (offset & 1);
        let bits = u16::from(value) << shift;
        let replaced = |old: u16, writable: u16| (old & !(0xff << shift) | bits) & writable;
        match offset {
            0..2 => state.status &= !(bits & STATUS_BITS),
            2..4 => state.enable = replaced(state.enable, ENABLE_BITS),
            4..6 => {
                state.control = replaced(state.control, CONTROL_BITS);
                if offset == 5 && value & SLP_EN_HIGH != 0 {
                    match value >> 2 & 7 {
                        SLP_TYP_S5 => ctx.request(Request::PowerOff),
                        other => {
                            log::warn!("acpi_pm: sleep state with SLP_TYP {other} does not exist")
                        }
                    }
                }
            }
            0x22..0x24 => state.gpe_enable = replaced(state.gpe_enable, u16::MAX),
            // The upper half of PM1_CNT, the timer, and GPE0_STS, which has no event to clear.
            6..12 | 0x20..0x22 => {}
            _ => self.set_smi_register(offset, value),
        }
    }

    fn smi_command(&mut self, value: u8) {
        match value {
            ACPI_ENABLE => self.state.control |= SCI_EN,
            ACPI_DISABLE => self.state.control &= !SCI_EN,
            _ if self.switch != SmiSwitch::Absent => {}
            _ => log::debug!("acpi_pm: SMI command {value:#x} ignored"),
        }
    }
}

impl Device for AcpiPm {
    fn name(&self) -> &'static str {
        "acpi_pm"
    }

    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        match region {
            // A clock source: nothing else to bring up to date.
            0 if offset == 8 => ctx.now.ticks(PM_TIMER_HZ) & 0xffff_ffff & ones(width),
            0 => {
                self.sync(ctx.now);
                self.update(ctx);
                read_bytes(width, |i| self.byte(offset + i, ctx.now))
            }
            1 => read_bytes(width, |i| self.state.smi.get((offset + i) as usize).copied().unwrap_or(0xff)),
            _ => ones(width),
        }
    }

    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        self.sync(ctx.now);
        write_bytes(width, value, |i, byte| match (region, offset + i) {
            (0, offset) => self.set_byte(ctx, offset, byte),
            (1, offset @ 0..2) => {
                self.state.smi[offset as usize] = byte;
                if offset == 0 {
                    self.smi_command(byte);
                    self.raise_smi(ctx);
                }
            }
            _ => {}
        });
        self.update(ctx);
    }

    fn timer(&mut self, ctx: &mut Ctx, _timer: u32) {
        self.sync(ctx.now);
        self.update(ctx);
    }

    fn input(&mut self, ctx: &mut Ctx, input: &Input) {
        if *input == Input::PowerButton {
            self.sync(ctx.now);
            self.state.status |= PWRBTN;
            self.update(ctx);
        }
    }

    fn reset(&mut self, ctx: &mut Ctx) {
        self.state = State { half_turns: ctx.now.ticks(PM_TIMER_HZ) / HALF_TURN, ..State::default() };
        ctx.cancel(0);
        ctx.line(0, false);
    }

    device_state!(state, 2);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;
    use softmetal_bus::Effect;

    fn acpi_mode() -> (Rig, AcpiPm) {
        let (mut rig, mut pm) = (Rig::new(), AcpiPm::new());
        assert_eq!(rig.read(&mut pm, 0, 4, 2), 0);
        rig.write(&mut pm, 1, 0, 1, ACPI_ENABLE.into());
        assert_eq!(rig.read(&mut pm, 0, 4, 2), 1);
        (rig, pm)
    }

    #[test]
    fn power_button_raises_the_sci_until_cleared() {
        let (mut rig, mut pm) = acpi_mode();
        rig.write(&mut pm, 0, 2, 2, PWRBTN.into());
        pm.input(&mut rig.ctx(), &Input::PowerButton);
        assert_eq!(rig.take_line(0), [true]);
        assert_eq!(rig.read(&mut pm, 0, 0, 4), 0x0100_0100);
        rig.write(&mut pm, 0, 0, 2, PWRBTN.into());
        assert_eq!(rig.take_line(0), [false]);
    }

    #[test]
    fn soft_off() {
        let (mut rig, mut pm) = acpi_mode();
        rig.write(&mut pm, 0, 4, 2, 5 << 10 | 1);
        assert_eq!(rig.take(), []);
        rig.write(&mut pm, 0, 4, 2, 4 << 10 | 1 << 13 | 1);
        assert_eq!(rig.take(), []);
        rig.write(&mut pm, 0, 4, 2, 5 << 10 | 1 << 13 | 1);
        assert_eq!(rig.take(), [Effect::Request(Request::PowerOff)]);
        assert_eq!(rig.read(&mut pm, 0, 4, 2), 5 << 10 | 1, "SLP_EN reads as zero");
    }

    #[test]
    fn the_timer_counts_and_its_half_turns_interrupt() {
        let (mut rig, mut pm) = acpi_mode();
        rig.run(&mut pm, Time::SECOND);
        assert_eq!(rig.read(&mut pm, 0, 8, 4), PM_TIMER_HZ);
        assert_eq!(rig.timers.next(), None);
        rig.write(&mut pm, 0, 2, 2, TMR.into());
        let half_turn = Time::of_ticks(HALF_TURN, PM_TIMER_HZ);
        assert_eq!(rig.timers.next(), Some(half_turn));
        rig.run_to(&mut pm, half_turn);
        assert_eq!(rig.take_line(0), [true]);
        assert_eq!(rig.timers.next(), None);
        rig.write(&mut pm, 0, 0, 1, TMR.into());
        assert_eq!(rig.take_line(0), [false]);
        assert_eq!(rig.timers.next(), Some(Time::of_ticks(2 * HALF_TURN, PM_TIMER_HZ)));
    }

    /// Writes the command port; whether that has raised an SMI.
    fn command(rig: &mut Rig, pm: &mut AcpiPm) -> bool {
        rig.write(pm, 1, 0, 1, 0x12);
        match rig.take_line(1)[..] {
            [] => false,
            [true, false] => true,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_port_raises_smis_on_piix() {
        let (mut rig, mut pm) = (Rig::new(), AcpiPm::new());
        assert_eq!((rig.read(&mut pm, 0, 0x30, 4), command(&mut rig, &mut pm)), (APMC_EN.into(), false), "no system management mode");
        pm.set_smi_switch(SmiSwitch::Piix { command: false });
        rig.write(&mut pm, 0, 0x28, 4, 0xffff_ffff);
        assert_eq!(rig.read(&mut pm, 0, 0x28, 4), GLBCTL_BITS.into());
        assert!(!command(&mut rig, &mut pm));
        pm.set_smi_switch(SmiSwitch::Piix { command: true });
        assert!(command(&mut rig, &mut pm));
        assert_eq!(rig.read(&mut pm, 0, 0x18, 2), APM_STS.into());
        rig.write(&mut pm, 0, 0x18, 1, APM_STS.into());
        rig.write(&mut pm, 0, 0x28, 1, 0);
        assert!(!command(&mut rig, &mut pm));
    }

    #[test]
    fn the_command_port_raises_smis_on_ich() {
        let (mut rig, mut pm) = (Rig::new(), AcpiPm::new());
        pm.set_smi_switch(SmiSwitch::Ich { locked: false });
        for (enable, raised) in [(0, false), (APMC_EN, false), (GBL_SMI_EN, false), (APMC_EN | GBL_SMI_EN, true)] {
            rig.write(&mut pm, 0, 0x30, 4, enable.into());
            assert_eq!(rig.read(&mut pm, 0, 0x30, 4), u64::from(enable | EOS));
            assert_eq!(command(&mut rig, &mut pm), raised, "{enable:#x}");
        }
        assert_eq!(rig.read(&mut pm, 0, 0x34, 4), APM_STS.into());
        pm.set_smi_switch(SmiSwitch::Ich { locked: true });
        rig.write(&mut pm, 0, 0x30, 4, 0);
        assert_eq!(rig.read(&mut pm, 0, 0x30, 4), u64::from(GBL_SMI_EN | EOS), "locked");
    }

    #[test]
    fn general_purpose_block_is_plain() {
        let (mut rig, mut pm) = acpi_mode();
        rig.write(&mut pm, 0, 0x20, 4, 0xabcd_ffff);
        assert_eq!(rig.read(&mut pm, 0, 0x20, 4), 0xabcd_0000);
        let mut other = AcpiPm::new();
        other.load(&pm.save()).unwrap();
        assert_eq!(rig.read(&mut other, 0, 0x23, 1), 0xab);
        assert_eq!(rig.read(&mut other, 0, 0x38, 2), 0xffff);
        other.reset(&mut rig.ctx());
        assert_eq!(rig.read(&mut other, 0, 0x20, 4), 0);
    }
}
