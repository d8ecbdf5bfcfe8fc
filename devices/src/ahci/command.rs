//! Commands: from the list in memory to the device, and the frames that come back (AHCI 1.3.1, 4 and 5.3; SATA 2.6, 10.3).

use softmetal_bus::Ctx;

use super::Ahci;
use super::port::{Port, cmd, interrupt};
use crate::ata::{self, DEVICE_RESET, Moved, Step, Taskfile, Unit, status};
use crate::pci::{PciDevice, command as pci_command};

/// Nanoseconds from the issue of a command to its end.
pub(super) const COMMAND_TIME: u64 = 5_000;
/// Most bytes moved before other devices have their turn.
const TURN: u64 = 4 << 20;

/// Frame types.
const FRAME_H2D: u8 = 0x27;
const FRAME_D2H: u8 = 0x34;
const FRAME_DMA_SETUP: u8 = 0x41;
const FRAME_PIO_SETUP: u8 = 0x5f;
const FRAME_DEVICE_BITS: u8 = 0xa1;
/// Second byte of a frame: interrupt, direction (set: to the host), command rather than control.
const FRAME_INTERRUPT: u8 = 1 << 6;
const FRAME_TO_HOST: u8 = 1 << 5;
const FRAME_COMMAND: u8 = 1 << 7;
/// Where frames are put.
const AT_DMA_SETUP: u64 = 0x00;
const AT_PIO_SETUP: u64 = 0x20;
const AT_D2H: u64 = 0x40;
const AT_DEVICE_BITS: u64 = 0x58;
/// Bits of the first dword of a command header.
const HEADER_ATAPI: u32 = 1 << 5;
const HEADER_CLEAR_BUSY: u32 = 1 << 10;
/// Software reset in the device control register.
const SRST: u8 = 1 << 2;

/// How a command left its slot.
enum Outcome {
    /// It has ended, well or not, as the port's registers tell; so many bytes were moved.
    Ended(u64),
    /// It has begun and waits for work on the host.
    OnHost,
    /// The adapter itself failed.
    Fatal,
}

impl Port {
    /// Puts a frame into memory, if frames are received.
    fn receive(&self, ctx: &Ctx, at: u64, frame: &[u8]) {
        if self.command & cmd::RECEIVE != 0 {
            ctx.dma_write(self.frames.wrapping_add(at), frame);
        }
    }

    /// The bytes of a frame that carry the registers.
    fn registers(&self, kind: u8, flags: u8) -> [u8; 20] {
        let tf = &self.tf;
        let (lba, count) = (tf.lba.to_le_bytes(), tf.count.to_le_bytes());
        let mut frame = [0; 20];
        frame[..4].copy_from_slice(&[kind, flags, tf.status, tf.error]);
        frame[4..7].copy_from_slice(&lba[..3]);
        frame[7] = tf.device;
        frame[8..11].copy_from_slice(&lba[3..6]);
        frame[12..14].copy_from_slice(&count);
        frame
    }

    /// Notes an interrupt, and an error that stops the port.
    fn tell(&mut self, bits: u32) {
        self.interrupts |= bits;
        if self.tf.status & (status::ERR | status::DF) != 0 {
            self.interrupts |= interrupt::TASK_ERROR;
            self.halted = true;
        }
    }
}

/// The registers in a frame from the host.
fn taskfile(frame: &[u8; 64]) -> Taskfile {
    let b = |i: usize| u64::from(frame[i]);
    Taskfile {
        command: frame[2],
        features: u16::from_le_bytes([frame[3], frame[11]]),
        count: u16::from_le_bytes([frame[12], frame[13]]),
        lba: b(4) | b(5) << 8 | b(6) << 16 | b(8) << 24 | b(9) << 32 | b(10) << 40,
        device: frame[7],
        status: status::DRDY,
        error: 0,
    }
}

/// Whether the command is READ or WRITE FPDMA QUEUED.
fn is_queued(tf: &Taskfile, unit: &Unit) -> bool {
    matches!(tf.command, 0x60 | 0x61) && !unit.is_packet()
}

/// The tag of a queued command.
fn tag(tf: &Taskfile) -> u8 {
    (tf.count >> 3 & 31) as u8
}

impl Ahci {
    /// The device sends its registers.
    pub(super) fn send_registers(&mut self, ctx: &Ctx, n: usize, notify: bool) {
        let port = &mut self.state.ports[n];
        port.receive(ctx, AT_D2H, &port.registers(FRAME_D2H, if notify { FRAME_INTERRUPT } else { 0 }));
        port.tell(if notify { interrupt::D2H } else { 0 });
    }

