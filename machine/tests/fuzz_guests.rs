//! Guests of random code: none panics or hangs the host, and how a run is sliced changes nothing in it, nor does the engine.
//!
//! `SOFTMETAL_FUZZ_GUESTS=5000 cargo test -p softmetal-machine --test fuzz_guests lockstep` runs both engines side by side
//! over so many guests, more than 50 million instructions.

use iced_x86::code_asm::*;
use softmetal_bus::Request;
use softmetal_machine::board::Plugs;
use softmetal_machine::machine::{Config, Engine, Images, Machine, Turn};
use softmetal_testroms::demo;
use softmetal_testroms::image::{Image, jump_far, power_off};

/// The translator, where there is one.
const TRANSLATOR: Engine = if cfg!(all(target_arch = "x86_64", target_os = "linux")) { Engine::Translator } else { Engine::Interpreter };

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        softmetal_bus::splitmix64(&mut self.0)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn machine(image: &[u8], engine: Engine) -> Machine {
    let images = Images { kernel: image.to_vec().into(), ..Images::default() };
    let mut machine = Machine::new(Config { memory: 16 << 20, model: Default::default(), plugs: Plugs::default(), images }).unwrap();
    machine.set_engine(engine).unwrap();
    machine
}

/// How a guest got on.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    turn: Turn,
    icount: u64,
    hash: String,
    output: Vec<u8>,
}

/// Runs to `limit` instructions in slices of about `slice`, with at most three resets. A guest may wait for ever while a
/// masked timer ticks; a thousand ticks are enough.
fn run(image: &[u8], limit: u64, slice: u64, engine: Engine) -> Outcome {
    let mut machine = machine(image, engine);
    machine.use_thread(slice < limit);
    let (mut resets, mut waits, mut output) = (0, 0, Vec::new());
    let turn = loop {
        let until = (machine.icount() + slice).min(limit);
        let turn = machine.turn(until);
        output.extend(machine.take_output().into_iter().flat_map(|(_, bytes)| bytes));
        match turn {
            Turn::Limit if machine.icount() < limit => {}
            Turn::Request(Request::Reset) | Turn::Shutdown if resets < 3 => {
                resets += 1;
                machine.reset();
            }
            Turn::Idle(Some(time)) if waits < 1000 => {
                waits += 1;
                machine.jump(time);
            }
            Turn::Ran | Turn::Request(Request::A20(_) | Request::Remap) => {}
            turn => break turn,
        }
    };
    Outcome { turn, icount: machine.icount(), hash: machine.state_hash(), output }
}

fn same_however_sliced(what: &str, seed: u64, image: &[u8], limit: u64) -> Outcome {
    let whole = run(image, limit, limit, Engine::Interpreter);
    for (slice, engine) in [(limit / 7 + 1, Engine::Interpreter), (997, Engine::Interpreter), (limit, TRANSLATOR), (1009, TRANSLATOR)] {
        let sliced = run(image, limit, slice, engine);
        assert_eq!(sliced, whole, "{what}, seed {seed}, slices of {slice}, {engine:?}");
    }
    whole
}

#[test]
fn boot_sectors_of_random_bytes() {
    let mut instructions = 0;
    for seed in 0..250 {
        let mut random = Random(seed);
        let mut image: Vec<u8> = (0..510).map(|_| random.next() as u8).collect();
        image.extend([0x55, 0xaa]);
        instructions += same_however_sliced("random bytes", seed, &image, 50_000).icount;
    }
    assert!(instructions > 100_000, "{instructions}");
}

/// The demonstration guest goes through all modes, with paging and interrupts; a few of its bytes are changed.
#[test]
fn plausible_code_in_every_mode() {
    let original = demo();
    let (mut changed, mut crashed) = (0, 0);
    let right = run(&original, 400_000, 400_000, Engine::Interpreter);
    for seed in 0..250 {
        let mut random = Random(seed);
        let mut image = original.clone();
        for _ in 0..=random.below(12) {
            let at = random.below(image.len());
            image[at] = match random.below(3) {
                0 => random.next() as u8,
                1 => image[at] ^ 1 << random.below(8),
                _ => image[at].wrapping_add(1),
            };
        }
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        let outcome = same_however_sliced("changed bytes", seed, &image, 400_000);
        changed += u32::from(outcome != right);
        crashed += u32::from(outcome.turn == Turn::Shutdown);
    }
    assert!(changed > 50 && crashed > 2, "{changed} of them ran differently, {crashed} crashed");
}

/// The demonstration guest, changed as above, under both engines, whose states are compared all the time. Loops are put into
/// it, so that blocks become hot enough to be translated.
#[test]
fn lockstep_in_every_mode() {
    let original = demo();
    let seeds = std::env::var("SOFTMETAL_FUZZ_GUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let (mut instructions, mut translated) = (0, 0);
    for seed in 0..seeds {
        let mut random = Random(seed ^ 0x1005);
        let mut image = original.clone();
        for _ in 0..random.below(16) {
            let at = random.below(image.len());
            match random.below(4) {
                // A short jump back.
                0 if at + 1 < image.len() => (image[at], image[at + 1]) = (0x70 | random.below(16) as u8, 0x80 | random.next() as u8),
                1 => image[at] = random.next() as u8,
                2 => image[at] ^= 1 << random.below(8),
                _ => image[at] = image[at].wrapping_add(1),
            }
        }
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        let mut main = machine(&image, TRANSLATOR);
        main.in_lockstep_with(machine(&image, Engine::Interpreter));
        let limit = 100_000;
        let mut waits = 0;
        loop {
            match main.turn(limit) {
                Turn::Ran | Turn::Request(Request::A20(_) | Request::Remap) => {}
                Turn::Idle(Some(time)) if waits < 1000 => {
                    waits += 1;
                    main.jump(time);
                }
                Turn::Diverged => panic!("seed {seed}: {}", main.divergence().unwrap_or_default()),
                _ => break,
            }
        }
        instructions += main.icount();
        translated += main.processor().blocks_translated();
    }
    assert!(instructions > seeds * 10_000 && translated > seeds, "{instructions} instructions, {translated} blocks translated");
}

/// An instruction that reaches past the limit of CS is refused wherever its block begins.
#[test]
fn the_limit_of_the_code_segment_holds_within_a_block() {
    let mut image = Image::default();
    let handler = image.code(16, |a| {
        let mut wrong = a.create_label();
        a.pop(ax)?;
        a.cmp(ax, 0xfffe)?;
        a.jne(wrong)?;
        power_off(a)?;
        a.set_label(&mut wrong)?;
        a.hlt()
    });
    let image = image.start(|a| {
        a.cli()?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x7000)?;
        a.mov(word_ptr(13 * 4), handler as i32)?;
        a.mov(word_ptr(13 * 4 + 2), ax)?;
        // Six NOPs, then MOV AX, imm16 whose last byte would be at offset 0x10000.
        a.mov(ax, 0x1000)?;
        a.mov(es, ax)?;
        for (offset, bytes) in [(0xfff8, 0x9090), (0xfffa, 0x9090), (0xfffc, 0x9090), (0xfffe, 0x34b8)] {
            a.mov(word_ptr(offset).es(), bytes)?;
        }
        jump_far(a, 0x1000, 0xfff8)
    });
    for slice in 1..40 {
        assert_eq!(run(&image, 1000, slice, TRANSLATOR).turn, Turn::Request(Request::PowerOff), "slices of {slice}");
    }
}
