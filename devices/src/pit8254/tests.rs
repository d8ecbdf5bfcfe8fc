use super::*;
use crate::testing::Rig;

fn at(tick: u64) -> Time {
    Time::of_ticks(tick, PIT_HZ)
}

/// Programs `channel` at the present time with a two-byte count.
fn program(rig: &mut Rig, pit: &mut Pit8254, channel: u64, mode: u64, count: u64) {
    rig.write(pit, 0, 3, 1, channel << 6 | 0x30 | mode << 1);
    rig.write(pit, 0, channel, 1, count & 0xff);
    rig.write(pit, 0, channel, 1, count >> 8);
}

fn latched(rig: &mut Rig, pit: &mut Pit8254, channel: u64) -> u64 {
    rig.write(pit, 0, 3, 1, channel << 6);
    rig.read(pit, 0, channel, 1) | rig.read(pit, 0, channel, 1) << 8
}

fn out2(rig: &mut Rig, pit: &mut Pit8254) -> bool {
    rig.read(pit, 1, 0, 1) & 0x20 != 0
}

#[test]
fn rate_generator_gives_one_edge_a_period() {
    let (mut rig, mut pit) = (Rig::new(), Pit8254::new());
    program(&mut rig, &mut pit, 0, 2, 11_932);
    rig.take();
    let one_second = at(PIT_HZ + 2);
    rig.run_to(&mut pit, one_second);
    let edges = rig.take_line(0);
    assert_eq!(edges.len(), 2 * 99);
    assert!(edges.chunks(2).all(|e| e == [false, true]));
    // Loaded one clock after the write, so the 100th comes at 1 + 100 periods.
    rig.run_to(&mut pit, Time(at(1 + 1_193_200).0 - 1));
    assert_eq!(rig.take_line(0), []);
    rig.run_to(&mut pit, at(1 + 1_193_200));
    assert_eq!(rig.take_line(0), [false, true]);
}

#[test]
fn one_shot_rises_once() {
    let (mut rig, mut pit) = (Rig::new(), Pit8254::new());
    program(&mut rig, &mut pit, 0, 2, 0);
    assert_eq!(rig.take_line(0), [true]);
    program(&mut rig, &mut pit, 0, 0, 1000);
    assert_eq!(rig.take_line(0), [false]);
    rig.run_to(&mut pit, at(1000));
    assert_eq!(rig.take_line(0), []);
    assert_eq!(latched(&mut rig, &mut pit, 0), 1);
    rig.run_to(&mut pit, at(1001));
    assert_eq!(rig.take_line(0), [true]);
    rig.run_to(&mut pit, at(1003));
    assert_eq!(latched(&mut rig, &mut pit, 0), 0xfffe);
    assert_eq!(rig.timers.next(), None);
}

#[test]
fn a_new_count_waits_for_the_end_of_the_cycle() {
    let (mut rig, mut pit) = (Rig::new(), Pit8254::new());
    program(&mut rig, &mut pit, 0, 2, 100);
    rig.run_to(&mut pit, at(51));
    rig.write(&mut pit, 0, 0, 1, 200);
    rig.write(&mut pit, 0, 0, 1, 0);
    rig.write(&mut pit, 0, 3, 1, 0xe2);
    assert_eq!(rig.read(&mut pit, 0, 0, 1), 0xf4, "null count");
    assert_eq!(latched(&mut rig, &mut pit, 0), 50);
    rig.take();
    rig.run_to(&mut pit, at(300));
    assert_eq!(rig.take_line(0), [false, true]);
    assert_eq!(latched(&mut rig, &mut pit, 0), 1);
    rig.run_to(&mut pit, at(301));
    assert_eq!(rig.take_line(0), [false, true]);
}

