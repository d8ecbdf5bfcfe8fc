//! Random bytes as code, in every mode: nothing panics, hangs or leaves the guest's memory.
//!
//! `SOFTMETAL_RANDOM_INSTRUCTIONS=100000000 cargo test --release -p softmetal-cpu --test random_bytes` runs as many
//! instructions; `SOFTMETAL_RANDOM_SEED` picks another stream.

use softmetal_bus::splitmix64;
use softmetal_cpu::state::{TableRegister, bits, reg, seg};
use softmetal_cpu::testing::{CODE, DESCRIPTORS, GDT, Harness, RAM};
use softmetal_cpu::{Engine, Segment, Stop, flags};

/// SplitMix64.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;

/// How the code runs.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Real,
    Unreal32,
    Protected16,
    Protected32,
    User32,
    V86,
    Long,
    LongUser,
    Compatibility,
}
const KINDS: [Kind; 9] = [
    Kind::Real,
    Kind::Unreal32,
    Kind::Protected16,
    Kind::Protected32,
    Kind::User32,
    Kind::V86,
    Kind::Long,
    Kind::LongUser,
    Kind::Compatibility,
];

fn load(h: &mut Harness, code: u16, data: u16) {
    let descriptor = |n: u16| Segment::from_descriptor(n, DESCRIPTORS[usize::from(n >> 3)]);
    h.p.cpu.state.cpl = (code & 3) as u8;
    for n in 0..6 {
        h.p.cpu.set_segment(n, descriptor(if n == seg::CS { code } else { data }));
    }
}

/// Gates for all vectors: to random code mostly, or to a task.
fn gates(h: &mut Harness, r: &mut Random, long: bool) {
    for v in 0..256 {
        let target = CODE + r.below(0x1_0000);
        let kind = if r.one_in(20) { 0x85 } else { 0xe + 0x80 + r.below(2) + 0x60 * r.below(2) };
        let selector = if long { 8 } else { 0x18 };
        let gate = target & 0xffff | selector << 16 | kind << 40 | (target >> 16) << 48;
        if long {
            h.set_u64(IDT + 16 * v, gate);
            h.set_u64(IDT + 16 * v + 8, 0);
        } else {
            h.set_u64(IDT + 8 * v, if kind == 0x85 { 0x48 << 16 | kind << 40 } else { gate });
        }
    }
    h.p.cpu.state.idtr = TableRegister { base: IDT, limit: 0xfff };
}

