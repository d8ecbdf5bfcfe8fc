//! Linux on a screen: what it shows is read, and a shell on it is typed at.

use crate::{images, passes, softmetal};

/// Every kind of character, a key held together with another, and what the kernel makes of the keyboard.
const SCRIPT: [&str; 14] = [
    "--screen-expect",
    "guest# $",
    "--type",
    "clear; echo \"{~|$((6*7))_^}\"; sleep 1000\\n",
    "--screen-expect",
    r"^\{~\|42_\^\}",
    "--key",
    "ctrl-c",
    "--type",
    "echo code=$?; cat /proc/bus/input/devices\\n",
    "--screen-expect",
    "^code=130",
    "--screen-expect",
    "^N: Name=\"AT Translated Set 2 keyboard\"",
];

#[test]
fn a_shell_on_the_text_console() {
    if images("busybox").is_none() {
        return;
    }
    passes(softmetal().args(["test", "busybox", "--append", "console=tty0"]).args(SCRIPT));
}

#[test]
fn a_shell_on_the_framebuffer_console() {
    if images("busybox-full").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("console.png");
    let log = passes(
        softmetal()
            .args(["test", "busybox-full", "--append", "console=tty0"])
            .args(SCRIPT)
            .args(["--screen-expect", "^N: Name=\"ImExPS/2 Generic Explorer Mouse\"", "--screenshot"])
            .arg(&picture),
    );
    assert!(log.contains("frame buffer device 128x48"), "{log}");
    let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(picture).unwrap())).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    assert_eq!((info.width, info.height), (1024, 768));
    // Light grey letters on black; the first one is the brace that was printed, in the kernel's font (VGA8x16).
    let grey = [0xaa; 3];
    assert!(rgb.chunks(3).all(|pixel| pixel == [0; 3] || pixel == grey), "two colours");
    let lit = |x: usize, y: usize| rgb[(y * 1024 + x) * 3] != 0;
    let cell: [u8; 16] = std::array::from_fn(|y| (0..8).fold(0, |row, x| row << 1 | u8::from(lit(x, y))));
    assert_eq!(cell, [0, 0, 0x0e, 0x18, 0x18, 0x18, 0x70, 0x18, 0x18, 0x18, 0x18, 0x0e, 0, 0, 0, 0], "the letter {{");
    assert!((0..1024).all(|x| !lit(x, 767)), "the last line is empty");
}

#[test]
fn a_shell_is_typed_at_by_virtio() {
    if images("busybox-full").is_none() {
        return;
    }
    let typed = ["--type", "clear; echo \"{~|$((6*7))_^}\"; grep Softmetal /proc/bus/input/devices\\n"];
    let seen = ["--screen-expect", r"^\{~\|42_\^\}", "--screen-expect", "Softmetal keyboard", "--screen-expect", "Softmetal mouse"];
    let machine = ["test", "busybox-full", "--append", "console=tty0", "--input", "virtio", "--screen-expect", "guest# $"];
    passes(softmetal().args(machine).args(typed).args(seen));
}

#[test]
fn a_shell_on_the_framebuffer_that_uefi_leaves() {
    if images("busybox").is_none() || !crate::firmware::available(&softmetal_machine::host::firmware::UEFI) {
        return;
    }
    let script = ["--screen-expect", "guest# $", "--type", "clear; cat /proc/fb\\n", "--screen-expect", "^0 EFI VGA"];
    passes(softmetal().args(["test", "busybox", "--firmware", "uefi", "--append", "console=tty0"]).args(script));
}
