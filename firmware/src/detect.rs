//! What a file is, by content alone.

use crate::bytes::{array, u16_at, u32_at};
use crate::loaders::{bzimage, multiboot};

/// How much of a file [`detect`] wants to see, in bytes (less is fine if the file is shorter).
pub const HEAD_LEN: usize = 0x9000;

/// The kinds of files that can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A Linux kernel with the setup header.
    BzImage,
    /// An ELF file without a multiboot header; its PVH note is looked for on loading.
    ElfPvh,
    /// A kernel with a multiboot 1 header.
    Multiboot,
    /// A boot sector (and what follows) without a partition table or a file system.
    BootSector,
    /// A CD-ROM image.
    Iso9660,
    /// A QEMU copy-on-write disk.
    Qcow2,
    /// A VMware disk.
    Vmdk,
    /// A VirtualBox disk.
    Vdi,
    /// A Virtual PC disk.
    Vhd,
    /// A gzip stream.
    GzipKernel,
    /// A disk or floppy image with a partition table or a file system.
    RawDisk,
    /// None of these.
    Unknown,
}

impl ImageKind {
    /// The kind in words, as they follow "it is".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BzImage => "a Linux bzImage",
            Self::ElfPvh => "an ELF file",
            Self::Multiboot => "a multiboot kernel",
            Self::BootSector => "a boot sector",
            Self::Iso9660 => "a CD-ROM image",
            Self::Qcow2 => "a qcow2 disk image",
            Self::Vmdk => "a VMDK disk image",
            Self::Vdi => "a VDI disk image",
            Self::Vhd => "a VHD disk image",
            Self::GzipKernel => "a gzip-compressed file",
            Self::RawDisk => "a raw disk image",
            Self::Unknown => "of no known format",
        }
    }

    /// What to do with a file that is not of the kind that was asked for, a kernel.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Iso9660 => "give it with --cdrom",
            Self::Qcow2 | Self::Vmdk | Self::Vdi | Self::Vhd | Self::RawDisk => "give it with --disk",
            Self::GzipKernel => "decompress it with gunzip first",
            _ => "give a bzImage, an ELF kernel or a boot sector; a disk can be given with --disk",
        }
    }
}

/// What the file that begins with `head` is.
#[must_use]
pub fn detect(head: &[u8]) -> ImageKind {
    use ImageKind as K;
    if bzimage::is_bzimage(head) {
        return K::BzImage;
    }
    match head {
        [0x7F, b'E', b'L', b'F', ..] if multiboot::find_header(head).is_some() => {
            return K::Multiboot;
        }
        [0x7F, b'E', b'L', b'F', ..] => return K::ElfPvh,
        [b'Q', b'F', b'I', 0xFB, ..] => return K::Qcow2,
        [b'K', b'D', b'M', b'V', ..] | [b'C', b'O', b'W', b'D', ..] => return K::Vmdk,
        [0x1F, 0x8B, 8, ..] => return K::GzipKernel,
        _ if head.starts_with(b"# Disk DescriptorFile") => return K::Vmdk,
        _ if head.starts_with(b"conectix") || head.starts_with(b"vhdxfile") => return K::Vhd,
        _ if u32_at(head, 0x40) == Some(0xBEDA_107F) => return K::Vdi,
        _ if array(head, 0x8001) == Some(*b"CD001") => return K::Iso9660,
        _ => (),
    }
    let signed = u16_at(head, 510) == Some(0xAA55);
    if signed && (has_partitions(head) || has_fat(head)) || array(head, 512) == Some(*b"EFI PART") || has_ext(head) {
        K::RawDisk
    } else if multiboot::find_header(head).is_some() {
        K::Multiboot
    } else if signed {
        K::BootSector
    } else {
        K::Unknown
    }
}

/// Whether the four slots of an MBR are all sane and at least one is in use.
fn has_partitions(head: &[u8]) -> bool {
    let Some(table) = array::<64>(head, 446) else {
        return false;
    };
    let sane = |e: &[u8]| e[0] & 0x7F == 0 && (e[4] == 0 || u32_at(e, 12).is_some_and(|sectors| sectors > 0));
    table.chunks(16).all(sane) && table.chunks(16).any(|e| e[4] != 0)
}

/// Whether a FAT BIOS parameter block is there.
fn has_fat(head: &[u8]) -> bool {
    let jump = matches!(head, [0xEB, _, 0x90, ..] | [0xE9, ..]);
    jump && u16_at(head, 11).is_some_and(|size| matches!(size, 512 | 1024 | 2048 | 4096))
        && head.get(13).is_some_and(|n| n.is_power_of_two())
        && head.get(16).is_some_and(|n| matches!(n, 1 | 2))
        && head.get(21).is_some_and(|n| *n >= 0xF0)
}

/// Whether an ext2/3/4 superblock is there.
fn has_ext(head: &[u8]) -> bool {
    u16_at(head, 1024 + 0x38) == Some(0xEF53)
}
