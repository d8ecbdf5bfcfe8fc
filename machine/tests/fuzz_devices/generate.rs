//! Random accesses, weighted towards what is really there.

mod virtio;

use softmetal_bus::{DeviceId, Input};
use softmetal_firmware::layout::{HPET_BASE, IOAPIC_BASE, LAPIC_BASE, PCI_WINDOW};
use softmetal_machine::board::chips::id;

/// RAM in bytes.
pub const RAM: u64 = 8 << 20;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        softmetal_bus::splitmix64(&mut self.0)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
    /// A number of any magnitude, often one at which something changes.
    pub fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => !0,
            2 => 1 << self.below(64),
            3 => (1 << self.below(64)) - 1,
            4 => self.below(16),
            5 => self.below(256),
            _ => self.next() >> self.below(64),
        }
    }
}

macro_rules! classes {
    ($($name:ident),+) => {
        /// What an access is meant for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Class { $($name),+ }
        impl Class {
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}
classes!(
    Pic,
    Pit,
    Rtc,
    Hpet,
    IoApic,
    Lapic,
    AcpiPm,
    Uart,
    I8042,
    Dma,
    DebugPorts,
    Ferr,
    PciConfig,
    VirtioCommon,
    VirtioNotify,
    VirtioDevice,
    MsixTable,
    FwCfg,
    Flash,
    Ecam,
    AnyPort,
    AnyAddress
);

/// A step of a sequence.
#[derive(Clone, Debug)]
pub enum Op {
    In {
        class: Class,
        port: u16,
        width: usize,
    },
    Out {
        class: Class,
        port: u16,
        width: usize,
        value: u32,
    },
    Load {
        class: Class,
        addr: u64,
        width: usize,
    },
    Store {
        class: Class,
        addr: u64,
        width: usize,
        value: u64,
    },
    /// An MSR of the local APIC.
    Rdmsr {
        msr: u32,
    },
    Wrmsr {
        msr: u32,
        value: u64,
    },
    /// CR8.
    Priority {
        value: u8,
    },
    /// The processor's FERR#.
    Ferr {
        level: bool,
    },
    /// A store to RAM.
    Ram {
        addr: u64,
        bytes: Vec<u8>,
    },
    /// Instructions retire.
    Pass {
        count: u64,
    },
    /// Virtual time is set forward.
    Skip {
        ns: u64,
    },
    Input {
        device: DeviceId,
        input: Input,
    },
}

impl Op {
    /// The class of an access to a port or an address.
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::In { class, .. } | Self::Out { class, .. } | Self::Load { class, .. } | Self::Store { class, .. } => Some(*class),
            _ => None,
        }
    }

    /// Whether the processor looks for an interrupt after this step.
    pub fn acknowledges(&self) -> bool {
        !matches!(self, Self::Ram { .. } | Self::Priority { .. })
    }
}

/// The chips' ports: class, first, how many.
const PORTS: [(Class, u16, u16); 24] = [
    (Class::Pic, 0x20, 2),
    (Class::Pic, 0xa0, 2),
    (Class::Pic, 0x4d0, 2),
    (Class::Pit, 0x40, 4),
    (Class::Pit, 0x61, 1),
    (Class::Rtc, 0x70, 2),
    (Class::Rtc, 0x70, 4),
    (Class::AcpiPm, 0x600, 64),
    (Class::AcpiPm, 0x600, 12),
    (Class::AcpiPm, 0xb2, 2),
    (Class::Uart, 0x3f8, 8),
    (Class::Uart, 0x2f8, 8),
    (Class::I8042, 0x60, 1),
    (Class::I8042, 0x64, 1),
    (Class::Dma, 0x00, 16),
    (Class::Dma, 0x80, 16),
    (Class::Dma, 0xc0, 32),
    (Class::DebugPorts, 0x80, 1),
    (Class::DebugPorts, 0xe9, 1),
    (Class::DebugPorts, 0x92, 1),
    (Class::DebugPorts, 0xf4, 1),
    (Class::Ferr, 0xf0, 1),
    (Class::FwCfg, 0x510, 2),
    (Class::DebugPorts, 0x402, 1),
];

