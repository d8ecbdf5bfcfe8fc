//! INT 18h and INT 19h: the devices in their order, the boot sector, and El Torito (El Torito Bootable CD-ROM Format
//! Specification 1.0).

use softmetal_bus::{BlockBackend, SharedDisk};

use super::rom::{SEGMENT, at, rom};
use super::{Bios, BootDevice, EBDA, Outcome, Seg, data};
use crate::bytes::{array, sum, u16_at, u32_at};

/// Where boot sectors are loaded.
const SECTOR_AT: u16 = 0x7C00;
/// BIOS numbers of the first drive of each kind.
pub(super) const FIRST_DISK: u8 = 0x80;
pub(super) const FIRST_CDROM: u8 = 0xE0;
/// Bytes of a sector of disks and of CD-ROMs.
pub(super) const SECTOR: u64 = 512;
pub(super) const CD_SECTOR: u64 = 2048;
/// The CD-ROM sector with the boot record.
const BOOT_RECORD: u64 = 17;
/// The order in which devices are tried if nothing else is asked for.
const ORDER: [BootDevice; 3] = [BootDevice::Disk, BootDevice::Cdrom, BootDevice::Floppy];

/// A disk that a CD-ROM's image stands for, as it is kept in the EBDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Emulation {
    /// The media type of the catalogue, with its flags; 0 is no emulation.
    pub media: u8,
    /// The number of the drive that it is.
    pub drive: u8,
    /// The number of the CD-ROM drive it is in, from 0 on.
    pub cdrom: u8,
    /// The image's first CD-ROM sector.
    pub start: u32,
    /// Where it was loaded, and how many 512-byte sectors.
    pub segment: u16,
    pub sectors: u16,
    /// Geometry: cylinders, heads, sectors.
    pub chs: (u16, u8, u8),
}

const SIZE: usize = 20;

impl Emulation {
    fn bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..4].copy_from_slice(&[1, self.media, self.drive, self.cdrom]);
        bytes[4..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.segment.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.sectors.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.chs.0.to_le_bytes());
        bytes[14..16].copy_from_slice(&[self.chs.1, self.chs.2]);
        bytes
    }

    fn of(bytes: [u8; SIZE]) -> Option<Self> {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (bytes[0] == 1).then(|| Self {
            media: bytes[1],
            drive: bytes[2],
            cdrom: bytes[3],
            start: u32::from(word(4)) | u32::from(word(6)) << 16,
            segment: word(8),
            sectors: word(10),
            chs: (word(12), bytes[14], bytes[15]),
        })
    }

    /// Whether a drive is emulated, rather than the CD-ROM read as such.
    pub fn is_drive(&self) -> bool {
        self.media & 15 != 0
    }
}

/// Something to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Try {
    device: BootDevice,
    /// Among those of its kind.
    n: u8,
}

impl Try {
    fn name(self) -> String {
        let (kind, of_many) = match self.device {
            BootDevice::Disk => ("hard disk", true),
            BootDevice::Cdrom => ("CD-ROM", true),
            BootDevice::Floppy => ("floppy", true),
            BootDevice::Net => ("network", false),
        };
        if of_many && self.n > 0 { format!("{kind} {}", self.n + 1) } else { kind.into() }
    }
}

