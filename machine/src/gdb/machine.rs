//! A [`Machine`] as a debugger's target.
//!
//! A step is the next retired event of the run, whatever it is: an instruction, one iteration of a repeated string
//! instruction, or the delivery of an exception or interrupt (the step then ends on the handler's first instruction).
//! Interrupts are not held off: virtual time goes on only with instructions, so a stepped guest meets no more of them
//! than a running one, and a run in which a debugger looked on retires the same instructions as one without.

use std::fmt::Write;
use std::time::Duration;

use softmetal_bus::{PAGE_SIZE, PageKind, Request};

use super::{DebugTarget, Registers, StopReason, read_memory};
use crate::crash;
use crate::machine::{InputEvent, Machine, Turn};

/// The loop around a machine that is debugged: it serves the guest's ports, its clock and its requests between turns.
pub trait Session {
    /// The machine.
    fn machine(&mut self) -> &mut Machine;
    /// Runs the guest and serves the host, for some milliseconds of host time and to instruction count `limit` at most.
    /// `None`: it may go on. [`StopReason::Step`] and [`StopReason::Interrupted`] are the debugger's own and mean the same.
    fn slice(&mut self, limit: u64) -> Option<StopReason>;
}

/// A machine by itself, on the virtual clock. Its output stays with it.
impl Session for Machine {
    fn machine(&mut self) -> &mut Machine {
        self
    }

    fn slice(&mut self, limit: u64) -> Option<StopReason> {
        const SLICE: u64 = 1_000_000;
        match self.run_until(limit.min(self.icount().saturating_add(SLICE))) {
            Turn::Breakpoint => Some(StopReason::Breakpoint),
            Turn::Shutdown => Some(StopReason::Crashed),
            Turn::Request(Request::PowerOff) => Some(StopReason::Ended(0)),
            Turn::Request(Request::DebugExit(v)) => Some(StopReason::Ended((v << 1) as u8 | 1)),
            Turn::Request(Request::Reset | Request::ResetProcessor) => {
                self.apply(InputEvent::Reset);
                None
            }
            _ => None,
        }
    }
}

/// What gdb sees of a machine in its session.
pub struct Debugged<'a> {
    session: &'a mut dyn Session,
}

impl<'a> Debugged<'a> {
    /// The machine of `session`.
    pub fn new(session: &'a mut dyn Session) -> Self {
        Self { session }
    }

    /// Pauses where nothing happens in the guest until something comes from outside.
    fn rest(&mut self, before: u64) {
        if self.session.machine().icount() == before {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// How often a step is tried that makes no progress (the guest halts and nothing wakes it).
const STEP_TRIES: u32 = 50;

impl DebugTarget for Debugged<'_> {
    fn registers(&mut self) -> Registers {
        Registers::of(&mut self.session.machine().processor_mut().cpu)
    }

    fn set_registers(&mut self, registers: &Registers) {
        registers.apply(&mut self.session.machine().processor_mut().cpu);
    }

    fn read_memory(&mut self, linear: u64, buf: &mut [u8]) -> usize {
        read_memory(&mut self.session.machine().processor_mut().cpu, linear, buf)
    }

    fn write_memory(&mut self, linear: u64, bytes: &[u8]) -> bool {
        self.session.machine().processor_mut().cpu.debug_write(linear, bytes)
    }

    fn breakpoint(&mut self, linear: u64, on: bool) {
        let breakpoints = self.session.machine().processor_mut().breakpoints_mut();
        if on {
            breakpoints.insert(linear)
        } else {
            breakpoints.remove(&linear)
        };
    }

    fn step(&mut self) -> StopReason {
        // The instruction is done even if a breakpoint is on it.
        let breakpoints = std::mem::take(self.session.machine().processor_mut().breakpoints_mut());
        let start = self.session.machine().icount();
        let mut reason = StopReason::Step;
        for _ in 0..STEP_TRIES {
            let before = self.session.machine().icount();
            if let Some(end @ (StopReason::Ended(_) | StopReason::Crashed)) = self.session.slice(start + 1) {
                reason = end;
                break;
            }
            if self.session.machine().icount() != start {
                break;
            }
            self.rest(before);
        }
        *self.session.machine().processor_mut().breakpoints_mut() = breakpoints;
        reason
    }

    fn resume(&mut self, poll: &mut dyn FnMut() -> bool) -> StopReason {
        loop {
            let before = self.session.machine().icount();
            match self.session.slice(u64::MAX) {
                None | Some(StopReason::Step | StopReason::Interrupted) => {}
                Some(reason) => return reason,
            }
            if poll() {
                return StopReason::Interrupted;
            }
            self.rest(before);
        }
    }

    fn reset(&mut self) {
        self.session.machine().apply(InputEvent::Reset);
    }

    fn monitor(&mut self, command: &str) -> Option<String> {
        let machine = self.session.machine();
        let mut words = command.split_whitespace();
        let text = match (words.next()?, words.next(), words.next(), words.next()) {
            ("registers", None, ..) => crash::registers(machine.processor()),
            ("disassemble", count, None, _) => match count.map_or(Some(10), number) {
                Some(n) => crash::disassembly(machine.processor_mut(), n.min(1000) as usize),
                None => USAGE.into(),
            },
            ("physical", Some(addr), len, None) => match (number(addr), len.map_or(Some(64), number)) {
                (Some(addr), Some(len)) => dump(machine, addr, len.min(0x1_0000)),
                _ => USAGE.into(),
            },
            ("count", None, ..) => {
                format!("{} instructions, {} ns of virtual time\n", machine.icount(), machine.now().0)
            }
            ("registers" | "disassemble" | "physical" | "count", ..) => USAGE.into(),
            _ => return None,
        };
        Some(text)
    }

    fn monitor_help(&self) -> &'static str {
        USAGE
    }
}

const USAGE: &str = "\
registers             all registers, with the hidden parts of the segments
disassemble [COUNT]   the instructions at RIP, in the guest's mode
physical ADDR [LEN]   physical memory
count                 retired instructions and virtual time
";

/// A decimal or hexadecimal (0x) number.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Physical memory in hexadecimal, 16 bytes a line; only memory, no device is touched.
fn dump(machine: &mut Machine, addr: u64, len: u64) -> String {
    const OFFSET: u64 = PAGE_SIZE as u64 - 1;
    let cpu = &machine.processor().cpu;
    let mut out = String::new();
    for i in 0..len {
        let Some(at) = addr.checked_add(i) else { break };
        if i % 16 == 0 {
            let _ = write!(out, "{}{at:016x}:", if i == 0 { "" } else { "\n" });
        }
        let mut byte = [0];
        let found = match cpu.bus.page(at & !OFFSET) {
            PageKind::Memory { offset, .. } => cpu.memory.read(offset + (at & OFFSET), &mut byte).is_ok(),
            PageKind::Device => false,
        };
        let _ = if found { write!(out, " {:02x}", byte[0]) } else { out.write_str(" --") };
    }
    out.push('\n');
    out
}
