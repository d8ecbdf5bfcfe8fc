//! A CD-ROM or DVD-ROM drive by its command packets (MMC-5, SPC-3), whatever bus brings them.

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, Drive, SharedDisk};

/// Bytes of user data in a sector.
pub const SECTOR: u64 = 2048;
/// Bytes of a whole sector as READ CD gives it.
const RAW: u16 = 2352;
/// More sectors than a CD can hold (90 minutes of 75 a second) make a DVD.
const CD_SECTORS: u32 = 90 * 60 * 75;
/// The most sectors that are told of; keeps sums of addresses in 32 bits.
const MAX_SECTORS: u64 = 0x7fff_ffff;
/// Sectors before the one numbered 0, in addresses of minute, second and frame.
const LEAD_IN: u32 = 150;
/// The lead-out's number in a table of contents.
const LEAD_OUT: u8 = 0xaa;
/// Most bytes of parameters that MODE SELECT takes.
const MAX_PARAMETERS: u16 = 1024;

/// Why a packet failed: sense key, additional sense code and its qualifier (SPC-3, 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Qualifier.
    pub ascq: u8,
}

impl Sense {
    const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq }
    }
}

const NO_SENSE: Sense = Sense::new(0, 0, 0);
const NO_MEDIUM: Sense = Sense::new(2, 0x3a, 1);
const TRAY_OPEN: Sense = Sense::new(2, 0x3a, 2);
const UNREADABLE: Sense = Sense::new(3, 0x11, 0);
const BAD_COMMAND: Sense = Sense::new(5, 0x20, 0);
const BAD_ADDRESS: Sense = Sense::new(5, 0x21, 0);
const BAD_FIELD: Sense = Sense::new(5, 0x24, 0);
const BAD_PARAMETER: Sense = Sense::new(5, 0x26, 0);
const NOT_SAVED: Sense = Sense::new(5, 0x39, 0);
const REMOVAL_PREVENTED: Sense = Sense::new(5, 0x53, 2);
const MEDIUM_CHANGED: Sense = Sense::new(6, 0x28, 0);

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
mod part {
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

/// What a packet comes to.
pub enum Reply {
    /// Done, no data.
    Nothing,
    /// These bytes.
    Data(Vec<u8>),
    /// These sectors.
    Read(Extent),
    /// So many bytes of parameters are wanted.
    Wants(u16),
}

/// The volatile state of a [`ScsiCd`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    sense: Sense,
    /// The drive's changes that the guest knows of.
    seen: u64,
    /// The guest is to be told that the medium has changed.
    changed: bool,
    /// The media event that waits (MMC-5, 6.7): 1 eject request, 2 new medium, 3 removal.
    event: u8,
    /// The guest opened the tray.
    open: bool,
    prevented: bool,
}

/// The drive.
pub struct ScsiCd {
    drive: Drive,
    state: State,
}

fn be16(b: &[u8]) -> u16 {
    u16::from_be_bytes([b[0], b[1]])
}

fn be32(b: &[u8]) -> u32 {
    u32::from_be_bytes([b[0], b[1], b[2], b[3]])
}

/// Minute, second, frame of a sector.
fn msf(lba: u32) -> [u8; 3] {
    let n = lba + LEAD_IN;
    [(n / (60 * 75)).min(255) as u8, (n / 75 % 60) as u8, (n % 75) as u8]
}

fn from_msf(b: &[u8]) -> Option<u32> {
    ((u32::from(b[0]) * 60 + u32::from(b[1])) * 75 + u32::from(b[2])).checked_sub(LEAD_IN)
}

fn bcd(n: u8) -> u8 {
    n / 10 % 10 * 16 + n % 10
}

/// Address in the form asked for: the number, or 0, minute, second, frame.
fn address(lba: u32, as_msf: bool) -> [u8; 4] {
    let [m, s, f] = msf(lba);
    if as_msf { [0, m, s, f] } else { lba.to_be_bytes() }
}

fn limited(mut data: Vec<u8>, most: usize) -> Result<Reply, Sense> {
    data.truncate(most);
    Ok(Reply::Data(data))
}

/// Puts the length of what follows it into the first two bytes.
fn counted(mut data: Vec<u8>) -> Vec<u8> {
    let n = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&n.to_be_bytes());
    data
}

