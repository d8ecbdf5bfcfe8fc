//! What may happen outside while the guest waits.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, never, select};

use super::bell;

/// Something that happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes came from the serial port's other end.
    Typed(Vec<u8>),
    /// A signal asks the process to end.
    Signal(i32),
}

/// The sources of events.
pub struct Events {
    typed: Receiver<Vec<u8>>,
    signals: Receiver<i32>,
    open: bool,
}

impl Events {
    /// Listens to a serial port and to signals.
    #[must_use]
    pub fn new(typed: Receiver<Vec<u8>>, signals: Receiver<i32>) -> Self {
        Self { typed, signals, open: true }
    }

    /// Whether bytes may still come.
    #[must_use]
    pub fn open(&self) -> bool {
        self.open
    }

    /// The next event, if one has happened. With `typing` false, bytes are left where they are.
    pub fn poll(&mut self, typing: bool) -> Option<Event> {
        if let Ok(signal) = self.signals.try_recv() {
            return Some(Event::Signal(signal));
        }
        if !(typing && self.open) {
            return None;
        }
        match self.typed.try_recv() {
            Ok(bytes) => Some(Event::Typed(bytes)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.open = false;
                None
            }
        }
    }

    /// Waits for an event, no longer than `limit`; `None` when time is up, the last source of bytes has ended, or work on the
    /// host has.
    pub fn wait(&mut self, typing: bool, limit: Option<Duration>) -> Option<Event> {
        let silent = never();
        let typed = if typing && self.open { &self.typed } else { &silent };
        let end = limit.map_or_else(never, crossbeam_channel::after);
        select! {
            recv(self.signals) -> signal => match signal {
                Ok(signal) => Some(Event::Signal(signal)),
                // The signal thread has gone: wait without it.
                Err(_) => {
                    self.signals = never();
                    None
                }
            },
            recv(typed) -> bytes => match bytes {
                Ok(bytes) => Some(Event::Typed(bytes)),
                Err(_) => {
                    self.open = false;
                    None
                }
            },
            recv(bell::heard()) -> _ => None,
            recv(end) -> _ => None,
        }
    }

    /// A line that the user types, for the monitor; `None` at the end of input or at a signal.
    pub fn line(&mut self, pending: &mut Vec<u8>) -> Result<Option<String>, i32> {
        loop {
            if let Some(end) = pending.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim().to_string()));
            }
            if let Ok(signal) = self.signals.try_recv() {
                return Err(signal);
            }
            match self.typed.recv_timeout(Duration::from_millis(50)) {
                Ok(bytes) => pending.extend(bytes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.open = false;
                    return Ok(None);
                }
            }
        }
    }
}
