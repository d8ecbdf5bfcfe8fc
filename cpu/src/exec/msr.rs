//! Model-specific registers (SDM 4).

use iced_x86::Mnemonic as M;
use log::Level;
use serde::{Deserialize, Serialize};

use super::cpuid::Feature;
use super::models::Vendor;
use super::msr_rules;
use crate::fault::Fault;
use crate::op::{Exit, Op, last};
use crate::state::{Cpu, bits, reg, seg};
use crate::table::{Row, row};
use crate::width::Width;

/// Instruction rows.
pub const ROWS: &[Row] = &[row(M::Rdmsr, |l| l.with(rdmsr)), row(M::Wrmsr, |l| l.with(wrmsr))];

/// Variable-range MTRR pairs.
const VARIABLE_MTRRS: usize = 8;
/// Fixed-range MTRRs, in the order of their numbers.
const FIXED_MTRRS: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// The MSRs that are plain storage. EFER, FS and GS base are in [`crate::State`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the manual")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    /// What is added to the board's time-stamp counter.
    pub tsc_adjust: u64,
    pub tsc_aux: u64,
    /// IA32_MCi_CTL.
    pub bank_control: [u64; msr_rules::BANKS],
    pub pat: u64,
    pub mtrr_default: u64,
    pub mtrr_fixed: [u64; FIXED_MTRRS.len()],
    pub mtrr_variable: [u64; 2 * VARIABLE_MTRRS],
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub mcg_status: u64,
    pub debugctl: u64,
    /// IA32_CLOCK_MODULATION, IA32_THERM_INTERRUPT, IA32_PERF_CTL, IA32_ENERGY_PERF_BIAS, MSR_POWER_CTL,
    /// MSR_PKG_CST_CONFIG_CONTROL: stored, without effect.
    pub clock_modulation: u64,
    pub therm_interrupt: u64,
    pub perf_ctl: u64,
    pub energy_perf_bias: u64,
    pub power_ctl: u64,
    pub package_c_states: u64,
    /// IA32_UMWAIT_CONTROL: stored; no user wait lasts long enough for its limit.
    pub umwait_control: u64,
}

impl Default for Msrs {
    /// After power-on. The MTRRs are as firmware leaves them: on, everything write-back.
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_adjust: 0,
            tsc_aux: 0,
            bank_control: [0; msr_rules::BANKS],
            pat: 0x0007_0406_0007_0406,
            mtrr_default: 0x806,
            mtrr_fixed: [0x0606_0606_0606_0606; FIXED_MTRRS.len()],
            mtrr_variable: [0; 2 * VARIABLE_MTRRS],
            // Fast strings; no branch trace store, no PEBS.
            misc_enable: 0x1801,
            spec_ctrl: 0,
            mcg_status: 0,
            debugctl: 0,
            clock_modulation: 0,
            therm_interrupt: 0,
            perf_ctl: 0,
            energy_perf_bias: 6,
            power_ctl: 0,
            package_c_states: 0,
            umwait_control: 0,
        }
    }
}

/// IA32_ARCH_CAPABILITIES: immune to everything, with enhanced IBRS, so that a kernel needs no mitigation.
const ARCH_CAPABILITIES: u64 = 1 << 0 // RDCL_NO
    | 1 << 1 // IBRS_ALL
    | 1 << 3 // SKIP_L1DFL_VMENTRY
    | 1 << 4 // SSB_NO
    | 1 << 5 // MDS_NO
    | 1 << 6 // IF_PSCHANGE_MC_NO
    | 1 << 8 // TAA_NO
    | 1 << 13 // SBDR_SSDP_NO
    | 1 << 14 // FBSDP_NO
    | 1 << 15 // PSDP_NO
    | 1 << 20 // BHI_NO
    | 1 << 24 // PBRSB_NO
    | 1 << 26 // GDS_NO
    | 1 << 27 // RFDS_NO
    | 1 << 62; // ITS_NO

/// SYSCFG, HWCR, NB_CFG, interrupt pending, MMIO base, OSVW, and core configuration of AMD processors: they read as 0, and
/// writes change nothing.
const AMD: [u32; 10] =
    [0xc001_0010, 0xc001_0015, 0xc001_001f, 0xc001_0055, 0xc001_0058, 0xc001_0140, 0xc001_0141, 0xc001_1022, 0xc001_1029, 0xc001_102c];

