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

/// A processor's identity.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: &'static str,
    pub(super) vendor: Vendor,
    /// Leaf 1 EAX: family, model, stepping.
    pub(super) signature: u32,
    /// Leaves 0x8000_0002 to 4.
    pub(super) brand: &'static str,
    /// The last basic leaf.
    pub(super) basic: u32,
    /// The last extended leaf, 0 if there are none.
    pub(super) extended: u32,
    /// L2 and L3 in KiB; 0 is none.
    pub(super) l2: u32,
    pub(super) l3: u32,
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
    l2: 256,
    l3: 8192,
    features: &[],
};

const I486: &str = "fpu vme hypervisor";
const PENTIUM3: &str = "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr sse hypervisor";
const CORE2: &str = "clflush sse2 sse3 monitor ssse3 cx16 lahf_lm syscall nx lm";
const NEHALEM: &str = "sse4_1 sse4_2 popcnt rdtscp";
const HASWELL: &str = "pclmulqdq fma pcid x2apic movbe tsc_deadline_timer aes xsave avx f16c rdrand fsgsbase tsc_adjust bmi1 avx2 smep \
                       bmi2 erms invpcid xsaveopt lzcnt pdpe1gb";
const ZEN3: &str = "pclmulqdq fma pcid x2apic movbe aes xsave avx f16c rdrand fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx \
                    smap clflushopt clwb sha_ni umip pku vaes vpclmulqdq rdpid fsrm xsaveopt xsavec xgetbv1 xsaves lzcnt \
                    3dnowprefetch pdpe1gb";

/// The processors that there really are.
pub(super) const NAMED: &[Identity] = &[
    Identity { name: "486", signature: 0x480, brand: "", basic: 1, extended: 0, l2: 0, l3: 0, features: &[I486], ..GENERIC },
    Identity { name: "pentium3", signature: 0x686, brand: "", basic: 2, extended: 0, l2: 256, l3: 0, features: &[PENTIUM3], ..GENERIC },
    Identity {
        name: "core2duo",
        signature: 0x6fb,
        brand: "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz",
        basic: 0xa,
        l2: 4096,
        l3: 0,
        features: &[PENTIUM3, CORE2],
        ..GENERIC
    },
    Identity {
        name: "nehalem",
        signature: 0x1_06a5,
        brand: "Intel(R) Core(TM) i7 CPU         920  @ 2.67GHz",
        basic: 0xb,
        features: &[PENTIUM3, CORE2, NEHALEM],
        ..GENERIC
    },
    Identity {
        name: "haswell",
        signature: 0x3_06c3,
        brand: "Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz",
        basic: 0xd,
        features: &[PENTIUM3, CORE2, NEHALEM, HASWELL],
        ..GENERIC
    },
    Identity {
        name: "zen3",
        vendor: Vendor::Amd,
        signature: 0x00a2_0f10,
        brand: "AMD Ryzen 9 5950X 16-Core Processor",
        basic: 0x10,
        extended: 0x8000_001e,
        l2: 512,
        l3: 32768,
        features: &[PENTIUM3, CORE2, NEHALEM, ZEN3],
    },
];

/// A feature, and one that it makes no sense without.
pub(super) const NEEDS: &[(Feature, Feature)] = &[
    (Feature::Sse, Feature::Fxsr),
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
];
