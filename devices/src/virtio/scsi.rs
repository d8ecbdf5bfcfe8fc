//! The virtio SCSI host (virtio 1.2, 5.6): disks and CD-ROM drives as logical units.

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, Ctx};

use super::VirtioDevice;
use super::flush::Flushes;
use super::queue::{Broken, Chain, Fault, Mover, Queue, Segments};
use crate::scsi::cd::{self, ScsiCd};
use crate::scsi::disk::{Access, ScsiDisk, unreadable, unwritable};
use crate::scsi::{BAD_FIELD, BAD_LUN, Reply, Sense};

/// Queues: control, events, requests.
const CONTROL: usize = 0;
const EVENTS: usize = 1;
const QUEUE_SIZE: u16 = 256;
/// Buffers of data in one request.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes moved between a unit and the guest at a time.
const BUFFER: usize = 256 << 10;
/// Logical units of a target.
pub const LUNS: usize = 8;
/// Targets that are looked for.
const TARGETS: usize = 32;
/// Most blocks of 512 bytes in one request, and its bytes: bounds the time that it takes.
const MAX_SECTORS: u32 = 1 << 16;
const MAX_BYTES: u64 = MAX_SECTORS as u64 * 512;

/// What the driver may choose: bytes of a command packet and of the sense data.
const CDB_SIZE: u32 = 32;
const SENSE_SIZE: u32 = 96;
const MAX_SIZE: u32 = 256;
/// Their places in the configuration.
const AT_SENSE_SIZE: u64 = 20;
const AT_CDB_SIZE: u64 = 24;

/// Bytes of a request before its packet: unit, id, task attribute, priority, command reference.
const HEAD: usize = 19;
/// Bytes of a response before its sense data: length of that, residual, qualifier, status, response.
const RESPONSE: usize = 12;

/// Responses.
mod response {
    pub const OK: u8 = 0;
    pub const OVERRUN: u8 = 1;
    pub const BAD_TARGET: u8 = 3;
    pub const FAILURE: u8 = 9;
}
/// SCSI status.
const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
/// Control requests, and the response that a task management function is complete.
const TASK_MANAGEMENT: u32 = 0;
const EVENT_QUERY: u32 = 1;
const EVENT_SUBSCRIBE: u32 = 2;
const FUNCTION_COMPLETE: u8 = 0;

/// Packets that the host answers for a whole target, or for units that are not there.
const INQUIRY: u8 = 0x12;
const REPORT_LUNS: u8 = 0xa0;

/// A logical unit.
pub enum Lun {
    /// A disk.
    Disk(ScsiDisk),
    /// A CD-ROM drive.
    Cd(ScsiCd),
}

/// Why a request did not succeed.
enum Failure {
    /// The unit says so.
    Sense(Sense),
    /// The host says so.
    Response(u8),
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

impl From<Fault> for Failure {
    fn from(_: Fault) -> Self {
        Self::Response(response::FAILURE)
    }
}

/// What of a request is done.
enum Done {
    All,
    /// This unit's disk is still to be flushed.
    Flush(usize),
}

/// A flush that has not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    queue: usize,
    head: u16,
    unit: usize,
    /// Where its response goes.
    response: Segments,
}

/// The host with its units: of target `n / LUNS` the unit `n % LUNS`.
pub struct VirtioScsi {
    units: Vec<Lun>,
    /// Reused from request to request.
    mover: Mover,
    chain: Chain,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    cdb_size: u32,
    sense_size: u32,
    /// Of the units that are CD-ROM drives, in order.
    cds: Vec<cd::State>,
    flushes: Flushes<Held>,
}

impl VirtioScsi {
    /// With `units`, of which those that find no place are left out.
    #[must_use]
    pub fn new(mut units: Vec<Lun>) -> Self {
        units.truncate(LUNS * TARGETS);
        let state = State { cdb_size: CDB_SIZE, sense_size: SENSE_SIZE, cds: Vec::new(), flushes: Flushes::default() };
        let mut scsi = Self { units, mover: Mover::new(BUFFER), chain: Chain::default(), state };
        scsi.note_cds();
        scsi
    }

