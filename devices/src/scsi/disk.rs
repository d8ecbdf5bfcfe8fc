//! A disk by its command packets (SBC-3, SPC-3).

use softmetal_bus::{BlockBackend, BlockError, SharedDisk};

use super::mode::{self, Head};
use super::{BAD_ADDRESS, BAD_COMMAND, BAD_FIELD, BAD_PARAMETER, NO_SENSE, Sense, UNREADABLE, UNWRITABLE, WRITE_PROTECTED};
use super::{be16, be32, be64};

/// Bytes of a block.
pub const BLOCK: u64 = 512;
/// Most blocks that one command moves, discards or writes the same: bounds the time that it takes.
const MAX_BLOCKS: u32 = 1 << 16;
/// Most ranges of UNMAP.
const MAX_RANGES: u32 = 64;
/// Bytes of its list's head, and of a range.
const UNMAP_HEAD: usize = 8;
const RANGE: usize = 16;
/// What a range to discard should be aligned to, in blocks: the usual cluster of an image.
const DISCARD_ALIGNMENT: u32 = 128;
/// Most bytes of parameters that MODE SELECT takes.
const MAX_PARAMETERS: u16 = 1024;

/// What is to be done with the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read `len` bytes from byte `at`.
    Read {
        /// The first byte.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// Write `len` bytes from byte `at`; durably, if `durable` (FUA).
    Write {
        /// The first byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// It ends when the data is durable.
        durable: bool,
    },
    /// Make durable what was written.
    Flush,
}

/// What a packet comes to.
pub type Reply = super::Reply<Access>;

/// The disk. It has no state of its own.
pub struct ScsiDisk {
    disk: SharedDisk,
    serial: String,
}

/// The mode pages that there are.
const MODE_PAGES: [u8; 2] = [0x08, 0x0a];

fn mode_page(page: u8) -> Option<Vec<u8>> {
    Some(match page {
        // Caching: writes are cached.
        0x08 => [&[0x08, 18, 0x04][..], &[0; 17]].concat(),
        // Control.
        0x0a => [&[0x0a, 10][..], &[0; 10]].concat(),
        _ => return None,
    })
}

/// The sense of a read that failed.
pub fn unreadable(error: &BlockError) -> Sense {
    failure(error, UNREADABLE)
}

/// The sense of a write or a flush that failed.
pub fn unwritable(error: &BlockError) -> Sense {
    failure(error, UNWRITABLE)
}

fn failure(error: &BlockError, otherwise: Sense) -> Sense {
    log::debug!("scsi: {error}");
    match error {
        BlockError::OutOfRange => BAD_ADDRESS,
        BlockError::ReadOnly => WRITE_PROTECTED,
        BlockError::Host(_) => otherwise,
    }
}

impl ScsiDisk {
    /// Around `disk`; of `serial` the first 20 bytes count.
    #[must_use]
    pub fn new(disk: SharedDisk, serial: String) -> Self {
        Self { disk, serial: serial.chars().take(20).collect() }
    }

    /// The disk's bytes.
    pub fn backend(&mut self) -> &mut SharedDisk {
        &mut self.disk
    }

    fn blocks(&self) -> u64 {
        self.disk.size() / BLOCK
    }

