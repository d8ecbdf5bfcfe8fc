//! Reset, save and load of a whole board.

use serde::{Deserialize, Serialize};
use softmetal_bus::device::{decode, encode};
use softmetal_bus::{Attention, StateError, TimerQueue, attention};

use super::wires::Wires;
use super::{Board, State};

/// The format's version.
const VERSION: u8 = 2;

/// What the processor is told once and then remembers by its [`Attention`] alone.
const EVENTS: u32 = attention::NMI | attention::SMI;

/// A board as it is saved.
#[derive(Serialize, Deserialize)]
struct Saved {
    state: State,
    timers: TimerQueue,
    /// What of an NMI and an SMI waits for the processor.
    events: u32,
    /// As [`Ctx::host_paced`](softmetal_bus::Ctx::host_paced).
    host_paced: bool,
    /// Name and state of each chip, in order of number.
    chips: Vec<(String, Vec<u8>)>,
}

impl Board {
    /// Power-on reset of all chips at count `at`, then the firmware's set-up. Virtual time goes on.
    pub fn reset(&mut self, at: u64) {
        self.state.wires = Wires::default();
        self.state.a20 = true;
        self.around.timers = TimerQueue::default();
        for device in self.chips.ids() {
            self.call(at, device, |chip, ctx| chip.reset(ctx));
        }
        self.state.requests.clear();
        self.attention.clear(!0);
        if self.builtin {
            self.post(at);
        } else {
            self.memory_sizes();
            self.place_smbus();
            self.remap();
        }
        self.attention.raise(attention::REMAP);
    }

    /// The board's volatile state: its own and all chips'.
    #[must_use]
    pub fn save(&mut self) -> Vec<u8> {
        let mut chips = Vec::new();
        for device in self.chips.ids() {
            if let Some(chip) = self.chips.get(device) {
                chips.push((chip.name().to_string(), chip.save()));
            }
        }
        let events = self.attention.bits() & EVENTS;
        let (state, timers, host_paced) = (self.state.clone(), self.around.timers.clone(), self.around.host_paced);
        encode(VERSION, &Saved { state, timers, events, host_paced, chips })
    }

    /// Puts saved state back.
    ///
    /// # Errors
    /// [`StateError`] when it is of another board or version; the board must not be run then.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let saved: Saved = decode("board", VERSION, bytes)?;
        let ids: Vec<_> = self.chips.ids().collect();
        if ids.len() != saved.chips.len() {
            let (n, m) = (saved.chips.len(), ids.len());
            return Err(StateError::Corrupt("board", format!("it has {n} chips, this board {m}")));
        }
        for (device, (name, state)) in ids.into_iter().zip(&saved.chips) {
            let Some(chip) = self.chips.get(device) else { continue };
            if chip.name() != name {
                return Err(StateError::Corrupt("board", format!("a {name} where this board has a {}", chip.name())));
            }
            chip.load(state)?;
        }
        self.state = saved.state;
        self.around.timers = saved.timers;
        self.around.host_paced = saved.host_paced;
        self.queue.clear();
        self.around.effects.clear();
        self.output.clear();
        self.remap();
        self.attention.clear(!0);
        self.attention.raise(attention::REMAP);
        self.attention.raise(saved.events & EVENTS);
        self.update_interrupt();
        Ok(())
    }

    /// The word by which the board calls its processor.
    #[must_use]
    pub fn attention(&self) -> &Attention {
        &self.attention
    }
}
