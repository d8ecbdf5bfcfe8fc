//! The device contract of the whole board, under random accesses by a hostile guest: no access panics or hangs, the same
//! sequence gives the same board, and a board that is saved midway and put into another one goes on alike.
//!
//! | module | what it is |
//! |---|---|
//! | `generate` | random accesses, weighted towards what registers and rings are really there |
//! | `rig` | a board with its memory and disks; carries accesses out and digests everything that comes back |

mod generate;
mod rig;

use generate::{Class, Op, generate};
use rig::Rig;

/// Accesses in one case.
const CASE: usize = 110_000;
/// Cases; their seeds are their numbers.
const CASES: u64 = 20;

/// Runs `ops[range]`; a failure names the seed and the access.
fn run(rig: &mut Rig, seed: u64, ops: &[Op], range: std::ops::Range<usize>) {
    struct Name<'a>(u64, usize, &'a Op);
    impl Drop for Name<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}, step {}: {:x?}", self.0, self.1, self.2);
            }
        }
    }
    for n in range {
        let name = Name(seed, n, &ops[n]);
        rig.step(&ops[n]);
        drop(name);
    }
}

#[test]
fn a_million_accesses() {
    let mut hits = [0; Class::ALL.len()];
    let mut seen = rig::Seen::default();
    for seed in 0..CASES {
        let ops = generate(seed, CASE);
        let half = ops.len() / 2;
        let mut one = Rig::new(seed);
        run(&mut one, seed, &ops, 0..half);
        let midway = one.digest();
        run(&mut one, seed, &ops, half..ops.len());

        let mut two = Rig::new(seed);
        run(&mut two, seed, &ops, 0..half);
        assert_eq!(two.digest(), midway, "seed {seed}: the same accesses give another board");
        let mut three = two.move_to_another_board(seed);
        assert_eq!(three.digest(), midway, "seed {seed}: saving and loading changes the board");
        run(&mut three, seed, &ops, half..ops.len());
        assert_eq!(three.digest(), one.digest(), "seed {seed}: a loaded board goes on otherwise");

        for op in &ops {
            if let Some(class) = op.class() {
                hits[class as usize] += 1;
            }
        }
        seen.add(&one.seen);
    }
    let total: u64 = hits.iter().sum();
    assert!(total >= 1_000_000, "only {total} accesses");
    for &class in Class::ALL {
        assert!(hits[class as usize] >= 10_000, "only {} accesses to {class:?}", hits[class as usize]);
    }
    // The accesses also did something.
    seen.check();
}
