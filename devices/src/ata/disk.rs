//! The commands of a disk (ATA/ATAPI-7, volume 1, chapter 6).

use softmetal_bus::{BlockBackend, BlockError, SharedDisk};

use super::{ABORTED, Failure, LBA, Media, Place, SECTOR, Step, Taskfile, Transfer, Unit, error, identify, status, tell};

/// Bytes read at a time by READ VERIFY.
const VERIFY: u64 = 256 << 10;
/// FLUSH CACHE and FLUSH CACHE EXT.
const FLUSH: u8 = 0xe7;
const FLUSH_EXT: u8 = 0xea;
/// SET FEATURES, and its subcommand that switches the write cache off.
const SET_FEATURES: u8 = 0xef;
const NO_WRITE_CACHE: u8 = 0x82;
/// READ FPDMA QUEUED.
const READ_QUEUED: u8 = 0x60;
/// The log of the queued command that failed.
const NCQ_ERROR_LOG: u8 = 0x10;

/// How a command moves sectors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Pio,
    Multiple,
    Dma,
}

/// A command that reads or writes sectors.
#[derive(Clone, Copy)]
struct Access {
    way: Way,
    write: bool,
    /// 48-bit address, 16-bit count.
    ext: bool,
    /// Durable when it ends.
    sync: bool,
}

fn access(command: u8) -> Option<Access> {
    let (way, write, ext) = match command {
        0x20 | 0x21 => (Way::Pio, false, false),
        0x24 => (Way::Pio, false, true),
        0x25 => (Way::Dma, false, true),
        0x29 => (Way::Multiple, false, true),
        0x30 | 0x31 => (Way::Pio, true, false),
        0x34 => (Way::Pio, true, true),
        0x35 | 0x3d => (Way::Dma, true, true),
        0x39 | 0xce => (Way::Multiple, true, true),
        0xc4 => (Way::Multiple, false, false),
        0xc5 => (Way::Multiple, true, false),
        0xc8 | 0xc9 => (Way::Dma, false, false),
        0xca | 0xcb => (Way::Dma, true, false),
        _ => return None,
    };
    Some(Access { way, write, ext, sync: matches!(command, 0x3d | 0xce) })
}

/// Whether the command flushes the disk, and does nothing else that takes long.
pub(super) fn flushes(tf: &Taskfile) -> bool {
    match tf.command {
        FLUSH | FLUSH_EXT => true,
        SET_FEATURES => tf.features as u8 == NO_WRITE_CACHE,
        _ => false,
    }
}

fn is_ext(command: u8) -> bool {
    access(command).is_some_and(|a| a.ext) || matches!(command, 0x27 | 0x2f | 0x42 | 0x60 | 0x61)
}

/// Reads from the disk; a failure names the first bad sector.
pub(super) fn read(disk: &mut SharedDisk, from: u64, buf: &mut [u8]) -> Result<(), Failure> {
    let Err(error) = disk.read_at(from, buf) else { return Ok(()) };
    tell("read", from, &error);
    let mut at = from;
    for piece in buf.chunks_mut(SECTOR as usize) {
        if disk.read_at(at, piece).is_err() {
            break;
        }
        at += piece.len() as u64;
    }
    Err(Failure::Ata(0, error::UNC, Some(at / SECTOR)))
}

pub(super) fn write_failure(error: &BlockError, at: u64) -> Failure {
    tell("write", at, error);
    match error {
        BlockError::ReadOnly => Failure::Ata(0, error::ABRT | error::WP, None),
        BlockError::OutOfRange => Failure::Ata(0, error::IDNF, Some(at / SECTOR)),
        BlockError::Host(_) => Failure::Ata(status::DF, error::ABRT, None),
    }
}

/// Ranges of a DATA SET MANAGEMENT command: eight bytes each, the low 48 bits a sector, the high 16 a count.
pub(super) fn discard(disk: &mut SharedDisk, ranges: &[u8]) -> Result<(), Failure> {
    if disk.read_only() {
        return Err(write_failure(&BlockError::ReadOnly, 0));
    }
    let total = disk.size() / SECTOR;
    for range in ranges.chunks_exact(8) {
        let range = u64::from_le_bytes(range.try_into().expect("eight bytes"));
        let (sector, count) = (range & 0xffff_ffff_ffff, range >> 48);
        if sector + count > total {
            return Err(Failure::Ata(0, error::IDNF | error::ABRT, Some(sector)));
        }
        disk.discard(sector * SECTOR, count * SECTOR).map_err(|e| write_failure(&e, sector * SECTOR))?;
    }
    Ok(())
}

impl Unit {
    fn sectors(&self) -> u64 {
        match &self.media {
            Media::Disk(disk) => disk.size() / SECTOR,
            Media::Cd(_) => 0,
        }
    }

