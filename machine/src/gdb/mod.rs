//! A server for gdb's remote protocol: `target remote ADDR:PORT`.
//!
//! Addresses are linear (after segmentation, before paging), so `break *ADDR` and `x/i ADDR` mean what the guest means by
//! them while its segments are flat. Breakpoints change no guest memory. A guest that ran on by itself is stopped when
//! gdb connects, and runs on when it detaches.

mod machine;
mod registers;
mod target;

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};

use gdbstub::common::Signal;
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use gdbstub::target::Target;

pub use machine::{Debugged, Session};
pub use registers::{Registers, read_memory};
use target::{Adapter, Motion, Quit};

/// Why a guest that was let run has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It is about to execute the instruction at a breakpoint.
    Breakpoint,
    /// It has done the one step that was asked for.
    Step,
    /// `poll` said so.
    Interrupted,
    /// It powered off or ended otherwise in order; the exit code.
    Ended(u8),
    /// It crashed (triple fault).
    Crashed,
}

/// A machine as a debugger sees it: one processor, and memory by linear address.
pub trait DebugTarget {
    /// The processor's registers.
    fn registers(&mut self) -> Registers;
    /// Puts `registers` in place; those that the machine cannot change so are left alone.
    fn set_registers(&mut self, registers: &Registers);
    /// Reads memory through the guest's page tables, without setting accessed bits and without side effects. How many
    /// bytes could be read.
    fn read_memory(&mut self, linear: u64, buf: &mut [u8]) -> usize;
    /// Writes memory through the guest's page tables, read-only pages too. False if not all of it is mapped RAM.
    fn write_memory(&mut self, linear: u64, bytes: &[u8]) -> bool;
    /// Sets or clears the breakpoint at `linear`.
    fn breakpoint(&mut self, linear: u64, on: bool);
    /// Executes one instruction.
    fn step(&mut self) -> StopReason;
    /// Executes until something stops the guest. `poll` is called every few milliseconds of host time; true interrupts.
    fn resume(&mut self, poll: &mut dyn FnMut() -> bool) -> StopReason;
    /// Resets the machine.
    fn reset(&mut self);
    /// The answer to a `monitor` command of the target's own; `None` if there is no such command.
    fn monitor(&mut self, command: &str) -> Option<String> {
        let _ = command;
        None
    }
    /// One line for each command of [`DebugTarget::monitor`].
    fn monitor_help(&self) -> &'static str {
        ""
    }
}

/// How a debugging session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// gdb has gone; the guest is to run on.
    Detached,
    /// gdb asked to end the guest (`kill`, `monitor quit`).
    Quit,
    /// The guest ended in order; the exit code.
    Ended(u8),
    /// The guest crashed (triple fault).
    Crashed,
}

/// A socket on which gdb may connect.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Listens at `PORT` (of 127.0.0.1) or `ADDR:PORT`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is not valid or is taken.
    pub fn bind(address: &str) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = match address.parse::<u16>() {
            Ok(port) => vec![(Ipv4Addr::LOCALHOST, port).into()],
            Err(_) => address.to_socket_addrs()?.collect(),
        };
        let listener = TcpListener::bind(&addresses[..])?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the host cannot tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The connection of a gdb, if one has arrived.
    ///
    /// # Errors
    /// When the host fails.
    pub fn poll(&self) -> io::Result<Option<TcpStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits until a gdb connects, or `stop` (asked some times a second) says to give up: `None`.
    ///
    /// # Errors
    /// When the host fails.
    pub fn wait(&self, stop: &mut dyn FnMut() -> bool) -> io::Result<Option<TcpStream>> {
        loop {
            if let Some(stream) = self.poll()? {
                return Ok(Some(stream));
            }
            if stop() {
                return Ok(None);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Lets the gdb at `stream` debug `target` until it goes or the guest ends. Its breakpoints are gone afterwards.
pub fn serve(stream: TcpStream, target: &mut dyn DebugTarget) -> SessionEnd {
    let mut adapter = Adapter { target, breakpoints: BTreeSet::new(), motion: Motion::Run, crashed: false };
    let result = GdbStub::new(stream).run_blocking::<Loop>(&mut adapter);
    for linear in std::mem::take(&mut adapter.breakpoints) {
        adapter.target.breakpoint(linear, false);
    }
    match result {
        Ok(DisconnectReason::TargetExited(code)) => SessionEnd::Ended(code),
        Ok(DisconnectReason::TargetTerminated(_)) => SessionEnd::Crashed,
        Ok(DisconnectReason::Kill) => SessionEnd::Quit,
        Ok(DisconnectReason::Disconnect) => SessionEnd::Detached,
        Err(e) if e.is_target_error() => SessionEnd::Quit,
        Err(e) => {
            log::info!("gdb has gone: {e}");
            SessionEnd::Detached
        }
    }
}

struct Loop<'a>(std::marker::PhantomData<&'a ()>);

impl<'a> BlockingEventLoop for Loop<'a> {
    type Target = Adapter<'a>;
    type Connection = TcpStream;
    type StopReason = SingleThreadStopReason<u64>;

    fn wait_for_stop_reason(
        adapter: &mut Adapter<'a>,
        stream: &mut TcpStream,
    ) -> Result<Event<Self::StopReason>, WaitForStopReasonError<Quit, io::Error>> {
        let reason = match adapter.motion {
            Motion::Step => adapter.target.step(),
            // A closed or broken connection counts as data: reading it then tells.
            Motion::Run => adapter.target.resume(&mut || !matches!(ConnectionExt::peek(stream), Ok(None))),
        };
        Ok(Event::TargetStopped(match reason {
            StopReason::Breakpoint => SingleThreadStopReason::SwBreak(()),
            StopReason::Step => SingleThreadStopReason::DoneStep,
            StopReason::Ended(code) => SingleThreadStopReason::Exited(code),
            // The first time the state can still be looked at; going on from there ends the session.
            StopReason::Crashed if std::mem::replace(&mut adapter.crashed, true) => SingleThreadStopReason::Terminated(Signal::SIGSEGV),
            StopReason::Crashed => SingleThreadStopReason::Signal(Signal::SIGSEGV),
            StopReason::Interrupted => {
                let byte = stream.read().map_err(WaitForStopReasonError::Connection)?;
                return Ok(Event::IncomingData(byte));
            }
        }))
    }

    fn on_interrupt(_: &mut Adapter<'a>) -> Result<Option<Self::StopReason>, <Self::Target as Target>::Error> {
        Ok(Some(SingleThreadStopReason::Signal(Signal::SIGINT)))
    }
}

#[cfg(test)]
mod tests;
