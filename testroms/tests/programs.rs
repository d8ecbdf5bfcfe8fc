//! Each guest program against its log, which is what the manuals say. `SOFTMETAL_BLESS=1 cargo test -p softmetal-testroms`
//! writes the logs anew; `peers.rs` compares them with other emulators.

use softmetal_bus::Request;
use softmetal_machine::board::Plugs;
use softmetal_machine::machine::{Config, Images, Machine, Turn};
use softmetal_testroms::programs::programs;

fn log_of(name: &str, image: Vec<u8>) -> String {
    let images = Images { kernel: image, ..Images::default() };
    let mut machine = Machine::new(Config { memory: 64 << 20, model: Default::default(), plugs: Plugs::default(), images }).unwrap();
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

#[test]
fn every_program_prints_what_the_manuals_say() {
    let all = programs();
    assert_eq!(all.len(), 5);
    for (name, image) in all {
        let path = format!("{}/tests/{name}.log", env!("CARGO_MANIFEST_DIR"));
        let log = log_of(name, image);
        if std::env::var_os("SOFTMETAL_BLESS").is_some() {
            std::fs::write(&path, &log).unwrap();
        }
        assert_eq!(log, std::fs::read_to_string(&path).unwrap(), "{name}");
    }
}
