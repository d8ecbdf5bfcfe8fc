//! What MSRs admit (SDM 4, table 2-2), and those whole groups of which there is little: machine-check banks, counters.

use super::cpuid::Feature;
use super::models::Vendor;
use crate::mmu::PHYSICAL_BITS;
use crate::state::Cpu;

/// Machine-check banks, as MCG_CAP tells. Nothing is ever logged in them.
pub const BANKS: usize = 4;
/// Of a group that these rules know in full: what a read gives, or whether a write is carried out.
type Known<T> = Option<Option<T>>;

const BANK_FIRST: u32 = 0x400;
const BANK_LAST: u32 = BANK_FIRST + 4 * BANKS as u32 - 1;
/// PERFCTR0, PERFCTR1, EVNTSEL0, EVNTSEL1 of the P6 family.
const COUNTERS_INTEL: [u32; 4] = [0xc1, 0xc2, 0x186, 0x187];
/// PerfEvtSel0 to 3 and PerfCtr0 to 3.
const COUNTERS_AMD: std::ops::RangeInclusive<u32> = 0xc001_0000..=0xc001_0007;

const ABOVE: u64 = !((1 << PHYSICAL_BITS) - 1);
const VARIABLE_FIRST: u32 = 0x200;
const VARIABLE_LAST: u32 = 0x20f;

/// MSRs and the bits of them that are reserved: setting one is #GP(0).
const RESERVED: [(u32, u64); 9] = [
    // IA32_APIC_BASE; the APIC itself knows of its low bits.
    (0x1b, ABOVE),
    // IA32_FLUSH_CMD: L1D_FLUSH.
    (0x10b, !1),
    // IA32_PERF_CTL: the target, IDA disengage.
    (0x199, !(0xffff | 1 << 32)),
    // IA32_CLOCK_MODULATION.
    (0x19a, !0x1f),
    // IA32_THERM_INTERRUPT.
    (0x19b, !0x01ff_ff1f),
    // IA32_THERM_STATUS: the logs, which are written as 0 to clear them.
    (0x19c, !0xffff_ffff),
    // IA32_MISC_ENABLE, with what older processors had in it.
    (0x1a0, !(0x00dd_3ecd | 1 << 34 | 1 << 37 | 1 << 38 | 1 << 39)),
    // IA32_ENERGY_PERF_BIAS.
    (0x1b0, !0xf),
    // IA32_DEBUGCTL: LBR and BTF.
    (0x1d9, !3),
];

/// Whether MSR `msr`, if there is one, admits the value: no reserved bit is set, memory types exist.
#[must_use]
pub fn admits(msr: u32, v: u64) -> bool {
    match msr {
        // IA32_MTRR_PHYSBASEn: a type, and an address.
        VARIABLE_FIRST..=VARIABLE_LAST if msr & 1 == 0 => v & (ABOVE | 0xf00) == 0 && matches!(v & 0xff, 0 | 1 | 4 | 5 | 6),
        // IA32_MTRR_PHYSMASKn: bit 11 is V.
        VARIABLE_FIRST..=VARIABLE_LAST => v & (ABOVE | 0x7ff) == 0,
        _ => RESERVED.iter().all(|(m, reserved)| *m != msr || v & reserved == 0),
    }
}

impl Cpu {
    fn has_counter(&self, msr: u32) -> bool {
        match self.model.vendor() {
            Vendor::Amd => COUNTERS_AMD.contains(&msr),
            Vendor::Intel => COUNTERS_INTEL.contains(&msr),
        }
    }

    /// Reads an MSR of a machine-check bank or a performance counter; `None` if it is neither.
    ///
    /// CPUID tells of no performance monitoring, so only the counters from before it told of any are there: they stand still at 0.
    pub(super) fn read_group_msr(&self, msr: u32) -> Known<u64> {
        match msr {
            BANK_FIRST..=BANK_LAST if !self.model.has(Feature::Mca) => Some(None),
            // IA32_MCi_CTL; STATUS, ADDR and MISC are empty.
            BANK_FIRST..=BANK_LAST if msr % 4 == 0 => Some(Some(self.state.msr.bank_control[(msr - BANK_FIRST) as usize / 4])),
            BANK_FIRST..=BANK_LAST => Some(Some(0)),
            _ if self.has_counter(msr) => Some(Some(0)),
            _ => None,
        }
    }

    /// Writes one of those. STATUS, ADDR and MISC of a bank admit 0 alone (SDM 3B, 17.3.2.2).
    pub(super) fn write_group_msr(&mut self, msr: u32, v: u64) -> Known<()> {
        match msr {
            BANK_FIRST..=BANK_LAST if !self.model.has(Feature::Mca) => Some(None),
            BANK_FIRST..=BANK_LAST if msr % 4 == 0 => {
                self.state.msr.bank_control[(msr - BANK_FIRST) as usize / 4] = v;
                Some(Some(()))
            }
            BANK_FIRST..=BANK_LAST => Some((v == 0).then_some(())),
            _ if self.has_counter(msr) => Some(Some(())),
            _ => None,
        }
    }
}
