//! CPUID: what the processor says of itself (SDM 2, CPUID).

use iced_x86::{Code, CpuidFeature as Cf, Instruction, Mnemonic as M, OpCodeOperandKind};

use super::models::{ALIASES, Cache, GENERIC, Identity, NAMED, NEEDS, Vendor};
use super::wait::LINE;
use super::xsave;
use crate::mmu::PHYSICAL_BITS;
use crate::op::{Exit, Op, step};
use crate::state::{Cpu, bits, reg};
use crate::table::{Row, row};
use crate::width::Width;

/// Instruction rows.
pub const ROWS: &[Row] = &[row(M::Cpuid, |l| l.with(cpuid))];

/// Frequency of the TSC, the crystal and the APIC bus in Hz, as leaves 0x15, 0x16 and 0x4000_0010 tell it.
pub const TSC_HZ: u32 = 1_000_000_000;

/// A register of a leaf that holds feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Leaf1Ecx,
    Leaf1Edx,
    Leaf7Ebx,
    Leaf7Ecx,
    Leaf7Edx,
    Leaf7Sub2Edx,
    LeafDEax,
    Extended1Ecx,
    Extended1Edx,
}
const WORDS: usize = 9;
/// By [`Word`]: leaf and register.
const WORD_NAMES: [&str; WORDS] = ["1.ECX", "1.EDX", "7.EBX", "7.ECX", "7.EDX", "7/2.EDX", "0xd/1.EAX", "0x80000001.ECX", "0x80000001.EDX"];

/// The smallest model that has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    V1,
    V2,
    V3,
    Max,
    /// None by level; some named ones.
    Named,
}

/// What the table says of a feature.
struct Entry {
    feature: Feature,
    name: &'static str,
    word: Word,
    bit: u32,
    level: Level,
    iced: Option<Cf>,
}

macro_rules! features {
    ($($id:ident $name:literal $word:ident $bit:literal $level:ident $($iced:ident)?;)*) => {
        /// A feature with a bit in CPUID.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "named as Linux calls them")]
        pub enum Feature { $($id),* }

        const FEATURES: &[Entry] = &[$(Entry {
            feature: Feature::$id,
            name: $name,
            word: Word::$word,
            bit: $bit,
            level: Level::$level,
            iced: features!(@iced $($iced)?),
        }),*];
    };
    (@iced $iced:ident) => { Some(Cf::$iced) };
    (@iced) => { None };
}

