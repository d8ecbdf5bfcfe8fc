//! What gdbstub asks, put to a [`DebugTarget`].

use std::collections::BTreeSet;

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
use gdbstub_arch::x86::reg::X86_64CoreRegs;

use super::DebugTarget;

/// The registers that gdb sees: the core and SSE registers, then the bases of FS and GS and the system registers that it
/// shows under "info registers system".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registers {
    /// General, segment, x87 and SSE registers.
    pub core: X86_64CoreRegs,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: u64,
}

impl Registers {
    /// Those after the core, in the order of `target.xml`.
    fn rest(&mut self) -> [&mut u64; 9] {
        let Self { core: _, fs_base, gs_base, kernel_gs_base, cr0, cr2, cr3, cr4, cr8, efer } = self;
        [fs_base, gs_base, kernel_gs_base, cr0, cr2, cr3, cr4, cr8, efer]
    }
}

impl gdbstub::arch::Registers for Registers {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        for register in self.clone().rest() {
            register.to_le_bytes().into_iter().for_each(|b| write_byte(Some(b)));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let rest = self.rest();
        let split = bytes.len().checked_sub(rest.len() * 8).ok_or(())?;
        for (register, bytes) in rest.into_iter().zip(bytes[split..].chunks_exact(8)) {
            *register = bytes.try_into().map(u64::from_le_bytes).map_err(|_| ())?;
        }
        self.core.gdb_deserialize(&bytes[..split])
    }
}

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
            "" | "help" => outputln!(out, "reset   reset the machine\nquit    end the machine\nhelp    this list"),
            "reset" => {
                self.target.reset();
                outputln!(out, "the machine is reset; \"maintenance flush register-cache\" shows it");
            }
            "quit" => return Err(Quit),
            other => outputln!(out, "there is no command {other:?}; see \"monitor help\""),
        }
        Ok(())
    }
}
