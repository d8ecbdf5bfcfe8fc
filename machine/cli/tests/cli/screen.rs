//! What a guest draws is what the picture and its text show; keys reach it.

use std::path::Path;

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::common::{guest, outcome, power_off, print, softmetal};

/// Mode 13h: registers of the sequencer, the CRT controller, the graphics and the attribute controller.
const MODE_13: [&[u8]; 4] = [
    &[0x03, 0x01, 0x0f, 0x00, 0x0e],
    &[
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96,
        0xb9, 0xa3, 0xff,
    ],
    &[0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff],
    &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0, 0],
];

/// Mode 12h: 640 by 480 in 16 colours.
const MODE_12: [&[u8]; 4] = [
    &[0x03, 0x01, 0x0f, 0x00, 0x06],
    &[
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xea, 0x8c, 0xdf, 0x28, 0x00, 0xe7,
        0x04, 0xe3, 0xff,
    ],
    &[0, 0, 0, 0, 0, 0, 0x05, 0x0f, 0xff],
    &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x01, 0, 0x0f, 0, 0],
];

/// The size and the pixels of a picture file.
fn picture(path: &Path) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    (info.width, info.height, rgb)
}

/// Programs a mode with `misc` in the miscellaneous output register and the registers of `mode`; DAC colour n becomes
/// (n mod 64, n / 4, 63 - n mod 64).
fn sets_mode(a: &mut CodeAssembler, misc: i32, mode: &[&[u8]; 4]) -> Result<(), IcedError> {
    // The table's address is what the call leaves on the stack.
    let mut start = a.create_label();
    a.cld()?;
    a.mov(ss, ax)?;
    a.mov(sp, 0x7000)?;
    a.call(start)?;
    a.db(&mode.concat())?;
    a.set_label(&mut start)?;
    a.pop(si)?;
    a.mov(dx, 0x3c2)?;
    a.mov(al, misc)?;
    a.out(dx, al)?;
    // The CRT controller's first registers are locked.
    a.mov(dx, 0x3d4)?;
    a.mov(ax, 0x0011)?;
    a.out(dx, ax)?;
    for (port, count) in [(0x3c4, 5), (0x3d4, 25), (0x3ce, 9)] {
        let mut next = a.create_label();
        a.mov(dx, port)?;
        a.mov(cx, count)?;
        a.xor(bx, bx)?;
        a.set_label(&mut next)?;
        a.lodsb()?;
        a.mov(ah, al)?;
        a.mov(al, bl)?;
        a.out(dx, ax)?;
        a.inc(bx)?;
        a.loop_(next)?;
    }
    a.mov(dx, 0x3da)?;
    a.in_(al, dx)?;
    a.mov(dx, 0x3c0)?;
    a.mov(cx, 21)?;
    a.xor(bx, bx)?;
    let mut next = a.create_label();
    a.set_label(&mut next)?;
    a.mov(al, bl)?;
    a.out(dx, al)?;
    a.lodsb()?;
    a.out(dx, al)?;
    a.inc(bx)?;
    a.loop_(next)?;
    a.mov(al, 0x20)?;
    a.out(dx, al)?;
    a.mov(dx, 0x3c8)?;
    a.xor(ax, ax)?;
    a.out(dx, al)?;
    a.inc(dx)?;
    a.mov(cx, 256)?;
    a.xor(bx, bx)?;
    let mut next = a.create_label();
    a.set_label(&mut next)?;
    a.mov(al, bl)?;
    a.and(al, 63)?;
    a.out(dx, al)?;
    a.mov(ah, al)?;
    a.mov(al, bl)?;
    a.shr(al, 2)?;
    a.out(dx, al)?;
    a.mov(al, 63)?;
    a.sub(al, ah)?;
    a.out(dx, al)?;
    a.inc(bx)?;
    a.loop_(next)
}

