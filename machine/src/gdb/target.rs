//! What gdbstub asks, put to a [`DebugTarget`].

use std::collections::BTreeSet;

use super::{DebugTarget, Registers};
use gdbstub::arch::Arch;
use gdbstub::common::Signal;
use gdbstub::outputln;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep, SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, SwBreakpoint, SwBreakpointOps};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::{Target, TargetError, TargetResult};

/// x86-64 with system registers.
pub enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Registers;
    type RegId = ();
    type BreakpointKind = usize;

    fn target_description_xml() -> Option<&'static str> {
        Some(include_str!("target.xml"))
    }
}

/// How the guest is to move on.
#[derive(Clone, Copy)]
pub enum Motion {
    Step,
    Run,
}

/// `monitor quit`.
#[derive(Debug, thiserror::Error)]
#[error("quit")]
pub struct Quit;

pub struct Adapter<'a> {
    pub target: &'a mut dyn DebugTarget,
    pub breakpoints: BTreeSet<u64>,
    pub motion: Motion,
    /// The guest has crashed and gdb was told.
    pub crashed: bool,
}

impl Target for Adapter<'_> {
    type Arch = X86;
    type Error = Quit;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Quit> {
        BaseOps::SingleThread(self)
    }
    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Adapter<'_> {
    fn read_registers(&mut self, registers: &mut Registers) -> TargetResult<(), Self> {
        *registers = self.target.registers();
        Ok(())
    }
    fn write_registers(&mut self, registers: &Registers) -> TargetResult<(), Self> {
        self.target.set_registers(registers);
        Ok(())
    }
    fn read_addrs(&mut self, start: u64, buf: &mut [u8]) -> TargetResult<usize, Self> {
        match self.target.read_memory(start, buf) {
            0 if !buf.is_empty() => Err(TargetError::NonFatal),
            read => Ok(read),
        }
    }
    fn write_addrs(&mut self, start: u64, bytes: &[u8]) -> TargetResult<(), Self> {
        if self.target.write_memory(start, bytes) { Ok(()) } else { Err(TargetError::NonFatal) }
    }
    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Adapter<'_> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), Quit> {
        self.motion = Motion::Run;
        Ok(())
    }
    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Adapter<'_> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), Quit> {
        self.motion = Motion::Step;
        Ok(())
    }
}

impl Breakpoints for Adapter<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl Adapter<'_> {
    fn breakpoint(&mut self, linear: u64, on: bool) -> bool {
        let changed = if on { self.breakpoints.insert(linear) } else { self.breakpoints.remove(&linear) };
        if changed {
            self.target.breakpoint(linear, on);
        }
        changed
    }
}

impl SwBreakpoint for Adapter<'_> {
    fn add_sw_breakpoint(&mut self, linear: u64, _: usize) -> TargetResult<bool, Self> {
        self.breakpoint(linear, true);
        Ok(true)
    }
    fn remove_sw_breakpoint(&mut self, linear: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoint(linear, false))
    }
}

impl HwBreakpoint for Adapter<'_> {
    fn add_hw_breakpoint(&mut self, linear: u64, kind: usize) -> TargetResult<bool, Self> {
        self.add_sw_breakpoint(linear, kind)
    }
    fn remove_hw_breakpoint(&mut self, linear: u64, kind: usize) -> TargetResult<bool, Self> {
        self.remove_sw_breakpoint(linear, kind)
    }
}

impl MonitorCmd for Adapter<'_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Quit> {
        match String::from_utf8_lossy(command).trim() {
            "" | "help" => {
                outputln!(out, "{}reset                 reset the machine", self.target.monitor_help());
                outputln!(out, "quit                  end the machine\nhelp                  this list");
            }
            "reset" => {
                self.target.reset();
                self.crashed = false;
                outputln!(out, "the machine is reset; \"maintenance flush register-cache\" shows it");
            }
            "quit" => return Err(Quit),
            other => match self.target.monitor(other) {
                Some(text) => outputln!(out, "{}", text.trim_end()),
                None => outputln!(out, "there is no command {other:?}; see \"monitor help\""),
            },
        }
        Ok(())
    }
}