/// Slots of the PCI cards: disk, read-only disk, SCSI host, entropy, console.
const CARDS: [u8; 5] = [3, 4, 5, 6, 7];
/// The BAR of the MSI-X table and of the virtio structures, as the firmware assigns them in order.
const BARS: [u16; 2] = [0x14, 0x20];
const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// Where the buffers of good requests are.
const BUFFERS: u64 = 0x40_0000;

/// Bytes of the code and of the variables of a board with other firmware, and where the variables are.
pub const CODE: u64 = 128 << 10;
pub const VARS: u64 = 16 << 10;
const FLASH: u64 = (1 << 32) - CODE - VARS;
/// Where the guest puts the memory-mapped configuration space, on a board that has one.
const ECAM: u64 = 0xe000_0000;

struct Generator {
    rng: Rng,
    ops: Vec<Op>,
    accesses: usize,
    /// Where the two BARs of each card are, if the guest knows.
    bars: [[u64; 2]; CARDS.len()],
}

/// A sequence of at least `accesses` accesses, and what lies between them. The same for the same seed.
pub fn generate(seed: u64, accesses: usize) -> Vec<Op> {
    let mut g = Generator { rng: Rng(seed), ops: Vec::new(), accesses: 0, bars: [[0; 2]; CARDS.len()] };
    for card in 0..CARDS.len() {
        g.place(card);
    }
    g.chipset();
    while g.accesses < accesses {
        g.next();
    }
    g.ops
}

impl Generator {
    fn push(&mut self, op: Op) {
        self.accesses += usize::from(op.class().is_some());
        self.ops.push(op);
    }

    fn outp(&mut self, class: Class, port: u16, width: usize, value: u32) {
        self.push(Op::Out { class, port, width, value });
    }

    fn store(&mut self, class: Class, addr: u64, width: usize, value: u64) {
        self.push(Op::Store { class, addr, width, value });
    }

    fn ram(&mut self, addr: u64, bytes: Vec<u8>) {
        if addr + bytes.len() as u64 <= RAM {
            self.push(Op::Ram { addr, bytes });
        }
    }

    fn port(&mut self, class: Class, port: u16) {
        let width = self.rng.pick(&[1, 1, 1, 1, 2, 4]);
        if self.rng.one_in(2) {
            self.push(Op::In { class, port, width });
        } else {
            // What stops a guest is rare, or there would be nothing else.
            if matches!(port, 0x92 | 0x64 | 0x604..=0x607 | 0xcf9) && !self.rng.one_in(40) {
                return self.push(Op::In { class, port, width });
            }
            let value = self.rng.number() as u32;
            self.outp(class, port, width, value);
        }
    }

    fn mmio(&mut self, class: Class, addr: u64) {
        let width = self.rng.pick(&[1, 2, 4, 4, 4, 8]);
        let addr = match self.rng.below(8) {
            0 => addr,
            1 => addr & !1,
            _ => addr & !(width as u64 - 1),
        };
        if self.rng.one_in(3) {
            self.push(Op::Load { class, addr, width });
        } else {
            let value = self.rng.number();
            self.store(class, addr, width, value);
        }
    }

    /// An address in RAM, at its ends, in a device, or nowhere.
    fn wild(&mut self) -> u64 {
        let bar = self.bars[self.rng.below(CARDS.len() as u64) as usize][1];
        let base = self.rng.pick(&[
            0,
            BUFFERS,
            BUFFERS,
            RAM,
            RAM - 16,
            RAM - 4096,
            LAPIC_BASE,
            IOAPIC_BASE,
            HPET_BASE,
            bar,
            0xa_0000,
            !0,
            1 << 63,
        ]);
        match self.rng.below(4) {
            0 => self.rng.number(),
            1 => base.wrapping_sub(self.rng.below(64)),
            _ => base.wrapping_add(self.rng.below(0x1000)),
        }
    }

    fn config_write(&mut self, slot: u8, function: u8, offset: u16, width: usize, value: u32) {
        let addr = 1 << 31 | u32::from(slot) << 11 | u32::from(function) << 8 | u32::from(offset & 0xfc);
        self.outp(Class::PciConfig, 0xcf8, 4, addr);
        self.outp(Class::PciConfig, 0xcfc + (offset & 3), width, value);
    }

