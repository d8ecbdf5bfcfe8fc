//! What differs between two outcomes.

use std::fmt::Write as _;

use crate::accepted::Ignored;
use crate::case::{Case, Outcome, PAGE, REGION, WRITABLE_PAGES, event};

/// CF, PF, AF, ZF, SF, TF, DF, OF, NT, AC, ID: what programs see of RFLAGS.
pub const FLAGS: u64 = 0x24_4dd5;

/// Where the addresses that Linux lets programs have end.
const PROGRAMS: u64 = (1 << 47) - PAGE;

const NAMES: [&str; 16] = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// Writes nothing if the outcomes agree; else what differs, the host's value first.
#[must_use]
pub fn differences(case: &Case, host: &Outcome, guest: &Outcome, ignored: &Ignored) -> String {
    let mut out = String::new();
    let d = &mut out;
    macro_rules! differ {
        ($name:expr, $host:expr, $guest:expr) => {
            if $host != $guest {
                let _ = write!(d, "{} {:x?}/{:x?} ", $name, $host, $guest);
            }
        };
    }
    if ignored.everything {
        return out;
    }
    if host.vector == event::ENDLESS || guest.vector == event::ENDLESS {
        differ!("vector", host.vector, guest.vector);
        return out;
    }
    if !ignored.event {
        differ!("vector", host.vector, guest.vector);
    }
    if !ignored.event && host.vector == guest.vector && !ignored.address {
        // Linux sets P where programs have nothing, in their last page and beyond, so that nobody learns what is there.
        let present = u32::from(host.vector == 14 && host.address >= PROGRAMS);
        differ!("error", host.error | present, guest.error | present);
        differ!("cr2", host.address, guest.address);
    }
    let (h, g) = (&host.end, &guest.end);
    let width = if case.bits == 64 { u64::MAX } else { 0xffff_ffff };
    let count = if case.bits == 64 { 16 } else { 8 };
    for (n, name) in NAMES.iter().enumerate().take(count) {
        let mask = width & !ignored.gpr[n];
        differ!(name, h.gpr[n] & mask, g.gpr[n] & mask);
    }
    if !ignored.rip {
        differ!("rip", h.rip, g.rip);
    }
    let mask = FLAGS & !ignored.flags;
    differ!("flags", h.flags & mask, g.flags & mask);
    for (n, name) in ["es", "cs", "ss", "ds", "fs", "gs"].into_iter().enumerate() {
        // Linux returns to programs with IRET, which makes null selectors 0 (SDM 2, IRET).
        let plain = |s: u16| if s < 4 { 0 } else { s };
        differ!(name, plain(h.selectors[n]), plain(g.selectors[n]));
    }
    if !ignored.bases {
        differ!("fs_base", h.fs_base, g.fs_base);
        differ!("gs_base", h.gs_base, g.gs_base);
    }
    differ!("mxcsr", h.mxcsr | ignored.mxcsr, g.mxcsr | ignored.mxcsr);
    let word = |x: &[u8; crate::case::X87_IMAGE], at: usize| u16::from_le_bytes([x[at], x[at + 1]]);
    differ!("fcw", word(&h.x87, 0), word(&g.x87, 0));
    if !ignored.x87 {
        differ!("fsw", word(&h.x87, 2) | ignored.status, word(&g.x87, 2) | ignored.status);
        differ!("ftw", h.x87[4], g.x87[4]);
    }
    if !ignored.pointers && !ignored.x87 {
        differ!("fop", word(&h.x87, 6), word(&g.x87, 6));
        // The upper 16 bits of a 64-bit pointer repeat the one below with AMD.
        let pointer = |x: &[u8; crate::case::X87_IMAGE], at: usize| (word(x, at), word(x, at + 2), word(x, at + 4));
        differ!("fip", pointer(&h.x87, 8), pointer(&g.x87, 8));
        differ!("fdp", pointer(&h.x87, 16), pointer(&g.x87, 16));
    }
    for n in 0..8 {
        let at = 32 + 16 * n;
        let number = |x: &[u8; crate::case::X87_IMAGE]| {
            let mut m = [0; 8];
            m.copy_from_slice(&x[at..at + 8]);
            (word(x, at + 8), u64::from_le_bytes(m))
        };
        if !ignored.x87 && (!ignored.st || n > 1 && n != 7) {
            differ!(format_args!("st{n}"), number(&h.x87), number(&g.x87));
        }
    }
    let registers = if case.bits == 64 { 16 } else { 8 };
    for n in (0..registers).filter(|n| ignored.vectors >> n & 1 == 0) {
        let whole = |low: [u8; 16]| u128::from_le_bytes(low);
        differ!(format_args!("xmm{n}"), whole(h.xmm[n]), whole(g.xmm[n]));
        differ!(format_args!("ymm{n}"), whole(h.ymm[n]), whole(g.ymm[n]));
    }
    if h.memory != g.memory {
        memory(host, guest, ignored, d);
    }
    out
}

fn memory(host: &Outcome, guest: &Outcome, ignored: &Ignored, d: &mut String) {
    let mut told = 0;
    for (offset, place, len) in WRITABLE_PAGES {
        for i in 0..len {
            let at = offset + i as u64;
            let skip = ignored.memory.iter().any(|(from, n)| at.wrapping_sub(*from) < *n);
            let (h, g) = (host.end.memory[place + i], guest.end.memory[place + i]);
            if h != g && !skip {
                told += 1;
                if told <= 12 {
                    let _ = write!(d, "[{:x}] {h:02x}/{g:02x} ", REGION + at);
                }
            }
        }
    }
    if told > 12 {
        let _ = write!(d, "and {} more bytes ", told - 12);
    }
}