/// MSR numbers, named as in SDM 4 without the IA32_ prefix.
mod n {
    pub const PLATFORM_ID: u32 = 0x17;
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const EBL_CR_POWERON: u32 = 0x2a;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const XSS: u32 = 0xda0;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRRCAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const FLUSH_CMD: u32 = 0x10b;
    pub const MISC_FEATURES_ENABLES: u32 = 0x140;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const PERF_STATUS: u32 = 0x198;
    pub const PERF_CTL: u32 = 0x199;
    pub const UMWAIT_CONTROL: u32 = 0xe1;
    pub const PKG_CST_CONFIG_CONTROL: u32 = 0xe2;
    pub const CLOCK_MODULATION: u32 = 0x19a;
    pub const THERM_INTERRUPT: u32 = 0x19b;
    pub const THERM_STATUS: u32 = 0x19c;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const TEMPERATURE_TARGET: u32 = 0x1a2;
    pub const ENERGY_PERF_BIAS: u32 = 0x1b0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const POWER_CTL: u32 = 0x1fc;
    pub const MTRR_PHYSBASE0: u32 = 0x200;
    pub const MTRR_LAST: u32 = MTRR_PHYSBASE0 + 2 * super::VARIABLE_MTRRS as u32 - 1;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// The feature that an MSR is there with; `None` for those that all models with MSRs have here.
fn needs(msr: u32) -> Option<Feature> {
    Some(match msr {
        n::TSC => Feature::Tsc,
        n::APIC_BASE => Feature::Apic,
        n::X2APIC..=n::X2APIC_LAST => Feature::X2apic,
        n::TSC_DEADLINE => Feature::TscDeadline,
        n::TSC_ADJUST => Feature::TscAdjust,
        n::SPEC_CTRL | n::PRED_CMD => Feature::SpecCtrl,
        n::XSS => Feature::Xsaves,
        n::MTRRCAP | n::MTRR_PHYSBASE0..=n::MTRR_LAST | n::MTRR_DEF_TYPE => Feature::Mtrr,
        _ if FIXED_MTRRS.contains(&msr) => Feature::Mtrr,
        n::PAT => Feature::Pat,
        n::ARCH_CAPABILITIES | n::FLUSH_CMD => Feature::ArchCapabilities,
        n::SYSENTER_CS | n::SYSENTER_ESP | n::SYSENTER_EIP => Feature::Sep,
        n::MCG_CAP | n::MCG_STATUS => Feature::Mca,
        n::UMWAIT_CONTROL => Feature::Waitpkg,
        n::STAR => Feature::Syscall,
        n::CSTAR | n::FMASK | n::FS_BASE | n::GS_BASE | n::KERNEL_GS_BASE => Feature::Lm,
        _ => return None,
    })
}

/// A memory type as PAT and MTRRs encode it: `pat` also allows UC- (7).
fn memory_type(v: u64, pat: bool) -> bool {
    matches!(v, 0 | 1 | 4 | 5 | 6) || (pat && v == 7)
}

impl Cpu {
    /// The time-stamp counter at instruction count `at`, with IA32_TSC_ADJUST.
    pub fn time_stamp(&mut self, at: u64) -> u64 {
        self.bus.time_stamp(at).wrapping_add(self.state.msr.tsc_adjust)
    }

