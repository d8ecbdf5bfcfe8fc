//! Guests of one boot sector, and the built command.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_testroms::image::boot_sector;
pub use softmetal_testroms::image::power_off;

/// A command line of the built binary.
pub fn softmetal(args: &[&str]) -> Command {
    let mut command = crate::binary::command();
    command.args(args);
    command
}

/// Runs it to its end: exit code, stdout, stderr.
pub fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

/// Writes a guest into `dir`.
pub fn guest(dir: &Path, body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> PathBuf {
    let bytes = boot_sector(|a| {
        a.cli()?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        body(a)
    });
    let path = dir.join("guest.bin");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Writes `text` to the first serial port.
pub fn print(a: &mut CodeAssembler, text: &str) -> Result<(), IcedError> {
    a.mov(dx, 0x3f8)?;
    for c in text.bytes() {
        a.mov(al, i32::from(c))?;
        a.out(dx, al)?;
    }
    Ok(())
}

/// Prints a prompt, then echoes what is typed; `q` powers off.
pub fn echo(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut off) = (a.create_label(), a.create_label());
    print(a, "> ")?;
    a.set_label(&mut again)?;
    a.mov(dx, 0x3fd)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.jz(again)?;
    a.mov(dx, 0x3f8)?;
    a.in_(al, dx)?;
    a.cmp(al, i32::from(b'q'))?;
    a.je(off)?;
    a.out(dx, al)?;
    a.jmp(again)?;
    a.set_label(&mut off)?;
    power_off(a)
}
