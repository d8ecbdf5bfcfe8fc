//! The floppy disk controller (Intel 82077AA datasheet) with up to two drives; data goes by DMA only.
//!
//! Region 0: ports 0x3F0 to 0x3F5. Region 1: port 0x3F7. Output line 0: ISA interrupt 6. The board lets it meet the DMA
//! controller by [`Fdc::run_dma`] after each call of either.

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, Ctx, Device, Drive, device_state, ones};

use crate::dma8237::Dma8237;

/// The DMA channel of a floppy controller.
const CHANNEL: usize = 2;
/// Nanoseconds that a command takes.
const COMMAND_TIME: u64 = 20_000;
const SECTOR: usize = 512;
/// Sector size code of 512 bytes.
const N: u8 = 2;
/// Main status register.
const RQM: u8 = 0x80;
const DIO: u8 = 0x40;
const BUSY: u8 = 0x10;
/// Digital output register.
const DOR_RUN: u8 = 0x04;
const DOR_GATE: u8 = 0x08;
/// Timers.
const WORK: u32 = 0;
const RESET_DONE: u32 = 1;

/// What a medium of some size is like: bytes, cylinders, heads, sectors a track, drive type as CMOS has it.
const GEOMETRIES: [(u64, u8, u8, u8, u8); 9] = [
    (160 << 10, 40, 1, 8, 1),
    (180 << 10, 40, 1, 9, 1),
    (320 << 10, 40, 2, 8, 1),
    (360 << 10, 40, 2, 9, 1),
    (720 << 10, 80, 2, 9, 3),
    (1200 << 10, 80, 2, 15, 2),
    (1440 << 10, 80, 2, 18, 4),
    (1680 << 10, 80, 2, 21, 4),
    (2880 << 10, 80, 2, 36, 5),
];

/// Cylinders, heads, sectors a track and drive type for an image of `size` bytes: the smallest that holds it.
#[must_use]
pub fn geometry(size: u64) -> (u8, u8, u8, u8) {
    let found = GEOMETRIES.iter().find(|g| g.0 >= size).unwrap_or(&GEOMETRIES[8]);
    (found.1, found.2, found.3, found.4)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    #[default]
    Command,
    Busy,
    /// Waits for the DMA controller.
    Data,
    Result,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    dor: u8,
    tdr: u8,
    phase: Phase,
    /// The bytes of the command so far, and of the result still to come.
    command: Vec<u8>,
    result: Vec<u8>,
    /// Bytes of the present sector that were moved, and the sector.
    moved: u16,
    sector: Vec<u8>,
    /// Where the heads are, and the changes of the medium that the guest knows of.
    cylinder: [u8; 4],
    seen: [Option<u64>; 2],
    /// What SENSE INTERRUPT will tell: status byte 0, by drive.
    sense: [Option<u8>; 4],
    specify: [u8; 2],
    configure: [u8; 3],
    perpendicular: u8,
    lock: bool,
    irq: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            dor: 0x0c,
            tdr: 0,
            phase: Phase::Command,
            command: Vec::new(),
            result: Vec::new(),
            moved: 0,
            sector: Vec::new(),
            cylinder: [0; 4],
            seen: [None; 2],
            sense: [None; 4],
            specify: [0; 2],
            configure: [0; 3],
            perpendicular: 0,
            lock: false,
            irq: false,
        }
    }
}

/// The controller.
pub struct Fdc {
    drives: Vec<Drive>,
    state: State,
}

/// Bytes of a command, its first one included.
fn length(command: u8) -> usize {
    match command & 0x1f {
        0x02 | 0x05 | 0x06 | 0x09 | 0x0c | 0x16 => 9,
        0x0d => 6,
        0x13 => 4,
        0x03 | 0x0f => 3,
        0x04 | 0x07 | 0x0a | 0x12 => 2,
        _ => 1,
    }
}