    fn cds(&mut self) -> impl Iterator<Item = &mut ScsiCd> {
        self.units.iter_mut().filter_map(|unit| match unit {
            Lun::Cd(cd) => Some(cd),
            Lun::Disk(_) => None,
        })
    }

    fn note_cds(&mut self) {
        self.state.cds = self.cds().map(|cd| cd.state().clone()).collect();
    }

    /// The response in its bytes.
    fn response(&self, status: u8, response: u8, sense: Option<Sense>, residual: u64) -> Vec<u8> {
        let sense = sense.map(|sense| sense.bytes().to_vec()).unwrap_or_default();
        let mut bytes = (sense.len().min(self.state.sense_size as usize) as u32).to_le_bytes().to_vec();
        bytes.extend(u32::try_from(residual).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend([0, 0, status, response]);
        bytes.extend(sense);
        bytes.resize(RESPONSE + self.state.sense_size as usize, 0);
        bytes
    }

    /// Carries out the request of `chain`, from queue `queue`; how many bytes were written to its buffers, or `None` if it
    /// has not ended.
    fn request(&mut self, ctx: &mut Ctx, queue: usize, chain: &mut Chain) -> Option<u32> {
        let mut place = chain.writable.take_front(RESPONSE + self.state.sense_size as usize);
        let room = chain.writable.left() + chain.readable.left().saturating_sub(HEAD as u64 + u64::from(self.state.cdb_size));
        let into = chain.writable.left();
        let result = self.execute(ctx, chain);
        let written = into - chain.writable.left();
        let moved = if into > 0 { written } else { room - chain.readable.left().min(room) };
        let bytes = match result {
            Ok(Done::Flush(unit)) if self.state.flushes.has_room() => {
                let held = Held { queue, head: chain.head(), unit, response: place };
                self.state.flushes.hold(ctx, held, |held| begin(&mut self.units, held));
                return None;
            }
            Ok(Done::All) => self.response(GOOD, response::OK, None, room - moved),
            Ok(Done::Flush(_)) => self.response(GOOD, response::FAILURE, None, room),
            Err(Failure::Sense(sense)) => self.response(CHECK_CONDITION, response::OK, Some(sense), room - moved),
            Err(Failure::Response(code)) => self.response(GOOD, code, None, room - moved),
        };
        let told = place.write(ctx, &bytes).unwrap_or(0);
        Some((written + told as u64) as u32)
    }

    fn execute(&mut self, ctx: &Ctx, chain: &mut Chain) -> Result<Done, Failure> {
        let mut head = [0; HEAD + MAX_SIZE as usize];
        let head = &mut head[..HEAD + self.state.cdb_size as usize];
        if chain.readable.read(ctx, head)? < head.len() {
            log::warn!("virtio-scsi: a request with a short header");
            return Err(Failure::Response(response::FAILURE));
        }
        let lun = &head[..8];
        let mut cdb = [0; 16];
        let n = (head.len() - HEAD).min(cdb.len());
        cdb[..n].copy_from_slice(&head[HEAD..HEAD + n]);
        let first = usize::from(lun[1]) * LUNS;
        // Another kind of address, or another target: it is not there.
        if !matches!(lun[0], 1 | 0xc1) || first >= self.units.len() {
            return Err(Failure::Response(response::BAD_TARGET));
        }
        let number = usize::from(lun[2] & 0x3f) << 8 | usize::from(lun[3]);
        let present = lun[0] == 1 && number < LUNS && first + number < self.units.len();
        let data = match cdb[0] {
            REPORT_LUNS => Some(self.luns(first, &cdb)),
            // Qualifier: a unit could be here, but is not.
            INQUIRY if !present => Some([&[0x7f, 0, 5, 2, 31][..], &[0; 31]].concat()),
            _ if !present => return Err(BAD_LUN.into()),
            _ => None,
        };
        if let Some(data) = data {
            chain.writable.write(ctx, &data)?;
            return Ok(Done::All);
        }
        self.command(ctx, first + number, &cdb, chain)
    }

    /// The answer to REPORT LUNS (SPC-3, 6.21) for the target whose first unit is `first`.
    fn luns(&self, first: usize, cdb: &[u8; 16]) -> Vec<u8> {
        let count = (self.units.len() - first).min(LUNS) as u8;
        let mut data = vec![0, 0, 0, count * 8, 0, 0, 0, 0];
        data.extend((0..count).flat_map(|n| [0, n, 0, 0, 0, 0, 0, 0]));
        data.truncate(u32::from_be_bytes([cdb[6], cdb[7], cdb[8], cdb[9]]) as usize);
        data
    }

    /// A command of a unit.
    fn command(&mut self, ctx: &Ctx, unit: usize, cdb: &[u8; 16], chain: &mut Chain) -> Result<Done, Failure> {
        let (readable, writable, mover) = (&mut chain.readable, &mut chain.writable, &mut self.mover);
        match &mut self.units[unit] {
            Lun::Disk(disk) => match disk.execute(cdb)? {
                Reply::Nothing => {}
                Reply::Data(data) => _ = writable.write(ctx, &data)?,
                Reply::Wants(n) => disk.parameters(cdb, &parameters(ctx, readable, n)?)?,
                Reply::Transfer(Access::Read { len, .. }) if len > writable.left() => {
                    return Err(Failure::Response(response::OVERRUN));
                }
                Reply::Transfer(Access::Read { at, len }) => {
                    writable.fill_from_disk(ctx, mover, len, (disk.backend(), at), |e| Failure::from(unreadable(&e)))?;
                }
                Reply::Transfer(Access::Write { len, .. }) if len > readable.left() => {
                    return Err(Failure::Response(response::OVERRUN));
                }
                Reply::Transfer(Access::Write { at, len, durable }) => {
                    readable.drain_to_disk(ctx, mover, len, (disk.backend(), at), |e| Failure::from(unwritable(&e)))?;
                    if durable {
                        return Ok(Done::Flush(unit));
                    }
                }
                Reply::Transfer(Access::Flush) => return Ok(Done::Flush(unit)),
            },
            Lun::Cd(cd) => {
                let Some(packet) = cdb.first_chunk() else { return Err(BAD_FIELD.into()) };
                let result = match cd.execute(packet) {
                    Ok(Reply::Nothing) => Ok(()),
                    Ok(Reply::Data(data)) => writable.write(ctx, &data).map(|_| ()).map_err(Failure::from),
                    Ok(Reply::Wants(n)) => parameters(ctx, readable, n).and_then(|data| Ok(cd.parameters(packet, &data)?)),
                    Ok(Reply::Transfer(extent)) if extent.len() > writable.left().min(MAX_BYTES) => {
                        Err(Failure::Response(response::OVERRUN))
                    }
                    Ok(Reply::Transfer(mut extent)) => {
                        let len = extent.len();
                        writable.fill(ctx, &mut mover.buffer, len, |_, bytes| cd.read(&mut extent, bytes).map_err(Failure::from))
                    }
                    Err(sense) => Err(sense.into()),
                };
                // Its sense goes with the response.
                self.note_cds();
                result?;
            }
        }
        Ok(Done::All)
    }

    /// Carries out a control request; how many bytes were written to its buffers.
    fn control(&mut self, ctx: &Ctx, chain: &mut Chain) -> u32 {
        let mut kind = [0; 4];
        let answer: &[u8] = match chain.readable.read(ctx, &mut kind) {
            // Requests end before the next one is looked at, and flushes end by themselves: there is nothing to abort.
            Ok(4) if u32::from_le_bytes(kind) == TASK_MANAGEMENT => &[FUNCTION_COMPLETE],
            // No events.
            Ok(4) if matches!(u32::from_le_bytes(kind), EVENT_QUERY | EVENT_SUBSCRIBE) => &[0, 0, 0, 0, response::OK],
            _ => {
                log::warn!("virtio-scsi: a control request that makes no sense");
                &[response::FAILURE]
            }
        };
        chain.writable.write(ctx, answer).unwrap_or(0) as u32
    }
}

/// The parameters of a command: `n` bytes, if there are so many.
fn parameters(ctx: &Ctx, readable: &mut Segments, n: u16) -> Result<Vec<u8>, Failure> {
    let mut data = vec![0; n.into()];
    if readable.read(ctx, &mut data)? < data.len() { Err(Failure::Response(response::OVERRUN)) } else { Ok(data) }
}

/// Begins to flush the disk of `held`.
fn begin(units: &mut [Lun], held: &Held) {
    if let Some(Lun::Disk(disk)) = units.get_mut(held.unit) {
        disk.backend().begin_flush();
    }
}

impl VirtioDevice for VirtioScsi {
    type State = State;
    const NAME: &'static str = "virtio-scsi";
    const TYPE: u16 = 8;
    const CLASS: u32 = 0x01_0000;
    const QUEUES: &'static [u16] = &[QUEUE_SIZE; 3];

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Vec<u8> {
        let targets = self.units.len().div_ceil(LUNS).max(1) as u16 - 1;
        let mut config = Vec::new();
        // One request queue; no bytes of event information, because there are no events.
        for field in [1, SEG_MAX, MAX_SECTORS, u32::from(QUEUE_SIZE), 16, self.state.sense_size, self.state.cdb_size] {
            config.extend(field.to_le_bytes());
        }
        config.extend(0u16.to_le_bytes());
        config.extend(targets.to_le_bytes());
        config.extend((LUNS as u32 - 1).to_le_bytes());
        config
    }

