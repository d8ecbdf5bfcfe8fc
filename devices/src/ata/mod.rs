//! ATA and ATAPI devices (ATA/ATAPI-7): what a command does, apart from the bus that brings it.
//!
//! | module | what it holds |
//! |---|---|
//! | here | the registers of a command, a device and its transfer in progress |
//! | `disk` | the commands of a disk |
//! | `packet` | the commands of a packet device; what its packets mean is in [`crate::scsi`] |
//! | `identify` | what a device says of itself |
//! | `saved` | the saved form of a host adapter |
//! | `dma` | the way of data between a device and guest memory |
//!
//! A host adapter puts a command's registers into a [`Taskfile`] and calls [`Unit::command`]. With [`Step::Data`] it then
//! moves [`Unit::left`] bytes by [`Unit::fill`] or [`Unit::drain`], in pieces as it likes, and calls [`Unit::finish`].

mod disk;
mod dma;
mod identify;
mod packet;
mod saved;

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, BlockError, Ctx, Drive, SharedDisk};

use crate::scsi::Sense;
use crate::scsi::cd::{self, Extent, ScsiCd};
pub use dma::{Moved, transfer};
pub use saved::Saved;

/// Bits of the status register.
pub mod status {
    /// An error; the error register tells which.
    pub const ERR: u8 = 1 << 0;
    /// Data can be moved.
    pub const DRQ: u8 = 1 << 3;
    /// Seek complete.
    pub const DSC: u8 = 1 << 4;
    /// Device fault.
    pub const DF: u8 = 1 << 5;
    /// Ready.
    pub const DRDY: u8 = 1 << 6;
    /// Busy: no other bit and no other register counts.
    pub const BSY: u8 = 1 << 7;
}

/// Bits of the error register.
pub mod error {
    /// Aborted: not supported or not possible now.
    pub const ABRT: u8 = 1 << 2;
    /// The address is not on the medium.
    pub const IDNF: u8 = 1 << 4;
    /// Data that cannot be read.
    pub const UNC: u8 = 1 << 6;
    /// Write-protected.
    pub const WP: u8 = 1 << 6;
}

/// Bytes of a disk's sector.
pub const SECTOR: u64 = 512;
/// The device register addresses sectors by number.
const LBA: u8 = 1 << 6;
/// Bits of the sector count register of a packet device: command or data, to the host.
const COD: u16 = 1;
const IO: u16 = 2;
/// Signature of a packet device in the LBA mid and high registers.
const PACKET_SIGNATURE: u64 = 0xeb_1401;

/// A command's registers, which also take its result. Of 16-bit registers the high byte is what was written before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taskfile {
    /// Command.
    pub command: u8,
    /// Features.
    pub features: u16,
    /// Sector count.
    pub count: u16,
    /// LBA low, mid, high in bytes 0 to 2, their previous contents in bytes 3 to 5.
    pub lba: u64,
    /// Device: bit 6 chooses sector numbers, bits 0 to 3 are the head or bits 24 to 27 of the number.
    pub device: u8,
    /// Status.
    pub status: u8,
    /// Error.
    pub error: u8,
}

/// How a command goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has ended; the registers tell how.
    Done,
    /// The device wants a command packet: [`Unit::packet`].
    Packet,
    /// Data is to be moved.
    Data,
}

/// Data on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    write: bool,
    dma: bool,
    /// Bytes that are still to be moved.
    left: u64,
    /// Most bytes of a PIO block.
    block: u64,
    place: Place,
}

/// Where the data comes from or goes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Place {
    /// The disk, at this byte; made durable at the end if `sync`.
    Disk { at: u64, sync: bool },
    /// A CD.
    Cd(Extent),
    /// [`UnitState::data`], from this byte on.
    Data { at: usize },
    /// Sector ranges to discard, collected in [`UnitState::data`].
    Discard,
    /// Parameters of a packet, collected in [`UnitState::data`].
    Parameters,
    /// Nowhere any more: what was written is being made durable.
    Durable,
}

/// Why a command failed.
enum Failure {
    /// Status bits besides ERR, error bits, and the sector if one is to blame.
    Ata(u8, u8, Option<u64>),
    Sense(Sense),
}

const ABORTED: Failure = Failure::Ata(0, error::ABRT, None);

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

enum Media {
    Disk(SharedDisk),
    Cd(ScsiCd),
}

