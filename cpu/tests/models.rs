//! The processor models: their CPUID leaves fit together.

use iced_x86::CpuidFeature as Cf;
use softmetal_cpu::exec::cpuid::{Feature, Model, TSC_HZ};
use softmetal_cpu::exec::models::Vendor;
use softmetal_cpu::fault::vector;
use softmetal_cpu::state::{bits, reg, seg};
use softmetal_cpu::testing::{CODE, DESCRIPTORS, Harness};
use softmetal_cpu::{Segment, Stop, flags};

const BASIC_END: u32 = 0x17;

fn models() -> impl Iterator<Item = (&'static str, Model)> {
    Model::NAMES.iter().map(|name| (*name, Model::by_name(name).unwrap()))
}

fn leaf(m: &Model, leaf: u32, sub: u32) -> [u32; 4] {
    m.leaf(leaf, sub, 0, 7)
}

/// A cache as the deterministic leaves tell it: type (1 data, 2 code, 3 both), level, KiB, ways, line size.
fn caches(m: &Model) -> Vec<[u32; 5]> {
    let at = if m.vendor() == Vendor::Amd { 0x8000_001d } else { 4 };
    let there = leaf(m, 0, 0)[0] >= at || leaf(m, 0x8000_0000, 0)[0] >= at && at > 4;
    (0..8)
        .filter(|_| there)
        .map(|sub| leaf(m, at, sub))
        .take_while(|c| c[0] & 31 != 0)
        .map(|[a, b, c, _]| {
            let (line, ways) = ((b & 0xfff) + 1, (b >> 22) + 1);
            [a & 31, a >> 5 & 7, line * ways * (c + 1) / 1024, ways, line]
        })
        .collect()
}

#[test]
fn nothing_lacks_what_it_needs() {
    for (name, m) in models() {
        assert_eq!(m.unmet(), [], "{name}");
    }
}

#[test]
fn there_is_an_end_to_the_leaves() {
    for (name, m) in models() {
        let [last, vendor @ ..] = leaf(&m, 0, 0);
        let text: Vec<u8> = [vendor[0], vendor[2], vendor[1]].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(text, if m.vendor() == Vendor::Amd { b"AuthenticAMD" } else { b"GenuineIntel" }, "{name}");
        assert!((1..BASIC_END).contains(&last), "{name}");
        let beyond = if m.vendor() == Vendor::Amd { [0; 4] } else { leaf(&m, last, 0) };
        assert_eq!(leaf(&m, BASIC_END, 0), beyond, "{name}");
        let extended = leaf(&m, 0x8000_0000, 0)[0];
        if extended >> 16 == 0x8000 {
            assert_eq!(leaf(&m, extended + 1, 0), beyond, "{name}");
        }
    }
}

#[test]
fn each_leaf_is_within_the_end_where_its_feature_is_on() {
    for (name, m) in models() {
        let last = leaf(&m, 0, 0)[0];
        for (feature, least) in [(Feature::Monitor, 5), (Feature::Smep, 7), (Feature::X2apic, 0xb), (Feature::Xsave, 0xd)] {
            assert!(!m.has(feature) || last >= least, "{name} has {feature:?} but only {last:#x} leaves");
        }
        let extended = leaf(&m, 0x8000_0000, 0)[0];
        assert!(!m.has(Feature::Lm) || extended >= 0x8000_0008, "{name}");
        assert!(!m.has(Feature::Mmxext) || extended >= 0x8000_0001, "{name}");
    }
}

