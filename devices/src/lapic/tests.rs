use super::*;
use crate::testing::Rig;
use softmetal_bus::Time;

/// A software-enabled APIC in xAPIC mode.
fn enabled(id: u32) -> (Rig, Lapic) {
    let (mut rig, mut apic) = (Rig::new(), Lapic::new(id));
    rig.write(&mut apic, 0, 0xf0, 4, 0x1ff);
    (rig, apic)
}

fn x2apic(id: u32) -> (Rig, Lapic) {
    let (mut rig, mut apic) = enabled(id);
    let base = apic.msr_read(&mut rig.ctx(), 0x1b).unwrap();
    assert!(apic.msr_write(&mut rig.ctx(), 0x1b, base | BASE_X2APIC));
    (rig, apic)
}

fn fixed(rig: &mut Rig, apic: &mut Lapic, vector: u8) {
    apic.deliver(&mut rig.ctx(), Message::fixed(vector));
}

fn eoi(rig: &mut Rig, apic: &mut Lapic) {
    rig.write(apic, 0, 0xb0, 4, 0);
}

#[test]
fn priorities_nest() {
    let (mut rig, mut apic) = enabled(0);
    fixed(&mut rig, &mut apic, 0x41);
    assert_eq!(rig.take_line(0), [true]);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x41));
    assert_eq!(rig.take_line(0), [false]);
    fixed(&mut rig, &mut apic, 0x4f);
    assert!(!apic.pending(), "the same class waits");
    fixed(&mut rig, &mut apic, 0x50);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x50));
    assert_eq!(rig.read(&mut apic, 0, 0xa0, 4), 0x50);
    assert_eq!(rig.read(&mut apic, 0, 0x120, 4), 1 << 1 | 1 << 16);
    eoi(&mut rig, &mut apic);
    assert!(!apic.pending());
    eoi(&mut rig, &mut apic);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x4f));
    assert_eq!(apic.acknowledge(&mut rig.ctx()), None);
}

#[test]
fn task_priority_holds_back() {
    let (mut rig, mut apic) = enabled(0);
    apic.set_cr8(&mut rig.ctx(), 6);
    assert_eq!(rig.read(&mut apic, 0, 0x80, 4), 0x60);
    fixed(&mut rig, &mut apic, 0x6f);
    assert_eq!(rig.take_line(0), []);
    rig.write(&mut apic, 0, 0x80, 4, 0x5f);
    assert_eq!(apic.cr8(), 5);
    assert_eq!(rig.take_line(0), [true]);
    apic.set_cr8(&mut rig.ctx(), 15);
    assert_eq!(rig.take_line(0), [false]);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), None);
}

#[test]
fn level_triggered_ends_are_told() {
    let (mut rig, mut apic) = enabled(0);
    let level = Ipi::from_msi(0xfee0_0000, 0xc0a0).unwrap().message;
    apic.deliver(&mut rig.ctx(), level);
    fixed(&mut rig, &mut apic, 0x30);
    for _ in 0..2 {
        apic.acknowledge(&mut rig.ctx());
        eoi(&mut rig, &mut apic);
    }
    assert_eq!(apic.take_eois(), [0xa0]);
    assert_eq!(apic.take_eois(), [] as [u8; 0]);
}

#[test]
fn ends_are_not_told_while_that_is_suppressed() {
    let (mut rig, mut apic) = enabled(0);
    rig.write(&mut apic, 0, 0xf0, 4, 0x11ff);
    assert_eq!(rig.read(&mut apic, 0, 0xf0, 4), 0x11ff);
    let level = Ipi::from_msi(0xfee0_0000, 0xc0a0).unwrap().message;
    apic.deliver(&mut rig.ctx(), level);
    apic.acknowledge(&mut rig.ctx());
    eoi(&mut rig, &mut apic);
    assert_eq!(apic.take_eois(), [] as [u8; 0]);
    assert_eq!(rig.read(&mut apic, 0, 0x150, 4), 0, "it has ended here");
}

