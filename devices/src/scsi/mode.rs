//! Mode pages (SPC-3, 7.4): MODE SENSE and MODE SELECT, each of (6) and (10).

use super::{BAD_FIELD, BAD_PARAMETER, NOT_SAVED, Sense, be16, counted};

/// MODE SELECT (6) and MODE SENSE (6), whose headers are short.
pub(super) const SELECT_6: u8 = 0x15;
pub(super) const SENSE_6: u8 = 0x1a;
/// The page code that means all.
const ALL: u8 = 0x3f;

/// What a device says at the head of its pages.
pub(super) struct Head {
    /// Medium type.
    pub medium: u8,
    /// The device-specific parameter.
    pub specific: u8,
    /// The block descriptor, if there is one.
    pub blocks: Vec<u8>,
}

/// The answer to MODE SENSE: of the `pages` that there are, what is asked for. `page` gives one with its values, all of
/// which are fixed.
pub(super) fn sense(cdb: &[u8], head: &Head, pages: &[u8], page: impl Fn(u8) -> Option<Vec<u8>>) -> Result<Vec<u8>, Sense> {
    let (control, asked) = (cdb[2] >> 6, cdb[2] & 0x3f);
    if control == 3 {
        return Err(NOT_SAVED);
    }
    let blocks = if cdb[1] & 8 == 0 { &head.blocks[..] } else { &[] };
    let short = cdb[0] == SENSE_6;
    let mut data = vec![0; if short { 4 } else { 8 }];
    data.extend(blocks);
    for &code in if asked == ALL { pages } else { std::slice::from_ref(&asked) } {
        let mut page = page(code).ok_or(BAD_FIELD)?;
        if control == 1 {
            page[2..].fill(0);
        }
        data.extend(page);
    }
    if short {
        let len = (data.len() - 1) as u8;
        data[..4].copy_from_slice(&[len, head.medium, head.specific, blocks.len() as u8]);
    } else {
        data = counted(data);
        (data[2], data[3], data[7]) = (head.medium, head.specific, blocks.len() as u8);
    }
    Ok(data)
}

/// Looks at the parameters of MODE SELECT: pages that are there are accepted, and change nothing.
///
/// # Errors
/// [`Sense`] when they are malformed or of a page that is not there.
pub(super) fn select(cdb: &[u8], data: &[u8], page: impl Fn(u8) -> Option<Vec<u8>>) -> Result<(), Sense> {
    let (header, blocks) = if cdb[0] == SELECT_6 {
        (4, data.get(3).copied().unwrap_or(0).into())
    } else {
        (8, data.get(6..8).map_or(0, |b| usize::from(be16(b))))
    };
    let mut rest = data.get(header + blocks..).unwrap_or(&[]);
    while let [code, len, ..] = *rest {
        let whole = 2 + usize::from(len);
        let known = page(code & 0x3f).ok_or(BAD_PARAMETER)?;
        if known.len() != whole || rest.len() < whole {
            return Err(BAD_PARAMETER);
        }
        rest = &rest[whole..];
    }
    Ok(())
}