impl ScsiCd {
    /// Around `drive`.
    #[must_use]
    pub fn new(drive: Drive) -> Self {
        let state = State { seen: drive.changes(), ..State::default() };
        Self { drive, state }
    }

    /// The volatile state, to save.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Puts saved state back.
    pub fn set_state(&mut self, state: State) {
        self.drive.set_locked(state.prevented);
        self.state = state;
    }

    /// Reset, at power-on or by the bus.
    pub fn reset(&mut self, power: bool) {
        let (changed, event, open) = (self.state.changed, self.state.event, self.state.open);
        self.set_state(State { seen: self.state.seen, ..State::default() });
        if power {
            self.state.seen = self.drive.changes();
        } else {
            (self.state.changed, self.state.event, self.state.open) = (changed, event, open);
        }
    }

    /// Notes why the last packet failed.
    pub fn set_sense(&mut self, sense: Sense) {
        self.state.sense = sense;
    }

    /// Looks whether somebody has changed the medium.
    fn look(&mut self) {
        let changes = self.drive.changes();
        if changes != self.state.seen {
            self.state.seen = changes;
            let present = self.drive.medium().is_some();
            self.state.event = if present { 2 } else { 3 };
            self.state.changed = present;
            self.state.open &= !present;
        }
    }

    fn medium(&self) -> Result<SharedDisk, Sense> {
        match self.drive.medium() {
            _ if self.state.open => Err(TRAY_OPEN),
            Some(medium) => Ok(medium),
            None => Err(NO_MEDIUM),
        }
    }

    /// Sectors of the medium.
    fn sectors(&self) -> Result<u32, Sense> {
        Ok(self.medium()?.size().div_ceil(SECTOR).min(MAX_SECTORS) as u32)
    }

    /// Carries out a packet.
    ///
    /// # Errors
    /// The [`Sense`] of what is wrong, which the caller also hands to [`ScsiCd::set_sense`].
    pub fn execute(&mut self, cdb: &[u8; 12]) -> Result<Reply, Sense> {
        self.look();
        let sense = std::mem::replace(&mut self.state.sense, NO_SENSE);
        let unconditional = matches!(cdb[0], 0x03 | 0x12 | 0x46 | 0x4a);
        if !unconditional && std::mem::take(&mut self.state.changed) {
            return Err(MEDIUM_CHANGED);
        }
        let allocation = usize::from(be16(&cdb[7..]));
        match cdb[0] {
            // TEST UNIT READY.
            0x00 => self.medium().map(|_| Reply::Nothing),
            // REQUEST SENSE.
            0x03 => {
                let sense = if sense == NO_SENSE && std::mem::take(&mut self.state.changed) { MEDIUM_CHANGED } else { sense };
                let mut data = vec![0; 18];
                data[0] = 0x70;
                data[2] = sense.key;
                data[7] = 10;
                (data[12], data[13]) = (sense.asc, sense.ascq);
                limited(data, cdb[4].into())
            }
            // INQUIRY.
            0x12 => Self::inquiry(cdb),
            // MODE SELECT (6) and (10).
            0x15 => Ok(Reply::Wants(cdb[4].into())),
            0x55 if be16(&cdb[7..]) > MAX_PARAMETERS => Err(BAD_FIELD),
            0x55 => Ok(Reply::Wants(be16(&cdb[7..]))),
            // MODE SENSE (6) and (10).
            0x1a => self.mode_sense(cdb, 4, cdb[4].into()),
            0x5a => self.mode_sense(cdb, 8, allocation),
            0x1b => self.start_stop(cdb[4]),
            // PREVENT ALLOW MEDIUM REMOVAL.
            0x1e => {
                self.state.prevented = cdb[4] & 1 != 0;
                self.drive.set_locked(self.state.prevented);
                Ok(Reply::Nothing)
            }
            // READ FORMAT CAPACITIES.
            0x23 => {
                let (count, kind) = self.sectors().map_or((0, 3), |n| (n, 2));
                let mut data = vec![0, 0, 0, 8];
                data.extend(count.to_be_bytes());
                data.extend((SECTOR as u32 | kind << 24).to_be_bytes());
                limited(data, allocation)
            }
            // READ CAPACITY.
            0x25 => {
                let mut data = self.sectors()?.saturating_sub(1).to_be_bytes().to_vec();
                data.extend((SECTOR as u32).to_be_bytes());
                Ok(Reply::Data(data))
            }
            0x28 => self.read_sectors(be32(&cdb[2..]), be16(&cdb[7..]).into(), part::USER),
            0xa8 => self.read_sectors(be32(&cdb[2..]), be32(&cdb[6..]), part::USER),
            // SEEK.
            0x2b => {
                if be32(&cdb[2..]) >= self.sectors()? {
                    Err(BAD_ADDRESS)
                } else {
                    Ok(Reply::Nothing)
                }
            }
            0x35 => self.medium().map(|_| Reply::Nothing),
            0x42 => self.sub_channel(cdb, allocation),
            0x43 => self.toc(cdb, allocation),
            // READ HEADER.
            0x44 => {
                let lba = be32(&cdb[2..]);
                if lba >= self.sectors()? {
                    return Err(BAD_ADDRESS);
                }
                let mut data = vec![1, 0, 0, 0];
                data.extend(address(lba, cdb[1] & 2 != 0));
                limited(data, allocation)
            }
            0x46 => limited(self.configuration(cdb), allocation),
            0x4a => self.event_status(cdb, allocation),
            // PAUSE/RESUME, STOP PLAY: nothing plays.
            0x4b | 0x4e => self.medium().map(|_| Reply::Nothing),
            0x51 => self.disc_information(cdb, allocation),
            0x52 => self.track_information(cdb, allocation),
            0xad => self.disc_structure(cdb),
            0xb9 => {
                let (from, to) = (from_msf(&cdb[3..]).ok_or(BAD_ADDRESS)?, from_msf(&cdb[6..]).ok_or(BAD_ADDRESS)?);
                let count = to.checked_sub(from).ok_or(BAD_FIELD)?;
                self.read_cd(from, count, cdb)
            }
            0xbe => self.read_cd(be32(&cdb[2..]), be32(&[0, cdb[6], cdb[7], cdb[8]]), cdb),
            // SET CD SPEED.
            0xbb => Ok(Reply::Nothing),
            // MECHANISM STATUS.
            0xbd => {
                let open = if self.state.open { 0x10 } else { 0 };
                limited(vec![0, open, 0, 0, 0, 0, 0, 0], be16(&cdb[8..]).into())
            }
            command => {
                log::debug!("cd: packet {command:#04x} is not supported");
                Err(BAD_COMMAND)
            }
        }
    }

