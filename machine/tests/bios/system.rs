//! INT 11h, 12h, 15h, 1Ah.

use super::*;

#[test]
fn memory() {
    let mut machine = run(|a| {
        let (mut next, mut end) = (a.create_label(), a.create_label());
        a.int(0x12)?;
        a.mov(word_ptr(RESULT), ax)?;
        a.mov(ax, 0xe801)?;
        a.int(0x15)?;
        a.mov(word_ptr(RESULT + 2), ax)?;
        a.mov(word_ptr(RESULT + 4), bx)?;
        a.mov(ah, 0x88)?;
        a.int(0x15)?;
        a.mov(word_ptr(RESULT + 6), ax)?;
        a.xor(ebx, ebx)?;
        a.mov(di, 0x1000)?;
        a.set_label(&mut next)?;
        a.mov(eax, 0xe820)?;
        a.mov(edx, 0x534d_4150)?;
        a.mov(ecx, 20)?;
        a.int(0x15)?;
        a.jc(end)?;
        a.add(di, 20)?;
        a.test(ebx, ebx)?;
        a.jne(next)?;
        a.set_label(&mut end)?;
        a.mov(word_ptr(RESULT + 8), di)
    });
    assert_eq!([0, 2, 4, 6].map(|n| word(&mut machine, RESULT + n)), [639, 15 << 10, 0, 15 << 10]);
    let count = (u64::from(word(&mut machine, RESULT + 8)) - 0x1000) / 20;
    let map: Vec<(u32, u32, u32)> = (0..count)
        .map(|n| [0, 8, 16].map(|at| dword(&mut machine, 0x1000 + 20 * n + at)))
        .map(|[base, len, kind]| (base, len, kind))
        .collect();
    let usable = [(0, 0x9_fc00, 1), (0x10_0000, 15 << 20, 1)];
    assert!(usable.iter().all(|entry| map.contains(entry)), "{map:x?}");
    assert!(map.contains(&(0xe_0000, 0x2_0000, 2)), "{map:x?}");
}

#[test]
fn blocks_are_moved_above_1_mib() {
    let mut machine = run(|a| {
        a.mov(dword_ptr(0x5000), 0x1234_5678)?;
        // Descriptors 2 and 3 of the table at 0x500: from 0x5000 to 0x20_0000.
        for (at, base) in [(0x510u64, 0x5000u32), (0x518, 0x20_0000)] {
            a.mov(word_ptr(at), 0xffff)?;
            a.mov(dword_ptr(at + 2), base | 0x9300_0000)?;
            a.mov(word_ptr(at + 6), 0)?;
        }
        a.mov(si, 0x500)?;
        a.mov(cx, 2)?;
        a.mov(ah, 0x87)?;
        a.int(0x15)?;
        store_flags(a, RESULT)
    });
    assert_eq!((word(&mut machine, RESULT) & 1, dword(&mut machine, 0x20_0000)), (0, 0x1234_5678));
}

#[test]
fn a_wait_takes_its_time() {
    let mut machine = run(|a| {
        a.rdtsc()?;
        a.mov(dword_ptr(RESULT), eax)?;
        // 0.25 s.
        a.mov(cx, 3)?;
        a.mov(dx, 0xd090)?;
        a.mov(ah, 0x86)?;
        a.int(0x15)?;
        store_flags(a, RESULT + 8)?;
        a.rdtsc()?;
        a.mov(dword_ptr(RESULT + 4), eax)
    });
    let [before, after] = [0, 4].map(|n| dword(&mut machine, RESULT + n));
    let waited = after.wrapping_sub(before);
    assert!((250_000_000..255_000_000).contains(&waited), "{waited} ns");
    assert_eq!(word(&mut machine, RESULT + 8) & 1, 0);
    assert!(machine.icount() < 200_000, "{}", machine.icount());
}

#[test]
fn the_time_of_day() {
    let mut machine = run(|a| {
        a.mov(ah, 0)?;
        a.int(0x1a)?;
        a.mov(word_ptr(RESULT), dx)?;
        a.mov(word_ptr(RESULT + 2), cx)?;
        a.mov(ah, 2)?;
        a.int(0x1a)?;
        a.mov(word_ptr(RESULT + 4), cx)?;
        a.mov(ah, 4)?;
        a.int(0x1a)?;
        a.mov(word_ptr(RESULT + 6), cx)?;
        a.mov(word_ptr(RESULT + 8), dx)
    });
    // 01:00 on 2026-01-01: an hour has 65,543 ticks; one comes as the timer starts.
    assert_eq!(dword(&mut machine, RESULT), 65_544);
    assert_eq!([4, 6, 8].map(|n| word(&mut machine, RESULT + n)), [0x0100, 0x2026, 0x0101]);
}