#[test]
fn an_edge_is_not_lost_to_a_write_at_its_instant() {
    let (mut rig, mut pit) = (Rig::new(), Pit8254::new());
    program(&mut rig, &mut pit, 0, 2, 100);
    rig.take();
    rig.now = at(101);
    rig.write(&mut pit, 1, 0, 1, 0);
    assert_eq!(rig.take_line(0), [false, true]);
    assert_eq!(rig.timers.next(), Some(at(201)));
}

#[test]
fn channel_two_calibration() {
    // As operating systems measure the TSC: mode 0, gate by port 0x61, wait for OUT2.
    let (mut rig, mut pit) = (Rig::new(), Pit8254::new());
    rig.write(&mut pit, 1, 0, 1, 0x01);
    program(&mut rig, &mut pit, 2, 0, 59_659);
    assert!(!out2(&mut rig, &mut pit));
    rig.run_to(&mut pit, at(59_659));
    assert!(!out2(&mut rig, &mut pit));
    rig.run_to(&mut pit, at(59_660));
    assert!(out2(&mut rig, &mut pit));
    assert_eq!(rig.take_line(0), [] as [bool; 0]);
}

#[test]
fn the_gate_stops_restarts_and_triggers() {
    let (mut rig, mut pit) = (Rig::new(), Pit8254::new());
    program(&mut rig, &mut pit, 2, 0, 100);
    rig.run_to(&mut pit, at(500));
    assert_eq!(latched(&mut rig, &mut pit, 2), 100);
    rig.write(&mut pit, 1, 0, 1, 1);
    rig.run_to(&mut pit, at(540));
    let value = latched(&mut rig, &mut pit, 2);
    assert!((60..=61).contains(&value), "{value}");
    rig.write(&mut pit, 1, 0, 1, 0);
    rig.run_to(&mut pit, at(9000));
    assert_eq!(latched(&mut rig, &mut pit, 2), value);
    // Mode 1: a pulse of 10 clocks on the rise of the gate, again when triggered again.
    program(&mut rig, &mut pit, 2, 1, 10);
    rig.run_to(&mut pit, at(9100));
    assert!(out2(&mut rig, &mut pit));
    rig.write(&mut pit, 1, 0, 1, 1);
    rig.run_to(&mut pit, at(9110));
    assert!(!out2(&mut rig, &mut pit));
    rig.run_to(&mut pit, at(9111));
    assert!(out2(&mut rig, &mut pit));
}

#[test]
fn square_wave_and_bcd() {
    let (mut rig, mut pit) = (Rig::new(), Pit8254::new());
    rig.write(&mut pit, 1, 0, 1, 3);
    program(&mut rig, &mut pit, 2, 3, 5);
    assert_eq!(pit.speaker(), Some(5));
    let levels: Vec<bool> = (1..11)
        .map(|tick| {
            rig.run_to(&mut pit, at(tick));
            out2(&mut rig, &mut pit)
        })
        .collect();
    assert_eq!(levels, [true, true, true, false, false, true, true, true, false, false]);
    rig.write(&mut pit, 0, 3, 1, 0xb1);
    rig.write(&mut pit, 0, 2, 1, 0x00);
    rig.write(&mut pit, 0, 2, 1, 0x10);
    rig.run_to(&mut pit, at(12));
    assert_eq!(latched(&mut rig, &mut pit, 2), 0x0999);
}

#[test]
fn hostile_bytes_do_not_panic() {
    let (mut rig, mut pit) = (Rig::new(), Pit8254::new());
    let mut seed = 1u32;
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (offset, value) = (u64::from(seed >> 30), u64::from(seed >> 8 & 0xff));
        match seed >> 20 & 3 {
            0 => rig.write(&mut pit, 1, 0, 1, value),
            1 => assert!(rig.read(&mut pit, 0, offset, 1) <= 0xff),
            _ => rig.write(&mut pit, 0, offset, 1, value),
        }
        rig.run(&mut pit, u64::from(seed & 0xfff));
        rig.take();
    }
    let saved = pit.save();
    pit.load(&saved).unwrap();
    assert_eq!(pit.save(), saved);
}
