//! A machine and its user: the loop that runs one, hands its output on, lets input in, and holds its clock.
//!
//! | module | what it is |
//! |---|---|
//! | `end` | how a session ends, and the exit codes |
//! | `monitor` | the commands behind `Ctrl-A c` |
//! | `stats` | the figures of a run |
//! | `status` | the line on a terminal while the guest says nothing |
//!
//! Whatever enters the machine does so between two of its turns. With the virtual clock and no input, where the turns end
//! depends on the machine alone, so two such runs are the same. With the host's clock, virtual time that lags is set
//! forward between turns, and those steps are input events.

mod end;
mod monitor;
mod stats;
mod status;

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::Receiver;
use regex::bytes::Regex;
use softmetal_bus::{Request, Time};

pub use end::End;
pub use stats::Stats;

use crate::board::chips::id;
use crate::crash;
use crate::gdb::{self, Debugged, SessionEnd, StopReason};
use crate::host::clock::{HostClock, Stopwatch};
use crate::host::events::{Event, Events};
use crate::host::serial::Serial;
use crate::host::terminal::{self, Key, Keys, RawTerminal};
use crate::machine::{InputEvent, Machine, Turn};
use crate::screen::Reader;
use crate::script::{Script, Step, Verdict};
use monitor::Next;
use status::Status;

/// Where a debugger may connect.
pub struct Debugger {
    /// The socket.
    pub server: gdb::Server,
    /// The guest starts only when gdb has connected.
    pub wait: bool,
}

/// What virtual time follows while the guest waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The host's clock.
    Host,
    /// Nothing: it jumps to the next timer.
    Virtual,
}

/// How a session is led.
#[derive(Clone, Debug)]
pub struct Options {
    /// What virtual time follows.
    pub clock: Clock,
    /// A reset of the guest ends the run.
    pub no_reboot: bool,
    /// The most host time.
    pub timeout: Option<Duration>,
    /// The most virtual time.
    pub guest_timeout: Option<Duration>,
    /// What is waited for and typed, in order.
    pub steps: Vec<Step>,
    /// What must not appear.
    pub forbidden: Vec<Regex>,
    /// The run is a test: it ends when its script does, and is judged by it.
    pub judge: bool,
    /// The exit code of the debug-exit port that means success.
    pub success_code: Option<u8>,
    /// What is typed when the guest waits for input and there will be none any more.
    pub farewell: Option<u8>,
}

/// Why the guest does not simply go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The session is over.
    End(End),
    /// The next instruction is at a breakpoint.
    Breakpoint,
}

/// Instructions in a slice on the virtual clock: the longest time between a byte of output and the answer of a script.
const SLICE: u64 = 1_000_000;
/// The same while typed bytes wait for the guest to take them, or it is to see a tick before the next one comes.
const SHORT_SLICE: u64 = 20_000;
/// How long a slice with the host's clock ought to take.
const PACE: Duration = Duration::from_millis(5);
/// Virtual time that lags less is left alone, in nanoseconds.
const LAG: u64 = 1_000_000;
/// Virtual time that lags more has been held up (the host slept, the terminal was stopped): the guest is spared that.
const GAP: u64 = Time::SECOND;
/// Bytes that may wait for the guest before a pipe is made to wait; a terminal is always listened to.
const TYPED: usize = 64 << 10;
/// How much serial output is kept for the report of a failed test, in bytes.
const TAIL: usize = 16 << 10;
/// How many lines of it are shown.
const TAIL_LINES: usize = 25;
/// How many crashes with a reset are told of.
const CRASHES_TOLD: u32 = 5;

/// How often a debugger's socket is looked at.
const GDB_PERIOD: Duration = Duration::from_millis(20);

/// How often it is looked whether work on the host has ended, while the guest idles.
const HOST_PERIOD: Duration = Duration::from_micros(100);

/// Virtual time between two looks at the screen, in nanoseconds.
const LOOK: u64 = 50_000_000;
/// Virtual time between two keys that are typed, in nanoseconds: a BIOS keeps no more than 15.
const KEY: u64 = 10_000_000;

const KEYS_HELP: &str = "\
Ctrl-A x  quit
Ctrl-A c  monitor: look at the machine, reset it
Ctrl-A a  send Ctrl-A to the guest
Ctrl-A h  this help; Ctrl-C and all other keys go to the guest";

