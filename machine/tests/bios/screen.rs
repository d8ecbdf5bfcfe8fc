//! INT 10h.

use super::*;

#[test]
fn a_teletype_prints_and_scrolls() {
    let machine = run(|a| {
        let mut next = a.create_label();
        a.mov(cx, 30)?;
        a.set_label(&mut next)?;
        for c in [b'n', b'=', 13, 10] {
            a.mov(ax, 0x0e00 | i32::from(c))?;
            a.int(0x10)?;
        }
        a.loop_(next)?;
        a.mov(ax, 0x0e41)?;
        a.int(0x10)
    });
    let text = text(&machine);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!((lines.len(), lines[0], lines[23], lines[24]), (25, "n=", "n=", "A"), "{text}");
}

#[test]
fn characters_and_attributes_are_written_and_read() {
    let mut machine = run(|a| {
        a.mov(ax, 3)?;
        a.int(0x10)?;
        // Row 5, column 10.
        a.mov(ah, 2)?;
        a.mov(bx, 0)?;
        a.mov(dx, 0x050a)?;
        a.int(0x10)?;
        a.mov(ax, 0x0958)?;
        a.mov(bx, 0x4e)?;
        a.mov(cx, 3)?;
        a.int(0x10)?;
        a.mov(ah, 8)?;
        a.mov(bh, 0)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT), ax)?;
        a.mov(ah, 3)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT + 2), dx)?;
        a.mov(ax, 0xb800)?;
        a.mov(es, ax)?;
        a.mov(ax, word_ptr((5 * 80 + 12) * 2).es())?;
        a.mov(word_ptr(RESULT + 4), ax)
    });
    assert_eq!([0, 2, 4].map(|n| word(&mut machine, RESULT + n)), [0x4e58, 0x050a, 0x4e58]);
    assert!(text(&machine).lines().nth(5).unwrap().starts_with("          XXX"));
}

/// Draws a pixel by INT 10h, 0Ch at (20, 10) in `mode`, a character at the top left, and reads the pixel back.
fn pixel(mode: i32, color: i32) -> (u32, u32, [u8; 3], u16) {
    let boot = sector(|a| {
        a.mov(ax, mode)?;
        a.int(0x10)?;
        a.mov(ax, 0x0c00 | color)?;
        a.mov(bx, 0)?;
        a.mov(cx, 20)?;
        a.mov(dx, 10)?;
        a.int(0x10)?;
        a.mov(ax, 0x0d00)?;
        a.int(0x10)?;
        a.xor(ah, ah)?;
        a.mov(word_ptr(RESULT), ax)?;
        a.mov(ax, 0x0edb)?;
        a.mov(bx, 3)?;
        a.int(0x10)
    });
    let mut machine = machine(Plugs { disks: vec![disk(numbered(&boot, 1 << 20))], ..plugs() });
    finish(&mut machine);
    let image = machine.screen().unwrap();
    // Low modes are shown with each pixel twice.
    let (sx, sy) = (image.width / if mode == 0x13 || mode <= 5 || mode == 0x0d { 320 } else { 640 }, image.height / lines(mode));
    let at = |x: u32, y: u32| -> [u8; 3] {
        let i = ((y * sy * image.width + x * sx) * 3) as usize;
        image.rgb[i..i + 3].try_into().unwrap()
    };
    assert_ne!(at(3, 3), at(60, 60), "mode {mode:#x}: the block is not seen");
    (image.width / sx, image.height / sy, at(20, 10), word(&mut machine, RESULT))
}

fn lines(mode: i32) -> u32 {
    match mode {
        0x10 => 350,
        0x12 => 480,
        _ => 200,
    }
}

#[test]
fn pixels_in_graphics_modes() {
    let yellow = [255, 255, 85];
    assert_eq!(pixel(0x13, 14), (320, 200, yellow, 14));
    assert_eq!(pixel(0x12, 14), (640, 480, yellow, 14));
    assert_eq!(pixel(0x10, 14), (640, 350, yellow, 14));
    assert_eq!(pixel(0x0d, 14), (320, 200, yellow, 14));
    // Light cyan, light magenta, white.
    assert_eq!(pixel(0x04, 1), (320, 200, [85, 255, 255], 1));
    assert_eq!(pixel(0x06, 1), (640, 200, [255, 255, 255], 1));
}