    /// The first sector and the number of sectors that `tf` means, if they are on the disk.
    fn span(&self, tf: &Taskfile, ext: bool) -> Result<(u64, u64), Failure> {
        let (sector, count) = if ext {
            (tf.lba & 0xffff_ffff_ffff, if tf.count == 0 { 1 << 16 } else { u64::from(tf.count) })
        } else {
            let count = if tf.count & 0xff == 0 { 256 } else { u64::from(tf.count & 0xff) };
            (self.short_address(tf).ok_or(Failure::Ata(0, error::IDNF, None))?, count)
        };
        self.check(sector, count)?;
        Ok((sector, count))
    }

    fn check(&self, sector: u64, count: u64) -> Result<(), Failure> {
        if sector + count > self.sectors() {
            log::debug!("ata: {count} sectors at {sector:#x} are past the end");
            return Err(Failure::Ata(0, error::IDNF, Some(sector)));
        }
        Ok(())
    }

    /// A 28-bit sector number, or cylinder, head and sector.
    fn short_address(&self, tf: &Taskfile) -> Option<u64> {
        let head = u64::from(tf.device & 0xf);
        if tf.device & LBA != 0 {
            return Some(tf.lba & 0xff_ffff | head << 24);
        }
        let (heads, sectors) = (u64::from(self.state.heads), u64::from(self.state.sectors));
        let (sector, cylinder) = (tf.lba & 0xff, tf.lba >> 8 & 0xffff);
        (sector != 0 && sector <= sectors && head < heads).then(|| (cylinder * heads + head) * sectors + sector - 1)
    }

    /// Shows a sector in the form in which the command was addressed.
    pub(super) fn set_address(&self, tf: &mut Taskfile, sector: u64) {
        if is_ext(tf.command) {
            tf.lba = sector & 0xffff_ffff_ffff;
        } else if tf.device & LBA != 0 {
            tf.lba = sector & 0xff_ffff;
            tf.device = tf.device & 0xf0 | (sector >> 24 & 0xf) as u8;
        } else {
            let (heads, sectors) = (u64::from(self.state.heads.max(1)), u64::from(self.state.sectors.max(1)));
            let (track, sector) = (sector / sectors, sector % sectors + 1);
            tf.lba = sector | ((track / heads) & 0xffff) << 8;
            tf.device = tf.device & 0xf0 | (track % heads).min(0xf) as u8;
        }
    }

    /// Begins to move `count` sectors from `sector` on, which are known to be there.
    fn begin(&mut self, sector: u64, count: u64, a: Access) -> Result<Step, Failure> {
        let Media::Disk(disk) = &self.media else { return Err(ABORTED) };
        if a.write && disk.read_only() {
            return Err(write_failure(&BlockError::ReadOnly, sector * SECTOR));
        }
        let block = match a.way {
            Way::Multiple if self.state.multiple == 0 => return Err(ABORTED),
            Way::Multiple => u64::from(self.state.multiple) * SECTOR,
            Way::Pio | Way::Dma => SECTOR,
        };
        self.state.power = 0xff;
        let sync = a.write && (a.sync || !self.state.write_cache);
        self.state.transfer = Some(Transfer {
            write: a.write,
            dma: a.way == Way::Dma,
            left: count * SECTOR,
            block,
            place: Place::Disk { at: sector * SECTOR, sync },
        });
        Ok(Step::Data)
    }

    /// The first sector and the number of sectors of READ or WRITE FPDMA QUEUED (SATA 2.6, 13.6): the count is in the features.
    fn queued_span(&self, tf: &Taskfile) -> Result<(u64, u64), Failure> {
        let count = if tf.features == 0 { 1 << 16 } else { u64::from(tf.features) };
        let sector = tf.lba & 0xffff_ffff_ffff;
        self.check(sector, count)?;
        Ok((sector, count))
    }

    /// The sectors that the command of `tf` reads from the disk, if it does and they are there.
    pub(super) fn reads(&self, tf: &Taskfile) -> Option<(u64, u64)> {
        if tf.command == READ_QUEUED && self.sata {
            return self.queued_span(tf).ok();
        }
        access(tf.command).filter(|a| !a.write).and_then(|a| self.span(tf, a.ext).ok())
    }

    /// READ or WRITE FPDMA QUEUED (SATA 2.6, 13.6): the tag is in the count.
    pub fn queued(&mut self, tf: &mut Taskfile) -> Step {
        tf.error = 0;
        self.end_transfer();
        let access = Access { way: Way::Dma, write: tf.command != READ_QUEUED, ext: true, sync: tf.device & 0x80 != 0 };
        let result = self.queued_span(tf).and_then(|(sector, count)| self.begin(sector, count, access));
        self.step(tf, result)
    }