/// A machine being run for a user.
pub struct Session {
    machine: Machine,
    options: Options,
    serial: Serial,
    events: Events,
    keys: Keys,
    raw: Option<RawTerminal>,
    clock: Option<HostClock>,
    started: Stopwatch,
    status: Status,
    script: Script,
    /// Bytes that wait for room in the serial port.
    typed: VecDeque<u8>,
    /// Keys that are to be pressed, and when the next one may be.
    strokes: VecDeque<Vec<u8>>,
    next_stroke: Time,
    reader: Reader,
    /// When the script last looked at the screen.
    seen: Time,
    /// The end of the serial output.
    tail: VecDeque<u8>,
    /// Instructions in a slice with the host's clock.
    pace: u64,
    crashes: u32,
    debugger: Option<Debugger>,
    /// When the debugger's socket was last looked at.
    looked: Duration,
    /// How the guest ended while it was debugged.
    ended: Option<End>,
    /// A device waits for work on the host.
    host_work: bool,
    /// Virtual time lags, and a timer is due before it can catch up.
    behind: bool,
}

impl Session {
    /// A session with `machine`, whose first serial port leads to `serial`. A terminal becomes raw until the session is
    /// dropped.
    #[must_use]
    pub fn new(mut machine: Machine, serial: Serial, signals: Receiver<i32>, options: Options) -> Self {
        // A saved machine may have run by another clock.
        machine.set_host_paced(options.clock == Clock::Host);
        let raw = if serial.interactive && terminal::interactive() { RawTerminal::enter() } else { None };
        if raw.is_some() {
            terminal::say("softmetal: Ctrl-A x quits, Ctrl-A h lists the keys");
        }
        let script = Script::new(options.steps.clone(), options.forbidden.clone());
        Self {
            clock: (options.clock == Clock::Host).then(|| HostClock::starting(machine.now())),
            events: Events::new(serial.input.clone(), signals),
            machine,
            options,
            serial,
            keys: Keys::default(),
            raw,
            started: Stopwatch::start(),
            status: Status::new(),
            script,
            typed: VecDeque::new(),
            strokes: VecDeque::new(),
            next_stroke: Time(0),
            reader: Reader::default(),
            seen: Time(0),
            tail: VecDeque::new(),
            pace: 100_000,
            crashes: 0,
            debugger: None,
            looked: Duration::ZERO,
            ended: None,
            host_work: false,
            behind: false,
        }
    }

    /// Lets gdb connect.
    pub fn debug(&mut self, debugger: Debugger) {
        self.debugger = Some(debugger);
    }

