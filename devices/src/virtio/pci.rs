//! Virtio over PCI, the modern interface only (virtio 1.2, 4.1).

use serde::{Deserialize, Serialize};
use softmetal_bus::device::{decode, encode};
use softmetal_bus::{Ctx, Device, Input, Request, StateError, ones};

use super::VirtioDevice;
use super::queue::{Broken, NO_VECTOR, Queue, QueueState};
use crate::pci::{BarKind, ConfigSpace, Identity, MSIX_BAR_LEN, Msix, MsixState, PciDevice, Registers, command};

const VENDOR: u16 = 0x1af4;
const VENDOR_CAPABILITY: u8 = 9;

/// The BAR of the MSI-X table, and the one of the virtio structures.
const MSIX_BAR: u8 = 1;
const BAR: u8 = 4;
/// Each structure has a page of its own in [`BAR`].
const PAGE: u64 = 0x1000;
const COMMON: u64 = 0;
const ISR: u64 = 1;
const DEVICE: u64 = 2;
const NOTIFY: u64 = 3;
/// Bytes between the notification addresses of two queues.
const NOTIFY_STEP: u64 = 4;
const COMMON_LEN: u64 = 0x38;

mod cap {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI: u8 = 5;
}
mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

const F_INDIRECT_DESC: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;

/// A virtio device as a PCI function: BAR 1 is MSI-X, BAR 4 the virtio structures.
pub struct VirtioPci<D> {
    /// Where in the configuration space the window of `VIRTIO_PCI_CAP_PCI_CFG` is.
    window: u8,
    device: D,
    config: ConfigSpace,
    msix: Msix,
    queues: Vec<Queue>,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    status: u8,
    isr: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_select: u16,
    /// The level of line 0.
    line: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: 0,
            isr: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            line: false,
        }
    }
}

/// All that is saved.
type Saved<S> = (Registers, MsixState, State, Vec<QueueState>, S);

/// A register of the common configuration structure (4.1.4.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Register {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    NumQueues,
    Status,
    Generation,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDesc,
    QueueDriver,
    QueueDevice,
}

/// Offset, bytes, register.
const REGISTERS: [(u64, u64, Register); 16] = [
    (0x00, 4, Register::DeviceFeatureSelect),
    (0x04, 4, Register::DeviceFeature),
    (0x08, 4, Register::DriverFeatureSelect),
    (0x0c, 4, Register::DriverFeature),
    (0x10, 2, Register::ConfigVector),
    (0x12, 2, Register::NumQueues),
    (0x14, 1, Register::Status),
    (0x15, 1, Register::Generation),
    (0x16, 2, Register::QueueSelect),
    (0x18, 2, Register::QueueSize),
    (0x1a, 2, Register::QueueVector),
    (0x1c, 2, Register::QueueEnable),
    (0x1e, 2, Register::QueueNotifyOff),
    (0x20, 8, Register::QueueDesc),
    (0x28, 8, Register::QueueDriver),
    (0x30, 8, Register::QueueDevice),
];