    fn config_write(&mut self, _: &mut Ctx, offset: u64, bytes: &[u8]) {
        let value = bytes.try_into().map(u32::from_le_bytes).ok().filter(|value| *value <= MAX_SIZE);
        match (offset, value) {
            (AT_SENSE_SIZE, Some(size)) => self.state.sense_size = size,
            (AT_CDB_SIZE, Some(size)) => self.state.cdb_size = size,
            _ => log::warn!("{}: write of {bytes:x?} to configuration byte {offset} ignored", Self::NAME),
        }
    }

    fn process(&mut self, ctx: &mut Ctx, index: usize, queues: &mut [Queue]) -> Result<(), Broken> {
        if index == EVENTS {
            // Its buffers wait for events, and there are none.
            return Ok(());
        }
        let mut chain = std::mem::take(&mut self.chain);
        let result = queues[index].serve(ctx, &mut chain, |ctx, chain| match index {
            CONTROL => Some(self.control(ctx, chain)),
            _ => self.request(ctx, index, chain),
        });
        self.chain = chain;
        result
    }

    fn host_done(&mut self, ctx: &mut Ctx, queues: &mut [Queue]) -> Result<(), Broken> {
        let ended = self.state.flushes.end();
        // One flush of each disk ends all requests for it.
        let mut results = vec![None; self.units.len()];
        for held in &ended {
            if let (Some(result @ None), Some(Lun::Disk(disk))) = (results.get_mut(held.unit), self.units.get_mut(held.unit)) {
                *result = Some(disk.flush());
            }
        }
        self.state.flushes.next(ctx, |held| begin(&mut self.units, held));
        for mut held in ended {
            let bytes = match results.get(held.unit) {
                Some(Some(Ok(()))) => self.response(GOOD, response::OK, None, 0),
                Some(Some(Err(sense))) => self.response(CHECK_CONDITION, response::OK, Some(*sense), 0),
                _ => self.response(GOOD, response::FAILURE, None, 0),
            };
            let written = held.response.write(ctx, &bytes).unwrap_or(0);
            // Saved state may name a queue that is not there.
            let Some(queue) = queues.get_mut(held.queue) else { continue };
            queue.push_head(ctx, held.head, written as u32)?;
        }
        Ok(())
    }

