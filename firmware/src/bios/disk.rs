//! INT 13h: hard disks, floppies and CD-ROMs by cylinder, head and sector and by block (BIOS Enhanced Disk Drive
//! Specification 3.0), El Torito's functions.

use softmetal_bus::{BlockBackend, BlockError, SharedDisk};

use super::boot::{CD_SECTOR, Emulation, FIRST_CDROM, FIRST_DISK, SECTOR};
use super::rom::{SEGMENT, at};
use super::{Bios, Seg, data};

/// Results, in AH.
mod result {
    pub const OK: u8 = 0x00;
    pub const BAD_COMMAND: u8 = 0x01;
    pub const WRITE_PROTECTED: u8 = 0x03;
    pub const NOT_FOUND: u8 = 0x04;
    pub const CHANGED: u8 = 0x06;
    pub const NO_MEDIUM: u8 = 0x31;
    pub const NOT_LOCKED: u8 = 0xB0;
    pub const FAILED: u8 = 0x20;
    pub const TIME_OUT: u8 = 0x80;
    pub const LOCK_IN_USE: u8 = 0xB4;
}
use result::{BAD_COMMAND, FAILED, OK};

/// The most that goes through the host's memory at a time, in bytes.
const CHUNK: u64 = 1 << 20;

/// What a drive number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Floppy(u8),
    Disk(u8),
    Cdrom(u8),
    /// A disk in a CD-ROM's image.
    Emulated(Emulation),
}

/// A drive with its medium.
struct Target {
    kind: Kind,
    disk: SharedDisk,
    /// The medium's first byte that is the drive's, and how many blocks there are.
    offset: u64,
    blocks: u64,
    block: u64,
}

/// Cylinders, heads and sectors of a disk of `sectors` sectors: as many heads as it takes to reach them with 1024
/// cylinders of 63 sectors.
fn geometry(sectors: u64) -> (u64, u64, u64) {
    const SECTORS: u64 = 63;
    const CYLINDERS: u64 = 1024;
    let heads = [16, 32, 64, 128].into_iter().find(|heads| sectors <= heads * SECTORS * CYLINDERS).unwrap_or(255);
    ((sectors / (heads * SECTORS)).clamp(1, CYLINDERS), heads, SECTORS)
}

/// Cylinders, heads, sectors and drive type of a floppy of `bytes` bytes.
fn floppy_geometry(bytes: u64) -> (u64, u64, u64, u8) {
    match bytes >> 10 {
        0..=160 => (40, 1, 8, 1),
        161..=180 => (40, 1, 9, 1),
        181..=320 => (40, 2, 8, 1),
        321..=360 => (40, 2, 9, 1),
        361..=720 => (80, 2, 9, 3),
        721..=1200 => (80, 2, 15, 2),
        1201..=1440 => (80, 2, 18, 4),
        1441..=1680 => (80, 2, 21, 4),
        1681..=1722 => (82, 2, 21, 4),
        _ => (80, 2, 36, 5),
    }
}

impl Target {
    fn geometry(&self) -> (u64, u64, u64) {
        match self.kind {
            Kind::Floppy(_) => {
                let (cylinders, heads, sectors, _) = floppy_geometry(self.disk.size());
                (cylinders, heads, sectors)
            }
            Kind::Emulated(e) => (e.chs.0.into(), e.chs.1.into(), e.chs.2.into()),
            Kind::Disk(_) | Kind::Cdrom(_) => geometry(self.blocks),
        }
    }
}

fn code(error: &BlockError) -> u8 {
    match error {
        BlockError::OutOfRange => result::NOT_FOUND,
        BlockError::ReadOnly => result::WRITE_PROTECTED,
        BlockError::Host(_) => FAILED,
    }
}

/// What a transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    Read,
    Write,
    Verify,
}