/// The register at `offset`, its size, and how many bits into it the access begins; `None` if the access leaves it.
fn register(offset: u64, width: usize) -> Option<(Register, u64, u64)> {
    let &(start, len, register) = REGISTERS.iter().find(|(start, len, _)| (*start..start + len).contains(&offset))?;
    (offset + width as u64 <= start + len).then_some((register, len, 8 * (offset - start)))
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// The PCI function of `device`, in its reset state.
    pub fn new(device: D) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: 0x1040 + D::TYPE,
            class: D::CLASS,
            revision: 1,
            subsystem: (VENDOR, 0x1100),
            interrupt_pin: 1,
            ..Identity::default()
        });
        config.add_bar(MSIX_BAR, BarKind::Memory32, MSIX_BAR_LEN);
        config.add_bar(BAR, BarKind::Memory32, 4 * PAGE);
        let msix = Msix::new(&mut config, D::QUEUES.len() as u16 + 1, MSIX_BAR);
        let mut capability = |kind, page: u64, len: u64, extra: &[u8], mask: &[u8]| {
            let bar = if kind == cap::PCI { 0 } else { BAR };
            let mut body = vec![16 + extra.len() as u8, kind, bar, 0, 0, 0];
            body.extend(((page * PAGE) as u32).to_le_bytes());
            body.extend((len as u32).to_le_bytes());
            body.extend(extra);
            config.add_capability(VENDOR_CAPABILITY, &body, mask)
        };
        let queues = D::QUEUES.len() as u64;
        let step = (NOTIFY_STEP as u32).to_le_bytes();
        capability(cap::COMMON, COMMON, COMMON_LEN, &[], &[]);
        capability(cap::NOTIFY, NOTIFY, queues * NOTIFY_STEP, &step, &[]);
        capability(cap::ISR, ISR, 1, &[], &[]);
        let len = device.config().len() as u64;
        if len > 0 {
            capability(cap::DEVICE, DEVICE, len, &[], &[]);
        }
        // In the window only the BAR, the offset and the length are the driver's to write.
        let mut mask = [0xff; 14];
        mask[..2].fill(0);
        mask[3..6].fill(0);
        let window = capability(cap::PCI, 0, 0, &[0; 4], &mask);
        Self { window, device, config, msix, queues: D::QUEUES.iter().map(|&max| Queue::new(max)).collect(), state: State::default() }
    }

    /// The device behind the transport.
    pub fn device(&self) -> &D {
        &self.device
    }

    fn features(&self) -> u64 {
        self.device.features() | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1
    }

    fn live(&self) -> bool {
        self.state.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    fn update_line(&mut self, ctx: &mut Ctx) {
        let pending = self.state.isr != 0;
        self.config.set_interrupt_status(pending);
        let level = pending && self.config.command() & command::INTX_DISABLE == 0 && !self.msix.enabled(&self.config);
        if level != self.state.line {
            self.state.line = level;
            ctx.line(0, level);
        }
    }

    fn interrupt(&mut self, ctx: &mut Ctx, vector: u16, isr: u8) {
        if self.msix.enabled(&self.config) {
            self.msix.notify(ctx, &self.config, vector);
        } else {
            self.state.isr |= isr;
            self.update_line(ctx);
        }
    }

    /// Processes queue `index`, then interrupts for all that was given back.
    fn process(&mut self, ctx: &mut Ctx, index: usize) {
        if !self.live() || index >= self.queues.len() {
            return;
        }
        let result = self.device.process(ctx, index, &mut self.queues);
        self.give_back(ctx, result);
    }

    /// What the device waited for on the host has ended.
    fn host_done(&mut self, ctx: &mut Ctx) {
        if self.live() {
            let result = self.device.host_done(ctx, &mut self.queues);
            self.give_back(ctx, result);
        }
    }

    /// Interrupts for all that was given back to the driver.
    fn give_back(&mut self, ctx: &mut Ctx, mut result: Result<(), Broken>) {
        for i in 0..self.queues.len() {
            match self.queues[i].take_interrupt(ctx) {
                Ok(false) => {}
                Ok(true) => self.interrupt(ctx, self.queues[i].state.vector, ISR_QUEUE),
                Err(broken) => result = result.and(Err(broken)),
            }
        }
        if let Err(broken) = result {
            self.stop(ctx, broken);
        }
    }

    fn stop(&mut self, ctx: &mut Ctx, why: Broken) {
        log::warn!("{}: {why}; stopped until the driver resets it", D::NAME);
        self.state.status |= status::NEEDS_RESET;
        self.interrupt(ctx, self.state.config_vector, ISR_CONFIG);
    }

    fn set_status(&mut self, ctx: &mut Ctx, value: u8) {
        if value == 0 {
            self.device.reset(false);
            self.reset_transport(ctx);
            return;
        }
        let s = &mut self.state;
        let new = value & !s.status;
        s.status |= new;
        if new & status::FEATURES_OK != 0 {
            let accepted = self.state.driver_features;
            if accepted & !self.features() != 0 || accepted & F_VERSION_1 == 0 {
                log::warn!("{}: the driver's features {accepted:#x} are refused", D::NAME);
                self.state.status &= !(status::FEATURES_OK | new & status::DRIVER_OK);
                return;
            }
            for queue in &mut self.queues {
                let on = |feature| accepted & feature != 0;
                queue.negotiate(on(F_EVENT_IDX), on(F_INDIRECT_DESC));
            }
        }
        if new & status::DRIVER_OK != 0 {
            if self.state.status & status::FEATURES_OK == 0 {
                self.stop(ctx, Broken("the driver has not negotiated features"));
                return;
            }
            self.device.activate(self.state.driver_features);
            for i in 0..self.queues.len() {
                self.process(ctx, i);
            }
        }
    }

    fn reset_transport(&mut self, ctx: &mut Ctx) {
        self.queues.iter_mut().for_each(Queue::reset);
        self.state = State { line: self.state.line, ..State::default() };
        self.update_line(ctx);
    }

    fn queue(&self) -> Option<&QueueState> {
        let queue = self.queues.get(usize::from(self.state.queue_select));
        queue.map(|q| &q.state)
    }

    fn common(&self, register: Register) -> u64 {
        let s = &self.state;
        let half = |features: u64, select: u32| match select {
            0 => features & 0xffff_ffff,
            1 => features >> 32,
            _ => 0,
        };
        let queue = |f: fn(&QueueState) -> u64| self.queue().map_or(0, f);
        match register {
            Register::DeviceFeatureSelect => s.device_feature_select.into(),
            Register::DeviceFeature => half(self.features(), s.device_feature_select),
            Register::DriverFeatureSelect => s.driver_feature_select.into(),
            Register::DriverFeature => half(s.driver_features, s.driver_feature_select),
            Register::ConfigVector => s.config_vector.into(),
            Register::NumQueues => self.queues.len() as u64,
            Register::Status => s.status.into(),
            // The configuration of no device changes by itself.
            Register::Generation => 0,
            Register::QueueSelect => s.queue_select.into(),
            Register::QueueSize => queue(|q| q.size.into()),
            Register::QueueVector => {
                let vector = self.queue().map_or(NO_VECTOR, |q| q.vector);
                vector.into()
            }
            Register::QueueEnable => queue(|q| q.enabled.into()),
            Register::QueueNotifyOff => match self.queue() {
                Some(_) => s.queue_select.into(),
                None => 0,
            },
            Register::QueueDesc => queue(|q| q.desc),
            Register::QueueDriver => queue(|q| q.driver),
            Register::QueueDevice => queue(|q| q.device),
        }
    }

    fn set_common(&mut self, ctx: &mut Ctx, register: Register, value: u64) {
        let vector = if value < u64::from(self.msix.vectors()) { value as u16 } else { NO_VECTOR };
        let s = &mut self.state;
        match register {
            Register::DeviceFeatureSelect => s.device_feature_select = value as u32,
            Register::DriverFeatureSelect => s.driver_feature_select = value as u32,
            Register::DriverFeature if s.status & status::FEATURES_OK == 0 => {
                let low = 0xffff_ffff;
                match s.driver_feature_select {
                    0 => s.driver_features = s.driver_features & !low | value & low,
                    1 => s.driver_features = s.driver_features & low | value << 32,
                    _ => {}
                }
            }
            Register::ConfigVector => s.config_vector = vector,
            Register::Status => self.set_status(ctx, value as u8),
            Register::QueueSelect => s.queue_select = value as u16,
            Register::DeviceFeature | Register::DriverFeature | Register::NumQueues | Register::Generation | Register::QueueNotifyOff => {
                log::debug!("{}: write to a read-only register ignored", D::NAME);
            }
            _ => self.set_queue(ctx, register, value, vector),
        }
    }

    fn set_queue(&mut self, ctx: &mut Ctx, register: Register, value: u64, vector: u16) {
        let Some(queue) = self.queues.get_mut(usize::from(self.state.queue_select)) else {
            return;
        };
        if register == Register::QueueVector {
            queue.state.vector = vector;
        } else if queue.state.enabled {
            log::debug!("{}: write to a register of an enabled queue ignored", D::NAME);
        } else {
            match register {
                Register::QueueSize if queue.allows(value as u16) => {
                    queue.state.size = value as u16;
                }
                Register::QueueEnable if value == 1 => {
                    if !queue.enable() {
                        self.stop(ctx, Broken("a ring is not aligned"));
                    }
                }
                Register::QueueDesc => queue.state.desc = value,
                Register::QueueDriver => queue.state.driver = value,
                Register::QueueDevice => queue.state.device = value,
                _ => log::warn!("{}: {value:#x} in a queue register ignored", D::NAME),
            }
        }
    }

    /// The access that the window in configuration space describes (4.1.4.9): BAR, offset, bytes.
    fn window(&self) -> Option<(u8, u64, usize)> {
        let field = |at| self.config.read(u16::from(self.window) + at, 4);
        let (bar, offset, len) = (field(4) as u8, u64::from(field(8)), field(12));
        let end = match bar {
            BAR => 4 * PAGE,
            MSIX_BAR => MSIX_BAR_LEN,
            _ => return None,
        };
        let aligned = matches!(len, 1 | 2 | 4) && offset % u64::from(len) == 0;
        (aligned && offset < end).then_some((bar, offset, len as usize))
    }

    fn in_window(&self, offset: u16) -> bool {
        offset == u16::from(self.window) + 16
    }
}