    fn inquiry(cdb: &[u8; 12]) -> Result<Reply, Sense> {
        let most = usize::from(be16(&cdb[3..]));
        if cdb[1] & 1 != 0 {
            // Vital product data: the list of pages, and the device's designation.
            let page = match cdb[2] {
                0x00 => vec![5, 0x00, 0, 2, 0x00, 0x83],
                0x83 => {
                    let mut page = vec![5, 0x83, 0, 4 + 24, 2, 0, 0, 24];
                    page.extend(b"SOFTMETACD-ROM drive    ");
                    page
                }
                _ => return Err(BAD_FIELD),
            };
            return limited(page, most);
        }
        if cdb[2] != 0 {
            return Err(BAD_FIELD);
        }
        // CD-ROM, removable, SPC-3, response format 2 of an ATAPI device.
        let mut data = vec![0x05, 0x80, 0x05, 0x32, 31, 0, 0, 0];
        data.extend(b"SOFTMETACD-ROM          1.0 ");
        limited(data, most)
    }

    fn start_stop(&mut self, how: u8) -> Result<Reply, Sense> {
        match how & 3 {
            2 if self.state.prevented => return Err(REMOVAL_PREVENTED),
            // Eject.
            2 => {
                self.drive.eject();
                self.state.seen = self.drive.changes();
                if !self.state.open {
                    self.state.event = 3;
                }
                self.state.open = true;
            }
            // Load.
            3 if std::mem::take(&mut self.state.open) && self.drive.medium().is_some() => {
                self.state.event = 2;
                self.state.changed = true;
            }
            _ => {}
        }
        Ok(Reply::Nothing)
    }

