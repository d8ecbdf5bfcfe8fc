//! What the chips are plugged into, and what a PC's firmware sets up before an operating system starts.

use softmetal_bus::ones;
use softmetal_bus::{AddressSpace, Attention, Backing, BlockBackend, DeviceId, Drive, GuestMemory, Region, SharedDisk, Time, TimerQueue};
use softmetal_devices::acpi_pm::AcpiPm;
use softmetal_devices::ahci::Ahci;
use softmetal_devices::dma8237::Dma8237;
use softmetal_devices::fdc82077::Fdc;
use softmetal_devices::hpet::Hpet;
use softmetal_devices::i8042::I8042;
use softmetal_devices::ide::Ide;
use softmetal_devices::ioapic::IoApic;
use softmetal_devices::lapic::Lapic;
use softmetal_devices::pci::{Access, ChipsetFunction, MappingKind, PciDevice, PciHost, ROM_BAR, Smram, command};
use softmetal_devices::pic8259::Pic8259;
use softmetal_devices::pit8254::Pit8254;
use softmetal_devices::ports::{CoprocessorError, DebugCon, DebugExit, FirmwareConsole, Port92, PostCode};
use softmetal_devices::rtc_mc146818::Rtc;
use softmetal_devices::uart16550::Uart16550;
use softmetal_devices::vga::{Vga, region};
use softmetal_devices::virtio::{InputKind, VirtioBlk, VirtioConsole, VirtioInput, VirtioPci, VirtioRng, VirtioScsi};
use softmetal_firmware::bios::rom::TRAP_PORT;
use softmetal_firmware::layout::{
    Chipset, EXTENDED_BASE, GPIO_PORT, HPET_BASE, IOAPIC_BASE, IOAPIC_ID, LAPIC_BASE, Layout, PCI_IRQS, PCI_WINDOW, PM1A_EVT_PORT,
    SMBUS_PORT, SMI_CMD_PORT, VGA_WINDOW,
};
use softmetal_firmware::{BootDevice, Drives, acpi};

use std::collections::VecDeque;
use std::sync::Arc;

use super::chips::{Chips, PciFunction, id};
use super::firmware::{Firmware, Parts, boot_order, describe, offer_tables};
use super::storage::Storage;
use super::wires::{Routes, Wires};
use super::{Around, Board, Inputs, State};

/// What a disk is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// A virtio device of its own.
    #[default]
    Virtio,
    /// The IDE channels of the chipset.
    Ide,
    /// A SATA host adapter.
    Ahci,
    /// A virtio SCSI host.
    Scsi,
}

/// A disk to plug in.
#[derive(Clone)]
pub struct Disk {
    /// Its bytes.
    pub backend: SharedDisk,
    /// What it is attached to.
    pub interface: Interface,
}

/// What a board is made of besides its fixed chips.
#[derive(Clone, Default)]
pub struct Plugs {
    /// Disks, in order.
    pub disks: Vec<Disk>,
    /// CD-ROM drives, in order.
    pub cdroms: Vec<Drive>,
    /// Floppy drives, at most two.
    pub floppies: Vec<Drive>,
    /// The chipset, which makes it board `pc` or `q35`.
    pub chipset: Chipset,
    /// What the firmware tries to boot from, in this order; empty for its own order.
    pub boot: Vec<BootDevice>,
    /// A standard VGA.
    pub vga: bool,
    /// The display adapter's option ROM; a firmware that is not the built-in one needs it to show anything.
    pub vga_rom: Vec<u8>,
    /// System management mode; without it, the chipset looks as if a firmware had set it up already.
    pub smm: bool,
    /// Where the firmware's variables are kept, if it has any.
    pub vars: Option<SharedDisk>,
    /// A virtio console besides the serial ports.
    pub console: bool,
    /// A virtio keyboard and a virtio mouse take what is typed and moved, not those at the PS/2 ports.
    pub virtio_input: bool,
    /// What the clock shows at power-on, in seconds since 1970 (UTC).
    pub rtc: i64,
    /// The seed of everything random.
    pub seed: u64,
    /// Slow work on the host ends for the guest when the host says so, by an input event. It is part of the saved state, and
    /// changed by [`InputEvent::HostPaced`](crate::machine::InputEvent::HostPaced).
    pub host_paced: bool,
}