    /// Puts the BARs of a card where the guest will look for them.
    fn place(&mut self, card: usize) {
        for (i, bar) in BARS.into_iter().enumerate() {
            let addr = match self.rng.below(12) {
                // Over other registers, over RAM, onto each other.
                0 => self.rng.pick(&[LAPIC_BASE, IOAPIC_BASE, HPET_BASE & !0x3fff, 0x10_0000, RAM - 0x4000, PCI_WINDOW.start]),
                _ => PCI_WINDOW.start + self.rng.below(64) * 0x1_0000 + card as u64 * 0x40_0000 + i as u64 * 0x20_0000,
            };
            self.bars[card][i] = addr;
            self.config_write(CARDS[card], 0, bar, 4, addr as u32);
        }
        self.config_write(CARDS[card], 0, 4, 2, 7);
        if self.rng.one_in(2) {
            // MSI-X on; its capability is the first that the transport adds.
            self.config_write(CARDS[card], 0, 0x42, 2, 0x8000);
        }
    }

    fn next(&mut self) {
        let card = self.rng.below(CARDS.len() as u64) as usize;
        let [msix, virtio] = self.bars[card];
        match self.rng.below(100) {
            0..36 => {
                let (class, first, n) = self.rng.pick(&PORTS);
                let port = first + self.rng.below(n.into()) as u16;
                self.port(class, port);
            }
            36..41 => self.config(),
            41..46 => {
                let at = match self.rng.below(4) {
                    0 => self.rng.below(0x400),
                    1 => 0x100 + self.rng.below(4) * 0x20 + self.rng.pick(&[0, 4, 8, 12]),
                    _ => self.rng.pick(&[0, 4, 0x10, 0x20, 0xf0, 0xf4]),
                };
                self.mmio(Class::Hpet, HPET_BASE + at);
            }
            46..50 => self.ioapic(),
            50..56 => self.lapic(),
            56..62 => {
                let at = if self.rng.one_in(4) { self.rng.below(0x1000) } else { self.rng.below(0x38) };
                self.mmio(Class::VirtioCommon, virtio + COMMON + at);
            }
            62..66 => {
                let at = self.rng.pick(&[0, 0, 0, 4, 4, 2, 8, 0xffc]);
                self.mmio(Class::VirtioNotify, virtio + NOTIFY + at);
            }
            66..70 => {
                let at = self.rng.pick(&[ISR, DEVICE, DEVICE]) + self.rng.below(48);
                self.mmio(Class::VirtioDevice, virtio + at);
            }
            70..74 => {
                let at = if self.rng.one_in(4) { self.rng.below(0x1000) } else { self.rng.below(3) * 16 + self.rng.below(16) };
                self.mmio(Class::MsixTable, msix + at);
            }
            74..76 => {
                let port = self.rng.next() as u16;
                let class = Class::AnyPort;
                // Not the few ports that end the run.
                if !matches!(port, 0x64 | 0x92 | 0x604..=0x605 | 0xcf6..=0xcf9) {
                    self.port(class, port);
                }
            }
            76 => match self.rng.below(3) {
                0 => self.flash(),
                1 => self.fw_cfg(),
                _ => self.ecam(),
            },
            77 => {
                let addr = match self.rng.below(3) {
                    0 => self.wild(),
                    1 => PCI_WINDOW.start + self.rng.below(0x400_0000),
                    _ => 0xfec0_0000 + self.rng.below(0x40_0000),
                };
                self.mmio(Class::AnyAddress, addr);
            }
            78..82 => self.drive(card),
            82..84 => self.uart(),
            84..92 => {
                let most = 1 << self.rng.pick(&[4, 8, 12, 16]);
                let count = self.rng.below(most);
                self.push(Op::Pass { count });
            }
            92 if self.rng.one_in(20) => {
                let most = 1 << self.rng.pick(&[20, 24, 30, 33]);
                let ns = self.rng.below(most);
                self.push(Op::Skip { ns });
            }
            93 => {
                let msr = self.rng.pick(&[0x1b, 0x6e0, 0x6e0, 0x802, 0x808, 0x80b, 0x80f, 0x830, 0x832, 0x838, 0x83f]);
                let msr = if self.rng.one_in(4) { 0x800 + self.rng.below(0x100) as u32 } else { msr };
                if self.rng.one_in(2) {
                    self.push(Op::Rdmsr { msr });
                } else if msr != 0x1b || self.rng.one_in(10) {
                    let value = self.rng.number();
                    self.push(Op::Wrmsr { msr, value });
                }
            }
            94 => {
                let value = self.rng.below(256) as u8 & if self.rng.one_in(8) { 0xff } else { 0x30 };
                self.push(Op::Priority { value });
            }
            95 => {
                let level = self.rng.one_in(2);
                self.push(Op::Ferr { level });
            }
            96 => self.input(),
            97 if self.rng.one_in(4) => self.place(card),
            _ => {
                // The end of an interrupt, so that others come.
                self.store(Class::Lapic, LAPIC_BASE + 0xb0, 4, 0);
                self.outp(Class::Pic, 0x20, 1, 0x20);
                self.outp(Class::Pic, 0xa0, 1, 0x20);
            }
        }
    }

