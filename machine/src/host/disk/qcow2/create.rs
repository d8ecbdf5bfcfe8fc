//! New qcow2 images.

use std::io;

use super::header::{Backing, MAGIC, V3_LEN};
use super::write::extensions;
use crate::host::disk::file::ImageFile;

/// Bytes of a header with the compression method, which follows version 3's own.
const HEADER_LEN: usize = V3_LEN + 8;
/// Refcounts of 16 bits.
const REFCOUNT_ORDER: u32 = 4;

/// What a new image is to be.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Of the disk, in bytes.
    pub size: u64,
    /// A cluster is of 2^this bytes: 9 to 21.
    pub cluster_bits: u32,
    /// The file below.
    pub backing: Option<Backing>,
}

/// Makes `file`, which is empty, a qcow2 image of version 3 in which nothing is allocated.
///
/// # Errors
/// The host's, or a size or name that does not fit.
pub fn create(file: &mut ImageFile, layout: &Layout) -> io::Result<()> {
    let cluster = 1u64 << layout.cluster_bits;
    let l1_entries = layout.size.div_ceil(cluster).div_ceil(cluster / 8);
    if l1_entries * 8 > super::header::MAX_L1 {
        return Err(io::Error::other("a qcow2 image with such clusters cannot be that large; choose larger clusters"));
    }
    let l1 = (l1_entries * 8).div_ceil(cluster).max(1);
    let per_block = (cluster * 8) >> REFCOUNT_ORDER;
    let (mut table, mut blocks) = (1, 1);
    while 1 + table + blocks + l1 > blocks * per_block || blocks * 8 > table * cluster {
        blocks += 1;
        table = (blocks * 8).div_ceil(cluster);
    }
    let used = 1 + table + blocks + l1;

    let name = layout.backing.as_ref().map_or("", |b| b.name.as_str());
    let extensions = extensions(layout.backing.as_ref().and_then(|b| b.format.as_deref()));
    let name_at = if name.is_empty() { 0 } else { (HEADER_LEN + extensions.len()) as u64 };
    if name.len() > 1023 || name_at + name.len() as u64 > cluster {
        return Err(io::Error::other("the name of the backing file is too long; give a shorter path"));
    }
    let mut h = Vec::with_capacity(cluster as usize);
    let (be32, be64) = (u32::to_be_bytes, u64::to_be_bytes);
    h.extend([be32(MAGIC), be32(3)].concat());
    h.extend([&be64(name_at)[..], &be32(name.len() as u32), &be32(layout.cluster_bits), &be64(layout.size), &be32(0)].concat());
    h.extend([&be32(l1_entries as u32)[..], &be64((1 + table + blocks) * cluster)].concat());
    h.extend([&be64(cluster)[..], &be32(table as u32), &be32(0), &be64(0)].concat());
    h.extend([be64(0), be64(0), be64(0)].concat());
    h.extend([be32(REFCOUNT_ORDER), be32(HEADER_LEN as u32), [0; 4], [0; 4]].concat());
    h.extend(extensions);
    h.extend(name.as_bytes());

    file.set_len(used * cluster)?;
    file.write(0, &h)?;
    let pointers: Vec<u8> = (0..blocks).flat_map(|n| ((1 + table + n) * cluster).to_be_bytes()).collect();
    file.write(cluster, &pointers)?;
    let ones: Vec<u8> = (0..used).flat_map(|_| 1u16.to_be_bytes()).collect();
    file.write((1 + table) * cluster, &ones)?;
    file.sync()
}