#[test]
fn timer_one_shot_and_periodic() {
    let (mut rig, mut apic) = enabled(0);
    rig.write(&mut apic, 0, 0x3e0, 4, 0x3);
    rig.write(&mut apic, 0, 0x320, 4, 0x40);
    rig.write(&mut apic, 0, 0x380, 4, 1000);
    rig.run(&mut apic, 1600);
    assert_eq!(rig.read(&mut apic, 0, 0x390, 4), 900);
    rig.run_to(&mut apic, Time(15_999));
    assert!(!apic.pending());
    rig.run_to(&mut apic, Time(16_000));
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x40));
    eoi(&mut rig, &mut apic);
    assert_eq!(rig.read(&mut apic, 0, 0x390, 4), 0);
    assert_eq!(rig.timers.next(), None);

    rig.write(&mut apic, 0, 0x320, 4, 0x2_0041);
    rig.write(&mut apic, 0, 0x380, 4, 1000);
    let mut ticks = 0;
    for _ in 0..100 {
        rig.run(&mut apic, 1600);
        if apic.acknowledge(&mut rig.ctx()) == Some(0x41) {
            eoi(&mut rig, &mut apic);
            ticks += 1;
        }
    }
    assert_eq!(ticks, 10);
    // Masked, it counts on without a timer.
    rig.write(&mut apic, 0, 0x320, 4, 0x3_0041);
    assert_eq!(rig.timers.next(), None);
    rig.run(&mut apic, 1600);
    assert_eq!(rig.read(&mut apic, 0, 0x390, 4), 900);
}

#[test]
fn a_tiny_period_does_not_flood() {
    let (mut rig, mut apic) = enabled(0);
    rig.write(&mut apic, 0, 0x3e0, 4, 0xb);
    rig.write(&mut apic, 0, 0x320, 4, 0x2_0041);
    rig.write(&mut apic, 0, 0x380, 4, 1);
    assert_eq!(rig.timers.next(), Some(Time(1000)));
    rig.run(&mut apic, 1000);
    assert_eq!(rig.timers.next(), Some(Time(2000)));
}

#[test]
fn timer_by_deadline() {
    let (mut rig, mut apic) = enabled(0);
    apic.set_tsc_offset(5000);
    assert!(apic.msr_write(&mut rig.ctx(), 0x6e0, 9000));
    assert_eq!(apic.msr_read(&mut rig.ctx(), 0x6e0), Some(0), "ignored outside its mode");
    rig.write(&mut apic, 0, 0x320, 4, 0x4_0042);
    apic.msr_write(&mut rig.ctx(), 0x6e0, 9000);
    rig.run_to(&mut apic, Time(3999));
    assert_eq!(apic.msr_read(&mut rig.ctx(), 0x6e0), Some(9000));
    rig.run_to(&mut apic, Time(4000));
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x42));
    assert_eq!(apic.msr_read(&mut rig.ctx(), 0x6e0), Some(0));
    eoi(&mut rig, &mut apic);
    // A deadline of the past is over at once.
    apic.msr_write(&mut rig.ctx(), 0x6e0, 1);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x42));
    apic.msr_write(&mut rig.ctx(), 0x6e0, u64::MAX);
    apic.msr_write(&mut rig.ctx(), 0x6e0, 0);
    assert_eq!(rig.timers.next(), None);
}

#[test]
fn an_expiry_is_not_lost_to_a_write_at_its_instant() {
    let (mut rig, mut apic) = enabled(0);
    rig.write(&mut apic, 0, 0x320, 4, 0x40);
    rig.write(&mut apic, 0, 0x380, 4, 500);
    rig.now = Time(1000);
    rig.write(&mut apic, 0, 0x380, 4, 0);
    assert!(apic.pending());
    assert_eq!(rig.timers.next(), None);
}

#[test]
fn destinations() {
    let (mut rig, mut apic) = enabled(5);
    assert!(apic.matches(5, false) && apic.matches(0xff, false) && !apic.matches(4, false));
    rig.write(&mut apic, 0, 0xd0, 4, 0x2400_0000);
    assert!(apic.matches(0x04, true) && apic.matches(0xff, true) && !apic.matches(0x83, true));
    rig.write(&mut apic, 0, 0xe0, 4, 0x0fff_ffff);
    assert!(apic.matches(0x2c, true) && !apic.matches(0x1c, true) && !apic.matches(0x2b, true));
    let (mut rig, apic) = x2apic(0x25);
    assert!(apic.matches(0x25, false) && apic.matches(u32::MAX, true));
    assert!(apic.matches(0x2_0020, true) && !apic.matches(0x1_0020, true) && !apic.matches(0x2_ffdf, true));
    let mut apic = apic;
    assert_eq!(apic.msr_read(&mut rig.ctx(), 0x80d), Some(0x2_0020));
}

