//! The virtio console (virtio 1.2, 5.3) with one port.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Channel, Ctx, Input};

use super::queue::{Broken, Chain, Queue};
use super::{VirtioDevice, plain_state};

const RX: usize = 0;
const TX: usize = 1;
/// Input bytes that wait for the driver's buffers at most.
const INPUT: usize = 4096;
/// Bytes of output handed on at a time.
const PIECE: usize = 4096;
/// Bytes of output in one notification at most; drivers stay far below, what is more is dropped.
const MAX_OUTPUT: usize = 16 << 20;

const F_EMERG_WRITE: u64 = 1 << 2;
/// Offset of the emergency write register in the configuration.
const EMERG_WRITE: u64 = 8;

/// A console: output on [`Channel::Serial`], input from [`Input::Bytes`].
#[derive(Debug, Default)]
pub struct VirtioConsole {
    chain: Chain,
    state: State,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    input: VecDeque<u8>,
}

impl VirtioConsole {
    /// A console without input.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn transmit(&mut self, ctx: &mut Ctx, queue: &mut Queue) -> Result<(), Broken> {
        let mut room = MAX_OUTPUT;
        let mut piece = [0; PIECE];
        while queue.pop(ctx, &mut self.chain)? {
            while self.chain.readable.left() > 0 {
                let n = room.min(PIECE);
                match self.chain.readable.read(ctx, &mut piece[..n]) {
                    Ok(n) if n > 0 => {
                        ctx.output(Channel::Serial, &piece[..n]);
                        room -= n;
                    }
                    Ok(_) => {
                        log::warn!("virtio-console: too much output at once, the rest is dropped");
                        break;
                    }
                    Err(fault) => {
                        log::warn!("virtio-console: {fault}");
                        break;
                    }
                }
            }
            queue.push(ctx, &self.chain, 0)?;
        }
        Ok(())
    }

    fn receive(&mut self, ctx: &mut Ctx, queue: &mut Queue) -> Result<(), Broken> {
        while !self.state.input.is_empty() {
            let Some(written) = queue.give(ctx, &mut self.chain, self.state.input.make_contiguous())? else { break };
            self.state.input.drain(..written);
        }
        Ok(())
    }
}

impl VirtioDevice for VirtioConsole {
    type State = State;
    const NAME: &'static str = "virtio-console";
    const TYPE: u16 = 3;
    const CLASS: u32 = 0x07_8000;
    const QUEUES: &'static [u16] = &[64, 64];

    fn features(&self) -> u64 {
        F_EMERG_WRITE
    }
    fn config(&self) -> Vec<u8> {
        vec![0; 12]
    }
    fn config_write(&mut self, ctx: &mut Ctx, offset: u64, bytes: &[u8]) {
        if offset == EMERG_WRITE {
            ctx.output(Channel::Serial, &bytes[..1]);
        }
    }
    fn process(&mut self, ctx: &mut Ctx, index: usize, queues: &mut [Queue]) -> Result<(), Broken> {
        match index {
            RX => self.receive(ctx, &mut queues[RX]),
            TX => self.transmit(ctx, &mut queues[TX]),
            _ => Ok(()),
        }
    }
    fn input(&mut self, input: &Input) -> Option<usize> {
        let Input::Bytes(bytes) = input else {
            return None;
        };
        let room = self.input_room();
        if bytes.len() > room {
            log::warn!("virtio-console: {} bytes of input lost", bytes.len() - room);
        }
        self.state.input.extend(bytes.iter().take(room));
        Some(RX)
    }
    fn input_room(&self) -> usize {
        INPUT.saturating_sub(self.state.input.len())
    }
    fn reset(&mut self, power: bool) {
        // Input typed before the driver came stays for it.
        if power {
            self.state = State::default();
        }
    }
    plain_state!();
}

#[cfg(test)]
mod tests {
    use softmetal_bus::{Device, Effect};

    use super::*;
    use crate::virtio::VirtioPci;
    use crate::virtio::testing::{Driver, READ, WRITE};

    #[test]
    fn talks() {
        let mut d = Driver::new(VirtioPci::new(VirtioConsole::new()), 0);
        d.put(0x8000, b"hello ");
        d.put(0x9000, b"world");
        d.chain(TX, &[(0x8000, 6, READ), (0x9000, 5, READ)]);
        d.rig.take();
        d.notify(TX);
        let Effect::Output(Channel::Serial, text) = d.rig.take().remove(0) else {
            panic!("no output");
        };
        assert_eq!(text, b"hello world");
        assert_eq!(d.used(TX), [(0, 0)]);

        d.chain(RX, &[(0xa000, 4, WRITE)]);
        d.notify(RX);
        assert_eq!(d.used(RX), []);
        let bytes = Input::Bytes(b"abcdef".to_vec());
        d.device.input(&mut d.rig.ctx(), &bytes);
        assert_eq!(d.used(RX), [(0, 4)]);
        assert_eq!(d.get(0xa000, 4), b"abcd");
        assert_eq!(d.device.input_room(), INPUT - 2);
        d.chain(RX, &[(0xa000, 4, WRITE)]);
        d.notify(RX);
        assert_eq!(d.used(RX), [(1, 2)]);
        assert_eq!(d.get(0xa000, 2), b"ef");
        // A flood is bounded, and output from nowhere is none.
        d.device.input(&mut d.rig.ctx(), &Input::Bytes(vec![0; 10_000]));
        assert_eq!(d.device.input_room(), 0);
        d.rig.take();
        d.chain(TX, &[(1 << 40, !0, READ)]);
        d.notify(TX);
        assert!(!d.rig.take().iter().any(|e| matches!(e, Effect::Output(..))));
    }
}
