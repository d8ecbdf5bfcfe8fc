//! The `pc` board: a 440FX/PIIX PC with APICs, HPET and virtio.
//!
//! | module | what it holds |
//! |---|---|
//! | [`chips`] | the chips, by name and by number |
//! | [`wires`] | which interrupt output leads to which input |
//! | [`firmware`] | the ROM and flash of other firmware, and what fw_cfg tells it |
//! | `bios` | what the built-in BIOS uses of the board |
//! | `setup` | what the chips are plugged into, and what firmware would have set up before a kernel starts |
//! | `state` | save, load, reset |
//! | `storage` | which disk and which CD-ROM drive goes where |
//!
//! A chip is called with a [`Ctx`]; what it asks for is carried out here after the call, in order, so that no chip ever
//! runs inside another chip's call.
//!
//! **Invariant:** nothing here knows the host.

mod bios;
pub mod chips;
pub mod firmware;
mod setup;
mod state;
mod storage;
pub mod wires;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use softmetal_bus::{
    AddressSpace, Attention, Backing, CpuBus, Ctx, Device, DeviceId, Effect, GuestMemory, Input, PageKind, PortSpace, Request, Time,
    TimerQueue, attention, ones,
};
use softmetal_devices::lapic::{Ipi, Shorthand};
use softmetal_devices::vga::Vga;
pub use softmetal_firmware::BootDevice;
use softmetal_firmware::{Drives, Layout, acpi};

use chips::{Chips, id};
pub use firmware::Firmware;
use firmware::Parts;
pub use setup::{Disk, Interface, Plugs};
pub use softmetal_bus::{Drive, SharedDisk};
pub use storage::{AHCI_PLACES, IDE_PLACES, cd_interface};
use wires::{Pin, Routes, Wires, route};

use crate::media::DriveName;

/// What the chips' calls need around them.
struct Around {
    memory: Arc<GuestMemory>,
    space: AddressSpace,
    timers: TimerQueue,
    effects: Vec<Effect>,
    host_paced: bool,
}

impl Around {
    fn ctx(&mut self, now: Time, id: DeviceId) -> Ctx<'_> {
        let Self { memory, space, timers, effects, host_paced } = self;
        Ctx { now, id, memory, space, timers, effects, host_paced: *host_paced }
    }
}

/// The board's own volatile state.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// Virtual time minus the retired-instruction count, in nanoseconds: one instruction takes one nanosecond.
    skew: u64,
    wires: Wires,
    /// The A20 gate is open.
    a20: bool,
    /// The state of the random source (SplitMix64).
    random: u64,
    /// What waits for the machine.
    requests: VecDeque<Request>,
}

/// The devices that take what is typed and moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Takes [`Input::Scancodes`].
    pub keyboard: DeviceId,
    /// Takes [`Input::Mouse`].
    pub mouse: DeviceId,
}

/// The board.
pub struct Board {
    // Configuration.
    layout: Layout,
    parts: Parts,
    /// The drives, and what to boot from.
    drives: Drives,
    /// The built-in firmware sets the board up.
    builtin: bool,
    /// There is system management mode.
    smm: bool,
    /// The flash chip takes commands in system management mode alone.
    flash_guarded: bool,
    inputs: Inputs,
    // Glue.
    attention: Arc<Attention>,
    chips: Chips,
    around: Around,
    ports: PortSpace,
    /// The physical map as the processor sees it in system management mode, where that differs.
    smm_space: Option<AddressSpace>,
    /// The processor is in system management mode.
    in_smm: bool,
    /// Effects that wait to be carried out, and whose they are.
    queue: VecDeque<(DeviceId, Effect)>,
    /// Output of the serial ports and the debug console since the last [`Board::take_output`].
    output: Vec<(DeviceId, Vec<u8>)>,
    /// The virtual time at which the processor will return by itself.
    deadline: Time,
    /// Where the PCI interrupts lead, as the ISA bridge has it now.
    routes: Routes,
    /// A line or a route may have changed since all was quiet.
    unsettled: bool,
    /// What the ACPI tables in fw_cfg say.
    acpi: Option<acpi::Config>,
    // Volatile.
    state: State,
}

/// How long a load from one of the clocks behind the ISA bridge takes, in nanoseconds, as on a PC. Guests that wait by reading
/// a clock again and again so see some thousand loads pass rather than some million.
const ISA_CYCLE: u64 = 1000;

/// Initrds end below it: above lie a firmware's own tables.
const INITRD_TOP: u64 = 0x3000_0000;

/// An access to physical memory or a port that nobody answers.
fn unassigned(kind: &str, addr: u64, width: usize) {
    log::debug!(target: "unassigned", "{kind} at {addr:#x}, {width} bytes: nobody answers");
}

