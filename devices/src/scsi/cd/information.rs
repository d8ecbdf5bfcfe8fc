//! What the drive tells of the medium and of itself.

use super::{CD_SECTORS, Reply, SECTOR, ScsiCd, address, limited};
use crate::scsi::{BAD_FIELD, Sense, be16, be32, counted};

/// The lead-out's number in a table of contents.
const LEAD_OUT: u8 = 0xaa;

impl ScsiCd {
    pub(super) fn sub_channel(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
        self.medium()?;
        let mut data = vec![0, 0x15, 0, 0];
        if cdb[2] & 0x40 != 0 {
            match cdb[3] {
                1 => {
                    data.extend([1, 0x14, 1, 1]);
                    data.extend(address(0, cdb[1] & 2 != 0));
                    data.extend(address(0, cdb[1] & 2 != 0));
                }
                // No catalogue number, no recording code.
                kind @ (2 | 3) => {
                    data.push(kind);
                    data.extend([0; 19]);
                }
                _ => return Err(BAD_FIELD),
            }
        }
        let n = (data.len() - 4) as u16;
        data[2..4].copy_from_slice(&n.to_be_bytes());
        limited(data, most)
    }

    /// READ TOC/PMA/ATIP: one session with one data track.
    pub(super) fn toc(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
        let sectors = self.sectors()?;
        let as_msf = cdb[1] & 2 != 0;
        let format = match cdb[2] & 0xf {
            // Where early drives had it.
            0 => cdb[9] >> 6,
            format => format,
        };
        let mut data = vec![0, 0, 1, 1];
        match format {
            0 => {
                if cdb[6] > 1 && cdb[6] != LEAD_OUT {
                    return Err(BAD_FIELD);
                }
                let entries = [(1, 0), (LEAD_OUT, sectors)];
                for (track, lba) in entries.into_iter().filter(|(track, _)| *track >= cdb[6]) {
                    data.extend([0, 0x14, track, 0]);
                    data.extend(address(lba, as_msf));
                }
            }
            1 => {
                data.extend([0, 0x14, 1, 0]);
                data.extend(address(0, as_msf));
            }
            2 => {
                let [_, m, s, f] = address(sectors, true);
                for (point, p) in [(0xa0, [1, 0, 0]), (0xa1, [1, 0, 0]), (0xa2, [m, s, f]), (1, [0, 2, 0])] {
                    data.extend([1, 0x14, 0, point, 0, 0, 0, 0]);
                    data.extend(p);
                }
            }
            _ => return Err(BAD_FIELD),
        }
        limited(counted(data), most)
    }

    fn is_dvd(&self) -> bool {
        self.sectors().is_ok_and(|n| n > CD_SECTORS)
    }

    /// GET CONFIGURATION: the profiles, and the features of a reading drive.
    pub(super) fn configuration(&self, cdb: &[u8; 12]) -> Vec<u8> {
        const DVD_ROM: u16 = 0x10;
        const CD_ROM: u16 = 0x08;
        let present = self.medium().is_ok();
        let profile = match (present, self.is_dvd()) {
            (false, _) => 0,
            (true, false) => CD_ROM,
            (true, true) => DVD_ROM,
        };
        let (kind, start) = (cdb[1] & 3, be16(&cdb[2..]));
        let mut data = vec![0; 6];
        data.extend(profile.to_be_bytes());
        let (cd, dvd) = (profile == CD_ROM, profile == DVD_ROM);
        let profiles = [0, DVD_ROM as u8, u8::from(dvd), 0, 0, CD_ROM as u8, u8::from(cd), 0];
        // Code, version/persistent/current, body.
        let features: [(u16, u8, &[u8]); 8] = [
            (0x0000, 0x03, &profiles),
            (0x0001, 0x0b, &[0, 0, 0, 2, 0, 0, 0, 0]),
            (0x0002, 0x07, &[2, 0, 0, 0]),
            // Removable medium: tray, ejects, locks.
            (0x0003, 0x03, &[0x29, 0, 0, 0]),
            (0x0010, u8::from(present), &[0, 0, 8, 0, 0, 1, 0, 0]),
            (0x001e, 0x08 | u8::from(cd), &[0, 0, 0, 0]),
            (0x001f, u8::from(dvd), &[]),
            (0x0100, 0x03, &[]),
        ];
        for (code, flags, body) in features {
            let wanted = match kind {
                0 => code >= start,
                1 => code >= start && flags & 1 != 0,
                _ => code == start,
            };
            if wanted {
                data.extend(code.to_be_bytes());
                data.extend([flags, body.len() as u8]);
                data.extend(body);
            }
        }
        let n = (data.len() - 4) as u32;
        data[..4].copy_from_slice(&n.to_be_bytes());
        data
    }

    /// GET EVENT STATUS NOTIFICATION, polled: media events.
    pub(super) fn event_status(&mut self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
        const MEDIA: u8 = 1 << 4;
        if cdb[1] & 1 == 0 {
            return Err(BAD_FIELD);
        }
        if cdb[4] & MEDIA == 0 {
            return limited(vec![0, 2, 0x80, MEDIA], most);
        }
        let present = u8::from(self.drive.medium().is_some()) << 1;
        let data = vec![0, 6, 4, MEDIA, self.state.event, present | u8::from(self.state.open), 0, 0];
        if most > 4 {
            self.state.event = 0;
        }
        limited(data, most)
    }

    /// READ DISC INFORMATION: a finished disc of one session and one track.
    pub(super) fn disc_information(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
        if cdb[1] & 7 != 0 {
            return Err(BAD_FIELD);
        }
        self.medium()?;
        let mut data = vec![0; 34];
        data[2] = 0x0e;
        data[3..7].fill(1);
        data[7] = 0x20;
        data[16..24].fill(0xff);
        limited(counted(data), most)
    }

    /// READ TRACK INFORMATION.
    pub(super) fn track_information(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
        let sectors = self.sectors()?;
        let n = be32(&cdb[2..]);
        let known = match cdb[1] & 3 {
            0 => n < sectors,
            1 | 2 => n == 1,
            _ => false,
        };
        if !known {
            return Err(BAD_FIELD);
        }
        let mut data = vec![0, 0, 1, 1, 0, 0x04, 0x41, 0];
        data.extend([0; 16]);
        data.extend(sectors.to_be_bytes());
        data.extend([0; 8]);
        limited(counted(data), most)
    }

    /// READ DISC STRUCTURE of a DVD: its physical format, and that it has no copyright protection.
    pub(super) fn disc_structure(&self, cdb: &[u8; 12]) -> Result<Reply, Sense> {
        let sectors = self.sectors()?;
        if !self.is_dvd() || cdb[6] != 0 {
            return Err(BAD_FIELD);
        }
        let mut data = vec![0; 4];
        match cdb[7] {
            0 => {
                const FIRST: u32 = 0x03_0000;
                // DVD-ROM, 120 mm at full speed, one embossed layer.
                data.extend([0x01, 0x0f, 0x01, 0]);
                data.extend(FIRST.to_be_bytes());
                data.extend((FIRST + sectors.saturating_sub(1)).to_be_bytes());
                data.resize(4 + SECTOR as usize, 0);
            }
            1 => data.extend([0; 4]),
            _ => return Err(BAD_FIELD),
        }
        limited(counted(data), be16(&cdb[8..]).into())
    }
}