#[test]
fn the_cache_leaves_agree() {
    for (name, m) in models() {
        let told = caches(&m);
        let [.., l1d, l1i] = leaf(&m, 0x8000_0005, 0);
        let [.., l2, l3] = leaf(&m, 0x8000_0006, 0);
        let extended = leaf(&m, 0x8000_0000, 0)[0];
        let has = extended >> 16 == 0x8000;
        for [kind, level, kib, ways, line] in told {
            if m.vendor() == Vendor::Amd && level == 1 {
                assert_eq!([l1d, l1i][kind as usize - 1], kib << 24 | ways << 16 | 1 << 8 | line, "{name}");
            } else if level == 2 && has && extended >= 0x8000_0006 {
                assert_eq!((l2 >> 16, l2 & 0xff), (kib, line), "{name}");
            } else if m.vendor() == Vendor::Amd && level == 3 {
                assert_eq!((l3 >> 18) * 512, kib, "{name}");
            }
            assert!(kib.is_power_of_two(), "{name}");
        }
        let flushed = (leaf(&m, 1, 0)[1] >> 8 & 0xff) * 8;
        assert_eq!(flushed, if m.has(Feature::Clflush) { 64 } else { 0 }, "{name}");
    }
    assert_eq!(caches(&Model::by_name("zen3").unwrap()), [[1, 1, 32, 8, 64], [2, 1, 32, 8, 64], [3, 2, 512, 8, 64], [3, 3, 32768, 16, 64]]);
    assert_eq!(caches(&Model::by_name("core2duo").unwrap()), [[1, 1, 32, 8, 64], [2, 1, 32, 8, 64], [3, 2, 4096, 16, 64]]);
    assert_eq!(caches(&Model::by_name("nehalem").unwrap())[1], [2, 1, 32, 4, 64]);
    // The descriptors of SDM 2, table 3-12: 16 KiB for data and for code, 256 KiB.
    let descriptors: Vec<u8> = leaf(&Model::by_name("pentium3").unwrap(), 2, 0).iter().flat_map(|r| r.to_le_bytes()).skip(1).collect();
    assert!([0x0c, 0x08, 0x82].iter().all(|d| descriptors.contains(d)), "{descriptors:x?}");
    assert_eq!(leaf(&Model::by_name("k6-2").unwrap(), 0x8000_0005, 0)[2..], [0x2002_0120, 0x2002_0120]);
    assert_eq!(leaf(&Model::by_name("athlon").unwrap(), 0x8000_0006, 0)[2], 256 << 16 | 8 << 12 | 1 << 8 | 64);
}

#[test]
fn xsave_areas_hold_their_components() {
    for (name, m) in models().filter(|(_, m)| m.has(Feature::Xsave)) {
        let [low, _, largest, high] = leaf(&m, 0xd, 0);
        let all = u64::from(high) << 32 | u64::from(low);
        assert_eq!(all & 4 != 0, m.has(Feature::Avx), "{name}");
        assert_eq!(all & 1 << 9 != 0, m.has(Feature::Pku), "{name}");
        let end = (2..63).filter(|n| all >> n & 1 != 0).map(|n| leaf(&m, 0xd, n)).map(|[size, offset, ..]| size + offset).max();
        assert_eq!(end.unwrap_or(576), largest, "{name}");
        assert_eq!(m.leaf(0xd, 0, 0, all)[1], largest, "{name}");
        assert_eq!(m.leaf(0xd, 0, 0, 3)[1], 576, "{name}");
        assert_eq!(leaf(&m, 0xd, 1)[0] & 1 != 0, m.has(Feature::Xsaveopt), "{name}");
    }
}

#[test]
fn frequencies_are_the_time_stamps() {
    for (name, m) in models() {
        let last = leaf(&m, 0, 0)[0];
        if last >= 0x16 {
            let [denominator, numerator, crystal, _] = leaf(&m, 0x15, 0);
            assert_eq!(u64::from(crystal) * u64::from(numerator) / u64::from(denominator), u64::from(TSC_HZ), "{name}");
            assert_eq!(leaf(&m, 0x16, 0)[0], TSC_HZ / 1_000_000, "{name}");
        }
        assert_eq!(m.leaf(0x4000_0010, 0, 0, 0)[0], TSC_HZ / 1000, "{name}");
        let extended = leaf(&m, 0x8000_0000, 0)[0];
        if extended >> 16 == 0x8000 {
            let brand: Vec<u8> = (2..5).flat_map(|n| leaf(&m, 0x8000_0000 + n, 0)).flat_map(u32::to_le_bytes).collect();
            let brand = String::from_utf8(brand).unwrap();
            assert!(brand.ends_with('\0') && brand.len() == 48, "{name}: {brand}");
            let frequency = brand.trim_end_matches('\0').split("@ ").nth(1);
            assert!(frequency.is_none_or(|f| f == "1.00GHz"), "{name}: {brand}");
        }
    }
}