    /// One mode page: current, changeable (nothing is) or default values.
    fn mode_page(&self, page: u8, changeable: bool) -> Option<Vec<u8>> {
        let mut data = match page {
            // Read error recovery.
            0x01 => vec![0x01, 10, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
            // CD device parameters.
            0x0d => vec![0x0d, 6, 0, 0, 0, 60, 0, 75],
            // Audio control.
            0x0e => vec![0x0e, 14, 4, 0, 0, 0, 0, 75, 1, 0xff, 2, 0xff, 0, 0, 0, 0],
            // Power condition, timeout and protect.
            0x1a => vec![0x1a, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            0x1d => vec![0x1d, 8, 0, 0, 0, 0, 0, 0, 0, 0],
            // Capabilities and mechanical status: reads CD-R, CD-RW, DVD-ROM; mode 2, multisession, raw; tray, locks,
            // ejects; 40 times the speed of a CD player (176 kB/s).
            0x2a => {
                let lock = if self.state.prevented { 0x02 } else { 0 };
                let [h, l] = 7040u16.to_be_bytes();
                let mut page = vec![0x2a, 20, 0x0b, 0, 0x70, 0x02, 0x29 | lock, 0, h, l, 0, 2, 2, 0, h, l, 0, 0, 0, 0];
                page.extend([0, 0]);
                page
            }
            _ => return None,
        };
        if changeable {
            data[2..].fill(0);
        }
        Some(data)
    }

    fn mode_sense(&self, cdb: &[u8; 12], header: usize, most: usize) -> Result<Reply, Sense> {
        let (control, page) = (cdb[2] >> 6, cdb[2] & 0x3f);
        if control == 3 {
            return Err(NOT_SAVED);
        }
        let mut data = vec![0; header];
        let pages: &[u8] = if page == 0x3f { &[0x01, 0x0d, 0x0e, 0x1a, 0x1d, 0x2a] } else { &[page] };
        for &page in pages {
            data.extend(self.mode_page(page, control == 1).ok_or(BAD_FIELD)?);
        }
        // Medium type: a data disc of 120 mm, or none.
        let kind = match self.medium() {
            Ok(_) => 0x01,
            Err(TRAY_OPEN) => 0x71,
            Err(_) => 0x70,
        };
        if header == 4 {
            (data[0], data[1]) = ((data.len() - 1) as u8, kind);
        } else {
            data = counted(data);
            data[2] = kind;
        }
        limited(data, most)
    }

    /// Takes the parameters of MODE SELECT: pages that are there are accepted, and change nothing.
    ///
    /// # Errors
    /// [`Sense`] when they are malformed or of a page that is not there.
    pub fn parameters(&mut self, cdb: &[u8; 12], data: &[u8]) -> Result<(), Sense> {
        let (header, blocks) = if cdb[0] == 0x15 {
            (4, data.get(3).copied().unwrap_or(0).into())
        } else {
            (8, data.get(6..8).map_or(0, |b| usize::from(be16(b))))
        };
        let mut rest = data.get(header + blocks..).unwrap_or(&[]);
        while let [page, len, ..] = *rest {
            let whole = 2 + usize::from(len);
            let known = self.mode_page(page & 0x3f, false).ok_or(BAD_PARAMETER)?;
            if known.len() != whole || rest.len() < whole {
                return Err(BAD_PARAMETER);
            }
            rest = &rest[whole..];
        }
        Ok(())
    }

    fn read_sectors(&self, lba: u32, count: u32, parts: u8) -> Result<Reply, Sense> {
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
        Ok(Reply::Read(Extent { lba, count, size, parts, done: 0 }))
    }

    /// READ CD and READ CD MSF.
    fn read_cd(&self, lba: u32, count: u32, cdb: &[u8; 12]) -> Result<Reply, Sense> {
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

    fn sub_channel(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
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
    fn toc(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
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
    fn configuration(&self, cdb: &[u8; 12]) -> Vec<u8> {
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
    fn event_status(&mut self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
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
    fn disc_information(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
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
    fn track_information(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
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
    fn disc_structure(&self, cdb: &[u8; 12]) -> Result<Reply, Sense> {
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

/// Reads the medium; past its end, in a last sector that the image cuts short, there are zeros.
fn read_medium(medium: &mut SharedDisk, at: u64, buf: &mut [u8]) -> Result<(), Sense> {
    let have = (medium.size().saturating_sub(at)).min(buf.len() as u64) as usize;
    medium.read_at(at, &mut buf[..have]).map_err(|e| {
        super::tell("read", at, &e);
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
