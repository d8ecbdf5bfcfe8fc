use super::*;
use crate::testing::Rig;

fn enabled(config: u64) -> (Rig, Hpet) {
    let (mut rig, mut hpet) = (Rig::new(), Hpet::new());
    rig.write(&mut hpet, 0, 0x10, 4, config);
    (rig, hpet)
}

#[test]
fn the_counter_counts_and_stands() {
    let (mut rig, mut hpet) = enabled(0);
    assert_eq!(rig.read(&mut hpet, 0, 4, 4), 10_000_000);
    rig.write(&mut hpet, 0, 0xf0, 8, 0xffff_ffff);
    rig.run(&mut hpet, 500);
    rig.write(&mut hpet, 0, 0x10, 8, ENABLE);
    rig.run(&mut hpet, 1000);
    assert_eq!(rig.read(&mut hpet, 0, 0xf0, 8), 0x1_0000_0063);
    assert_eq!(rig.read(&mut hpet, 0, 0xf4, 4), 1);
    rig.write(&mut hpet, 0, 0x10, 8, 0);
    rig.run(&mut hpet, 1000);
    assert_eq!(rig.read(&mut hpet, 0, 0xf0, 8), 0x1_0000_0063);
}

#[test]
fn one_shot_on_the_legacy_line() {
    let (mut rig, mut hpet) = enabled(ENABLE | LEGACY);
    assert!(hpet.legacy());
    rig.run(&mut hpet, 1000);
    rig.write(&mut hpet, 0, 0x100, 4, INTERRUPT | MODE_32);
    rig.write(&mut hpet, 0, 0x108, 4, 150);
    rig.run_to(&mut hpet, Time(1499));
    assert_eq!(rig.take_line(LEGACY_IRQ0), []);
    rig.run_to(&mut hpet, Time(1500));
    assert_eq!(rig.take_line(LEGACY_IRQ0), [true]);
    rig.write(&mut hpet, 0, 0x108, 4, 300);
    rig.run_to(&mut hpet, Time(4000));
    assert_eq!(rig.take_line(LEGACY_IRQ0), [false, true]);
    // A comparator that is already behind waits for the whole turn of 2^32.
    assert_eq!(rig.timers.next(), Some(Time(10 * (300 + (1 << 32)))));
}

#[test]
fn periodic_as_operating_systems_set_it() {
    let (mut rig, mut hpet) = enabled(ENABLE | LEGACY);
    rig.write(&mut hpet, 0, 0x100, 4, INTERRUPT | PERIODIC | VALUE_SET | MODE_32);
    rig.write(&mut hpet, 0, 0x108, 4, 1_000_500);
    rig.write(&mut hpet, 0, 0x108, 4, 1_000_000);
    rig.run_to(&mut hpet, Time(10_005_000));
    assert_eq!(rig.take_line(LEGACY_IRQ0), [true]);
    assert_eq!(rig.read(&mut hpet, 0, 0x108, 4), 2_000_500);
    rig.run_to(&mut hpet, Time(100_000_000));
    assert_eq!(rig.take_line(LEGACY_IRQ0).iter().filter(|&&level| level).count(), 8);
}

#[test]
fn level_triggered_until_the_status_is_cleared() {
    let (mut rig, mut hpet) = enabled(ENABLE);
    rig.write(&mut hpet, 0, 0x140, 4, 20 << 9 | INTERRUPT | LEVEL);
    // A route outside the capability leaves the old one.
    rig.write(&mut hpet, 0, 0x140, 4, 3 << 9 | INTERRUPT | LEVEL);
    assert_eq!(rig.read(&mut hpet, 0, 0x140, 8), TIMER_CAPABILITIES | 20 << 9 | INTERRUPT | LEVEL);
    rig.write(&mut hpet, 0, 0x148, 8, 40);
    rig.run(&mut hpet, 5000);
    assert_eq!(rig.take_line(20), [true]);
    assert_eq!(rig.read(&mut hpet, 0, 0x20, 4), 4);
    rig.write(&mut hpet, 0, 0x20, 4, 4);
    assert_eq!(rig.take_line(20), [false]);
}

#[test]
fn a_tiny_period_does_not_flood() {
    let (mut rig, mut hpet) = enabled(ENABLE | LEGACY);
    rig.write(&mut hpet, 0, 0x100, 4, INTERRUPT | PERIODIC | VALUE_SET);
    rig.write(&mut hpet, 0, 0x108, 8, 1);
    rig.run(&mut hpet, 1_000_000);
    let rises = rig.take_line(LEGACY_IRQ0).iter().filter(|&&level| level).count();
    assert!((900..=1001).contains(&rises), "{rises}");
}

#[test]
fn reset_lowers_the_lines() {
    let (mut rig, mut hpet) = enabled(ENABLE | LEGACY);
    rig.write(&mut hpet, 0, 0x120, 4, INTERRUPT);
    rig.write(&mut hpet, 0, 0x128, 8, 7);
    rig.run(&mut hpet, 100);
    let mut other = Hpet::new();
    other.load(&hpet.save()).unwrap();
    rig.take();
    other.reset(&mut rig.ctx());
    assert_eq!(rig.take_line(LEGACY_IRQ8), [false]);
    assert!(!other.legacy());
}
