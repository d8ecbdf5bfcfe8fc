//! SCSI targets by their command packets, whatever bus brings them (SPC-3).
//!
//! | module | what it holds |
//! |---|---|
//! | here | why a packet failed, and the forms of answers |
//! | `mode` | mode pages |
//! | [`cd`] | a CD-ROM or DVD-ROM drive |
//! | [`disk`] | a disk |

pub mod cd;
pub mod disk;
mod mode;

use serde::{Deserialize, Serialize};

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

pub(crate) const NO_SENSE: Sense = Sense::new(0, 0, 0);
pub(crate) const NO_MEDIUM: Sense = Sense::new(2, 0x3a, 1);
pub(crate) const TRAY_OPEN: Sense = Sense::new(2, 0x3a, 2);
pub(crate) const UNREADABLE: Sense = Sense::new(3, 0x11, 0);
pub(crate) const BAD_COMMAND: Sense = Sense::new(5, 0x20, 0);
pub(crate) const BAD_ADDRESS: Sense = Sense::new(5, 0x21, 0);
pub(crate) const BAD_FIELD: Sense = Sense::new(5, 0x24, 0);
pub(crate) const UNWRITABLE: Sense = Sense::new(3, 0x0c, 0);
pub(crate) const BAD_LUN: Sense = Sense::new(5, 0x25, 0);
pub(crate) const BAD_PARAMETER: Sense = Sense::new(5, 0x26, 0);
pub(crate) const NOT_SAVED: Sense = Sense::new(5, 0x39, 0);
pub(crate) const REMOVAL_PREVENTED: Sense = Sense::new(5, 0x53, 2);
pub(crate) const WRITE_PROTECTED: Sense = Sense::new(7, 0x27, 0);
pub(crate) const MEDIUM_CHANGED: Sense = Sense::new(6, 0x28, 0);

impl Sense {
    /// In the fixed format (SPC-3, 4.5.3).
    #[must_use]
    pub fn bytes(self) -> [u8; 18] {
        let mut data = [0; 18];
        data[0] = 0x70;
        data[2] = self.key;
        data[7] = 10;
        (data[12], data[13]) = (self.asc, self.ascq);
        data
    }
}

/// What a packet comes to; `T` is what is to be read or written.
pub enum Reply<T> {
    /// Done, no data.
    Nothing,
    /// These bytes.
    Data(Vec<u8>),
    /// Data of the medium.
    Transfer(T),
    /// So many bytes of parameters are wanted.
    Wants(u16),
}

impl<T> Reply<T> {
    /// The first `most` of these bytes.
    fn limited(mut data: Vec<u8>, most: usize) -> Self {
        data.truncate(most);
        Self::Data(data)
    }
}

/// The answer to INQUIRY of a device of type `kind`: the standard data, or a page of vital product data.
fn inquiry(cdb: &[u8], kind: u8, standard: &[u8], pages: &[(u8, Vec<u8>)]) -> Result<Vec<u8>, Sense> {
    if cdb[1] & 1 == 0 {
        return if cdb[2] == 0 { Ok(standard.to_vec()) } else { Err(BAD_FIELD) };
    }
    let list = || std::iter::once(0).chain(pages.iter().map(|(code, _)| *code)).collect();
    let body = match cdb[2] {
        0 => Some(list()),
        code => pages.iter().find(|(page, _)| *page == code).map(|(_, body)| body.clone()),
    };
    let body: Vec<u8> = body.ok_or(BAD_FIELD)?;
    let [h, l] = (body.len() as u16).to_be_bytes();
    Ok([&[kind, cdb[2], h, l], &body[..]].concat())
}

/// A designation by the manufacturer's text (SPC-3, 7.6.4): ASCII, of the logical unit.
fn designation(text: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, text.len() as u8], text].concat()
}

fn be16(b: &[u8]) -> u16 {
    u16::from_be_bytes([b[0], b[1]])
}

fn be32(b: &[u8]) -> u32 {
    u32::from_be_bytes([b[0], b[1], b[2], b[3]])
}

fn be64(b: &[u8]) -> u64 {
    u64::from(be32(b)) << 32 | u64::from(be32(&b[4..]))
}

/// Puts the length of what follows it into the first two bytes.
fn counted(mut data: Vec<u8>) -> Vec<u8> {
    let n = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&n.to_be_bytes());
    data
}
