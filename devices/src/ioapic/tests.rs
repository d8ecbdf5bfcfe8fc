use super::*;
use crate::testing::Rig;

fn store(rig: &mut Rig, apic: &mut IoApic, index: u64, value: u64) {
    rig.write(apic, 0, 0, 4, index);
    rig.write(apic, 0, 0x10, 4, value);
}

fn load(rig: &mut Rig, apic: &mut IoApic, index: u64) -> u64 {
    rig.write(apic, 0, 0, 4, index);
    rig.read(apic, 0, 0x10, 4)
}

fn program(rig: &mut Rig, apic: &mut IoApic, pin: u64, entry: u64) {
    store(rig, apic, 0x11 + 2 * pin, entry >> 32);
    store(rig, apic, 0x10 + 2 * pin, entry & 0xffff_ffff);
}

#[test]
fn identification() {
    let (mut rig, mut apic) = (Rig::new(), IoApic::new(5));
    assert_eq!(load(&mut rig, &mut apic, 0), 5 << 24);
    assert_eq!(load(&mut rig, &mut apic, 1), 0x0017_0020);
    assert_eq!(load(&mut rig, &mut apic, 0x10 + 2 * 23), MASKED);
    assert_eq!(load(&mut rig, &mut apic, 0x40), 0xffff_ffff);
}

#[test]
fn an_edge_is_sent_once_and_lost_while_masked() {
    let (mut rig, mut apic) = (Rig::new(), IoApic::new(0));
    rig.line_in(&mut apic, 2, true);
    program(&mut rig, &mut apic, 2, 3 << 56 | LOGICAL | 0x130);
    assert_eq!(rig.take_msis(), []);
    rig.line_in(&mut apic, 2, true);
    rig.line_in(&mut apic, 2, false);
    rig.line_in(&mut apic, 2, true);
    // Lowest priority sets the redirection hint.
    assert_eq!(rig.take_msis(), [(0xfee0_300c, 0x130)]);
}

#[test]
fn a_level_is_sent_again_after_each_end_of_interrupt() {
    let (mut rig, mut apic) = (Rig::new(), IoApic::new(0));
    rig.line_in(&mut apic, 11, true);
    program(&mut rig, &mut apic, 11, 1 << 56 | LEVEL | 0x55);
    assert_eq!(rig.take_msis(), [(0xfee0_1000, 0xc055)]);
    assert_eq!(load(&mut rig, &mut apic, 0x10 + 22), REMOTE_IRR | LEVEL | 0x55);
    // Remote IRR is not for software to write, and holds further interrupts back.
    program(&mut rig, &mut apic, 11, 1 << 56 | LEVEL | 0x55);
    apic.end_of_interrupt(&mut rig.ctx(), 0x54);
    assert_eq!(rig.take_msis(), []);
    rig.write(&mut apic, 0, 0x40, 4, 0x55);
    assert_eq!(rig.take_msis(), [(0xfee0_1000, 0xc055)]);
    rig.line_in(&mut apic, 11, false);
    apic.end_of_interrupt(&mut rig.ctx(), 0x55);
    assert_eq!(rig.take_msis(), []);
    assert_eq!(load(&mut rig, &mut apic, 0x10 + 22), LEVEL | 0x55);
}

#[test]
fn masking_delays_a_level_and_edge_mode_drops_remote_irr() {
    let (mut rig, mut apic) = (Rig::new(), IoApic::new(0));
    program(&mut rig, &mut apic, 20, MASKED | LEVEL | 0x60);
    rig.line_in(&mut apic, 20, true);
    assert_eq!(rig.take_msis(), []);
    program(&mut rig, &mut apic, 20, LEVEL | 0x60);
    assert_eq!(rig.take_msis().len(), 1);
    program(&mut rig, &mut apic, 20, MASKED | 0x60);
    program(&mut rig, &mut apic, 20, LEVEL | 0x60);
    assert_eq!(rig.take_msis().len(), 1);
    let mut other = IoApic::new(0);
    other.load(&apic.save()).unwrap();
    other.end_of_interrupt(&mut rig.ctx(), 0x60);
    assert_eq!(rig.take_msis(), [(0xfee0_0000, 0xc060)]);
}
