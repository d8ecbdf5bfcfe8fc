//! What the entries are.

use super::{CatalogError, Result};

/// The file names that an entry's files have in the cache.
pub const KERNEL: &str = "vmlinuz";
/// Of the initramfs.
pub const INITRD: &str = "initrd.gz";
/// Of a disk image.
pub const DISK: &str = "disk.img";
/// Of an ISO 9660 image.
pub const CDROM: &str = "cd.iso";

/// What an entry is made of.
pub struct Recipe {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    /// Raised when the recipe changes, so that what an older version built is built anew.
    pub version: u32,
    /// About how much is fetched.
    pub download_mib: u32,
    /// The RAM that it needs, if that is more than the usual.
    pub memory_mib: Option<u32>,
    /// How it is booted.
    pub boots: Boots,
    /// How it is made.
    pub made: Made,
}

/// How an entry is booted, and so which files it has.
pub enum Boots {
    /// As a kernel, directly.
    Linux {
        /// Its command line.
        cmdline: &'static str,
    },
    /// From a disk.
    Disk,
    /// From a CD-ROM.
    Cdrom,
}

/// How an entry is made.
pub enum Made {
    /// A kernel's packages and a busybox.
    Busybox {
        /// The packages that stand for the newest kernel; the first that the distribution has is taken.
        kernels: &'static [&'static str],
        /// The distribution's name of the architecture.
        architecture: &'static str,
    },
    /// Files of a package as they are.
    Package {
        /// The first that the distribution has is taken.
        packages: &'static [&'static str],
        /// For each file its name in the cache, and how its path in the package ends.
        files: &'static [(&'static str, &'static str)],
    },
    /// A whole system.
    Debian,
}

impl Recipe {
    /// The files that it has in the cache.
    pub fn files(&self) -> &'static [&'static str] {
        match self.boots {
            Boots::Linux { .. } => &[KERNEL, INITRD],
            Boots::Disk => &[DISK],
            Boots::Cdrom => &[CDROM],
        }
    }
}

/// The architecture of all but the 32-bit entries.
pub const AMD64: &str = "amd64";

/// All entries.
pub const RECIPES: [Recipe; 7] = [
    Recipe {
        name: "busybox",
        description: "the distribution's kernel for virtual machines and a busybox shell",
        version: 6,
        download_mib: 30,
        memory_mib: None,
        boots: Boots::Linux { cmdline: "console=ttyS0" },
        made: Made::Busybox { kernels: &["linux-image-cloud-amd64", "linux-image-virtual"], architecture: AMD64 },
    },
    Recipe {
        name: "busybox-full",
        description: "the distribution's full kernel and a busybox shell",
        version: 8,
        download_mib: 70,
        memory_mib: None,
        boots: Boots::Linux { cmdline: "console=ttyS0" },
        made: Made::Busybox { kernels: &["linux-image-amd64", "linux-image-generic"], architecture: AMD64 },
    },
    Recipe {
        name: "busybox-i386",
        description: "a 32-bit kernel with PAE and a busybox shell, where the distribution still has one",
        version: 1,
        download_mib: 60,
        memory_mib: None,
        boots: Boots::Linux { cmdline: "console=ttyS0" },
        made: Made::Busybox { kernels: &["linux-image-686-pae"], architecture: "i386" },
    },
    Recipe {
        name: "debian",
        description: "a whole Debian with systemd on a 4 GiB disk, made on this host; root needs no password",
        version: 1,
        download_mib: 180,
        memory_mib: Some(1024),
        boots: Boots::Disk,
        made: Made::Debian,
    },
    Recipe {
        name: "debian-installer",
        description: "Debian's installer in text mode, which installs over the network",
        version: 1,
        download_mib: 130,
        memory_mib: Some(1024),
        boots: Boots::Linux { cmdline: "console=ttyS0" },
        made: Made::Package {
            packages: &[
                "debian-installer-14-netboot-amd64",
                "debian-installer-13-netboot-amd64",
                "debian-installer-12-netboot-amd64",
                "debian-installer-11-netboot-amd64",
            ],
            files: &[(KERNEL, "amd64/text/debian-installer/amd64/linux"), (INITRD, "amd64/text/debian-installer/amd64/initrd.gz")],
        },
    },
    Recipe {
        name: "memtest",
        description: "Memtest86+, which tests the memory",
        version: 1,
        download_mib: 1,
        memory_mib: None,
        boots: Boots::Cdrom,
        made: Made::Package { packages: &["memtest86+"], files: &[(CDROM, "/memtest86+x64.iso")] },
    },
    Recipe {
        name: "ipxe",
        description: "iPXE, a boot loader for networks with a shell (Ctrl-B)",
        version: 1,
        download_mib: 2,
        memory_mib: None,
        boots: Boots::Cdrom,
        made: Made::Package { packages: &["ipxe"], files: &[(CDROM, "/ipxe.iso")] },
    },
];

/// The recipe of this name.
pub fn recipe(name: &str) -> Result<&'static Recipe> {
    static ALL: &[Recipe] = &RECIPES;
    let known = || RECIPES.map(|r| r.name).join(", ");
    ALL.iter().find(|r| r.name == name).ok_or_else(|| CatalogError::Unknown { name: name.into(), known: known() })
}
