//! Many cases: which codes, batches, counts, and the report of a failure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use iced_x86::{Code, CpuidFeature as F, Instruction};
use softmetal_cpu::exec::cpuid::Model;

use crate::accepted::{self, Beyond, Ignored, Seen};
use crate::case::{Case, Engine, Outcome, event};
use crate::compare;
use crate::generate::{self, Made};
use crate::host::{BATCH, Host};

/// Whether the host's processor has a feature.
#[must_use]
pub fn host_has(feature: F) -> bool {
    macro_rules! has {
        ($name:tt) => {
            std::is_x86_feature_detected!($name)
        };
    }
    let leaf = |leaf: u32, sub: u32| core::arch::x86_64::__cpuid_count(leaf, sub);
    match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 | F::FPU | F::FPU287 | F::FPU387 => true,
        F::CPUID | F::CMOV | F::CX8 | F::MMX | F::SSE | F::SSE2 | F::FXSR | F::CLFSH | F::MSR | F::TSC | F::PAUSE => true,
        F::MULTIBYTENOP | F::RDPMC | F::SYSCALL | F::SEP => true,
        F::SSE3 => has!("sse3"),
        F::SSSE3 => has!("ssse3"),
        F::SSE4_1 => has!("sse4.1"),
        F::SSE4_2 => has!("sse4.2"),
        F::POPCNT => has!("popcnt"),
        F::CMPXCHG16B => has!("cmpxchg16b"),
        F::MOVBE => has!("movbe"),
        F::LZCNT => has!("lzcnt"),
        F::BMI1 => has!("bmi1"),
        F::BMI2 => has!("bmi2"),
        F::ADX => has!("adx"),
        F::AES => has!("aes"),
        F::PCLMULQDQ => has!("pclmulqdq"),
        F::SHA => has!("sha"),
        F::AVX => has!("avx"),
        F::AVX2 => has!("avx2"),
        F::FMA => has!("fma"),
        F::F16C => has!("f16c"),
        F::GFNI => has!("gfni"),
        F::VAES => has!("vaes"),
        F::VPCLMULQDQ => has!("vpclmulqdq"),
        F::RDRAND => has!("rdrand"),
        F::RDSEED => has!("rdseed"),
        F::XSAVE => has!("xsave"),
        F::XSAVEOPT => has!("xsaveopt"),
        F::XSAVEC => has!("xsavec"),
        F::XSAVES => has!("xsaves"),
        F::FSGSBASE => leaf(7, 0).ebx & 1 != 0,
        F::INVPCID => leaf(7, 0).ebx >> 10 & 1 != 0,
        F::SMAP => leaf(7, 0).ebx >> 20 & 1 != 0,
        F::CLFLUSHOPT => leaf(7, 0).ebx >> 23 & 1 != 0,
        F::CLWB => leaf(7, 0).ebx >> 24 & 1 != 0,
        F::PKU => leaf(7, 0).ecx >> 4 & 1 != 0,
        F::WAITPKG => leaf(7, 0).ecx >> 5 & 1 != 0,
        F::RDPID => leaf(7, 0).ecx >> 22 & 1 != 0,
        F::MOVDIRI => leaf(7, 0).ecx >> 27 & 1 != 0,
        F::MOVDIR64B => leaf(7, 0).ecx >> 28 & 1 != 0,
        F::SERIALIZE => leaf(7, 0).edx >> 14 & 1 != 0,
        F::PREFETCHW => leaf(0x8000_0001, 0).ecx >> 8 & 1 != 0,
        F::RDTSCP => leaf(0x8000_0001, 0).edx >> 27 & 1 != 0,
        F::D3NOW => leaf(0x8000_0001, 0).edx >> 31 != 0,
        F::D3NOWEXT => leaf(0x8000_0001, 0).edx >> 30 & 1 != 0,
        F::SSE4A => leaf(0x8000_0001, 0).ecx >> 6 & 1 != 0,
        F::MONITOR => leaf(1, 0).ecx >> 3 & 1 != 0,
        F::AVX512F => has!("avx512f"),
        _ => false,
    }
}

/// Whether the host may run something that the guest has not.
fn host_goes(beyond: Beyond) -> bool {
    match beyond {
        Beyond::Avx512 => host_has(F::AVX512F),
        Beyond::Cr8Legacy => core::arch::x86_64::__cpuid_count(0x8000_0001, 0).ecx >> 4 & 1 != 0,
        Beyond::Umip => true,
    }
}