    fn waits_for_host(&mut self) -> Option<bool> {
        let Self { units, state, .. } = self;
        let mut busy = |held: &Held| match units.get_mut(held.unit) {
            Some(Lun::Disk(disk)) => disk.backend().flushing(),
            _ => false,
        };
        let running = state.flushes.running();
        (!running.is_empty()).then(|| !running.iter().any(&mut busy))
    }

    fn reset(&mut self, power: bool) {
        self.cds().for_each(|cd| cd.reset(power));
        (self.state.cdb_size, self.state.sense_size) = (CDB_SIZE, SENSE_SIZE);
        self.state.flushes = Flushes::default();
        self.note_cds();
    }

    fn state(&self) -> &State {
        &self.state
    }

    fn set_state(&mut self, mut state: State) {
        state.cdb_size = state.cdb_size.min(MAX_SIZE);
        state.sense_size = state.sense_size.min(MAX_SIZE);
        self.cds().zip(&state.cds).for_each(|(cd, state)| cd.set_state(state.clone()));
        self.state = state;
        self.note_cds();
    }
}

#[cfg(test)]
mod tests {
    use softmetal_bus::device::HOST_TIME;
    use softmetal_bus::{Device, Drive, SharedDisk};

    use super::*;
    use crate::virtio::VirtioPci;
    use crate::virtio::testing::{Driver, READ, WRITE};

