//! Firmware of others on the board: its ROM or flash in guest memory, where it answers, and what fw_cfg tells it.

use std::ops::Range;
use std::sync::Arc;

use softmetal_bus::{Backing, BlockBackend, DeviceId, GuestMemory, Region, SharedDisk};
use softmetal_devices::flash::{BLOCK, Flash};
use softmetal_devices::fw_cfg::{FwCfg, key};
use softmetal_devices::vga::VIDEO_MEMORY;
use softmetal_devices::virtio::LUNS;
use softmetal_firmware::{Chipset, E820Kind, Layout, acpi, smbios};

use super::chips::id;
use super::storage::{AHCI_PLACES, CD_ORDER, IDE_PLACES, cd_interface};
use super::{BootDevice, Interface, Plugs};

/// What runs first.
#[derive(Clone, Debug, Default)]
pub enum Firmware {
    /// The built-in firmware: the board is set up, and the loaders put the kernel into memory.
    #[default]
    Builtin,
    /// A ROM below 4 GiB whose last 128 KiB also answer below 1 MiB; the board is as at power-on.
    Rom(Vec<u8>),
    /// Code in a ROM below 4 GiB, and below it a flash chip with variables; the board is as at power-on.
    Flash {
        /// The code.
        code: Vec<u8>,
        /// The variables as they are at power-on.
        vars: Vec<u8>,
        /// The chip takes commands in system management mode alone, so that no other code can change the variables.
        guarded: bool,
    },
}

/// The most bytes of code, and of variables.
const MOST: usize = 8 << 20;

impl Firmware {
    /// The board is left as at power-on for it.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        !matches!(self, Self::Builtin)
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Builtin => (&[], &[]),
            Self::Rom(code) => (code, &[]),
            Self::Flash { code, vars, .. } => (code, vars),
        }
    }

    /// Whether its parts have sizes that a board can take.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    pub fn check(&self) -> Result<(), String> {
        if !self.is_foreign() {
            return Ok(());
        }
        let (code, vars) = self.parts();
        let fits = |bytes: &[u8]| bytes.len() <= MOST && bytes.len() % BLOCK as usize == 0;
        if code.len() < ALIAS_LEAST as usize || !fits(code) {
            return Err(format!("the firmware has {} bytes, but a PC's has 64 KiB to 8 MiB, in whole 4-KiB blocks", code.len()));
        }
        if !fits(vars) {
            return Err(format!("the firmware's variables have {} bytes, but flash has whole 4-KiB blocks, at most 8 MiB", vars.len()));
        }
        Ok(())
    }
}

/// The least firmware: what answers at 0xF0000.
const ALIAS_LEAST: u64 = 64 << 10;
/// The most of it that answers below 1 MiB.
const ALIAS_MOST: u64 = 128 << 10;
const FOUR_GIB: u64 = 1 << 32;
const MIB: u64 = 1 << 20;
const KIB_16: u64 = 16 << 10;

/// Where in guest memory what is: RAM, video memory, firmware, variables, the display adapter's option ROM.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Video memory.
    pub video: Range<u64>,
    /// The firmware's code.
    pub code: Range<u64>,
    /// The firmware's variables.
    pub vars: Range<u64>,
    /// The option ROM: a power of two.
    pub vga_rom: Range<u64>,
}

impl Parts {
    /// The parts of a board.
    #[must_use]
    pub fn new(layout: &Layout, plugs: &Plugs, firmware: &Firmware) -> Self {
        let mut at = layout.ram_bytes();
        let mut place = |len: u64| {
            let start = at;
            at += len.next_multiple_of(4096);
            start..start + len
        };
        let (code, vars) = firmware.parts();
        let option = if plugs.vga_rom.is_empty() { 0 } else { (plugs.vga_rom.len() as u64).next_power_of_two().max(4096) };
        Self {
            video: place(if plugs.vga { VIDEO_MEMORY } else { 0 }),
            code: place(code.len() as u64),
            vars: place(vars.len() as u64),
            vga_rom: place(if plugs.vga { option } else { 0 }),
        }
    }

