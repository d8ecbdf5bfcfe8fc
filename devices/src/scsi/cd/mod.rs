//! A CD-ROM or DVD-ROM drive by its command packets (MMC-5, SPC-3), whatever bus brings them.

mod information;
mod sectors;

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, Drive, SharedDisk};

use super::mode::{self, Head};
use super::{BAD_ADDRESS, BAD_COMMAND, BAD_FIELD, MEDIUM_CHANGED, NO_MEDIUM, NO_SENSE, REMOVAL_PREVENTED, Sense, TRAY_OPEN, be16, be32};
pub use sectors::Extent;
use sectors::part;

/// Bytes of user data in a sector.
pub const SECTOR: u64 = 2048;
/// More sectors than a CD can hold (90 minutes of 75 a second) make a DVD.
const CD_SECTORS: u32 = 90 * 60 * 75;
/// The most sectors that are told of; keeps sums of addresses in 32 bits.
const MAX_SECTORS: u64 = 0x7fff_ffff;
/// Sectors before the one numbered 0, in addresses of minute, second and frame.
const LEAD_IN: u32 = 150;
/// Most bytes of parameters that MODE SELECT takes.
const MAX_PARAMETERS: u16 = 1024;

/// What a packet comes to.
pub type Reply = super::Reply<Extent>;

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

/// Minute, second, frame of a sector.
fn msf(lba: u32) -> [u8; 3] {
    let n = lba + LEAD_IN;
    [(n / (60 * 75)).min(255) as u8, (n / 75 % 60) as u8, (n % 75) as u8]
}

fn from_msf(b: &[u8]) -> Option<u32> {
    ((u32::from(b[0]) * 60 + u32::from(b[1])) * 75 + u32::from(b[2])).checked_sub(LEAD_IN)
}

/// Address in the form asked for: the number, or 0, minute, second, frame.
fn address(lba: u32, as_msf: bool) -> [u8; 4] {
    let [m, s, f] = msf(lba);
    if as_msf { [0, m, s, f] } else { lba.to_be_bytes() }
}

fn limited(data: Vec<u8>, most: usize) -> Result<Reply, Sense> {
    Ok(Reply::limited(data, most))
}

/// The mode pages that there are.
const MODE_PAGES: [u8; 6] = [0x01, 0x0d, 0x0e, 0x1a, 0x1d, 0x2a];

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
        if self.drive.take_eject_request() {
            self.state.event = 1;
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
                limited(sense.bytes().to_vec(), cdb[4].into())
            }
            // INQUIRY.
            0x12 => Self::inquiry(cdb),
            // MODE SELECT (6) and (10).
            0x15 => Ok(Reply::Wants(cdb[4].into())),
            0x55 if be16(&cdb[7..]) > MAX_PARAMETERS => Err(BAD_FIELD),
            0x55 => Ok(Reply::Wants(be16(&cdb[7..]))),
            // MODE SENSE (6) and (10).
            0x1a => self.mode_sense(cdb, cdb[4].into()),
            0x5a => self.mode_sense(cdb, allocation),
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
        // CD-ROM, removable, SPC-3, response format 2 of an ATAPI device.
        let mut standard = vec![0x05, 0x80, 0x05, 0x32, 31, 0, 0, 0];
        standard.extend(b"SOFTMETACD-ROM          1.0 ");
        let pages = [(0x83, super::designation(b"SOFTMETACD-ROM drive    "))];
        limited(super::inquiry(cdb, 5, &standard, &pages)?, be16(&cdb[3..]).into())
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

    /// The values of a mode page.
    fn mode_page(&self, page: u8) -> Option<Vec<u8>> {
        Some(match page {
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
        })
    }

    fn mode_sense(&self, cdb: &[u8; 12], most: usize) -> Result<Reply, Sense> {
        // A data disc of 120 mm, or none.
        let medium = match self.medium() {
            Ok(_) => 0x01,
            Err(TRAY_OPEN) => 0x71,
            Err(_) => 0x70,
        };
        let head = Head { medium, specific: 0, blocks: Vec::new() };
        limited(mode::sense(cdb, &head, &MODE_PAGES, |page| self.mode_page(page))?, most)
    }

    /// Takes the parameters of MODE SELECT: pages that are there are accepted, and change nothing.
    ///
    /// # Errors
    /// [`Sense`] when they are malformed or of a page that is not there.
    pub fn parameters(&mut self, cdb: &[u8; 12], data: &[u8]) -> Result<(), Sense> {
        mode::select(cdb, data, |page| self.mode_page(page))
    }
}