impl Fdc {
    /// With the first two of `drives`.
    #[must_use]
    pub fn new(mut drives: Vec<Drive>) -> Self {
        drives.truncate(2);
        Self { drives, state: State::default() }
    }

    /// The types of both drives as CMOS has them; 0 is none. An empty drive is for 1.44 MB.
    #[must_use]
    pub fn drive_types(&self) -> [u8; 2] {
        let kind = |drive: &Drive| geometry(drive.medium().map_or(1440 << 10, |m| m.size())).3;
        std::array::from_fn(|n| self.drives.get(n).map_or(0, kind))
    }

    fn interrupt(&mut self, ctx: &mut Ctx, on: bool) {
        self.state.irq = on;
        ctx.line(0, on && self.state.dor & DOR_GATE != 0);
    }

    fn selected(&self) -> usize {
        usize::from(self.state.command.get(1).copied().unwrap_or(0) & 3)
    }

    /// Software reset: the drives then ask to be polled, unless that is switched off.
    fn restart(&mut self, ctx: &mut Ctx) {
        ctx.cancel(WORK);
        let s = &mut self.state;
        s.phase = Phase::Command;
        (s.command, s.result) = (Vec::new(), Vec::new());
        if !s.lock {
            s.configure = [0; 3];
        }
        s.perpendicular &= 0x3c;
        s.sense = std::array::from_fn(|n| Some(0xc0 | n as u8));
        self.interrupt(ctx, false);
        ctx.arm(RESET_DONE, ctx.now.plus(COMMAND_TIME));
    }

    /// Ends a command with these bytes.
    fn answer(&mut self, result: &[u8]) {
        self.state.result = result.iter().rev().copied().collect();
        self.state.phase = if result.is_empty() { Phase::Command } else { Phase::Result };
        if result.is_empty() {
            self.state.command.clear();
        }
    }

    fn status3(&self) -> u8 {
        let unit = self.selected();
        let head = self.state.command[1] & 4;
        let protected = self.drives.get(unit).and_then(Drive::medium).is_some_and(|m| m.read_only());
        let track0 = self.state.cylinder[unit] == 0;
        0x28 | unit as u8 | head | u8::from(protected) << 6 | u8::from(track0) << 4
    }

    fn byte_in(&mut self, ctx: &mut Ctx, byte: u8) {
        let s = &mut self.state;
        if s.phase != Phase::Command || s.dor & DOR_RUN == 0 {
            log::debug!("fdc: byte {byte:#04x} is not expected");
            return;
        }
        s.command.push(byte);
        if s.command.len() < length(s.command[0]) {
            return;
        }
        let c = s.command.clone();
        match c[0] & 0x1f {
            0x03 => {
                s.specify = [c[1], c[2]];
                self.answer(&[]);
            }
            0x04 => {
                let status = self.status3();
                self.answer(&[status]);
            }
            0x08 => {
                self.interrupt(ctx, false);
                let s = &mut self.state;
                match s.sense.iter().position(Option::is_some) {
                    Some(n) => {
                        let status = s.sense[n].take().unwrap_or(0x80);
                        let cylinder = s.cylinder[n];
                        self.answer(&[status, cylinder]);
                    }
                    None => self.answer(&[0x80]),
                }
            }
            0x0e => {
                let cy = s.cylinder;
                let (sp, cf) = (s.specify, s.configure);
                let lock = u8::from(s.lock) << 7 | s.perpendicular & 0x3f;
                self.answer(&[cy[0], cy[1], cy[2], cy[3], sp[0], sp[1], 0, lock, cf[1], cf[2]]);
            }
            0x10 => self.answer(&[0x90]),
            0x12 => {
                s.perpendicular = c[1];
                self.answer(&[]);
            }
            0x13 => {
                s.configure.copy_from_slice(&c[1..4]);
                self.answer(&[]);
            }
            0x14 => {
                s.lock = c[0] & 0x80 != 0;
                self.answer(&[(c[0] & 0x80) >> 3]);
            }
            0x02 | 0x05 | 0x06 | 0x09 | 0x0c | 0x16 | 0x0d | 0x0a | 0x07 | 0x0f => {
                s.phase = Phase::Busy;
                s.sector.clear();
                s.moved = 0;
                ctx.arm(WORK, ctx.now.plus(COMMAND_TIME));
            }
            _ => self.answer(&[0x80]),
        }
    }