/// The pixel at x, y has colour x + y.
fn draws_in_mode_13h(a: &mut CodeAssembler) -> Result<(), IcedError> {
    sets_mode(a, 0x63, &MODE_13)?;
    a.mov(ax, 0xa000)?;
    a.mov(es, ax)?;
    a.xor(di, di)?;
    a.xor(bx, bx)?;
    let (mut row, mut next) = (a.create_label(), a.create_label());
    a.set_label(&mut row)?;
    a.mov(cx, 320)?;
    a.mov(al, bl)?;
    a.set_label(&mut next)?;
    a.stosb()?;
    a.inc(al)?;
    a.loop_(next)?;
    a.inc(bx)?;
    a.cmp(bx, 200)?;
    a.jne(row)?;
    power_off(a)?;
    a.hlt()
}

/// What is seen of DAC colour `n` after [`sets_mode`].
fn seen(n: u8) -> [u8; 3] {
    [n & 63, n >> 2, 63 - (n & 63)].map(|c| c << 2 | c >> 4)
}

/// The picture that the guest of `body` leaves is `width` by `height` with the colours of `color`; its folder.
fn draws(
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    (width, height): (u32, u32),
    color: impl Fn(u32, u32) -> [u8; 3],
) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let guest = guest(dir.path(), body);
    let path = dir.path().join("shot.png");
    let (code, _, words) = outcome(softmetal(&["test", guest.to_str().unwrap(), "--screenshot"]).arg(&path));
    assert_eq!(code, Some(0), "{words}");
    let (w, h, rgb) = picture(&path);
    assert_eq!((w, h), (width, height));
    for (n, pixel) in (0..).zip(rgb.chunks(3)) {
        let (x, y) = (n % width, n / width);
        assert_eq!(pixel, color(x, y), "at {x}, {y}");
    }
    dir
}

/// Each plane has the row's number at each even byte and the plane's number at the others.
fn draws_in_mode_12h(a: &mut CodeAssembler) -> Result<(), IcedError> {
    sets_mode(a, 0xe3, &MODE_12)?;
    a.mov(ax, 0xa000)?;
    a.mov(es, ax)?;
    let (mut plane, mut row, mut next) = (a.create_label(), a.create_label(), a.create_label());
    // The map mask selects the plane, whose number is in BP.
    a.mov(dx, 0x3c4)?;
    a.mov(ax, 0x0102)?;
    a.xor(bp, bp)?;
    a.set_label(&mut plane)?;
    a.out(dx, ax)?;
    a.push(ax)?;
    a.xor(di, di)?;
    a.xor(bx, bx)?;
    a.set_label(&mut row)?;
    a.mov(cx, 40)?;
    a.set_label(&mut next)?;
    a.mov(al, bl)?;
    a.stosb()?;
    a.mov(ax, bp)?;
    a.stosb()?;
    a.loop_(next)?;
    a.inc(bx)?;
    a.cmp(bx, 480)?;
    a.jne(row)?;
    a.pop(ax)?;
    a.shl(ah, 1)?;
    a.inc(bp)?;
    a.cmp(bp, 4)?;
    a.jne(plane)?;
    power_off(a)?;
    a.hlt()
}

#[test]
fn a_screenshot_of_mode_12h() {
    draws(draws_in_mode_12h, (640, 480), |x, y| {
        let byte = |plane: u8| if x / 8 % 2 == 0 { y as u8 } else { plane };
        seen((0..4).map(|plane| (byte(plane) >> (7 - x % 8) & 1) << plane).sum())
    });
}

/// The largest mode of the Bochs display interface, through the window of 64 KiB: pixel n is n times 3.
fn draws_in_a_linear_mode(a: &mut CodeAssembler) -> Result<(), IcedError> {
    const BANKS: i32 = 1920 * 1200 * 4 / 0x1_0000 + 1;
    let dispi = |a: &mut CodeAssembler, register: i32, value: i32| {
        a.mov(dx, 0x1ce)?;
        a.mov(ax, register)?;
        a.out(dx, ax)?;
        a.inc(dx)?;
        a.mov(ax, value)?;
        a.out(dx, ax)
    };
    for (register, value) in [(4, 0), (1, 1920), (2, 1200), (3, 32), (4, 0x41)] {
        dispi(a, register, value)?;
    }
    let (mut bank, mut next) = (a.create_label(), a.create_label());
    dispi(a, 5, 0)?;
    a.mov(si, ax)?;
    a.xor(ebx, ebx)?;
    a.mov(ax, 0xa000)?;
    a.mov(es, ax)?;
    a.set_label(&mut bank)?;
    a.mov(ax, si)?;
    a.out(dx, ax)?;
    a.xor(di, di)?;
    a.mov(cx, 0x4000)?;
    a.mov(eax, ebx)?;
    a.set_label(&mut next)?;
    a.stosd()?;
    a.add(eax, 3)?;
    a.loop_(next)?;
    a.mov(ebx, eax)?;
    a.inc(si)?;
    a.cmp(si, BANKS)?;
    a.jne(bank)?;
    power_off(a)?;
    a.hlt()
}