#[test]
fn topology_tells_of_one_thread_a_core() {
    for processors in [1, 2, 6, 8] {
        for (name, mut m) in models().filter(|(_, m)| leaf(m, 0, 0)[0] >= 0xb) {
            (m.processors, m.apic_id) = (processors, processors - 1);
            let [shift, threads, kind, id] = leaf(&m, 0xb, 0);
            assert_eq!((shift, threads, kind, id), (0, 1, 1 << 8, processors - 1), "{name}");
            let [shift, cores, kind, id] = leaf(&m, 0xb, 1);
            assert_eq!((1 << shift, cores, kind, id), (processors.next_power_of_two(), processors, 2 << 8 | 1, processors - 1), "{name}");
            assert_eq!(leaf(&m, 0xb, 2)[..2], [0, 0], "{name}");
            assert_eq!(leaf(&m, 1, 0)[1] >> 24, processors - 1, "{name}");
            if m.vendor() == Vendor::Intel {
                assert_eq!((leaf(&m, 4, 0)[0] >> 26) + 1, processors, "{name}");
            } else {
                assert_eq!((leaf(&m, 0x8000_0008, 0)[2] & 0xff) + 1, processors, "{name}");
            }
        }
    }
}

#[test]
fn monitor_lines_are_those_of_the_caches() {
    for (name, m) in models() {
        let [smallest, largest, extensions, _] = leaf(&m, 5, 0);
        if m.has(Feature::Monitor) {
            assert_eq!((smallest, largest, extensions), (64, 64, 3), "{name}");
        } else if leaf(&m, 0, 0)[0] >= 5 {
            assert_eq!(smallest, 0, "{name}");
        }
    }
}

#[test]
fn old_processors_tell_little() {
    for (name, m) in models() {
        assert_eq!(leaf(&m, 1, 0)[0], m.signature(), "{name}");
        let repeats = m.vendor() == Vendor::Amd && leaf(&m, 0x8000_0001, 0)[3] & 0x0183_f3ff == leaf(&m, 1, 0)[3] & 0x0183_f3ff;
        assert_eq!(repeats, m.vendor() == Vendor::Amd, "{name}");
    }
    let old = Model::by_name("486").unwrap();
    assert_eq!(leaf(&old, 0x8000_0000, 0), leaf(&old, 1, 0));
    assert!(!old.supports(Cf::CMOV) && !old.supports(Cf::MULTIBYTENOP) && !old.supports(Cf::X64));
}

#[test]
fn aliases_name_the_same() {
    for (alias, name) in [("i486", "486"), ("x86-64", "x86-64-v1"), ("k7", "athlon"), ("znver3", "zen3")] {
        assert_eq!(Model::by_name(alias), Model::by_name(name));
    }
    assert_eq!(Model::by_name("pentium9"), None);
}

/// The MSRs of a feature are there with it alone.
#[test]
fn registers_come_and_go_with_their_features() {
    for (feature, msr) in [
        ("pat", 0x277),
        ("mtrr", 0xfe),
        ("mtrr", 0x2ff),
        ("sep", 0x174),
        ("apic", 0x1b),
        ("x2apic", 0x802),
        ("tsc", 0x10),
        ("mca", 0x17a),
        ("xsaves", 0xda0),
        ("lm", 0xc000_0102),
        ("syscall", 0xc000_0081),
        ("arch_capabilities", 0x10a),
        ("spec_ctrl", 0x48),
        ("waitpkg", 0xe1),
    ] {
        let mut h = Harness::long();
        assert!(feature.contains("apic") || h.p.cpu.read_msr(msr, 0).is_some(), "{msr:#x}");
        assert!(h.p.cpu.model.set(feature, false));
        assert_eq!(h.p.cpu.read_msr(msr, 0), None, "{msr:#x} without {feature}");
        assert!(!h.p.cpu.write_msr(msr, 0, 0), "{msr:#x} without {feature}");
    }
}

/// Before SYSCALL, long mode and NX there was no EFER.
#[test]
fn efer_is_younger_than_the_pentium_iii() {
    for (model, there) in [("486", false), ("pentium3", false), ("k6-2", true), ("core2duo", true)] {
        let mut h = Harness::long();
        h.p.cpu.model = Model::by_name(model).unwrap();
        assert_eq!(h.p.cpu.read_msr(0xc000_0080, 0).is_some(), there, "{model}");
    }
}

