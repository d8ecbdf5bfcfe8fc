//! The table of docs/isa.md, made from CPUID's model, the instruction table, what a host has tested, and the golden file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic as M};
use softmetal_cpu::exec::cpuid::Model;
use softmetal_cpu::table;

use crate::accepted;

/// What a host has tested: its name, then codes.
pub const RECORD: &str = include_str!("../hardware.txt");

/// Mnemonics whose results `cpu/tests/golden/open.txt` pins.
const GOLDEN: [M; 38] = [
    M::Fsin,
    M::Fcos,
    M::Fsincos,
    M::Fptan,
    M::Fpatan,
    M::F2xm1,
    M::Fyl2x,
    M::Fyl2xp1,
    M::Rcpps,
    M::Rcpss,
    M::Rsqrtps,
    M::Rsqrtss,
    M::And,
    M::Or,
    M::Xor,
    M::Test,
    M::Imul,
    M::Mul,
    M::Shl,
    M::Shr,
    M::Sar,
    M::Rol,
    M::Ror,
    M::Rcl,
    M::Rcr,
    M::Shld,
    M::Shrd,
    M::Bsf,
    M::Bsr,
    M::Bt,
    M::Btc,
    M::Tzcnt,
    M::Lzcnt,
    M::Bextr,
    M::Bzhi,
    M::Blsr,
    M::Vrcpps,
    M::Vrsqrtps,
];