#[test]
fn linear_modes() {
    let mut machine = run(|a| {
        // What there is, then 1024 by 768 with 32 bits, then its description.
        a.mov(dword_ptr(0x1000), u32::from_le_bytes(*b"VBE2"))?;
        a.mov(di, 0x1000)?;
        a.mov(ax, 0x4f00)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT), ax)?;
        a.mov(ax, 0x4f01)?;
        a.mov(cx, 0x4144)?;
        a.mov(di, 0x1400)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT + 2), ax)?;
        a.mov(ax, 0x4f02)?;
        a.mov(bx, 0x4144)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT + 4), ax)?;
        a.mov(ax, 0x4f03)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT + 6), bx)?;
        // A pixel by the window: bank 0.
        a.mov(ax, 0xa000)?;
        a.mov(es, ax)?;
        a.mov(dword_ptr(4).es(), 0x00ff_8040)
    });
    assert_eq!([0, 2, 4].map(|n| word(&mut machine, RESULT + n)), [0x004f; 3]);
    assert_eq!(word(&mut machine, RESULT + 6), 0x4144);
    assert_eq!((bytes(&mut machine, 0x1000), word(&mut machine, 0x1004)), (*b"VESA", 0x300));
    // The list of modes is in the ROM and ends.
    let list = u64::from(word(&mut machine, 0x1010)) * 16 + u64::from(word(&mut machine, 0x100e));
    let modes: Vec<u16> = (0..200).map(|n| word(&mut machine, list + 2 * n)).take_while(|n| *n != 0xffff).collect();
    assert!(modes.len() < 200 && modes.contains(&0x144) && modes.contains(&0x189), "{modes:x?}");
    assert_eq!([0x10, 0x12, 0x14].map(|at| word(&mut machine, 0x1400 + at)), [4096, 1024, 768]);
    assert_eq!((bytes(&mut machine, 0x1419), dword(&mut machine, 0x1428) & 0xffff), ([32], 0));
    let image = machine.screen().unwrap();
    assert_eq!((image.width, image.height, &image.rgb[3..6]), (1024, 768, &[0xff, 0x80, 0x40][..]));
}

/// The registers, variables and colours of a mode come back as they were saved, and with them the picture.
#[test]
fn states_are_saved_and_put_back() {
    // 4F04h saves and restores all, 1Ch all but the display interface.
    for (function, parts, mode, other) in [(0x4f04, 15, 0x4145, 0x0013), (0x4f04, 15, 0x12, 0x4115), (0x1c00, 7, 0x12, 0x0003)] {
        let call = move |a: &mut CodeAssembler, what: i32| {
            if function == 0x1c00 {
                a.mov(ax, function | what)?;
            } else {
                a.mov(ax, function)?;
                a.mov(dx, what)?;
            }
            a.mov(cx, parts)?;
            a.mov(bx, 0x3000)?;
            a.int(0x10)
        };
        let set = |a: &mut CodeAssembler, mode: i32| {
            a.mov(ax, 0x4f02)?;
            a.mov(bx, mode)?;
            a.int(0x10)
        };
        let boot = sector(|a| {
            set(a, mode)?;
            // Colour 5 is one of its own; the cursor of page 0 is somewhere.
            a.mov(ax, 0x1010)?;
            a.mov(bx, 5)?;
            a.mov(cx, 0x0a14)?;
            a.mov(dx, 0x1e00)?;
            a.int(0x10)?;
            a.mov(ax, 0x0200)?;
            a.mov(bx, 0)?;
            a.mov(dx, 0x0304)?;
            a.int(0x10)?;
            call(a, 0)?;
            a.mov(word_ptr(RESULT), ax)?;
            a.mov(word_ptr(RESULT + 2), bx)?;
            call(a, 1)?;
            a.mov(word_ptr(RESULT + 4), ax)?;
            set(a, other)?;
            call(a, 2)?;
            a.mov(word_ptr(RESULT + 6), ax)?;
            // Saved once more, it is the same.
            a.mov(word_ptr(RESULT + 8), 0)?;
            a.mov(bx, 0x3000)?;
            a.mov(di, 0x3000 + 64 * 16)?;
            a.mov(si, 0x3000)?;
            a.mov(cx, 64 * 16 / 2)?;
            a.rep().movsw()?;
            call(a, 1)
        });
        let mut machine = machine(Plugs { disks: vec![disk(numbered(&boot, 1 << 20))], ..plugs() });
        finish(&mut machine);
        let ok = if function == 0x1c00 { 0x1c } else { 0x4f };
        assert_eq!([0, 4, 6].map(|n| word(&mut machine, RESULT + n) & 0x1ff), [ok; 3], "{function:x}");
        let blocks = word(&mut machine, RESULT + 2);
        assert!((14..=16).contains(&blocks), "{blocks} blocks");
        let first: [u8; 1024] = bytes(&mut machine, 0x3000 + 1024);
        assert_eq!(first, bytes(&mut machine, 0x3000), "{function:x}, mode {mode:x}");
        let size = |machine: &Machine| machine.screen().map(|image| (image.width, image.height));
        assert_eq!(size(&machine), Some(if mode == 0x12 { (640, 480) } else { (1280, 1024) }));
        assert_eq!((bytes(&mut machine, 0x449), word(&mut machine, 0x450)), ([if mode == 0x12 { 0x12 } else { 3 }], 0x0304));
    }
}

