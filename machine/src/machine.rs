//! A whole machine: processor, board, memory, and the images that it boots.
//!
//! A machine is a pure function of its configuration and its input events. [`Machine::turn`] runs it to the next point
//! at which something may enter or leave; everything that enters goes through [`Machine::apply`].
//!
//! **Invariant:** nothing here reads a host clock, a file or a socket.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Attention, Collector, DeviceId, Drive, GuestMemory, Input, PAGE_SIZE, Request, SharedDisk, Time, attention};
pub use softmetal_cpu::Engine;
use softmetal_cpu::exec::cpuid::Feature;
pub use softmetal_cpu::exec::cpuid::Model;
use softmetal_cpu::translator::Listener;
pub use softmetal_cpu::translator::available as translator;
use softmetal_cpu::{Processor, State, Stop};
pub use softmetal_devices::vga::render::{Font, Image};
use softmetal_firmware::{Boot, Entry, Layout, LoadError, Module};

use crate::bios;
pub use crate::board::Firmware;
use crate::board::firmware::Parts;
use crate::board::{Board, Plugs, SharedBoard, chips::id};
use crate::error::UserError;
pub use crate::images::{Contents, Images};
use crate::lockstep::Lockstep;
use crate::media::{DriveName, MediumEvent};
use crate::resume;
use crate::screen;
use crate::snapshot::Digests;
use crate::start;

/// What a machine is made of.
pub struct Config {
    /// RAM in bytes.
    pub memory: u64,
    /// The processor.
    pub model: Model,
    /// The devices.
    pub plugs: Plugs,
    /// What is booted.
    pub images: Images,
}

/// Something from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputEvent {
    /// Virtual time is set forward by so many nanoseconds.
    Skew(u64),
    /// Input for a device.
    Device(DeviceId, Input),
    /// The machine's reset button.
    Reset,
    /// A removable medium is changed.
    Medium(DriveName, MediumEvent),
    /// Whether slow work on the host ends when the host says so, from now on; see [`Plugs::host_paced`].
    HostPaced(bool),
}

/// An input event and when it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// The retired-instruction count.
    pub at: u64,
    /// What happened.
    pub event: InputEvent,
}

/// Why [`Machine::turn`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The limit is reached.
    Limit,
    /// A timer is due, or a device calls: go on with the next turn.
    Ran,
    /// The processor waits for an interrupt; the next timer expires then.
    Idle(Option<Time>),
    /// The processor waits with interrupts off: nothing can wake it.
    Dead,
    /// A device asks for power-off, a reset, or the end of the run.
    Request(Request),
    /// A triple fault. The processor has shut down; only a reset starts it again.
    Shutdown,
    /// The next instruction is at a breakpoint.
    Breakpoint,
    /// The engines differ: see [`Machine::divergence`].
    Diverged,
}

fn refused(e: LoadError) -> UserError {
    UserError(e.to_string())
}

/// A machine.
pub struct Machine {
    memory: Arc<GuestMemory>,
    layout: Layout,
    images: Images,
    attention: Arc<Attention>,
    board: SharedBoard,
    vga: bool,
    cpu: Processor,
    log: Option<Vec<Stamped>>,
    /// What the screen depended on when its changes were last asked for.
    seen: Option<(Vec<u8>, u64)>,
    /// Digests of RAM, for [`Machine::state_hash`].
    digests: Digests,
    /// The machine that must stay the same.
    lockstep: Option<Box<Lockstep>>,
    /// Media at hand, by name.
    shelf: BTreeMap<String, SharedDisk>,
}

