//! Which output line of which chip leads to which interrupt input.

use serde::{Deserialize, Serialize};
use softmetal_bus::DeviceId;

use super::chips::id;

/// Input pins of the I/O APIC.
pub const PINS: usize = 24;
/// PCI interrupts.
pub const PIRQS: usize = 8;

/// Where the PCI interrupts lead now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Routes {
    /// The ISA interrupt of each PIRQ.
    pub isa: [Option<u8>; PIRQS],
    /// The first of their own inputs of the I/O APIC.
    pub apic: Option<u8>,
}

/// Where a line leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// An ISA interrupt: an input of the 8259 pair, and of the I/O APIC (0 goes to its pin 2, the others straight).
    Isa(u8),
    /// ISA interrupt 0 or 8 as the HPET's legacy replacement drives it.
    Legacy(u8),
    /// A PCI interrupt, which the ISA bridge routes to an ISA interrupt.
    Pirq(u8),
    /// An input of the I/O APIC alone.
    Apic(u8),
    /// The 8259 pair's INTR output.
    PicIntr,
    /// The local APIC's INTR output.
    ApicIntr,
    /// The local APIC's NMI output.
    Nmi,
    /// SMI#.
    Smi,
    /// Nowhere.
    Open,
}

/// The wiring of the chips that every board has (PCI devices: [`softmetal_firmware::pirq`]).
#[must_use]
pub fn route(device: DeviceId, line: u8) -> Pin {
    match (device, line) {
        (id::PIC, 0) => Pin::PicIntr,
        (id::LAPIC, 0) => Pin::ApicIntr,
        (id::LAPIC, 1) => Pin::Nmi,
        (id::LAPIC, 2) | (id::PM, 1) => Pin::Smi,
        (id::PIT, 0) => Pin::Isa(0),
        (id::KBC, 0) => Pin::Isa(1),
        (id::COM2, 0) => Pin::Isa(3),
        (id::COM1, 0) => Pin::Isa(4),
        (id::RTC, 0) => Pin::Isa(8),
        (id::PM, 0) => Pin::Isa(9),
        (id::KBC, 1) => Pin::Isa(12),
        (id::FDC, 0) => Pin::Isa(6),
        (id::FERR, 0) => Pin::Isa(13),
        (id::HPET, 32) => Pin::Legacy(0),
        (id::HPET, 33) => Pin::Legacy(8),
        (id::HPET, n) if usize::from(n) < PINS => Pin::Apic(n),
        _ => Pin::Open,
    }
}

/// The I/O APIC pin of an ISA interrupt.
#[must_use]
pub fn apic_pin(isa: u8) -> u8 {
    if isa == 0 { 2 } else { isa }
}

/// Every interrupt input's sources: the input is asserted while any of them is (wired OR).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wires {
    /// A bit a device, by ISA interrupt.
    isa: [u64; 16],
    /// The HPET's legacy lines 0 and 8.
    legacy: [bool; 2],
    /// A bit a device, by PIRQ.
    pirq: [u64; PIRQS],
    /// A bit a device, by pin, of what reaches the I/O APIC alone.
    apic: [u64; PINS],
    /// What the 8259 inputs have now.
    pic_driven: u16,
    /// What the I/O APIC inputs have now.
    apic_driven: u32,
    /// The 8259 pair asks for an interrupt.
    pub pic_intr: bool,
    /// The local APIC asks for an interrupt.
    pub apic_intr: bool,
}

impl Wires {
    /// Notes that `device` drives an interrupt input.
    pub fn drive(&mut self, device: DeviceId, pin: Pin, level: bool) {
        let bit = 1u64 << (device.0 & 63);
        let set = |word: &mut u64| *word = if level { *word | bit } else { *word & !bit };
        match pin {
            Pin::Isa(n) => set(&mut self.isa[usize::from(n & 15)]),
            Pin::Legacy(n) => self.legacy[usize::from(n != 0)] = level,
            Pin::Pirq(n) => set(&mut self.pirq[usize::from(n) % PIRQS]),
            Pin::Apic(n) => set(&mut self.apic[usize::from(n) % PINS]),
            Pin::PicIntr => self.pic_intr = level,
            Pin::ApicIntr => self.apic_intr = level,
            Pin::Nmi | Pin::Smi | Pin::Open => {}
        }
    }

