//! What a device under test stands in: memory, timers and a place for its effects.

use std::sync::{Arc, Mutex, MutexGuard};

use softmetal_bus::{
    AddressSpace, Backing, BlockBackend, BlockError, Ctx, Device, DeviceId, Effect, GuestMemory, Region, Time, TimerQueue,
};

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

/// What a [`SlowDisk`] holds, and how it is with its host.
#[derive(Default)]
pub(crate) struct Slow {
    pub bytes: Vec<u8>,
    /// What it has been asked to bring near: offset and length.
    pub asked: Vec<(u64, u64)>,
    /// It has not brought it yet.
    pub busy: bool,
    /// It cannot be read.
    pub broken: bool,
}

/// A disk whose host takes its time for reads.
#[derive(Clone, Default)]
pub(crate) struct SlowDisk(Arc<Mutex<Slow>>);

impl SlowDisk {
    /// One with `bytes`, which is busy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Slow { bytes, busy: true, ..Slow::default() })))
    }
    /// What the test can look at and change.
    pub fn slow(&self) -> MutexGuard<'_, Slow> {
        self.0.lock().unwrap()
    }
    /// What it has been asked since the last call.
    pub fn asked(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.slow().asked)
    }
}

impl BlockBackend for SlowDisk {
    fn size(&self) -> u64 {
        self.slow().bytes.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        if self.slow().broken {
            return Err(std::io::Error::other("worn out").into());
        }
        self.slow().bytes.read_at(offset, buf)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.slow().bytes.write_at(offset, buf)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
    fn begin_read(&mut self, offset: u64, len: u64) {
        self.slow().asked.push((offset, len));
    }
    fn reading(&mut self) -> bool {
        self.slow().busy
    }
}
