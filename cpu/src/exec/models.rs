//! Processors by name: what CPUID tells of them beside the feature bits, and which feature needs which.

use super::cpuid::Feature;

/// Who made a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// "GenuineIntel".
    Intel,
    /// "AuthenticAMD".
    Amd,
}

impl Vendor {
    /// The 12 characters of leaf 0, in the order EBX, EDX, ECX.
    pub(super) const fn text(self) -> &'static [u8; 12] {
        match self {
            Self::Intel => b"GenuineIntel",
            Self::Amd => b"AuthenticAMD",
        }
    }
}

/// A cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    /// Size in KiB; 0 is no cache.
    pub(super) kib: u32,
    /// Lines in a set.
    pub(super) ways: u32,
    /// Bytes of a line.
    pub(super) line: u32,
}

/// `kib` KiB, with lines of 64 bytes.
const fn cache(kib: u32, ways: u32) -> Cache {
    Cache { kib, ways, line: 64 }
}
const NO_CACHE: Cache = cache(0, 1);

impl Cache {
    /// Sets.
    pub(super) const fn sets(self) -> u32 {
        self.kib * 1024 / (self.line * self.ways)
    }

    /// The code of the associativity in leaf 0x8000_0006 (APM 3, E.4.5; SDM 2, CPUID).
    pub(super) const fn ways_code(self) -> u32 {
        match self.ways {
            _ if self.kib == 0 => 0,
            1 => 1,
            2 => 2,
            4 => 4,
            8 => 6,
            16 => 8,
            _ => unreachable!(),
        }
    }
}

/// A processor's identity.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: &'static str,
    pub(super) vendor: Vendor,
    /// Leaf 1 EAX: family, model, stepping.
    pub(super) signature: u32,
    /// Leaves 0x8000_0002 to 4; `{}` is the frequency.
    pub(super) brand: &'static str,
    /// The last basic leaf.
    pub(super) basic: u32,
    /// The last extended leaf, 0 if there are none.
    pub(super) extended: u32,
    /// Revision of the microcode; 0 where the processor cannot tell.
    pub(super) microcode: u32,
    /// L1 for data, L1 for code, L2, L3.
    pub(super) caches: [Cache; 4],
    /// The features, as Linux calls them.
    pub(super) features: &'static [&'static str],
}

/// What the models by level are.
pub(super) const GENERIC: Identity = Identity {
    name: "",
    vendor: Vendor::Intel,
    // Family 6, model 94, stepping 3.
    signature: 0x0005_06e3,
    brand: "Softmetal virtual CPU",
    basic: 0x16,
    extended: 0x8000_0008,
    microcode: 0xff,
    caches: [cache(32, 8), cache(32, 8), cache(256, 8), cache(8192, 16)],
    features: &[],
};

const I486: &str = "fpu vme pse hypervisor";
const PENTIUM_MMX: &str = "fpu vme de pse tsc msr mce cx8 mmx hypervisor";
const P6: &str = "pae apic sep mtrr pge mca cmov pat pse36 fxsr";
const CORE2: &str = "sse clflush sse2 sse3 monitor ssse3 cx16 lahf_lm syscall nx lm";
const NEHALEM: &str = "sse4_1 sse4_2 popcnt rdtscp";
const HASWELL: &str = "pclmulqdq fma pcid x2apic movbe tsc_deadline_timer aes xsave avx f16c rdrand fsgsbase tsc_adjust bmi1 avx2 smep \
                       bmi2 erms invpcid xsaveopt lzcnt pdpe1gb";
const ZEN3: &str = "pclmulqdq fma pcid x2apic movbe aes xsave avx f16c rdrand fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx \
                    smap clflushopt clwb sha_ni umip pku vaes vpclmulqdq rdpid fsrm xsaveopt xsavec xgetbv1 xsaves lzcnt \
                    3dnowprefetch pdpe1gb mmxext";