    /// Moves the heads of the selected drive; that clears the change line if a medium is in.
    fn seek(&mut self, ctx: &mut Ctx, cylinder: u8) {
        let n = self.selected();
        let there = n < self.drives.len();
        self.state.cylinder[n] = cylinder.min(84);
        if let Some(drive) = self.drives.get(n).filter(|drive| drive.medium().is_some()) {
            self.state.seen[n] = Some(drive.changes());
        }
        // A drive that is not there never reaches track 0: equipment check.
        let status = if there || self.state.command[0] & 0x1f == 0x0f { 0x20 } else { 0x70 };
        self.state.sense = [None; 4];
        self.state.sense[n] = Some(status | self.state.command[1] & 7);
        self.answer(&[]);
        self.interrupt(ctx, true);
    }

    /// Ends a data command with status bytes and the sector it has come to.
    fn finish(&mut self, ctx: &mut Ctx, st0: u8, st1: u8, st2: u8) {
        let c = &self.state.command;
        let (unit, place) = (c[1] & 7, [2, 3, 4, 5].map(|i| c.get(i).copied().unwrap_or(0)));
        let [cylinder, head, sector, _] = place;
        self.answer(&[st0 | unit, st1, st2, cylinder, head, sector, N]);
        self.interrupt(ctx, true);
    }

    /// The byte offset of the present sector, or the status bytes 1 and 2 of what is wrong.
    fn place(&self) -> Result<u64, (u8, u8)> {
        let c = &self.state.command;
        let medium = self.drives.get(self.selected()).and_then(Drive::medium).ok_or((0x01, 0))?;
        let (cylinders, heads, sectors, _) = geometry(medium.size());
        let (cylinder, head, sector) = (c[2], c[3], c[4]);
        if cylinder != self.state.cylinder[self.selected()] {
            return Err((0x04, 0x10));
        }
        if cylinder >= cylinders || head >= heads || sector == 0 || sector > sectors || c[5] != N {
            return Err((0x04, 0));
        }
        let lba = (u64::from(cylinder) * u64::from(heads) + u64::from(head)) * u64::from(sectors) + u64::from(sector) - 1;
        Ok(lba * SECTOR as u64)
    }

    /// Goes on to the next sector. False at the end of the cylinder.
    fn advance(&mut self) -> bool {
        let c = &mut self.state.command;
        if c[4] < c[6] {
            c[4] += 1;
            return true;
        }
        let both = c[0] & 0x80 != 0 && c[3] == 0;
        c[4] = 1;
        c[3] ^= u8::from(c[0] & 0x80 != 0);
        c[1] = c[1] & !4 | (c[3] & 1) << 2;
        if !both {
            c[2] = c[2].wrapping_add(1);
        }
        both
    }

    fn work(&mut self, ctx: &mut Ctx) {
        let c = self.state.command.clone();
        match c[0] & 0x1f {
            0x07 => self.seek(ctx, 0),
            0x0f if c[0] & 0x80 != 0 => {
                let at = self.state.cylinder[self.selected()];
                self.seek(ctx, if c[0] & 0x40 != 0 { at.saturating_add(c[2]) } else { at.saturating_sub(c[2]) });
            }
            0x0f => self.seek(ctx, c[2]),
            0x0a => {
                let n = self.selected();
                let cylinder = self.state.cylinder[n];
                self.state.command.extend([cylinder, c[1] >> 2 & 1, 1, N]);
                let ok = self.place();
                let (st0, (st1, st2)) = ok.map_or_else(|e| (0x40, e), |_| (0, (0, 0)));
                self.finish(ctx, st0, st1, st2);
            }
            _ => self.state.phase = Phase::Data,
        }
    }

