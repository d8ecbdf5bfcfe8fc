//! A bell that threads ring when they have finished work that a guest waits for, so that an idle session looks at once.
//!
//! Nothing depends on it: who waits looks from time to time anyway.

use std::sync::OnceLock;

use crossbeam_channel::{Receiver, Sender, bounded};

/// The process's bell: one ring that nobody has heard is kept.
fn bell() -> &'static (Sender<()>, Receiver<()>) {
    static BELL: OnceLock<(Sender<()>, Receiver<()>)> = OnceLock::new();
    BELL.get_or_init(|| bounded(1))
}

/// Rings it.
pub fn ring() {
    let _ = bell().0.try_send(());
}

/// What receives a ring.
pub fn heard() -> &'static Receiver<()> {
    &bell().1
}
