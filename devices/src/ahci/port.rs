//! A port's registers (AHCI 1.3.1, 3.3).

use serde::{Deserialize, Serialize};
use softmetal_bus::Ctx;

use super::Ahci;
use super::command::COMMAND_TIME;
use crate::ata::{Taskfile, Unit, status};

/// Bits of the command register.
pub(super) mod cmd {
    pub const START: u32 = 1 << 0;
    pub const SPIN_UP: u32 = 1 << 1;
    pub const POWER: u32 = 1 << 2;
    pub const OVERRIDE: u32 = 1 << 3;
    pub const RECEIVE: u32 = 1 << 4;
    pub const RECEIVING: u32 = 1 << 14;
    pub const RUNNING: u32 = 1 << 15;
    pub const ATAPI: u32 = 1 << 24;
    pub const LED: u32 = 1 << 25;
}

/// Bits of the interrupt status and enable registers.
pub(super) mod interrupt {
    pub const D2H: u32 = 1 << 0;
    pub const PIO: u32 = 1 << 1;
    pub const DEVICE_BITS: u32 = 1 << 3;
    pub const CONNECT: u32 = 1 << 6;
    pub const OVERFLOW: u32 = 1 << 24;
    pub const HOST_FATAL: u32 = 1 << 29;
    pub const TASK_ERROR: u32 = 1 << 30;
    /// Bits that are cleared by writing a one.
    pub const CLEARABLE: u32 = 0xfd80_00af;
    pub const ENABLES: u32 = 0xfdc0_00ff;
}
/// SATA error: the device was exchanged.
const EXCHANGED: u32 = 1 << 26;
/// A device is there, the link is up at 3 Gb/s and active.
const LINK_UP: u32 = 0x123;
/// The status of a port where no device answers.
const NOBODY: u8 = 0x7f;

/// A port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Port {
    /// The command list, and where received frames are put.
    pub list: u64,
    pub frames: u64,
    pub interrupts: u32,
    enabled: u32,
    pub command: u32,
    control: u32,
    error: u32,
    /// Queued commands that have not ended, and issued commands, by slot.
    pub active: u32,
    pub issued: u32,
    signature: u32,
    /// The slot at work.
    pub slot: u8,
    pub tf: Taskfile,
    /// The device's first frame waits until frames are received.
    pub unsent: bool,
    /// The command of the next slot waits for work on the host before it does anything or, if its device
    /// [`syncs`](Unit::syncs), before it ends; or has waited.
    pub on_host: bool,
    /// An error has stopped the port until it is started anew.
    pub halted: bool,
    /// A device is there.
    present: bool,
}

impl Port {
    /// Resets the device and takes its signature.
    pub fn connect(&mut self, unit: Option<&mut Unit>, power: bool) {
        self.present = unit.is_some();
        self.signature = !0;
        self.tf = Taskfile { status: NOBODY, ..Taskfile::default() };
        if let Some(unit) = unit {
            unit.reset(&mut self.tf, power);
            self.sign();
            self.unsent = true;
            self.error |= EXCHANGED;
            self.interrupts |= interrupt::CONNECT;
        }
    }

    /// The signature register, from the registers that the device has just sent.
    pub fn sign(&mut self) {
        let [low, mid, high, ..] = self.tf.lba.to_le_bytes();
        self.signature = u32::from_le_bytes([self.tf.count as u8, low, mid, high]);
    }

    /// Whether it asks for an interrupt.
    pub fn asks(&self) -> bool {
        self.interrupts & self.enabled != 0
    }

    /// The link works.
    fn up(&self) -> bool {
        self.present && self.control & 0xf == 0
    }

    pub fn load(&self, register: u64) -> u32 {
        match register {
            0x00 => self.list as u32,
            0x04 => (self.list >> 32) as u32,
            0x08 => self.frames as u32,
            0x0c => (self.frames >> 32) as u32,
            0x10 => self.interrupts,
            0x14 => self.enabled,
            0x18 => {
                let running = if self.command & cmd::START != 0 { cmd::RUNNING | u32::from(self.slot) << 8 } else { 0 };
                let receiving = if self.command & cmd::RECEIVE != 0 { cmd::RECEIVING } else { 0 };
                self.command | running | receiving | cmd::SPIN_UP | cmd::POWER
            }
            0x20 => u32::from(self.tf.status) | u32::from(self.tf.error) << 8,
            0x24 => self.signature,
            0x28 if self.up() => LINK_UP,
            0x28 => 0,
            0x2c => self.control,
            0x30 => self.error,
            0x34 => self.active,
            0x38 => self.issued,
            _ => 0,
        }
    }

    /// Stops the command list: what was issued is forgotten.
    fn stop(&mut self) {
        self.issued = 0;
        self.active = 0;
        self.halted = false;
        self.on_host = false;
        self.slot = 0;
    }
}

impl Ahci {
    pub(super) fn store_port(&mut self, ctx: &mut Ctx, n: usize, register: u64, value: u32) {
        let port = &mut self.state.ports[n];
        let (low, high) = (u64::from(value), u64::from(value) << 32);
        match register {
            0x00 => port.list = port.list & !0xffff_ffff | low & !0x3ff,
            0x04 => port.list = port.list & 0xffff_ffff | high,
            0x08 => port.frames = port.frames & !0xffff_ffff | low & !0xff,
            0x0c => port.frames = port.frames & 0xffff_ffff | high,
            0x10 => {
                port.interrupts &= !(value & interrupt::CLEARABLE);
            }
            0x14 => port.enabled = value & interrupt::ENABLES,
            0x18 => {
                let before = port.command;
                port.command = value & (cmd::START | cmd::RECEIVE | cmd::ATAPI | cmd::LED);
                if value & cmd::OVERRIDE != 0 {
                    port.tf.status &= !(status::BSY | status::DRQ);
                }
                if before & cmd::START != 0 && value & cmd::START == 0 {
                    port.stop();
                    ctx.cancel(n as u32);
                }
                if value & cmd::RECEIVE != 0 && std::mem::take(&mut port.unsent) {
                    self.send_registers(ctx, n, false);
                }
            }
            0x2c => {
                let before = port.control & 0xf;
                port.control = value & 0xfff;
                match (before, value & 0xf) {
                    (1, 0) => {
                        port.connect(self.units[n].as_mut(), false);
                        if port.command & cmd::RECEIVE != 0 && std::mem::take(&mut port.unsent) {
                            self.send_registers(ctx, n, false);
                        }
                    }
                    (_, 1) => {
                        port.stop();
                        ctx.cancel(n as u32);
                        port.tf.status = if port.present { status::BSY } else { NOBODY };
                    }
                    // Offline, and back.
                    (_, 4) => port.tf.status = NOBODY,
                    (4, 0) => port.connect(self.units[n].as_mut(), false),
                    _ => {}
                }
            }
            0x30 => {
                port.error &= !value;
                if port.error & EXCHANGED == 0 {
                    port.interrupts &= !interrupt::CONNECT;
                }
            }
            0x34 if port.command & cmd::START != 0 => port.active |= value,
            0x38 if port.command & cmd::START != 0 => {
                port.issued |= value;
                if port.issued != 0 && !port.halted && !port.on_host {
                    ctx.arm(n as u32, ctx.now.plus(COMMAND_TIME));
                }
            }
            _ => log::debug!("ahci: a store of {value:#x} to register {register:#x} of port {n} is ignored"),
        }
    }
}
