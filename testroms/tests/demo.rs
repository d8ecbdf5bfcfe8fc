//! The demonstration guest, from power-on to power-off.

use softmetal_bus::Request;
use softmetal_firmware::{HEAD_LEN, ImageKind, detect};
use softmetal_machine::board::{Plugs, chips::id};
use softmetal_machine::machine::{Config, Images, Machine, Turn};
use softmetal_testroms::demo;

/// The log up to the prompt, and what keys bring about after it.
const LOG: &str = include_str!("demo.log");

struct Run {
    machine: Machine,
    log: String,
}

impl Run {
    /// The demonstration, run until it waits for keys.
    fn new() -> Self {
        let images = Images { kernel: demo().into(), ..Images::default() };
        let plugs = Plugs { rtc: 1_767_225_600, ..Plugs::default() };
        let machine = Machine::new(Config { memory: 512 << 20, model: Default::default(), plugs, images }).unwrap();
        let mut run = Self { machine, log: String::new() };
        assert_eq!(run.go(), Turn::Idle(None), "{}", run.log);
        run
    }

    /// Runs until the guest sleeps for good or ends.
    fn go(&mut self) -> Turn {
        let turn = self.machine.run_until(self.machine.icount() + 20_000_000);
        for (device, bytes) in self.machine.take_output() {
            assert_eq!(device, id::COM1);
            self.log.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        turn
    }

    fn keys(&mut self, keys: &[u8]) -> Turn {
        assert_eq!(self.machine.type_serial(keys), keys.len());
        self.go()
    }
}

#[test]
fn it_is_a_boot_sector_image() {
    let image = demo();
    assert_eq!(detect(&image[..image.len().min(HEAD_LEN)]), ImageKind::BootSector);
}

#[test]
fn every_check_passes_and_keys_are_echoed() {
    let mut run = Run::new();
    for key in b"hi \x1bz" {
        assert_eq!(run.keys(&[*key]), Turn::Idle(None));
    }
    assert_eq!(run.keys(b"several at once"), Turn::Idle(None));
    assert_eq!(run.keys(b"\r"), Turn::Request(Request::PowerOff));
    assert_eq!(run.log.replace('\r', ""), LOG);
    assert_eq!(run.log.matches("[ ok ]").count(), 6);
}

#[test]
fn enter_and_q_power_off_whatever_is_attached() {
    for key in [b"q", b"\r", b"\n", b"\x03"] {
        assert_eq!(Run::new().keys(key), Turn::Request(Request::PowerOff));
    }
}
