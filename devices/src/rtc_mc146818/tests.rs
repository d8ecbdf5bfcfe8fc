use super::*;
use crate::testing::Rig;

/// 2024-12-31 23:59:58 UTC, a Tuesday.
const NEW_YEARS_EVE: i64 = 1_735_689_598;

fn get(rig: &mut Rig, rtc: &mut Rtc, index: u8) -> u8 {
    rig.write(rtc, 0, 0, 1, index.into());
    rig.read(rtc, 0, 1, 1) as u8
}

fn set(rig: &mut Rig, rtc: &mut Rtc, index: u8, value: u8) {
    rig.write(rtc, 0, 0, 1, index.into());
    rig.write(rtc, 0, 1, 1, value.into());
}

/// Century, year, month, day, weekday, hours, minutes, seconds.
fn time(rig: &mut Rig, rtc: &mut Rtc) -> [u8; 8] {
    [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| get(rig, rtc, index))
}

#[test]
fn the_clock_runs_and_changes_format() {
    let (mut rig, mut rtc) = (Rig::new(), Rtc::new(NEW_YEARS_EVE));
    assert_eq!(time(&mut rig, &mut rtc), [0x20, 0x24, 0x12, 0x31, 3, 0x23, 0x59, 0x58]);
    rig.run(&mut rtc, 1_999_999_999);
    assert_eq!(get(&mut rig, &mut rtc, 0), 0x59);
    assert_eq!(get(&mut rig, &mut rtc, 0x0a), 0xa6);
    rig.run(&mut rtc, 1);
    assert_eq!(get(&mut rig, &mut rtc, 0x0a), 0x26);
    assert_eq!(time(&mut rig, &mut rtc), [0x20, 0x25, 0x01, 0x01, 4, 0x00, 0x00, 0x00]);
    set(&mut rig, &mut rtc, 0x0b, BINARY);
    assert_eq!(time(&mut rig, &mut rtc), [20, 25, 1, 1, 4, 12, 0, 0]);
    rig.run(&mut rtc, 13 * 3600 * Time::SECOND);
    assert_eq!(get(&mut rig, &mut rtc, 4), 0x81);
}

#[test]
fn setting_the_time() {
    let (mut rig, mut rtc) = (Rig::new(), Rtc::new(0));
    rig.run(&mut rtc, 700_000_000);
    set(&mut rig, &mut rtc, 0x0b, SET | HOURS_24);
    for (index, value) in [(0, 0x30), (2, 0x15), (4, 0x12), (6, 1), (7, 0x29), (8, 0x02), (9, 0x96), (0x32, 0x20)] {
        set(&mut rig, &mut rtc, index, value);
    }
    rig.run(&mut rtc, 10 * Time::SECOND);
    assert_eq!(get(&mut rig, &mut rtc, 0), 0x30, "SET holds the clock");
    set(&mut rig, &mut rtc, 0x0a, 0x76);
    set(&mut rig, &mut rtc, 0x0b, HOURS_24);
    set(&mut rig, &mut rtc, 0x0a, 0x26);
    rig.run(&mut rtc, 499_999_999);
    assert_eq!(get(&mut rig, &mut rtc, 0), 0x30);
    rig.run(&mut rtc, 1);
    assert_eq!(get(&mut rig, &mut rtc, 0), 0x31, "the first update comes after half a second");
    rig.run(&mut rtc, 12 * 3600 * Time::SECOND);
    assert_eq!(time(&mut rig, &mut rtc), [0x20, 0x96, 0x03, 0x01, 2, 0x00, 0x15, 0x31]);
}

#[test]
fn periodic_interrupt_waits_for_register_c() {
    let (mut rig, mut rtc) = (Rig::new(), Rtc::new(0));
    rig.run(&mut rtc, 5_000_000);
    set(&mut rig, &mut rtc, 0x0b, PERIODIC | HOURS_24);
    // The flag ran before it was enabled.
    assert_eq!(rig.take_line(0), [true]);
    assert_eq!(get(&mut rig, &mut rtc, 0x0c), IRQF | PERIODIC);
    assert_eq!(rig.take_line(0), [false]);
    // 1024 Hz: the sixth tick is at 5.859 ms.
    rig.run_to(&mut rtc, Time(5_859_374));
    assert_eq!(rig.take_line(0), []);
    rig.run_to(&mut rtc, Time(5_859_375));
    assert_eq!(rig.take_line(0), [true]);
    assert_eq!(rig.timers.next(), None, "nothing new until C is read");
    rig.run(&mut rtc, Time::SECOND);
    assert_eq!(get(&mut rig, &mut rtc, 0x0c), IRQF | PERIODIC | UPDATE);
    assert_eq!(get(&mut rig, &mut rtc, 0x0c), 0);
}

#[test]
fn alarm_and_update_interrupts() {
    let (mut rig, mut rtc) = (Rig::new(), Rtc::new(NEW_YEARS_EVE));
    for (index, value) in [(1, 0x05), (3, 0x00), (5, 0xff)] {
        set(&mut rig, &mut rtc, index, value);
    }
    set(&mut rig, &mut rtc, 0x0b, ALARM | HOURS_24);
    assert_eq!(rig.timers.next(), Some(Time(7 * Time::SECOND)));
    rig.run(&mut rtc, 7 * Time::SECOND);
    assert_eq!(rig.take_line(0), [true]);
    assert_eq!(get(&mut rig, &mut rtc, 0x0c), IRQF | ALARM | UPDATE | PERIODIC);
    assert_eq!(rig.timers.next(), Some(Time(3607 * Time::SECOND)));
    set(&mut rig, &mut rtc, 0x0b, UPDATE | HOURS_24);
    assert_eq!(rig.timers.next(), Some(Time(8 * Time::SECOND)));
    // An alarm that can never match arms nothing.
    set(&mut rig, &mut rtc, 5, 0x77);
    set(&mut rig, &mut rtc, 0x0b, ALARM | HOURS_24);
    assert_eq!(rig.timers.next(), None);
}

#[test]
fn ram_survives_reset_and_time_goes_on() {
    let (mut rig, mut rtc) = (Rig::new(), Rtc::new(0));
    rtc.set_cmos(0x34, 0xa5);
    set(&mut rig, &mut rtc, 0x0b, UPDATE | HOURS_24);
    rig.write(&mut rtc, 0, 2, 2, 0x5a10);
    rig.run(&mut rtc, 2 * Time::SECOND);
    rtc.reset(&mut rig.ctx());
    assert_eq!(rig.timers.next(), None);
    assert_eq!(get(&mut rig, &mut rtc, 0), 2);
    assert_eq!(get(&mut rig, &mut rtc, 0x34), 0xa5);
    rig.write(&mut rtc, 0, 2, 1, 0x10);
    assert_eq!(rig.read(&mut rtc, 0, 3, 1), 0x5a);
}

#[test]
fn hostile_bytes_do_not_panic() {
    let (mut rig, mut rtc) = (Rig::new(), Rtc::new(i64::MIN));
    let mut seed = 7u32;
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        set(&mut rig, &mut rtc, (seed >> 28) as u8, (seed >> 16) as u8);
        set(&mut rig, &mut rtc, 0x32, (seed >> 12) as u8);
        rig.run(&mut rtc, u64::from(seed));
        rig.take();
    }
    let saved = rtc.save();
    rtc.load(&saved).unwrap();
    assert_eq!(rtc.save(), saved);
}