    /// Moves data between the present command and DMA channel 2, as far as both want to.
    pub fn run_dma(&mut self, ctx: &mut Ctx, dma: &mut Dma8237) {
        while self.state.phase == Phase::Data {
            if self.state.command[0] & 0x1f == 0x0d {
                return self.format(ctx, dma);
            }
            if !self.sector_by_dma(ctx, dma) {
                return;
            }
        }
    }

    /// Moves a sector. False if the DMA controller does not take part.
    fn sector_by_dma(&mut self, ctx: &mut Ctx, dma: &mut Dma8237) -> bool {
        let write = matches!(self.state.command[0] & 0x1f, 0x05 | 0x09);
        let at = match self.place() {
            Ok(at) => at,
            Err((st1, st2)) => {
                self.finish(ctx, 0x40, st1, st2);
                return true;
            }
        };
        let Some(mut medium) = self.drives.get(self.selected()).and_then(Drive::medium) else { return true };
        if write && medium.read_only() {
            self.finish(ctx, 0x40, 0x02, 0);
            return true;
        }
        let mut sector = [0; SECTOR];
        let have = (medium.size().saturating_sub(at)).min(SECTOR as u64) as usize;
        if !write && medium.read_at(at, &mut sector[..have]).is_err() {
            self.finish(ctx, 0x40, 0x20, 0x20);
            return true;
        }
        let (moved, end) = dma.transfer(ctx, CHANNEL, !write, &mut sector);
        if moved == 0 && !end {
            return false;
        }
        if write && medium.write_at(at, &sector[..have]).is_err() {
            self.finish(ctx, 0x40, 0x20, 0x20);
            return true;
        }
        let more = self.advance();
        if end {
            self.finish(ctx, 0, 0, 0);
        } else if !more {
            self.finish(ctx, 0x40, 0x80, 0);
        }
        true
    }

    /// FORMAT TRACK: four bytes (cylinder, head, sector, size) come for each sector, which is filled.
    fn format(&mut self, ctx: &mut Ctx, dma: &mut Dma8237) {
        let c = self.state.command.clone();
        let mut ids = vec![0; usize::from(c[3]) * 4];
        let (moved, _) = dma.transfer(ctx, CHANNEL, false, &mut ids);
        if moved == 0 && !ids.is_empty() {
            return;
        }
        let mut failed = None;
        for id in ids[..moved].chunks_exact(4) {
            self.state.command.truncate(2);
            self.state.command.extend(id);
            let medium = self.drives.get(self.selected()).and_then(Drive::medium);
            let result = match (self.place(), medium) {
                (Ok(_), Some(m)) if m.read_only() => Err((0x02, 0)),
                (Ok(at), Some(mut m)) => m.write_at(at, &[c[5]; SECTOR]).map_err(|_| (0x20, 0x20)),
                (Err(e), _) => Err(e),
                (_, None) => Err((0x01, 0)),
            };
            failed = failed.or(result.err());
        }
        let (st0, (st1, st2)) = failed.map_or((0, (0, 0)), |e| (0x40, e));
        self.finish(ctx, st0, st1, st2);
    }
}