    /// Bytes of guest memory that a board needs.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.vga_rom.end
    }

    /// Puts firmware and option ROM into guest memory.
    pub(super) fn load(&self, memory: &GuestMemory, firmware: &Firmware, option: &[u8]) {
        let (code, vars) = firmware.parts();
        for (range, bytes) in [(&self.code, code), (&self.vars, vars), (&self.vga_rom, option)] {
            if !range.is_empty() && memory.write(range.start, bytes).is_err() {
                log::error!("the guest's memory has no room for its firmware");
            }
        }
    }

    /// The flash chip with the variables.
    pub(super) fn flash(&self, store: Option<SharedDisk>) -> Flash {
        let store = store.map(|store| Box::new(store) as Box<dyn BlockBackend>);
        Flash::new(self.vars.start, self.vars.end - self.vars.start, store)
    }

    /// The firmware and the variables below 4 GiB.
    pub(super) fn high_regions(&self, flash: &Flash, priority: u8) -> Vec<Region> {
        let (code, vars) = (self.code.end - self.code.start, flash.len());
        let device: (DeviceId, u8) = (id::FLASH, 0);
        let backing = flash.array().map_or(Backing::Device(device.0, device.1), |at| Backing::Flash(at, device.0, device.1));
        vec![
            Region { start: FOUR_GIB - code, len: code, priority, backing: Backing::Rom(self.code.start) },
            Region { start: FOUR_GIB - code - vars, len: vars, priority, backing },
        ]
    }

    /// RAM, or the firmware's alias, from 0xC0000 to 0xFFFFF, as the host bridge's PAM registers say. Bit 0 of a nibble opens
    /// RAM to loads, bit 1 to stores; a range that is open to stores alone stays closed.
    pub(super) fn low_regions(&self, pam: [u8; 7], priority: u8) -> Vec<Region> {
        let code = self.code.end - self.code.start;
        let alias = code.min(ALIAS_MOST);
        let mut regions = vec![Region {
            start: MIB - alias,
            len: alias,
            // RAM in front of it wins.
            priority: priority - 1,
            backing: Backing::Rom(self.code.end - alias),
        }];
        let segments = (0..12).map(|n| (0xc_0000 + n * KIB_16, KIB_16, pam[1 + n as usize / 2] >> (4 * (n & 1))));
        for (start, len, bits) in segments.chain([(0xf_0000, 0x1_0000, pam[0] >> 4)]) {
            let backing = match bits & 3 {
                3 => Backing::Ram(start),
                1 => Backing::Rom(start),
                _ => continue,
            };
            match regions.last_mut() {
                Some(last) if last.priority == priority && last.start + last.len == start && same_kind(last.backing, backing) => {
                    last.len += len
                }
                _ => regions.push(Region { start, len, priority, backing }),
            }
        }
        regions
    }
}

fn same_kind(a: Backing, b: Backing) -> bool {
    matches!((a, b), (Backing::Ram(_), Backing::Ram(_)) | (Backing::Rom(_), Backing::Rom(_)))
}

/// fw_cfg as a foreign firmware finds it: the size of the board, and its memory map.
pub(super) fn describe(layout: &Layout, cpus: u16, graphics: bool) -> FwCfg {
    let mut cfg = FwCfg::new();
    cfg.set(key::RAM_SIZE, layout.ram_bytes().to_le_bytes());
    cfg.set(key::CPUS, cpus.to_le_bytes());
    cfg.set(key::MAX_CPUS, cpus.to_le_bytes());
    cfg.set(key::BOOT_MENU, 0u16.to_le_bytes());
    cfg.set(key::NO_GRAPHICS, u16::from(!graphics).to_le_bytes());
    let mut e820 = Vec::new();
    for (base, len) in [(0, layout.low()), (FOUR_GIB, layout.high())] {
        if len > 0 {
            e820.extend([base.to_le_bytes(), len.to_le_bytes()].concat());
            e820.extend((E820Kind::Usable as u32).to_le_bytes());
        }
    }
    cfg.set_file("etc/e820", e820);
    for (name, bytes) in smbios::files(cpus as u8, layout) {
        cfg.set_file(name, bytes);
    }
    cfg.set_file("etc/show-boot-menu", 0u16.to_le_bytes());
    cfg
}