/// A test of this repository and what it is about, where neither hardware nor the golden file says what is right: a file,
/// a function in it, mnemonics.
type Own = (&'static str, &'static str, &'static [M]);

/// Those tests; that they exist is tested as well.
pub const OWN: [Own; 19] = [
    ("cpu/tests/models.rs", "each_leaf_is_within_the_end_where_its_feature_is_on", &[M::Cpuid]),
    ("cpu/tests/uncompared.rs", "the_time_and_the_number_of_the_processor", &[M::Rdtsc, M::Rdtscp, M::Rdpid, M::Rdpmc]),
    ("cpu/tests/uncompared.rs", "random_numbers", &[M::Rdrand, M::Rdseed]),
    ("cpu/tests/uncompared.rs", "waits_of_programs", &[M::Tpause, M::Umonitor, M::Umwait]),
    ("cpu/tests/uncompared.rs", "serialize_and_direct_stores", &[M::Serialize, M::Movdiri]),
    ("cpu/tests/uncompared.rs", "stores_of_system_registers", &[M::Sgdt, M::Sidt, M::Sldt, M::Str, M::Smsw]),
    ("cpu/tests/uncompared.rs", "far_pointers_of_64_bits", &[M::Call, M::Jmp, M::Lss, M::Lfs, M::Lgs]),
    ("cpu/tests/uncompared.rs", "protection_key_rights", &[M::Rdpkru, M::Wrpkru]),
    ("cpu/tests/uncompared.rs", "as_intels_processors_do", &[M::Movsxd, M::Reservednop]),
    ("cpu/tests/uncompared.rs", "femms_is_amds_emms", &[M::Femms]),
    ("cpu/tests/features.rs", "mwait_waits_until_an_interrupt_or_a_store", &[M::Monitor, M::Mwait]),
    ("cpu/tests/features.rs", "movdir64b_copies_a_line_and_wants_it_aligned", &[M::Movdir64b]),
    ("cpu/tests/smm.rs", "what_is_interrupted_goes_on", &[M::Rsm]),
    ("cpu/tests/system.rs", "syscall_and_sysret", &[M::Syscall, M::Sysretq]),
    ("cpu/tests/models.rs", "syscall_is_amds_in_32_bit_code", &[M::Sysret]),
    ("cpu/tests/models.rs", "sysenter_is_intels_in_long_mode", &[M::Sysenter, M::Sysexit, M::Sysexitq]),
    ("cpu/tests/debug.rs", "int1_and_general_detect", &[M::Int1]),
    (
        "cpu/tests/avx_rules.rs",
        "formats_of_xsave",
        &[M::Xsave, M::Xsave64, M::Xsaveopt, M::Xsaveopt64, M::Xsavec, M::Xsavec64, M::Xrstor, M::Xrstor64],
    ),
    ("cpu/tests/sse_rules.rs", "xcr0", &[M::Xgetbv]),
];

/// The page, and the encodings that no test is named for.
#[derive(Debug)]
pub struct Page {
    /// docs/isa.md.
    pub text: String,
    /// Holes of it.
    pub holes: Vec<Code>,
}

#[derive(Default)]
struct Counts {
    /// `yes`, or the named models that alone have it.
    advertised: String,
    codes: usize,
    implemented: usize,
    hardware: usize,
    golden: usize,
    own: usize,
    reasons: BTreeSet<&'static str>,
    not_compared: usize,
    tests: BTreeSet<&'static Own>,
    elsewhere: Vec<String>,
}

fn extension(code: Code) -> String {
    code.cpuid_features().iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join("+")
}

/// Which models have the extensions of `code`: `yes` if `max` does, else those by name that do; empty if there is none.
fn advertised(code: Code, models: &[(&str, Model)]) -> String {
    let has = |m: &Model| code.cpuid_features().iter().all(|&f| m.supports(f));
    if has(&Model::max()) {
        return "yes".into();
    }
    models.iter().filter(|(_, m)| has(m)).map(|m| m.0).collect::<Vec<_>>().join(", ")
}

/// The page.
///
/// # Panics
/// If [`Model::NAMES`] names what is no model.
#[must_use]
pub fn page() -> Page {
    let models = Model::NAMES.map(|name| (name, Model::by_name(name).expect("it is one of the models")));
    let mut lines = RECORD.lines();
    let host = lines.next().unwrap_or_default();
    let tested: BTreeSet<&str> = lines.flat_map(str::split_whitespace).collect();
    let mut rows = BTreeMap::<String, Counts>::new();
    let mut absent = BTreeMap::<String, usize>::new();
    let mut holes = Vec::new();
    for code in Code::values().filter(|c| c.op_code().is_instruction() && !c.op_code().fwait()) {
        let advertised = advertised(code, &models);
        if advertised.is_empty() {
            *absent.entry(extension(code)).or_default() += 1;
            continue;
        }
        let row = rows.entry(extension(code)).or_default();
        row.advertised = advertised;
        row.codes += 1;
        if table::find(code.mnemonic()).is_none() {
            continue;
        }
        row.implemented += 1;
        let golden = GOLDEN.contains(&code.mnemonic()) || code.op_code().encoding() == EncodingKind::D3NOW;
        row.golden += usize::from(golden);
        let mut plain = Instruction::default();
        plain.set_code(code);
        let on_hardware = tested.contains(format!("{code:?}").as_str());
        if !on_hardware && !golden {
            match OWN.iter().find(|own| own.2.contains(&code.mnemonic())) {
                Some(own) => {
                    row.own += 1;
                    row.tests.insert(own);
                }
                None => holes.push(code),
            }
        }
        if on_hardware {
            row.hardware += 1;
        } else if let Some(reason) = accepted::excluded(&plain) {
            row.not_compared += 1;
            row.reasons.insert(reason);
        } else {
            row.elsewhere.push(format!("{code:?}"));
        }
    }
    let mut out = String::from(
        "# The instruction set\n\n\
        Generated: `cargo run -p softmetal-oracle -- --isa docs/isa.md` rewrites it, and a test fails where it is stale.\n\n\
        One row an extension, as iced-x86 names them; the unit is an encoding (iced's `Code`). *Advertised*: by the model `max` (yes), or\n\
        by the named models alone. *Implemented*: it has a row in the instruction table (`cpu/tests/audit.rs` proves it for every form).\n\
        *Hardware*: compared, state by state, with a processor by the oracle (`cpu/oracle`). *Golden*: results that manufacturers leave\n\
        open, or that no processor of today gives, pinned by `cpu/tests/golden`. *Own test*: neither of these, so it has one of its own.\n\
        *Not compared*: why is below the table, with those tests.\n\n",
    );
    let _ = writeln!(out, "The hardware: {host}.\n");
    out += "| extension | advertised | encodings | implemented | hardware | golden | own test | not compared | not on that hardware |\n|---|---|---|---|---|---|---|---|---|\n";
    let mut total = [0; 7];
    for (name, c) in &rows {
        let columns = [c.codes, c.implemented, c.hardware, c.golden, c.own, c.not_compared, c.elsewhere.len()];
        let cells = columns.map(|n| n.to_string()).join(" | ");
        let _ = writeln!(out, "| {name} | {} | {cells} |", c.advertised);
        for (sum, n) in total.iter_mut().zip(columns) {
            *sum += n;
        }
    }
    let _ = writeln!(out, "| all | | {} |\n", total.map(|n| n.to_string()).join(" | "));
    out += "## Not compared, and why\n\n";
    for (name, c) in rows.iter().filter(|(_, c)| !c.reasons.is_empty()) {
        let _ = writeln!(out, "- {name}: {}", c.reasons.iter().copied().collect::<Vec<_>>().join("; "));
    }
    out += "\n## Own tests\n\n";
    for (name, c) in rows.iter().filter(|(_, c)| !c.tests.is_empty()) {
        let tests = c.tests.iter().map(|(file, function, _)| format!("`{function}` in {file}"));
        let _ = writeln!(out, "- {name}: {}", tests.collect::<Vec<_>>().join("; "));
    }
    out += "\n## Implemented, but not on that hardware or not for programs\n\n";
    for (name, c) in rows.iter().filter(|(_, c)| !c.elsewhere.is_empty()) {
        let _ = writeln!(out, "- {name}: {}", c.elsewhere.join(" "));
    }
    out += "\n## Advertised encodings without a row\n\nThose of the 8087, 80287 and 80387SL alone.\n\n";
    out += "## Not advertised\n\nTheir encodings raise #UD, or are the NOPs that their opcodes are reserved as.\n\n";
    out += &absent.iter().map(|(name, n)| format!("{name} ({n})")).collect::<Vec<_>>().join(", ");
    out.push('\n');
    Page { text: out, holes }
}