features! {
    Fpu "fpu" Leaf1Edx 0 V1 FPU;
    Vme "vme" Leaf1Edx 1 V1;
    De "de" Leaf1Edx 2 V1;
    Pse "pse" Leaf1Edx 3 V1;
    Tsc "tsc" Leaf1Edx 4 V1 TSC;
    Msr "msr" Leaf1Edx 5 V1 MSR;
    Pae "pae" Leaf1Edx 6 V1;
    Mce "mce" Leaf1Edx 7 V1;
    Cx8 "cx8" Leaf1Edx 8 V1 CX8;
    Apic "apic" Leaf1Edx 9 V1;
    Sep "sep" Leaf1Edx 11 V1 SEP;
    Mtrr "mtrr" Leaf1Edx 12 V1;
    Pge "pge" Leaf1Edx 13 V1;
    Mca "mca" Leaf1Edx 14 V1;
    Cmov "cmov" Leaf1Edx 15 V1 CMOV;
    Pat "pat" Leaf1Edx 16 V1;
    Pse36 "pse36" Leaf1Edx 17 V1;
    Clflush "clflush" Leaf1Edx 19 V1 CLFSH;
    Mmx "mmx" Leaf1Edx 23 V1 MMX;
    Fxsr "fxsr" Leaf1Edx 24 V1 FXSR;
    Sse "sse" Leaf1Edx 25 V1 SSE;
    Sse2 "sse2" Leaf1Edx 26 V1 SSE2;
    Sse3 "sse3" Leaf1Ecx 0 V2 SSE3;
    Pclmulqdq "pclmulqdq" Leaf1Ecx 1 V3 PCLMULQDQ;
    Monitor "monitor" Leaf1Ecx 3 Max MONITOR;
    Ssse3 "ssse3" Leaf1Ecx 9 V2 SSSE3;
    Fma "fma" Leaf1Ecx 12 V3 FMA;
    Cx16 "cx16" Leaf1Ecx 13 V2 CMPXCHG16B;
    Pcid "pcid" Leaf1Ecx 17 V2;
    Sse41 "sse4_1" Leaf1Ecx 19 V2 SSE4_1;
    Sse42 "sse4_2" Leaf1Ecx 20 V2 SSE4_2;
    X2apic "x2apic" Leaf1Ecx 21 V2;
    Movbe "movbe" Leaf1Ecx 22 V3 MOVBE;
    Popcnt "popcnt" Leaf1Ecx 23 V2 POPCNT;
    TscDeadline "tsc_deadline_timer" Leaf1Ecx 24 V1;
    Aes "aes" Leaf1Ecx 25 V3 AES;
    Xsave "xsave" Leaf1Ecx 26 V2 XSAVE;
    Avx "avx" Leaf1Ecx 28 V3 AVX;
    F16c "f16c" Leaf1Ecx 29 V3 F16C;
    Rdrand "rdrand" Leaf1Ecx 30 V2 RDRAND;
    Hypervisor "hypervisor" Leaf1Ecx 31 V1;
    Fsgsbase "fsgsbase" Leaf7Ebx 0 V2 FSGSBASE;
    TscAdjust "tsc_adjust" Leaf7Ebx 1 V1;
    Bmi1 "bmi1" Leaf7Ebx 3 V3 BMI1;
    Avx2 "avx2" Leaf7Ebx 5 V3 AVX2;
    Smep "smep" Leaf7Ebx 7 V2;
    Bmi2 "bmi2" Leaf7Ebx 8 V3 BMI2;
    Erms "erms" Leaf7Ebx 9 V2;
    Invpcid "invpcid" Leaf7Ebx 10 V2 INVPCID;
    Rdseed "rdseed" Leaf7Ebx 18 V2 RDSEED;
    Adx "adx" Leaf7Ebx 19 Max ADX;
    Smap "smap" Leaf7Ebx 20 V2 SMAP;
    Clflushopt "clflushopt" Leaf7Ebx 23 Max CLFLUSHOPT;
    Clwb "clwb" Leaf7Ebx 24 Max CLWB;
    Sha "sha_ni" Leaf7Ebx 29 Max SHA;
    Umip "umip" Leaf7Ecx 2 V2;
    Pku "pku" Leaf7Ecx 3 Max PKU;
    Waitpkg "waitpkg" Leaf7Ecx 5 Max WAITPKG;
    Gfni "gfni" Leaf7Ecx 8 Max GFNI;
    Vaes "vaes" Leaf7Ecx 9 Max VAES;
    Vpclmulqdq "vpclmulqdq" Leaf7Ecx 10 Max VPCLMULQDQ;
    La57 "la57" Leaf7Ecx 16 Max;
    Rdpid "rdpid" Leaf7Ecx 22 Max RDPID;
    Movdiri "movdiri" Leaf7Ecx 27 Max MOVDIRI;
    Movdir64b "movdir64b" Leaf7Ecx 28 Max MOVDIR64B;
    Fsrm "fsrm" Leaf7Edx 4 V2;
    Serialize "serialize" Leaf7Edx 14 Max SERIALIZE;
    SpecCtrl "spec_ctrl" Leaf7Edx 26 V1;
    ArchCapabilities "arch_capabilities" Leaf7Edx 29 V1;
    BhiCtrl "bhi_ctrl" Leaf7Sub2Edx 4 V1;
    Xsaveopt "xsaveopt" LeafDEax 0 V3 XSAVEOPT;
    Xsavec "xsavec" LeafDEax 1 Max XSAVEC;
    Xgetbv1 "xgetbv1" LeafDEax 2 Max;
    Xsaves "xsaves" LeafDEax 3 Max XSAVES;
    LahfLm "lahf_lm" Extended1Ecx 0 V2;
    Lzcnt "lzcnt" Extended1Ecx 5 V3 LZCNT;
    Prefetchw "3dnowprefetch" Extended1Ecx 8 V2 PREFETCHW;
    Syscall "syscall" Extended1Edx 11 V1 SYSCALL;
    Nx "nx" Extended1Edx 20 V1;
    Mmxext "mmxext" Extended1Edx 22 Named;
    Pdpe1gb "pdpe1gb" Extended1Edx 26 V2;
    Rdtscp "rdtscp" Extended1Edx 27 V2 RDTSCP;
    Lm "lm" Extended1Edx 29 V1 X64;
    D3nowext "3dnowext" Extended1Edx 30 Named D3NOWEXT;
    D3now "3dnow" Extended1Edx 31 Named D3NOW;
}