impl<D: VirtioDevice> Device for VirtioPci<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        if region == MSIX_BAR {
            return self.msix.read(offset, width);
        }
        match (offset / PAGE, offset % PAGE) {
            (COMMON, at) => match register(at, width) {
                Some((register, _, shift)) => self.common(register) >> shift & ones(width),
                None => ones(width),
            },
            (ISR, 0) => {
                let isr = std::mem::take(&mut self.state.isr);
                self.update_line(ctx);
                isr.into()
            }
            (DEVICE, at) => {
                let config = self.device.config();
                let mut value = [0; 8];
                for (byte, &field) in value[..width].iter_mut().zip(config.get(at as usize..).unwrap_or_default()) {
                    *byte = field;
                }
                u64::from_le_bytes(value)
            }
            (NOTIFY, _) => 0,
            _ => ones(width),
        }
    }

    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        if region == MSIX_BAR {
            self.msix.write(ctx, &self.config, offset, width, value);
            return;
        }
        match (offset / PAGE, offset % PAGE) {
            (NOTIFY, at) => self.process(ctx, (at / NOTIFY_STEP) as usize),
            (COMMON, at) => match register(at, width) {
                // A half of a 64-bit register leaves the other half as it is.
                Some((register, 8, shift)) => {
                    let mask = ones(width) << shift;
                    let value = self.common(register) & !mask | value << shift & mask;
                    self.set_common(ctx, register, value);
                }
                Some((register, len, 0)) if len == width as u64 => {
                    self.set_common(ctx, register, value & ones(width));
                }
                _ => log::warn!("{}: {width}-byte write at {at:#x} ignored", D::NAME),
            },
            (DEVICE, at) => {
                let bytes = &value.to_le_bytes()[..width];
                self.device.config_write(ctx, at, bytes);
            }
            _ => log::debug!("{}: write at {offset:#x} ignored", D::NAME),
        }
    }

    fn timer(&mut self, ctx: &mut Ctx, _timer: u32) {
        self.host_done(ctx);
    }

    fn waits_for_host(&mut self) -> Option<bool> {
        self.device.waits_for_host()
    }

    fn input(&mut self, ctx: &mut Ctx, input: &Input) {
        if *input == Input::HostDone {
            return self.host_done(ctx);
        }
        if let Some(index) = self.device.input(input) {
            self.process(ctx, index);
        }
    }

    fn input_room(&self) -> usize {
        self.device.input_room()
    }

    fn reset(&mut self, ctx: &mut Ctx) {
        self.device.reset(true);
        self.config.reset();
        self.msix.reset();
        self.reset_transport(ctx);
        ctx.line(0, false);
        ctx.request(Request::Remap);
    }

    fn save(&self) -> Vec<u8> {
        let queues: Vec<_> = self.queues.iter().map(|q| &q.state).collect();
        let (config, msix) = (self.config.registers(), self.msix.state());
        encode(2, &(config, msix, &self.state, queues, self.device.state()))
    }

    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let (config, msix, state, queues, device): Saved<D::State> = decode(D::NAME, 2, bytes)?;
        let corrupt = |what: &str| Err(StateError::Corrupt(D::NAME, what.into()));
        if queues.len() != self.queues.len() || self.queues.iter().zip(&queues).any(|(q, state)| !q.accepts(state)) {
            return corrupt("other queues");
        }
        if !self.msix.set_state(msix) {
            return corrupt("another number of interrupt vectors");
        }
        for (queue, state) in self.queues.iter_mut().zip(queues) {
            queue.state = state;
        }
        self.config.set_registers(config);
        self.state = state;
        self.device.set_state(device);
        Ok(())
    }
}

impl<D: VirtioDevice> PciDevice for VirtioPci<D> {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn config_read(&mut self, ctx: &mut Ctx, offset: u16, width: usize) -> u32 {
        match self.window() {
            Some((bar, at, len)) if self.in_window(offset) && len == width => self.read(ctx, bar, at, len) as u32,
            _ => self.config.read(offset, width),
        }
    }
    fn config_write(&mut self, ctx: &mut Ctx, offset: u16, width: usize, value: u32) {
        if self.in_window(offset) {
            if let Some((bar, at, len)) = self.window().filter(|w| w.2 == width) {
                self.write(ctx, bar, at, len, value.into());
            }
            return;
        }
        if self.config.write(offset, width, value) {
            ctx.request(Request::Remap);
        }
        self.msix.deliver(ctx, &self.config);
        self.update_line(ctx);
    }
}

#[cfg(test)]
mod tests;
