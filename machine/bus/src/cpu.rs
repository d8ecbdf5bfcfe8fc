//! What a processor asks of its board, and how the board calls its attention.

use std::sync::atomic::{AtomicU32, Ordering};

/// Reasons for a processor to leave its blocks, as bits of [`Attention`].
pub mod attention {
    /// The interrupt line (from the local APIC or the 8259) is asserted. A level: the board sets and clears it.
    pub const INTR: u32 = 1 << 0;
    /// A non-maskable interrupt waits. The processor clears it when it takes it.
    pub const NMI: u32 = 1 << 1;
    /// The board has work at this instruction: an earlier timer, a power-off, a reset, an INIT. `Cpu::run` returns.
    pub const BOARD: u32 = 1 << 2;
    /// The host asks for a pause. `Cpu::run` returns at the next instruction boundary.
    pub const HOST: u32 = 1 << 3;
    /// The physical map changed (PCI BAR, A20, PAM): drop cached translations.
    pub const REMAP: u32 = 1 << 4;
    /// RAM that holds code was written from outside the processor (DMA): see `GuestMemory::take_code_writes`.
    pub const CODE: u32 = 1 << 5;
    /// A system management interrupt waits. The processor clears it when it takes it.
    pub const SMI: u32 = 1 << 6;
}

/// A word of [`attention`] bits shared by a processor and its board.
#[derive(Debug, Default)]
pub struct Attention(AtomicU32);

impl Attention {
    /// The bits that are set.
    #[must_use]
    #[inline(always)]
    pub fn bits(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
    /// Sets `bits`.
    pub fn raise(&self, bits: u32) {
        self.0.fetch_or(bits, Ordering::Release);
    }
    /// Clears `bits`.
    pub fn clear(&self, bits: u32) {
        self.0.fetch_and(!bits, Ordering::Release);
    }
    /// Sets or clears `bits`.
    pub fn assign(&self, bits: u32, on: bool) {
        if on { self.raise(bits) } else { self.clear(bits) }
    }
}

/// What backs a 4 KiB page of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// [`crate::GuestMemory`] from `offset` (page-aligned) on; stores to a page that is not `writable` (ROM, flash) go
    /// through [`CpuBus::write`].
    Memory {
        /// Byte offset of the page in the guest memory.
        offset: u64,
        /// False for ROM.
        writable: bool,
    },
    /// Registers of a device, or nothing: every access goes through [`CpuBus::read`] and [`CpuBus::write`].
    Device,
}

/// The board as its processor number `cpu` sees it. `at` is the retired-instruction count of the access, from which the
/// board derives the virtual time; `width` is 1, 2, 4 or 8 bytes (ports: 1, 2 or 4).
pub trait CpuBus: Send {
    /// What backs the page at physical address `page` (4 KiB aligned, A20 already applied by the board).
    fn page(&self, page: u64) -> PageKind;
    /// A load from a page that is [`PageKind::Device`].
    fn read(&mut self, at: u64, addr: u64, width: usize) -> u64;
    /// A store to a page that is [`PageKind::Device`] or memory that is not writable.
    fn write(&mut self, at: u64, addr: u64, width: usize, value: u64);
    /// IN.
    fn port_read(&mut self, at: u64, port: u16, width: usize) -> u32;
    /// OUT.
    fn port_write(&mut self, at: u64, port: u16, width: usize, value: u32);
    /// Interrupt acknowledge: the vector to deliver, or `None` if the request has gone.
    fn acknowledge(&mut self, at: u64) -> Option<u8>;
    /// A load from an MSR of the local APIC: IA32_APIC_BASE (0x1B), IA32_TSC_DEADLINE (0x6E0), x2APIC (0x800-0x8FF).
    /// `None` is #GP.
    fn apic_msr_read(&mut self, at: u64, msr: u32) -> Option<u64>;
    /// A store to an MSR of the local APIC (see [`CpuBus::apic_msr_read`]); false is #GP.
    fn apic_msr_write(&mut self, at: u64, msr: u32, value: u64) -> bool;
    /// The task-priority register as CR8 shows it (bits 7:4 of the TPR).
    fn task_priority(&mut self) -> u8;
    /// MOV to CR8.
    fn set_task_priority(&mut self, at: u64, value: u8);
    /// The time-stamp counter that belongs to instruction count `at`, before IA32_TSC_ADJUST. It moves by one with each
    /// instruction; otherwise only in [`CpuBus::read`] and [`CpuBus::port_read`], and while the processor does not run.
    fn time_stamp(&mut self, at: u64) -> u64;
    /// FERR# rises (`pending`: an unmasked x87 exception waits and CR0.NE is clear) or falls. The level of IGNNE#: whether
    /// the processor goes on in spite of it (SDM 1, 8.7.2). A board without that logic ignores such exceptions.
    fn float_error(&mut self, at: u64, pending: bool) -> bool {
        let _ = (at, pending);
        true
    }
    /// The processor enters (or leaves) system management mode: from now on [`CpuBus::page`], [`CpuBus::read`] and
    /// [`CpuBus::write`] show it SMRAM (or not).
    fn set_smm(&mut self, active: bool) {
        let _ = active;
    }
    /// The next 64 bits of the machine's seeded random source (RDRAND).
    fn random(&mut self, at: u64) -> u64;
}
