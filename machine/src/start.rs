//! How the first processor starts: an [`Entry`] put into architectural state.

use softmetal_cpu::State;
use softmetal_cpu::state::{Segment, TableRegister, bits, reg, seg};
use softmetal_firmware::Entry;
use softmetal_firmware::entry::{CODE_SELECTOR, DATA_SELECTOR, Gdt, TASK_SELECTOR};

/// Descriptors of flat segments, as in the loaders' own table (SDM 3A, 3.4.5).
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
const TASK: u64 = 0x0000_8b00_0000_0067;

/// Changes `state`, that of a processor after reset, into that of `entry`.
pub fn enter(state: &mut State, entry: &Entry) {
    state.cr0 = bits::CR0_ET;
    match *entry {
        Entry::Real { cs, ip, sp, dl } => {
            for n in 0..6 {
                state.segments[n] = Segment::real(0);
            }
            state.segments[seg::CS] = Segment { attributes: 0x9b, ..Segment::real(cs) };
            state.rip = ip.into();
            state.regs[usize::from(reg::RSP)] = sp.into();
            state.regs[usize::from(reg::RDX)] = dl.into();
            state.idtr = TableRegister { base: 0, limit: 0x3ff };
        }
        Entry::Protected { eip, eax, ebx, esi, esp, gdt } => {
            flat(state, gdt, CODE_32);
            state.cr0 |= bits::CR0_PE;
            state.rip = eip.into();
            for (register, value) in [(reg::RAX, eax), (reg::RBX, ebx), (reg::RSI, esi), (reg::RSP, esp)] {
                state.regs[usize::from(register)] = value.into();
            }
        }
        Entry::Long { rip, rsi, rsp, cr3, gdt } => {
            flat(state, gdt, CODE_64);
            state.cr0 |= bits::CR0_PE | bits::CR0_PG;
            state.cr3 = cr3;
            state.cr4 = bits::CR4_PAE;
            state.efer = bits::EFER_LME | bits::EFER_LMA;
            state.rip = rip;
            state.regs[usize::from(reg::RSI)] = rsi;
            state.regs[usize::from(reg::RSP)] = rsp;
        }
    }
    for n in 0..6 {
        state.bases[n] = state.segments[n].base;
    }
}

/// Flat segments from the loaders' descriptor table.
fn flat(state: &mut State, gdt: Gdt, code: u64) {
    for n in 0..6 {
        state.segments[n] = Segment::from_descriptor(DATA_SELECTOR, DATA);
    }
    state.segments[seg::CS] = Segment::from_descriptor(CODE_SELECTOR, code);
    state.tr = Segment::from_descriptor(TASK_SELECTOR, TASK);
    state.gdtr = TableRegister { base: gdt.base, limit: gdt.limit };
    state.idtr = TableRegister { base: 0, limit: 0 };
}