/// Features that all models have, without a bit of their own; PAUSE is a NOP on old ones.
const IMPLIED: &[Cf] = &[Cf::INTEL8086, Cf::INTEL186, Cf::INTEL286, Cf::INTEL386, Cf::INTEL486, Cf::CPUID, Cf::PAUSE, Cf::SMM];

/// Whether `code` is one of SSE's instructions that AMD's extensions to MMX have too (APM 3, appendix D).
fn in_mmxext(code: Code) -> bool {
    let info = code.op_code();
    let mmx = (0..info.op_count()).any(|n| matches!(info.op_kind(n), OpCodeOperandKind::mm_reg | OpCodeOperandKind::mm_rm));
    let hint = matches!(code.mnemonic(), M::Sfence | M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2);
    code.cpuid_features() == [Cf::SSE] && (hint || mmx && !CONVERSIONS.contains(&code.mnemonic()))
}
/// The instructions of SSE with MMX and XMM operands.
const CONVERSIONS: [M; 3] = [M::Cvtpi2ps, M::Cvtps2pi, M::Cvttps2pi];

/// What CPUID tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    words: [u32; WORDS],
    identity: &'static Identity,
    /// This processor's APIC ID.
    pub apic_id: u32,
    /// Processors in the package, at least 1.
    pub processors: u32,
}

impl Default for Model {
    /// x86-64-v3.
    fn default() -> Self {
        Self::of_level(Level::V3)
    }
}

impl Model {
    fn of_level(level: Level) -> Self {
        let mut model = Self { words: [0; WORDS], identity: &GENERIC, apic_id: 0, processors: 1 };
        for e in FEATURES.iter().filter(|e| e.level <= level) {
            model.words[e.word as usize] |= 1 << e.bit;
        }
        model
    }

    /// The names that [`Model::by_name`] knows, beside aliases.
    pub const NAMES: [&'static str; 12] =
        ["x86-64-v1", "x86-64-v2", "x86-64-v3", "max", "486", "k6-2", "pentium3", "athlon", "core2duo", "nehalem", "haswell", "zen3"];

    /// Everything that is implemented, but what only AMD's old processors had (3DNow!).
    #[must_use]
    pub fn max() -> Self {
        Self::of_level(Level::Max)
    }

    fn named(identity: &'static Identity) -> Self {
        let mut model = Self { words: [0; WORDS], identity, apic_id: 0, processors: 1 };
        for name in identity.features.iter().flat_map(|f| f.split_whitespace()) {
            let known = model.set(name, true);
            debug_assert!(known, "{}: no feature {name}", identity.name);
        }
        model
    }

    /// A model by its name or an alias.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let name = ALIASES.iter().find(|a| a.0 == name).map_or(name, |a| a.1);
        if let Some(identity) = NAMED.iter().find(|i| i.name == name) {
            return Some(Self::named(identity));
        }
        let level = match name {
            "x86-64-v1" => Level::V1,
            "x86-64-v2" => Level::V2,
            "x86-64-v3" => Level::V3,
            "max" => Level::Max,
            _ => return None,
        };
        Some(Self::of_level(level))
    }