    /// The value of MSR `msr`; `None` is #GP. `at` is the instruction count.
    pub fn read_msr(&mut self, msr: u32, at: u64) -> Option<u64> {
        if !self.has_msr(msr) {
            return None;
        }
        if let Some(known) = self.read_group_msr(msr) {
            return known;
        }
        let m = &self.state.msr;
        Some(match msr {
            n::TSC => self.time_stamp(at),
            n::APIC_BASE | n::X2APIC..=n::X2APIC_LAST => return self.bus.apic_msr_read(at, msr),
            // The board counts without IA32_TSC_ADJUST; 0 is disarmed in both views.
            n::TSC_DEADLINE => match self.bus.apic_msr_read(at, msr)? {
                0 => 0,
                v => v.wrapping_add(m.tsc_adjust),
            },
            n::PLATFORM_ID | n::EBL_CR_POWERON | n::MISC_FEATURES_ENABLES | n::BIOS_UPDT_TRIG => 0,
            n::MCG_CAP => msr_rules::BANKS as u64,
            n::FEATURE_CONTROL => 1,
            n::TSC_ADJUST => m.tsc_adjust,
            n::SPEC_CTRL => m.spec_ctrl,
            n::BIOS_SIGN_ID if self.model.vendor() == Vendor::Amd => self.model.microcode().into(),
            n::BIOS_SIGN_ID => u64::from(self.model.microcode()) << 32,
            // No supervisor state components.
            n::XSS => 0,
            n::PLATFORM_INFO => 10 << 8 | 10 << 40,
            n::MTRRCAP => 0x500 | VARIABLE_MTRRS as u64,
            n::ARCH_CAPABILITIES => ARCH_CAPABILITIES,
            n::SYSENTER_CS => m.sysenter_cs,
            n::SYSENTER_ESP => m.sysenter_esp,
            n::SYSENTER_EIP => m.sysenter_eip,
            n::MCG_STATUS => m.mcg_status,
            n::PERF_STATUS => 10 << 8,
            n::PERF_CTL => m.perf_ctl,
            n::UMWAIT_CONTROL => m.umwait_control,
            n::CLOCK_MODULATION => m.clock_modulation,
            n::THERM_INTERRUPT => m.therm_interrupt,
            n::THERM_STATUS => 0,
            n::MISC_ENABLE => m.misc_enable,
            n::TEMPERATURE_TARGET => 100 << 16,
            n::ENERGY_PERF_BIAS => m.energy_perf_bias,
            n::DEBUGCTL => m.debugctl,
            n::POWER_CTL => m.power_ctl,
            n::PKG_CST_CONFIG_CONTROL => m.package_c_states,
            n::MTRR_PHYSBASE0..=n::MTRR_LAST => m.mtrr_variable[(msr - n::MTRR_PHYSBASE0) as usize],
            n::PAT => m.pat,
            n::MTRR_DEF_TYPE => m.mtrr_default,
            n::EFER => self.state.efer,
            n::STAR => m.star,
            n::LSTAR => m.lstar,
            n::CSTAR => m.cstar,
            n::FMASK => m.fmask,
            n::FS_BASE => self.state.segments[seg::FS].base,
            n::GS_BASE => self.state.segments[seg::GS].base,
            n::KERNEL_GS_BASE => m.kernel_gs_base,
            n::TSC_AUX => m.tsc_aux,
            _ if self.model.vendor() == Vendor::Amd && AMD.contains(&msr) => 0,
            _ => return FIXED_MTRRS.iter().position(|&f| f == msr).map(|i| m.mtrr_fixed[i]),
        })
    }

    /// Whether the model's features leave MSR `msr` in place.
    fn has_msr(&self, msr: u32) -> bool {
        match msr {
            // The latter is LSTAR, or a K6's write-allocation register.
            n::EFER | n::LSTAR => self.writable_in_efer() != 0,
            // RDPID alone brings it too.
            n::TSC_AUX => self.model.has(Feature::Rdtscp) || self.model.has(Feature::Rdpid),
            _ => needs(msr).is_none_or(|f| self.model.has(f)),
        }
    }