    /// Notes that the queued command of `tag` has failed as `tf` tells, for the log that the driver will read.
    pub fn queue_failed(&mut self, tag: u8, tf: &Taskfile) {
        self.state.failed = Some((tag, tf.status, tf.error, tf.lba));
    }

    pub(super) fn disk_command(&mut self, tf: &mut Taskfile) -> Result<Step, Failure> {
        if let Some(access) = access(tf.command) {
            let (sector, count) = self.span(tf, access.ext)?;
            return self.begin(sector, count, access);
        }
        if let Some(step) = self.power_command(tf) {
            return Ok(step);
        }
        match tf.command {
            0x06 if tf.features & 0xff == 1 && tf.count != 0 => {
                let left = u64::from(tf.count).min(u64::from(identify::TRIM_BLOCKS)) * SECTOR;
                if left != u64::from(tf.count) * SECTOR {
                    return Err(ABORTED);
                }
                self.state.transfer = Some(Transfer { write: true, dma: true, left, block: SECTOR, place: Place::Discard });
                return Ok(Step::Data);
            }
            0x10..=0x1f => tf.lba &= 0xff,
            0x40..=0x42 => {
                let (sector, count) = self.span(tf, tf.command == 0x42)?;
                self.verify(sector * SECTOR, count * SECTOR)?;
            }
            0x70..=0x7f => {
                let sector = self.short_address(tf).ok_or(Failure::Ata(0, error::IDNF, None))?;
                self.check(sector, 1)?;
            }
            super::DIAGNOSTIC => {
                self.sign(tf);
                tf.error = 1;
            }
            0x91 => {
                let sectors = tf.count as u8;
                if sectors == 0 {
                    return Err(ABORTED);
                }
                (self.state.heads, self.state.sectors) = ((tf.device & 0xf) + 1, sectors);
            }
            0xc6 => {
                let n = tf.count as u8;
                if n != 0 && (!n.is_power_of_two() || n > identify::MAX_MULTIPLE) {
                    return Err(ABORTED);
                }
                self.state.multiple = n;
            }
            FLUSH | FLUSH_EXT => self.flush()?,
            0xec => {
                let data = self.identify();
                return Ok(self.answer(data, false, SECTOR));
            }
            SET_FEATURES => return self.set_features(tf),
            0xf8 => self.set_address(tf, (self.sectors().saturating_sub(1)).min(0xfff_ffff)),
            0x27 => self.set_address(tf, self.sectors().saturating_sub(1)),
            0x2f if self.sata => return self.read_log(tf),
            command => {
                log::debug!("ata: command {command:#04x} is not supported");
                return Err(ABORTED);
            }
        }
        Ok(Step::Done)
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        match &mut self.media {
            Media::Disk(disk) => disk.flush().map_err(|e| write_failure(&e, 0)),
            Media::Cd(_) => Ok(()),
        }
    }

    fn verify(&mut self, from: u64, len: u64) -> Result<(), Failure> {
        let Media::Disk(disk) = &mut self.media else { return Ok(()) };
        let mut buffer = vec![0; len.min(VERIFY) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(VERIFY) as usize;
            read(disk, from + done, &mut buffer[..n])?;
            done += n as u64;
        }
        Ok(())
    }

    fn set_features(&mut self, tf: &Taskfile) -> Result<Step, Failure> {
        match tf.features as u8 {
            0x02 => self.state.write_cache = true,
            NO_WRITE_CACHE => {
                self.flush()?;
                self.state.write_cache = false;
            }
            0x03 => return self.set_mode(tf.count as u8),
            // Read look-ahead on and off, power-on defaults kept or not over a reset: nothing to do.
            0xaa | 0x55 | 0x66 | 0xcc => {}
            _ => return Err(ABORTED),
        }
        Ok(Step::Done)
    }

    /// READ LOG EXT: the directory, and the log of a failed queued command (SATA 2.6, 13.7.4).
    fn read_log(&mut self, tf: &Taskfile) -> Result<Step, Failure> {
        let (log, page) = (tf.lba as u8, tf.lba >> 8 & 0xff);
        if tf.count != 1 || page != 0 {
            return Err(ABORTED);
        }
        let mut data = vec![0; SECTOR as usize];
        match log {
            0 => {
                data[0] = 1;
                data[2 * usize::from(NCQ_ERROR_LOG)] = 1;
            }
            NCQ_ERROR_LOG => {
                match self.state.failed.take() {
                    Some((tag, status, error, sector)) => {
                        let s = sector.to_le_bytes();
                        data[..4].copy_from_slice(&[tag, 0, status, error]);
                        data[4..7].copy_from_slice(&s[..3]);
                        data[7] = LBA;
                        data[8..11].copy_from_slice(&s[3..6]);
                    }
                    None => data[0] = 0x80,
                }
                data[511] = data.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
            }
            _ => return Err(ABORTED),
        }
        Ok(self.answer(data, false, SECTOR))
    }
}