impl Board {
    /// The virtual time at retired-instruction count `at`.
    #[must_use]
    pub fn now(&self, at: u64) -> Time {
        Time(at.saturating_add(self.state.skew))
    }

    /// The retired-instruction count at which it is `time`, if the processor runs until then.
    #[must_use]
    pub fn count_at(&self, time: Time) -> u64 {
        time.0.saturating_sub(self.state.skew)
    }

    /// Lets `ns` pass without an instruction.
    pub fn skip(&mut self, ns: u64) {
        self.state.skew = self.state.skew.saturating_add(ns);
    }

    /// Lets the time pass that a load from a clock behind the ISA bridge takes. The processor is called back for a timer that comes
    /// before it would return by itself.
    fn isa_cycle(&mut self) {
        self.skip(ISA_CYCLE);
        self.deadline = self.deadline.plus(ISA_CYCLE);
        if self.around.timers.next().is_some_and(|t| t < self.deadline) {
            self.attention.raise(attention::BOARD);
        }
    }

    /// When the next timer expires.
    #[must_use]
    pub fn next_timer(&self) -> Option<Time> {
        self.around.timers.next()
    }

    /// Tells when the processor will return by itself, so that only an earlier timer calls its attention.
    pub fn set_deadline(&mut self, at: u64) {
        self.deadline = self.now(at);
    }

    /// Calls the chips whose timers have expired by count `at`.
    pub fn fire(&mut self, at: u64) {
        let now = self.now(at);
        // A chip that re-arms a timer for the past would be called for ever; the rest fires in the next turn.
        for _ in 0..10_000 {
            let Some((device, timer)) = self.around.timers.pop(now) else { return };
            self.call(at, device, |chip, ctx| chip.timer(ctx, timer));
        }
        log::warn!("timers expire faster than they can be served");
    }

    /// The first request that waits for the machine.
    pub fn take_request(&mut self) -> Option<Request> {
        self.state.requests.pop_front()
    }

    /// Output since the last call, in order: whose, and the bytes.
    pub fn take_output(&mut self) -> Vec<(DeviceId, Vec<u8>)> {
        std::mem::take(&mut self.output)
    }

    /// How many more bytes a device can take in.
    pub fn input_room(&mut self, device: DeviceId) -> usize {
        self.chips.get(device).map_or(0, |chip| chip.input_room())
    }

    /// Who takes what is typed and moved.
    #[must_use]
    pub fn inputs(&self) -> Inputs {
        self.inputs
    }

    /// A drive for removable media.
    #[must_use]
    pub fn drive(&self, name: DriveName) -> Option<&Drive> {
        match name {
            DriveName::Cdrom(n) => self.drives.cdroms.get(usize::from(n)),
            DriveName::Floppy(n) => self.drives.floppies.get(usize::from(n)),
        }
    }

    /// Of the devices that wait for work on the host: those for which it has ended, and whether others still wait.
    pub fn host_work(&mut self) -> (Vec<DeviceId>, bool) {
        let (mut ended, mut going_on) = (Vec::new(), false);
        for (n, function) in (id::PCI..).zip(&mut self.chips.pci) {
            match function.device.waits_for_host() {
                Some(true) => ended.push(DeviceId(n)),
                Some(false) => going_on = true,
                None => {}
            }
        }
        (ended, going_on)
    }

    /// Whether work on the host ends for the guest when the host says so; see [`Plugs::host_paced`].
    #[must_use]
    pub fn host_paced(&self) -> bool {
        self.around.host_paced
    }

    /// Decides that anew. Devices that wait for the host are told that it is done, because nobody else would tell them; they
    /// then wait for it themselves.
    pub fn set_host_paced(&mut self, at: u64, host_paced: bool) {
        let before = std::mem::replace(&mut self.around.host_paced, host_paced);
        if before && !host_paced {
            for n in id::PCI..id::PCI + self.chips.pci.len() as u16 {
                self.input(at, DeviceId(n), &Input::HostDone);
            }
        }
    }

    /// Hands something from outside to a device.
    pub fn input(&mut self, at: u64, device: DeviceId, input: &Input) {
        self.call(at, device, |chip, ctx| chip.input(ctx, input));
    }

    /// Offers a Linux kernel to a firmware that asks fw_cfg for one.
    pub fn offer_kernel(&mut self, kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) {
        firmware::offer_kernel(&mut self.chips.fw_cfg, kernel, initrd, cmdline, self.layout.low().min(INITRD_TOP));
    }

