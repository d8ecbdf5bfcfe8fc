//! The transport, driven as a guest does.

use super::*;
use crate::testing::Rig;
use crate::virtio::testing::{Driver, EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, READ, SIZE, WRITE};
use crate::virtio::{Chain, VirtioRng};

fn driver(features: u64) -> Driver<VirtioRng> {
    Driver::new(VirtioPci::new(VirtioRng::new(1)), features)
}

/// The offsets of the capabilities by (ID, virtio type), in order.
fn capabilities(config: &ConfigSpace) -> Vec<(u8, u8, u8)> {
    let mut found = Vec::new();
    let mut at = config.byte(0x34);
    while at != 0 {
        found.push((config.byte(at), config.byte(at + 3), at));
        at = config.byte(at + 1);
    }
    found
}

#[test]
fn describes_itself() {
    let device = VirtioPci::new(VirtioRng::new(1));
    assert_eq!(device.config.read(0, 4), 0x1044_1af4);
    let found = capabilities(&device.config);
    let kinds: Vec<_> = found.iter().skip(1).map(|c| (c.0, c.1)).collect();
    assert_eq!(found[0].0, 0x11);
    assert_eq!(kinds, [(9, cap::COMMON), (9, cap::NOTIFY), (9, cap::ISR), (9, cap::PCI)]);
    let notify = u16::from(found[2].2);
    assert_eq!(device.config.read(notify + 4, 1), 4);
    assert_eq!(device.config.read(notify + 8, 4), 0x3000);
    assert_eq!(device.config.read(notify + 16, 4), 4);
}

#[test]
fn negotiates() {
    let (mut rig, mut d) = (Rig::new(), VirtioPci::new(VirtioRng::new(1)));
    rig.write(&mut d, 4, 0x00, 4, 1);
    assert_eq!(rig.read(&mut d, 4, 0x04, 4), 1, "VERSION_1");
    rig.write(&mut d, 4, 0x14, 1, 3);
    for features in [0, 1 << 32 | 1 << 5] {
        rig.write(&mut d, 4, 0x08, 4, 0);
        rig.write(&mut d, 4, 0x0c, 4, features & 0xffff_ffff);
        rig.write(&mut d, 4, 0x08, 4, 1);
        rig.write(&mut d, 4, 0x0c, 4, features >> 32);
        rig.write(&mut d, 4, 0x14, 1, 0xf);
        assert_eq!(rig.read(&mut d, 4, 0x14, 1), 3, "refused");
    }
    rig.write(&mut d, 4, 0x16, 2, 9);
    assert_eq!(rig.read(&mut d, 4, 0x18, 2), 0, "no queue 9");
    rig.write(&mut d, 4, 0x16, 2, 0);
    rig.write(&mut d, 4, 0x18, 2, 48);
    assert_eq!(rig.read(&mut d, 4, 0x18, 2), 64, "not a power of two");
    rig.write(&mut d, 4, 0x1a, 2, 2);
    assert_eq!(rig.read(&mut d, 4, 0x1a, 2), 0xffff, "no vector 2");
    rig.write(&mut d, 4, 0x24, 4, 0x12);
    rig.write(&mut d, 4, 0x20, 4, 0x3000);
    assert_eq!(rig.read(&mut d, 4, 0x20, 8), 0x12_0000_3000);
}

#[test]
fn interrupts_by_pin() {
    let mut d = driver(0);
    d.rig.take();
    d.chain(0, &[(0x8000, 8, WRITE)]);
    d.notify(0);
    d.chain(0, &[(0x8000, 8, WRITE)]);
    d.notify(0);
    assert_eq!(d.rig.take_line(0), [true]);
    assert_eq!(d.device.config.read(6, 1), 0x18);
    assert_eq!(d.reg(0x1000, 1), 1);
    assert_eq!(d.reg(0x1000, 1), 0);
    assert_eq!(d.rig.take_line(0), [false]);
    // The driver wants none.
    d.put(Driver::<VirtioRng>::base(0) + 0x400, &[1, 0]);
    d.chain(0, &[(0x8000, 8, WRITE)]);
    d.notify(0);
    assert_eq!(d.used(0).len(), 3);
    assert_eq!(d.rig.take(), []);
}