impl Bios<'_> {
    /// What the CD-ROM that was booted from stands for.
    pub(super) fn emulation(&mut self) -> Option<Emulation> {
        Emulation::of(self.array(EBDA + data::EMULATION))
    }

    pub(super) fn set_emulation(&mut self, emulation: Option<Emulation>) {
        let bytes = emulation.map_or([0; SIZE], |e| e.bytes());
        self.set(EBDA + data::EMULATION, &bytes);
    }

    fn tries(&self) -> Vec<Try> {
        let drives = self.host.drives();
        let order = if drives.boot.is_empty() { &ORDER[..] } else { &drives.boot };
        let mut tries = Vec::new();
        for &device in order {
            let count = match device {
                BootDevice::Disk => drives.disks.len(),
                BootDevice::Cdrom => drives.cdroms.len(),
                BootDevice::Floppy => drives.floppies.len(),
                BootDevice::Net => 1,
            };
            tries.extend((0..count.min(16) as u8).map(|n| Try { device, n }));
        }
        tries
    }

    /// INT 19h: boots from the first device that can be booted.
    pub(super) fn boot_first(&mut self) -> Outcome {
        self.boot_from(0)
    }

    /// INT 18h: what was booted has given up; the next device.
    pub(super) fn boot_next(&mut self) -> Outcome {
        let next = self.get8(EBDA + data::BOOT_TRY);
        self.boot_from(next.into())
    }

    fn boot_from(&mut self, first: usize) -> Outcome {
        self.set_emulation(None);
        let tries = self.tries();
        for (n, which) in tries.iter().enumerate().skip(first) {
            self.set(EBDA + data::BOOT_TRY, &[n as u8 + 1]);
            self.print(&format!("Booting from {}...\r\n", which.name()));
            match self.load(*which) {
                Ok(drive) => return self.start(drive),
                Err(why) => {
                    log::info!(target: "bios", "{}: {why}", which.name());
                    self.print(&format!("{why}\r\n"));
                }
            }
        }
        let nothing = "No bootable device";
        self.print(&format!("\n{nothing}.\r\n"));
        let list: Vec<String> = tries.iter().map(|which| which.name()).collect();
        let tried = if list.is_empty() { "there are no drives".into() } else { format!("tried: {}", list.join(", ")) };
        log::warn!(target: "bios", "{nothing} ({tried}); give one with --disk, --cdrom or --floppy");
        Outcome::Jump(SEGMENT, rom().idle)
    }

    /// Enters what was loaded: (drive, segment, offset).
    fn start(&mut self, (drive, segment, offset): (u8, u16, u16)) -> Outcome {
        self.regs.d.set_x(drive.into());
        // "AA55", and where the Plug and Play header is.
        self.regs.a.set_x(0xAA55);
        self.regs.b.set_x(0);
        self.regs.c.set_x(0);
        self.regs.si.set_x(0);
        self.regs.di.set_x(at::PNP);
        self.regs.es = Seg::real(SEGMENT);
        self.regs.ds = Seg::real(0);
        Outcome::Jump(segment, offset)
    }

    /// Loads a boot sector or what takes its place: the drive, and where to enter it.
    fn load(&mut self, which: Try) -> Result<(u8, u16, u16), &'static str> {
        let drives = self.host.drives();
        let n = usize::from(which.n);
        let (disk, drive) = match which.device {
            BootDevice::Disk => (drives.disks.get(n).cloned(), FIRST_DISK + which.n),
            BootDevice::Floppy => (drives.floppies.get(n).and_then(|drive| drive.medium()), which.n),
            BootDevice::Cdrom => {
                let medium = drives.cdroms.get(n).and_then(|drive| drive.medium()).ok_or("no medium")?;
                return self.load_cdrom(which.n, medium);
            }
            BootDevice::Net => return Err("booting from the network is not supported"),
        };
        let mut disk = disk.ok_or("no medium")?;
        let mut sector = [0; SECTOR as usize];
        disk.read_at(0, &mut sector).map_err(|_| "the boot sector cannot be read")?;
        if u16_at(&sector, 510) != Some(0xAA55) || sector[..16] == [0; 16] {
            return Err("not bootable");
        }
        self.set(SECTOR_AT.into(), &sector);
        Ok((drive, 0, SECTOR_AT))
    }

    fn load_cdrom(&mut self, cdrom: u8, mut medium: SharedDisk) -> Result<(u8, u16, u16), &'static str> {
        const UNREADABLE: &str = "the CD-ROM cannot be read";
        const NO_BOOT_RECORD: &str = "not a bootable CD-ROM";
        let mut sector = [0; CD_SECTOR as usize];
        medium.read_at(BOOT_RECORD * CD_SECTOR, &mut sector).map_err(|_| UNREADABLE)?;
        if !sector.starts_with(b"\0CD001\x01EL TORITO SPECIFICATION\0") {
            return Err(NO_BOOT_RECORD);
        }
        let catalogue = u32_at(&sector, 0x47).unwrap_or(0);
        medium.read_at(u64::from(catalogue) * CD_SECTOR, &mut sector).map_err(|_| UNREADABLE)?;
        // The validation entry: header, platform 80x86, words that add up to zero.
        let words = sector[..32].chunks(2).fold(0u16, |sum, w| sum.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
        if sector[0] != 1 || words != 0 || array(&sector, 30) != Some([0x55, 0xAA]) {
            return Err("the CD-ROM's boot catalogue is damaged");
        }
        let entry: [u8; 32] = array(&sector, 32).unwrap_or([0; 32]);
        if sector[1] != 0 || entry[0] != 0x88 {
            return Err("the CD-ROM does not boot by a BIOS");
        }
        let media = entry[1];
        let segment = match u16_at(&entry, 2) {
            None | Some(0) => SECTOR_AT >> 4,
            Some(segment) => segment,
        };
        let sectors = u16_at(&entry, 6).unwrap_or(0).max(1);
        let start = u32_at(&entry, 8).unwrap_or(0);
        let image = u64::from(start) * CD_SECTOR;
        // As much of it as conventional memory holds.
        let room = u64::from(EBDA.saturating_sub(u32::from(segment) << 4));
        let len = (u64::from(sectors) * SECTOR).min(room).min(medium.size().saturating_sub(image));
        let mut bytes = vec![0; len as usize];
        medium.read_at(image, &mut bytes).map_err(|_| UNREADABLE)?;
        let (drive, chs) = match media & 15 {
            0 => (FIRST_CDROM + cdrom, (0, 0, 0)),
            1 => (0, (80, 2, 15)),
            2 => (0, (80, 2, 18)),
            3 => (0, (80, 2, 36)),
            4 => {
                let mut mbr = [0; SECTOR as usize];
                medium.read_at(image, &mut mbr).map_err(|_| UNREADABLE)?;
                (FIRST_DISK, partition_geometry(&mbr))
            }
            _ => return Err("the CD-ROM's boot image is of no known kind"),
        };
        self.set(u32::from(segment) << 4, &bytes);
        let emulation = Emulation { media, drive, cdrom, start, segment, sectors, chs };
        self.set_emulation(Some(emulation));
        log::debug!(target: "bios", "El Torito: {emulation:?}, {len} bytes, sum {:#x}", sum(&bytes));
        Ok((drive, segment, 0))
    }
}

/// Cylinders, heads and sectors, by the end of the first partition.
fn partition_geometry(mbr: &[u8; 512]) -> (u16, u8, u8) {
    let [head, sector, cylinder] = [0x1BE + 5, 0x1BE + 6, 0x1BE + 7].map(|at| mbr[at]);
    let cylinders = u16::from(cylinder) | u16::from(sector & 0xC0) << 2;
    (cylinders + 1, head.saturating_add(1), (sector & 0x3F).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulation_is_kept() {
        let e = Emulation { media: 4, drive: 0x80, cdrom: 1, start: 0x1234_5678, segment: 0x7C0, sectors: 4, chs: (1023, 255, 63) };
        assert_eq!(Emulation::of(e.bytes()), Some(e));
        assert_eq!(Emulation::of([0; SIZE]), None);
    }
}
