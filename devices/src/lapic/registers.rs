//! The registers, numbered by their offset in the window divided by 16, which is their MSR number less 0x800.

use softmetal_bus::{Ctx, Time};

use super::{
    BASE_BSP, BASE_ENABLE, BASE_X2APIC, LVT_LEVEL, LVT_MASKED, LVT_REMOTE_IRR, Lapic, Message, SVR_ENABLE, SVR_SUPPRESS_EOI, State, TIMER,
};

mod reg {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const APR: u32 = 0x09;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const RRD: u32 = 0x0c;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT: u32 = 0x32;
    pub const LVT_LAST: u32 = 0x37;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// EOI broadcasts can be suppressed, six entries in the local vector table, version 0x14.
const VERSION: u32 = 0x105_0014;
/// Vector, software enable, EOI broadcast suppression (SDM 3A, figure 11-23).
const SVR_WRITABLE: u32 = 0x1ff | SVR_SUPPRESS_EOI;
/// What software can write of each entry of the local vector table.
const LVT_WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Delivery status and remote IRR are read-only; other bits outside [`LVT_WRITABLE`] are reserved.
const LVT_READ_ONLY: u32 = 1 << 12 | LVT_REMOTE_IRR;
const ICR_WRITABLE: u32 = 0x000c_cfff;
/// Reserved in x2APIC mode; bit 12, the delivery status that is no more, is tolerated.
const ICR_RESERVED: u32 = !(ICR_WRITABLE | 1 << 12);

/// The MSRs.
const IA32_APIC_BASE: u32 = 0x1b;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_LAST: u32 = 0x83f;
/// Bits 7:0, 9 and those above the widest physical address.
const BASE_RESERVED: u64 = 0xfff0_0000_0000_02ff;

impl Lapic {
    /// `None` if there is no such register.
    pub(super) fn load_register(&mut self, now: Time, register: u32) -> Option<u32> {
        let state = &self.state;
        let x2apic = state.x2apic();
        Some(match register {
            reg::ID => {
                if x2apic {
                    self.id
                } else {
                    self.id << 24
                }
            }
            reg::VERSION => VERSION,
            reg::TPR => state.tpr.into(),
            // Arbitration and remote read, of buses of old; EOI is write-only.
            reg::APR | reg::RRD | reg::EOI if !x2apic => 0,
            reg::PPR => state.ppr().into(),
            reg::LDR => self.logical_id(),
            reg::DFR if !x2apic => state.dfr,
            reg::SVR => state.svr,
            reg::ISR..reg::TMR => state.isr.0[(register - reg::ISR) as usize],
            reg::TMR..reg::IRR => state.tmr.0[(register - reg::TMR) as usize],
            reg::IRR..reg::ESR => state.irr.0[(register - reg::IRR) as usize],
            reg::ESR => state.esr,
            reg::ICR => state.icr as u32,
            reg::ICR_HIGH if !x2apic => (state.icr >> 32) as u32,
            reg::LVT..=reg::LVT_LAST => state.lvt[(register - reg::LVT) as usize],
            reg::INITIAL_COUNT => state.timer.initial(),
            reg::CURRENT_COUNT => self.timer_count(now),
            reg::DIVIDE => state.timer.divide(),
            _ => return None,
        })
    }

    /// False if there is no such register, it cannot be written, or `value` has bits that x2APIC mode refuses.
    pub(super) fn store_register(&mut self, ctx: &mut Ctx, register: u32, value: u32) -> bool {
        let x2apic = self.state.x2apic();
        let refused = |reserved: u32| x2apic && value & reserved != 0;
        match register {
            reg::TPR if !refused(!0xff) => {
                self.state.tpr = value as u8;
                self.update(ctx);
            }
            reg::EOI if !refused(!0) => self.end_of_interrupt(ctx),
            reg::LDR if !x2apic => self.state.ldr = value & 0xff00_0000,
            reg::DFR if !x2apic => self.state.dfr = value | 0x0fff_ffff,
            reg::SVR if !refused(!SVR_WRITABLE) => {
                self.state.svr = value & SVR_WRITABLE;
                if self.state.svr & SVR_ENABLE == 0 {
                    for index in 0..self.state.lvt.len() {
                        self.store_lvt(ctx, index, self.state.lvt[index]);
                    }
                }
            }
            reg::ESR if !refused(!0) => self.state.esr = std::mem::take(&mut self.state.esr_pending),
            reg::ICR if !x2apic => {
                self.state.icr = self.state.icr & !0xffff_ffff | u64::from(value & ICR_WRITABLE);
                self.send_ipi(ctx);
            }
            reg::ICR_HIGH if !x2apic => {
                self.state.icr = self.state.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32;
            }
            reg::LVT..=reg::LVT_LAST => {
                let index = (register - reg::LVT) as usize;
                if refused(!(LVT_WRITABLE[index] | LVT_READ_ONLY)) {
                    return false;
                }
                self.store_lvt(ctx, index, value);
            }
            reg::INITIAL_COUNT => self.set_timer_initial(ctx, value),
            reg::DIVIDE if !refused(!0x0b) => self.set_timer_divide(ctx, value & 0x0b),
            reg::SELF_IPI if x2apic && !refused(!0xff) => {
                if value < 16 {
                    self.error(ctx, super::SEND_ILLEGAL_VECTOR);
                } else {
                    self.deliver(ctx, Message::fixed(value as u8));
                }
            }
            _ => return false,
        }
        true
    }

