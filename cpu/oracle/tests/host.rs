//! The sample that every run of the suite compares with the host's processor; `SOFTMETAL_ORACLE_COUNT` and
//! `SOFTMETAL_ORACLE_SEED` choose another. For more, run the `oracle` binary.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use softmetal_oracle::guest::Guest;
use softmetal_oracle::host::Host;
use softmetal_oracle::session::{self, Plan};
use softmetal_testroms::skipped;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is a number, not {v:?}")))
}

/// Compares cases from `first` on, with the host.
fn agree(guest: &mut Guest, first: u64, default: u64) {
    let (seed, count) = (number("SOFTMETAL_ORACLE_SEED", 1), number("SOFTMETAL_ORACLE_COUNT", default));
    let plan = Plan { model: Guest::model(), codes: session::codes(&Guest::model(), ""), seed, first, count, reports: 20 };
    assert!(plan.codes.len() > 1000, "only {} codes", plan.codes.len());
    let mut host = Host::new().expect("a process for the host's processor");
    let report = session::run(&plan, &mut host, guest).expect("the host's process starts");
    println!("{} cases: {:?}", report.cases, report.by_extension);
    assert!(report.cases * 10 > count * 9, "only {} of {count} cases could be made", report.cases);
    let missing: Vec<_> = plan.codes.iter().filter(|c| !report.by_code.contains_key(&(**c as u16))).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
    assert_eq!(report.lost, 0, "cases that took their process with them");
    assert!(report.mismatches == 0, "{} mismatches:\n{}", report.mismatches, report.failures.join("\n"));
}

#[test]
fn host_and_interpreter_agree() {
    agree(&mut Guest::new(), 0, 320_000);
}

#[test]
fn host_and_translator_agree() {
    let mut guest = match Guest::translated() {
        Ok(guest) => guest,
        Err(why) => {
            skipped(&why);
            return;
        }
    };
    agree(&mut guest, 1_000_000, 160_000);
    let translated = guest.processor().blocks_translated();
    assert!(translated > 30_000, "only {translated} blocks were translated");
}