impl Machine {
    /// A machine at its first instruction, with the fastest engine that the host can run ([`translator`] says which).
    ///
    /// # Errors
    /// [`UserError`] when the host has not the memory, or an image cannot be booted.
    pub fn new(config: Config) -> Result<Self, UserError> {
        let Config { memory, model, plugs, images } = config;
        let layout = Layout::of(plugs.chipset, memory);
        images.firmware.check().map_err(UserError)?;
        let parts = Parts::new(&layout, &plugs, &images.firmware);
        let memory = Arc::new(GuestMemory::new(parts.end()).map_err(|e| UserError(e.to_string()))?);
        let attention = Arc::new(Attention::default());
        let vga = plugs.vga;
        // A processor with RDRAND needs no other source of entropy.
        let entropy = !model.has(Feature::Rdrand);
        let mut board = Board::new(layout, memory.clone(), attention.clone(), plugs, entropy, &images.firmware);
        if images.firmware.is_foreign() && !images.kernel.is_empty() {
            let all = |contents: &Contents| contents.source().all().map_err(refused);
            let initrd = images.initrd.as_ref().map(all).transpose()?;
            board.offer_kernel(&all(&images.kernel)?, initrd.as_deref(), &images.cmdline);
        }
        let board = SharedBoard::new(board);
        let cpu = Processor::new(memory.clone(), Box::new(board.clone()), attention.clone(), model);
        let mut machine = Self {
            memory,
            layout,
            images,
            attention,
            board,
            vga,
            cpu,
            log: None,
            seen: None,
            digests: Digests::default(),
            lockstep: None,
            shelf: BTreeMap::new(),
        };
        if let Err(why) = machine.set_engine(Engine::Translator) {
            log::info!("the interpreter carries out instructions: {why}");
        }
        machine.boot()?;
        Ok(machine)
    }

    /// Puts the images into memory and the processor at their start.
    fn boot(&mut self) -> Result<(), UserError> {
        self.cpu.reset();
        let Images { firmware, kernel, initrd, cmdline } = &self.images;
        if firmware.is_foreign() {
            return Ok(());
        }
        if kernel.is_empty() {
            let entry = softmetal_firmware::power_on(&self.layout, &self.memory, 1).map_err(refused)?;
            self.enter(&entry);
            return Ok(());
        }
        let modules = initrd.iter().map(|contents| Module { content: contents.source(), cmdline: "" }).collect();
        let boot = Boot { kernel: kernel.source(), modules, cmdline, vga: self.vga };
        let entry: Entry = softmetal_firmware::boot(&boot, &self.layout, &self.memory, 1).map_err(refused)?;
        if matches!(entry, Entry::Long { .. }) && !self.cpu.cpu.model.has(Feature::Lm) {
            return Err(refused(LoadError::NoLongMode));
        }
        self.enter(&entry);
        Ok(())
    }

    fn enter(&mut self, entry: &Entry) {
        let mut state = self.cpu.cpu.state.clone();
        start::enter(&mut state, entry);
        self.cpu.load(state);
    }

    /// Chooses what carries out instructions. Nothing else depends on it.
    ///
    /// # Errors
    /// A sentence about what the host lacks; the interpreter goes on then.
    pub fn set_engine(&mut self, engine: Engine) -> Result<(), String> {
        self.cpu.set_engine(engine)
    }