/// The first slot for devices that are not part of the chipset.
const FIRST_SLOT: u8 = 3;
/// The slot of the display adapter.
const VGA_SLOT: u8 = 2;
/// PAM0 to PAM6 when all memory below 1 MiB is RAM.
const PAM_OPEN: [u8; 7] = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];
/// Where the RAM at 0xA0000 answers with H_SMRAME.
const HIGH_SMRAM: u64 = 0xfeda_0000;
/// The ports from which PCI devices get theirs.
const PCI_PORTS: u64 = 0xc000;

impl Board {
    /// A board at power-on, with the firmware's set-up done if it is the built-in one; with a virtio entropy source if
    /// `entropy`. `memory` has the size that [`Parts`] says.
    #[must_use]
    pub fn new(
        layout: Layout,
        memory: Arc<GuestMemory>,
        attention: Arc<Attention>,
        plugs: Plugs,
        entropy: bool,
        firmware: &Firmware,
    ) -> Self {
        let parts = Parts::new(&layout, &plugs, firmware);
        parts.load(&memory, firmware, &plugs.vga_rom);
        let mut pci: Vec<PciFunction> =
            chipset(layout.chipset(), plugs.smm).into_iter().map(|(slot, n, device)| function(slot, n, Box::new(device))).collect();
        let mut cards: Vec<Box<dyn PciDevice>> = Vec::new();
        for (n, disk) in plugs.disks.iter().cloned().enumerate().filter(|(_, disk)| disk.interface == Interface::Virtio) {
            let read_only = disk.backend.read_only();
            cards.push(Box::new(VirtioPci::new(VirtioBlk::new(Box::new(disk.backend), format!("softmetal-{n}"), read_only))));
        }
        let storage = Storage::new(&plugs.disks, &plugs.cdroms);
        // A function of the ICH9; beside PIIX a card.
        let has_ahci = storage.has_ahci();
        let ahci: Option<Box<dyn PciDevice>> = has_ahci.then(|| Box::new(Ahci::new(storage.ahci)) as _);
        let (integrated, card) = if layout.chipset() == Chipset::Q35 { (ahci, None) } else { (None, ahci) };
        cards.extend(card);
        if !storage.scsi.is_empty() {
            cards.push(Box::new(VirtioPci::new(VirtioScsi::new(storage.scsi))));
        }
        if entropy {
            cards.push(Box::new(VirtioPci::new(VirtioRng::new(plugs.seed))));
        }
        if plugs.console {
            cards.push(Box::new(VirtioPci::new(VirtioConsole::new())));
        }
        let mut inputs = Inputs { keyboard: id::KBC, mouse: id::KBC };
        if plugs.virtio_input {
            let first = id::PCI + (pci.len() + cards.len()) as u16;
            inputs = Inputs { keyboard: DeviceId(first), mouse: DeviceId(first + 1) };
            for kind in [InputKind::Keyboard, InputKind::Mouse] {
                cards.push(Box::new(VirtioPci::new(VirtioInput::new(kind))));
            }
        }
        pci.extend(cards.into_iter().enumerate().map(|(i, card)| function(FIRST_SLOT + i as u8, 0, card)));
        if plugs.vga {
            // The last function, so that it moves no other's number.
            let mut vga = Vga::new(parts.video.start, parts.video.end - parts.video.start);
            if !parts.vga_rom.is_empty() {
                vga = vga.with_rom(parts.vga_rom.start, parts.vga_rom.end - parts.vga_rom.start);
            }
            pci.push(function(VGA_SLOT, 0, Box::new(vga)));
        }
        pci.extend(integrated.map(|device| function(31, 2, device)));
        // With PIIX a function of its chip; beside ICH a card.
        let ide = u8::from(layout.chipset() == Chipset::I440fx);
        let mut fw_cfg = describe(&layout, 1, plugs.vga);
        if !plugs.boot.is_empty() {
            fw_cfg.set_file("bootorder", boot_order(&plugs, FIRST_SLOT, (1, ide)));
        }
        pci.push(function(1, ide, Box::new(Ide::new(storage.ide))));
        let chips = Chips {
            pic: Pic8259::new(),
            pit: Pit8254::new(),
            rtc: Rtc::new(plugs.rtc),
            hpet: Hpet::new(),
            ioapic: IoApic::new(IOAPIC_ID),
            lapic: Lapic::new(0),
            pm: AcpiPm::new(),
            com: [Uart16550::new(), Uart16550::new()],
            kbc: I8042::new(),
            dma: Dma8237::new(),
            debugcon: DebugCon::new(),
            debugexit: DebugExit::new(),
            port92: Port92::new(),
            post: PostCode::new(),
            pcihost: PciHost::new(),
            ferr: CoprocessorError::new(),
            fdc: Fdc::new(plugs.floppies.clone()),
            fw_cfg,
            fw_console: FirmwareConsole::new(),
            flash: parts.flash(plugs.vars),
            pci,
        };
        let drives = Drives {
            disks: plugs.disks.into_iter().map(|disk| disk.backend).collect(),
            cdroms: plugs.cdroms,
            floppies: plugs.floppies,
            boot: plugs.boot,
        };
        let mut board = Self {
            layout,
            parts,
            builtin: !firmware.is_foreign(),
            attention,
            chips,
            around: Around {
                memory,
                space: softmetal_bus::AddressSpace::default(),
                timers: TimerQueue::default(),
                effects: Vec::new(),
                host_paced: plugs.host_paced,
            },
            ports: softmetal_bus::PortSpace::default(),
            smm: plugs.smm,
            flash_guarded: matches!(firmware, Firmware::Flash { guarded: true, .. }),
            smm_space: None,
            in_smm: false,
            queue: VecDeque::new(),
            output: Vec::new(),
            deadline: Time(0),
            routes: Routes { apic: layout.chipset().isa_bridge().apic, ..Routes::default() },
            unsettled: true,
            acpi: None,
            inputs,
            drives,
            state: State { skew: 0, wires: Wires::default(), a20: true, random: plugs.seed, requests: VecDeque::new() },
        };
        board.reset(0);
        board
    }

