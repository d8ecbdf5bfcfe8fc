//! The pair of 8259A interrupt controllers of a PC, cascaded through IR2 (8259A datasheet), with the ELCR of the
//! PC chip sets.
//!
//! Regions: 0 = master (ports 0x20-0x21), 1 = slave (0xA0-0xA1), 2 = ELCR (0x4D0-0x4D1).
//! Input lines 0..15 are IRQ0..IRQ15; output line 0 is INTR.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, device_state, ones};

use crate::lanes::{read_bytes, write_bytes};

/// The master's input to which the slave is wired.
const CASCADE: u8 = 2;
/// Inputs that cannot be made level-triggered: IRQ0, 1, 2 and 8, 13.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// What the next write to the odd port means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    /// Nothing before the first ICW1: the chip is inert.
    #[default]
    Icw1,
    Icw2,
    Icw3,
    Icw4,
    /// Initialised: OCW1.
    Ocw1,
}

/// One 8259A.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Chip {
    /// Levels of the inputs.
    lines: u8,
    irr: u8,
    isr: u8,
    imr: u8,
    /// Level-triggered inputs.
    elcr: u8,
    /// Bits 7:3 of the vectors.
    base: u8,
    icw1: u8,
    expect: Expect,
    /// The input of lowest priority; the next one is the highest.
    lowest: u8,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    /// A read of the even port gives ISR instead of IRR.
    read_isr: bool,
    /// The next read is a poll.
    poll: bool,
}

