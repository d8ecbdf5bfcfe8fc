//! The table of docs/isa.md, made from CPUID's model, the instruction table, what a host has tested, and the golden file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use iced_x86::{Code, Instruction, Mnemonic as M};
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

#[derive(Default)]
struct Counts {
    /// `yes`, or the named models that alone have it.
    advertised: String,
    codes: usize,
    implemented: usize,
    hardware: usize,
    golden: usize,
    reasons: BTreeSet<&'static str>,
    not_compared: usize,
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
pub fn page() -> String {
    let models = Model::NAMES.map(|name| (name, Model::by_name(name).expect("it is one of the models")));
    let mut lines = RECORD.lines();
    let host = lines.next().unwrap_or_default();
    let tested: BTreeSet<&str> = lines.flat_map(str::split_whitespace).collect();
    let mut rows = BTreeMap::<String, Counts>::new();
    let mut absent = BTreeMap::<String, usize>::new();
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
        row.golden += usize::from(GOLDEN.contains(&code.mnemonic()));
        let mut plain = Instruction::default();
        plain.set_code(code);
        if tested.contains(format!("{code:?}").as_str()) {
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
        open, pinned by `cpu/tests/golden`. *Not compared*: why is below the table; those have tests of their own.\n\n",
    );
    let _ = writeln!(out, "The hardware: {host}.\n");
    out += "| extension | advertised | encodings | implemented | hardware | golden | not compared | not on that hardware |\n|---|---|---|---|---|---|---|---|\n";
    let mut total = [0; 6];
    for (name, c) in &rows {
        let columns = [c.codes, c.implemented, c.hardware, c.golden, c.not_compared, c.elsewhere.len()];
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
    out += "\n## Implemented, but not on that hardware or not for programs\n\n";
    for (name, c) in rows.iter().filter(|(_, c)| !c.elsewhere.is_empty()) {
        let _ = writeln!(out, "- {name}: {}", c.elsewhere.join(" "));
    }
    out += "\n## Advertised encodings without a row\n\nThose of the 8087, 80287 and 80387SL alone.\n\n";
    out += "## Not advertised\n\nTheir encodings raise #UD, or are the NOPs that their opcodes are reserved as.\n\n";
    out += &absent.iter().map(|(name, n)| format!("{name} ({n})")).collect::<Vec<_>>().join(", ");
    out.push('\n');
    out
}