#[test]
fn the_monitor_is_described() {
    let mut machine = run(|a| {
        a.mov(ax, 0x4f15)?;
        a.mov(bx, 0)?;
        a.mov(cx, 0)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT), ax)?;
        a.mov(word_ptr(RESULT + 2), bx)?;
        a.mov(ax, 0x4f15)?;
        a.mov(bx, 1)?;
        a.mov(dx, 0)?;
        a.mov(di, 0x3000)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT + 4), ax)?;
        // There is no second block.
        a.mov(ax, 0x4f15)?;
        a.mov(dx, 1)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT + 6), ax)
    });
    assert_eq!([0, 2, 4, 6].map(|n| word(&mut machine, RESULT + n)), [0x004f, 0x0102, 0x004f, 0x014f]);
    let edid: [u8; 128] = bytes(&mut machine, 0x3000);
    assert_eq!((&edid[..8], edid.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))), (&b"\0\xff\xff\xff\xff\xff\xff\0"[..], 0));
}

/// The functions that INT 10h, 4F0Ah gives, copied elsewhere and called in a 32-bit segment.
#[test]
fn the_vbe_in_protected_mode() {
    /// Where the guest copies them to, and where its 32-bit code is in the boot sector.
    const COPY: u32 = 0x8000;
    const WIDE: usize = 0xc0;
    let mut boot = sector(|a| {
        a.mov(ax, 0x4f02)?;
        a.mov(bx, 0x101)?;
        a.int(0x10)?;
        a.mov(ax, 0x4f0a)?;
        a.xor(bx, bx)?;
        a.int(0x10)?;
        a.mov(word_ptr(RESULT), ax)?;
        a.push(es)?;
        a.pop(ds)?;
        a.mov(si, di)?;
        a.xor(ax, ax)?;
        a.mov(es, ax)?;
        a.mov(di, COPY as i32)?;
        a.cld()?;
        a.rep().movsb()?;
        a.mov(ds, ax)?;
        // Descriptors: code at 08h, data at 10h.
        for (at, word) in [(0x508u64, 0xffffu32), (0x50c, 0xcf_9b00), (0x510, 0xffff), (0x514, 0xcf_9300), (0x702, 0x500)] {
            a.mov(dword_ptr(at), word)?;
        }
        a.mov(word_ptr(0x700), 0x17)?;
        a.cli()?;
        a.lgdt(ptr(0x700))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        // jmp 08h, 32-bit code from there on.
        a.db(&[0x66, 0xea])?;
        a.dd(&[0x7c00 + WIDE as u32])?;
        a.dw(&[8])
    });
    let mut a = CodeAssembler::new(32).unwrap();
    let guest = |a: &mut CodeAssembler| {
        a.mov(eax, 0x10)?;
        for segment in [ds, es, ss] {
            a.mov(segment, eax)?;
        }
        a.mov(esp, 0x7000)?;
        a.mov(dword_ptr(0x6f0), 0x0003_0201)?;
        a.mov(edi, 0x6f0)?;
        // Which function, BX, CX, DX: the second bank; line 10, pixel 8; colour 5; what cannot be.
        let start = (640 * 10 + 8) / 4;
        let calls = [(0, 0, 0, 2), (1, 0x80, start, 0), (2, 0, 1, 5), (0, 1, 0, 0), (1, 2, 0, 0), (2, 0, 2, 255)];
        for (n, (function, b, c, d)) in calls.into_iter().enumerate() {
            for (register, value) in [(ebx, b), (ecx, c), (edx, d)] {
                a.mov(register, value)?;
            }
            a.movzx(eax, word_ptr(COPY + 2 * function))?;
            a.add(eax, COPY as i32)?;
            a.call(eax)?;
            a.mov(word_ptr(RESULT + 2 + 2 * n as u64), ax)?;
        }
        power_off(a)
    };
    guest(&mut a).unwrap();
    let code = a.assemble(0x7c00 + WIDE as u64).unwrap();
    assert!(boot[WIDE..510].len() >= code.len() && boot[WIDE..WIDE + code.len()].iter().all(|byte| *byte == 0));
    boot[WIDE..WIDE + code.len()].copy_from_slice(&code);
    let mut machine = machine(Plugs { disks: vec![disk(numbered(&boot, 1 << 20))], ..plugs() });
    finish(&mut machine);
    let answers: [u16; 7] = std::array::from_fn(|n| word(&mut machine, RESULT + 2 * n as u64));
    assert_eq!(answers, [0x4f, 0x4f, 0x4f, 0x4f, 0x14f, 0x14f, 0x14f]);
    let at = machine.icount();
    let bus = &mut machine.processor_mut().cpu.bus;
    let mut dispi = |register| {
        bus.port_write(at, 0x1ce, 2, register);
        bus.port_read(at, 0x1cf, 2)
    };
    assert_eq!([5, 8, 9].map(&mut dispi), [2, 8, 10]);
    bus.port_write(at, 0x3c7, 1, 5);
    assert_eq!([(); 3].map(|()| bus.port_read(at, 0x3c9, 1)), [3, 2, 1]);
}