    /// The engine in use.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.cpu.engine()
    }

    /// Has `listener` told of each block that is translated from now on, if the engine translates.
    pub fn on_translation(&mut self, listener: Listener) {
        self.cpu.on_translation(listener);
    }

    /// Has blocks translated by a thread of its own, if the engine translates, or, as at first, in place: see
    /// [`Processor::use_thread`].
    pub fn use_thread(&mut self, on: bool) {
        self.cpu.use_thread(on);
    }

    /// Runs `other`, made from the same configuration and not run yet, beside this machine, and compares them all the time.
    /// Its engine is the interpreter.
    pub fn in_lockstep_with(&mut self, mut other: Self) {
        other.set_engine(Engine::Interpreter).expect("every host runs the interpreter");
        self.lockstep = Some(Box::new(Lockstep::new(other)));
    }

    /// Whether another machine runs beside this one.
    #[must_use]
    pub fn is_in_lockstep(&self) -> bool {
        self.lockstep.is_some()
    }

    /// What the machines that run in lockstep differ in.
    #[must_use]
    pub fn divergence(&self) -> Option<&str> {
        self.lockstep.as_ref().and_then(|l| l.report())
    }

    /// Resets the whole machine; it boots the same images again. Virtual time goes on.
    pub fn reset(&mut self) {
        if let Some(lockstep) = &mut self.lockstep {
            lockstep.reset();
        }
        self.reset_alone();
    }

    fn reset_alone(&mut self) {
        self.board.lock().reset(self.cpu.icount());
        self.cpu.forget_code();
        if let Err(e) = self.boot() {
            log::error!("the machine cannot boot again and stands still: {e}");
            self.cpu.cpu.state.halted = true;
        }
    }

    /// The end of a machine and soon of the process, which ends sooner then: as [`Processor::abandon`].
    pub fn abandon(self) {
        self.cpu.abandon();
        if let Some(lockstep) = self.lockstep {
            lockstep.into_other().abandon();
        }
    }

    /// Retired instructions.
    #[must_use]
    pub fn icount(&self) -> u64 {
        self.cpu.icount()
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.board.lock().now(self.cpu.icount())
    }

    /// The instruction count at which it is `time`, if the processor runs until then.
    #[must_use]
    pub fn count_at(&self, time: Time) -> u64 {
        self.board.lock().count_at(time)
    }

    /// RAM in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.layout.ram_bytes()
    }

    /// The processor, for a debugger or a report.
    #[must_use]
    pub fn processor(&self) -> &Processor {
        &self.cpu
    }

    /// The processor, for a debugger.
    pub fn processor_mut(&mut self) -> &mut Processor {
        &mut self.cpu
    }

    /// Output of devices since the last call, in order.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<(DeviceId, Vec<u8>)> {
        self.board.lock().take_output()
    }

    /// The picture on the screen now; none without a display adapter.
    #[must_use]
    pub fn screen(&self) -> Option<Image> {
        let board = self.board.lock();
        board.vga().map(|vga| vga.image(&self.memory, board.now(self.cpu.icount())))
    }

    /// The text on the screen now, line by line; none without a display adapter. In a graphics mode, text in the font of
    /// the firmware or in one of `fonts` is found.
    #[must_use]
    pub fn screen_text(&self, fonts: &[&Font]) -> Option<String> {
        let board = self.board.lock();
        let fonts: Vec<&Font> = [&softmetal_firmware::FONT].into_iter().chain(fonts.iter().copied()).collect();
        board.vga().map(|vga| vga.text(&self.memory, board.now(self.cpu.icount()), &fonts))
    }

    /// The rows of the picture that may have changed since the last call (at first all), as ranges that may go past the end;
    /// for whoever shows the screen all the time. Nothing that the guest sees depends on it.
    pub fn screen_changes(&mut self) -> Vec<Range<u32>> {
        let board = self.board.lock();
        let Some(vga) = board.vga() else { return Vec::new() };
        let look = vga.look(board.now(self.cpu.icount()));
        let (base, len) = vga.video_memory();
        let page = PAGE_SIZE as u64;
        let written = self.memory.collect_in(Collector::Screen, base / page..(base + len).div_ceil(page));
        let same = self.seen.as_ref() == Some(&look);
        let rows = if same { vga.rows_of(&written) } else { std::iter::once(0..u32::MAX).collect() };
        drop(board);
        self.seen = Some(look);
        if !written.is_empty() {
            self.cpu.cpu.mmu.protect_all();
        }
        rows
    }

    /// The fonts of 8 by 16 pixels that lie in the guest's memory, for [`Machine::screen_text`].
    #[must_use]
    pub fn fonts(&self) -> Vec<Box<Font>> {
        screen::fonts(&self.memory)
    }

    /// Presses and releases keys of the keyboard, as set 1 scan codes. False, and nothing happens, if the keyboard has no
    /// room for them now.
    pub fn press(&mut self, codes: &[u8]) -> bool {
        let mut board = self.board.lock();
        let keyboard = board.inputs().keyboard;
        let fits = board.input_room(keyboard) >= codes.len();
        drop(board);
        if fits {
            self.apply(InputEvent::Device(keyboard, Input::Scancodes(codes.to_vec())));
        }
        fits
    }

    /// Moves the mouse: counts to the right and down, notches of the wheel towards the user, and the buttons that are
    /// down (bit 0 left, 1 right, 2 middle, 3 and 4 at the side).
    pub fn mouse(&mut self, dx: i16, dy: i16, wheel: i8, buttons: u8) {
        let mouse = self.board.lock().inputs().mouse;
        self.apply(InputEvent::Device(mouse, Input::Mouse { dx, dy, wheel, buttons }));
    }

    /// How many bytes the first serial port can take in now.
    #[must_use]
    pub fn serial_room(&self) -> usize {
        self.board.lock().input_room(id::COM1)
    }

    /// Starts (or ends) keeping a log of input events; the log so far.
    pub fn record(&mut self, on: bool) -> Vec<Stamped> {
        std::mem::replace(&mut self.log, on.then(Vec::new)).unwrap_or_default()
    }

    /// How many events the log holds.
    pub(crate) fn logged(&self) -> usize {
        self.log.as_ref().map_or(0, Vec::len)
    }

    /// Drops the events after the first `n`.
    pub(crate) fn forget_log(&mut self, n: usize) {
        if let Some(log) = &mut self.log {
            log.truncate(n);
        }
    }

    /// Lets something from outside in, now. The only way in.
    pub fn apply(&mut self, event: InputEvent) {
        if let Some(lockstep) = &mut self.lockstep {
            lockstep.apply(&event);
        }
        let at = self.cpu.icount();
        match &event {
            InputEvent::Skew(ns) => self.board.lock().skip(*ns),
            InputEvent::Device(device, input) => self.board.lock().input(at, *device, input),
            InputEvent::Reset => self.reset_alone(),
            InputEvent::Medium(drive, event) => self.change_medium(*drive, event),
            InputEvent::HostPaced(on) => self.board.lock().set_host_paced(at, *on),
        }
        if let Some(log) = &mut self.log {
            log.push(Stamped { at, event });
        }
    }

    /// The drive of this name.
    #[must_use]
    pub fn drive(&self, name: DriveName) -> Option<Drive> {
        self.board.lock().drive(name).cloned()
    }

    pub(crate) fn shelf_mut(&mut self) -> &mut BTreeMap<String, SharedDisk> {
        &mut self.shelf
    }

    /// Does `f` to the machine that runs beside in lockstep, if there is one.
    pub(crate) fn beside(&mut self, f: impl FnOnce(&mut Machine)) {
        if let Some(lockstep) = &mut self.lockstep {
            f(lockstep.other());
        }
    }

    /// When the next timer expires.
    #[must_use]
    pub fn next_timer(&self) -> Option<Time> {
        self.board.lock().next_timer()
    }

    /// Has the host set the pace of its slow work, or not ([`Plugs::host_paced`]).
    pub fn set_host_paced(&mut self, on: bool) {
        if self.board.lock().host_paced() != on {
            self.apply(InputEvent::HostPaced(on));
        }
    }

    /// Lets in that work on the host has ended, if devices wait for that (only with [`Plugs::host_paced`]): whether any has,
    /// and whether some still goes on.
    pub fn host_work(&mut self) -> (bool, bool) {
        if !self.board.lock().host_paced() {
            return (false, false);
        }
        let mut any = false;
        loop {
            // What comes next may be ready as well.
            let (ended, going_on) = self.board.lock().host_work();
            if ended.is_empty() {
                return (any, going_on);
            }
            any = true;
            for device in ended {
                self.apply(InputEvent::Device(device, Input::HostDone));
            }
        }
    }

    /// Types bytes at the first serial port, as many as it takes now; how many those were.
    pub fn type_serial(&mut self, bytes: &[u8]) -> usize {
        let n = self.serial_room().min(bytes.len());
        if n > 0 {
            self.apply(InputEvent::Device(id::COM1, Input::Bytes(bytes[..n].to_vec())));
        }
        n
    }

    /// Runs until the instruction count is `limit`, or something else comes first. A pure function of the state.
    pub fn turn(&mut self, limit: u64) -> Turn {
        match self.lockstep.take() {
            None => self.turn_alone(limit),
            Some(mut lockstep) => {
                let turn = lockstep.turn(self, limit);
                self.lockstep = Some(lockstep);
                turn
            }
        }
    }

    pub(crate) fn turn_alone(&mut self, limit: u64) -> Turn {
        let at = self.cpu.icount();
        {
            let mut board = self.board.lock();
            board.fire(at);
            match board.take_request() {
                Some(Request::Firmware) => {
                    drop(board);
                    bios::serve(&mut self.cpu, &self.board);
                    return Turn::Ran;
                }
                Some(Request::ResetProcessor) => {
                    drop(board);
                    return if self.resume() { Turn::Ran } else { Turn::Request(Request::Reset) };
                }
                Some(request) => return Turn::Request(request),
                None => {}
            }
            if at >= limit {
                return Turn::Limit;
            }
        }
        let until = {
            let mut board = self.board.lock();
            let due = board.next_timer().map(|t| board.count_at(t).max(at + 1));
            let until = due.map_or(limit, |due| due.min(limit));
            board.set_deadline(until);
            until
        };
        self.attention.clear(attention::BOARD);
        match self.cpu.run(until) {
            Stop::Budget if self.cpu.icount() >= limit => Turn::Limit,
            Stop::Budget | Stop::Attention => Turn::Ran,
            Stop::Shutdown if self.resume() => Turn::Ran,
            Stop::Shutdown => Turn::Shutdown,
            Stop::Breakpoint => Turn::Breakpoint,
            Stop::Halted => self.halted(),
        }
    }

    /// A reset of the processor that the guest has told the built-in BIOS to take for no more than that.
    fn resume(&mut self) -> bool {
        !self.images.firmware.is_foreign() && resume::resume(&mut self.cpu, &self.board)
    }

    fn halted(&self) -> Turn {
        const IF: u64 = 1 << 9;
        let board = self.board.lock();
        let state = &self.cpu.cpu.state;
        if state.eflags & IF != 0 || state.monitor.waiting {
            return Turn::Idle(board.next_timer());
        }
        if self.attention.bits() & (attention::NMI | attention::SMI | attention::BOARD) != 0 { Turn::Ran } else { Turn::Dead }
    }

    /// While the processor idles, time jumps to `time`: the virtual clock's way to wait. A function of the state, so it
    /// is no input event.
    pub fn jump(&mut self, time: Time) {
        if let Some(lockstep) = &mut self.lockstep {
            lockstep.jump(time);
        }
        let mut board = self.board.lock();
        let now = board.now(self.cpu.icount());
        board.skip(time.0.saturating_sub(now.0));
    }

    /// Runs with the virtual clock until the instruction count is exactly `limit`; earlier only for what [`Turn::Ran`] and
    /// [`Turn::Idle`] with a timer are not.
    pub fn run_until(&mut self, limit: u64) -> Turn {
        loop {
            match self.turn(limit) {
                Turn::Ran => {}
                Turn::Idle(Some(time)) => self.jump(time),
                other => return other,
            }
        }
    }

    /// The architectural state in a form that no engine's private scratch disturbs.
    fn normal_state(&self) -> State {
        let mut state = self.cpu.cpu.state.clone();
        state.regs[16..].fill(0);
        let flags = state.lazy.bits();
        state.lazy.set_bits(flags);
        state
    }

    /// The architectural state as bytes.
    pub(crate) fn normal_state_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.normal_state()).unwrap_or_default()
    }

    /// Everything that decides what happens next, for [`crate::snapshot`].
    pub(crate) fn parts(&mut self) -> (State, Vec<u8>, &GuestMemory) {
        let board = self.board.lock().save();
        (self.normal_state(), board, &self.memory)
    }

    /// The digest of RAM; costs the pages written since the last call.
    pub(crate) fn memory_digest(&mut self) -> [u8; 32] {
        let digest = self.digests.update(&self.memory);
        self.cpu.cpu.mmu.protect_all();
        digest
    }

    /// Puts back what [`Machine::parts`] gave; RAM is the caller's.
    pub(crate) fn set_parts(&mut self, state: State, board: &[u8]) -> Result<(), softmetal_bus::StateError> {
        self.board.lock().load(board)?;
        self.cpu.load(state);
        self.cpu.forget_code();
        Ok(())
    }
}
