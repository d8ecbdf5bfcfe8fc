//! The IDE function of the PIIX3 (Intel 82371SB datasheet): two channels of two devices, with bus mastering.
//!
//! Regions 0 and 1 are the command and the control block of the first channel (ports 0x1F0 to 0x1F7 and 0x3F6), 2 and 3
//! those of the second (0x170 to 0x177 and 0x376), 4 the bus master registers. Output lines 0 and 1 are the interrupts of
//! the channels, ISA 14 and 15.

mod bus_master;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use softmetal_bus::device::{decode, encode};
use softmetal_bus::{Ctx, Device, Input, Request, StateError};

use crate::ata::{DEVICE_RESET, DIAGNOSTIC, Saved, Step, Taskfile, Unit, status};
use crate::lanes::{read_bytes, write_bytes};
use crate::pci::{BarKind, ConfigSpace, FixedPorts, Identity, PciDevice};
use bus_master::BusMaster;

/// Nanoseconds that a device is busy with a command.
const COMMAND_TIME: u64 = 5_000;
/// What an empty channel's pulled-down data line 7 leaves of a floating bus.
const FLOATING: u8 = 0x7f;
/// Channel enable bits in the IDE timing registers (0x40 and 0x42).
const DECODE: u16 = 0x8000;

/// Bits of the device control register.
mod control {
    pub const NIEN: u8 = 1 << 1;
    pub const SRST: u8 = 1 << 2;
    pub const HOB: u8 = 1 << 7;
}

/// What a channel does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    #[default]
    Idle,
    /// Works on the command register, until the timer.
    Command,
    /// Takes the bytes of a packet.
    Packet,
    /// Works on a packet, until the timer.
    PacketCommand,
    /// The host reads a block.
    In,
    /// The host writes a block.
    Out,
    /// Waits for the bus master.
    Dma,
    /// Waits for what was written to be durable.
    Sync,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Channel {
    /// What each of the devices has in its registers.
    registers: [Taskfile; 2],
    /// Which of them is selected.
    selected: usize,
    /// Which of them carries out a command.
    active: usize,
    control: u8,
    phase: Phase,
    /// The command waits for work on the host.
    on_host: bool,
    /// Asks for an interrupt.
    intrq: bool,
    /// The block or packet that goes through the data register, and how much of it has.
    block: Vec<u8>,
    at: usize,
    master: BusMaster,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    channels: [Channel; 2],
}

impl Channel {
    /// Whether a command is at work, so that no register can be written.
    fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Command | Phase::PacketCommand | Phase::Sync)
    }
}

/// The devices at the four places: primary master and slave, secondary master and slave.
pub type Places = [Option<Unit>; 4];

/// The IDE function.
pub struct Ide {
    config: ConfigSpace,
    units: Places,
    state: State,
}

impl Ide {
    /// The function with its devices.
    #[must_use]
    pub fn new(units: Places) -> Self {
        let mut config = ConfigSpace::new(Identity { vendor: 0x8086, device: 0x7010, class: 0x01_0180, ..Identity::default() });
        config.define(0x06, &[0x80, 0x02], &[]);
        config.add_bar(4, BarKind::Io, 16);
        let [low, high] = DECODE.to_le_bytes();
        config.define(0x40, &[low, high, low, high, 0], &[0xff; 5]);
        let mut ide = Self { config, units, state: State::default() };
        ide.power_on();
        ide
    }

    fn power_on(&mut self) {
        self.state = State::default();
        for (n, unit) in self.units.iter_mut().enumerate() {
            if let Some(unit) = unit {
                unit.reset(&mut self.state.channels[n / 2].registers[n % 2], true);
            }
        }
    }

    fn present(&self, channel: usize, device: usize) -> bool {
        self.units[channel * 2 + device].is_some()
    }

    /// The channel's registers and its active device.
    fn active(&mut self, n: usize) -> Option<(&mut Channel, &mut Unit)> {
        let channel = &mut self.state.channels[n];
        let unit = self.units[n * 2 + channel.active].as_mut()?;
        Some((channel, unit))
    }

    fn drive_line(&self, ctx: &mut Ctx, n: usize) {
        let channel = &self.state.channels[n];
        ctx.line(n as u8, channel.intrq && channel.control & control::NIEN == 0);
    }