#[test]
fn the_pci_bios() {
    let mut machine = run(|a| {
        a.mov(ax, 0xb101)?;
        a.int(0x1a)?;
        a.mov(dword_ptr(RESULT), edx)?;
        a.mov(word_ptr(RESULT + 4), bx)?;
        // The display adapter by its class, and its vendor.
        a.mov(ax, 0xb103)?;
        a.mov(ecx, 0x03_0000)?;
        a.xor(si, si)?;
        a.int(0x1a)?;
        a.mov(word_ptr(RESULT + 6), bx)?;
        a.mov(ax, 0xb109)?;
        a.xor(di, di)?;
        a.int(0x1a)?;
        a.mov(word_ptr(RESULT + 8), cx)
    });
    assert_eq!(dword(&mut machine, RESULT), u32::from_le_bytes(*b"PCI "));
    assert_eq!([4, 6, 8].map(|n| word(&mut machine, RESULT + n)), [0x0210, 2 << 3, 0x1234]);
}

#[test]
fn the_a20_gate() {
    let mut machine = run(|a| {
        a.mov(ax, 0x2400)?;
        a.int(0x15)?;
        a.mov(ax, 0xffff)?;
        a.mov(es, ax)?;
        // FFFF:0610 is 0000:0600 now.
        a.mov(word_ptr(RESULT + 0x10).es(), 0x55)?;
        a.mov(ax, 0x2402)?;
        a.int(0x15)?;
        a.mov(byte_ptr(RESULT + 2), al)?;
        a.mov(ax, 0x2401)?;
        a.int(0x15)?;
        a.mov(word_ptr(RESULT + 0x10).es(), 0x66)
    });
    assert_eq!((word(&mut machine, RESULT), bytes(&mut machine, RESULT + 2)), (0x55, [0]));
    assert_eq!(word(&mut machine, 0x10_0600), 0x66);
}

#[test]
fn the_timer_ticks_and_calls_programs() {
    let mut machine = run(|a| {
        let (mut start, mut wait) = (a.create_label(), a.create_label());
        a.jmp(start)?;
        // 7C08h.
        a.inc(word_ptr(RESULT).cs())?;
        a.iret()?;
        a.set_label(&mut start)?;
        a.mov(word_ptr(0x1c * 4), 0x7c08)?;
        a.mov(word_ptr(0x1c * 4 + 2), 0)?;
        a.set_label(&mut wait)?;
        a.hlt()?;
        a.cmp(word_ptr(RESULT), 3)?;
        a.jb(wait)
    });
    assert_eq!(word(&mut machine, RESULT), 3);
}

/// A program that waits for the 8254 by reading port 61h, as boot loaders do to measure the processor's clock.
#[test]
fn a_wait_by_a_clock_takes_few_instructions() {
    let mut machine = run(|a| {
        let mut wait = a.create_label();
        a.in_(al, 0x61)?;
        a.and(al, 0xfc)?;
        a.or(al, 1)?;
        a.out(0x61, al)?;
        a.rdtsc()?;
        a.mov(dword_ptr(RESULT), eax)?;
        // Channel 2 counts 65,535 down once.
        a.mov(al, 0xb0)?;
        a.out(0x43, al)?;
        a.mov(al, 0xff)?;
        a.out(0x42, al)?;
        a.out(0x42, al)?;
        a.set_label(&mut wait)?;
        a.in_(al, 0x61)?;
        a.test(al, 0x20)?;
        a.je(wait)?;
        a.rdtsc()?;
        a.mov(dword_ptr(RESULT + 4), eax)
    });
    let [before, after] = [0, 4].map(|n| dword(&mut machine, RESULT + n));
    let waited = after.wrapping_sub(before);
    assert!((54_924_000..54_930_000).contains(&waited), "{waited} ns");
    assert!(machine.icount() < 250_000, "{}", machine.icount());
}