    /// Writes MSR `msr`; false is #GP.
    pub fn write_msr(&mut self, msr: u32, v: u64, at: u64) -> bool {
        if !self.has_msr(msr) {
            return false;
        }
        if let Some(known) = self.write_group_msr(msr, v) {
            return known.is_some();
        }
        if !msr_rules::admits(msr, v) {
            return false;
        }
        if self.model.vendor() == Vendor::Amd && AMD.contains(&msr) {
            return true;
        }
        let (base_ok, bhi) = (self.canonical_base(v), self.model.has(Feature::BhiCtrl));
        let m = &mut self.state.msr;
        let ok = match msr {
            n::LSTAR | n::CSTAR | n::FS_BASE | n::GS_BASE | n::KERNEL_GS_BASE | n::SYSENTER_ESP | n::SYSENTER_EIP => base_ok,
            n::PAT => (0..8).all(|i| memory_type(v >> (8 * i) & 0xff, true)),
            n::MTRR_DEF_TYPE => v & !0xcff == 0 && memory_type(v & 0xff, false),
            n::FMASK | n::TSC_AUX => v >> 32 == 0,
            // Bit 1 is reserved (SDM 4, table 2-2).
            n::UMWAIT_CONTROL => v >> 32 == 0 && v & 2 == 0,
            // IBRS, STIBP, SSBD; BHI_DIS_S.
            n::SPEC_CTRL => v & !(7 | if bhi { 1 << 10 } else { 0 }) == 0,
            n::PRED_CMD => v & !1 == 0,
            n::MCG_STATUS => v & !7 == 0,
            _ if FIXED_MTRRS.contains(&msr) => (0..8).all(|i| memory_type(v >> (8 * i) & 0xff, false)),
            _ => true,
        };
        if !ok {
            return false;
        }
        match msr {
            n::TSC => (m.tsc_adjust, self.time_moved) = (v.wrapping_sub(self.bus.time_stamp(at)), true),
            n::TSC_ADJUST => (m.tsc_adjust, self.time_moved) = (v, true),
            n::APIC_BASE | n::X2APIC..=n::X2APIC_LAST => return self.bus.apic_msr_write(at, msr, v),
            n::TSC_DEADLINE => {
                let v = if v == 0 { 0 } else { v.wrapping_sub(m.tsc_adjust).max(1) };
                return self.bus.apic_msr_write(at, msr, v);
            }
            n::SPEC_CTRL => m.spec_ctrl = v,
            // Commands to caches and predictors that do not exist, and a microcode update that changes nothing.
            n::PRED_CMD | n::FLUSH_CMD | n::BIOS_UPDT_TRIG | n::BIOS_SIGN_ID | n::THERM_STATUS => {}
            n::MISC_FEATURES_ENABLES => return v == 0,
            n::XSS => return v == 0,
            n::SYSENTER_CS => m.sysenter_cs = v & 0xffff_ffff,
            n::SYSENTER_ESP => m.sysenter_esp = v,
            n::SYSENTER_EIP => m.sysenter_eip = v,
            n::MCG_STATUS => m.mcg_status = v,
            n::PERF_CTL => m.perf_ctl = v,
            n::UMWAIT_CONTROL => m.umwait_control = v,
            n::CLOCK_MODULATION => m.clock_modulation = v,
            n::THERM_INTERRUPT => m.therm_interrupt = v,
            n::MISC_ENABLE => m.misc_enable = v | 0x1800,
            n::ENERGY_PERF_BIAS => m.energy_perf_bias = v,
            n::DEBUGCTL => m.debugctl = v,
            n::POWER_CTL => m.power_ctl = v,
            n::PKG_CST_CONFIG_CONTROL => m.package_c_states = v,
            n::MTRR_PHYSBASE0..=n::MTRR_LAST => m.mtrr_variable[(msr - n::MTRR_PHYSBASE0) as usize] = v,
            n::PAT => m.pat = v,
            n::MTRR_DEF_TYPE => m.mtrr_default = v,
            n::EFER => return self.set_efer(v),
            n::STAR => m.star = v,
            n::LSTAR => m.lstar = v,
            n::CSTAR => m.cstar = v,
            n::FMASK => m.fmask = v,
            n::FS_BASE => self.set_base(seg::FS, v),
            n::GS_BASE => self.set_base(seg::GS, v),
            n::KERNEL_GS_BASE => m.kernel_gs_base = v,
            n::TSC_AUX => m.tsc_aux = v,
            _ => match FIXED_MTRRS.iter().position(|&f| f == msr) {
                Some(i) => m.mtrr_fixed[i] = v,
                None => return false,
            },
        }
        true
    }

    /// Bits of EFER that can be set on this model, besides LMA.
    pub(super) fn writable_in_efer(&self) -> u64 {
        let of = |feature, bits| if self.model.has(feature) { bits } else { 0 };
        of(Feature::Syscall, bits::EFER_SCE) | of(Feature::Lm, bits::EFER_LME) | of(Feature::Nx, bits::EFER_NXE)
    }

    fn set_efer(&mut self, v: u64) -> bool {
        let writable = self.writable_in_efer();
        if writable == 0 {
            return false;
        }
        let old = self.state.efer;
        let paging = self.state.cr0 & bits::CR0_PG != 0;
        if v & !(writable | bits::EFER_LMA) != 0 || (paging && (old ^ v) & bits::EFER_LME != 0) {
            return false;
        }
        self.state.efer = v & writable | old & bits::EFER_LMA;
        if (old ^ v) & bits::EFER_NXE != 0 {
            self.flush_translations();
        }
        true
    }
}

fn rdmsr(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        cpu.need_cpl0()?;
        let msr = u32::get(&cpu.state.regs, reg::RCX);
        let at = cpu.now(op);
        let Some(v) = cpu.read_msr(msr, at) else { return refused(cpu, op, format_args!("RDMSR of {msr:#x}")) };
        u32::set(&mut cpu.state.regs, reg::RAX, v as u32);
        u32::set(&mut cpu.state.regs, reg::RDX, (v >> 32) as u32);
        Ok(())
    })
}

fn wrmsr(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        cpu.need_cpl0()?;
        let r = &cpu.state.regs;
        let (msr, low, high) = (u32::get(r, reg::RCX), u32::get(r, reg::RAX), u32::get(r, reg::RDX));
        let at = cpu.now(op);
        let v = u64::from(high) << 32 | u64::from(low);
        if cpu.write_msr(msr, v, at) { Ok(()) } else { refused(cpu, op, format_args!("WRMSR of {msr:#x} with {v:#x}")) }
    })
}

#[cold]
fn refused(cpu: &mut Cpu, op: &Op, what: std::fmt::Arguments) -> Result<(), Fault> {
    let rip = cpu.this_rip(op);
    cpu.log_unusual(Level::Debug, &format!("{what}: #GP"), rip);
    Err(cpu.gp(0))
}