    /// Rebuilds the physical map and the port map.
    pub(super) fn remap(&mut self) {
        self.unsettled = true;
        // Where ranges overlap, the fixed chips win over RAM, and RAM over what a guest moves onto it.
        let (cards, ram, fixed) = (1, 2, 3);
        let regions = self.layout.regions().into_iter().map(|r| {
            // What is below 1 MiB and above the VGA window is as PAM says.
            let cut = if r.base == VGA_WINDOW.end { EXTENDED_BASE - r.base } else { 0 };
            let cut = cut.min(r.len);
            Region { start: r.base + cut, len: r.len - cut, priority: ram, backing: Backing::Ram(r.offset + cut) }
        });
        let mut space: Vec<Region> = regions.collect();
        let pam = self.chips.pci.iter().find_map(|f| f.device.pam()).unwrap_or(PAM_OPEN);
        space.extend(self.parts.low_regions(pam, ram));
        space.extend(self.parts.high_regions(&self.chips.flash, fixed));
        self.routes.isa = std::array::from_fn(|n| self.chips.pci.iter().find_map(|f| f.device.pirq_route(n)));
        let chip = |start: u64, len: u64, device: DeviceId, region: u8| Region {
            start,
            len,
            priority: fixed,
            backing: Backing::Device(device, region),
        };
        let ecam = self.chips.pci.iter().find_map(|f| f.device.ecam());
        if let Some((base, len)) = ecam {
            space.push(chip(base, len, id::PCIHOST, 1));
        }
        space.push(chip(IOAPIC_BASE, 0x1000, id::IOAPIC, 0));
        space.push(chip(HPET_BASE, 0x400, id::HPET, 0));
        space.push(chip(LAPIC_BASE, 0x1000, id::LAPIC, 0));
        let mut ports = vec![
            chip(0x00, 16, id::DMA, 0),
            chip(0x20, 2, id::PIC, 0),
            chip(0x40, 4, id::PIT, 0),
            chip(0x60, 1, id::KBC, 0),
            chip(0x61, 1, id::PIT, 1),
            chip(0x64, 1, id::KBC, 1),
            chip(0x70, 4, id::RTC, 0),
            chip(0x80, 16, id::DMA, 2),
            // The later of two regions wins: port 0x80 shows the POST code.
            chip(0x80, 1, id::POST, 0),
            chip(0x92, 1, id::PORT92, 0),
            chip(0xa0, 2, id::PIC, 1),
            chip(SMI_CMD_PORT.into(), 2, id::PM, 1),
            chip(0xc0, 32, id::DMA, 1),
            chip(0xe9, 1, id::DEBUGCON, 0),
            chip(0x3f0, 6, id::FDC, 0),
            chip(0x3f7, 1, id::FDC, 1),
            chip(0xf0, 1, id::FERR, 0),
            chip(0xf4, 1, id::DEBUGEXIT, 0),
            chip(0x2f8, 8, id::COM2, 0),
            chip(0x3f8, 8, id::COM1, 0),
            chip(0x4d0, 2, id::PIC, 2),
            chip(0x402, 1, id::FW_CONSOLE, 0),
            chip(0xcf8, 8, id::PCIHOST, 0),
        ];
        if self.builtin {
            ports.push(chip(TRAP_PORT.into(), 1, id::BIOS, 0));
        } else {
            ports.extend([chip(0x510, 2, id::FW_CFG, 0), chip(0x514, 8, id::FW_CFG, 1)]);
        }
        let pm_base = self.chips.pci.iter().find_map(|f| f.device.pm_base());
        if let Some(base) = pm_base {
            ports.push(chip(base.into(), 64, id::PM, 0));
        }
        for (i, function) in self.chips.pci.iter().enumerate() {
            let device = DeviceId(id::PCI + i as u16);
            if function.device.vga().is_some() {
                let command = function.device.config().command();
                if command & command::MEMORY != 0 {
                    space.push(chip(VGA_WINDOW.start, VGA_WINDOW.end - VGA_WINDOW.start, device, region::WINDOW));
                }
                if command & command::IO != 0 {
                    ports.push(chip(0x3b0, 48, device, region::PORTS));
                    ports.push(chip(0x1ce, 4, device, region::DISPI));
                }
            }
            if function.device.config().command() & command::IO != 0 {
                ports.extend(
                    function.device.fixed_ports().into_iter().map(|(first, n, region)| chip(first.into(), n.into(), device, region)),
                );
            }
            for bar in function.device.bars() {
                let memory = if bar.bar == ROM_BAR { Backing::Rom } else { Backing::Ram };
                let backing = function.device.bar_memory(bar.bar).map_or(Backing::Device(device, bar.bar), memory);
                let region = Region { start: bar.addr, len: bar.len, priority: cards, backing };
                match bar.kind {
                    MappingKind::Io => ports.push(region),
                    MappingKind::Memory => space.push(region),
                }
            }
        }
        if self.smm {
            let smram = self.chips.pci.iter().find_map(|f| f.device.smram()).unwrap_or_default();
            let managed = self.managed_regions(&smram, fixed);
            self.smm_space = (smram.enabled && !smram.open).then(|| {
                let mut view = AddressSpace::default();
                view.set(space.iter().cloned().chain(managed.iter().cloned()).collect());
                view
            });
            let hidden = |r: Region| Region { backing: Backing::Device(id::NOBODY, 0), ..r };
            // To others the display adapter answers at 0xA0000, and nobody where RAM is kept back.
            space.extend(
                managed.into_iter().filter(|r| smram.open || r.start >= EXTENDED_BASE).map(|r| if smram.open { r } else { hidden(r) }),
            );
            let switch = self.chips.pci.iter().find_map(|f| f.device.smi_switch()).unwrap_or_default();
            self.chips.pm.set_smi_switch(switch);
        }
        self.around.space.set(space);
        self.ports.set(ports);
        if !self.builtin {
            let window = (self.layout.low(), IOAPIC_BASE);
            // A firmware reads the sizes of the files once, at first: they must not depend on what it programs later.
            let ecam = ecam.map(|e| e.0).or(self.layout.chipset().ecam());
            let acpi = acpi::Config { cpus: 1, pm_base: pm_base.unwrap_or(PM1A_EVT_PORT), ecam, window };
            if self.acpi.replace(acpi) != Some(acpi) {
                offer_tables(&mut self.chips.fw_cfg, &acpi, &self.layout);
            }
        }
    }