impl Device for Fdc {
    fn name(&self) -> &'static str {
        "fdc82077"
    }
    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        let s = &mut self.state;
        let byte = match (region, offset) {
            (0, 0) => u8::from(s.irq) << 7,
            (0, 1) => 0xc0 | s.dor >> 4 & 3,
            (0, 2) => s.dor,
            (0, 3) => s.tdr,
            (0, 4) if s.dor & DOR_RUN == 0 => 0,
            (0, 4) => match s.phase {
                Phase::Command => RQM | if s.command.is_empty() { 0 } else { BUSY },
                Phase::Busy | Phase::Data => BUSY,
                Phase::Result => RQM | DIO | BUSY,
            },
            (0, 5) if s.phase == Phase::Result => {
                let byte = s.result.pop().unwrap_or(0);
                if s.result.is_empty() {
                    s.phase = Phase::Command;
                    s.command.clear();
                }
                self.interrupt(ctx, false);
                byte
            }
            (0, 5) => 0,
            (1, 0) => {
                // The change line of the selected drive; an absent drive pulls nothing.
                let n = usize::from(s.dor & 3);
                let motor = s.dor >> 4 >> n & 1 != 0;
                let changed = self.drives.get(n).is_some_and(|d| s.seen[n] != Some(d.changes()) || d.medium().is_none());
                u8::from(changed && motor) << 7
            }
            _ => 0xff,
        };
        ones(width) & !0xff | u64::from(byte)
    }
    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, _width: usize, value: u64) {
        let byte = value as u8;
        match (region, offset) {
            (0, 2) => {
                let before = self.state.dor;
                self.state.dor = byte;
                if byte & DOR_RUN == 0 {
                    ctx.cancel(RESET_DONE);
                    ctx.cancel(WORK);
                    self.interrupt(ctx, false);
                } else if before & DOR_RUN == 0 {
                    self.restart(ctx);
                }
            }
            (0, 3) => self.state.tdr = byte & 3,
            (0, 4) if byte & 0x80 != 0 => self.restart(ctx),
            (0, 5) => self.byte_in(ctx, byte),
            _ => {}
        }
    }
    fn timer(&mut self, ctx: &mut Ctx, timer: u32) {
        match timer {
            WORK if self.state.phase == Phase::Busy => self.work(ctx),
            RESET_DONE => self.interrupt(ctx, true),
            _ => {}
        }
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        ctx.cancel(WORK);
        ctx.cancel(RESET_DONE);
        self.state = State::default();
        ctx.line(0, false);
    }
    device_state!(state, 1);
}

#[cfg(test)]
mod tests {
    use softmetal_bus::SharedDisk;

    use super::*;
    use crate::testing::Rig;

    struct Host {
        rig: Rig,
        fdc: Fdc,
        dma: Dma8237,
        disk: SharedDisk,
    }

    impl Host {
        /// A running controller with a 1.44 MB medium, after its reset.
        fn new() -> Self {
            let disk = SharedDisk::new((0..1440 << 10).map(|i: usize| (i / 512 + i) as u8).collect::<Vec<_>>());
            let mut h = Self { rig: Rig::new(), fdc: Fdc::new(vec![Drive::with(disk.clone())]), dma: Dma8237::new(), disk };
            h.rig.write(&mut h.fdc, 0, 2, 1, 0);
            h.rig.write(&mut h.fdc, 0, 2, 1, 0x1c);
            h.rig.run(&mut h.fdc, COMMAND_TIME);
            assert_eq!(h.rig.take_line(0).last(), Some(&true));
            for n in 0..4 {
                assert_eq!(h.command(&[8]), [0xc0 | n, 0]);
            }
            assert_eq!(h.command(&[8]), [0x80]);
            h
        }

        fn command(&mut self, bytes: &[u8]) -> Vec<u8> {
            for byte in bytes {
                assert_eq!(self.rig.read(&mut self.fdc, 0, 4, 1) & 0xc0, 0x80);
                self.rig.write(&mut self.fdc, 0, 5, 1, (*byte).into());
            }
            self.rig.run(&mut self.fdc, COMMAND_TIME);
            self.fdc.run_dma(&mut self.rig.ctx(), &mut self.dma);
            let mut result = Vec::new();
            while self.rig.read(&mut self.fdc, 0, 4, 1) & 0xc0 == 0xc0 {
                result.push(self.rig.read(&mut self.fdc, 0, 5, 1) as u8);
            }
            result
        }