    /// Runs to the end.
    pub fn run(&mut self) -> End {
        let mut end = self.wait_for_gdb().or_else(|| self.feed(&[]));
        while end.is_none() {
            end = self.look_for_gdb();
            if end.is_some() {
                break;
            }
            if let Some(Stop::End(e)) = self.advance(u64::MAX) {
                end = Some(e);
            }
        }
        self.status.end();
        self.raw = None;
        let end = end.unwrap_or(End::Quit);
        if self.options.judge { self.judged(end) } else { end }
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The end of a session and soon of the process: as [`Machine::abandon`].
    pub fn abandon(self) {
        self.machine.abandon();
    }

    /// The figures so far.
    #[must_use]
    pub fn stats(&mut self) -> Stats {
        let wall = self.started.elapsed().as_secs_f64();
        Stats::of(&mut self.machine, wall)
    }

    /// The end of the serial output and the machine's state, for a test that failed.
    #[must_use]
    pub fn report(&mut self, end: &End) -> String {
        let text = String::from_utf8_lossy(self.tail.make_contiguous()).replace('\r', "");
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        let mut out = if lines.is_empty() { "no serial output\n".to_string() } else { "the end of the serial output:\n".to_string() };
        for line in &lines[from..] {
            out.push_str("  | ");
            out.push_str(line);
            out.push('\n');
        }
        out.push_str(&match end {
            End::Crash(report) => report.clone(),
            _ => crash::report(&mut self.machine, "the machine's state:"),
        });
        let screen = self.reader.text(&self.machine).unwrap_or_default();
        if !screen.trim().is_empty() {
            out.push_str("\nthe screen:\n");
            for line in screen.trim_end().lines() {
                out.push_str(&format!("  | {line}\n"));
            }
        }
        out
    }

    /// Lets in what waits outside, runs the guest to instruction count `limit` or for some milliseconds, and hands on its
    /// output. An idle guest is waited for.
    pub fn advance(&mut self, limit: u64) -> Option<Stop> {
        if let Some(end) = self.outside() {
            return Some(Stop::End(end));
        }
        self.type_in();
        self.host_work = self.machine.host_work().1;
        let from = Stopwatch::start();
        let slice = if !self.typed.is_empty() || self.host_work || self.behind {
            SHORT_SLICE
        } else if self.clock.is_some() {
            self.pace
        } else {
            SLICE
        };
        let mut until = limit.min(self.machine.icount().saturating_add(slice));
        if let Some(end) = self.guest_limit() {
            until = until.min(self.machine.count_at(end));
        }
        let turn = self.machine.turn(until);
        let mut end = self.output();
        let last = matches!(turn, Turn::Request(_) | Turn::Dead | Turn::Shutdown | Turn::Diverged | Turn::Idle(None));
        if end.is_none() {
            end = self.look(last);
        }
        if end.is_none() {
            end = match turn {
                Turn::Limit | Turn::Ran | Turn::Request(Request::A20(_) | Request::Remap | Request::Firmware) | Turn::Breakpoint => None,
                Turn::Idle(next) => self.idle(next),
                Turn::Dead => self.stopped("the guest stopped for good: it halted with interrupts off, and nothing can wake it"),
                Turn::Request(Request::PowerOff) => Some(End::PowerOff),
                Turn::Request(Request::DebugExit(v)) => Some(End::DebugExit(v)),
                Turn::Request(Request::Reset | Request::ResetProcessor) if self.options.no_reboot => Some(End::Reset),
                Turn::Request(Request::Reset | Request::ResetProcessor) => {
                    self.machine.reset();
                    None
                }
                Turn::Shutdown => self.shutdown(),
                Turn::Diverged => Some(End::Crash(self.machine.divergence().unwrap_or_default().to_owned())),
            };
        }
        if let (None, Some(at)) = (&end, self.guest_limit()) {
            if self.machine.now() >= at {
                let limit = self.options.guest_timeout.unwrap_or_default();
                end = Some(End::GuestTimeout(limit, self.awaited()));
            }
        }
        if let Some(end) = end {
            return Some(Stop::End(end));
        }
        if turn == Turn::Limit {
            self.set_pace(from.elapsed());
        }
        if let Some(end) = self.keep_time() {
            return Some(Stop::End(end));
        }
        (turn == Turn::Breakpoint).then_some(Stop::Breakpoint)
    }

    /// With `--wait`, lets gdb connect before the first instruction.
    fn wait_for_gdb(&mut self) -> Option<End> {
        let debugger = self.debugger.as_ref().filter(|d| d.wait)?;
        let mut end = None;
        let (events, keys, raw) = (&mut self.events, &mut self.keys, self.raw.is_some());
        let stream = debugger.server.wait(&mut || {
            end = match events.poll(raw) {
                Some(Event::Signal(n)) => Some(End::Signal(n)),
                Some(Event::Typed(bytes)) => keys.feed(&bytes).contains(&Key::Quit).then_some(End::Quit),
                None => None,
            };
            end.is_some()
        });
        match stream {
            Ok(Some(stream)) => self.serve(stream),
            Ok(None) => end,
            Err(e) => {
                log::error!("no gdb can connect: {e}");
                None
            }
        }
    }

    /// Serves a gdb that has connected, until it goes.
    fn look_for_gdb(&mut self) -> Option<End> {
        let debugger = self.debugger.as_ref()?;
        let wall = self.started.elapsed();
        if wall < self.looked + GDB_PERIOD {
            return None;
        }
        self.looked = wall;
        match debugger.server.poll() {
            Ok(Some(stream)) => self.serve(stream),
            Ok(None) => None,
            Err(e) => {
                log::error!("no gdb can connect any more: {e}");
                self.debugger = None;
                None
            }
        }
    }

    fn serve(&mut self, stream: std::net::TcpStream) -> Option<End> {
        self.status.end();
        let how = gdb::serve(stream, &mut Debugged::new(self));
        self.restart_clock();
        match (how, self.ended.take()) {
            (SessionEnd::Detached, None) => None,
            (_, Some(end)) => Some(end),
            _ => Some(End::Quit),
        }
    }

    /// A slice took `took`: the next one shall come nearer to [`PACE`].
    fn set_pace(&mut self, took: Duration) {
        if took < PACE / 2 {
            self.pace = (self.pace * 2).min(20_000_000);
        } else if took > PACE * 2 {
            self.pace = (self.pace / 2).max(20_000);
        }
    }

    fn guest_limit(&self) -> Option<Time> {
        let limit = self.options.guest_timeout?;
        Some(Time(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
    }

    fn awaited(&self) -> Option<String> {
        self.script.awaited().map(String::from)
    }

    /// Looks outside without waiting.
    fn outside(&mut self) -> Option<End> {
        while let Some(event) = self.events.poll(self.listening()) {
            if let Some(end) = self.event(event) {
                return Some(end);
            }
        }
        let wall = self.started.elapsed();
        self.status.update(wall, self.machine.icount(), self.machine.now().0);
        match self.options.timeout {
            Some(limit) if wall >= limit => Some(End::Timeout(limit, self.awaited())),
            _ => None,
        }
    }

    /// Whether bytes for the guest are taken in now.
    fn listening(&self) -> bool {
        self.raw.is_some() || self.typed.len() < TYPED
    }

    fn event(&mut self, event: Event) -> Option<End> {
        let bytes = match event {
            Event::Signal(n) => return Some(End::Signal(n)),
            Event::Typed(bytes) => bytes,
        };
        if self.raw.is_none() {
            self.typed.extend(bytes);
            return None;
        }
        for key in self.keys.feed(&bytes) {
            match key {
                Key::Bytes(bytes) => self.typed.extend(bytes),
                Key::Quit => return Some(End::Quit),
                Key::Help => terminal::say(KEYS_HELP),
                Key::Monitor => {
                    if let Some(end) = self.monitor() {
                        return Some(end);
                    }
                }
            }
        }
        None
    }

    /// The monitor, on a terminal that edits lines.
    fn monitor(&mut self) -> Option<End> {
        self.status.end();
        self.raw = None;
        terminal::say("\nthe guest stands still; `continue` lets it run, `help` lists the commands");
        let mut pending = Vec::new();
        let end = loop {
            terminal::prompt("(softmetal) ");
            match self.events.line(&mut pending) {
                Err(signal) => break Some(End::Signal(signal)),
                Ok(None) => break Some(End::Quit),
                Ok(Some(line)) => match monitor::command(&mut self.machine, &line) {
                    Next::Prompt => {}
                    Next::Continue => break None,
                    Next::End(end) => break Some(end),
                },
            }
        };
        if end.is_none() {
            self.raw = RawTerminal::enter();
            self.restart_clock();
        }
        end
    }

    /// Virtual time follows the host's from here on.
    pub fn restart_clock(&mut self) {
        if let Some(clock) = &mut self.clock {
            *clock = HostClock::starting(self.machine.now());
        }
    }

    /// Types what the serial port and the keyboard have room for.
    fn type_in(&mut self) {
        let now = self.machine.now();
        if now >= self.next_stroke && self.strokes.front().is_some_and(|keys| self.machine.press(keys)) {
            self.strokes.pop_front();
            self.next_stroke = now.plus(KEY);
        }
        if self.typed.is_empty() {
            return;
        }
        let n = self.machine.type_serial(self.typed.make_contiguous());
        self.typed.drain(..n);
    }

    /// Hands on the guest's output.
    fn output(&mut self) -> Option<End> {
        for (device, bytes) in self.machine.take_output() {
            match device {
                id::COM1 => {
                    self.status.end();
                    if !self.serial.write(&bytes) && !self.options.judge {
                        return Some(End::ReaderGone);
                    }
                    self.tail.extend(&bytes);
                    let extra = self.tail.len().saturating_sub(TAIL);
                    self.tail.drain(..extra);
                    if let Some(end) = self.feed(&bytes) {
                        return Some(end);
                    }
                }
                id::DEBUGCON => log::info!(target: "debugcon", "{}", String::from_utf8_lossy(&bytes).trim_end()),
                _ => log::debug!("device {} says {}", device.0, String::from_utf8_lossy(&bytes)),
            }
        }
        None
    }

    /// Shows the screen to the script if that waits for it, from time to time or when it is the `last` chance.
    fn look(&mut self, last: bool) -> Option<End> {
        let now = self.machine.now();
        if !self.script.awaits_screen() || (!last && now.0.saturating_sub(self.seen.0) < LOOK) {
            return None;
        }
        self.seen = now;
        let text = self.reader.text(&self.machine)?;
        if self.script.show(&text) { self.feed(&[]) } else { None }
    }

    /// Shows output to the script.
    fn feed(&mut self, bytes: &[u8]) -> Option<End> {
        let mut send = Vec::new();
        let verdict = self.script.feed(bytes, &mut send);
        self.typed.extend(send);
        self.strokes.extend(self.script.take_keys());
        for (drive, event) in self.script.take_media() {
            self.machine.apply(InputEvent::Medium(drive, event));
        }
        match verdict {
            Verdict::Passed if self.options.judge => Some(End::Passed),
            Verdict::Open | Verdict::Passed => None,
            Verdict::Forbidden { pattern, text } => Some(End::Forbidden { pattern, text }),
        }
    }

    /// The guest waits for an interrupt; the next timer expires at `next`.
    fn idle(&mut self, next: Option<Time>) -> Option<End> {
        if !self.typed.is_empty() && self.machine.serial_room() > 0 {
            return None;
        }
        let (ended, host_work) = self.machine.host_work();
        if ended {
            return None;
        }
        // A keyboard that has no room waits for the guest, not for the time.
        let stroke = (!self.strokes.is_empty() && self.machine.now() < self.next_stroke).then_some(self.next_stroke);
        let next = [next, stroke].into_iter().flatten().min();
        let until = match (next, self.guest_limit()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if next.is_none() && !self.events.open() && !host_work {
            if let Some(byte) = self.options.farewell.take() {
                self.typed.push_back(byte);
                return None;
            }
            return self.stopped("the guest stopped for good: it waits for an interrupt, no timer is set, and there is no input");
        }
        let wait = match (self.clock, until) {
            (None, Some(time)) => {
                self.machine.jump(time);
                return None;
            }
            (None, None) => None,
            (Some(clock), until) => until.map(|time| clock.wait_for(time)),
        };
        let left = self.options.timeout.map(|limit| limit.saturating_sub(self.started.elapsed()));
        let wait = match (wait, left) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // A debugger's socket, and work on the host, are looked at in between.
        let periods = [self.debugger.as_ref().map(|_| GDB_PERIOD), host_work.then_some(HOST_PERIOD)];
        let wait = periods.into_iter().flatten().chain(wait).min();
        let event = self.events.wait(self.listening(), wait);
        if let Some(clock) = self.clock {
            let target = clock.target();
            self.skip_to(until.map_or(target, |time| time.min(target)));
        }
        event.and_then(|event| self.event(event))
    }

    /// Sets virtual time forward to `time`, as an input event.
    fn skip_to(&mut self, time: Time) {
        let lag = time.0.saturating_sub(self.machine.now().0);
        if lag > 0 {
            self.machine.apply(InputEvent::Skew(lag));
        }
    }

    /// Holds virtual time to the host's after a slice.
    fn keep_time(&mut self) -> Option<End> {
        let target = self.clock?.target().0;
        let now = self.machine.now().0;
        let lag = target.saturating_sub(now);
        self.behind = false;
        if lag > GAP {
            self.restart_clock();
        } else if lag >= LAG {
            let (time, behind) = catch_up(Time(target), self.machine.next_timer());
            self.behind = behind;
            self.skip_to(time);
        }
        let lead = now.saturating_sub(target);
        if lead > 2 * LAG {
            return self.events.wait(self.listening(), Some(Duration::from_nanos(lead))).and_then(|event| self.event(event));
        }
        None
    }

    /// A triple fault.
    fn shutdown(&mut self) -> Option<End> {
        if self.options.no_reboot {
            return self.stopped("the guest crashed: triple fault");
        }
        self.crashes += 1;
        if self.crashes <= CRASHES_TOLD {
            self.status.end();
            let title = "softmetal: the guest crashed (triple fault) and is reset, as a PC would be; --no-reboot stops there";
            if self.crashes == 1 {
                terminal::say(&crash::report(&mut self.machine, title));
            } else {
                terminal::say(title);
            }
        }
        self.machine.reset();
        None
    }

    /// The guest can do nothing any more.
    fn stopped(&mut self, why: &str) -> Option<End> {
        Some(End::Crash(crash::report(&mut self.machine, why)))
    }

    /// What a test makes of the guest's end.
    fn judged(&self, end: End) -> End {
        let end = match end {
            End::DebugExit(_) if Some(end.code()) == self.options.success_code => End::Passed,
            other => other,
        };
        match (&end, self.awaited()) {
            (End::PowerOff | End::Reset | End::Passed, Some(pattern)) => End::Unmet(pattern),
            _ => end,
        }
    }
}

/// The session as a debugger drives it: each slice serves the ports and the clock as well.
impl gdb::Session for Session {
    fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    fn slice(&mut self, limit: u64) -> Option<StopReason> {
        match self.advance(limit)? {
            Stop::Breakpoint => Some(StopReason::Breakpoint),
            Stop::End(end) => {
                let reason = if matches!(end, End::Crash(_)) { StopReason::Crashed } else { StopReason::Ended(end.code()) };
                self.ended = Some(end);
                Some(reason)
            }
        }
    }
}

/// Where virtual time that lags goes, towards `target`: not past the `next` timer, so that the guest sees each of its ticks
/// and counts them however busy the host is; and whether that leaves it behind.
fn catch_up(target: Time, next: Option<Time>) -> (Time, bool) {
    next.filter(|&next| next < target).map_or((target, false), |next| (next, true))
}
