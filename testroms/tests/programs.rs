//! Each guest program against its log, which is what the manuals say. `SOFTMETAL_BLESS=1 cargo test -p softmetal-testroms`
//! writes the logs anew; `peers.rs` compares them with other emulators.

use softmetal_bus::Request;
use softmetal_cpu::exec::cpuid::Model;
use softmetal_machine::board::Plugs;
use softmetal_machine::machine::{Config, Images, Machine, Turn};
use softmetal_testroms::programs::{programs, runs};

fn log_of(name: &str, image: Vec<u8>, model: Option<&str>) -> String {
    let images = Images { kernel: image.into(), ..Images::default() };
    let model = model.map_or_else(Model::default, |m| Model::by_name(m).expect("a model"));
    let plugs = Plugs { smm: true, ..Plugs::default() };
    let mut machine = Machine::new(Config { memory: 64 << 20, model, plugs, images }).unwrap();
    let mut log = String::new();
    let mut resets = 0;
    loop {
        let turn = machine.run_until(machine.icount() + 50_000_000);
        for (_, bytes) in machine.take_output() {
            log.push_str(&String::from_utf8_lossy(&bytes));
        }
        match turn {
            Turn::Request(Request::PowerOff) => return log.replace('\r', ""),
            Turn::Request(Request::Reset) | Turn::Shutdown if resets < 10 => {
                resets += 1;
                machine.reset();
            }
            other => panic!("{name} ended with {other:?} after:\n{log}"),
        }
    }
}

fn expected(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/{name}.log", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn every_program_prints_what_the_manuals_say() {
    let all = runs();
    assert_eq!(all.len(), 10);
    for run in all {
        let log = log_of(&run.name, run.image, run.model);
        if std::env::var_os("SOFTMETAL_BLESS").is_some() {
            std::fs::write(format!("{}/tests/{}.log", env!("CARGO_MANIFEST_DIR"), run.name), &log).unwrap();
        }
        assert_eq!(log, expected(&run.name), "{}", run.name);
    }
}

/// Segments, gates, tasks, virtual-8086 mode, paging and the x87 are as old as the 486: it prints the same, but where
/// CR4.DE is needed.
#[test]
fn a_486_is_as_good() {
    const LATER: &str = "DR4 with CR4.DE";
    let image = programs().into_iter().find(|p| p.0 == "protected").unwrap().1;
    let log = log_of("protected", image, Some("486"));
    let expected = expected("protected");
    assert_eq!(log.lines().count(), expected.lines().count());
    for (got, expected) in log.lines().zip(expected.lines()) {
        if expected.starts_with(LATER) {
            assert!(got.contains("vector 0d error 00000000"), "{got}");
        } else {
            assert_eq!(got, expected);
        }
    }
}
