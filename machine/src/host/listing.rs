//! What the translator has made, for `perf` and for readers.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use softmetal_cpu::translator::{Listener, Translated};

/// Where `perf report` looks for the names of this process's translated code.
#[must_use]
pub fn map_path() -> PathBuf {
    format!("/tmp/perf-{}.map", std::process::id()).into()
}

/// Lists each translated block in [`map_path`], if `map`, and shows on standard error what becomes of the block at `dump`.
///
/// # Errors
/// If the file cannot be made.
pub fn listener(map: bool, dump: Option<u64>) -> io::Result<Listener> {
    let mut map = map.then(|| File::create(map_path()).map(BufWriter::new)).transpose()?;
    Ok(Box::new(move |t| {
        if let Some(file) = &mut map {
            // Without the file, perf shows addresses: the guest need not stop for that.
            let kind = if t.trace { "trace" } else { "guest" };
            let mut list = || t.code.iter().try_for_each(|(at, code)| writeln!(file, "{at:x} {:x} {kind}_{:#x}", code.len(), t.rip));
            let _ = list().and_then(|()| file.flush());
        }
        if dump == Some(t.rip) {
            let _ = io::stderr().write_all(listing(t).as_bytes());
        }
    }))
}

/// The guest's instructions and the host's.
fn listing(t: &Translated<'_>) -> String {
    let guest: String = t.guest.iter().map(|(at, bytes)| instructions(*at, bytes)).collect();
    let [straight, aside] = t.code.map(|(at, code)| instructions(at, code));
    format!("{}:\n{guest}host:\n{straight}aside:\n{aside}", if t.trace { "trace" } else { "guest" })
}

fn instructions(at: u64, bytes: &[u8]) -> String {
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    let mut i = Instruction::default();
    let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
    while decoder.can_decode() {
        decoder.decode_out(&mut i);
        text += &format!("{:>16x}  ", i.ip());
        formatter.format(&i, &mut text);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_shows_both_sides() {
        let t = Translated {
            rip: 0x1000,
            trace: true,
            guest: &[(0x1000, &[0x90, 0xeb, 0x30]), (0x1033, &[0xeb, 0xcb])],
            code: [(0x7000, &[0x48, 0x89, 0xd8]), (0x9000, &[0x90])],
        };
        let text = listing(&t);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let guest = ["1000  nop", "1001  jmp short 0000000000001033h", "1033  jmp short 0000000000001000h"];
        assert_eq!(lines, [&["trace:"][..], &guest, &["host:", "7000  mov rax,rbx", "aside:", "9000  nop"]].concat());
    }
}