/// The file `bootorder`: the devices to boot from, an Open Firmware path a line. Virtio disks are in the slots from
/// `first_slot` on; `ide` is slot and function of the IDE channels.
pub(super) fn boot_order(plugs: &Plugs, first_slot: u8, ide: (u8, u8)) -> Vec<u8> {
    const ROOT: &str = "/pci@i0cf8";
    let count = |interface| plugs.disks.iter().filter(|disk| disk.interface == interface).count();
    let at = match ide {
        (slot, 0) => format!("{slot:x}"),
        (slot, function) => format!("{slot:x},{function:x}"),
    };
    let place = |n: usize| format!("{ROOT}/ide@{at}/drive@{}/disk@{}", n / 2, n % 2);
    let ide_disks = count(Interface::Ide).min(IDE_PLACES);
    let cds = cd_interface(plugs.disks.iter().map(|disk| disk.interface));
    // Behind the virtio disks, and a SATA adapter that is a card.
    let sata_card = count(Interface::Ahci) > 0 && plugs.chipset == Chipset::I440fx;
    let sata = match plugs.chipset {
        Chipset::I440fx => format!("{:x}", usize::from(first_slot) + count(Interface::Virtio)),
        Chipset::Q35 => "1f,2".into(),
    };
    // UEFI knows the adapter by its identification, SeaBIOS by its place.
    let port = |n: usize| format!("{ROOT}/pci8086,2922@{sata}/drive@{n}/disk@0");
    let sata_disks = count(Interface::Ahci).min(AHCI_PLACES);
    let scsi_slot = usize::from(first_slot) + count(Interface::Virtio) + usize::from(sata_card);
    let unit = |n: usize| format!("{ROOT}/scsi@{scsi_slot:x}/channel@0/disk@{:x},{:x}", n / LUNS, n % LUNS);
    let mut lines: Vec<String> = Vec::new();
    for device in &plugs.boot {
        match device {
            BootDevice::Disk => {
                lines.extend((0..count(Interface::Virtio)).map(|n| format!("{ROOT}/scsi@{:x}/disk@0,0", usize::from(first_slot) + n)));
                lines.extend((0..ide_disks).map(place));
                lines.extend((0..sata_disks).map(port));
                lines.extend((0..count(Interface::Scsi)).map(unit));
            }
            BootDevice::Cdrom if cds == Interface::Scsi => {
                lines.extend((count(Interface::Scsi)..).take(plugs.cdroms.len()).map(unit));
            }
            BootDevice::Cdrom if cds == Interface::Ahci => {
                lines.extend((sata_disks..AHCI_PLACES).take(plugs.cdroms.len()).map(port));
            }
            BootDevice::Cdrom => {
                let free = CD_ORDER.into_iter().filter(|place| *place >= ide_disks);
                lines.extend(free.take(plugs.cdroms.len()).map(place));
            }
            BootDevice::Floppy => lines.extend((0..plugs.floppies.len()).map(|n| format!("{ROOT}/isa@1/fdc@03f0/floppy@{n}"))),
            BootDevice::Net => {}
        }
    }
    let mut text = lines.join("\n").into_bytes();
    text.push(0);
    text
}

/// The board's ACPI tables, for the firmware to put into memory.
pub(super) fn offer_tables(cfg: &mut FwCfg, config: &acpi::Config, layout: &Layout) {
    for (name, bytes) in acpi::linker::files(config, layout) {
        cfg.set_file(name, bytes);
    }
}