    /// The names of all features, as Linux calls them.
    pub fn feature_names() -> impl Iterator<Item = &'static str> {
        FEATURES.iter().map(|e| e.name)
    }

    /// The features: name, where CPUID tells it (leaf and register), and the bit there.
    pub fn features() -> impl Iterator<Item = (&'static str, &'static str, u32)> {
        FEATURES.iter().map(|e| (e.name, WORD_NAMES[e.word as usize], e.bit))
    }

    /// Whether the model has the feature of that name.
    #[must_use]
    pub fn has_named(&self, name: &str) -> bool {
        FEATURES.iter().any(|e| e.name == name && self.has(e.feature))
    }

    /// The features that are on while one that they need is off: name, and name of the needed one.
    #[must_use]
    pub fn unmet(&self) -> Vec<(&'static str, &'static str)> {
        let name = |f: Feature| FEATURES[f as usize].name;
        NEEDS.iter().filter(|(f, needed)| self.has(*f) && !self.has(*needed)).map(|&(f, needed)| (name(f), name(needed))).collect()
    }

    /// Family, model and stepping as leaf 1 EAX and, after RESET, EDX tell them.
    #[must_use]
    pub fn signature(&self) -> u32 {
        self.identity.signature
    }

    /// Who made it.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        self.identity.vendor
    }

    /// Adds or takes away a feature by name; false if there is none of that name.
    pub fn set(&mut self, name: &str, on: bool) -> bool {
        let Some(e) = FEATURES.iter().find(|e| e.name == name) else { return false };
        let word = &mut self.words[e.word as usize];
        *word = *word & !(1 << e.bit) | u32::from(on) << e.bit;
        true
    }

    /// Whether the model has `feature`.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        let e = &FEATURES[feature as usize];
        debug_assert!(e.feature == feature);
        self.words[e.word as usize] >> e.bit & 1 != 0
    }

    /// Revision of the microcode, as the MSR BIOS_SIGN_ID tells it; 0 where there is none.
    #[must_use]
    pub fn microcode(&self) -> u32 {
        self.identity.microcode
    }

    /// Whether it is of the sixth generation or a later one, which have opcodes that are reserved as NOPs.
    fn p6(&self) -> bool {
        self.signature() >> 8 & 15 >= 6
    }

    /// Whether instructions of `feature` are there.
    #[must_use]
    pub fn supports(&self, feature: Cf) -> bool {
        match feature {
            Cf::MULTIBYTENOP | Cf::RDPMC => self.p6(),
            Cf::FPU287 | Cf::FPU387 => self.has(Feature::Fpu),
            // PREFETCH and PREFETCHW (APM 3, PREFETCHx).
            Cf::PREFETCHW => [Feature::Prefetchw, Feature::D3now, Feature::Lm].iter().any(|&f| self.has(f)),
            _ => IMPLIED.contains(&feature) || FEATURES.iter().any(|e| e.iced == Some(feature) && self.has(e.feature)),
        }
    }

    /// Which forms of instructions are there.
    #[must_use]
    pub fn forms(&self) -> Forms {
        let mut features = [false; 256];
        for feature in Cf::values() {
            features[feature as usize] = self.supports(feature);
        }
        let mmxext = self.has(Feature::Mmxext);
        let mut there = vec![0; Code::values().len().div_ceil(64)].into_boxed_slice();
        for code in Code::values() {
            if code.cpuid_features().iter().all(|&f| features[f as usize]) || mmxext && in_mmxext(code) {
                there[code as usize / 64] |= 1 << (code as usize % 64);
            }
        }
        Forms { words: self.words, p6: self.p6(), there }
    }

    fn word(&self, w: Word) -> u32 {
        self.words[w as usize]
    }

    /// EAX, EBX, ECX, EDX of a leaf, for a processor with this CR4 and XCR0.
    #[must_use]
    pub fn leaf(&self, leaf: u32, sub: u32, cr4: u64, xcr0: u64) -> [u32; 4] {
        const MAX_HYPERVISOR: u32 = 0x4000_0010;
        let id = self.identity;
        let amd = id.vendor == Vendor::Amd;
        let last = match leaf {
            0..=0x3fff_ffff => id.basic,
            0x4000_0000..=0x4000_ffff if self.has(Feature::Hypervisor) => u32::MAX,
            0x8000_0000.. => id.extended,
            _ => 0,
        };
        if leaf > last {
            // Beyond the end: as the last basic leaf, or nothing (AMD).
            return if amd { [0; 4] } else { self.leaf(id.basic, sub, cr4, xcr0) };
        }
        let text = |s: &[u8; 12]| [0, 4, 8].map(|i| u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]]));
        match leaf {
            0 => {
                let [b, d, c] = text(id.vendor.text());
                [id.basic, b, c, d]
            }
            1 => {
                let osxsave = if cr4 & bits::CR4_OSXSAVE != 0 { 1 << 27 } else { 0 };
                let htt = u32::from(self.processors > 1) << 28;
                // What CLFLUSH flushes, in units of 8 bytes.
                let line = if self.has(Feature::Clflush) { id.caches[0].line / 8 } else { 0 };
                let ebx = self.apic_id << 24 | (self.processors & 0xff) << 16 | line << 8;
                [id.signature, ebx, self.word(Word::Leaf1Ecx) | osxsave, self.word(Word::Leaf1Edx) | htt]
            }
            2 | 4 if amd => [0; 4],
            // L1 of 16 KiB for data (0x0c) and code (0x08), L2 of 256 KiB (0x82).
            2 if id.basic < 4 => [0x0302_0101, 0, 0, 0x0c04_0882],
            // "See leaf 4"; 64-byte prefetching.
            2 => [0x00fe_ff01, 0xf0, 0, 0],
            4 => self.cache(sub),
            // MWAIT with C0 and C1, a line of 64 bytes; interrupts end it even if masked.
            5 if self.has(Feature::Monitor) => [LINE as u32, LINE as u32, 3, 0x11],
            // The APIC timer always runs.
            6 => [4, 0, 0, 0],
            7 if sub == 0 => {
                let ospke = if cr4 & bits::CR4_PKE != 0 { 1 << 4 } else { 0 };
                let last = if self.word(Word::Leaf7Sub2Edx) != 0 { 2 } else { 0 };
                [last, self.word(Word::Leaf7Ebx), self.word(Word::Leaf7Ecx) | ospke, self.word(Word::Leaf7Edx)]
            }
            7 if sub == 2 => [0, 0, 0, self.word(Word::Leaf7Sub2Edx)],
            0xb => self.topology(sub),
            0xd if self.has(Feature::Xsave) => match sub {
                0 => {
                    let all = xsave::supported(self);
                    [all as u32, xsave::standard_size(xcr0), xsave::standard_size(all), (all >> 32) as u32]
                }
                1 => [self.word(Word::LeafDEax), xsave::compact_size(xcr0), 0, 0],
                _ => xsave::component(self, sub).map_or([0; 4], |c| [c.size as u32, c.offset as u32, 0, 0]),
            },
            0x15 => [1, 1, TSC_HZ, 0],
            0x16 => [TSC_HZ / 1_000_000, TSC_HZ / 1_000_000, 100, 0],
            0x4000_0000 if self.has(Feature::Hypervisor) => {
                let [b, c, d] = text(b"Softmetal   ");
                [MAX_HYPERVISOR, b, c, d]
            }
            MAX_HYPERVISOR if self.has(Feature::Hypervisor) => [TSC_HZ / 1000, TSC_HZ / 1000, 0, 0],
            0x8000_0000 => {
                let [b, d, c] = if amd { text(id.vendor.text()) } else { [0; 3] };
                [id.extended, b, c, d]
            }
            0x8000_0001 => {
                // AMD repeats bits of leaf 1, and tells of leaves 0x8000_001D and E.
                let topology = u32::from(id.extended >= 0x8000_001e) << 22;
                let [eax, ecx, edx] = if amd { [id.signature, topology, self.word(Word::Leaf1Edx) & 0x0183_f3ff] } else { [0; 3] };
                [eax, 0, self.word(Word::Extended1Ecx) | ecx, self.word(Word::Extended1Edx) | edx]
            }
            0x8000_0002..=0x8000_0004 => {
                let mut brand = [0; 48];
                let text = id.brand.replace("{}", &format!("{}.{:02}GHz", TSC_HZ / 1_000_000_000, TSC_HZ / 10_000_000 % 100));
                brand[..text.len()].copy_from_slice(text.as_bytes());
                let at = (leaf - 0x8000_0002) as usize * 16;
                [0, 4, 8, 12].map(|i| u32::from_le_bytes([brand[at + i], brand[at + i + 1], brand[at + i + 2], brand[at + i + 3]]))
            }
            // No TLB is told of; L1 for data, for code.
            0x8000_0005 if amd => {
                let l1 = |c: Cache| c.kib << 24 | c.ways << 16 | 1 << 8 | c.line;
                [0, 0, l1(id.caches[0]), l1(id.caches[1])]
            }
            0x8000_0006 => {
                let [_, _, l2, l3] = id.caches;
                // AMD also tells that a tag has one line, and the size of L3 in units of 512 KiB.
                let lines = |c: Cache| if c.kib == 0 { 0 } else { c.ways_code() << 12 | u32::from(amd) << 8 | c.line };
                [0, 0, l2.kib << 16 | lines(l2), if amd { (l3.kib / 512) << 18 | lines(l3) } else { 0 }]
            }
            // Invariant TSC.
            0x8000_0007 => [0, 0, 0, 1 << 8],
            0x8000_0008 => {
                let linear = if self.has(Feature::La57) { 57 } else { 48 };
                [linear << 8 | PHYSICAL_BITS, 0, if amd { self.processors - 1 } else { 0 }, 0]
            }
            0x8000_001d if amd => self.cache(sub),
            0x8000_001e if amd => [self.apic_id, self.apic_id, 0, 0],
            // LFENCE serialises; no return-stack overflow (SRSO).
            0x8000_0021 if amd => [1 << 2 | 1 << 29, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// Leaf 4 (AMD: 0x8000_001D): the caches that there are.
    fn cache(&self, sub: u32) -> [u32; 4] {
        let Some((n, c)) = self.identity.caches.iter().enumerate().filter(|(_, c)| c.kib != 0).nth(sub as usize) else { return [0; 4] };
        let (kind, level, shared) = [(1, 1, 1), (2, 1, 1), (3, 2, 1), (3, 3, self.processors)][n];
        // AMD reserves the number of cores.
        let cores = if self.vendor() == Vendor::Amd { 0 } else { self.processors - 1 };
        let eax = kind | level << 5 | 1 << 8 | (shared - 1) << 14 | cores << 26;
        [eax, (c.ways - 1) << 22 | (c.line - 1), c.sets() - 1, 0]
    }

    /// Leaf 0xB: one thread a core.
    fn topology(&self, sub: u32) -> [u32; 4] {
        let shift = self.processors.next_power_of_two().trailing_zeros();
        match sub {
            0 => [0, 1, 1 << 8, self.apic_id],
            1 => [shift, self.processors, 2 << 8 | 1, self.apic_id],
            _ => [0, 0, sub & 0xff, self.apic_id],
        }
    }
}

/// The forms of instructions that a model has.
#[derive(Default)]
pub struct Forms {
    words: [u32; WORDS],
    p6: bool,
    /// A bit for each [`Code`].
    there: Box<[u64]>,
}

impl Forms {
    /// Whether these are the forms of `model`, as it is now.
    #[must_use]
    pub fn are_of(&self, model: &Model) -> bool {
        self.words == model.words && self.p6 == model.p6()
    }

    /// Whether opcodes are reserved as NOPs for extensions (SDM 2, NOP; appendix A, 0F 0D and 0F 18 to 1F).
    #[must_use]
    pub fn reserved_nops(&self) -> bool {
        self.p6
    }

    /// What the model takes an instruction for; `None` is #UD. Some encodings mean something else, or nothing at all,
    /// where their feature is missing (SDM 2: TZCNT, LZCNT, ENDBR64, RDSSPQ, CLDEMOTE, PREFETCHh).
    #[must_use]
    pub fn meaning(&self, i: &Instruction) -> Option<M> {
        let there = |c: Code| self.there.get(c as usize / 64).is_some_and(|w| w >> (c as usize % 64) & 1 != 0);
        if there(i.code()) {
            return Some(i.mnemonic());
        }
        match i.mnemonic() {
            M::Tzcnt => Some(M::Bsf),
            M::Lzcnt => Some(M::Bsr),
            M::Wbnoinvd => Some(M::Wbinvd),
            M::Prefetchwt1 if there(Code::Prefetchw_m8) => Some(M::Nop),
            M::Endbr32 | M::Endbr64 | M::Rdsspd | M::Rdsspq | M::Cldemote | M::Prefetchit0 | M::Prefetchit1 if self.p6 => Some(M::Nop),
            M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 if self.p6 => Some(M::Nop),
            _ => None,
        }
    }
}

fn cpuid(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let r = &mut cpu.state.regs;
        let leaf = cpu.model.leaf(u32::get(r, reg::RAX), u32::get(r, reg::RCX), cpu.state.cr4, cpu.state.xcr0);
        for (n, v) in [reg::RAX, reg::RBX, reg::RCX, reg::RDX].into_iter().zip(leaf) {
            u32::set(r, n, v);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_without_what_it_needs_is_told() {
        let mut m = Model::max();
        m.set("sse4_1", false);
        assert_eq!(m.unmet(), [("sse4_2", "sse4_1")]);
    }

    #[test]
    fn leaves() {
        let m = Model::default();
        let [max, b, c, d] = m.leaf(0, 0, 0, 1);
        assert_eq!([b, d, c].map(u32::to_le_bytes).concat(), b"GenuineIntel");
        assert_eq!(m.leaf(max + 1, 0, 0, 1), m.leaf(max, 0, 0, 1));
        assert_eq!(m.leaf(1, 0, 0, 1)[2] >> 27 & 1, 0);
        assert_eq!(m.leaf(1, 0, bits::CR4_OSXSAVE, 1)[2] >> 27 & 1, 1);
        assert!(m.has(Feature::Lm) && m.supports(Cf::BMI2) && m.supports(Cf::AVX2) && !m.supports(Cf::SHA));
        // x87, SSE, AVX; the sizes of what is enabled and of all there is.
        assert_eq!(m.leaf(0xd, 0, 0, 1), [7, 576, 832, 0]);
        assert_eq!(m.leaf(0xd, 0, 0, 7)[1], 832);
        assert_eq!(m.leaf(0xd, 2, 0, 7), [256, 576, 0, 0]);
        assert_eq!(Model::max().leaf(0xd, 1, 0, 0x207)[1], 840);
        let v2 = Model::by_name("x86-64-v2").unwrap();
        assert!(!v2.supports(Cf::BMI1) && v2.supports(Cf::POPCNT));
        let mut v1 = Model::by_name("x86-64").unwrap();
        assert!(
            v1.supports(Cf::SSE2)
                && !v1.supports(Cf::SSE3)
                && !v1.supports(Cf::POPCNT)
                && v1.set("popcnt", true)
                && v1.supports(Cf::POPCNT)
                && !v1.set("nothing", true)
        );
    }
}
