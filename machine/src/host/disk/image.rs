//! What all image formats have in common.

use softmetal_bus::{BlockBackend, BlockError, Run};

use super::file::ImageFile;

/// A format of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
    /// VMware.
    Vmdk,
    /// VirtualBox.
    Vdi,
    /// Virtual PC.
    Vhd,
    /// Hyper-V.
    Vhdx,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 6] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vdi, Self::Vhd, Self::Vhdx];

    /// The name, as options and JSON have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
        }
    }

    /// The format of that name; VHD is called `vhd` and `vpc`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let name = if name == "vhd" { "vpc" } else { name };
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Whether images of this format can be written.
    #[must_use]
    pub fn writable(self) -> bool {
        matches!(self, Self::Raw | Self::Qcow2)
    }

    /// The format that the beginning of a file names; `Raw` if none.
    #[must_use]
    pub fn of_head(head: &[u8]) -> Self {
        match head {
            [b'Q', b'F', b'I', 0xFB, ..] => Self::Qcow2,
            [b'K', b'D', b'M', b'V', ..] | [b'C', b'O', b'W', b'D', ..] => Self::Vmdk,
            _ if head.starts_with(b"# Disk DescriptorFile") => Self::Vmdk,
            _ if head.starts_with(b"conectix") => Self::Vhd,
            _ if head.starts_with(b"vhdxfile") => Self::Vhdx,
            _ if head.get(0x40..0x44) == Some(&0xBEDA_107F_u32.to_le_bytes()) => Self::Vdi,
            _ => Self::Raw,
        }
    }

    /// The name of the format that the beginning of a file names, if it is one that does not work here: as a raw disk its
    /// contents would be nonsense to the guest.
    #[must_use]
    pub fn foreign(head: &[u8]) -> Option<&'static str> {
        let all: [(&[u8], _); 4] = [
            (b"QED\0", "QED"),
            (b"WithoutFreeSpace", "Parallels"),
            (b"WithouFreSpacExt", "Parallels"),
            (b"Bochs Virtual HD Image", "Bochs"),
        ];
        all.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| name)
    }

    /// The format of a file, by its contents alone.
    ///
    /// # Errors
    /// The host's.
    pub fn detect(file: &ImageFile) -> std::io::Result<Self> {
        let mut head = [0; 512];
        file.read(0, &mut head)?;
        match Self::of_head(&head) {
            // A VHD of fixed size has only a footer.
            Self::Raw if super::vhd::has_fixed_footer(file)? => Ok(Self::Vhd),
            format => Ok(format),
        }
    }
}

/// A piece of a disk that is alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// It reads as zeros and takes no room.
    pub zero: bool,
}

/// An open disk image.
pub trait Image: BlockBackend {
    /// Its format.
    fn format(&self) -> Format;
    /// What is at `offset`, which lies on the disk; backing files are looked through.
    ///
    /// # Errors
    /// [`BlockError::Host`] when the host fails or the image is damaged.
    fn extent(&mut self, offset: u64) -> Result<Extent, BlockError>;
    /// The file that names it.
    fn file(&self) -> &ImageFile;
    /// The unit in which it takes room, in bytes; `None` if its room is all there.
    fn cluster_size(&self) -> Option<u64> {
        None
    }
    /// A handle to its file, if that holds the disk's bytes in their places, so that a flush is nothing but an fsync of it.
    fn handle(&self) -> Option<std::fs::File> {
        None
    }
    /// Bytes that its own files take on the host.
    fn allocated(&self) -> u64 {
        self.file().allocated()
    }
    /// Bytes of memory that its own tables always take, those of backing files excluded.
    fn table_bytes(&self) -> u64 {
        0
    }
    /// Another size in bytes; what is beyond a smaller one is lost.
    ///
    /// # Errors
    /// [`BlockError`] when the host fails or the format cannot do it.
    fn resize(&mut self, _size: u64) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }
}

/// Bytes of `runs` in all.
pub fn total(runs: &[Run]) -> u64 {
    runs.iter().fold(0, |sum, run| sum.saturating_add(run.len as u64))
}

/// The pieces of an access, each within one unit of `unit` bytes: (unit, offset in it, range of the buffer).
pub fn pieces(unit: u64, offset: u64, len: usize) -> impl Iterator<Item = (u64, u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= len {
            return None;
        }
        let at = offset + done as u64;
        let within = at % unit;
        let n = ((unit - within).min((len - done) as u64)) as usize;
        done += n;
        Some((at / unit, within, done - n..done))
    })
}

/// Little-endian and big-endian numbers at fixed places of a header; the caller has checked its length.
pub mod bytes {
    /// `N` bytes at `at`.
    pub fn array<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
        b[at..at + N].try_into().expect("a range of N bytes")
    }
    /// Big-endian, 16 bits.
    pub fn be16(b: &[u8], at: usize) -> u16 {
        u16::from_be_bytes(array(b, at))
    }
    /// Big-endian, 32 bits.
    pub fn be32(b: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(array(b, at))
    }
    /// Big-endian, 64 bits.
    pub fn be64(b: &[u8], at: usize) -> u64 {
        u64::from_be_bytes(array(b, at))
    }
    /// Little-endian, 32 bits.
    pub fn le32(b: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(array(b, at))
    }
    /// Little-endian, 64 bits.
    pub fn le64(b: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(array(b, at))
    }
}
