//! The virtio entropy device (virtio 1.2, 5.4), fed by a generator of its own so that a run repeats.

use serde::{Deserialize, Serialize};
use softmetal_bus::Ctx;

use super::queue::{Broken, Chain, Queue};
use super::{VirtioDevice, plain_state};

/// Most bytes given to one request; the driver asks again for more.
const PIECE: usize = 4096;

/// A source of pseudo-random bytes, the same for the same seed.
#[derive(Debug)]
pub struct VirtioRng {
    seed: u64,
    chain: Chain,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    counter: u64,
}

impl VirtioRng {
    /// The source that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, chain: Chain::default(), state: State { counter: seed } }
    }

    /// The next 64 bits.
    fn next(&mut self) -> u64 {
        softmetal_bus::splitmix64(&mut self.state.counter)
    }
}

impl VirtioDevice for VirtioRng {
    type State = State;
    const NAME: &'static str = "virtio-rng";
    const TYPE: u16 = 4;
    const CLASS: u32 = 0xff_0000;
    const QUEUES: &'static [u16] = &[64];

    fn features(&self) -> u64 {
        0
    }
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }
    fn process(&mut self, ctx: &mut Ctx, index: usize, queues: &mut [Queue]) -> Result<(), Broken> {
        let queue = &mut queues[index];
        while queue.pop(ctx, &mut self.chain)? {
            let mut piece = [0; PIECE];
            let n = self.chain.writable.left().min(PIECE as u64) as usize;
            for bytes in piece[..n].chunks_mut(8) {
                bytes.copy_from_slice(&self.next().to_le_bytes()[..bytes.len()]);
            }
            let written = self.chain.writable.write(ctx, &piece[..n]).unwrap_or(0);
            queue.push(ctx, &self.chain, written as u32)?;
        }
        Ok(())
    }
    fn reset(&mut self, power: bool) {
        if power {
            self.state.counter = self.seed;
        }
    }
    plain_state!();
}

#[cfg(test)]
mod tests {
    use softmetal_bus::Device;

    use super::*;
    use crate::virtio::VirtioPci;
    use crate::virtio::testing::{Driver, WRITE};

    #[test]
    fn repeats_and_resumes() {
        let draw = |d: &mut Driver<VirtioRng>| {
            d.chain(0, &[(0x8000, 13, WRITE)]);
            d.notify(0);
            assert_eq!(d.used(0).pop().map(|u| u.1), Some(13));
            d.get(0x8000, 13)
        };
        let fresh = |seed| Driver::new(VirtioPci::new(VirtioRng::new(seed)), 0);
        let (mut a, mut b, mut c) = (fresh(1), fresh(1), fresh(2));
        let first = draw(&mut a);
        assert_eq!(first, draw(&mut b));
        assert_ne!(first, draw(&mut c));
        let saved = a.device.save();
        let second = draw(&mut a);
        assert_ne!(first, second);
        // Loaded state continues the sequence (the ring's indices in memory are the later ones).
        a.device.load(&saved).unwrap();
        a.notify(0);
        assert_eq!(a.get(0x8000, 13), second);
    }
}