    /// Carries out issued commands, a turn of them.
    pub(super) fn work(&mut self, ctx: &mut Ctx, n: usize) {
        if self.config().command() & pci_command::MASTER == 0 {
            log::debug!("ahci: port {n} has commands, but the adapter is no bus master");
            return;
        }
        let mut moved = 0;
        loop {
            let port = &mut self.state.ports[n];
            if port.halted || port.command & cmd::START == 0 || port.issued == 0 {
                return;
            }
            if moved >= TURN {
                return ctx.arm(n as u32, ctx.now.plus(COMMAND_TIME));
            }
            // The next slot after the last one, round and round.
            let from = u32::from(port.slot) + 1;
            let slot = (port.issued.rotate_right(from).trailing_zeros() + from) & 31;
            port.slot = slot as u8;
            match self.execute(ctx, n, slot) {
                Outcome::Ended(bytes) => moved += bytes.max(4096),
                Outcome::OnHost => {
                    // It is this slot's turn again when the host is ready.
                    self.state.ports[n].slot = (slot as u8).wrapping_sub(1) & 31;
                    return ctx.arm_host(n as u32);
                }
                Outcome::Fatal => {
                    let port = &mut self.state.ports[n];
                    port.interrupts |= interrupt::HOST_FATAL;
                    port.halted = true;
                    return;
                }
            }
        }
    }

    /// Work on the host has ended.
    pub(super) fn host_done(&mut self, ctx: &mut Ctx) {
        for n in 0..self.units.len() {
            if self.state.ports[n].on_host {
                self.work(ctx, n);
            }
        }
    }

    fn execute(&mut self, ctx: &mut Ctx, n: usize, slot: u32) -> Outcome {
        let port = &mut self.state.ports[n];
        if let Some(unit) = self.units[n].as_mut().filter(|unit| port.on_host && unit.syncs()) {
            port.on_host = false;
            unit.synced(&mut port.tf);
            return self.end(ctx, n, slot, false, 0);
        }
        let header_at = port.list.wrapping_add(u64::from(slot) * 32);
        let (mut header, mut frame) = ([0; 16], [0; 64]);
        if !ctx.dma_read(header_at, &mut header) {
            return Outcome::Fatal;
        }
        let header = u128::from_le_bytes(header);
        let (flags, table) = (header as u32, (header >> 64) as u64 & !0x7f);
        if !ctx.dma_read(table, &mut frame) {
            return Outcome::Fatal;
        }
        let Some(unit) = &mut self.units[n] else {
            // Nobody answers: the command stays where it is.
            port.halted = true;
            return Outcome::Ended(0);
        };
        if frame[0] != FRAME_H2D {
            log::warn!("ahci: port {n}: frame type {:#04x} in slot {slot}", frame[0]);
            return Outcome::Fatal;
        }
        if frame[1] & FRAME_COMMAND == 0 {
            // The device control register: a software reset begins or ends.
            port.issued &= !(1 << slot);
            if frame[15] & SRST != 0 {
                port.tf.status = if flags & HEADER_CLEAR_BUSY != 0 { status::DRDY } else { status::BSY };
            } else {
                unit.reset(&mut port.tf, false);
                port.sign();
                self.send_registers(ctx, n, true);
            }
            return Outcome::Ended(0);
        }
        let tf = &mut port.tf;
        *tf = taskfile(&frame);
        let queued = is_queued(tf, unit);
        if !std::mem::take(&mut port.on_host) && unit.begin_host(ctx, tf) {
            port.on_host = true;
            if !queued {
                tf.status = status::BSY;
            }
            return Outcome::OnHost;
        }
        if queued {
            return self.execute_queued(ctx, n, slot, flags, table, header_at);
        }
        let mut step = unit.command(tf);
        if step == Step::Packet {
            let mut packet = [0; 12];
            if flags & HEADER_ATAPI == 0 || !ctx.dma_read(table + 0x40, &mut packet) {
                return Outcome::Fatal;
            }
            step = unit.packet(tf, &packet);
        }
        let (mut pio_in, mut bytes) = (false, 0);
        if step == Step::Data {
            let (dma, writes, packet) = (unit.dma(), unit.writes(), unit.is_packet() && tf.command == 0xa0);
            let total = unit.left();
            let Some(moved) = self.move_data(ctx, n, flags, table, header_at) else { return Outcome::Fatal };
            bytes = moved.bytes;
            let port = &mut self.state.ports[n];
            let ok = port.tf.status & (status::ERR | status::DF) == 0;
            if !dma {
                pio_in = !writes && !packet && ok;
                let flags = if writes { 0 } else { FRAME_TO_HOST } | if pio_in { FRAME_INTERRUPT } else { 0 };
                let mut frame = port.registers(FRAME_PIO_SETUP, flags);
                frame[2] |= status::DRQ;
                frame[15] = port.tf.status;
                let [low, high, ..] = total.min(0xfffe).to_le_bytes();
                (frame[16], frame[17]) = (low, high);
                port.receive(ctx, AT_PIO_SETUP, &frame);
                if pio_in {
                    port.tell(interrupt::PIO);
                }
            }
        }
        self.end(ctx, n, slot, pio_in, bytes)
    }