#[test]
fn interrupts_by_message() {
    let mut d = driver(0);
    let msix = u16::from(capabilities(&d.device.config)[0].2) + 2;
    d.device.config_write(&mut d.rig.ctx(), msix, 2, 0x8000);
    d.rig.write(&mut d.device, 1, 16, 8, 0xfee0_0000);
    d.rig.write(&mut d.device, 1, 24, 8, 0x51);
    d.set(0x1a, 2, 1);
    d.chain(0, &[(0x8000, 8, WRITE)]);
    d.notify(0);
    assert_eq!(d.rig.take_msis(), [(0xfee0_0000, 0x51)]);
    assert_eq!(d.reg(0x1000, 1), 0);
}

#[test]
fn event_index_saves_interrupts() {
    let mut d = driver(EVENT_IDX);
    let base = Driver::<VirtioRng>::base(0);
    let used_event = base + 0x400 + 4 + 2 * u64::from(SIZE);
    let avail_event = base + 0x800 + 4 + 8 * u64::from(SIZE);
    d.rig.take();
    // An interrupt when the element with index 1 is used: not for the first, for the second.
    d.put(used_event, &[1, 0]);
    for expected in [&[][..], &[true]] {
        d.chain(0, &[(0x8000, 8, WRITE)]);
        d.notify(0);
        assert_eq!(d.rig.take_line(0), expected);
    }
    assert_eq!(d.u16_at(avail_event), 2);
    d.reg(0x1000, 1);
    d.rig.take();
    // Passed long ago.
    d.chain(0, &[(0x8000, 8, WRITE)]);
    d.notify(0);
    assert_eq!(d.rig.take(), []);
}

/// After `ring` has been prepared, the device must stop, say so, and work again after a reset.
fn breaks(features: u64, ring: impl Fn(&mut Driver<VirtioRng>, u64)) {
    let mut d = driver(features);
    let base = Driver::<VirtioRng>::base(0);
    ring(&mut d, base);
    d.notify(0);
    assert_eq!(d.reg(0x14, 1), 0x4f);
    assert_eq!(d.used(0), []);
    assert_eq!(d.reg(0x1000, 1), u64::from(ISR_CONFIG));
    d.start(features);
    d.chain(0, &[(0x8000, 8, WRITE)]);
    d.notify(0);
    assert_eq!(d.used(0), [(0, 8)]);
}

#[test]
fn corrupt_rings_stop_the_device() {
    let loops = |d: &mut Driver<_>, base| {
        d.descriptor(base, 0, (0x8000, 8, WRITE | NEXT), 1);
        d.descriptor(base, 1, (0x8000, 8, WRITE | NEXT), 0);
        d.offer(0, 0);
    };
    breaks(0, loops);
    breaks(0, |d, _| d.offer(0, SIZE));
    breaks(0, |d, base| {
        d.descriptor(base, 0, (0x8000, 8, WRITE | NEXT), SIZE);
        d.offer(0, 0);
    });
    breaks(0, |d, _| {
        d.chain(0, &[(0x8000, 8, WRITE), (0x8000, 8, READ)]);
    });
    breaks(0, |d, base| d.put(base + 0x402, &[9, 0]));
    // Indirect: not negotiated, of a wrong size, far away, nested, with a loop.
    breaks(0, |d, _| {
        d.chain(0, &[(0x8000, 16, INDIRECT)]);
    });
    for (addr, len) in [(0x8000, 0), (0x8000, 17), (0x8000, !15), (!15, 32), (1 << 40, 16)] {
        breaks(INDIRECT_DESC, |d, _| {
            d.chain(0, &[(addr, len, INDIRECT)]);
        });
    }
    breaks(INDIRECT_DESC, |d, _| {
        d.descriptor(0x8000, 0, (0x8000, 16, INDIRECT), 0);
        d.chain(0, &[(0x8000, 16, INDIRECT)]);
    });
    breaks(INDIRECT_DESC, |d, _| {
        d.descriptor(0x8000, 0, (0x9000, 16, WRITE | NEXT), 1);
        d.descriptor(0x8000, 1, (0x9000, 16, WRITE | NEXT), 1);
        d.chain(0, &[(0x8000, 32, INDIRECT)]);
    });
}

