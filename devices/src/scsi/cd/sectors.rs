//! Sectors as READ and READ CD give them.

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, SharedDisk};

use super::{Reply, SECTOR, ScsiCd, msf};
use crate::scsi::{BAD_ADDRESS, BAD_FIELD, Sense, UNREADABLE};

/// Bytes of a whole sector as READ CD gives it.
const RAW: u16 = 2352;

/// Sectors that a read gives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Extent {
    lba: u32,
    count: u32,
    /// Bytes of each.
    size: u16,
    /// Which parts of a sector: byte 9 of READ CD.
    parts: u8,
    /// Bytes already read.
    done: u64,
}

/// Parts of a sector in READ CD.
pub(super) mod part {
    pub const SYNC: u8 = 0x80;
    pub const HEADER: u8 = 0x20;
    pub const USER: u8 = 0x10;
    pub const EDC: u8 = 0x08;
}

impl Extent {
    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        u64::from(self.count) * u64::from(self.size)
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ScsiCd {
    pub(super) fn read_sectors(&self, lba: u32, count: u32, parts: u8) -> Result<Reply, Sense> {
        let size = match parts {
            part::USER => SECTOR as u16,
            _ => {
                let mut size = 0;
                for (bit, len) in [(part::SYNC, 12), (part::HEADER, 4), (part::USER, SECTOR as u16), (part::EDC, 288)] {
                    size += if parts & bit != 0 { len } else { 0 };
                }
                size
            }
        };
        let sectors = self.sectors()?;
        if lba.checked_add(count).is_none_or(|end| end > sectors) {
            return Err(BAD_ADDRESS);
        }
        Ok(Reply::Transfer(Extent { lba, count, size, parts, done: 0 }))
    }

    /// READ CD and READ CD MSF.
    pub(super) fn read_cd(&self, lba: u32, count: u32, cdb: &[u8; 12]) -> Result<Reply, Sense> {
        // Expected sector type: any or mode 1; no sub-channel data, no error flags.
        if !matches!(cdb[1] >> 2 & 7, 0 | 2) {
            return Err(Sense::new(5, 0x64, 0));
        }
        if cdb[10] & 7 != 0 || cdb[9] & 6 != 0 {
            return Err(BAD_FIELD);
        }
        self.read_sectors(lba, count, cdb[9] & 0xb8)
    }

    /// Reads the next bytes of `extent`.
    ///
    /// # Errors
    /// [`Sense`] when the medium is gone or the host cannot read it.
    pub fn read(&mut self, extent: &mut Extent, buf: &mut [u8]) -> Result<(), Sense> {
        let mut medium = self.medium()?;
        let size = u64::from(extent.size.max(1));
        let mut done = 0;
        while done < buf.len() {
            let (lba, within) = (u64::from(extent.lba) + extent.done / size, (extent.done % size) as usize);
            let n = if extent.parts == part::USER {
                let n = buf.len() - done;
                read_medium(&mut medium, lba * SECTOR + within as u64, &mut buf[done..done + n])?;
                n
            } else {
                let sector = raw_sector(&mut medium, lba as u32, extent.parts)?;
                let n = (sector.len().saturating_sub(within)).min(buf.len() - done);
                if n == 0 {
                    return Err(UNREADABLE);
                }
                buf[done..done + n].copy_from_slice(&sector[within..within + n]);
                n
            };
            done += n;
            extent.done += n as u64;
        }
        Ok(())
    }
}

fn bcd(n: u8) -> u8 {
    n / 10 % 10 * 16 + n % 10
}

/// Reads the medium; past its end, in a last sector that the image cuts short, there are zeros.
fn read_medium(medium: &mut SharedDisk, at: u64, buf: &mut [u8]) -> Result<(), Sense> {
    let have = (medium.size().saturating_sub(at)).min(buf.len() as u64) as usize;
    medium.read_at(at, &mut buf[..have]).map_err(|e| {
        log::warn!("cd: read at byte {at:#x}: {e}");
        UNREADABLE
    })?;
    buf[have..].fill(0);
    Ok(())
}

/// The wanted parts of a mode 1 sector (ECMA-130, 14). The error correction bytes are left zero: nothing is to be
/// corrected.
fn raw_sector(medium: &mut SharedDisk, lba: u32, parts: u8) -> Result<Vec<u8>, Sense> {
    let mut raw = vec![0; RAW.into()];
    raw[1..11].fill(0xff);
    let [m, s, f] = msf(lba).map(bcd);
    raw[12..16].copy_from_slice(&[m, s, f, 1]);
    read_medium(medium, u64::from(lba) * SECTOR, &mut raw[16..16 + SECTOR as usize])?;
    let edc = edc(&raw[..2064]);
    raw[2064..2068].copy_from_slice(&edc.to_le_bytes());
    let mut sector = Vec::new();
    for (bit, range) in [(part::SYNC, 0..12), (part::HEADER, 12..16), (part::USER, 16..2064), (part::EDC, 2064..2352)] {
        if parts & bit != 0 {
            sector.extend(&raw[range]);
        }
    }
    Ok(sector)
}

/// The error detection code: a reflected CRC with the polynomial 0x8001801B.
fn edc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0xd801_8001 } else { 0 };
        }
        crc
    })
}