    /// A command has moved all of its data, or failed: ends it, unless that must be durable first. `pio_in`: it was a PIO read.
    fn end(&mut self, ctx: &mut Ctx, n: usize, slot: u32, pio_in: bool, bytes: u64) -> Outcome {
        let port = &mut self.state.ports[n];
        let Some(unit) = &mut self.units[n] else { return Outcome::Fatal };
        let queued = is_queued(&port.tf, unit);
        if unit.syncs() {
            port.on_host = true;
            if !queued {
                port.tf.status = status::BSY;
            }
            return Outcome::OnHost;
        }
        if queued {
            self.end_queued(ctx, n, slot);
            return Outcome::Ended(bytes);
        }
        if port.tf.status & (status::ERR | status::DF) == 0 {
            port.issued &= !(1 << slot);
        }
        // A PIO read ends with its last frame of data; DEVICE RESET answers with the signature.
        if port.tf.command == DEVICE_RESET {
            port.sign();
        }
        if !pio_in {
            self.send_registers(ctx, n, true);
        }
        Outcome::Ended(bytes)
    }

    /// READ or WRITE FPDMA QUEUED.
    fn execute_queued(&mut self, ctx: &mut Ctx, n: usize, slot: u32, flags: u32, table: u64, header_at: u64) -> Outcome {
        let port = &mut self.state.ports[n];
        let Some(unit) = &mut self.units[n] else { return Outcome::Fatal };
        let mut bytes = 0;
        if unit.queued(&mut port.tf) == Step::Data {
            // The device accepts the command, then asks for the data.
            let mut setup = [0; 28];
            setup[..2].copy_from_slice(&[FRAME_DMA_SETUP, if unit.writes() { 0 } else { FRAME_TO_HOST }]);
            setup[4] = tag(&port.tf);
            setup[20..24].copy_from_slice(&(unit.left() as u32).to_le_bytes());
            port.receive(ctx, AT_DMA_SETUP, &setup);
            let Some(moved) = self.move_data(ctx, n, flags, table, header_at) else { return Outcome::Fatal };
            bytes = moved.bytes;
        }
        self.end(ctx, n, slot, false, bytes)
    }

    fn end_queued(&mut self, ctx: &Ctx, n: usize, slot: u32) {
        let port = &mut self.state.ports[n];
        let tag = tag(&port.tf);
        port.issued &= !(1 << slot);
        let failed = port.tf.status & (status::ERR | status::DF) != 0;
        let done = if failed { 0 } else { 1u32 << tag };
        if let (true, Some(unit)) = (failed, &mut self.units[n]) {
            unit.queue_failed(tag, &port.tf);
        }
        port.active &= !done;
        let mut bits = [FRAME_DEVICE_BITS, FRAME_INTERRUPT, port.tf.status & 0x77, port.tf.error, 0, 0, 0, 0];
        bits[4..].copy_from_slice(&done.to_le_bytes());
        port.receive(ctx, AT_DEVICE_BITS, &bits);
        port.tell(interrupt::DEVICE_BITS);
    }

    /// Moves a command's data. `None` if the list of regions, or a region, is not memory.
    fn move_data(&mut self, ctx: &Ctx, n: usize, flags: u32, table: u64, header_at: u64) -> Option<Moved> {
        let port = &mut self.state.ports[n];
        let unit = self.units[n].as_mut()?;
        let needed = unit.left();
        let (mut list, mut room) = (Vec::new(), 0);
        for i in 0..u64::from(flags >> 16) {
            let mut entry = [0; 16];
            if room >= needed {
                break;
            }
            if !ctx.dma_read(table.wrapping_add(0x80 + 16 * i), &mut entry) {
                unit.abort(&mut port.tf);
                return None;
            }
            let entry = u128::from_le_bytes(entry);
            let len = ((entry >> 96) as u32 & 0x3f_ffff) + 1;
            list.push((entry as u64 & !1, len));
            room += u64::from(len);
        }
        let moved = ata::transfer(unit, ctx, &mut port.tf, &list);
        ctx.dma_write(header_at.wrapping_add(4), &(moved.bytes as u32).to_le_bytes());
        if moved.fault {
            return None;
        }
        if !moved.ended {
            // The list is too short for what the device has.
            unit.abort(&mut port.tf);
            port.interrupts |= interrupt::OVERFLOW;
        }
        Some(moved)
    }
}
