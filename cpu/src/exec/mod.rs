//! Handlers, by instruction family. Each family has its `ROWS` of the instruction table.

pub mod alu;
pub mod avx;
pub mod control;
pub mod control_registers;
pub mod cpuid;
pub mod crypto;
pub mod data;
pub mod descriptor;
pub mod far;
pub mod fma;
pub mod interrupt;
pub mod io;
pub mod models;
pub mod msr;
pub mod msr_rules;
pub mod segment;
pub mod shift;
pub mod smm;
pub mod sse_float;
pub mod sse_integer;
pub mod sse_move;
pub mod string;
pub mod system;
mod task;
pub mod three_d_now;
pub mod vector;
mod vme;
pub mod wait;
pub mod x87;
pub mod xsave;

use iced_x86::{Instruction, Mnemonic};
use log::Level;

use crate::op::{Exit, Op, step};
use crate::state::Cpu;
use crate::table::Row;

/// The rows of all families.
#[must_use]
pub fn families() -> Vec<&'static [Row]> {
    vec![
        alu::ROWS,
        control::ROWS,
        data::ROWS,
        shift::ROWS,
        smm::ROWS,
        string::ROWS,
        x87::ROWS,
        sse_integer::PACKED,
        three_d_now::ROWS,
        sse_integer::ROWS,
        sse_move::ROWS,
        sse_float::ARITHMETIC,
        sse_float::ROWS,
        avx::CROSSING,
        avx::ROWS,
        fma::FUSED,
        fma::WIDENING,
        fma::ROWS,
        crypto::ROWS,
        xsave::ROWS,
        control_registers::ROWS,
        cpuid::ROWS,
        far::ROWS,
        io::ROWS,
        msr::ROWS,
        segment::ROWS,
        system::ROWS,
        wait::ROWS,
    ]
}

/// How many instructions that are not implemented are told of at level "warn".
const MOST_TOLD: u32 = 20;

/// An encoding that is no instruction: #UD.
pub fn invalid(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let rip = cpu.this_rip(op);
        cpu.log_unusual(Level::Debug, "invalid opcode", rip);
        Err(cpu.ud())
    })
}

/// An instruction longer than 15 bytes: #GP(0) (SDM 3A, 6.15, interrupt 13).
pub fn too_long(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| Err(cpu.gp(0)))
}

/// A valid instruction without a row (its feature is not advertised): #UD, loudly.
pub fn unimplemented(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let rip = cpu.this_rip(op);
        // Loud, but a guest that tries again and again must not flood the host's log.
        cpu.told = cpu.told.saturating_add(1);
        let level = if cpu.told <= MOST_TOLD { Level::Warn } else { Level::Debug };
        cpu.log_unusual(level, "instruction not implemented: #UD", rip);
        Err(cpu.ud())
    })
}

/// Whether the handler is one that stands for an instruction that cannot be carried out.
#[must_use]
pub fn is_refusal(handler: crate::op::Handler) -> bool {
    [invalid, unimplemented, vector::without_sse, vector::without_avx]
        .into_iter()
        .any(|h| std::ptr::fn_addr_eq(handler, h as crate::op::Handler))
}

/// Whether a block must end after this instruction although control flow goes on: its handler uses [`crate::op::last`].
#[must_use]
pub fn ends_block(i: &Instruction) -> bool {
    use Mnemonic as M;
    let to_system_register =
        i.op_count() > 0 && (i.op0_register().is_cr() || i.op0_register().is_dr() || i.op0_register().is_segment_register());
    match i.mnemonic() {
        M::Mov | M::Pop => to_system_register,
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => true,
        M::Sti | M::Cli | M::Hlt | M::Popf | M::Popfd | M::Popfq => true,
        M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => true,
        M::Lmsw | M::Clts | M::Lgdt | M::Lidt | M::Lldt | M::Ltr | M::Invlpg | M::Invpcid | M::Invd | M::Wbinvd | M::Wbnoinvd => true,
        M::Wrmsr | M::Rdmsr | M::Rdtsc | M::Rdtscp | M::Swapgs | M::Wrfsbase | M::Wrgsbase | M::Xsetbv => true,
        M::Mwait | M::Umwait | M::Tpause | M::Pause | M::Wrpkru | M::Rdrand | M::Rdseed => true,
        _ => false,
    }
}

impl Cpu {
    /// One line about something unusual: what, where, and the bytes there.
    #[cold]
    pub fn log_unusual(&mut self, level: Level, what: &str, rip: u64) {
        if log::log_enabled!(level) {
            let mut bytes = [0; 15];
            let linear = self.state.segments[crate::state::seg::CS].base.wrapping_add(rip);
            let known = self.debug_read(linear, &mut bytes);
            log::log!(level, "{what} at {rip:#x}: {}", if known { format!("{bytes:02x?}") } else { "bytes not mapped".into() });
        }
    }
}