/// The processors that there really are.
pub(super) const NAMED: &[Identity] = &[
    // A 486DX4.
    Identity {
        name: "486",
        signature: 0x480,
        brand: "",
        basic: 1,
        extended: 0,
        microcode: 0,
        caches: [NO_CACHE; 4],
        features: &[I486],
        ..GENERIC
    },
    // A K6-2 with the CXT core.
    Identity {
        name: "k6-2",
        vendor: Vendor::Amd,
        signature: 0x58c,
        brand: "AMD-K6(tm) 3D processor",
        basic: 1,
        extended: 0x8000_0005,
        microcode: 0,
        caches: [Cache { kib: 32, ways: 2, line: 32 }, Cache { kib: 32, ways: 2, line: 32 }, NO_CACHE, NO_CACHE],
        features: &[PENTIUM_MMX, "pge syscall 3dnow"],
    },
    Identity {
        name: "pentium3",
        signature: 0x686,
        brand: "",
        basic: 2,
        extended: 0,
        microcode: 8,
        // What leaf 2 says: 0x0c, 0x08, 0x82.
        caches: [
            Cache { kib: 16, ways: 4, line: 32 },
            Cache { kib: 16, ways: 4, line: 32 },
            Cache { kib: 256, ways: 8, line: 32 },
            NO_CACHE,
        ],
        features: &[PENTIUM_MMX, P6, "sse"],
        ..GENERIC
    },
    // A Thunderbird.
    Identity {
        name: "athlon",
        vendor: Vendor::Amd,
        signature: 0x642,
        brand: "AMD Athlon(tm) processor",
        basic: 1,
        extended: 0x8000_0007,
        microcode: 0,
        caches: [cache(64, 2), cache(64, 2), cache(256, 16), NO_CACHE],
        features: &[PENTIUM_MMX, P6, "syscall mmxext 3dnow 3dnowext"],
    },
    Identity {
        name: "core2duo",
        signature: 0x6fb,
        brand: "Intel(R) Core(TM)2 Duo CPU     T7700  @ {}",
        basic: 0xa,
        microcode: 0xba,
        caches: [cache(32, 8), cache(32, 8), cache(4096, 16), NO_CACHE],
        features: &[PENTIUM_MMX, P6, CORE2],
        ..GENERIC
    },
    Identity {
        name: "nehalem",
        signature: 0x1_06a5,
        brand: "Intel(R) Core(TM) i7 CPU         920  @ {}",
        basic: 0xb,
        microcode: 0x1d,
        caches: [cache(32, 8), cache(32, 4), cache(256, 8), cache(8192, 16)],
        features: &[PENTIUM_MMX, P6, CORE2, NEHALEM],
        ..GENERIC
    },
    Identity {
        name: "haswell",
        signature: 0x3_06c3,
        brand: "Intel(R) Core(TM) i7-4770 CPU @ {}",
        basic: 0xd,
        microcode: 0x28,
        features: &[PENTIUM_MMX, P6, CORE2, NEHALEM, HASWELL],
        ..GENERIC
    },
    Identity {
        name: "zen3",
        vendor: Vendor::Amd,
        signature: 0x00a2_0f10,
        brand: "AMD Ryzen 9 5950X 16-Core Processor",
        basic: 0x10,
        extended: 0x8000_0021,
        microcode: 0x0a20_1025,
        caches: [cache(32, 8), cache(32, 8), cache(512, 8), cache(32768, 16)],
        features: &[PENTIUM_MMX, P6, CORE2, NEHALEM, ZEN3],
    },
];

/// Other names of models.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("x86-64", "x86-64-v1"),
    ("i486", "486"),
    ("k6", "k6-2"),
    ("p3", "pentium3"),
    ("pentium-iii", "pentium3"),
    ("k7", "athlon"),
    ("core2", "core2duo"),
    ("core-i7", "nehalem"),
    ("znver3", "zen3"),
];

/// A feature, and one that it makes no sense without.
pub(super) const NEEDS: &[(Feature, Feature)] = &[
    (Feature::Sse, Feature::Fxsr),
    (Feature::Sse, Feature::Mmx),
    (Feature::Sse2, Feature::Sse),
    (Feature::Sse3, Feature::Sse2),
    (Feature::Ssse3, Feature::Sse3),
    (Feature::Sse41, Feature::Ssse3),
    (Feature::Sse42, Feature::Sse41),
    (Feature::Aes, Feature::Sse2),
    (Feature::Pclmulqdq, Feature::Sse2),
    (Feature::Sha, Feature::Sse2),
    (Feature::Gfni, Feature::Sse2),
    (Feature::Fxsr, Feature::Fpu),
    (Feature::Mmx, Feature::Fpu),
    (Feature::Mmxext, Feature::Mmx),
    (Feature::D3now, Feature::Mmx),
    (Feature::D3nowext, Feature::D3now),
    (Feature::Xsave, Feature::Fxsr),
    (Feature::Xsaveopt, Feature::Xsave),
    (Feature::Xsavec, Feature::Xsave),
    (Feature::Xgetbv1, Feature::Xsave),
    (Feature::Xsaves, Feature::Xsavec),
    (Feature::Avx, Feature::Xsave),
    (Feature::Avx, Feature::Sse42),
    (Feature::Avx2, Feature::Avx),
    (Feature::Fma, Feature::Avx),
    (Feature::F16c, Feature::Avx),
    (Feature::Vaes, Feature::Avx),
    (Feature::Vaes, Feature::Aes),
    (Feature::Vpclmulqdq, Feature::Avx),
    (Feature::Vpclmulqdq, Feature::Pclmulqdq),
    (Feature::Lm, Feature::Pae),
    (Feature::Lm, Feature::Sse2),
    (Feature::Lm, Feature::Cmov),
    (Feature::Lm, Feature::Msr),
    (Feature::Nx, Feature::Pae),
    (Feature::Pae, Feature::Cx8),
    (Feature::Pcid, Feature::Lm),
    (Feature::Invpcid, Feature::Pcid),
    (Feature::Pku, Feature::Lm),
    (Feature::La57, Feature::Lm),
    (Feature::Pdpe1gb, Feature::Lm),
    (Feature::Cx16, Feature::Lm),
    (Feature::Fsgsbase, Feature::Lm),
    (Feature::LahfLm, Feature::Lm),
    (Feature::Syscall, Feature::Msr),
    (Feature::Sep, Feature::Msr),
    (Feature::Apic, Feature::Msr),
    (Feature::X2apic, Feature::Apic),
    (Feature::TscDeadline, Feature::Apic),
    (Feature::TscDeadline, Feature::Tsc),
    (Feature::TscAdjust, Feature::Tsc),
    (Feature::Rdtscp, Feature::Tsc),
    (Feature::Waitpkg, Feature::Tsc),
    (Feature::Mtrr, Feature::Msr),
    (Feature::Pat, Feature::Msr),
    (Feature::Mca, Feature::Mce),
    (Feature::SpecCtrl, Feature::Msr),
    (Feature::ArchCapabilities, Feature::Msr),
    (Feature::BhiCtrl, Feature::SpecCtrl),
];