/// The volatile state of a [`Unit`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnitState {
    /// Sectors in a block of READ and WRITE MULTIPLE; 0 is none.
    multiple: u8,
    /// The geometry that cylinder, head and sector mean.
    heads: u8,
    sectors: u8,
    write_cache: bool,
    /// As CHECK POWER MODE tells it.
    power: u8,
    /// The transfer mode as SET FEATURES chose it.
    mode: u8,
    /// Byte count limit and DMA bit of the last PACKET command.
    limit: u16,
    packet_dma: bool,
    packet: [u8; 12],
    transfer: Option<Transfer>,
    data: Vec<u8>,
    cd: cd::State,
    /// The queued command that failed last, for its log: tag, status, error, sector.
    failed: Option<(u8, u8, u8, u64)>,
}

impl Default for UnitState {
    fn default() -> Self {
        Self {
            multiple: 0,
            heads: identify::HEADS,
            sectors: identify::SECTORS,
            write_cache: true,
            power: 0xff,
            mode: 0,
            limit: 0,
            packet_dma: false,
            packet: [0; 12],
            transfer: None,
            data: Vec::new(),
            cd: cd::State::default(),
            failed: None,
        }
    }
}

/// A disk or a CD-ROM drive on an ATA bus.
pub struct Unit {
    media: Media,
    /// On a serial link: tells of queued commands.
    sata: bool,
    serial: String,
    state: UnitState,
}

impl Unit {
    /// A disk; `sata` if it is on a serial link.
    #[must_use]
    pub fn disk(disk: SharedDisk, serial: String, sata: bool) -> Self {
        Self { media: Media::Disk(disk), sata, serial, state: UnitState::default() }
    }

    /// A CD-ROM drive.
    #[must_use]
    pub fn cdrom(drive: Drive, serial: String, sata: bool) -> Self {
        Self { media: Media::Cd(ScsiCd::new(drive)), sata, serial, state: UnitState::default() }
    }

    /// Whether it takes packets.
    #[must_use]
    pub fn is_packet(&self) -> bool {
        matches!(self.media, Media::Cd(_))
    }

    /// The volatile state, to save.
    #[must_use]
    pub fn state(&self) -> UnitState {
        let mut state = self.state.clone();
        if let Media::Cd(cd) = &self.media {
            state.cd = cd.state().clone();
        }
        state
    }

    /// Puts saved state back. Of what could not have been saved (a transfer past the end), nothing is believed: each
    /// access is checked again.
    pub fn set_state(&mut self, state: UnitState) {
        if let Media::Cd(cd) = &mut self.media {
            cd.set_state(state.cd.clone());
        }
        self.state = state;
    }

    /// A reset: at power-on (`power`), or by the bus, which keeps the settings. `tf` then shows the signature.
    pub fn reset(&mut self, tf: &mut Taskfile, power: bool) {
        if power {
            self.state = UnitState::default();
        }
        if let Media::Cd(cd) = &mut self.media {
            cd.reset(power);
        }
        self.state.multiple = 0;
        self.state.power = 0xff;
        self.end_transfer();
        self.sign(tf);
        tf.error = 1;
        tf.device = 0;
    }

    /// Shows the signature of the kind of device.
    fn sign(&self, tf: &mut Taskfile) {
        tf.count = 1;
        (tf.lba, tf.status) = if self.is_packet() { (PACKET_SIGNATURE, 0) } else { (1, status::DRDY | status::DSC) };
    }

    /// Begins the command of `tf`.
    pub fn command(&mut self, tf: &mut Taskfile) -> Step {
        self.end_transfer();
        tf.error = 0;
        let result = if self.is_packet() { self.packet_command(tf) } else { self.disk_command(tf) };
        self.step(tf, result)
    }

    /// Carries out the packet that [`Step::Packet`] asked for.
    pub fn packet(&mut self, tf: &mut Taskfile, packet: &[u8; 12]) -> Step {
        let result = self.packet_received(packet);
        self.step(tf, result)
    }

    /// Begins what of the command of `tf` takes the host long (a flush, or at the host's pace a read), before [`Unit::command`]
    /// ends it. False: it takes no time.
    pub fn begin_host(&mut self, ctx: &Ctx, tf: &Taskfile) -> bool {
        let reads = if ctx.host_paced { self.reads(tf) } else { None };
        let Media::Disk(disk) = &mut self.media else { return false };
        if disk::flushes(tf) {
            disk.begin_flush();
        } else if let Some((sector, count)) = reads {
            disk.begin_read(sector * SECTOR, count * SECTOR);
        } else {
            return false;
        }
        true
    }