    /// The display adapter.
    pub(crate) fn vga(&self) -> Option<&Vga> {
        self.chips.pci.iter().find_map(|function| function.device.vga())
    }

    fn vga_mut(&mut self) -> Option<&mut Vga> {
        self.chips.pci.iter_mut().find_map(|function| function.device.vga_mut())
    }

    /// Whether an interrupt waits for the processor.
    #[must_use]
    pub fn interrupt_pending(&self) -> bool {
        self.attention.bits() & (attention::INTR | attention::NMI | attention::SMI) != 0
    }

    /// Calls a chip and carries out what it asked for.
    fn call<R>(&mut self, at: u64, device: DeviceId, f: impl FnOnce(&mut dyn Device, &mut Ctx) -> R) -> Option<R> {
        let now = self.now(at);
        let chip = self.chips.get(device)?;
        let result = f(chip, &mut self.around.ctx(now, device));
        self.settle(now, device);
        if matches!(device, id::FDC | id::DMA) {
            self.chips.fdc.run_dma(&mut self.around.ctx(now, id::FDC), &mut self.chips.dma);
            self.settle(now, id::FDC);
        }
        Some(result)
    }

    /// Carries out the effects of a call to `device`, and of what follows from them.
    fn settle(&mut self, now: Time, device: DeviceId) {
        // The local APIC also ends and sends interrupts, the HPET may take the place of other lines.
        self.unsettled |= matches!(device, id::LAPIC | id::HPET);
        if self.unsettled || !self.around.effects.is_empty() {
            self.settle_lines(now, device);
        }
        if self.around.timers.next().is_some_and(|t| t < self.deadline) || !self.state.requests.is_empty() {
            self.attention.raise(attention::BOARD);
        }
    }

    fn settle_lines(&mut self, now: Time, device: DeviceId) {
        self.collect(device);
        // After each effect, so that a pulse (low, then high) within one call is seen as one.
        loop {
            if let Some((device, effect)) = self.queue.pop_front() {
                self.carry_out(now, device, effect);
            }
            while self.propagate(now) {}
            if self.queue.is_empty() {
                break;
            }
        }
        self.unsettled = false;
        self.update_interrupt();
    }

    /// Shows the processor whether an interrupt is asked for.
    fn update_interrupt(&self) {
        let wires = &self.state.wires;
        let intr = wires.apic_intr || (wires.pic_intr && self.chips.lapic.accepts_extint());
        if intr != (self.attention.bits() & attention::INTR != 0) {
            self.attention.assign(attention::INTR, intr);
        }
    }

    /// Queues what `device` has just asked for.
    fn collect(&mut self, device: DeviceId) {
        self.queue.extend(self.around.effects.drain(..).map(|effect| (device, effect)));
    }

    fn carry_out(&mut self, now: Time, device: DeviceId, effect: Effect) {
        match effect {
            Effect::Line { line, level } => {
                let pin = self.pci_pin(device, line).unwrap_or_else(|| route(device, line));
                match pin {
                    Pin::Nmi if level => self.attention.raise(attention::NMI),
                    Pin::Smi if level && self.smm => self.attention.raise(attention::SMI),
                    _ => {}
                }
                self.unsettled = true;
                self.state.wires.drive(device, pin, level);
            }
            Effect::Msi { addr, data } => match Ipi::from_msi(addr, data) {
                Some(message) => self.deliver(now, &message),
                None => log::warn!("device {}: an interrupt message to {addr:#x} goes nowhere", device.0),
            },
            Effect::Output(_, bytes) => match self.output.last_mut() {
                Some((last, all)) if *last == device => all.extend(bytes),
                _ => self.output.push((device, bytes)),
            },
            Effect::Request(Request::A20(open)) => {
                if self.state.a20 != open {
                    self.state.a20 = open;
                    self.attention.raise(attention::REMAP);
                }
            }
            Effect::Request(Request::Remap) => {
                self.remap();
                self.attention.raise(attention::REMAP);
            }
            Effect::HostWork => self.attention.raise(attention::BOARD),
            // More than one waiting request of a kind says no more than one.
            Effect::Request(request) => {
                if self.state.requests.len() < 16 {
                    self.state.requests.push_back(request);
                }
            }
        }
    }