#[test]
fn the_microcode_has_a_revision() {
    for (name, high) in [("haswell", true), ("zen3", false)] {
        let mut h = Harness::long();
        h.p.cpu.model = Model::by_name(name).unwrap();
        let v = h.p.cpu.read_msr(0x8b, 0).unwrap();
        assert_eq!(if high { v >> 32 } else { v & 0xffff_ffff }, u64::from(h.p.cpu.model.microcode()), "{name}");
        assert_ne!(v, 0);
    }
}

/// In 32-bit code, with STAR for selectors 0x18 (ring 0) and 0x38 (ring 3), and code at 0x20_0000 to go to.
fn legacy_syscall(model: &str) -> Harness {
    let mut h = Harness::protected32().code(&[0x0f, 0x05]);
    h.p.cpu.model = Model::by_name(model).unwrap();
    h.p.cpu.state.efer = bits::EFER_SCE;
    h.p.cpu.state.msr.star = 0x0038_0018 << 32 | 0x20_0000;
    let state = h.p.cpu.state.clone();
    h.p.load(state);
    let on = h.flags() | flags::IF;
    h.p.cpu.set_eflags(on);
    h.set_mem(0x20_0000, &[0x0f, 0x07]);
    h
}

#[test]
fn syscall_is_amds_in_32_bit_code() {
    let mut h = legacy_syscall("athlon");
    assert_eq!(h.run(1), Stop::Budget);
    assert_eq!((h.p.cpu.state.rip, h.reg(reg::RCX), h.flags() & flags::IF), (0x20_0000, CODE + 2, 0));
    assert_eq!(h.p.cpu.state.segments[seg::SS].selector, 0x20);
    assert_eq!(h.run(1), Stop::Budget);
    assert_eq!((h.p.cpu.state.rip, h.p.cpu.state.cpl, h.flags() & flags::IF), (CODE + 2, 3, flags::IF));
    assert_eq!(h.p.cpu.state.segments[seg::CS].selector, 0x3b);

    let mut h = legacy_syscall("pentium3");
    h.run(1);
    assert_eq!(h.exception().map(|(_, e)| e.vector), Some(vector::UD));
}

#[test]
fn sysenter_is_intels_in_long_mode() {
    for (name, refused) in [("zen3", vector::UD), ("haswell", vector::GP)] {
        let mut h = Harness::long().code(&[0x0f, 0x34]);
        h.p.cpu.model = Model::by_name(name).unwrap();
        let state = h.p.cpu.state.clone();
        h.p.load(state);
        h.run(1);
        assert_eq!(h.exception().map(|(_, e)| e.vector), Some(refused), "{name}");
    }
}

/// Where 16-bit code's far call to 64-bit code pushes: at SP (SDM 2, CALL), or at RSP, as CS is loaded first (APM 3, CALL far).
#[test]
fn far_calls_to_64_bit_code_push_by_vendor() {
    for (model, stack) in [("haswell", 0x8000), ("zen3", 0x1_8000)] {
        // call 0008:00020000
        let mut h = Harness::long().code(&[0x66, 0x9a, 0x00, 0x00, 0x02, 0x00, 0x08, 0x00]);
        h.p.cpu.model = Model::by_name(model).unwrap();
        h.set_mem(0x2_0000, &[0x90]);
        for (n, selector) in [(seg::CS, 0x38_u16), (seg::SS, 0x40)] {
            h.p.cpu.set_segment(n, Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]));
        }
        // The code is at the start of its segment.
        let cs = Segment { base: CODE, ..h.p.cpu.state.segments[seg::CS] };
        h.p.cpu.set_segment(seg::CS, cs);
        h.p.cpu.state.rip = 0;
        h.set_reg(reg::RSP, 0x1_8000);
        let state = h.p.cpu.state.clone();
        h.p.load(state);
        assert_eq!(h.run(2), Stop::Budget, "{model}: {:?}", h.exception());
        assert_eq!((h.p.cpu.state.rip, h.reg(reg::RSP)), (0x2_0001, 0x1_7ff8), "{model}");
        assert_eq!(h.u64(stack - 8), 0x38 << 32 | 8, "{model}");
    }
}