        /// Sets channel 2 up for `len` bytes at 0x12340.
        fn channel(&mut self, mode: u64, len: u64) {
            for (region, register, value) in [
                (0, 10, 6),
                (0, 12, 0),
                (0, 11, mode),
                (0, 4, 0x40),
                (0, 4, 0x23),
                (2, 1, 1),
                (0, 5, (len - 1) & 0xff),
                (0, 5, (len - 1) >> 8),
                (0, 10, 2),
            ] {
                self.rig.write(&mut self.dma, region, register, 1, value);
            }
        }
    }

    #[test]
    fn reads_writes_and_formats() {
        let mut h = Host::new();
        assert_eq!((h.command(&[0x10]), h.command(&[0x1f])), (vec![0x90], vec![0x80]));
        assert_eq!(h.rig.read(&mut h.fdc, 1, 0, 1) & 0x80, 0x80);
        assert!(h.command(&[7, 0]).is_empty());
        assert_eq!((h.command(&[8]), h.rig.read(&mut h.fdc, 1, 0, 1) & 0x80), (vec![0x20, 0], 0));
        h.command(&[0x0f, 0, 5]);
        assert_eq!(h.command(&[8]), [0x20, 5]);
        assert_eq!(h.command(&[0x4a, 4]), [4, 0, 0, 5, 1, 1, 2]);

        // Two sectors from the end of head 0 on to head 1.
        h.channel(0x46, 1024);
        h.rig.take();
        assert_eq!(h.command(&[0xe6, 0, 5, 0, 18, 2, 18, 0x1b, 0xff]), [4, 0, 0, 5, 1, 2, 2]);
        assert_eq!(h.rig.take_line(0), [true, false, false, false, false, false, false, false]);
        let (mut ram, mut disk) = ([0; 1024], [0; 1024]);
        h.rig.memory.read(0x1_2340, &mut ram).unwrap();
        h.disk.read_at((5 * 36 + 17) * 512, &mut disk).unwrap();
        assert_eq!(ram, disk);
        assert_eq!(h.rig.read(&mut h.dma, 0, 8, 1) & 4, 4);

        h.rig.memory.write(0x1_2340, &[0x5a; 512]).unwrap();
        h.channel(0x4a, 512);
        assert_eq!(h.command(&[0xc5, 0, 5, 0, 1, 2, 18, 0x1b, 0xff])[..3], [0, 0, 0]);
        let mut sector = [0; 512];
        h.disk.read_at(5 * 36 * 512, &mut sector).unwrap();
        assert_eq!(sector, [0x5a; 512]);

        // The end of the cylinder before the terminal count; a wrong cylinder; a sector that is not there.
        h.channel(0x46, 2048);
        assert_eq!(h.command(&[0x46, 0, 5, 0, 18, 2, 18, 0x1b, 0xff])[..3], [0x40, 0x80, 0]);
        assert_eq!(h.command(&[0x46, 0, 6, 0, 1, 2, 18, 0x1b, 0xff])[..3], [0x40, 4, 0x10]);
        assert_eq!(h.command(&[0x46, 0, 5, 0, 19, 2, 18, 0x1b, 0xff])[..3], [0x40, 4, 0]);

        let ids: Vec<u8> = (1..=18).flat_map(|n| [5, 1, n, 2]).collect();
        h.rig.memory.write(0x1_2340, &ids).unwrap();
        h.channel(0x4a, 72);
        assert_eq!(h.command(&[0x4d, 4, 2, 18, 0x54, 0xf6])[..3], [4, 0, 0]);
        let mut track = [0; 18 * 512];
        h.disk.read_at((5 * 36 + 18) * 512, &mut track).unwrap();
        assert!(track.iter().all(|b| *b == 0xf6));
        assert_eq!((geometry(360 << 10), geometry(1440 << 10)), ((40, 2, 9, 1), (80, 2, 18, 4)));
    }
}