    /// The next input whose level has to change: (is it the I/O APIC's, number, level). `legacy` says whether the HPET
    /// replaces the PIT and the RTC, `routes` where each PIRQ leads.
    pub fn next_change(&mut self, legacy: bool, routes: &Routes) -> Option<(bool, u8, bool)> {
        let mut isa = 0u16;
        for (n, sources) in self.isa.iter().enumerate() {
            let on = match n {
                0 | 8 if legacy => self.legacy[usize::from(n != 0)],
                _ => *sources != 0,
            };
            isa |= u16::from(on) << n;
        }
        for (sources, irq) in self.pirq.iter().zip(&routes.isa) {
            isa |= irq.map_or(0, |irq| u16::from(*sources != 0) << (irq & 15));
        }
        let changed = isa ^ self.pic_driven;
        if changed != 0 {
            let n = changed.trailing_zeros() as u8;
            self.pic_driven ^= 1 << n;
            return Some((false, n, isa >> n & 1 != 0));
        }
        let mut pins = 0u32;
        for (n, sources) in self.apic.iter().enumerate() {
            pins |= u32::from(*sources != 0) << n;
        }
        for (n, sources) in self.pirq.iter().enumerate() {
            let pin = routes.apic.map(|first| usize::from(first) + n).filter(|pin| *pin < PINS);
            pins |= pin.map_or(0, |pin| u32::from(*sources != 0) << pin);
        }
        for n in 0..16u8 {
            pins |= u32::from(isa >> n & 1) << apic_pin(n);
        }
        let changed = pins ^ self.apic_driven;
        if changed == 0 {
            return None;
        }
        let n = changed.trailing_zeros() as u8;
        self.apic_driven ^= 1 << n;
        Some((true, n, pins >> n & 1 != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(w: &mut Wires, legacy: bool) -> Vec<(bool, u8, bool)> {
        let routes = Routes { isa: [Some(10), None, None, Some(10), None, None, None, None], apic: None };
        std::iter::from_fn(|| w.next_change(legacy, &routes)).collect()
    }

    #[test]
    fn shared_lines_are_or_ed() {
        let mut w = Wires::default();
        w.drive(DeviceId(40), Pin::Isa(10), true);
        w.drive(DeviceId(41), Pin::Isa(10), true);
        assert_eq!(changes(&mut w, false), [(false, 10, true), (true, 10, true)]);
        w.drive(DeviceId(40), Pin::Isa(10), false);
        assert_eq!(changes(&mut w, false), []);
        w.drive(DeviceId(41), Pin::Isa(10), false);
        assert_eq!(changes(&mut w, false), [(false, 10, false), (true, 10, false)]);
    }

    #[test]
    fn pci_interrupts_are_routed() {
        let mut w = Wires::default();
        w.drive(DeviceId(40), Pin::Pirq(1), true);
        assert_eq!(changes(&mut w, false), []);
        w.drive(DeviceId(41), Pin::Pirq(3), true);
        w.drive(DeviceId(42), Pin::Pirq(0), true);
        assert_eq!(changes(&mut w, false), [(false, 10, true), (true, 10, true)]);
        let mut routes = Routes { apic: Some(16), ..Routes::default() };
        routes.isa[1] = Some(5);
        let all: Vec<_> = std::iter::from_fn(|| w.next_change(false, &routes)).collect();
        let pic = [(false, 5, true), (false, 10, false)];
        let apic = [(true, 5, true), (true, 10, false), (true, 16, true), (true, 17, true), (true, 19, true)];
        assert_eq!(all, [&pic[..], &apic[..]].concat());
    }

    #[test]
    fn the_hpet_replaces_pit_and_rtc() {
        let mut w = Wires::default();
        w.drive(id::PIT, route(id::PIT, 0), true);
        assert_eq!(changes(&mut w, false), [(false, 0, true), (true, 2, true)]);
        assert_eq!(changes(&mut w, true), [(false, 0, false), (true, 2, false)]);
        w.drive(id::HPET, route(id::HPET, 33), true);
        assert_eq!(changes(&mut w, true), [(false, 8, true), (true, 8, true)]);
    }
}