    /// Where system management RAM answers.
    fn managed_regions(&self, smram: &Smram, priority: u8) -> Vec<Region> {
        if !smram.enabled {
            return Vec::new();
        }
        let len = VGA_WINDOW.end - VGA_WINDOW.start;
        let start = if smram.high { HIGH_SMRAM } else { VGA_WINDOW.start };
        let low = self.layout.low();
        let tseg = smram.tseg.min(low - EXTENDED_BASE);
        vec![
            Region { start, len, priority, backing: Backing::Ram(VGA_WINDOW.start) },
            Region { start: low - tseg, len: tseg, priority, backing: Backing::Ram(low - tseg) },
        ]
    }

    /// What a PC's firmware sets up: PCI ranges and interrupts, level-triggered PCI interrupts, the local APIC's
    /// pass-through of the 8259 ("virtual wire"), memory sizes in CMOS.
    pub(super) fn post(&mut self, at: u64) {
        let (mut memory, mut port) = (PCI_WINDOW.start, PCI_PORTS);
        for function in &mut self.chips.pci {
            assign(function, &mut memory, &mut port);
        }
        // All of PAM is RAM.
        let chipset = self.layout.chipset();
        let mut set = |function: usize, at: u16, bytes: &[u8]| {
            for (i, &byte) in (at..).zip(bytes) {
                self.chips.pci[function].device.config_mut().write(i, 1, byte.into());
            }
        };
        let pm_base = (PM1A_EVT_PORT | 1).to_le_bytes();
        match chipset {
            Chipset::I440fx => {
                set(0, 0x59, &PAM_OPEN);
                set(2, 0x40, &pm_base);
                set(2, 0x80, &[0x01]);
            }
            Chipset::Q35 => {
                set(0, 0x90, &PAM_OPEN);
                set(1, 0x40, &pm_base);
                set(1, 0x44, &[0x80]);
                set(1, 0x48, &(GPIO_PORT | 1).to_le_bytes());
                set(1, 0x4c, &[0x10]);
            }
        }
        if let Some(base) = chipset.ecam() {
            set(0, 0x60, &(base | 1).to_le_bytes());
        }
        let bridge = chipset.isa_bridge();
        for (register, irq) in bridge.registers.iter().zip(bridge.irqs) {
            set(1, u16::from(*register), &[*irq]);
        }
        self.place_smbus();
        self.remap();
        let level: u16 = PCI_IRQS.iter().map(|irq| 1 << irq).sum();
        self.call(at, id::PIC, |pic, ctx| {
            pic.write(ctx, 2, 0, 1, u64::from(level & 0xff));
            pic.write(ctx, 2, 1, 1, u64::from(level >> 8));
        });
        // SDM 3A, 11.9 and MP specification 3.6.2.2: LINT0 takes the 8259's interrupts, LINT1 is NMI.
        self.call(at, id::LAPIC, |lapic, ctx| {
            for (register, value) in [(0xf0, 0x1ff), (0x350, 0x700), (0x360, 0x400)] {
                lapic.write(ctx, 0, register, 4, value);
            }
        });
        self.memory_sizes();
        self.clear_shutdown_code();
        let memory = self.around.memory.clone();
        if let Some(vga) = self.vga_mut() {
            vga.set_text(&memory, &softmetal_firmware::FONT);
        }
    }

