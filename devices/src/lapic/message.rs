//! What travels between APICs.

/// How a message is to be taken (SDM 3A 11.6.1); the numbers are those of the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector, to every processor addressed.
    Fixed = 0,
    /// The vector, to the one processor among those addressed that the board picks.
    LowestPriority = 1,
    /// System management interrupt.
    Smi = 2,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// Reset of the processor.
    Init = 5,
    /// Start-up of a processor that waits after INIT.
    Startup = 6,
    /// The vector comes from the 8259.
    ExtInt = 7,
}

impl DeliveryMode {
    /// The mode that bits 2:0 name.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            7 => Self::ExtInt,
            _ => return None,
        })
    }
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The vector; the page number for [`DeliveryMode::Startup`].
    pub vector: u8,
    /// How it is to be taken.
    pub mode: DeliveryMode,
    /// Its end is to be told to the I/O APIC.
    pub level_triggered: bool,
    /// False for the de-assertion of a level, which means nothing today.
    pub assert: bool,
}

impl Message {
    /// The edge-triggered interrupt `vector`.
    #[must_use]
    pub fn fixed(vector: u8) -> Self {
        Self { vector, mode: DeliveryMode::Fixed, level_triggered: false, assert: true }
    }

    /// The message in the low half of an ICR, or in the data of an MSI, which have the same layout. `None` for the
    /// reserved delivery mode.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        let mode = DeliveryMode::from_bits(bits >> 8)?;
        let level_triggered = bits & 1 << 15 != 0;
        Some(Self { vector: bits as u8, mode, level_triggered, assert: bits & 1 << 14 != 0 || !level_triggered })
    }
}

/// A group that an IPI names instead of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// The destination counts.
    None,
    /// The sender.
    Itself,
    /// Every APIC.
    AllIncludingSelf,
    /// Every APIC but the sender.
    AllExcludingSelf,
}

impl Shorthand {
    /// The group that bits 1:0 name (ICR bits 19:18).
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        [Self::None, Self::Itself, Self::AllIncludingSelf, Self::AllExcludingSelf][bits as usize & 3]
    }
}

/// A message and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// The destination, if there is no shorthand: see [`super::Lapic::matches`].
    pub dest: u32,
    /// The group it is for.
    pub shorthand: Shorthand,
    /// `dest` is a logical destination.
    pub logical: bool,
    /// What is sent.
    pub message: Message,
}

impl Ipi {
    /// The interrupt that the write of `data` to 0xFEEx_xxxx means (SDM 3A 11.11). `None` if `addr` is no such address
    /// or the delivery mode is reserved.
    #[must_use]
    pub fn from_msi(addr: u64, data: u32) -> Option<Self> {
        if addr >> 20 != 0xfee {
            return None;
        }
        Some(Self {
            dest: (addr >> 12 & 0xff) as u32,
            shorthand: Shorthand::None,
            logical: addr & 1 << 2 != 0,
            message: Message::from_bits(data)?,
        })
    }
}