    /// What a firmware sets up in the chipset, where it is and where it would be on another board.
    fn chipset(&mut self) {
        let pam = self.rng.pick(&[0x3333_3330, 0x1111_1110, 0, 0x2332_1030]);
        for (slot, function, offset, value) in [
            (0, 0, 0x60, ECAM as u32 | 1),
            (0, 0, 0x5c, pam),
            (0, 0, 0x90, pam),
            (1, 0, 0x60, 0x0a0b_0a0b),
            (1, 3, 0x40, 0x601),
            (1, 3, 0x80, 1),
            (0x1f, 0, 0x60, 0x0a0b_0a0b),
            (0x1f, 0, 0x68, 0x0b0a_0b0a),
            (0x1f, 0, 0x40, 0x601),
            (0x1f, 0, 0x44, 0x80),
        ] {
            self.config_write(slot, function, offset, 4, value);
        }
    }

    /// A command of the flash chip, with its data, or an access at random.
    fn flash(&mut self) {
        let at = FLASH + self.rng.below(VARS);
        let class = Class::Flash;
        match self.rng.below(6) {
            0 => {
                let code = FLASH + VARS + self.rng.below(CODE);
                self.mmio(class, code);
            }
            1 => {
                let commands = [0x10, 0x40, 0x20, 0x50, 0x60, 0x70, 0x90, 0x98, 0xe8, 0xff];
                let command = self.rng.pick(&commands);
                self.store(class, at, 1, command);
            }
            2 => {
                self.store(class, at, 1, 0x20);
                self.store(class, at, 1, 0xd0);
            }
            3 => {
                let n = self.rng.below(256);
                self.store(class, at, 1, 0xe8);
                self.store(class, at, 1, n);
                for i in 0..=n {
                    let value = self.rng.number();
                    self.store(class, at + i, 1, value);
                }
                self.store(class, at, 1, 0xd0);
            }
            4 => self.store(class, at, 1, 0xff),
            _ => self.mmio(class, at),
        }
    }

    /// An item by DMA.
    fn fw_cfg(&mut self) {
        let key = if self.rng.one_in(4) { self.rng.number() as u32 } else { self.rng.below(0x30) as u32 };
        let control = key << 16 | self.rng.pick(&[0x0a, 0x0a, 0x08, 0x02, 0x04, 0x10]);
        let len = if self.rng.one_in(64) { self.rng.number() as u32 } else { self.rng.below(0x400) as u32 };
        let to = if self.rng.one_in(8) { self.wild() } else { BUFFERS + self.rng.below(0x1000) };
        let request = if self.rng.one_in(8) { self.wild() } else { BUFFERS + self.rng.below(0x1000) };
        if request < RAM - 16 {
            let bytes = [&control.to_be_bytes()[..], &len.to_be_bytes(), &to.to_be_bytes()].concat();
            self.ram(request, bytes);
        }
        self.outp(Class::FwCfg, 0x514, 4, ((request >> 32) as u32).swap_bytes());
        self.outp(Class::FwCfg, 0x518, 4, (request as u32).swap_bytes());
    }

    /// Configuration space by memory.
    fn ecam(&mut self) {
        if self.rng.one_in(8) {
            return self.chipset();
        }
        let slot = self.rng.pick(&[0, 1, 3, 4, 5, 6, 7, 0x1f]);
        let most = self.rng.pick(&[0x40, 0x100, 0x1000]);
        for _ in 0..6 {
            let register = self.rng.below(most);
            self.mmio(Class::Ecam, ECAM + (slot << 15) + register);
        }
    }