impl Chip {
    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1u8 << (input & 7);
        let was = self.lines & bit != 0;
        if level {
            self.lines |= bit;
            if !was || self.elcr & bit != 0 {
                self.irr |= bit;
            }
        } else {
            // The request must be held until INTA, edge-triggered or not; otherwise it becomes a spurious IR7.
            self.lines &= !bit;
            self.irr &= !bit;
        }
    }

    /// The input of highest priority among `inputs`, and its rank (0 is the highest).
    fn highest(&self, inputs: u8) -> Option<(u8, u8)> {
        (0..8).map(|rank| (self.lowest.wrapping_add(1 + rank) & 7, rank)).find(|&(input, _)| inputs & 1 << input != 0)
    }

    /// The input whose request is strong enough to interrupt.
    fn request(&self) -> Option<u8> {
        if self.expect != Expect::Ocw1 {
            return None;
        }
        let (input, rank) = self.highest(self.irr & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested {
            // A slave may interrupt its own service routine.
            in_service &= !(1 << CASCADE);
        }
        let blocked = self.highest(in_service).is_some_and(|(_, serving)| serving <= rank);
        (!blocked).then_some(input)
    }

    /// INTA or a poll: the request goes into service.
    fn accept(&mut self) -> Option<u8> {
        let input = self.request()?;
        let bit = 1 << input;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.lowest = input;
            }
        } else {
            self.isr |= bit;
        }
        Some(input)
    }

    fn vector(&self, input: u8) -> u8 {
        self.base | input
    }

    fn initialise(&mut self, icw1: u8) {
        *self = Self {
            lines: self.lines,
            elcr: self.elcr,
            // Edges seen so far are forgotten; levels are not.
            irr: self.lines & self.elcr,
            base: self.base,
            icw1,
            expect: Expect::Icw2,
            lowest: 7,
            ..Self::default()
        };
    }

    fn end_of_interrupt(&mut self, input: Option<u8>, rotate: bool) {
        let candidates = if self.special_mask { self.isr & !self.imr } else { self.isr };
        let Some(input) = input.or_else(|| Some(self.highest(candidates)?.0)) else {
            return;
        };
        self.isr &= !(1 << input);
        if rotate {
            self.lowest = input;
        }
    }

    fn ocw2(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b001 => self.end_of_interrupt(None, false),
            0b010 => {}
            0b011 => self.end_of_interrupt(Some(input), false),
            0b100 => self.rotate_on_auto_eoi = true,
            0b101 => self.end_of_interrupt(None, true),
            0b110 => self.lowest = input,
            _ => self.end_of_interrupt(Some(input), true),
        }
    }

    fn ocw3(&mut self, value: u8) {
        self.poll = value & 0x04 != 0;
        if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    fn write(&mut self, port: u64, value: u8) {
        match (port, self.expect) {
            (0, _) if value & 0x10 != 0 => self.initialise(value),
            (0, _) if value & 0x08 != 0 => self.ocw3(value),
            (0, _) => self.ocw2(value),
            (_, Expect::Icw2) => {
                self.base = value & 0xf8;
                let single = self.icw1 & 0x02 != 0;
                self.expect = if single { self.after_icw3() } else { Expect::Icw3 };
            }
            // The wiring of the cascade is fixed.
            (_, Expect::Icw3) => self.expect = self.after_icw3(),
            (_, Expect::Icw4) => {
                self.auto_eoi = value & 0x02 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.expect = Expect::Ocw1;
            }
            (_, Expect::Icw1 | Expect::Ocw1) => self.imr = value,
        }
    }

    fn after_icw3(&self) -> Expect {
        if self.icw1 & 0x01 != 0 { Expect::Icw4 } else { Expect::Ocw1 }
    }

    fn register(&self, port: u64) -> u8 {
        match port {
            0 if self.read_isr => self.isr,
            0 => self.irr,
            _ => self.imr,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    /// Master, slave.
    chips: [Chip; 2],
    intr: bool,
}

/// The two 8259As.
#[derive(Debug, Default)]
pub struct Pic8259 {
    state: State,
}

impl Pic8259 {
    /// The pair as at power-on: inert until initialised by ICW1-ICW4.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The INTA cycle: the vector of the request of highest priority, which goes into service. A request that has gone
    /// meanwhile gives the vector of IRQ7 (or IRQ15) without going into service (8259A datasheet, "IR7 default").
    pub fn acknowledge(&mut self, ctx: &mut Ctx) -> u8 {
        let [master, slave] = &mut self.state.chips;
        let vector = match master.accept() {
            Some(CASCADE) => {
                let input = slave.accept().unwrap_or(7);
                // The slave's INT falls with INTA, so that what still waits there is an edge again.
                master.set_line(CASCADE, false);
                slave.vector(input)
            }
            input => master.vector(input.unwrap_or(7)),
        };
        self.update(ctx);
        vector
    }

    /// Whether INTR is asserted.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.state.intr
    }

    fn poll(&mut self, chip: usize) -> u8 {
        self.state.chips[chip].poll = false;
        let accepted = self.state.chips[chip].accept();
        if chip == 1 && accepted.is_some() {
            self.state.chips[0].set_line(CASCADE, false);
        }
        accepted.map_or(0, |input| 0x80 | input)
    }

    fn update(&mut self, ctx: &mut Ctx) {
        let [master, slave] = &mut self.state.chips;
        master.set_line(CASCADE, slave.request().is_some());
        let intr = master.request().is_some();
        if intr != self.state.intr {
            self.state.intr = intr;
            ctx.line(0, intr);
        }
    }
}

impl Device for Pic8259 {
    fn name(&self) -> &'static str {
        "pic8259"
    }

    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        if region > 2 {
            return ones(width);
        }
        let value = read_bytes(width, |i| match (region, offset + i) {
            (2, chip @ 0..2) => self.state.chips[chip as usize].elcr,
            (chip @ 0..2, port @ 0..2) => {
                let chip = usize::from(chip);
                if self.state.chips[chip].poll { self.poll(chip) } else { self.state.chips[chip].register(port) }
            }
            _ => 0xff,
        });
        self.update(ctx);
        value
    }

    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        write_bytes(width, value, |i, byte| match (region, offset + i) {
            (2, chip @ 0..2) => {
                let chip = chip as usize;
                let c = &mut self.state.chips[chip];
                c.elcr = byte & ELCR_MASK[chip];
                c.irr = c.irr & !c.elcr | c.lines & c.elcr;
            }
            (chip @ 0..2, port @ 0..2) => self.state.chips[usize::from(chip)].write(port, byte),
            (region, offset) => log::debug!("pic8259: write {byte:#x} to region {region} offset {offset:#x} ignored"),
        });
        self.update(ctx);
    }

    fn line_in(&mut self, ctx: &mut Ctx, line: u8, level: bool) {
        match line {
            CASCADE | 16.. => log::debug!("pic8259: nothing is wired to IRQ{line}"),
            _ => {
                self.state.chips[usize::from(line / 8)].set_line(line % 8, level);
                self.update(ctx);
            }
        }
    }

    fn reset(&mut self, ctx: &mut Ctx) {
        let lines = [self.state.chips[0].lines, self.state.chips[1].lines];
        self.state = State::default();
        for (chip, lines) in self.state.chips.iter_mut().zip(lines) {
            chip.lines = lines;
        }
        self.state.chips[0].set_line(CASCADE, false);
        ctx.line(0, false);
    }

    device_state!(state, 1);
}