#[test]
fn a_screenshot_of_the_largest_linear_mode() {
    draws(draws_in_a_linear_mode, (1920, 1200), |x, y| {
        let [blue, green, red, _] = ((x + y * 1920) * 3).to_le_bytes();
        [red, green, blue]
    });
}

#[test]
fn a_screenshot_of_mode_13h() {
    let dir = draws(draws_in_mode_13h, (320, 200), |x, y| seen((x + y) as u8));
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside the picture: {names:?}");
}

/// Writes `text` into the top line and waits for a key's code; `next` follows.
fn asks(a: &mut CodeAssembler, text: &str, code: i32) -> Result<(), IcedError> {
    a.mov(ax, 0xb800)?;
    a.mov(es, ax)?;
    for (n, c) in (0..).zip(text.bytes()) {
        a.mov(word_ptr(n * 2).es(), 0x1f00 | i32::from(c))?;
    }
    let (mut again, mut pause) = (a.create_label(), a.create_label());
    a.set_label(&mut again)?;
    a.mov(cx, 10_000)?;
    a.set_label(&mut pause)?;
    a.loop_(pause)?;
    a.in_(al, 0x64)?;
    a.test(al, 1)?;
    a.je(again)?;
    a.in_(al, 0x60)?;
    a.cmp(al, code)?;
    a.jne(again)
}

#[test]
fn the_screen_is_read_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let guest = guest(dir.path(), |a| {
        asks(a, "F10?", 0x44)?;
        asks(a, "Shift", 0x2a)?;
        asks(a, "Z up", 0xac)?;
        print(a, "done")?;
        let mut stay = a.create_label();
        a.set_label(&mut stay)?;
        a.jmp(stay)
    });
    let guest = guest.to_str().unwrap();
    let path = dir.path().join("shot.png");
    let script = ["--screen-expect", "^F10\\? *$", "--key", "esc,f10", "--screen-expect", "Shift", "--type", "Z", "--expect", "done"];
    let (code, out, words) = outcome(softmetal(&["test", guest, "--screenshot"]).arg(&path).args(script));
    assert_eq!((code, &out[..]), (Some(0), "done"), "{words}");
    let (width, height, rgb) = picture(&path);
    assert_eq!((width, height), (720, 400));
    // White on blue where there is text (the end of "Shift" is left), in the firmware's font with an empty ninth column;
    // black elsewhere. The cursor may be seen at the top left.
    for (n, pixel) in rgb.chunks(3).enumerate() {
        let (x, y) = (n % 720, n / 720);
        let letter = b"Z upt".get(x / 9).filter(|_| y < 16);
        let lit = |c: u8| x % 9 < 8 && softmetal_firmware::FONT[usize::from(c)][y] & 0x80 >> (x % 9) != 0;
        let expected = letter.map_or([0; 3], |c| if lit(*c) { [0xff; 3] } else { [0, 0, 0xaa] });
        let cursor = x < 9 && (13..15).contains(&y);
        assert!(pixel == expected || cursor, "{pixel:?} at {x}, {y}");
    }
    // What never appears fails the test, and its report shows the screen.
    let (code, _, words) = outcome(&mut softmetal(&["test", guest, "--screen-expect", "never", "--guest-timeout", "0.1"]));
    assert_eq!(code, Some(124), "{words}");
    assert!(words.contains("never") && words.contains("| F10?"), "{words}");
}