    const REQUEST: u64 = 0x8000;
    const ANSWER: u64 = 0x8100;
    const DATA: u64 = 0x2_0000;

    fn driver() -> (Driver<VirtioScsi>, SharedDisk, Drive) {
        let disk = SharedDisk::new((0..1u32 << 18).flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
        let drive = Drive::with(SharedDisk::new(vec![5; 1 << 20]));
        let units = vec![
            Lun::Disk(ScsiDisk::new(disk.clone(), "first".into())),
            Lun::Cd(ScsiCd::new(drive.clone())),
            Lun::Disk(ScsiDisk::new(SharedDisk::new(vec![0; 512]), "third".into())),
        ];
        (Driver::new(VirtioPci::new(VirtioScsi::new(units)), 0), disk, drive)
    }

    /// Offers a request to unit `lun` of target 0 with data at [`DATA`].
    fn offer(d: &mut Driver<VirtioScsi>, lun: u8, cdb: &[u8], len: u32, write: bool) {
        let mut request = [0; 51];
        request[..4].copy_from_slice(&[1, 0, 0x40, lun]);
        request[19..19 + cdb.len()].copy_from_slice(cdb);
        d.put(REQUEST, &request);
        d.put(ANSWER, &[0xee; 108]);
        let mut chain = vec![(REQUEST, 51, READ)];
        chain.extend((len > 0 && write).then_some((DATA, len, READ)));
        chain.push((ANSWER, 108, WRITE));
        chain.extend((len > 0 && !write).then_some((DATA, len, WRITE)));
        d.chain(2, &chain);
        d.notify(2);
    }

    /// Status, response, sense key and code, residual.
    fn answer(d: &Driver<VirtioScsi>) -> (u8, u8, [u8; 2], u32) {
        let bytes = d.get(ANSWER, 108);
        let residual = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        (bytes[10], bytes[11], if bytes[0] > 0 { [bytes[14], bytes[24]] } else { [0, 0] }, residual)
    }

    #[test]
    fn units_answer() {
        let (mut d, disk, drive) = driver();
        assert_eq!((d.reg(0x2000, 4), d.reg(0x2014, 4), d.reg(0x2018, 4), d.reg(0x201e, 2), d.reg(0x2020, 4)), (1, 96, 32, 0, 7));
        offer(&mut d, 0, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 256, false);
        assert_eq!((answer(&d), d.used(2)), ((0, 0, [0, 0], 256 - 32), vec![(0, 108 + 32)]));
        assert_eq!(
            d.get(DATA, 26),
            [[0, 0, 0, 24, 0, 0, 0, 0], [0; 8], [0, 1, 0, 0, 0, 0, 0, 0]].concat().into_iter().chain([0, 2]).collect::<Vec<_>>()
        );
        // The second block of the disk.
        offer(&mut d, 0, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1], 512, false);
        assert_eq!((answer(&d), d.get(DATA, 4)), ((0, 0, [0, 0], 0), 128u32.to_le_bytes().to_vec()));
        offer(&mut d, 0, &[0x28, 0, 0, 0, 0x10, 0, 0, 0, 1], 512, false);
        assert_eq!(answer(&d), (2, 0, [5, 0x21], 512));
        offer(&mut d, 0, &[0x28, 0, 0, 0, 0, 1, 0, 0, 2], 512, false);
        assert_eq!(answer(&d).1, response::OVERRUN);
        d.put(DATA, &[9; 512]);
        offer(&mut d, 0, &[0x2a, 0, 0, 0, 0, 2, 0, 0, 1], 512, true);
        let mut byte = [0];
        disk.clone().read_at(1024, &mut byte).unwrap();
        assert_eq!((answer(&d), byte), ((0, 0, [0, 0], 0), [9]));
        // The drive tells of another medium, once.
        offer(&mut d, 1, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 2048, false);
        assert_eq!((answer(&d), d.get(DATA + 2047, 1)[0]), ((0, 0, [0, 0], 0), 5));
        drive.insert(SharedDisk::new(vec![6; 1 << 20]));
        offer(&mut d, 1, &[0], 0, false);
        assert_eq!(answer(&d), (2, 0, [6, 0x28], 0));
        offer(&mut d, 1, &[0], 0, false);
        assert_eq!(answer(&d), (0, 0, [0, 0], 0));
        // A unit and a target that are not there.
        offer(&mut d, 5, &[0], 0, false);
        assert_eq!(answer(&d), (2, 0, [5, 0x25], 0));
        offer(&mut d, 5, &[0x12, 0, 0, 0, 36], 36, false);
        assert_eq!((answer(&d).0, d.get(DATA, 1)), (0, vec![0x7f]));
        d.put(REQUEST, &[1, 9]);
        d.chain(2, &[(REQUEST, 51, READ), (ANSWER, 108, WRITE)]);
        d.notify(2);
        assert_eq!(answer(&d).1, response::BAD_TARGET);
        // A task management function.
        d.put(REQUEST, &[0; 24]);
        d.chain(0, &[(REQUEST, 24, READ), (ANSWER, 1, WRITE)]);
        d.notify(0);
        assert_eq!((d.get(ANSWER, 1), d.used(0)), (vec![0], vec![(0, 1)]));
    }