    fn interrupt(&mut self, ctx: &mut Ctx, n: usize) {
        let channel = &mut self.state.channels[n];
        channel.intrq = true;
        channel.master.status |= bus_master::INTERRUPT;
        self.drive_line(ctx, n);
    }

    /// A register of the command block, 1 to 7; `alternate` leaves the interrupt alone.
    fn read_register(&mut self, ctx: &mut Ctx, n: usize, register: u64, alternate: bool) -> u8 {
        let selected = self.state.channels[n].selected;
        if !self.present(n, 0) && !self.present(n, 1) {
            return FLOATING;
        }
        if !self.present(n, selected) {
            // The other device answers for it: no status, nothing that could be taken for a device.
            return if register == 7 { 0 } else { 0xff };
        }
        let channel = &mut self.state.channels[n];
        let tf = channel.registers[selected];
        if register == 7 && !alternate && channel.intrq {
            channel.intrq = false;
            self.drive_line(ctx, n);
        }
        if tf.status & status::BSY != 0 {
            return tf.status;
        }
        let high = self.state.channels[n].control & control::HOB != 0;
        let lba = |byte: u32| (tf.lba >> (8 * (byte + if high { 3 } else { 0 }))) as u8;
        match register {
            1 => tf.error,
            2 => tf.count.to_le_bytes()[usize::from(high)],
            3 => lba(0),
            4 => lba(1),
            5 => lba(2),
            6 => tf.device | 0xa0 | (selected as u8) << 4,
            _ => tf.status,
        }
    }

    fn write_register(&mut self, ctx: &mut Ctx, n: usize, register: u64, value: u8) {
        let channel = &mut self.state.channels[n];
        channel.control &= !control::HOB;
        if register == 7 {
            return self.start(ctx, n, value);
        }
        if channel.is_busy() {
            log::debug!("ide: register {register} of the busy channel {n} is not written");
            return;
        }
        for tf in &mut channel.registers {
            let mut lba = |byte: u32| {
                let before = tf.lba >> (8 * byte) & 0xff;
                let keep = tf.lba & !(0xff << (8 * byte) | 0xff << (8 * byte + 24));
                tf.lba = keep | u64::from(value) << (8 * byte) | before << (8 * byte + 24);
            };
            match register {
                1 => tf.features = tf.features << 8 | u16::from(value),
                2 => tf.count = tf.count << 8 | u16::from(value),
                3 => lba(0),
                4 => lba(1),
                5 => lba(2),
                _ => tf.device = value & 0x4f,
            }
        }
        if register == 6 {
            channel.selected = usize::from(value >> 4 & 1);
        }
    }

    /// The command register is written.
    fn start(&mut self, ctx: &mut Ctx, n: usize, command: u8) {
        let selected = self.state.channels[n].selected;
        let both = command == DIAGNOSTIC;
        let device = match (both, self.present(n, 0), self.present(n, selected)) {
            (true, true, _) => 0,
            (true, false, _) if self.present(n, 1) => 1,
            (false, _, true) => selected,
            _ => return,
        };
        let channel = &mut self.state.channels[n];
        if channel.control & control::SRST != 0 || (channel.is_busy() && command != DEVICE_RESET) {
            log::debug!("ide: command {command:#04x} while channel {n} is busy");
            return;
        }
        channel.intrq = false;
        channel.active = device;
        channel.phase = Phase::Command;
        channel.block.clear();
        channel.registers[device].command = command;
        channel.registers[device].status = status::BSY;
        if both {
            channel.selected = device;
            for tf in &mut channel.registers {
                tf.device = 0;
            }
        }
        self.drive_line(ctx, n);
        let Some((channel, unit)) = self.active(n) else { return };
        channel.on_host = unit.begin_host(ctx, &channel.registers[device]);
        if channel.on_host {
            ctx.arm_host(n as u32);
        } else {
            ctx.arm(n as u32, ctx.now.plus(COMMAND_TIME));
        }
    }