    /// Gives the SMBus host of board `pc` its ports, and interrupt 9. UEFI relies on finding it so, as on QEMU's board:
    /// without them Linux warns.
    pub(super) fn place_smbus(&mut self) {
        if self.layout.chipset() == Chipset::I440fx {
            let config = self.chips.pci[2].device.config_mut();
            config.write(0x90, 2, (SMBUS_PORT | 1).into());
            config.write(0xd2, 1, 0x09);
            config.write(0x04, 1, command::IO.into());
        }
    }

    /// Memory sizes as a BIOS leaves them in CMOS.
    pub(super) fn memory_sizes(&mut self) {
        let (low, high) = (self.layout.low(), self.layout.high());
        let mut word = |index: u8, value: u64| {
            let [l, h, ..] = value.to_le_bytes();
            self.chips.rtc.set_cmos(index, l);
            self.chips.rtc.set_cmos(index + 1, h);
        };
        let extended = (low >> 10).saturating_sub(1024).min(0xffff);
        word(0x15, 640);
        word(0x17, extended);
        word(0x30, extended);
        word(0x34, (low.saturating_sub(16 << 20) >> 16).min(0xffff));
        word(0x5b, high >> 16 & 0xffff);
        self.chips.rtc.set_cmos(0x5d, (high >> 32) as u8);
        // What to boot from, in order, a nibble each: floppy, disk, CD-ROM, network.
        let default = [BootDevice::Disk, BootDevice::Cdrom, BootDevice::Floppy];
        let order = if self.drives.boot.is_empty() { &default[..] } else { &self.drives.boot };
        let nibble = |n: usize| match order.get(n) {
            None => 0,
            Some(BootDevice::Floppy) => 1,
            Some(BootDevice::Disk) => 2,
            Some(BootDevice::Cdrom) => 3,
            Some(BootDevice::Net) => 4,
        };
        self.chips.rtc.set_cmos(0x3d, nibble(1) << 4 | nibble(0));
        self.chips.rtc.set_cmos(0x38, nibble(2) << 4);
        // The floppy drives: a type each, the first in the high nibble; how many there are, a coprocessor, a mouse.
        let types = self.chips.fdc.drive_types();
        self.chips.rtc.set_cmos(0x10, types[0] << 4 | types[1]);
        let count = types.iter().filter(|t| **t != 0).count() as u8;
        self.chips.rtc.set_cmos(0x14, 0x06 | if count > 0 { 1 | (count - 1) << 6 } else { 0 });
    }

