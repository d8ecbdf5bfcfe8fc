//! APM, and resets of the processor that are no start.

use super::*;

/// INT 15h, 53h, function `function` for device `device`.
fn apm(a: &mut CodeAssembler, function: i32, device: i32) -> Result<(), IcedError> {
    a.mov(ax, 0x5300 | function)?;
    a.mov(bx, device)?;
    a.int(0x15)
}

#[test]
fn apm_is_there() {
    let mut machine = run(|a| {
        apm(a, 0, 0)?;
        store_flags(a, RESULT)?;
        for (n, register) in [ax, bx, cx].into_iter().enumerate() {
            a.mov(word_ptr(RESULT + 2 + 2 * n as u64), register)?;
        }
        apm(a, 1, 0)?;
        // Idle until the next tick of the timer.
        a.mov(ax, word_ptr(0x46c))?;
        a.push(ax)?;
        apm(a, 5, 0)?;
        a.pop(bx)?;
        a.mov(ax, word_ptr(0x46c))?;
        a.sub(ax, bx)?;
        a.mov(word_ptr(RESULT + 8), ax)?;
        // No event, on line.
        apm(a, 0x0b, 0)?;
        a.mov(word_ptr(RESULT + 10), ax)?;
        apm(a, 0x0a, 1)?;
        a.mov(word_ptr(RESULT + 12), bx)
    });
    assert_eq!(word(&mut machine, RESULT) & 1, 0);
    assert_eq!([2, 4, 6].map(|n| word(&mut machine, RESULT + n)), [0x0102, 0x504d, 3]);
    assert_eq!([8, 10, 12].map(|n| word(&mut machine, RESULT + n)), [1, 0x800b, 0x01ff]);
}

#[test]
fn apm_switches_off() {
    let boot = sector(|a| {
        apm(a, 1, 0)?;
        a.mov(cx, 3)?;
        apm(a, 7, 1)?;
        a.mov(byte_ptr(RESULT), 1)
    });
    let mut machine = machine(Plugs { disks: vec![disk(numbered(&boot, 1 << 20))], ..plugs() });
    finish(&mut machine);
    assert_eq!(bytes(&mut machine, RESULT), [0]);
}

/// The 32-bit interface, called through the selectors that its connection names.
#[test]
fn apm_switches_off_from_protected_mode() {
    let mut boot = sector(|a| {
        apm(a, 3, 0)?;
        a.mov(dword_ptr(0x700), ebx)?;
        a.mov(word_ptr(0x704), 8)?;
        // Descriptors: code of the interface at 08h, our code at 10h, data at 18h.
        let table: [(u64, u32, u32); 3] =
            [(0x508, 0x0000_ffff, 0x0040_9b0f), (0x510, 0x0000_ffff, 0x0040_9b00), (0x518, 0xffff, 0xcf_9300)];
        for (at, low, high) in table {
            a.mov(dword_ptr(at), low)?;
            a.mov(dword_ptr(at + 4), high)?;
        }
        a.mov(word_ptr(0x600), 0x1f)?;
        a.mov(dword_ptr(0x602), 0x500)?;
        a.cli()?;
        a.lgdt(ptr(0x600))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        // jmp 10h:7D00h; 32-bit code from there on.
        a.db(&[0x66, 0xea])?;
        a.dd(&[0x7d00])?;
        a.dw(&[0x10])
    });
    let mut a = CodeAssembler::new(32).unwrap();
    let off = |a: &mut CodeAssembler| {
        a.mov(eax, 0x18)?;
        a.mov(ds, eax)?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x7000)?;
        a.mov(eax, 0x5307)?;
        a.mov(ebx, 1)?;
        a.mov(ecx, 3)?;
        // call far [700h]
        a.db(&[0xff, 0x1d])?;
        a.dd(&[0x700])
    };
    off(&mut a).unwrap();
    let code = a.assemble(0x7d00).unwrap();
    assert!(boot[0x100..0x100 + code.len()].iter().all(|byte| *byte == 0));
    boot[0x100..0x100 + code.len()].copy_from_slice(&code);
    let mut machine = machine(Plugs { disks: vec![disk(numbered(&boot, 1 << 20))], ..plugs() });
    finish(&mut machine);
    assert_eq!(machine.processor().cpu.state.cr0 & 1, 1);
}

/// Writes shutdown code `code` and the double word at 40:67, then resets the processor by `way`.
fn shuts_down(a: &mut CodeAssembler, code: i32, target: u32, way: Build) -> Result<(), IcedError> {
    a.mov(al, 0x8f)?;
    a.out(0x70, al)?;
    a.mov(al, code)?;
    a.out(0x71, al)?;
    a.mov(dword_ptr(0x467), target)?;
    way(a)?;
    a.hlt()
}

#[test]
fn the_processor_alone_is_reset() {
    let ways: [Build; 3] = [
        |a| {
            a.mov(al, 0xfe)?;
            a.out(0x64, al)
        },
        |a| {
            a.in_(al, 0x92)?;
            a.or(al, 1)?;
            a.out(0x92, al)
        },
        // A triple fault.
        |a| {
            a.mov(dword_ptr(0x620), 0)?;
            a.mov(word_ptr(0x624), 0)?;
            a.lidt(ptr(0x620))?;
            a.int3()
        },
    ];
    for (n, way) in ways.into_iter().enumerate() {
        for code in [0x05, 0x0a, 0x0b, 0x0c] {
            let boot = sector(|a| {
                let (mut first, mut end) = (a.create_label(), a.create_label());
                a.inc(byte_ptr(RESULT))?;
                a.cmp(byte_ptr(RESULT), 1)?;
                a.je(first)?;
                // What the shutdown byte is now.
                a.mov(al, 0x0f)?;
                a.out(0x70, al)?;
                a.in_(al, 0x71)?;
                a.mov(byte_ptr(RESULT + 1), al)?;
                a.jmp(end)?;
                a.set_label(&mut first)?;
                // What IRET and RETF take: 0000:7C00 again, carry.
                a.mov(dword_ptr(0x5000), 0x7c00)?;
                a.mov(word_ptr(0x5004), 3)?;
                shuts_down(a, code, if code < 0x0b { 0x7c00 } else { 0x5000 }, way)?;
                a.set_label(&mut end)?;
                a.nop()
            });
            let mut machine = machine(Plugs { disks: vec![disk(numbered(&boot, 1 << 20))], ..plugs() });
            finish(&mut machine);
            assert_eq!(bytes(&mut machine, RESULT), [2, 0], "way {n}, code {code:x}");
        }
    }
}

/// Without a word to the BIOS, or with one that it does not know, a reset is a start.
#[test]
fn other_shutdown_codes_start_anew() {
    for code in [0x00, 0x04, 0x09, 0xff] {
        let boot = sector(|a| {
            shuts_down(a, code, 0x7c00, |a| {
                a.mov(al, 0xfe)?;
                a.out(0x64, al)
            })
        });
        let mut machine = machine(Plugs { disks: vec![disk(numbered(&boot, 1 << 20))], ..plugs() });
        assert_eq!(machine.run_until(LIMIT), Turn::Request(Request::Reset), "{code:x}");
    }
}
