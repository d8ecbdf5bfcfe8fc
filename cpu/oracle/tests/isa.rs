//! docs/isa.md is what its sources give, and has no hole; docs/system.md names tests that exist.

use std::fs;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[test]
fn page_is_fresh() {
    let page = softmetal_oracle::isa::page();
    let there = fs::read_to_string(format!("{ROOT}/docs/isa.md")).expect("docs/isa.md is there");
    assert!(page.text == there, "docs/isa.md is stale: cargo run -p softmetal-oracle -- --isa docs/isa.md");
}

#[test]
fn every_encoding_has_a_test() {
    assert_eq!(softmetal_oracle::isa::page().holes, []);
    for (file, function, _) in softmetal_oracle::isa::OWN {
        let source = fs::read_to_string(format!("{ROOT}/{file}")).expect(file);
        assert!(source.contains(&format!("#[test]\nfn {function}() {{")), "there is no test {function} in {file}");
    }
}

/// The tests that docs/system.md names are there: files and, after each, functions.
#[test]
fn every_rule_has_its_tests() {
    let page = fs::read_to_string(format!("{ROOT}/docs/system.md")).expect("docs/system.md is there");
    let mut found = 0;
    for row in page.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| rule")) {
        let (rule, tests) = row[2..].split_once(" | ").expect("two columns");
        for part in tests.split("; ") {
            // What is in brackets is no test.
            let mut names = part.split('(').next().unwrap_or_default().split('`').skip(1).step_by(2);
            let file = names.next().expect(rule);
            let source = fs::read_to_string(format!("{ROOT}/{file}")).expect(file);
            for name in names {
                assert!(source.contains(&format!("fn {name}() {{")), "{rule}: there is no test {name} in {file}");
                found += 1;
            }
        }
    }
    assert!(found > 60, "only {found}");
}