    fn config(&mut self) {
        let slot = if self.rng.one_in(8) { self.rng.below(32) } else { self.rng.below(8) } as u8;
        let function = if self.rng.one_in(4) { self.rng.below(8) } else { self.rng.pick(&[0, 0, 3]) } as u8;
        let most = self.rng.pick(&[0x100, 0x40]);
        let offset = self.rng.below(most) as u16;
        let value = self.rng.number() as u32;
        match self.rng.below(4) {
            0 => {
                let addr = (self.rng.next() as u32 & 0x80ff_ffff) | 1 << 31;
                self.outp(Class::PciConfig, 0xcf8, 4, addr);
                let port = 0xcfc + self.rng.below(4) as u16;
                self.port(Class::PciConfig, port);
            }
            1 => {
                // How large is it? Then back, so that accesses still find something.
                let card = self.rng.below(CARDS.len() as u64) as usize;
                for (i, bar) in BARS.into_iter().enumerate() {
                    self.config_write(CARDS[card], 0, bar, 4, !0);
                    self.push(Op::In { class: Class::PciConfig, port: 0xcfc, width: 4 });
                    let addr = self.bars[card][i] as u32;
                    self.config_write(CARDS[card], 0, bar, 4, addr);
                }
            }
            _ => {
                let width = self.rng.pick(&[1, 2, 4]);
                self.config_write(slot, function, offset, width, value);
                if offset & 0xfc == 4 {
                    self.config_write(slot, 0, 4, 2, 7);
                }
            }
        }
    }

    fn ioapic(&mut self) {
        let index = if self.rng.one_in(4) { self.rng.next() as u8 } else { 0x10 + self.rng.below(48) as u8 };
        self.store(Class::IoApic, IOAPIC_BASE, 4, index.into());
        if self.rng.one_in(2) {
            // Unmasked, to this processor, with a vector that an APIC takes.
            let value = (0x10 + self.rng.below(0xf0)) | self.rng.pick(&[0, 0x8000, 0x400, 0x700]);
            self.store(Class::IoApic, IOAPIC_BASE + 0x10, 4, if index & 1 == 0 { value } else { 0 });
        } else {
            let at = if self.rng.one_in(2) { 0x10 } else { self.rng.below(0x60) };
            self.mmio(Class::IoApic, IOAPIC_BASE + at);
        }
    }

    fn lapic(&mut self) {
        if self.rng.one_in(6) {
            // A timer of some kind; the APIC on.
            self.store(Class::Lapic, LAPIC_BASE + 0xf0, 4, 0x1ff);
            let kind = self.rng.pick(&[0, 0x2_0000, 0x4_0000]) | (0x20 + self.rng.below(0xd0));
            self.store(Class::Lapic, LAPIC_BASE + 0x320, 4, kind);
            let count = self.rng.number();
            self.store(Class::Lapic, LAPIC_BASE + 0x380, 4, count);
        }
        let register = match self.rng.below(3) {
            0 => self.rng.below(0x1000),
            1 => self.rng.pick(&[0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x300, 0x310, 0x320, 0x350, 0x360, 0x370, 0x380, 0x3e0]),
            _ => self.rng.below(0x40) * 16,
        };
        self.mmio(Class::Lapic, LAPIC_BASE + register);
    }

    /// Makes the serial ports speak.
    fn uart(&mut self) {
        let base = self.rng.pick(&[0x3f8, 0x2f8]);
        for (offset, value) in [(3, 3), (1, 0xf), (2, 0xc7), (4, 0xb), (0, b'x'.into())] {
            self.outp(Class::Uart, base + offset, 1, value);
        }
    }

    fn input(&mut self) {
        let device = self.rng.pick(&[id::COM1, id::COM2, id::KBC, id::PM, DeviceId(id::PCI + 7), DeviceId(self.ops.len() as u16 % 64)]);
        let mut bytes = vec![0; self.rng.below(40) as usize];
        self.rng.fill(&mut bytes);
        let input = match self.rng.below(3) {
            0 => Input::Scancodes(bytes),
            1 => Input::PowerButton,
            _ => Input::Bytes(bytes),
        };
        self.push(Op::Input { device, input });
    }
}