    /// A load from the memory-mapped configuration space (PCI Express Base 3.0, 7.2.2).
    pub(super) fn ecam_read(&mut self, at: u64, offset: u64, width: usize) -> u64 {
        if width > 4 {
            return ones(width);
        }
        let (function, register) = ecam_target(offset);
        self.pci_config(at, function, |device, ctx| device.config_read(ctx, register, width).into()).unwrap_or(!0) & ones(width)
    }

    /// A store to the memory-mapped configuration space.
    pub(super) fn ecam_write(&mut self, at: u64, offset: u64, width: usize, value: u64) {
        if width <= 4 {
            let (function, register) = ecam_target(offset);
            self.pci_config(at, function, |device, ctx| device.config_write(ctx, register, width, value as u32));
        }
    }

    /// A load from the ports 0xCF8 to 0xCFF.
    pub(super) fn pci_port_read(&mut self, at: u64, offset: u64, width: usize) -> u64 {
        match self.chips.pcihost.decode(offset, width) {
            Access::Data { bus, dev, func, offset } => {
                self.pci_config(at, (bus, dev, func), |device, ctx| device.config_read(ctx, offset, width).into()).unwrap_or(!0)
            }
            _ => self.call(at, id::PCIHOST, |host, ctx| host.read(ctx, 0, offset, width)).unwrap_or(!0),
        }
    }

