//! INT 09h and INT 16h.

use softmetal_machine::screen::strokes;

use super::*;

/// Reads `count` keys and stores them from RESULT on.
fn read_keys(count: i32, function: i32) -> Vec<u8> {
    sector(|a| {
        let mut next = a.create_label();
        a.mov(di, RESULT as i32)?;
        a.mov(cx, count)?;
        a.set_label(&mut next)?;
        a.mov(ax, function)?;
        a.int(0x16)?;
        a.stosw()?;
        a.loop_(next)
    })
}

/// Presses keys one after the other while the guest waits for them.
fn type_keys(machine: &mut Machine, keys: &[&[u8]]) {
    for codes in keys {
        // Long enough for the controller to hand them over.
        pass(machine, 10_000_000);
        assert!(machine.press(codes));
    }
    finish(machine);
}

fn keys_of(function: i32, keys: &[&[u8]], count: usize) -> Vec<u16> {
    let mut machine = machine(Plugs { disks: vec![disk(read_keys(count as i32, function))], ..plugs() });
    type_keys(&mut machine, keys);
    (0..count).map(|n| word(&mut machine, RESULT + 2 * n as u64)).collect()
}

#[test]
fn a_program_waits_for_keys() {
    let a_upper: &[u8] = &[0x2a, 0x1e, 0x9e, 0xaa];
    let keys: [&[u8]; 5] = [&[0x1e, 0x9e], a_upper, &[0x1d, 0x2e, 0xae, 0x9d], &[0xe0, 0x48, 0xe0, 0xc8], &[0x3b, 0xbb]];
    assert_eq!(keys_of(0x0000, &keys, 5), [0x1e61, 0x1e41, 0x2e03, 0x4800, 0x3b00]);
    assert_eq!(keys_of(0x1000, &keys, 5), [0x1e61, 0x1e41, 0x2e03, 0x48e0, 0x3b00]);
}

#[test]
fn what_is_typed_arrives() {
    let typed = "Hi, ~World_0!\n";
    let strokes = strokes(typed).unwrap();
    let codes: Vec<&[u8]> = strokes.iter().map(Vec::as_slice).collect();
    let got: String = keys_of(0x0000, &codes, typed.len()).into_iter().map(|key| char::from(key as u8)).collect();
    assert_eq!(got, typed.replace('\n', "\r"));
}

#[test]
fn waiting_costs_no_instructions() {
    let mut machine = machine(Plugs { disks: vec![disk(read_keys(1, 0))], ..plugs() });
    assert_eq!(machine.run_until(1_000), Turn::Limit);
    let ticks = pass(&mut machine, 1_000_000_000);
    assert!(ticks <= 25 && machine.icount() < 5_000, "{ticks} waits, {} instructions", machine.icount());
}
