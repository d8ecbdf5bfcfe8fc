//! Signals that end the run in good order.

use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::host::terminal;

/// How long the run has to flush its disks after a signal before the process ends regardless.
const GRACE: Duration = Duration::from_secs(5);

/// Catches SIGINT, SIGTERM and SIGHUP: their numbers arrive on the channel. If the run has not ended five seconds after
/// one (it may be blocked on a pipe that nobody reads), or at a second one, the process ends with 128 + the number.
///
/// # Errors
/// When the host refuses to install handlers.
pub fn catch() -> std::io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let (tx, rx) = bounded(4);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut seen = false;
        for signal in signals.forever() {
            let code = 128 + signal;
            if seen || tx.send(signal).is_err() {
                terminal::restore();
                std::process::exit(code);
            }
            seen = true;
            std::thread::spawn(move || {
                std::thread::sleep(GRACE);
                terminal::restore();
                std::process::exit(code);
            });
        }
    })?;
    Ok(rx)
}