    /// Whether what [`Unit::begin_host`] or [`Unit::finish`] began still goes on.
    pub fn on_host(&mut self) -> bool {
        match &mut self.media {
            Media::Disk(disk) => disk.flushing() || disk.reading(),
            Media::Cd(_) => false,
        }
    }

    fn step(&mut self, tf: &mut Taskfile, result: Result<Step, Failure>) -> Step {
        match result {
            Ok(Step::Done) => {
                self.succeed(tf);
                Step::Done
            }
            Ok(step) => step,
            Err(failure) => {
                self.fail(tf, &failure);
                Step::Done
            }
        }
    }

    /// Bytes of the transfer that are still to be moved.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.state.transfer.as_ref().map_or(0, |t| t.left)
    }

    /// Whether the transfer is from the host to the device.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.state.transfer.as_ref().is_some_and(|t| t.write)
    }

    /// Whether the command asked for DMA.
    #[must_use]
    pub fn dma(&self) -> bool {
        self.state.transfer.as_ref().is_some_and(|t| t.dma)
    }

    /// Bytes of the next PIO block, which `tf` then announces.
    pub fn next_block(&mut self, tf: &mut Taskfile) -> usize {
        let Some(transfer) = &self.state.transfer else { return 0 };
        let n = transfer.left.min(transfer.block);
        tf.status = status::DRDY | status::DSC | status::DRQ;
        if self.is_packet() && tf.command == packet::PACKET {
            tf.lba = tf.lba & 0xff | n << 8;
            tf.count = if transfer.write { 0 } else { IO };
        }
        n as usize
    }

    /// Moves the next `len` bytes straight between the disk and the guest memory of `list`. False if that cannot be, or has
    /// failed: [`Unit::fill`] and [`Unit::drain`] are the way then, and find out why.
    pub fn direct(&mut self, ctx: &Ctx, list: &[(u64, u32)], len: u64) -> bool {
        let (Some(transfer), Media::Disk(disk)) = (&mut self.state.transfer, &mut self.media) else { return false };
        let Place::Disk { at, .. } = &mut transfer.place else { return false };
        let mut runs = Vec::new();
        if len == 0 || len > transfer.left || !ctx.runs(list, len, !transfer.write, &mut runs) {
            return false;
        }
        let result = if transfer.write { disk.write_from(*at, ctx.memory, &runs) } else { disk.read_into(*at, ctx.memory, &runs) };
        let moved = matches!(result, Ok(true));
        if moved {
            *at += len;
            transfer.left -= len;
        }
        moved
    }

    /// Moves the next `buf.len()` bytes from the device. False if that failed: the command has ended then, as `tf` tells.
    pub fn fill(&mut self, tf: &mut Taskfile, buf: &mut [u8]) -> bool {
        let Some(transfer) = self.state.transfer.as_mut().filter(|t| !t.write && buf.len() as u64 <= t.left) else {
            return false;
        };
        let result = match (&mut transfer.place, &mut self.media) {
            (Place::Disk { at, .. }, Media::Disk(disk)) => {
                let from = *at;
                *at += buf.len() as u64;
                disk::read(disk, from, buf)
            }
            (Place::Cd(extent), Media::Cd(cd)) => cd.read(extent, buf).map_err(Failure::from),
            (Place::Data { at }, _) => {
                let from = *at;
                *at += buf.len();
                self.state.data.get(from..from + buf.len()).map_or(Err(ABORTED), |data| {
                    buf.copy_from_slice(data);
                    Ok(())
                })
            }
            _ => Err(ABORTED),
        };
        transfer.left -= buf.len() as u64;
        result.map_err(|failure| self.fail(tf, &failure)).is_ok()
    }

    /// Moves the next `buf.len()` bytes to the device. False if that failed: the command has ended then, as `tf` tells.
    pub fn drain(&mut self, tf: &mut Taskfile, buf: &[u8]) -> bool {
        let Some(transfer) = self.state.transfer.as_mut().filter(|t| t.write && buf.len() as u64 <= t.left) else {
            return false;
        };
        let result = match (&mut transfer.place, &mut self.media) {
            (Place::Disk { at, .. }, Media::Disk(disk)) => {
                let to = *at;
                *at += buf.len() as u64;
                disk.write_at(to, buf).map_err(|e| disk::write_failure(&e, to))
            }
            (Place::Discard | Place::Parameters, _) => {
                self.state.data.extend(buf);
                Ok(())
            }
            _ => Err(ABORTED),
        };
        transfer.left -= buf.len() as u64;
        result.map_err(|failure| self.fail(tf, &failure)).is_ok()
    }

    /// All data has been moved: ends the command. If it ends only when the data is durable ([`Unit::syncs`]), that begins,
    /// and [`Unit::synced`] ends it.
    pub fn finish(&mut self, tf: &mut Taskfile) {
        let Some(transfer) = self.state.transfer.take() else { return };
        let result = match (&transfer.place, &mut self.media) {
            (Place::Disk { sync: true, .. }, Media::Disk(disk)) => {
                disk.begin_flush();
                self.state.transfer = Some(Transfer { place: Place::Durable, ..transfer });
                return;
            }
            (Place::Discard, Media::Disk(disk)) => disk::discard(disk, &self.state.data),
            (Place::Parameters, Media::Cd(cd)) => cd.parameters(&self.state.packet, &self.state.data).map_err(Failure::from),
            _ => Ok(()),
        };
        self.conclude(tf, result);
    }

    /// Whether all data has been moved and the command waits for it to be durable.
    #[must_use]
    pub fn syncs(&self) -> bool {
        self.state.transfer.as_ref().is_some_and(|t| matches!(t.place, Place::Durable))
    }

    /// Ends the command that waited for its data to be durable.
    pub fn synced(&mut self, tf: &mut Taskfile) {
        if self.syncs() {
            let result = self.flush();
            self.conclude(tf, result);
        }
    }

    fn conclude(&mut self, tf: &mut Taskfile, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.succeed(tf),
            Err(failure) => self.fail(tf, &failure),
        }
    }

    /// The host adapter cannot move the data: ends the command with an error.
    pub fn abort(&mut self, tf: &mut Taskfile) {
        self.fail(tf, &ABORTED);
    }

    fn end_transfer(&mut self) {
        self.state.transfer = None;
        self.state.data = Vec::new();
    }

    fn succeed(&mut self, tf: &mut Taskfile) {
        self.end_transfer();
        if tf.command != DEVICE_RESET && tf.command != DIAGNOSTIC {
            tf.status = status::DRDY | status::DSC;
        }
        if tf.command == packet::PACKET {
            tf.count = IO | COD;
        }
    }

    fn fail(&mut self, tf: &mut Taskfile, failure: &Failure) {
        self.end_transfer();
        tf.status = status::DRDY | status::DSC | status::ERR;
        match failure {
            Failure::Ata(status, error, sector) => {
                tf.status |= status;
                tf.error = *error;
                if let Some(sector) = *sector {
                    self.set_address(tf, sector);
                }
            }
            Failure::Sense(sense) => {
                if let Media::Cd(cd) = &mut self.media {
                    cd.set_sense(*sense);
                }
                tf.error = sense.key << 4 | error::ABRT;
            }
        }
        if tf.command == packet::PACKET {
            tf.count = IO | COD;
        }
    }

    /// SET FEATURES, subcommand "set transfer mode".
    fn set_mode(&mut self, mode: u8) -> Result<Step, Failure> {
        let ok = match mode >> 3 {
            0 => mode <= 1,
            1 => mode & 7 <= 4,
            4 => mode & 7 <= 2,
            8 => mode & 7 <= 5,
            _ => false,
        };
        if !ok {
            return Err(ABORTED);
        }
        if mode >> 3 >= 4 {
            self.state.mode = mode;
        }
        Ok(Step::Done)
    }

    /// The power management commands, in both of their encodings. `None` if it is none of them.
    fn power_command(&mut self, tf: &mut Taskfile) -> Option<Step> {
        match tf.command {
            0xe0 | 0x94 | 0xe2 | 0x96 | 0xe6 | 0x99 => self.state.power = 0,
            0xe1 | 0x95 | 0xe3 | 0x97 => self.state.power = 0x80,
            0xe5 | 0x98 => tf.count = self.state.power.into(),
            _ => return None,
        }
        Some(Step::Done)
    }

    /// Data that the command answers with.
    fn answer(&mut self, data: Vec<u8>, dma: bool, block: u64) -> Step {
        if data.is_empty() {
            return Step::Done;
        }
        let left = data.len() as u64;
        self.state.data = data;
        self.state.transfer = Some(Transfer { write: false, dma, left, block, place: Place::Data { at: 0 } });
        Step::Data
    }
}

/// DEVICE RESET.
pub const DEVICE_RESET: u8 = 0x08;
/// EXECUTE DEVICE DIAGNOSTIC.
pub const DIAGNOSTIC: u8 = 0x90;

/// Tells the log of a failure of the store behind a device.
fn tell(what: &str, at: u64, error: &BlockError) {
    log::warn!("ata: {what} at byte {at:#x}: {error}");
}