/// The codes that this host and `model` have, and that may be compared.
#[must_use]
pub fn codes(model: &Model, filter: &str) -> Vec<Code> {
    let wanted = |code: &Code| {
        let info = code.op_code();
        let mnemonic = format!("{:?}", code.mnemonic());
        let mut plain = Instruction::default();
        plain.set_code(*code);
        info.is_instruction()
            && !info.fwait()
            && code.cpuid_features().iter().all(|f| model.supports(*f) && host_has(*f))
            && accepted::excluded(&plain).is_none()
            && filter.split(',').any(|f| f.is_empty() || f.eq_ignore_ascii_case(&mnemonic) || f == format!("{code:?}"))
    };
    Code::values().filter(wanted).collect()
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The guest's model.
    pub model: Model,
    /// The codes, in turn.
    pub codes: Vec<Code>,
    /// Chooses everything else.
    pub seed: u64,
    /// The first case.
    pub first: u64,
    /// How many cases.
    pub count: u64,
    /// Failures to report at most; the rest is counted.
    pub reports: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases compared.
    pub cases: u64,
    /// Cases that could not be made.
    pub unmade: u64,
    /// Cases that differ.
    pub mismatches: u64,
    /// Processes that a case took with it.
    pub lost: u64,
    /// Cases by extension.
    pub by_extension: BTreeMap<String, u64>,
    /// Cases by code, of those compared.
    pub by_code: BTreeMap<u16, u64>,
    /// Cases by the vector that they ended with.
    pub by_vector: BTreeMap<u32, u64>,
    /// Cases that would differ but for a row of [`accepted::ROWS`], by the row's number.
    pub accepted: BTreeMap<usize, u64>,
    /// One line a failure.
    pub failures: Vec<String>,
}

/// What differs beyond what may; and the rows of [`accepted::ROWS`] without which more would.
fn judge(made: &Made, host: &Outcome, guest: &Outcome) -> (String, Vec<usize>) {
    let differences = |ignored: &Ignored| compare::differences(&made.case, host, guest, ignored);
    let nothing = Ignored::default();
    let strict = differences(&nothing);
    if strict.is_empty() {
        return (strict, Vec::new());
    }
    let seen = Seen::new(&made.instruction, &made.case, host, guest);
    let rows = accepted::applying(&seen);
    let text = differences(&accepted::ignored(&seen, &rows));
    let needed = |row: &usize| {
        let others: Vec<_> = rows.iter().copied().filter(|r| r != row).collect();
        differences(&accepted::ignored(&seen, &others)) != text
    };
    let needed = rows.iter().copied().filter(needed).collect();
    (text, needed)
}

/// Whether the instruction is one, or none, to the host as well as to `model`.
fn both_have(model: &Model, made: &Made) -> bool {
    let beyond = accepted::beyond(&made.instruction, made.case.bits, made.case.bytes());
    made.instruction.cpuid_features().iter().all(|f| model.supports(*f) && host_has(*f)) && !beyond.is_some_and(host_goes)
}

/// Runs the plan on the host and on `engine`.
///
/// # Errors
/// If the host's process cannot be started.
pub fn run(plan: &Plan, host: &mut Host, engine: &mut dyn Engine) -> io::Result<Report> {
    let mut report = Report::default();
    let mut made: Vec<Made> = Vec::with_capacity(BATCH);
    let mut mine = vec![Outcome::default(); BATCH];
    let mut theirs = vec![Outcome::default(); BATCH];
    let mut indices = Vec::new();
    let end = plan.first + plan.count;
    let mut index = plan.first;
    let mut told = BTreeMap::<Code, u32>::new();
    while index < end {
        made.clear();
        indices.clear();
        while index < end && made.len() < BATCH {
            let code = plan.codes[(index % plan.codes.len() as u64) as usize];
            match generate::make(code, plan.seed, index) {
                Some(m) if !both_have(&plan.model, &m) => report.unmade += 1,
                Some(m) => {
                    engine.run(&m.case, &mut mine[made.len()]);
                    // What does not end here is not shown to the host.
                    if mine[made.len()].vector == event::ENDLESS {
                        report.unmade += 1;
                    } else {
                        made.push(m);
                        indices.push((index, code));
                    }
                }
                None => report.unmade += 1,
            }
            index += 1;
        }
        host.run(made.iter().map(|m| &m.case), &mut theirs)?;
        for (n, m) in made.iter().enumerate() {
            report.cases += 1;
            *report.by_code.entry(indices[n].1 as u16).or_default() += 1;
            *report.by_vector.entry(theirs[n].vector).or_default() += 1;
            for f in m.instruction.cpuid_features() {
                *report.by_extension.entry(format!("{f:?}")).or_default() += 1;
            }
            let (text, rows) = judge(m, &theirs[n], &mine[n]);
            for row in rows {
                *report.accepted.entry(row).or_default() += 1;
            }
            if text.is_empty() {
                continue;
            }
            report.mismatches += 1;
            let seen = told.entry(indices[n].1).or_default();
            *seen += 1;
            if report.failures.len() < plan.reports && *seen <= 2 {
                report.failures.push(describe(plan.seed, indices[n].0, m, &text, host, engine));
            }
        }
    }
    report.lost = host.lost;
    Ok(report)
}

