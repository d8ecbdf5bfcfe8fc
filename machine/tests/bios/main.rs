//! The built-in BIOS as boot sectors meet it: each test assembles one, boots it from a drive and looks at what it leaves.

mod disks;
mod keys;
mod power;
mod screen;
mod system;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_bus::{Drive, Request, SharedDisk};
use softmetal_machine::board::{BootDevice, Disk, Interface, Plugs};
use softmetal_machine::machine::{Config, Images, Machine, Turn};
use softmetal_testroms::image::{boot_sector, power_off};

const MEMORY: u64 = 16 << 20;
/// The most instructions that a guest here needs.
const LIMIT: u64 = 200_000_000;
/// Where guests put what they found.
const RESULT: u64 = 0x600;

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A boot sector: `build`, then power-off.
fn sector(build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    boot_sector(|a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        build(a)?;
        power_off(a)
    })
}

/// `head` and zeros, `len` bytes in all, with the number of each later sector in its first bytes.
fn numbered(head: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (n, sector) in bytes.chunks_mut(512).enumerate() {
        sector[..4].copy_from_slice(&(n as u32).to_le_bytes());
    }
    bytes[..head.len()].copy_from_slice(head);
    bytes
}

fn shared(bytes: Vec<u8>) -> SharedDisk {
    SharedDisk::new(bytes)
}

fn disk(bytes: Vec<u8>) -> Disk {
    Disk { backend: shared(bytes), interface: Interface::Virtio }
}

fn plugs() -> Plugs {
    Plugs { vga: true, seed: 1, rtc: 1_767_225_600 + 3600, ..Plugs::default() }
}

/// A machine that boots from its drives.
fn machine(plugs: Plugs) -> Machine {
    Machine::new(Config { memory: MEMORY, model: Default::default(), plugs, images: Images::default() }).unwrap()
}

/// Runs to the guest's power-off.
fn finish(machine: &mut Machine) {
    assert_eq!(machine.run_until(LIMIT), Turn::Request(Request::PowerOff));
}

/// Lets `ns` of virtual time pass; how often the guest waited meanwhile.
fn pass(machine: &mut Machine, ns: u64) -> u32 {
    let end = machine.now().0 + ns;
    let mut waits = 0;
    while machine.now().0 < end {
        let limit = machine.count_at(softmetal_bus::Time(end));
        match machine.turn(limit) {
            Turn::Idle(Some(time)) => {
                waits += 1;
                machine.jump(time);
            }
            Turn::Ran | Turn::Limit => {}
            other => panic!("{other:?}"),
        }
    }
    waits
}

/// Boots `build` from a hard disk of 8 MiB to its end.
fn run(build: Build) -> Machine {
    let mut machine = machine(Plugs { disks: vec![disk(numbered(&sector(build), 8 << 20))], ..plugs() });
    finish(&mut machine);
    machine
}

fn bytes<const N: usize>(machine: &mut Machine, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    assert!(machine.processor_mut().cpu.debug_read(at, &mut bytes));
    bytes
}

fn word(machine: &mut Machine, at: u64) -> u16 {
    u16::from_le_bytes(bytes(machine, at))
}

fn dword(machine: &mut Machine, at: u64) -> u32 {
    u32::from_le_bytes(bytes(machine, at))
}

fn text(machine: &Machine) -> String {
    machine.screen_text(&[]).unwrap()
}

/// Stores the flags at `at`.
fn store_flags(a: &mut CodeAssembler, at: u64) -> Result<(), IcedError> {
    a.pushf()?;
    a.pop(word_ptr(at))
}

#[test]
fn falls_through_to_the_next_device() {
    let empty = disk(vec![0; 1 << 20]);
    let floppy = Drive::with(shared(numbered(&sector(|a| a.mov(byte_ptr(RESULT), dl)), 1440 << 10)));
    let plugs = Plugs { disks: vec![empty], cdroms: vec![Drive::new()], floppies: vec![floppy], ..plugs() };
    let mut machine = machine(plugs);
    finish(&mut machine);
    assert_eq!(bytes(&mut machine, RESULT), [0]);
    let text = text(&machine);
    for line in ["Booting from hard disk...", "not bootable", "Booting from CD-ROM...", "no medium", "Booting from floppy..."] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn says_that_nothing_can_be_booted() {
    let plugs = Plugs { disks: vec![disk(vec![0; 1 << 20])], boot: vec![BootDevice::Disk, BootDevice::Net], ..plugs() };
    let mut machine = machine(plugs);
    // It waits for somebody to press Ctrl-Alt-Del.
    pass(&mut machine, 100_000_000);
    assert!(text(&machine).contains("No bootable device."), "{}", text(&machine));
    assert!(machine.press(&[0x1d, 0x38, 0xe0, 0x53]));
    assert_eq!(machine.run_until(LIMIT), Turn::Request(Request::Reset));
}

#[test]
fn a_boot_that_gives_up_is_followed_by_the_next() {
    let plugs = Plugs {
        disks: vec![disk(numbered(&sector(|a| a.int(0x18)), 1 << 20))],
        floppies: vec![Drive::with(shared(numbered(&sector(|a| a.mov(byte_ptr(RESULT), 0x5a)), 1440 << 10)))],
        ..plugs()
    };
    let mut machine = machine(plugs);
    finish(&mut machine);
    assert_eq!(bytes(&mut machine, RESULT), [0x5a]);
}

/// A guest that resets by each of the ways that there are comes up through the BIOS again.
#[test]
fn reboots() {
    let ways: [Build; 3] = [
        |a| {
            a.mov(al, 0xfe)?;
            a.out(0x64, al)
        },
        |a| {
            // jmp FFFF:0000
            a.db(&[0xea, 0, 0, 0xff, 0xff])
        },
        |a| {
            a.mov(dx, 0xcf9)?;
            a.mov(al, 6)?;
            a.out(dx, al)
        },
    ];
    for way in ways {
        // The first time it counts up and resets; the second time it goes on to power-off.
        let boot = sector(|a| {
            let mut end = a.create_label();
            a.inc(byte_ptr(RESULT))?;
            a.cmp(byte_ptr(RESULT), 2)?;
            a.je(end)?;
            way(a)?;
            a.hlt()?;
            a.set_label(&mut end)?;
            a.nop()
        });
        let mut machine = machine(Plugs { disks: vec![disk(numbered(&boot, 1 << 20))], ..plugs() });
        assert_eq!(machine.run_until(LIMIT), Turn::Request(Request::Reset));
        machine.reset();
        finish(&mut machine);
        assert_eq!(bytes(&mut machine, RESULT), [2]);
    }
}

/// Where a run is cut into slices changes nothing, even right after a call of the BIOS.
#[test]
fn slices_do_not_show() {
    let build: Build = |a| {
        for c in b"hello" {
            a.mov(ax, 0x0e00 | i32::from(*c))?;
            a.int(0x10)?;
        }
        Ok(())
    };
    let mut whole = run(build);
    let count = whole.icount();
    let mut cut = machine(Plugs { disks: vec![disk(numbered(&sector(build), 8 << 20))], ..plugs() });
    let mut at = 0;
    let last = loop {
        at += 1;
        match cut.run_until(at) {
            Turn::Limit => {}
            other => break other,
        }
    };
    assert_eq!((last, cut.icount()), (Turn::Request(Request::PowerOff), count));
    assert_eq!(cut.state_hash(), whole.state_hash());
}