impl Bios<'_> {
    fn kind(&mut self, drive: u8) -> Option<Kind> {
        let emulation = self.emulation().filter(Emulation::is_drive);
        let drives = self.host.drives();
        let (disks, cdroms, floppies) = (drives.disks.len(), drives.cdroms.len(), drives.floppies.len());
        if let Some(e) = emulation {
            if e.drive == drive {
                return Some(Kind::Emulated(e));
            }
        }
        // An emulated drive moves those of its kind up by one.
        let moved = |first: u8| u8::from(emulation.is_some_and(|e| e.drive == first));
        let nth = |first: u8, moved: u8, count: usize| (drive - first).checked_sub(moved).filter(|&n| usize::from(n) < count);
        match drive {
            FIRST_CDROM.. => nth(FIRST_CDROM, 0, cdroms).map(Kind::Cdrom),
            FIRST_DISK.. => nth(FIRST_DISK, moved(FIRST_DISK), disks).map(Kind::Disk),
            _ => nth(0, moved(0), floppies.min(2)).map(Kind::Floppy),
        }
    }

    fn target(&mut self, drive: u8) -> Result<Target, u8> {
        let kind = self.kind(drive).ok_or(BAD_COMMAND)?;
        let drives = self.host.drives();
        let removable = |list: &[softmetal_bus::Drive], n: u8| list.get(usize::from(n)).and_then(|drive| drive.medium());
        let (disk, missing) = match kind {
            Kind::Floppy(n) => (removable(&drives.floppies, n), result::TIME_OUT),
            Kind::Cdrom(n) => (removable(&drives.cdroms, n), result::NO_MEDIUM),
            Kind::Emulated(e) => (removable(&drives.cdroms, e.cdrom), result::NO_MEDIUM),
            Kind::Disk(n) => (drives.disks.get(usize::from(n)).cloned(), BAD_COMMAND),
        };
        let disk = disk.ok_or(missing)?;
        let block = if matches!(kind, Kind::Cdrom(_)) { CD_SECTOR } else { SECTOR };
        let (offset, blocks) = match kind {
            Kind::Emulated(e) => {
                let offset = u64::from(e.start) * CD_SECTOR;
                let chs = u64::from(e.chs.0) * u64::from(e.chs.1) * u64::from(e.chs.2);
                (offset, chs.min(disk.size().saturating_sub(offset) / SECTOR))
            }
            _ => (0, disk.size() / block),
        };
        Ok(Target { kind, disk, offset, blocks, block })
    }

    /// INT 13h; INT 40h is the same for floppies alone.
    pub(super) fn disk(&mut self, floppies: bool) {
        let (function, drive) = (self.regs.a.h(), self.regs.d.l());
        let result = if floppies && drive >= FIRST_DISK { Err(BAD_COMMAND) } else { self.disk_function(function, drive) };
        let code = result.err().unwrap_or(OK);
        // The drive type, the result of the last operation, and the extensions' version have AH to themselves.
        let own = result.is_ok() && matches!(function, 0x01 | 0x15 | 0x41);
        if function != 0x01 && function != 0x15 {
            self.set_bda8(if drive < FIRST_DISK { data::FLOPPY_RESULT } else { data::DISK_RESULT }, code);
        }
        if !own {
            self.regs.a.set_h(code);
            self.regs.set_carry(code != OK);
        }
        if code != OK && log::log_enabled!(target: "bios", log::Level::Debug) {
            log::debug!(target: "bios", "INT 13h, AH {function:02X}h, drive {drive:02X}h: error {code:02X}h");
        }
    }

    fn disk_function(&mut self, function: u8, drive: u8) -> Result<(), u8> {
        match function {
            // Resets, seeks, tests: the drive is there, that is all.
            0x00 => match self.kind(drive) {
                Some(_) => Ok(()),
                None => Err(BAD_COMMAND),
            },
            0x0C | 0x0D | 0x10 | 0x11 | 0x14 => self.target(drive).map(|_| ()),
            0x01 => {
                let last = self.bda8(if drive < FIRST_DISK { data::FLOPPY_RESULT } else { data::DISK_RESULT });
                self.regs.a.set_h(last);
                self.regs.set_carry(last != 0);
                Ok(())
            }
            0x02 => self.by_chs(drive, Transfer::Read),
            0x03 => self.by_chs(drive, Transfer::Write),
            0x04 => self.by_chs(drive, Transfer::Verify),
            0x05 => self.format(drive),
            0x08 => self.parameters(drive),
            0x09 => Ok(()),
            0x15 => self.drive_type(drive),
            0x16 => match self.target(drive) {
                Ok(_) => Ok(()),
                Err(result::TIME_OUT) => Err(result::CHANGED),
                Err(e) => Err(e),
            },
            0x17 | 0x18 if drive < FIRST_DISK => {
                self.regs.es = Seg::real(SEGMENT);
                self.regs.di.set_x(at::FLOPPY_PARAMETERS);
                self.target(drive).map(|_| ())
            }
            0x41 => self.extensions(drive),
            0x42 => self.by_block(drive, Transfer::Read),
            0x43 => self.by_block(drive, Transfer::Write),
            0x44 => self.by_block(drive, Transfer::Verify),
            0x45 => self.lock(drive),
            0x46 => self.eject(drive),
            0x47 => self.target(drive).map(|_| ()),
            0x48 => self.extended_parameters(drive),
            0x49 => match self.kind(drive) {
                // Changed: not since the guest asked last, as far as it can be told.
                Some(_) => Ok(()),
                None => Err(BAD_COMMAND),
            },
            // DMA and prefetch are what they are.
            0x4E => self.target(drive).map(|_| ()),
            0x4A | 0x4C => Err(BAD_COMMAND),
            0x4B => self.emulation_status(drive),
            0x4D => self.boot_catalogue(),
            _ => {
                log::debug!(target: "bios", "INT 13h has no function {function:02X}h");
                Err(BAD_COMMAND)
            }
        }
    }

    /// Moves `count` blocks between the medium, from `block` on, and the guest's memory at `linear`; the blocks moved.
    fn transfer(&mut self, target: &mut Target, how: Transfer, block: u64, count: u64, linear: u64) -> (u64, Result<(), u8>) {
        if block >= target.blocks || count > target.blocks - block {
            return (0, Err(result::NOT_FOUND));
        }
        if how == Transfer::Write && (matches!(target.kind, Kind::Emulated(_) | Kind::Cdrom(_)) || target.disk.read_only()) {
            return (0, Err(result::WRITE_PROTECTED));
        }
        let mut bytes = vec![0; (count * target.block).min(CHUNK) as usize];
        let mut done = 0;
        while done < count {
            let n = (count - done).min(CHUNK / target.block);
            let chunk = &mut bytes[..(n * target.block) as usize];
            let at = target.offset + (block + done) * target.block;
            let address = linear.wrapping_add(done * target.block);
            let moved = match how {
                Transfer::Read => target.disk.read_at(at, chunk).map(|()| self.store(address, chunk)),
                Transfer::Write => {
                    self.fetch(address, chunk);
                    target.disk.write_at(at, chunk)
                }
                Transfer::Verify => target.disk.read_at(at, chunk),
            };
            if let Err(e) = moved {
                log::warn!(target: "bios", "disk: {how:?} of block {}: {e}", block + done);
                return (done, Err(code(&e)));
            }
            done += n;
        }
        (done, Ok(()))
    }

    /// A store for a transfer: a physical address may be given above what real mode reaches.
    fn store(&mut self, address: u64, bytes: &[u8]) {
        match u32::try_from(address) {
            Ok(linear) => self.host.write(linear, bytes),
            Err(_) => self.host.write_physical(address, bytes),
        }
    }

    fn fetch(&mut self, address: u64, buf: &mut [u8]) {
        match u32::try_from(address) {
            Ok(linear) => self.host.read(linear, buf),
            Err(_) => self.host.read_physical(address, buf),
        }
    }

    fn by_chs(&mut self, drive: u8, how: Transfer) -> Result<(), u8> {
        let count = u64::from(self.regs.a.l());
        // What was not moved is not counted.
        self.regs.a.set_l(0);
        let mut target = self.target(drive)?;
        let (cylinders, heads, sectors) = target.geometry();
        let (cx, head) = (self.regs.c.x(), u64::from(self.regs.d.h()));
        let (cylinder, sector) = (u64::from(cx >> 8 | (cx & 0xC0) << 2), u64::from(cx & 0x3F));
        if count == 0 || matches!(target.kind, Kind::Cdrom(_)) {
            return Err(BAD_COMMAND);
        }
        if sector == 0 || sector > sectors || head >= heads || cylinder >= cylinders {
            return Err(result::NOT_FOUND);
        }
        let block = (cylinder * heads + head) * sectors + sector - 1;
        let address = self.regs.es.at(self.regs.b.x());
        let (done, result) = self.transfer(&mut target, how, block, count, address.into());
        self.regs.a.set_l(done as u8);
        result
    }

    /// 05h: a track becomes empty.
    fn format(&mut self, drive: u8) -> Result<(), u8> {
        const FILL: u8 = 0xF6;
        let mut target = self.target(drive)?;
        let (cylinders, heads, sectors) = target.geometry();
        let (cx, head) = (self.regs.c.x(), u64::from(self.regs.d.h()));
        let cylinder = u64::from(cx >> 8 | (cx & 0xC0) << 2);
        if !matches!(target.kind, Kind::Floppy(_)) || head >= heads || cylinder >= cylinders {
            return Err(BAD_COMMAND);
        }
        let track = vec![FILL; (sectors * SECTOR) as usize];
        target.disk.write_at((cylinder * heads + head) * sectors * SECTOR, &track).map_err(|e| code(&e))
    }

    /// How many drives of the kind of `drive` there are.
    fn count(&mut self, drive: u8) -> u8 {
        let emulated = self.emulation().is_some_and(|e| e.is_drive() && (e.drive < FIRST_DISK) == (drive < FIRST_DISK));
        let drives = self.host.drives();
        let real = if drive < FIRST_DISK { drives.floppies.len().min(2) } else { drives.disks.len() };
        real.min(0x5F) as u8 + u8::from(emulated)
    }

    fn parameters(&mut self, drive: u8) -> Result<(), u8> {
        let count = self.count(drive);
        let Some(kind) = self.kind(drive) else {
            // No such drive: only how many there are.
            self.regs.d.set_l(count);
            if drive < FIRST_DISK && count > 0 {
                return Err(BAD_COMMAND);
            }
            self.regs.c.set_x(0);
            self.regs.d.set_h(0);
            return Err(BAD_COMMAND);
        };
        let ((cylinders, heads, sectors), kind_code) = match kind {
            Kind::Cdrom(_) => return Err(BAD_COMMAND),
            Kind::Floppy(n) => {
                let medium = self.host.drives().floppies.get(usize::from(n)).and_then(|drive| drive.medium());
                let (cylinders, heads, sectors, code) = floppy_geometry(medium.map_or(1440 << 10, |m| m.size()));
                ((cylinders, heads, sectors), code)
            }
            Kind::Emulated(_) => (self.target(drive)?.geometry(), 4),
            Kind::Disk(_) => (self.target(drive)?.geometry(), 0),
        };
        let last = cylinders.saturating_sub(1) as u16;
        self.regs.a.set_x(0);
        self.regs.b.set_x(if drive < FIRST_DISK { kind_code.into() } else { self.regs.b.x() });
        self.regs.c.set_x(last << 8 | (last >> 2 & 0xC0) | sectors as u16);
        self.regs.d.set_x((heads as u16).wrapping_sub(1) << 8 | u16::from(count));
        if drive < FIRST_DISK {
            self.regs.es = Seg::real(SEGMENT);
            self.regs.di.set_x(at::FLOPPY_PARAMETERS);
        }
        Ok(())
    }

    fn drive_type(&mut self, drive: u8) -> Result<(), u8> {
        self.regs.set_carry(false);
        match self.kind(drive) {
            None | Some(Kind::Cdrom(_)) => self.regs.a.set_h(0),
            // A floppy drive that notices changes.
            Some(_) if drive < FIRST_DISK => self.regs.a.set_h(2),
            Some(_) => {
                let blocks = self.target(drive)?.blocks.min(u32::MAX.into()) as u32;
                self.regs.a.set_h(3);
                self.regs.c.set_x((blocks >> 16) as u16);
                self.regs.d.set_x(blocks as u16);
            }
        }
        Ok(())
    }

    fn extensions(&mut self, drive: u8) -> Result<(), u8> {
        let kind = self.kind(drive).ok_or(BAD_COMMAND)?;
        if self.regs.b.x() != 0x55AA || matches!(kind, Kind::Floppy(_)) {
            return Err(BAD_COMMAND);
        }
        self.regs.b.set_x(0xAA55);
        // Version 3.0: access by block, locking, drive parameters.
        self.regs.a.set_h(0x30);
        self.regs.c.set_x(if matches!(kind, Kind::Cdrom(_)) { 7 } else { 5 });
        self.regs.set_carry(false);
        Ok(())
    }

    /// 42h to 44h: the packet at DS:SI.
    fn by_block(&mut self, drive: u8, how: Transfer) -> Result<(), u8> {
        let at = self.regs.ds.at(self.regs.si.x());
        let packet: [u8; 24] = self.array(at);
        let count = u64::from(u16::from_le_bytes([packet[2], packet[3]]));
        let [offset, segment] = [4, 6].map(|at| u16::from_le_bytes([packet[at], packet[at + 1]]));
        let number = |at: usize| packet[at..at + 8].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        if packet[0] < 0x10 {
            return Err(BAD_COMMAND);
        }
        let flat = offset == 0xFFFF && segment == 0xFFFF && packet[0] >= 0x18;
        let address = if flat { number(16) } else { Seg::real(segment).at(offset).into() };
        let result = match self.target(drive) {
            // A disk's blocks may be addressed by the CD-ROM's sectors only on a CD-ROM.
            Ok(mut target) => self.transfer(&mut target, how, number(8), count, address),
            Err(e) => (0, Err(e)),
        };
        if result.1.is_err() {
            self.set(at.wrapping_add(2), &(result.0 as u16).to_le_bytes());
        }
        result.1
    }

    fn cdrom(&mut self, drive: u8) -> Option<softmetal_bus::Drive> {
        let n = match self.kind(drive)? {
            Kind::Cdrom(n) => n,
            Kind::Emulated(e) => e.cdrom,
            Kind::Disk(_) | Kind::Floppy(_) => return None,
        };
        self.host.drives().cdroms.get(usize::from(n)).cloned()
    }

    /// 45h: locks, unlocks the door, or tells.
    fn lock(&mut self, drive: u8) -> Result<(), u8> {
        let Some(door) = self.cdrom(drive) else { return self.target(drive).map(|_| ()) };
        match self.regs.a.l() {
            0 => door.set_locked(true),
            1 if !door.locked() => return Err(result::NOT_LOCKED),
            1 => door.set_locked(false),
            2 => {}
            _ => return Err(BAD_COMMAND),
        }
        self.regs.a.set_l(door.locked().into());
        Ok(())
    }

    fn eject(&mut self, drive: u8) -> Result<(), u8> {
        let door = self.cdrom(drive).ok_or(BAD_COMMAND)?;
        match (door.locked(), door.medium()) {
            (true, _) => Err(result::LOCK_IN_USE),
            (_, None) => Err(result::NO_MEDIUM),
            _ => {
                door.eject();
                Ok(())
            }
        }
    }

    /// 48h: what the drive is, into the buffer at DS:SI, as much as it says it holds.
    fn extended_parameters(&mut self, drive: u8) -> Result<(), u8> {
        let target = self.target(drive)?;
        let at = self.regs.ds.at(self.regs.si.x());
        let room = self.get16(at);
        if room < 0x1A {
            return Err(BAD_COMMAND);
        }
        let mut answer = [0; 0x1E];
        let cdrom = matches!(target.kind, Kind::Cdrom(_));
        let (cylinders, heads, sectors) = if cdrom { (u64::MAX, u64::MAX, u64::MAX) } else { target.geometry() };
        // Removable, lockable; or with a valid geometry.
        let flags: u16 = if cdrom { 0x74 } else { 0x02 };
        let len = room.min(answer.len() as u16);
        answer[..2].copy_from_slice(&len.to_le_bytes());
        answer[2..4].copy_from_slice(&flags.to_le_bytes());
        for (at, number) in [(4, cylinders), (8, heads), (12, sectors)] {
            answer[at..at + 4].copy_from_slice(&(number as u32).to_le_bytes());
        }
        answer[16..24].copy_from_slice(&(if cdrom { u64::MAX } else { target.blocks }).to_le_bytes());
        answer[24..26].copy_from_slice(&(target.block as u16).to_le_bytes());
        // No further table.
        answer[26..30].fill(0xFF);
        self.set(at, &answer[..usize::from(len)]);
        Ok(())
    }

    /// 4Bh: what is emulated, into the packet at DS:SI; AL = 0 ends the emulation.
    fn emulation_status(&mut self, drive: u8) -> Result<(), u8> {
        let emulation = self.emulation().ok_or(BAD_COMMAND)?;
        let any = drive == 0x7F && self.regs.a.l() == 0;
        if !any && drive != emulation.drive {
            return Err(BAD_COMMAND);
        }
        let Emulation { media, drive, cdrom, start, segment, sectors, chs } = emulation;
        let mut packet = [0; 0x13];
        packet[..4].copy_from_slice(&[0x13, media, drive, cdrom / 2]);
        packet[4..8].copy_from_slice(&start.to_le_bytes());
        packet[8..10].copy_from_slice(&u16::from(cdrom & 1).to_le_bytes());
        packet[12..14].copy_from_slice(&segment.to_le_bytes());
        packet[14..16].copy_from_slice(&sectors.to_le_bytes());
        let last = chs.0.saturating_sub(1);
        packet[16..19].copy_from_slice(&[last as u8, (last >> 2 & 0xC0) as u8 | chs.2, chs.1.saturating_sub(1)]);
        let to = self.regs.ds.at(self.regs.si.x());
        self.set(to, &packet);
        if self.regs.a.l() == 0 {
            self.set_emulation(None);
        }
        Ok(())
    }

    /// 4Dh: sectors of the boot catalogue, by the packet at DS:SI.
    fn boot_catalogue(&mut self) -> Result<(), u8> {
        let emulation = self.emulation().ok_or(BAD_COMMAND)?;
        let at = self.regs.ds.at(self.regs.si.x());
        let packet: [u8; 8] = self.array(at);
        let drive = self.host.drives().cdroms.get(usize::from(emulation.cdrom)).cloned().ok_or(BAD_COMMAND)?;
        let mut medium = drive.medium().ok_or(result::NO_MEDIUM)?;
        let mut record = [0; 4];
        medium.read_at(17 * CD_SECTOR + 0x47, &mut record).map_err(|e| code(&e))?;
        let first = u64::from(u32::from_le_bytes(record));
        let to = u32::from_le_bytes([packet[2], packet[3], packet[4], packet[5]]);
        let linear = Seg::real((to >> 16) as u16).at(to as u16);
        let skip = u64::from(u16::from_le_bytes([packet[6], packet[7]]));
        let mut bytes = vec![0; usize::from(packet[1]) * CD_SECTOR as usize];
        medium.read_at((first + skip) * CD_SECTOR, &mut bytes).map_err(|e| code(&e))?;
        self.set(linear, &bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries() {
        assert_eq!(geometry(131_072), (130, 16, 63));
        assert_eq!(geometry(8 << 21), (1024, 255, 63));
        assert_eq!(geometry(100), (1, 16, 63));
        assert_eq!(floppy_geometry(1440 << 10), (80, 2, 18, 4));
        for kib in [160, 180, 320, 360, 720, 1200, 1440, 1680, 2880] {
            let (cylinders, heads, sectors, _) = floppy_geometry(kib << 10);
            assert_eq!(cylinders * heads * sectors * SECTOR, kib << 10);
        }
    }
}