    #[test]
    fn flushes_end_later_and_sizes_can_be_chosen() {
        let (mut d, ..) = driver();
        offer(&mut d, 0, &[0x35], 0, false);
        assert_eq!((d.get(ANSWER, 1), d.used(2).len()), (vec![0xee], 0));
        let saved = d.device.save();
        d.device.load(&saved).unwrap();
        d.rig.run(&mut d.device, HOST_TIME);
        assert_eq!((answer(&d), d.used(2).len()), ((0, 0, [0, 0], 0), 1));
        // FUA.
        offer(&mut d, 2, &[0x2a, 8, 0, 0, 0, 0, 0, 0, 1], 512, true);
        assert_eq!(d.used(2).len(), 0);
        d.rig.run(&mut d.device, 3 * HOST_TIME);
        assert_eq!((answer(&d).0, d.used(2).len()), (0, 1));
        // A short sense, and a packet of 16 bytes.
        for (at, value) in [(0x2014, 4), (0x2018, 16), (0x2018, 100_000)] {
            d.set(at, 4, value);
        }
        assert_eq!((d.reg(0x2014, 4), d.reg(0x2018, 4)), (4, 16));
        d.put(REQUEST, &[0; 35]);
        d.put(REQUEST, &[1, 0, 0, 7]);
        d.put(ANSWER, &[0xee; 20]);
        d.chain(2, &[(REQUEST, 35, READ), (ANSWER, 16, WRITE)]);
        d.notify(2);
        assert_eq!(d.get(ANSWER, 17), [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x70, 0, 5, 0, 0xee]);
    }

    #[test]
    fn whatever_is_asked_ends() {
        const COMMANDS: [u8; 24] = [
            0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2a, 0x35, 0x41, 0x42, 0x43, 0x46, 0x4a, 0x55, 0x5a, 0x88,
            0x8a, 0x93, 0xbe,
        ];
        let (mut d, ..) = driver();
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 16) % below
        };
        let mut codes = std::collections::BTreeSet::new();
        for _ in 0..20_000 {
            let mut cdb: [u8; 16] = std::array::from_fn(|_| if random(3) == 0 { random(256) as u8 } else { random(3) as u8 });
            if random(4) != 0 {
                cdb[0] = COMMANDS[random(24) as usize];
            }
            let len = [0, 1, 24, 512, 2048, 4096, 65536][random(7) as usize];
            offer(&mut d, random(4) as u8, &cdb, len, random(2) == 0);
            d.rig.run(&mut d.device, HOST_TIME);
            let used = d.used(2);
            assert!(used.len() == 1 && used[0].1 >= 108, "{cdb:x?}: {used:?}");
            codes.insert(answer(&d).0);
        }
        assert_eq!(codes.into_iter().collect::<Vec<_>>(), [GOOD, CHECK_CONDITION]);
    }
}