/// A Linux kernel for the firmware to start.
pub(super) fn offer_kernel(cfg: &mut FwCfg, kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str, initrd_top: u64) {
    /// Where the setup code, the command line and the protected-mode part of a bzImage go (Linux boot protocol).
    const SETUP: u32 = 0x1_0000;
    const CMDLINE: u32 = 0x2_0000;
    const KERNEL: u32 = 0x10_0000;
    /// The number of setup sectors, and where the header says what loader it was.
    const SETUP_SECTORS: usize = 0x1f1;
    const LOADER: usize = 0x210;
    const LOAD_FLAGS: usize = 0x211;
    const HEAP_END: usize = 0x224;
    const CAN_USE_HEAP: u8 = 0x80;
    const UNKNOWN_LOADER: u8 = 0xff;
    let initrd = initrd.unwrap_or_default();
    let sectors = match kernel.get(SETUP_SECTORS) {
        Some(&0) | None => 4,
        Some(&n) => usize::from(n),
    };
    let (setup, protected) = kernel.split_at(kernel.len().min((sectors + 1) * 512));
    let initrd_addr = initrd_top.saturating_sub(initrd.len() as u64) as u32 & !0xfff;
    let mut line = cmdline.as_bytes().to_vec();
    line.push(0);
    let mut setup = setup.to_vec();
    if setup.len() > 0x22c {
        setup[LOADER] = UNKNOWN_LOADER;
        setup[LOAD_FLAGS] |= CAN_USE_HEAP;
        setup[HEAP_END..HEAP_END + 2].copy_from_slice(&((CMDLINE - SETUP - 0x200) as u16).to_le_bytes());
        setup[0x228..0x22c].copy_from_slice(&CMDLINE.to_le_bytes());
        if !initrd.is_empty() {
            setup[0x218..0x21c].copy_from_slice(&initrd_addr.to_le_bytes());
            setup[0x21c..0x220].copy_from_slice(&(initrd.len() as u32).to_le_bytes());
        }
    }
    let words = [
        (key::SETUP_ADDR, SETUP),
        (key::SETUP_SIZE, setup.len() as u32),
        (key::KERNEL_ADDR, KERNEL),
        (key::KERNEL_SIZE, protected.len() as u32),
        (key::CMDLINE_ADDR, CMDLINE),
        (key::CMDLINE_SIZE, line.len() as u32),
        (key::INITRD_ADDR, initrd_addr),
        (key::INITRD_SIZE, initrd.len() as u32),
    ];
    for (key, word) in words {
        cfg.set(key, word.to_le_bytes());
    }
    let data: [(u16, Arc<[u8]>); 4] = [
        (key::SETUP_DATA, setup.into()),
        (key::KERNEL_DATA, protected.into()),
        (key::CMDLINE_DATA, line.into()),
        (key::INITRD_DATA, initrd.into()),
    ];
    for (key, bytes) in data {
        cfg.set(key, bytes);
    }
}

#[cfg(test)]
mod tests {
    use softmetal_bus::{Attention, CpuBus, Drive};

    use super::*;
    use crate::board::{Board, Disk, SharedBoard};