    fn store_lvt(&mut self, ctx: &mut Ctx, index: usize, value: u32) {
        let old = self.state.lvt[index];
        let mut entry = value & LVT_WRITABLE[index];
        if self.state.svr & SVR_ENABLE == 0 {
            entry |= LVT_MASKED;
        }
        if entry & LVT_LEVEL != 0 {
            entry |= old & LVT_REMOTE_IRR;
        }
        if index == TIMER {
            self.set_timer_entry(ctx, entry);
            return;
        }
        self.state.lvt[index] = entry;
        // A level that was held back by the mask.
        for pin in 0..self.state.lint.len() {
            if index == super::LINT0 + pin && self.state.lint[pin] && self.lint_is_level(pin) {
                self.lint_interrupt(ctx, pin);
            }
        }
    }

    /// RDMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register; `None` is #GP.
    pub fn msr_read(&mut self, ctx: &mut Ctx, msr: u32) -> Option<u64> {
        match msr {
            IA32_APIC_BASE => Some(self.state.base),
            IA32_TSC_DEADLINE => Some(self.timer_deadline(ctx)),
            X2APIC_FIRST..=X2APIC_LAST if self.state.x2apic() => match msr - X2APIC_FIRST {
                reg::ICR => Some(self.state.icr),
                register => self.load_register(ctx.now, register).map(u64::from),
            },
            _ => None,
        }
    }

    /// WRMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register; false is #GP.
    pub fn msr_write(&mut self, ctx: &mut Ctx, msr: u32, value: u64) -> bool {
        match msr {
            IA32_APIC_BASE => self.set_base(ctx, value),
            IA32_TSC_DEADLINE => {
                self.set_timer_deadline(ctx, value);
                true
            }
            X2APIC_FIRST..=X2APIC_LAST if self.state.x2apic() => match (msr - X2APIC_FIRST, u32::try_from(value)) {
                (reg::ICR, _) if value as u32 & ICR_RESERVED == 0 => {
                    self.state.icr = value & (!0 << 32 | u64::from(ICR_WRITABLE));
                    self.send_ipi(ctx);
                    true
                }
                (register, Ok(value)) => self.store_register(ctx, register, value),
                _ => false,
            },
            _ => false,
        }
    }

    /// SDM 3A 11.12.5: which transitions between disabled, xAPIC and x2APIC mode are allowed.
    fn set_base(&mut self, ctx: &mut Ctx, value: u64) -> bool {
        if value & BASE_RESERVED != 0 {
            return false;
        }
        let mode = |base: u64| (base & BASE_ENABLE != 0, base & BASE_X2APIC != 0);
        match (mode(self.state.base), mode(value)) {
            (_, (false, true)) | ((false, _), (true, true)) | ((true, true), (true, false)) => {
                return false;
            }
            _ => {}
        }
        let base = value & !BASE_BSP | self.state.base & BASE_BSP;
        if value & BASE_ENABLE == 0 && self.state.enabled() {
            let (intr, lint) = (self.state.intr, self.state.lint);
            let waits_for_sipi = self.state.waits_for_sipi;
            let tsc_offset = self.state.timer.tsc_offset();
            self.state = State { intr, lint, waits_for_sipi, ..State::new(base, tsc_offset) };
            ctx.cancel(0);
            self.update(ctx);
        }
        if base & !0xfff != self.state.base & !0xfff {
            log::warn!("lapic {}: window moved to {:#x}", self.id, base & !0xfff);
        }
        self.state.base = base;
        true
    }
}