    /// A store to the ports 0xCF8 to 0xCFF.
    pub(super) fn pci_port_write(&mut self, at: u64, offset: u64, width: usize, value: u64) {
        match self.chips.pcihost.decode(offset, width) {
            Access::Data { bus, dev, func, offset } => {
                let value = value as u32;
                self.pci_config(at, (bus, dev, func), |device, ctx| device.config_write(ctx, offset, width, value));
            }
            _ => {
                self.call(at, id::PCIHOST, |host, ctx| host.write(ctx, 0, offset, width, value));
            }
        }
    }

    /// Reaches a function's configuration space; `None` if there is no such function.
    fn pci_config<R>(
        &mut self,
        at: u64,
        (bus, slot, func): (u8, u8, u8),
        f: impl FnOnce(&mut dyn PciDevice, &mut softmetal_bus::Ctx) -> R,
    ) -> Option<R> {
        let i = self.chips.pci.iter().position(|p| bus == 0 && p.slot == slot && p.function == func)?;
        let (now, device) = (self.now(at), DeviceId(id::PCI + i as u16));
        let result = f(self.chips.pci[i].device.as_mut(), &mut self.around.ctx(now, device));
        self.settle(now, device);
        Some(result)
    }
}

/// What an offset in the memory-mapped configuration space means: bus, slot and function; register.
fn ecam_target(offset: u64) -> ((u8, u8, u8), u16) {
    (((offset >> 20) as u8, (offset >> 15 & 31) as u8, (offset >> 12 & 7) as u8), (offset & 0xfff) as u16)
}

/// The chipset's own functions: the host bridge, the ISA bridge, the others.
fn chipset(chipset: Chipset, smm: bool) -> Vec<(u8, u8, ChipsetFunction)> {
    let isa = chipset.isa_bridge().slot;
    match chipset {
        Chipset::I440fx => {
            vec![(0, 0, ChipsetFunction::i440fx()), (isa, 0, ChipsetFunction::piix3_isa()), (isa, 3, ChipsetFunction::piix4_pm(smm))]
        }
        Chipset::Q35 => vec![(0, 0, ChipsetFunction::q35_mch()), (isa, 0, ChipsetFunction::ich9_lpc())],
    }
}

fn function(slot: u8, function: u8, device: Box<dyn PciDevice>) -> PciFunction {
    PciFunction { slot, function, device }
}

/// Finds out how large a function's ranges are, gives them addresses, and switches the function on.
fn assign(function: &mut PciFunction, memory: &mut u64, port: &mut u64) {
    let slot = function.slot;
    let config = function.device.config_mut();
    let mut enable = 0;
    let mut bar = 0x10;
    while bar < 0x28 {
        let kind = config.read(bar, 4);
        config.write(bar, 4, !0);
        let sized = config.read(bar, 4);
        let wide = kind & 7 == 4;
        if sized & !0xf != 0 || (kind & 1 != 0 && sized & !3 != 0) {
            let io = kind & 1 != 0;
            let len = u64::from((sized & if io { !3 } else { !0xf }).wrapping_neg());
            let (next, bit) = if io { (&mut *port, command::IO) } else { (&mut *memory, command::MEMORY) };
            let addr = next.next_multiple_of(len);
            *next = addr + len;
            config.write(bar, 4, addr as u32);
            enable |= bit;
        } else {
            config.write(bar, 4, 0);
        }
        if wide {
            config.write(bar + 4, 4, 0);
            bar += 4;
        }
        bar += 4;
    }
    // The legacy ports of a display adapter are no BAR.
    if config.byte(0x0b) == 3 {
        enable |= command::IO | command::MEMORY;
    }
    let pin = config.byte(0x3d);
    if slot >= FIRST_SLOT && pin != 0 {
        config.write(0x3c, 1, softmetal_firmware::pci_irq(slot, pin - 1).into());
    }
    if enable != 0 {
        config.write(0x04, 2, (enable | command::MASTER).into());
    }
}