fn machine(kind: Kind, r: &mut Random) -> Harness {
    let mut h = match kind {
        Kind::Real | Kind::Unreal32 => Harness::real(),
        Kind::Protected16 | Kind::Protected32 | Kind::User32 | Kind::V86 => Harness::protected32(),
        _ => Harness::long(),
    };
    let long = matches!(kind, Kind::Long | Kind::LongUser | Kind::Compatibility);
    gates(&mut h, r, long);
    // A TSS of random contents with an inner stack, and descriptors of every kind after the usual ones.
    for at in (TSS..TSS + 0x200).step_by(8) {
        let v = r.next();
        h.set_u64(at, v);
    }
    h.set_u64(TSS + 4, 0x6000 | 0x10 << 32);
    for n in 9..32 {
        let d = r.next() & 0xff0f_f000_00ff_ffff | 0x0000_8000_0000_0000;
        h.set_u64(GDT + 8 * n, d);
    }
    h.set_u64(GDT + 0x48, 0x67 | TSS << 16 | 0x89 << 40);
    h.set_u64(GDT + 0x50, if long { 0 } else { 0x67 | TSS << 16 | 0x8b << 40 });
    h.p.cpu.state.gdtr = TableRegister { base: GDT, limit: 0xff };
    h.p.cpu.state.tr = Segment { selector: 0x50, attributes: 0x8b, limit: 0x67, base: TSS };
    match kind {
        Kind::Real => {}
        Kind::Unreal32 => {
            h.p.cpu.state.segments[seg::DS].limit = u32::MAX;
            h.p.cpu.state.segments[seg::SS].attributes |= 0x4000;
        }
        Kind::Protected16 => load(&mut h, 0x38, 0x40),
        Kind::Protected32 => load(&mut h, 0x18, 0x10),
        Kind::User32 => load(&mut h, 0x23, 0x2b),
        Kind::V86 => {
            h.p.cpu.state.cpl = 3;
            h.p.cpu.set_eflags(flags::VM | r.next() & (flags::IOPL | flags::VIF | flags::VIP));
            for n in 0..6 {
                let segment = h.p.cpu.real_segment(n, if n == seg::CS { (CODE >> 4) as u16 } else { 0 });
                h.p.cpu.set_segment(n, segment);
            }
            h.p.cpu.state.rip = 0;
        }
        Kind::Long => load(&mut h, 0x08, 0x10),
        Kind::LongUser => load(&mut h, 0x33, 0x2b),
        Kind::Compatibility => load(&mut h, 0x18, 0x10),
    }
    let s = &mut h.p.cpu.state;
    s.cr4 |= bits::CR4_OSFXSR | bits::CR4_OSXMMEXCPT;
    for bit in [bits::CR4_VME, bits::CR4_PVI, bits::CR4_OSXSAVE, bits::CR4_FSGSBASE, bits::CR4_UMIP, bits::CR4_PCE] {
        s.cr4 |= if r.one_in(2) { bit } else { 0 };
    }
    s.cr0 |= if r.one_in(4) { bits::CR0_AM } else { 0 };
    for n in 0..16 {
        // Mostly addresses of memory, or small numbers.
        let v = r.next();
        s.regs[n] = match r.below(4) {
            0 => v,
            1 => v & 0xff,
            _ => v % RAM,
        };
    }
    s.regs[usize::from(reg::RSP)] = 0x8000;
    let state = s.clone();
    h.p.load(state);
    h
}

#[test]
fn random_bytes_neither_panic_nor_hang() {
    let number = |name: &str, default: u64| std::env::var(name).ok().map_or(default, |v| v.parse().expect("a number"));
    let wanted = number("SOFTMETAL_RANDOM_INSTRUCTIONS", 2_000_000);
    let seed = number("SOFTMETAL_RANDOM_SEED", 1);
    let mut r = Random(seed);
    let mut done = 0;
    let mut delivered = 0u64;
    let mut at = 0usize;
    while done < wanted {
        let kind = KINDS[at % KINDS.len()];
        at += 1;
        let mut h = machine(kind, &mut r);
        // There are odd many kinds, so each meets both engines; what cannot be translated on this host is interpreted.
        if at % 2 == 0 && h.p.set_engine(Engine::Translator).is_ok() {
            h.p.set_heat(0);
            if at % 8 == 0 {
                h.p.assume_other_maker();
            }
        }
        // Twelve streams in the same machine: what one has left in tables and control registers meets the next.
        for _ in 0..12 {
            let start = CODE + r.below(0x1_0000 - 64);
            let bytes: Vec<u8> = (0..64).flat_map(|_| r.next().to_le_bytes()).collect();
            h.set_mem(start, &bytes);
            let base = if h.p.cpu.state.mode.long() { 0 } else { h.p.cpu.state.segments[seg::CS].base };
            h.p.cpu.state.rip = start.wrapping_sub(base);
            let state = h.p.cpu.state.clone();
            h.p.load(state);
            if r.one_in(8) {
                h.interrupt(r.next() as u8);
            }
            let before = h.p.icount();
            let stop = h.run(200);
            done += h.p.icount() - before + 1;
            assert!(h.p.icount() <= before + 200, "{kind:?}: more than it was given, seed {seed}, stream {at}");
            if matches!(stop, Stop::Shutdown | Stop::Halted) {
                delivered += u64::from(stop == Stop::Shutdown);
                break;
            }
        }
    }
    assert!(delivered > 0, "no stream went wrong: the fuzz does nothing");
}