#[test]
fn sending_ipis() {
    let (mut rig, mut apic) = enabled(1);
    rig.write(&mut apic, 0, 0x310, 4, 0x0300_0000);
    rig.write(&mut apic, 0, 0x300, 4, 0x4608);
    let startup = Message { vector: 8, mode: DeliveryMode::Startup, level_triggered: false, assert: true };
    let to_three = Ipi { dest: 3, shorthand: Shorthand::None, logical: false, message: startup };
    assert_eq!(apic.take_ipis(), [to_three]);
    // INIT level de-assert is nothing; to self and to all stay (partly) here.
    rig.write(&mut apic, 0, 0x300, 4, 0x8500);
    rig.write(&mut apic, 0, 0x300, 4, 0x4_0077);
    assert_eq!(apic.take_ipis(), []);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x77));
    rig.write(&mut apic, 0, 0x300, 4, 0x8_0088);
    assert_eq!(apic.take_ipis()[0].shorthand, Shorthand::AllExcludingSelf);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x88));
    for _ in 0..1000 {
        rig.write(&mut apic, 0, 0x300, 4, 0xc_0088);
    }
    assert_eq!(apic.take_ipis().len(), QUEUE);
}

#[test]
fn init_and_startup() {
    let (mut rig, mut apic) = enabled(1);
    assert!(apic.waits_for_sipi());
    let message = |mode, vector| Message { vector, mode, level_triggered: false, assert: true };
    apic.deliver(&mut rig.ctx(), message(DeliveryMode::Startup, 9));
    apic.deliver(&mut rig.ctx(), message(DeliveryMode::Startup, 10));
    assert_eq!(apic.take_sipi(), Some(9));
    assert_eq!(apic.take_sipi(), None);
    fixed(&mut rig, &mut apic, 0x99);
    rig.take();
    apic.deliver(&mut rig.ctx(), message(DeliveryMode::Init, 0));
    assert!(apic.take_init() && !apic.take_init() && apic.waits_for_sipi());
    assert_eq!(rig.take_line(0), [false]);
    assert_eq!(rig.read(&mut apic, 0, 0xf0, 4), 0xff);
    apic.deliver(&mut rig.ctx(), message(DeliveryMode::Nmi, 0));
    assert_eq!(rig.take_line(1), [true, false]);
}

#[test]
fn modes_and_their_refusals() {
    let (mut rig, mut apic) = enabled(2);
    let xapic = apic.msr_read(&mut rig.ctx(), 0x1b).unwrap();
    assert_eq!(xapic, 0xfee0_0800);
    assert_eq!(rig.read(&mut apic, 0, 0x20, 4), 2 << 24);
    assert_eq!(rig.read(&mut apic, 0, 0x30, 4), 0x105_0014);
    assert_eq!(apic.msr_read(&mut rig.ctx(), 0x802), None);
    let mut set = |apic: &mut Lapic, base| apic.msr_write(&mut rig.ctx(), 0x1b, base);
    assert!(!set(&mut apic, xapic | 1));
    assert!(!set(&mut apic, xapic & !BASE_ENABLE | BASE_X2APIC));
    assert!(set(&mut apic, xapic | BASE_X2APIC));
    assert!(!set(&mut apic, xapic));
    assert!(set(&mut apic, xapic & !BASE_ENABLE));
    assert!(apic.accepts_extint() && apic.window().is_none() && !apic.matches(2, false));
    assert!(!set(&mut apic, xapic | BASE_X2APIC));
    assert!(set(&mut apic, xapic));

    let (mut rig, mut apic) = x2apic(2);
    assert_eq!(rig.read(&mut apic, 0, 0x20, 4), 0xffff_ffff);
    assert_eq!(apic.msr_read(&mut rig.ctx(), 0x802), Some(2));
    for (msr, value) in [(0x80b, 1), (0x802, 0), (0x80e, 0), (0x831, 0), (0x808, 0x100), (0x832, 1 << 20), (0x828, 1)] {
        assert!(!apic.msr_write(&mut rig.ctx(), msr, value), "{msr:#x}");
    }
    assert_eq!(apic.msr_read(&mut rig.ctx(), 0x83f), None);
    assert_eq!(apic.msr_read(&mut rig.ctx(), 0x80b), None);
    assert!(apic.msr_write(&mut rig.ctx(), 0x83f, 0x66));
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x66));
    assert!(apic.msr_write(&mut rig.ctx(), 0x80b, 0));
    assert!(apic.msr_write(&mut rig.ctx(), 0x830, 0x1234_5678_0000_0855));
    let ipi = apic.take_ipis()[0];
    assert_eq!((ipi.dest, ipi.logical, ipi.message.vector), (0x1234_5678, true, 0x55));
}

