//! Why something could not be loaded.

use crate::detect::ImageKind;

/// A refusal to load: what is wrong and what to do about it, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Zero bytes.
    #[error("the {what} is empty (0 bytes); give a complete file")]
    Empty {
        /// `kernel`, `initrd`, ...
        what: &'static str,
    },
    /// Its bytes cannot be had.
    #[error("{why}")]
    Unreadable {
        /// The sentence.
        why: String,
    },
    /// The file ends before its own header says.
    #[error("the {what} is truncated: its header calls for {needed} bytes but the file has {has}; fetch it again")]
    Truncated {
        /// `kernel`, ...
        what: &'static str,
        /// Bytes that the header calls for.
        needed: u64,
        /// Bytes there are.
        has: u64,
    },
    /// The format's own rules are broken.
    #[error("the kernel is not a usable {format}: {why}; give another kernel")]
    Malformed {
        /// The format's name.
        format: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A Linux kernel older than 2.6.21.
    #[error(
        "the kernel speaks Linux boot protocol {}.{:02}, but 2.06 or later is needed; give a newer kernel",
        version >> 8,
        version & 0xff
    )]
    OldProtocol {
        /// The protocol, major in the high byte.
        version: u16,
    },
    /// A 64-bit kernel for a processor without long mode.
    #[error("the kernel is a 64-bit one, and the chosen processor has no 64-bit mode; give a 32-bit kernel or another --cpu")]
    NoLongMode,
    /// It does not fit in RAM.
    #[error(
        "the {what} needs {} MiB of memory but the guest has {} MiB; use --memory {0}M or more",
        needed.div_ceil(1 << 20),
        has >> 20
    )]
    TooLittleRam {
        /// `kernel`, `initrd`, ...
        what: &'static str,
        /// Total RAM in bytes that would do.
        needed: u64,
        /// RAM in bytes that there is.
        has: u64,
    },
    /// It must lie below 4 GiB (or below the kernel's own limit) and cannot.
    #[error("the {what} ({} MiB) does not fit below address {limit:#x}, where the kernel wants it; make it smaller", bytes.div_ceil(1 << 20))]
    TooLarge {
        /// `initrd`, ...
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The first address it must not reach.
        limit: u64,
    },
    /// It asks to be loaded where there is no RAM for it.
    #[error("the kernel wants {len} bytes at {address:#x}, which is not free RAM on this board; link it elsewhere, at 1 MiB for example")]
    NotRam {
        /// The physical address.
        address: u64,
        /// The length in bytes.
        len: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {len} bytes but this kernel takes {max}; shorten --append")]
    LongCommandLine {
        /// Its length in bytes.
        len: u64,
        /// The most that the kernel takes.
        max: u64,
    },
    /// A NUL byte within the command line.
    #[error("the command line contains a NUL character; remove it from --append")]
    NulInCommandLine,
    /// An ELF file that has no way in that we know.
    #[error(
        "the kernel is an ELF file with neither a PVH entry note nor a multiboot header; give a bzImage, or build Linux with CONFIG_PVH=y"
    )]
    NoEntryNote,
    /// This format takes no initrd.
    #[error("a boot sector takes no initrd or modules; leave out --initrd")]
    NoModules,
    /// Something, but not a kernel.
    #[error("it cannot be booted as a kernel: it is {}; {}", .0.name(), .0.advice())]
    NotAKernel(ImageKind),
}
