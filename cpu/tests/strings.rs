//! Repeated string instructions outside of 64-bit mode: many iterations at once are as good as one by one.

use softmetal_cpu::fault::vector;
use softmetal_cpu::state::{reg, seg};
use softmetal_cpu::testing::{CODE, Harness};
use softmetal_cpu::{Segment, Stop};

/// Bytes that all differ from their neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
}

fn memory(h: &Harness, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    h.mem(at, &mut bytes);
    bytes
}

#[test]
fn a_copy_of_32_bits_crosses_pages_and_stops_anywhere() {
    const LEN: usize = 20_000;
    // REP MOVSB, in one run and in runs of odd lengths.
    for step in [LEN as u64 + 10, 777] {
        let mut h = Harness::protected32().code(&[0xf3, 0xa4, 0xf4]);
        h.set_mem(0x20_0123, &pattern(LEN));
        for (r, v) in [(reg::RSI, 0x20_0123), (reg::RDI, 0x30_0456), (reg::RCX, LEN as u64)] {
            h.set_reg(r, v);
        }
        let mut runs = 0;
        while h.run(step) == Stop::Budget {
            runs += 1;
            let done = LEN as u64 - h.reg(reg::RCX);
            assert!(done == (runs * step).min(LEN as u64) && h.reg(reg::RDI) == 0x30_0456 + done, "after {runs} runs");
        }
        assert_eq!(memory(&h, 0x30_0456, LEN), pattern(LEN));
        assert_eq!(h.p.icount(), LEN as u64 + 1);
    }
}

#[test]
fn addresses_of_16_bits_wrap() {
    // REP MOVSW in real mode: both offsets run over the end of their segments, which start at 0x10000 and 0x20000.
    let mut h = Harness::real().code(&[0xf3, 0xa5, 0xf4]);
    let (ds, es) = (Segment::real(0x3000), Segment::real(0x2000));
    for (n, s) in [(seg::DS, ds), (seg::ES, es)] {
        h.p.cpu.set_segment(n, s);
    }
    h.set_mem(0x3_0000, &pattern(0x1_0000));
    for (r, v) in [(reg::RSI, 0xffc0), (reg::RDI, 0xff80), (reg::RCX, 0x80)] {
        h.set_reg(r, v);
    }
    h.run(0x80);
    let source = pattern(0x1_0000);
    let expected = |n: usize| source[(0xffc0 + n) & 0xffff];
    assert_eq!(memory(&h, 0x2_ff80, 0x80), (0..0x80).map(expected).collect::<Vec<_>>());
    assert_eq!(memory(&h, 0x2_0000, 0x80), (0x80..0x100).map(expected).collect::<Vec<_>>());
    assert_eq!((h.reg(reg::RSI), h.reg(reg::RDI), h.reg(reg::RCX)), (0xc0, 0x80, 0));
}

#[test]
fn a_fill_ends_at_the_limit_with_what_it_has_done() {
    // REP STOSD into a segment that ends in the middle of it.
    let mut h = Harness::protected32().code(&[0xf3, 0xab]);
    let es = Segment { base: 0x20_0000, limit: 0x2fff, ..h.p.cpu.state.segments[seg::ES] };
    h.p.cpu.set_segment(seg::ES, es);
    for (r, v) in [(reg::RAX, 0x1122_3344), (reg::RDI, 0x1ff0), (reg::RCX, 0x1000)] {
        h.set_reg(r, v);
    }
    h.run(0x2000);
    assert_eq!(h.exception().map(|(at, e)| (at, e.vector)), Some((CODE, vector::GP)));
    assert_eq!((h.reg(reg::RDI), h.reg(reg::RCX)), (0x3000, 0x1000 - 0x1010 / 4));
    assert_eq!(memory(&h, 0x20_2ff8, 16), [[0x44, 0x33, 0x22, 0x11].repeat(2), vec![0; 8]].concat());
}
