//! Reading ahead of a guest: what is not in the host's page cache is brought there by a thread before the guest's read is made.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::host::bell;

/// Bytes that the thread reads at a time.
const PIECE: usize = 256 << 10;
/// How far from each other the bytes are that are looked for in the page cache. The host's own reading ahead brings whole
/// windows of this size or more.
const STRIDE: usize = 64 << 10;

/// How the thread has read a range of the file.
type Answer = (Range<u64>, io::Result<()>);

/// A thread that reads a file, and what it has been asked.
pub struct Reader {
    file: File,
    /// `None` once it is to end.
    ask: Option<Sender<Range<u64>>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
    /// Ranges that it has not answered.
    open: usize,
    /// What it could not read.
    failed: Vec<(Range<u64>, io::Error)>,
}

impl Reader {
    /// Starts a thread for `file`.
    ///
    /// # Errors
    /// The host's.
    pub fn start(file: File) -> io::Result<Self> {
        let (ask, asked) = channel::<Range<u64>>();
        let (answer, answers) = channel();
        let own = file.try_clone()?;
        let work = move || {
            for range in asked {
                let result = bring(&own, &range);
                if answer.send((range, result)).is_err() {
                    break;
                }
                bell::ring();
            }
        };
        let thread = std::thread::Builder::new().name("disk read".into()).spawn(work)?;
        Ok(Self { file, ask: Some(ask), answers, thread: Some(thread), open: 0, failed: Vec::new() })
    }

    /// Has `len` bytes from `offset` on brought into the page cache, unless they seem to be there.
    pub fn begin(&mut self, offset: u64, len: u64) {
        if !self.goes_on() {
            // Nobody has asked for these.
            self.failed.clear();
        }
        let range = offset..offset.saturating_add(len);
        if is_cold(&self.file, &range) {
            self.ask(range);
        }
    }

    /// Has `range` read.
    pub(super) fn ask(&mut self, range: Range<u64>) {
        self.open += usize::from(self.ask.as_ref().is_some_and(|ask| ask.send(range).is_ok()));
    }

    fn take(&mut self, (range, result): Answer) {
        self.open -= 1;
        if let Err(e) = result {
            self.failed.push((range, e));
        }
    }

    /// Whether the thread has not yet answered all that it was asked.
    pub fn goes_on(&mut self) -> bool {
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer);
        }
        self.open > 0
    }

    /// How the thread has failed to read any of the `len` bytes from `offset` on, once for each time.
    pub fn take_failure(&mut self, offset: u64, len: u64) -> Option<io::Error> {
        let end = offset.saturating_add(len);
        let n = self.failed.iter().position(|(range, _)| range.start < end && offset < range.end)?;
        Some(self.failed.swap_remove(n).1)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Its handle goes before this returns, and with it the lock of the file.
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads `range`, and drops the bytes.
fn bring(file: &File, range: &Range<u64>) -> io::Result<()> {
    let mut piece = vec![0; (range.end - range.start).min(PIECE as u64) as usize];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(piece.len() as u64) as usize;
        match file.read_at(&mut piece[..len], at) {
            Ok(0) => break,
            Ok(n) => at += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether reading `range` would have to wait for the host's disk, as far as a few of its bytes tell.
#[cfg(target_os = "linux")]
fn is_cold(file: &File, range: &Range<u64>) -> bool {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let cold = |at| {
        let mut byte = [0];
        let mut into = [io::IoSliceMut::new(&mut byte)];
        matches!(preadv2(file, &mut into, at, ReadWriteFlags::NOWAIT), Err(Errno::AGAIN))
    };
    range.clone().step_by(STRIDE).any(cold) || range.end.checked_sub(1).is_some_and(|last| last > range.start && cold(last))
}

/// Other hosts cannot tell: the guest's read waits itself.
#[cfg(not(target_os = "linux"))]
fn is_cold(_: &File, _: &Range<u64>) -> bool {
    let _ = STRIDE;
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(reader: &mut Reader) {
        while reader.goes_on() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn reads_and_fails_beside_the_guest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let mut reader = Reader::start(file.reopen().unwrap()).unwrap();
        reader.begin(0, 1 << 20);
        // To the end and beyond.
        reader.ask(0..1 << 20);
        reader.ask((1 << 20) - 10..u64::MAX);
        wait(&mut reader);
        assert!(reader.take_failure(0, u64::MAX).is_none());

        let unreadable = File::options().write(true).open(file.path()).unwrap();
        let mut reader = Reader::start(unreadable).unwrap();
        reader.ask(512..1024);
        wait(&mut reader);
        assert!(reader.take_failure(0, 512).is_none() && reader.take_failure(1024, 512).is_none());
        assert!(reader.take_failure(0, 513).is_some() && reader.take_failure(0, 513).is_none());
        // What nobody asked for is forgotten.
        reader.ask(512..1024);
        wait(&mut reader);
        reader.begin(0, 0);
        assert!(reader.take_failure(0, 1024).is_none());
    }
}