#[test]
fn lint_pins() {
    let (mut rig, mut apic) = enabled(0);
    assert!(apic.accepts_extint());
    rig.write(&mut apic, 0, 0x350, 4, 0x1_0700);
    assert!(!apic.accepts_extint());
    rig.write(&mut apic, 0, 0x360, 4, 0x400);
    rig.line_in(&mut apic, 1, true);
    assert_eq!(rig.take_line(1), [true, false]);
    rig.write(&mut apic, 0, 0x350, 4, 0x8055);
    rig.line_in(&mut apic, 0, true);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0x55));
    assert_eq!(rig.read(&mut apic, 0, 0x350, 4), 0xc055);
    eoi(&mut rig, &mut apic);
    assert!(apic.pending(), "a level asserts again");
    apic.acknowledge(&mut rig.ctx());
    rig.line_in(&mut apic, 0, false);
    eoi(&mut rig, &mut apic);
    assert!(!apic.pending());
}

#[test]
fn errors_and_the_software_switch() {
    let (mut rig, mut apic) = enabled(0);
    rig.write(&mut apic, 0, 0x370, 4, 0xfe);
    rig.write(&mut apic, 0, 0x300, 4, 5);
    assert_eq!(apic.acknowledge(&mut rig.ctx()), Some(0xfe));
    assert_eq!(rig.read(&mut apic, 0, 0x280, 4), 0);
    rig.read(&mut apic, 0, 0x3f0, 4);
    rig.write(&mut apic, 0, 0x280, 4, 0);
    assert_eq!(rig.read(&mut apic, 0, 0x280, 4), u64::from(SEND_ILLEGAL_VECTOR | ILLEGAL_REGISTER));
    // An illegal error vector does not recurse.
    rig.write(&mut apic, 0, 0x370, 4, 0);
    fixed(&mut rig, &mut apic, 1);
    rig.write(&mut apic, 0, 0xf0, 4, 0xff);
    assert_eq!(rig.read(&mut apic, 0, 0x370, 4), 0x1_0000);
    fixed(&mut rig, &mut apic, 0xfd);
    // Only the second error waits; 0xfd came while the APIC was switched off.
    assert_eq!(rig.read(&mut apic, 0, 0x270, 4), 1 << 30);
}

#[test]
fn hostile_registers_do_not_panic() {
    for x2 in [false, true] {
        let (mut rig, mut apic) = if x2 { x2apic(1) } else { enabled(1) };
        let mut seed = 3u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (register, value) = (seed >> 26, seed.rotate_left(seed >> 27) as u64 & 0x7_00ff);
            if x2 {
                apic.msr_write(&mut rig.ctx(), 0x800 + register, value);
                apic.msr_read(&mut rig.ctx(), 0x800 + register);
                apic.msr_write(&mut rig.ctx(), 0x6e0, u64::from(seed));
            } else {
                rig.write(&mut apic, 0, u64::from(register) << 4, 4, value << (seed & 31));
                rig.read(&mut apic, 0, u64::from(register) << 4, 4);
            }
            apic.acknowledge(&mut rig.ctx());
            rig.run(&mut apic, u64::from(seed & 0xfff));
            rig.take();
        }
        let saved = apic.save();
        apic.load(&saved).unwrap();
        assert_eq!(apic.save(), saved);
    }
}
