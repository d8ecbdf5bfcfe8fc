//! The figures of a run.

use std::fmt;

use serde::Serialize;
use softmetal_cpu::Engine;

use crate::machine::Machine;

/// The figures of a run, as `--stats` and `--stats-json` show them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Host seconds.
    pub wall_s: f64,
    /// Virtual seconds.
    pub virtual_s: f64,
    /// Retired instructions.
    pub instructions: u64,
    /// Millions of instructions a host second.
    pub mips: f64,
    /// The engine that ran them.
    pub engine: &'static str,
    /// Basic blocks that were decoded.
    pub blocks_decoded: u64,
    /// Basic blocks that were translated to host code.
    pub blocks_translated: u64,
    /// Misses of the software TLB.
    pub tlb_misses: u64,
    /// Returns from blocks to the run loop.
    pub exits: u64,
    /// The hash of the whole state.
    pub state_hash: String,
}

impl Stats {
    /// The figures of `machine` after `wall_s` seconds.
    #[must_use]
    pub fn of(machine: &mut Machine, wall_s: f64) -> Self {
        let instructions = machine.icount();
        let virtual_s = machine.now().0 as f64 / 1e9;
        let state_hash = machine.state_hash();
        let p = machine.processor();
        Self {
            wall_s,
            virtual_s,
            instructions,
            mips: instructions as f64 / 1e6 / wall_s.max(1e-9),
            engine: match (machine.is_in_lockstep(), p.engine()) {
                (true, _) => "lockstep",
                (false, Engine::Interpreter) => "interpreter",
                (false, Engine::Translator) => "translator",
            },
            blocks_decoded: p.blocks_decoded(),
            blocks_translated: p.blocks_translated(),
            tlb_misses: p.cpu.mmu.misses,
            exits: p.exits,
            state_hash,
        }
    }

    /// As JSON, one key a line.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("figures are plain data");
        text.push('\n');
        text
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wall_s, virtual_s, instructions, mips, engine, blocks_decoded, blocks_translated, tlb_misses, exits, state_hash } = self;
        writeln!(f, "wall_s            {wall_s:.3}")?;
        writeln!(f, "virtual_s         {virtual_s:.3}")?;
        writeln!(f, "instructions      {instructions}")?;
        writeln!(f, "mips              {mips:.1}")?;
        writeln!(f, "engine            {engine}")?;
        writeln!(f, "blocks_decoded    {blocks_decoded}")?;
        writeln!(f, "blocks_translated {blocks_translated}")?;
        writeln!(f, "tlb_misses        {tlb_misses}")?;
        writeln!(f, "exits             {exits}")?;
        writeln!(f, "state_hash        {state_hash}")
    }
}