/// One line: how to repeat it, the bytes, the instruction, what differs, and the inputs that it takes.
fn describe(seed: u64, index: u64, made: &Made, text: &str, host: &mut Host, engine: &mut dyn Engine) -> String {
    let mut line = format!("--seed {seed} --index {index} --code {:?}: ", made.instruction.code());
    let case = &made.case;
    for byte in case.bytes() {
        let _ = write!(line, "{byte:02x}");
    }
    let _ = write!(line, " ({}-bit) {} | host/guest: {text}| ", case.bits, made.instruction);
    // A case that its process does not survive is costly to repeat.
    if text.starts_with("vector 10") {
        return line + &inputs(case);
    }
    line + &inputs(&minimise(made, host, engine))
}

/// Puts a part of a case at rest.
type Step = Box<dyn Fn(&mut Case)>;

/// The case with everything at rest that the difference does not need.
fn minimise(made: &Made, host: &mut Host, engine: &mut dyn Engine) -> Case {
    let mut best = Made { case: made.case.clone(), instruction: made.instruction };
    let rest = Case::new(best.case.bits);
    let mut steps: Vec<Step> = Vec::new();
    for n in 0..16 {
        steps.push(Box::new(move |c| c.start.gpr[n] = 0));
        steps.push(Box::new(move |c| (c.start.xmm[n], c.start.ymm[n]) = ([0; 16], [0; 16])));
    }
    steps.push(Box::new(|c| c.start.flags = 0x202));
    steps.push(Box::new(|c| c.start.mxcsr = 0x1f80));
    let x87 = rest.start.x87;
    steps.push(Box::new(move |c| c.start.x87 = x87));
    steps.push(Box::new(|c| c.start.memory.fill(0)));
    for n in 0..8 {
        steps.push(Box::new(move |c| c.start.x87[32 + 16 * n..48 + 16 * n].fill(0)));
    }
    let (mut a, mut b) = (Outcome::default(), Outcome::default());
    for step in steps {
        let before = best.case.clone();
        step(&mut best.case);
        engine.run(&best.case, &mut a);
        if a.vector != event::ENDLESS {
            Engine::run(host, &best.case, &mut b);
        }
        if a.vector == event::ENDLESS || judge(&best, &b, &a).0.is_empty() {
            best.case = before;
        }
    }
    best.case
}

/// What of a case's inputs is not at rest.
fn inputs(case: &Case) -> String {
    let mut out = String::new();
    let rest = Case::new(case.bits);
    let (s, r) = (&case.start, &rest.start);
    let _ = write!(out, "rip {:x} flags {:x} ", s.rip, s.flags);
    for (n, v) in s.gpr.iter().enumerate().filter(|(_, v)| **v != 0) {
        let _ = write!(out, "r{n} {v:x} ");
    }
    for (name, half) in [("xmm", &s.xmm), ("ymm", &s.ymm)] {
        for (n, v) in half.iter().enumerate().filter(|(_, v)| **v != [0; 16]) {
            let _ = write!(out, "{name}{n} {:x} ", u128::from_le_bytes(*v));
        }
    }
    if s.mxcsr != r.mxcsr {
        let _ = write!(out, "mxcsr {:x} ", s.mxcsr);
    }
    if s.x87 != r.x87 {
        let x = &s.x87;
        let _ = write!(out, "fcw {:02x}{:02x} fsw {:02x}{:02x} ftw {:02x} ", x[1], x[0], x[3], x[2], x[4]);
        for n in 0..8 {
            let slot = &x[32 + 16 * n..42 + 16 * n];
            if slot != [0; 10] {
                let _ = write!(out, "st{n} ");
                for byte in slot.iter().rev() {
                    let _ = write!(out, "{byte:02x}");
                }
                out.push(' ');
            }
        }
    }
    if s.memory.iter().any(|b| *b != 0) {
        out.push_str("and memory");
    }
    out
}

/// What [`crate::isa`] wants to know of a run: the host's name, then the codes that were compared.
#[must_use]
pub fn record(report: &Report) -> String {
    let cpuid = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuid.lines().find(|l| l.starts_with(name) && l[name.len()..].trim_start().starts_with(':'));
        line.and_then(|l| l.split(':').nth(1)).unwrap_or("unknown").trim().to_owned()
    };
    let mut out = format!("{}, family {}, model {}\n", field("model name"), field("cpu family"), field("model"));
    let mut width = 0;
    for code in report.by_code.keys() {
        let name = format!("{:?}", Code::try_from(usize::from(*code)).unwrap_or_default());
        if width + name.len() > 118 {
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push(' ');
        }
        width += name.len() + 1;
        out.push_str(&name);
    }
    out.push('\n');
    out
}