    /// Carries out a packet.
    ///
    /// # Errors
    /// The [`Sense`] of what is wrong.
    pub fn execute(&mut self, cdb: &[u8; 16]) -> Result<Reply, Sense> {
        let limited = |data: Vec<u8>, most: u32| Ok(Reply::limited(data, most as usize));
        // FUA of the longer forms.
        let durable = cdb[1] & 8 != 0;
        let six = |cdb: &[u8; 16]| (u64::from(be32(cdb) & 0x1f_ffff), if cdb[4] == 0 { 256 } else { cdb[4].into() });
        let ten = |cdb: &[u8; 16]| (be32(&cdb[2..]).into(), u32::from(be16(&cdb[7..])));
        let twelve = |cdb: &[u8; 16]| (be32(&cdb[2..]).into(), be32(&cdb[6..]));
        let sixteen = |cdb: &[u8; 16]| (be64(&cdb[2..]), be32(&cdb[10..]));
        match cdb[0] {
            // TEST UNIT READY; START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL have nothing to do.
            0x00 | 0x1b | 0x1e => Ok(Reply::Nothing),
            // REQUEST SENSE: each command's sense has gone with it.
            0x03 => limited(NO_SENSE.bytes().to_vec(), cdb[4].into()),
            0x08 => self.read(six(cdb)),
            0x28 => self.read(ten(cdb)),
            0xa8 => self.read(twelve(cdb)),
            0x88 => self.read(sixteen(cdb)),
            0x0a => self.write(six(cdb), false),
            0x2a => self.write(ten(cdb), durable),
            0xaa => self.write(twelve(cdb), durable),
            0x8a => self.write(sixteen(cdb), durable),
            // VERIFY: of the medium by itself.
            0x2f | 0xaf | 0x8f if cdb[1] & 6 != 0 => Err(BAD_FIELD),
            0x2f => self.range(ten(cdb)).map(|_| Reply::Nothing),
            0xaf => self.range(twelve(cdb)).map(|_| Reply::Nothing),
            0x8f => self.range(sixteen(cdb)).map(|_| Reply::Nothing),
            // SYNCHRONIZE CACHE.
            0x35 | 0x91 => Ok(Reply::Transfer(Access::Flush)),
            0x12 => limited(self.inquiry(cdb)?, be16(&cdb[3..]).into()),
            0x15 => Ok(Reply::Wants(cdb[4].into())),
            0x55 if be16(&cdb[7..]) > MAX_PARAMETERS => Err(BAD_FIELD),
            0x55 => Ok(Reply::Wants(be16(&cdb[7..]))),
            mode::SENSE_6 => limited(self.mode_sense(cdb)?, cdb[4].into()),
            0x5a => limited(self.mode_sense(cdb)?, be16(&cdb[7..]).into()),
            // READ CAPACITY: what does not fit is all ones, and means the long form.
            0x25 => {
                let last = u32::try_from(self.blocks().saturating_sub(1)).unwrap_or(!0);
                Ok(Reply::Data([last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat()))
            }
            0x9e if cdb[1] & 0x1f == 0x10 => {
                let mut data = vec![0; 32];
                data[..8].copy_from_slice(&self.blocks().saturating_sub(1).to_be_bytes());
                data[8..12].copy_from_slice(&(BLOCK as u32).to_be_bytes());
                // Blocks can be given back.
                data[14] = if self.disk.read_only() { 0 } else { 0x80 };
                limited(data, be32(&cdb[10..]))
            }
            // UNMAP, WRITE SAME.
            0x42 | 0x41 | 0x93 if self.disk.read_only() => Err(WRITE_PROTECTED),
            0x42 if usize::from(be16(&cdb[7..])) > UNMAP_HEAD + RANGE * MAX_RANGES as usize => Err(BAD_FIELD),
            0x42 => Ok(Reply::Wants(be16(&cdb[7..]))),
            0x41 => self.write_same(ten(cdb), false),
            0x93 => self.write_same(sixteen(cdb), cdb[1] & 1 != 0),
            command => {
                log::debug!("scsi: packet {command:#04x} is not supported");
                Err(BAD_COMMAND)
            }
        }
    }

    /// The bytes of a range of blocks: where, how many.
    fn range(&self, (block, count): (u64, u32)) -> Result<(u64, u64), Sense> {
        if block.checked_add(count.into()).is_none_or(|end| end > self.blocks()) {
            return Err(BAD_ADDRESS);
        }
        if count > MAX_BLOCKS { Err(BAD_FIELD) } else { Ok((block * BLOCK, u64::from(count) * BLOCK)) }
    }

    fn read(&self, blocks: (u64, u32)) -> Result<Reply, Sense> {
        let (at, len) = self.range(blocks)?;
        Ok(if len == 0 { Reply::Nothing } else { Reply::Transfer(Access::Read { at, len }) })
    }

    fn write(&self, blocks: (u64, u32), durable: bool) -> Result<Reply, Sense> {
        if self.disk.read_only() {
            return Err(WRITE_PROTECTED);
        }
        let (at, len) = self.range(blocks)?;
        Ok(if len == 0 { Reply::Nothing } else { Reply::Transfer(Access::Write { at, len, durable }) })
    }

    /// WRITE SAME: zeros if it has no data (NDOB), else of the block that comes as its parameters.
    fn write_same(&mut self, blocks: (u64, u32), no_data: bool) -> Result<Reply, Sense> {
        let (at, len) = self.range(blocks)?;
        if len == 0 {
            return Err(BAD_FIELD);
        }
        if !no_data {
            return Ok(Reply::Wants(BLOCK as u16));
        }
        self.disk.write_zeroes(at, len).map_err(|e| unwritable(&e))?;
        Ok(Reply::Nothing)
    }

    fn inquiry(&self, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
        // A disk, SPC-3, response format 2, commands in order.
        let mut standard = vec![0x00, 0x00, 0x05, 0x02, 31, 0, 0, 0x02];
        standard.extend(b"SOFTMETADisk            1.0 ");
        let mut limits = vec![0; 60];
        for (at, value) in [
            (4, MAX_BLOCKS),
            (8, MAX_BLOCKS / 64),
            (16, MAX_BLOCKS),
            (20, MAX_RANGES),
            (24, DISCARD_ALIGNMENT),
            // Most blocks of WRITE SAME, the low half of 64 bits.
            (36, MAX_BLOCKS),
        ] {
            limits[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        // A count of no blocks is refused by WRITE SAME.
        limits[0] = 1;
        // It does not turn.
        let mut medium = vec![0; 60];
        medium[1] = 1;
        // Thin: UNMAP gives blocks back; what they read as then is not said.
        let provisioning = if self.disk.read_only() { vec![0; 4] } else { vec![0, 0x80, 2, 0] };
        let pages = [
            (0x80, self.serial.clone().into_bytes()),
            (0x83, super::designation(format!("SOFTMETA{}", self.serial).as_bytes())),
            (0xb0, limits),
            (0xb1, medium),
            (0xb2, provisioning),
        ];
        super::inquiry(cdb, 0, &standard, &pages)
    }

    fn mode_sense(&self, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
        let blocks = u32::try_from(self.blocks()).unwrap_or(!0).to_be_bytes();
        let head = Head {
            medium: 0,
            // Write-protected; FUA is known.
            specific: if self.disk.read_only() { 0x90 } else { 0x10 },
            blocks: [blocks, (BLOCK as u32).to_be_bytes()].concat(),
        };
        mode::sense(cdb, &head, &MODE_PAGES, mode_page)
    }

    /// Takes the parameters that [`Reply::Wants`] asked for.
    ///
    /// # Errors
    /// [`Sense`] when they are malformed, or of what could not be done.
    pub fn parameters(&mut self, cdb: &[u8; 16], data: &[u8]) -> Result<(), Sense> {
        match cdb[0] {
            0x42 => self.unmap(data),
            0x41 | 0x93 => {
                let block: [u8; BLOCK as usize] = data.try_into().map_err(|_| BAD_PARAMETER)?;
                let count = if cdb[0] == 0x41 { be16(&cdb[7..]).into() } else { be32(&cdb[10..]) };
                let first = if cdb[0] == 0x41 { be32(&cdb[2..]).into() } else { be64(&cdb[2..]) };
                let (at, len) = self.range((first, count))?;
                let result = if block == [0; BLOCK as usize] {
                    self.disk.write_zeroes(at, len)
                } else {
                    let chunk = block.repeat((len.min(1 << 20) / BLOCK) as usize);
                    (0..len)
                        .step_by(chunk.len())
                        .try_for_each(|done| self.disk.write_at(at + done, &chunk[..chunk.len().min((len - done) as usize)]))
                };
                result.map_err(|e| unwritable(&e))
            }
            _ => mode::select(cdb, data, mode_page),
        }
    }

    /// UNMAP: all ranges are looked at before the first is given back.
    fn unmap(&mut self, data: &[u8]) -> Result<(), Sense> {
        let Some((head, rest)) = data.split_at_checked(UNMAP_HEAD) else { return Ok(()) };
        let len = usize::from(be16(&head[2..])).min(rest.len());
        let ranges = rest[..len].chunks_exact(RANGE).map(|r| (be64(r), be32(&r[8..])));
        let ranges = ranges.map(|range| self.range(range)).collect::<Result<Vec<_>, _>>()?;
        for (at, len) in ranges.into_iter().filter(|(_, len)| *len > 0) {
            self.disk.discard(at, len).map_err(|e| unwritable(&e))?;
        }
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`Sense`] when the host cannot.
    pub fn flush(&mut self) -> Result<(), Sense> {
        self.disk.flush().map_err(|e| unwritable(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cdb(bytes: &[u8]) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        cdb
    }

    fn data(reply: Result<Reply, Sense>) -> Vec<u8> {
        match reply {
            Ok(Reply::Data(data)) => data,
            Ok(_) => panic!("no data"),
            Err(e) => panic!("{e:?}"),
        }
    }

    #[test]
    fn what_it_says_of_itself() {
        let mut disk = ScsiDisk::new(SharedDisk::new(vec![0; 1 << 20]), "a serial".into());
        assert_eq!(data(disk.execute(&cdb(&[0x25]))), [0, 0, 7, 0xff, 0, 0, 2, 0]);
        assert_eq!(data(disk.execute(&cdb(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12])))[..9], [0, 0, 0, 0, 0, 0, 7, 0xff, 0]);
        assert_eq!(data(disk.execute(&cdb(&[0x12, 0, 0, 0, 36])))[..8], [0, 0, 5, 2, 31, 0, 0, 2]);
        assert_eq!(data(disk.execute(&cdb(&[0x12, 1, 0, 0, 36]))), [0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
        assert_eq!(data(disk.execute(&cdb(&[0x12, 1, 0x80, 0, 255])))[..7], [0, 0x80, 0, 8, b'a', b' ', b's']);
        for page in [0x83, 0xb0, 0xb1, 0xb2] {
            let page = data(disk.execute(&cdb(&[0x12, 1, page, 0, 255])));
            assert_eq!(usize::from(page[3]), page.len() - 4);
        }
        let sense = data(disk.execute(&cdb(&[0x1a, 0, 0x3f, 0, 255])));
        assert_eq!((sense[0] as usize, sense[3], sense.len()), (sense.len() - 1, 8, 4 + 8 + 20 + 12));
        assert_eq!(data(disk.execute(&cdb(&[0x5a, 8, 0x08, 0, 0, 0, 0, 0, 255])))[..11], [0, 26, 0, 0x10, 0, 0, 0, 0, 8, 18, 4]);
        for bad in [&[0x12, 0, 1, 0, 36][..], &[0x12, 1, 0x99, 0, 36], &[0x1a, 0, 0x07, 0, 255]] {
            assert!(matches!(disk.execute(&cdb(bad)), Err(BAD_FIELD)), "{bad:x?}");
        }
        assert!(matches!(disk.execute(&cdb(&[0x04])), Err(BAD_COMMAND)));
    }

    #[test]
    fn where_it_reads_and_writes() {
        let mut disk = ScsiDisk::new(SharedDisk::new(vec![7; 1 << 20]), String::new());
        let access = |disk: &mut ScsiDisk, bytes: &[u8]| match disk.execute(&cdb(bytes)) {
            Ok(Reply::Transfer(access)) => Ok(access),
            Ok(_) => panic!("no transfer"),
            Err(e) => Err(e),
        };
        assert_eq!(access(&mut disk, &[0x08, 0, 1, 2, 0]), Ok(Access::Read { at: 0x102 * 512, len: 256 * 512 }));
        assert_eq!(access(&mut disk, &[0x28, 0, 0, 0, 7, 0xff, 0, 0, 1]), Ok(Access::Read { at: 0x7ff * 512, len: 512 }));
        assert_eq!(access(&mut disk, &[0x28, 0, 0, 0, 7, 0xff, 0, 0, 2]), Err(BAD_ADDRESS));
        assert_eq!(access(&mut disk, &[0x2a, 8, 0, 0, 0, 1, 0, 0, 2]), Ok(Access::Write { at: 512, len: 1024, durable: true }));
        let far = [0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1];
        assert_eq!(access(&mut disk, &far), Err(BAD_ADDRESS));
        assert_eq!(access(&mut disk, &[0x35]), Ok(Access::Flush));
        // The same block again and again, then zeros.
        let same = cdb(&[0x41, 0, 0, 0, 0, 2, 0, 0, 3]);
        assert!(matches!(disk.execute(&same), Ok(Reply::Wants(512))));
        disk.parameters(&same, &[9; 512]).unwrap();
        let none = cdb(&[0x93, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]);
        assert!(matches!(disk.execute(&none), Ok(Reply::Nothing)));
        let mut bytes = [0; 6 * 512];
        disk.backend().read_at(0, &mut bytes).unwrap();
        assert_eq!([0, 1, 2, 3, 4, 5].map(|n| bytes[n * 512]), [7, 7, 9, 0, 9, 7]);
        // A list whose second range is past the end does nothing.
        let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
        list.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        list.extend([0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(disk.parameters(&cdb(&[0x42]), &list), Err(BAD_ADDRESS));
        assert_eq!(disk.parameters(&cdb(&[0x42]), &list[..24]), Ok(()));
        assert_eq!(disk.parameters(&cdb(&[0x42]), &list[..3]), Ok(()));
        assert_eq!(disk.parameters(&cdb(&[0x41]), &list), Err(BAD_PARAMETER));
    }
}