#[test]
fn wild_rings_stop_the_device() {
    for register in [0x20, 0x28, 0x30] {
        for addr in [Rig::RAM, 1 << 40, !0xf] {
            let mut d = driver(EVENT_IDX);
            d.chain(0, &[(0x8000, 8, WRITE)]);
            // Addresses can only change while the queue is off, so write past the registers' guard.
            let state = &mut d.device.queues[0].state;
            match register {
                0x20 => state.desc = addr,
                0x28 => state.driver = addr,
                _ => state.device = addr,
            }
            d.notify(0);
            assert_eq!(d.reg(0x14, 1), 0x4f);
        }
    }
    let mut d = driver(0);
    d.set(0x20, 8, 0x4000);
    assert_eq!(d.reg(0x20, 8), Driver::<VirtioRng>::base(0));
}

#[test]
fn indirect_tables_and_empty_buffers() {
    let mut d = driver(INDIRECT_DESC);
    d.descriptor(0x8000, 0, (0x9000, 4, WRITE | NEXT), 2);
    d.descriptor(0x8000, 2, (1 << 40, 0, WRITE | NEXT), 1);
    d.descriptor(0x8000, 1, (0xa000, 4, WRITE), 0);
    d.chain(0, &[(0x8000, 48, INDIRECT)]);
    d.notify(0);
    assert_eq!(d.used(0), [(0, 8)]);
    assert_ne!(d.get(0x9000, 4), [0; 4]);
    assert_ne!(d.get(0xa000, 4), [0; 4]);
    // A buffer in the middle of nowhere is the request's failure, not the ring's.
    d.chain(0, &[(1 << 40, 8, WRITE)]);
    d.notify(0);
    assert_eq!(d.used(0), [(1, 0)]);
    assert_eq!(d.reg(0x14, 1), 0xf);
}

#[test]
fn window_in_configuration_space() {
    let mut d = driver(0);
    let window = u16::from(capabilities(&d.device.config)[4].2);
    let mut ctx = d.rig.ctx();
    for (at, width, value) in [(4, 1, 4), (8, 4, 0x14), (12, 4, 1)] {
        d.device.config_write(&mut ctx, window + at, width, value);
    }
    assert_eq!(d.device.config_read(&mut ctx, window + 16, 1), 0xf);
    d.device.config_write(&mut ctx, window + 16, 1, 0);
    assert_eq!(d.device.config_read(&mut ctx, window + 16, 1), 0);
    d.device.config_write(&mut ctx, window + 8, 4, 0xffff_ffff);
    assert_eq!(d.device.config_read(&mut ctx, window + 16, 1), 0);
    assert_eq!(d.device.config_read(&mut ctx, window, 4) >> 16, 0x0514);
}

#[test]
fn state_goes_round() {
    let mut a = driver(EVENT_IDX);
    a.chain(0, &[(0x8000, 8, WRITE)]);
    a.notify(0);
    let mut b = VirtioPci::new(VirtioRng::new(2));
    b.load(&a.device.save()).unwrap();
    assert_eq!(b.save(), a.device.save());
    assert!(b.queues[0].pop(&a.rig.ctx(), &mut Chain::default()) == Ok(false));
    let saved = a.device.save();
    assert!(b.load(&saved[..saved.len() - 1]).is_err());
}
