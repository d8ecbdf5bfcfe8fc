//! Descriptor tables and page tables, built into an image.

use crate::image::Image;

/// Selectors of [`gdt`].
pub mod selector {
    /// Ring 0, 32-bit code, flat.
    pub const CODE32: u16 = 0x08;
    /// Ring 0, data, flat.
    pub const DATA: u16 = 0x10;
    /// Ring 0, 64-bit code.
    pub const CODE64: u16 = 0x18;
    /// Ring 0, 16-bit code, base 0, limit 64 KiB.
    pub const CODE16: u16 = 0x20;
    /// Ring 0, 16-bit data, base 0, limit 64 KiB.
    pub const DATA16: u16 = 0x28;
    /// Ring 3, 32-bit code, flat. With the next two, in the order that SYSRET wants.
    pub const USER32: u16 = 0x33;
    /// Ring 3, data, flat.
    pub const USER_DATA: u16 = 0x3b;
    /// Ring 3, 64-bit code.
    pub const USER64: u16 = 0x43;
    /// The task state segment (two entries, for 64-bit bases).
    pub const TASK: u16 = 0x48;
}

/// Flags of page table entries (SDM 3A, 4.5).
pub mod pte {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Writable.
    pub const W: u64 = 1 << 1;
    /// User.
    pub const U: u64 = 1 << 2;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty.
    pub const D: u64 = 1 << 6;
    /// A large page, in a directory.
    pub const PS: u64 = 1 << 7;
    /// No execution.
    pub const NX: u64 = 1 << 63;
}

/// A descriptor table and the operand of LGDT or LIDT that describes it (limit, then an 8-byte base).
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The address of the table.
    pub base: u64,
    /// The address of the operand.
    pub pointer: u64,
}

fn table(image: &mut Image, entries: &[u64]) -> Table {
    let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
    let base = image.data(&bytes);
    let mut pointer = (bytes.len() as u16 - 1).to_le_bytes().to_vec();
    pointer.extend(base.to_le_bytes());
    Table { base, pointer: image.data(&pointer) }
}

/// A global descriptor table with the segments of [`selector`]; the task state segment is `tss`, 0x68 bytes, or none.
pub fn gdt(image: &mut Image, tss: Option<u64>) -> Table {
    let task = tss.map_or(0, |at| 0x0000_8900_0000_0067 | (at & 0xff_ffff) << 16 | (at & 0xff00_0000) << 32);
    table(
        image,
        &[
            0,
            0x00cf_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00af_9b00_0000_ffff,
            0x0000_9b00_0000_ffff,
            0x0000_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            task,
            0,
        ],
    )
}

/// An interrupt gate of long mode: `handler`, 64-bit code of ring 0, on the stack `ist` (0: the current one), reachable
/// by INT from ring `dpl`.
#[must_use]
pub fn gate64(handler: u64, ist: u8, dpl: u8) -> [u64; 2] {
    let low = gate32(handler, selector::CODE64, dpl) & !(0xff << 32) | u64::from(ist) << 32;
    [low, handler >> 32]
}

/// An interrupt gate of protected mode, to `selector:handler`.
#[must_use]
pub fn gate32(handler: u64, selector: u16, dpl: u8) -> u64 {
    let handler = handler & 0xffff_ffff;
    handler & 0xffff | u64::from(selector) << 16 | (0x8e00 | u64::from(dpl) << 13) << 32 | handler >> 16 << 48
}

/// An interrupt descriptor table of protected mode.
pub fn idt32(image: &mut Image, gates: &[u64]) -> Table {
    table(image, gates)
}

/// An interrupt descriptor table of long mode.
pub fn idt64(image: &mut Image, gates: &[[u64; 2]]) -> Table {
    table(image, &gates.concat())
}

/// An empty page table (of any level with 8-byte entries, or of 32-bit paging).
pub fn page_table(image: &mut Image) -> u64 {
    image.zeros(4096, 4096)
}

/// The tables of 4-level paging.
#[derive(Clone, Copy, Debug)]
pub struct Paging64 {
    /// The top level, for CR3.
    pub pml4: u64,
    /// The table of the first 512 GiB.
    pub pdpt: u64,
    /// The directory of the first GiB.
    pub directory: u64,
}

/// 4-level page tables that map the first 2 MiB (all of an image, and a MiB more) one to one, with `flags` besides
/// present and writable.
pub fn paging64(image: &mut Image, flags: u64) -> Paging64 {
    let [pml4, pdpt, directory] = [(); 3].map(|()| page_table(image));
    image.poke_u64(pml4, pdpt | flags | pte::P | pte::W);
    image.poke_u64(pdpt, directory | flags | pte::P | pte::W);
    image.poke_u64(directory, flags | pte::P | pte::W | pte::PS);
    Paging64 { pml4, pdpt, directory }
}