    /// The time of a command or packet is over: does what it says.
    fn work(&mut self, ctx: &mut Ctx, n: usize) {
        let other = n * 2 + (self.state.channels[n].active ^ 1);
        let Some((channel, unit)) = self.active(n) else { return };
        channel.on_host = false;
        let tf = &mut channel.registers[channel.active];
        let command = tf.command;
        let step = match channel.phase {
            Phase::Command => unit.command(tf),
            Phase::PacketCommand => {
                let mut packet = [0; 12];
                packet[..channel.block.len().min(12)].copy_from_slice(&channel.block[..channel.block.len().min(12)]);
                unit.packet(tf, &packet)
            }
            Phase::Sync => {
                unit.synced(tf);
                Step::Done
            }
            _ => return,
        };
        match step {
            Step::Done => {
                channel.phase = Phase::Idle;
                if command == DIAGNOSTIC {
                    if let Some(unit) = &mut self.units[other] {
                        let tf = &mut self.state.channels[n].registers[other % 2];
                        tf.command = DIAGNOSTIC;
                        unit.command(tf);
                    }
                }
                // DEVICE RESET ends silently.
                if command != DEVICE_RESET {
                    self.interrupt(ctx, n);
                }
            }
            Step::Packet => {
                channel.phase = Phase::Packet;
                channel.block = vec![0; 12];
                channel.at = 0;
            }
            Step::Data if unit.dma() => {
                channel.phase = Phase::Dma;
                tf.status = status::DRDY | status::DSC | status::DRQ;
                self.run_master(ctx, n);
            }
            Step::Data => {
                // A disk that is written to asks for its first block without an interrupt.
                let quiet = unit.writes() && !unit.is_packet();
                self.next_block(ctx, n, quiet);
            }
        }
    }

    /// Offers the next block of a PIO transfer.
    fn next_block(&mut self, ctx: &mut Ctx, n: usize, quiet: bool) {
        let Some((channel, unit)) = self.active(n) else { return };
        let tf = &mut channel.registers[channel.active];
        channel.block = vec![0; unit.next_block(tf)];
        channel.at = 0;
        if unit.writes() {
            channel.phase = Phase::Out;
        } else {
            let ok = unit.fill(tf, &mut channel.block);
            channel.phase = if ok { Phase::In } else { Phase::Idle };
        }
        if !quiet {
            self.interrupt(ctx, n);
        }
    }

    /// The host has read the block.
    fn block_read(&mut self, ctx: &mut Ctx, n: usize) {
        let Some((channel, unit)) = self.active(n) else { return };
        if unit.left() > 0 {
            return self.next_block(ctx, n, false);
        }
        let packet = unit.is_packet() && channel.registers[channel.active].command == 0xa0;
        self.complete(ctx, n, packet);
    }

    /// The host has written the block.
    fn block_written(&mut self, ctx: &mut Ctx, n: usize) {
        let Some((channel, unit)) = self.active(n) else { return };
        if channel.phase == Phase::Packet {
            channel.phase = Phase::PacketCommand;
            channel.registers[channel.active].status = status::BSY;
            return ctx.arm(n as u32, ctx.now.plus(COMMAND_TIME));
        }
        let block = std::mem::take(&mut channel.block);
        if !unit.drain(&mut channel.registers[channel.active], &block) {
            channel.phase = Phase::Idle;
            return self.interrupt(ctx, n);
        }
        if unit.left() > 0 {
            return self.next_block(ctx, n, false);
        }
        self.complete(ctx, n, true);
    }

    fn complete(&mut self, ctx: &mut Ctx, n: usize, tell: bool) {
        let Some((channel, unit)) = self.active(n) else { return };
        unit.finish(&mut channel.registers[channel.active]);
        self.ended(ctx, n, tell);
    }

    /// A command has moved all of its data, or failed: it is over unless that must be durable first.
    fn ended(&mut self, ctx: &mut Ctx, n: usize, tell: bool) {
        let Some((channel, unit)) = self.active(n) else { return };
        if unit.syncs() {
            channel.phase = Phase::Sync;
            channel.on_host = true;
            channel.registers[channel.active].status = status::BSY;
            return ctx.arm_host(n as u32);
        }
        channel.phase = Phase::Idle;
        if tell {
            self.interrupt(ctx, n);
        }
    }

    fn read_data(&mut self, ctx: &mut Ctx, n: usize, width: usize) -> u64 {
        let channel = &mut self.state.channels[n];
        if channel.phase != Phase::In || channel.selected != channel.active {
            return softmetal_bus::ones(width);
        }
        let value = read_bytes(width, |i| channel.block.get(channel.at + i as usize).copied().unwrap_or(0));
        channel.at += width;
        if channel.at >= channel.block.len() {
            self.block_read(ctx, n);
        }
        value
    }