    /// Passes on one change of an interrupt input, or what the local APIC sends out. False when all is quiet.
    fn propagate(&mut self, now: Time) -> bool {
        if let Some((apic, n, level)) = self.state.wires.next_change(self.chips.hpet.legacy(), &self.routes) {
            let (device, chip): (_, &mut dyn Device) =
                if apic { (id::IOAPIC, &mut self.chips.ioapic) } else { (id::PIC, &mut self.chips.pic) };
            chip.line_in(&mut self.around.ctx(now, device), n, level);
            self.collect(device);
            return true;
        }
        let eois = self.chips.lapic.take_eois();
        let ipis = self.chips.lapic.take_ipis();
        if eois.is_empty() && ipis.is_empty() {
            return false;
        }
        for vector in eois {
            self.chips.ioapic.end_of_interrupt(&mut self.around.ctx(now, id::IOAPIC), vector);
        }
        self.collect(id::IOAPIC);
        // With one processor, what excludes the sender reaches nobody.
        for message in ipis.iter().filter(|m| m.shorthand != Shorthand::AllExcludingSelf) {
            self.deliver(now, message);
        }
        true
    }

    /// Delivers an interrupt message to the local APICs that it addresses.
    fn deliver(&mut self, now: Time, message: &Ipi) {
        if self.chips.lapic.matches(message.dest, message.logical) {
            self.chips.lapic.deliver(&mut self.around.ctx(now, id::LAPIC), message.message);
            self.collect(id::LAPIC);
        }
    }

    /// The interrupt that a PCI function's output line leads to.
    fn pci_pin(&self, device: DeviceId, line: u8) -> Option<Pin> {
        let function = self.chips.pci.get(usize::from(device.0.checked_sub(id::PCI)?))?;
        if let Some(irq) = function.device.isa_irq(line) {
            return Some(Pin::Isa(irq));
        }
        let pin = function.device.config().byte(0x3d).checked_sub(1)?;
        Some(Pin::Pirq(self.layout.chipset().pirq(function.slot, pin)))
    }

    /// What the A20 gate leaves of an address.
    fn gate(&self, addr: u64) -> u64 {
        if self.state.a20 { addr } else { addr & !(1 << 20) }
    }

    /// The physical map as the processor sees it now.
    fn view(&self) -> &AddressSpace {
        self.smm_space.as_ref().filter(|_| self.in_smm).unwrap_or(&self.around.space)
    }

    /// What backs a page.
    fn page(&self, page: u64) -> PageKind {
        self.view().page(self.gate(page))
    }

    pub(crate) fn read(&mut self, at: u64, addr: u64, width: usize) -> u64 {
        let addr = self.gate(addr);
        match self.view().find(addr) {
            Some((Backing::Device(id::PCIHOST, _), offset)) => self.ecam_read(at, offset, width),
            Some((Backing::Device(device, region), offset)) => {
                let value = self.call(at, device, |chip, ctx| chip.read(ctx, region, offset, width));
                if device == id::HPET {
                    self.isa_cycle();
                }
                value.map_or(ones(width), |v| v & ones(width))
            }
            Some(_) => {
                let mut bytes = [0; 8];
                if !self.copy(addr, width, |memory, offset, range| memory.read(offset, &mut bytes[range]).is_ok()) {
                    return ones(width);
                }
                u64::from_le_bytes(bytes)
            }
            None => {
                unassigned("load", addr, width);
                ones(width)
            }
        }
    }

    fn write(&mut self, at: u64, addr: u64, width: usize, value: u64) {
        let addr = self.gate(addr);
        match self.view().find(addr) {
            Some((Backing::Device(id::PCIHOST, _), offset)) => self.ecam_write(at, offset, width, value),
            Some((Backing::Device(id::FLASH, _) | Backing::Flash(..), _)) if self.flash_guarded && !self.in_smm => {}
            Some((Backing::Device(device, region) | Backing::Flash(_, device, region), offset)) => {
                self.call(at, device, |chip, ctx| chip.write(ctx, region, offset, width, value & ones(width)));
            }
            Some((Backing::Ram(_), _)) => {
                let bytes = value.to_le_bytes();
                self.copy(addr, width, |memory, offset, range| memory.write(offset, &bytes[range]).is_ok());
            }
            Some((Backing::Rom(_), _)) => {}
            None => unassigned("store", addr, width),
        }
    }

    /// An access to memory on a page that is not memory as a whole.
    fn copy(&self, addr: u64, width: usize, mut f: impl FnMut(&GuestMemory, u64, std::ops::Range<usize>) -> bool) -> bool {
        let memory = &self.around.memory;
        self.view().each_run(addr, width.min(8), |range, offset, _| f(memory, offset, range))
    }

    fn port_read(&mut self, at: u64, port: u16, width: usize) -> u32 {
        let found = self.ports.find(port);
        let value = found.and_then(|(device, region, offset)| {
            if device == id::PCIHOST {
                return Some(self.pci_port_read(at, offset, width));
            }
            self.call(at, device, |chip, ctx| chip.read(ctx, region, offset, width))
        });
        match found {
            Some((id::PIT | id::PM | id::RTC, ..)) => self.isa_cycle(),
            Some(_) => {}
            None => unassigned("IN", u64::from(port), width),
        }
        (value.unwrap_or(!0) & ones(width)) as u32
    }

