use super::*;
use crate::testing::Rig;

/// A pair initialised as a PC does: vectors 0x20 and 0x28, everything unmasked.
fn initialised(icw4: u64) -> (Rig, Pic8259) {
    let (mut rig, mut pic) = (Rig::new(), Pic8259::new());
    for (region, base, icw3) in [(0, 0x20, 4), (1, 0x28, 2)] {
        rig.write(&mut pic, region, 0, 1, 0x11);
        for icw in [base, icw3, icw4, 0] {
            rig.write(&mut pic, region, 1, 1, icw);
        }
    }
    rig.take();
    (rig, pic)
}

fn irr_isr(rig: &mut Rig, pic: &mut Pic8259, chip: u8) -> (u64, u64) {
    [0x0a, 0x0b]
        .map(|ocw3| {
            rig.write(pic, chip, 0, 1, ocw3);
            rig.read(pic, chip, 0, 1)
        })
        .into()
}

#[test]
fn priorities_and_eoi() {
    let (mut rig, mut pic) = initialised(1);
    rig.line_in(&mut pic, 4, true);
    assert_eq!(rig.take_line(0), [true]);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x24);
    assert_eq!(rig.take_line(0), [false]);
    assert_eq!(irr_isr(&mut rig, &mut pic, 0), (0, 0x10));
    rig.line_in(&mut pic, 5, true);
    assert_eq!(rig.take_line(0), []);
    rig.line_in(&mut pic, 1, true);
    assert_eq!(rig.take_line(0), [true]);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x21);
    rig.write(&mut pic, 0, 0, 1, 0x20);
    assert_eq!(irr_isr(&mut rig, &mut pic, 0), (0x20, 0x10));
    rig.write(&mut pic, 0, 0, 1, 0x64);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x25);
}

#[test]
fn slave_through_the_cascade() {
    let (mut rig, mut pic) = initialised(1);
    rig.line_in(&mut pic, 12, true);
    rig.line_in(&mut pic, 8, true);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x28);
    assert_eq!(irr_isr(&mut rig, &mut pic, 0), (0, 4));
    rig.take();
    // The slave's end alone does not let IRQ12 through: the master still serves IR2.
    rig.write(&mut pic, 1, 0, 1, 0x20);
    assert_eq!(rig.take_line(0), []);
    rig.write(&mut pic, 0, 0, 1, 0x62);
    assert_eq!(rig.take_line(0), [true]);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x2c);
}

#[test]
fn special_fully_nested_lets_a_stronger_slave_request_in() {
    let (mut rig, mut pic) = initialised(0x11);
    rig.line_in(&mut pic, 12, true);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x2c);
    rig.take();
    rig.line_in(&mut pic, 9, true);
    assert_eq!(rig.take_line(0), [true]);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x29);
}

#[test]
fn a_request_that_goes_away_is_spurious() {
    let (mut rig, mut pic) = initialised(1);
    rig.line_in(&mut pic, 3, true);
    rig.line_in(&mut pic, 3, false);
    assert_eq!(rig.take_line(0), [true, false]);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x27);
    assert_eq!(irr_isr(&mut rig, &mut pic, 0), (0, 0));
}

#[test]
fn edge_needs_a_new_edge_and_level_does_not() {
    let (mut rig, mut pic) = initialised(1);
    rig.write(&mut pic, 2, 0, 2, 0xffff);
    assert_eq!(rig.read(&mut pic, 2, 0, 2), 0xdef8);
    for (irq, again) in [(1, false), (5, true)] {
        rig.line_in(&mut pic, irq, true);
        assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x20 + irq);
        rig.take();
        rig.write(&mut pic, 0, 0, 1, 0x20);
        assert_eq!(rig.take_line(0).contains(&true), again, "IRQ{irq}");
        rig.line_in(&mut pic, irq, false);
    }
    assert!(!pic.pending());
}

#[test]
fn special_mask_mode_lets_weaker_requests_in() {
    let (mut rig, mut pic) = initialised(1);
    rig.line_in(&mut pic, 1, true);
    pic.acknowledge(&mut rig.ctx());
    rig.line_in(&mut pic, 6, true);
    assert!(!pic.pending());
    rig.write(&mut pic, 0, 1, 1, 0x02);
    rig.write(&mut pic, 0, 0, 1, 0x68);
    assert!(pic.pending());
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x26);
    // The masked IR1 is passed over by a non-specific EOI.
    rig.write(&mut pic, 0, 0, 1, 0x20);
    assert_eq!(irr_isr(&mut rig, &mut pic, 0), (0, 0x02));
}

#[test]
fn auto_eoi_rotation_and_poll() {
    let (mut rig, mut pic) = initialised(3);
    rig.write(&mut pic, 0, 0, 1, 0x80);
    for irq in [0, 3] {
        rig.line_in(&mut pic, irq, true);
    }
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x20);
    rig.line_in(&mut pic, 0, false);
    rig.line_in(&mut pic, 0, true);
    // IRQ0 is now the weakest.
    rig.write(&mut pic, 0, 0, 1, 0x0c);
    assert_eq!(rig.read(&mut pic, 0, 0, 1), 0x83);
    assert_eq!(pic.acknowledge(&mut rig.ctx()), 0x20);
    rig.write(&mut pic, 0, 0, 1, 0x0c);
    assert_eq!(rig.read(&mut pic, 0, 0, 1), 0);
}

#[test]
fn state_round_trips() {
    let (mut rig, mut pic) = initialised(1);
    rig.line_in(&mut pic, 12, true);
    let mut other = Pic8259::new();
    other.load(&pic.save()).unwrap();
    assert_eq!(other.acknowledge(&mut rig.ctx()), 0x2c);
    assert!(other.load(&[1, 2]).is_err());
}
