//! What a device under test stands in: memory, timers and a place for its effects.

use softmetal_bus::{AddressSpace, Backing, Ctx, Device, DeviceId, Effect, GuestMemory, Region, Time, TimerQueue};

/// A board with nothing on it but one RAM region at physical 0 and the device under test.
pub(crate) struct Rig {
    /// The virtual time of the next call.
    pub now: Time,
    /// Who the device is.
    pub id: DeviceId,
    /// Guest RAM: [`Rig::RAM`] bytes, mapped at physical address 0.
    pub memory: GuestMemory,
    /// The physical map.
    pub space: AddressSpace,
    /// The armed timers.
    pub timers: TimerQueue,
    /// The effects since the last [`Rig::take`].
    pub effects: Vec<Effect>,
    /// See [`Ctx`].
    pub host_paced: bool,
}

impl Rig {
    /// Bytes of RAM.
    pub const RAM: u64 = 1 << 20;

    /// An idle board at time 0.
    pub fn new() -> Self {
        let mut space = AddressSpace::default();
        space.set(vec![Region { start: 0, len: Self::RAM, priority: 0, backing: Backing::Ram(0) }]);
        Self {
            now: Time(0),
            id: DeviceId(1),
            memory: GuestMemory::new(Self::RAM).expect("RAM for a test"),
            space,
            timers: TimerQueue::default(),
            effects: Vec::new(),
            host_paced: false,
        }
    }

    /// The context of a call at the present time.
    pub fn ctx(&mut self) -> Ctx<'_> {
        let Self { now, id, memory, space, timers, effects, host_paced } = self;
        Ctx { now: *now, id: *id, memory, space, timers, effects, host_paced: *host_paced }
    }

    /// A load from the device.
    pub fn read(&mut self, device: &mut impl Device, region: u8, offset: u64, width: usize) -> u64 {
        device.read(&mut self.ctx(), region, offset, width)
    }

    /// A store to the device.
    pub fn write(&mut self, device: &mut impl Device, region: u8, offset: u64, width: usize, value: u64) {
        device.write(&mut self.ctx(), region, offset, width, value);
    }

    /// Drives an input line of the device.
    pub fn line_in(&mut self, device: &mut impl Device, line: u8, level: bool) {
        device.line_in(&mut self.ctx(), line, level);
    }

    /// Lets time pass until `until`, calling the device for each timer that expires, at its own time.
    pub fn run_to(&mut self, device: &mut impl Device, until: Time) {
        while let Some(at) = self.timers.next().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            if let Some((_, timer)) = self.timers.pop(at) {
                device.timer(&mut self.ctx(), timer);
            }
        }
        self.now = self.now.max(until);
    }

    /// Lets `ns` nanoseconds pass; see [`Rig::run_to`].
    pub fn run(&mut self, device: &mut impl Device, ns: u64) {
        self.run_to(device, self.now.plus(ns));
    }

    /// The effects since the last call.
    pub fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The levels that output line `line` took since the last call; other effects are dropped.
    pub fn take_line(&mut self, line: u8) -> Vec<bool> {
        self.take()
            .into_iter()
            .filter_map(|e| match e {
                Effect::Line { line: l, level } if l == line => Some(level),
                _ => None,
            })
            .collect()
    }

    /// The messages (address, data) since the last call; other effects are dropped.
    pub fn take_msis(&mut self) -> Vec<(u64, u32)> {
        self.take()
            .into_iter()
            .filter_map(|e| match e {
                Effect::Msi { addr, data } => Some((addr, data)),
                _ => None,
            })
            .collect()
    }
}