    fn port_write(&mut self, at: u64, port: u16, width: usize, value: u32) {
        let value = u64::from(value) & ones(width);
        match self.ports.find(port) {
            Some((id::PCIHOST, _, offset)) => self.pci_port_write(at, offset, width, value),
            Some((id::BIOS, _, _)) => {
                if self.state.requests.front() != Some(&Request::Firmware) {
                    self.state.requests.push_front(Request::Firmware);
                }
                self.attention.raise(attention::BOARD);
            }
            Some((device, region, offset)) => {
                self.call(at, device, |chip, ctx| chip.write(ctx, region, offset, width, value));
            }
            None => unassigned("OUT", u64::from(port), width),
        }
    }

    fn acknowledge(&mut self, at: u64) -> Option<u8> {
        let now = self.now(at);
        let mut vector = self.chips.lapic.acknowledge(&mut self.around.ctx(now, id::LAPIC));
        self.settle(now, id::LAPIC);
        if vector.is_none() && self.state.wires.pic_intr && self.chips.lapic.accepts_extint() {
            vector = Some(self.chips.pic.acknowledge(&mut self.around.ctx(now, id::PIC)));
            self.settle(now, id::PIC);
        }
        vector
    }

    /// The processor drives FERR#; the level of IGNNE#.
    fn float_error(&mut self, at: u64, pending: bool) -> bool {
        let now = self.now(at);
        let ignore = self.chips.ferr.drive(&mut self.around.ctx(now, id::FERR), pending);
        self.settle(now, id::FERR);
        ignore
    }

    /// The next number of the random source.
    fn random(&mut self) -> u64 {
        softmetal_bus::splitmix64(&mut self.state.random)
    }
}

/// A board that its processor and the machine share.
#[derive(Clone)]
pub struct SharedBoard(Arc<Mutex<Board>>);

impl SharedBoard {
    /// Shares a board.
    #[must_use]
    pub fn new(board: Board) -> Self {
        Self(Arc::new(Mutex::new(board)))
    }

    /// The board, for the machine.
    pub fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CpuBus for SharedBoard {
    fn page(&self, page: u64) -> PageKind {
        self.lock().page(page)
    }
    fn read(&mut self, at: u64, addr: u64, width: usize) -> u64 {
        self.lock().read(at, addr, width)
    }
    fn write(&mut self, at: u64, addr: u64, width: usize, value: u64) {
        self.lock().write(at, addr, width, value);
    }
    fn port_read(&mut self, at: u64, port: u16, width: usize) -> u32 {
        self.lock().port_read(at, port, width)
    }
    fn port_write(&mut self, at: u64, port: u16, width: usize, value: u32) {
        self.lock().port_write(at, port, width, value);
    }
    fn acknowledge(&mut self, at: u64) -> Option<u8> {
        self.lock().acknowledge(at)
    }
    fn apic_msr_read(&mut self, at: u64, msr: u32) -> Option<u64> {
        let mut board = self.lock();
        let board = &mut *board;
        let now = board.now(at);
        let value = board.chips.lapic.msr_read(&mut board.around.ctx(now, id::LAPIC), msr);
        board.settle(now, id::LAPIC);
        value
    }
    fn apic_msr_write(&mut self, at: u64, msr: u32, value: u64) -> bool {
        let mut board = self.lock();
        let board = &mut *board;
        let now = board.now(at);
        let ok = board.chips.lapic.msr_write(&mut board.around.ctx(now, id::LAPIC), msr, value);
        board.settle(now, id::LAPIC);
        ok
    }
    fn task_priority(&mut self) -> u8 {
        self.lock().chips.lapic.cr8()
    }
    fn set_task_priority(&mut self, at: u64, value: u8) {
        let mut board = self.lock();
        let board = &mut *board;
        let now = board.now(at);
        board.chips.lapic.set_cr8(&mut board.around.ctx(now, id::LAPIC), value);
        board.settle(now, id::LAPIC);
    }
    fn time_stamp(&mut self, at: u64) -> u64 {
        self.lock().now(at).0
    }
    fn float_error(&mut self, at: u64, pending: bool) -> bool {
        self.lock().float_error(at, pending)
    }
    fn set_smm(&mut self, active: bool) {
        self.lock().in_smm = active;
    }
    fn random(&mut self, _at: u64) -> u64 {
        self.lock().random()
    }
}
