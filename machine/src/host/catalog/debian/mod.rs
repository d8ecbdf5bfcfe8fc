//! A whole Debian with systemd on a disk that BIOS and UEFI start: bootstrapped by mmdebstrap from the host's own package
//! sources, put on an ext4 file system by mke2fs. Neither needs root rights.
//!
//! The disk has an MBR: GRUB's core image behind it, an EFI system partition (number 2), the root file system (number 1).

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CatalogError, Result, at, fat, read, recipes};

/// The size of the disk in bytes; it is sparse, so what is free costs nothing.
const DISK: u64 = 4 << 30;
const SECTOR: u64 = 512;
/// Where the partitions begin, in sectors.
const ESP_START: u32 = 2048;
const ROOT_START: u32 = 32768;

/// Makes the initramfs small, before a kernel is installed.
const INITRAMFS: &str = include_str!("initramfs.sh");
/// Configures the new system and has it make GRUB's images.
const CONFIGURE: &str = include_str!("configure.sh");

/// What makes it more than a minimal system: it boots, is on the network, and can be looked at and extended.
const PACKAGES: &str = "systemd-sysv,udev,dbus,kmod,iproute2,ifupdown,isc-dhcp-client,iputils-ping,netbase,login,e2fsprogs,fdisk,\
     pciutils,procps,less,curl,ca-certificates,openssh-server,python3-minimal,zstd,initramfs-tools,linux-image-amd64,grub2-common,\
     grub-pc-bin,grub-efi-amd64-bin";

/// What it is made with, each with its package.
const TOOLS: [(&str, &str); 3] = [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("debugfs", "e2fsprogs")];

/// The features of ext4 that every GRUB since 2.04 reads.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
     huge_file,dir_nlink,extra_isize,metadata_csum";

/// Builds the disk image in `work`; the packages that it holds.
pub fn build(work: &Path, progress: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
    let missing: Vec<&str> = TOOLS.iter().filter(|(tool, _)| find(tool).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        let mut packages = missing;
        packages.dedup();
        return Err(CatalogError::Tools { name: "debian", packages: packages.join(" ") });
    }
    let sources = Sources::of_host()?;
    let root = work.join("root");
    fs::create_dir_all(&root).map_err(at(&root))?;
    progress(&format!("making a Debian {} disk: this takes some minutes", sources.suite));
    let owners = bootstrap(&sources, &root, progress)?;

    progress("making the disk image");
    let disk = work.join(recipes::DISK);
    let file = File::create_new(&disk).map_err(at(&disk))?;
    let written = file.set_len(DISK).and_then(|()| {
        for (offset, bytes) in boot_sectors(&root)? {
            file.write_all_at(&bytes, offset)?;
        }
        Ok(())
    });
    written.map_err(at(&disk))?;
    file_system(&disk, &root, &owners, work)?;
    file.sync_all().map_err(at(&disk))?;
    packages(&root)
}

/// The program `name`, also where only root usually looks for it.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|folder| folder.join(name)).find(|p| p.is_file())
}

