//! Flushes that go on beside the guest.

use serde::{Deserialize, Serialize};
use softmetal_bus::Ctx;

/// Most requests at a time: no driver has more.
const MOST: usize = 1024;
/// The timer of a flush.
const TIMER: u32 = 0;

/// Flush requests that have not ended. Those for which disks are being flushed now end together; those that came since need
/// one more flush.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flushes<T> {
    running: Vec<T>,
    waiting: Vec<T>,
}

impl<T> Default for Flushes<T> {
    fn default() -> Self {
        Self { running: Vec::new(), waiting: Vec::new() }
    }
}

impl<T> Flushes<T> {
    /// Whether one more request can be held.
    pub fn has_room(&self) -> bool {
        self.running.len() + self.waiting.len() < MOST
    }

    /// The requests for which disks are being flushed now.
    pub fn running(&self) -> &[T] {
        &self.running
    }

    /// Holds `request`. Unless disks are being flushed already, that begins: `start` is called for each request.
    pub fn hold(&mut self, ctx: &mut Ctx, request: T, start: impl FnMut(&T)) {
        self.waiting.push(request);
        if self.running.is_empty() {
            self.begin(ctx, start);
        }
    }

    fn begin(&mut self, ctx: &mut Ctx, start: impl FnMut(&T)) {
        self.running = std::mem::take(&mut self.waiting);
        self.running.iter().for_each(start);
        ctx.arm_host(TIMER);
    }

    /// The requests that end now. If others wait, their flush is to begin, by [`Flushes::next`].
    pub fn end(&mut self) -> Vec<T> {
        std::mem::take(&mut self.running)
    }

    /// Begins the flush of the requests that wait, if there are any.
    pub fn next(&mut self, ctx: &mut Ctx, start: impl FnMut(&T)) {
        if !self.waiting.is_empty() {
            self.begin(ctx, start);
        }
    }
}