    #[test]
    fn the_boot_order_names_devices() {
        let disk = |interface| Disk { backend: SharedDisk::new(vec![0; 512]), interface };
        let plugs = Plugs {
            disks: vec![disk(Interface::Ide), disk(Interface::Virtio), disk(Interface::Virtio)],
            cdroms: vec![Drive::new()],
            boot: vec![BootDevice::Cdrom, BootDevice::Disk],
            ..Plugs::default()
        };
        let text = String::from_utf8(boot_order(&plugs, 3, (1, 1))).unwrap();
        let lines = [
            "/pci@i0cf8/ide@1,1/drive@1/disk@0",
            "/pci@i0cf8/scsi@3/disk@0,0",
            "/pci@i0cf8/scsi@4/disk@0,0",
            "/pci@i0cf8/ide@1,1/drive@0/disk@0\0",
        ];
        assert_eq!(text, lines.join("\n"));
        let interfaces = [Interface::Scsi, Interface::Virtio, Interface::Scsi];
        let plugs = Plugs { disks: interfaces.map(disk).into(), ..plugs };
        let text = String::from_utf8(boot_order(&plugs, 3, (1, 1))).unwrap();
        let unit = |n| format!("/pci@i0cf8/scsi@4/channel@0/disk@0,{n}");
        let lines = [unit(2), "/pci@i0cf8/scsi@3/disk@0,0".into(), unit(0), unit(1) + "\0"];
        assert_eq!(text, lines.join("\n"));
        // The SATA adapter is a card on one board and at a fixed place on the other.
        let interfaces = [Interface::Ahci, Interface::Virtio, Interface::Ahci];
        let mut plugs = Plugs { disks: interfaces.map(disk).into(), boot: vec![BootDevice::Disk, BootDevice::Cdrom], ..plugs };
        for (chipset, at) in [(Chipset::I440fx, "4"), (Chipset::Q35, "1f,2")] {
            plugs.chipset = chipset;
            let text = String::from_utf8(boot_order(&plugs, 3, (1, 1))).unwrap();
            let port = |n| format!("/pci@i0cf8/pci8086,2922@{at}/drive@{n}/disk@0");
            let lines = ["/pci@i0cf8/scsi@3/disk@0,0".into(), port(0), port(1), port(2) + "\0"];
            assert_eq!(text, lines.join("\n"));
        }
    }

    #[test]
    fn pam_opens_ram() {
        let firmware = Firmware::Rom(vec![0; 256 << 10]);
        let layout = Layout::new(16 << 20);
        let parts = Parts::new(&layout, &Plugs::default(), &firmware);
        let end = parts.code.end;
        let regions = |pam| parts.low_regions(pam, 2).into_iter().map(|r| (r.start, r.len, r.priority, r.backing)).collect::<Vec<_>>();
        let alias = (0xe_0000, 0x2_0000, 1, Backing::Rom(end - 0x2_0000));
        assert_eq!(regions([0; 7]), [alias]);
        assert_eq!(
            regions([0x30, 0x33, 0x13, 0, 0, 0, 0x20]),
            [
                alias,
                (0xc_0000, 0xc000, 2, Backing::Ram(0xc_0000)),
                (0xc_c000, 0x4000, 2, Backing::Rom(0xc_c000)),
                (0xf_0000, 0x1_0000, 2, Backing::Ram(0xf_0000)),
            ]
        );
    }

    #[test]
    fn a_guarded_chip_changes_in_system_management_mode_alone() {
        const PROGRAM: u64 = 0x40;
        for guarded in [false, true] {
            let firmware = Firmware::Flash { code: vec![0; 64 << 10], vars: vec![0xff; 64 << 10], guarded };
            let plugs = Plugs { chipset: Chipset::Q35, smm: true, ..Plugs::default() };
            let layout = Layout::of(Chipset::Q35, 16 << 20);
            let parts = Parts::new(&layout, &plugs, &firmware);
            let memory = Arc::new(GuestMemory::new(parts.end()).unwrap());
            let board = Board::new(layout, memory.clone(), Arc::new(Attention::default()), plugs, false, &firmware);
            let mut board = SharedBoard::new(board);
            let program = |board: &mut SharedBoard, at: u64, value: u64| {
                let addr = FOUR_GIB - (128 << 10) + at;
                board.write(0, addr, 1, PROGRAM);
                board.write(0, addr, 1, value);
                let mut byte = [0];
                memory.read(parts.vars.start + at, &mut byte).unwrap();
                byte[0]
            };
            assert_eq!(program(&mut board, 0, 0x12), if guarded { 0xff } else { 0x12 });
            board.set_smm(true);
            assert_eq!(program(&mut board, 1, 0x34), 0x34, "guarded: {guarded}");
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Firmware::Builtin.check().is_ok() && Firmware::Rom(vec![0; 64 << 10]).check().is_ok());
        for len in [0, 4096, (64 << 10) + 1, 16 << 20] {
            assert!(Firmware::Rom(vec![0; len]).check().is_err(), "{len}");
        }
        assert!(Firmware::Flash { code: vec![0; 1 << 20], vars: vec![0; 100], guarded: false }.check().is_err());
    }
}