/// Runs a tool to its end; its complaint is the error.
fn run(tool: &str, args: &[&OsStr]) -> Result<()> {
    let failed = |detail: String| CatalogError::Tool { tool: tool.into(), detail };
    let program = find(tool).ok_or_else(|| failed("it is not installed".into()))?;
    let output = Command::new(program).args(args).env("LC_ALL", "C").stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    log::debug!("{tool}: {}\n{errors}", output.status);
    if !output.status.success() {
        return Err(failed(errors.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it gave no reason").to_string()));
    }
    Ok(())
}

/// Where packages come from.
struct Sources {
    /// The release's code name.
    suite: String,
    /// Lines as in `sources.list`.
    lines: Vec<String>,
}

impl Sources {
    /// Those of the host, which must be a Debian: the release it runs and its updates, nothing of others.
    fn of_host() -> Result<Self> {
        let apt = |detail: &str| CatalogError::Apt { what: "a Debian system".into(), detail: detail.into() };
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let value = |key: &str| {
            let line = release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
            line.map(|v| v.trim_matches('"').to_string()).unwrap_or_default()
        };
        let suite = value("VERSION_CODENAME");
        if value("ID") != "debian" || suite.is_empty() {
            return Err(CatalogError::NotDebian);
        }
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", "$(CREATED_BY) $(ARCHITECTURE) $(SITE) $(RELEASE) $(COMPONENT)"])
            .stdin(Stdio::null())
            .output()
            .map_err(|_| CatalogError::NoPackageManager("debian".into()))?;
        let lines = source_lines(&String::from_utf8_lossy(&output.stdout), &suite);
        if lines.is_empty() {
            return Err(apt(&format!("the sources of packages have none for {suite}")));
        }
        Ok(Self { suite, lines })
    }
}

/// Lines for `sources.list` from what apt says of its package lists: those of `suite` and its updates.
fn source_lines(targets: &str, suite: &str) -> Vec<String> {
    const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let mut lines: Vec<String> = Vec::new();
    for target in targets.lines() {
        let [kind, _, site, release, component] = target.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        let ours = release.strip_prefix(suite).is_some_and(|rest| matches!(rest, "" | "-updates" | "-security" | "/updates"));
        let line = format!("deb [signed-by={KEYRING}] {site} {release} {component}");
        if kind == "Packages" && ours && component == "main" && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// What files of the new system the host's user cannot own, by path.
type Owners = Vec<(String, u64, u64)>;

/// Installs the system and unpacks it into `root`.
fn bootstrap(sources: &Sources, root: &Path, progress: &mut dyn FnMut(&str)) -> Result<Owners> {
    let failed = |detail: String| CatalogError::Tool { tool: "mmdebstrap".into(), detail };
    let mut command = Command::new(find("mmdebstrap").unwrap_or_default());
    command
        .args(["--variant=minbase", "--architectures=amd64", "--format=tar", "--skip=cleanup/reproducible"])
        .arg(format!("--include={PACKAGES}"))
        .arg(format!("--essential-hook={INITRAMFS}"))
        .arg(format!("--customize-hook={CONFIGURE}"))
        .args([&sources.suite, "-"])
        .args(&sources.lines)
        // The cache folder may be closed to the users that mmdebstrap works as.
        .current_dir("/")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut complaint = None;
    let unpacked = std::thread::scope(|scope| {
        let unpacking = scope.spawn(|| stdout.map(|tar| unpack(tar, root)));
        // Progress bars are lines that end in a carriage return.
        let mut lines = BufReader::new(stderr.into_iter().fold(Box::new(std::io::empty()) as Box<dyn Read>, |_, s| Box::new(s)));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            log::debug!("mmdebstrap: {text}");
            if let Some(step) = text.strip_prefix("I: ").and_then(step) {
                progress(step);
            } else if let Some(error) = text.strip_prefix("E: ") {
                // The first one is the cause.
                complaint.get_or_insert_with(|| error.to_string());
            }
            line.clear();
        }
        unpacking.join()
    });
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    if !status.success() {
        return Err(failed(complaint.unwrap_or_else(|| "it gave no reason".into())));
    }
    match unpacked {
        Ok(Some(owners)) => owners.map_err(at(root)),
        _ => Err(failed("its output could not be unpacked".into())),
    }
}

/// What to tell of a line in mmdebstrap's log.
fn step(line: &str) -> Option<&'static str> {
    const STEPS: [(&str, &str); 6] = [
        ("running apt-get update", "fetching the package lists"),
        ("downloading packages", "downloading the packages of a minimal system"),
        ("extracting archives", "unpacking them"),
        ("installing remaining packages", "downloading and installing the kernel, systemd and the others"),
        ("running --customize-hook", "configuring"),
        ("creating tarball", "unpacking the system"),
    ];
    STEPS.iter().find(|(start, _)| line.starts_with(start)).map(|(_, told)| *told)
}

/// Unpacks the archive into `root`: all but devices, which the new system makes itself.
fn unpack(tar: impl Read, root: &Path) -> std::io::Result<Owners> {
    let me = fs::metadata(root).map(|m| (u64::from(m.uid()), u64::from(m.gid())))?;
    let mut owners = Vec::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_character_special() || kind.is_block_special() || kind.is_fifo() {
            continue;
        }
        entry.set_preserve_permissions(true);
        entry.set_preserve_mtime(true);
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").trim_end_matches('/').to_string();
        let owner = (entry.header().uid()?, entry.header().gid()?);
        entry.unpack_in(root)?;
        if owner != me && !kind.is_hard_link() && !matches!(&path[..], "" | ".") {
            owners.push((format!("/{path}"), owner.0, owner.1));
        }
    }
    Ok(owners)
}

/// What stands outside the root file system, by offset: MBR, GRUB's core image, EFI system partition.
fn boot_sectors(root: &Path) -> std::io::Result<Vec<(u64, Vec<u8>)>> {
    let too_large = |what: &str| std::io::Error::other(format!("{what} does not fit where it belongs"));
    let mut mbr = fs::read(root.join("usr/lib/grub/i386-pc/boot.img"))?;
    mbr.resize(SECTOR as usize, 0);
    let total = (DISK / SECTOR) as u32;
    let root_partition = partition(0x80, 0x83, ROOT_START, total - ROOT_START);
    let esp = partition(0, 0xef, ESP_START, ROOT_START - ESP_START);
    mbr[0x1b8..0x1be].copy_from_slice(b"softm\0");
    mbr[0x1be..0x1de].copy_from_slice(&[root_partition, esp].concat());
    mbr[0x1de..0x1fe].fill(0);
    mbr[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
    let core = fs::read(root.join("boot/grub/i386-pc/core.img"))?;
    if core.len() as u64 > u64::from(ESP_START - 1) * SECTOR {
        return Err(too_large("GRUB's core image"));
    }
    let efi = fs::read(root.join("boot/grub/x86_64-efi/core.efi"))?;
    let esp = fat::image(ROOT_START - ESP_START, ESP_START, &[("EFI/BOOT/BOOTX64.EFI", &efi)]).ok_or_else(|| too_large("GRUB for UEFI"))?;
    Ok(vec![(0, mbr), (SECTOR, core), (u64::from(ESP_START) * SECTOR, esp)])
}

/// An entry of the partition table; cylinders, heads and sectors say "see the LBA".
fn partition(active: u8, kind: u8, start: u32, sectors: u32) -> [u8; 16] {
    let mut entry = [active, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    entry
}

/// Makes the root file system from `root`, with the right owners.
fn file_system(disk: &Path, root: &Path, owners: &Owners, work: &Path) -> Result<()> {
    let offset = u64::from(ROOT_START) * SECTOR;
    let blocks = ((DISK - offset) / 4096).to_string();
    // The tables are written now, so that no guest spends its first minutes on them.
    let extended = format!("offset={offset},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard");
    let args = ["-q", "-F", "-t", "ext4", "-b", "4096", "-N", "131072", "-L", "root", "-O", FEATURES, "-E", &extended, "-d"];
    let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    args.extend([root.as_os_str(), disk.as_os_str(), OsStr::new(&blocks)]);
    run("mke2fs", &args)?;

    let mut script = String::new();
    for (path, uid, gid) in owners {
        let path = path.replace('"', "\"\"");
        let _ = writeln!(script, "set_inode_field \"{path}\" uid {uid}\nset_inode_field \"{path}\" gid {gid}");
    }
    let commands = work.join("owners");
    fs::write(&commands, script).map_err(at(&commands))?;
    let mut device = disk.as_os_str().to_os_string();
    device.push(format!("?offset={offset}"));
    run("debugfs", &[OsStr::new("-w"), OsStr::new("-f"), commands.as_os_str(), &device])
}

/// The names and versions of the packages of the system below `root`.
fn packages(root: &Path) -> Result<Vec<String>> {
    let status = String::from_utf8_lossy(&read(&root.join("var/lib/dpkg/status"))?).into_owned();
    let field = |section: &str, name: &str| section.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().to_string();
    Ok(status
        .split("\n\n")
        .filter(|s| !s.trim().is_empty())
        .map(|s| format!("{} {}", field(s.trim_start(), "Package: "), field(s, "Version: ")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_the_release_only() {
        let targets = "Packages amd64 http://a/debian stable main\nPackages amd64 http://a/debian stable-updates main\n\
                       Packages i386 http://a/debian stable main\nTranslations amd64 http://a/debian stable main\n\
                       Packages amd64 http://a/debian stable-backports main\nPackages amd64 http://b other main\n\
                       Packages amd64 http://a/debian stable contrib\nPackages amd64 http://s stable-security main\n";
        let lines = source_lines(targets, "stable");
        let short: Vec<&str> = lines.iter().map(|l| l.split_once("] ").unwrap().1).collect();
        assert_eq!(short, ["http://a/debian stable main", "http://a/debian stable-updates main", "http://s stable-security main"]);
    }

    #[test]
    fn the_boot_sectors_lead_to_grub_and_the_partitions() {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("usr/lib/grub/i386-pc/boot.img", vec![0x90; 512]),
            ("boot/grub/i386-pc/core.img", vec![7; 1000]),
            ("boot/grub/x86_64-efi/core.efi", b"MZ".to_vec()),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let parts = boot_sectors(folder.path()).unwrap();
        let mbr = &parts[0].1;
        assert!(mbr.len() == 512 && mbr[..0x1b8].iter().all(|b| *b == 0x90) && mbr[510..] == [0x55, 0xaa]);
        assert_eq!((mbr[0x1be], mbr[0x1c2], mbr[0x1d2]), (0x80, 0x83, 0xef));
        assert_eq!((parts[1].0, parts[2].0), (512, 1 << 20));
        assert_eq!(parts[2].1.len(), (16 << 20) - (1 << 20));
        fs::write(folder.path().join("boot/grub/i386-pc/core.img"), vec![7; 1 << 20]).unwrap();
        assert!(boot_sectors(folder.path()).is_err());
    }

    #[test]
    fn archives_unpack_without_devices_and_tell_owners() {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, uid) in [
            ("./etc/shadow", tar::EntryType::Regular, 12_345),
            ("./dev/null", tar::EntryType::Char, 0),
            ("./home", tar::EntryType::Directory, 54_321),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(uid);
            header.set_gid(42);
            header.set_size(0);
            header.set_cksum();
            builder.append_data(&mut header, path, &[][..]).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let owners = unpack(&builder.into_inner().unwrap()[..], folder.path()).unwrap();
        assert_eq!(owners, [("/etc/shadow".into(), 12_345, 42), ("/home".into(), 54_321, 42)]);
        assert!(folder.path().join("etc/shadow").is_file() && !folder.path().join("dev/null").exists());
    }
}