    fn write_data(&mut self, ctx: &mut Ctx, n: usize, width: usize, value: u64) {
        let channel = &mut self.state.channels[n];
        if !matches!(channel.phase, Phase::Out | Phase::Packet) || channel.selected != channel.active {
            return;
        }
        write_bytes(width, value, |i, byte| {
            if let Some(to) = channel.block.get_mut(channel.at + i as usize) {
                *to = byte;
            }
        });
        channel.at += width;
        if channel.at >= channel.block.len() {
            self.block_written(ctx, n);
        }
    }

    fn write_control(&mut self, ctx: &mut Ctx, n: usize, value: u8) {
        let channel = &mut self.state.channels[n];
        let before = channel.control;
        channel.control = value;
        if value & control::SRST != 0 {
            ctx.cancel(n as u32);
            channel.phase = Phase::Idle;
            channel.on_host = false;
            channel.intrq = false;
            channel.block.clear();
            channel.registers.iter_mut().for_each(|tf| tf.status = status::BSY);
        } else if before & control::SRST != 0 {
            channel.selected = 0;
            for device in 0..2 {
                if let Some(unit) = &mut self.units[n * 2 + device] {
                    unit.reset(&mut self.state.channels[n].registers[device], false);
                }
            }
        }
        self.drive_line(ctx, n);
    }
}

impl Device for Ide {
    fn name(&self) -> &'static str {
        "piix3-ide"
    }
    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        let n = usize::from(region >> 1 & 1);
        match region {
            4 => self.master_read(offset, width),
            1 | 3 => read_bytes(width, |_| self.read_register(ctx, n, 7, true)),
            _ if offset == 0 => self.read_data(ctx, n, width),
            _ => read_bytes(width, |i| self.read_register(ctx, n, (offset + i).min(7), false)),
        }
    }
    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        let n = usize::from(region >> 1 & 1);
        match region {
            4 => self.master_write(ctx, offset, width, value),
            1 | 3 => self.write_control(ctx, n, value as u8),
            _ if offset == 0 => self.write_data(ctx, n, width, value),
            _ => write_bytes(width, value, |i, byte| {
                if offset + i < 8 {
                    self.write_register(ctx, n, offset + i, byte);
                }
            }),
        }
    }
    fn timer(&mut self, ctx: &mut Ctx, timer: u32) {
        if timer < 2 {
            self.work(ctx, timer as usize);
        }
    }
    fn input(&mut self, ctx: &mut Ctx, input: &Input) {
        for n in 0..2 {
            if *input == Input::HostDone && self.state.channels[n].on_host {
                self.work(ctx, n);
            }
        }
    }
    fn waits_for_host(&mut self) -> Option<bool> {
        let waiting = |n: &usize| self.state.channels[*n].on_host;
        let channels: Vec<usize> = (0..2).filter(waiting).collect();
        // One that has ended waits for the other one, if that is flushed at the same time.
        let ended = channels.iter().all(|n| self.active(*n).is_none_or(|(_, unit)| !unit.on_host()));
        (!channels.is_empty()).then_some(ended)
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        self.config.reset();
        self.power_on();
        for n in 0..2 {
            ctx.cancel(n);
            ctx.line(n as u8, false);
        }
        ctx.request(Request::Remap);
    }
    fn save(&self) -> Vec<u8> {
        encode(3, &Saved::of(&self.config, &self.state, &self.units))
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let saved: Saved<State> = decode(self.name(), 3, bytes)?;
        if saved.state().channels.iter().any(|c| c.selected > 1 || c.active > 1) {
            return Err(StateError::Corrupt(self.name(), "it selects a device that cannot be".into()));
        }
        saved.restore(self.name(), &mut self.config, &mut self.state, &mut self.units)
    }
}

impl PciDevice for Ide {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn config_write(&mut self, ctx: &mut Ctx, offset: u16, width: usize, value: u32) {
        let before = self.fixed_ports();
        if self.config.write(offset, width, value) || self.fixed_ports() != before {
            ctx.request(Request::Remap);
        }
    }
    fn fixed_ports(&self) -> FixedPorts {
        let mut ports = FixedPorts::new();
        for (timing, base, control, region) in [(0x40, 0x1f0, 0x3f6, 0), (0x42, 0x170, 0x376, 2)] {
            if self.config.word(timing) & DECODE != 0 {
                ports.extend([(base, 8, region), (control, 1, region + 1)]);
            }
        }
        ports
    }
    fn isa_irq(&self, line: u8) -> Option<u8> {
        Some(14 + line)
    }
}
