//! An image as the guest's disk: flushed, and read where the host has to wait for its own disk, beside the guest; what fails
//! on the host is told to the user.

use std::io;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use softmetal_bus::{BlockBackend, BlockError, GuestMemory, Run};

use super::ahead::Reader;
use super::image::Image;
use crate::host::bell;

type Shared = Arc<Mutex<Box<dyn Image>>>;

/// An image as the guest's disk.
pub struct Disk {
    image: Shared,
    size: u64,
    read_only: bool,
    worker: Option<Worker>,
    reader: Option<Reader>,
    /// It cannot be read ahead of the guest.
    no_reader: bool,
    /// What has been told to the user, each kind once.
    told: Vec<(io::ErrorKind, Option<i32>)>,
}

/// A thread that flushes the image. It ends when it can be asked no more.
struct Worker {
    ask: Sender<()>,
    thread: JoinHandle<()>,
    done: Receiver<Result<(), BlockError>>,
    /// It has been asked and its answer has not been taken.
    running: bool,
    /// It was asked once more meanwhile.
    again: bool,
    /// Its answer.
    answer: Option<Result<(), BlockError>>,
}

fn lock(image: &Shared) -> MutexGuard<'_, Box<dyn Image>> {
    image.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    fn start(image: &Shared) -> io::Result<Self> {
        let (ask, asked) = channel();
        let (answer, done) = channel();
        let image = image.clone();
        let work = move || {
            for () in asked {
                // Where a flush is nothing but an fsync, the guest reads and writes on meanwhile.
                let file = lock(&image).handle();
                let result = file.map_or_else(|| lock(&image).flush(), |file| file.sync_data().map_err(BlockError::from));
                if answer.send(result).is_err() {
                    break;
                }
                bell::ring();
            }
        };
        let thread = std::thread::Builder::new().name("disk flush".into()).spawn(work)?;
        Ok(Self { ask, thread, done, running: false, again: false, answer: None })
    }

    /// Takes the answer of a flush that was begun, and waits for it; `None` if none was, or if it came too early for all.
    fn finish(&mut self) -> Option<Result<(), BlockError>> {
        if !self.running {
            return None;
        }
        self.running = false;
        let answer = self.answer.take().or_else(|| self.done.recv().ok());
        if std::mem::take(&mut self.again) && answer.as_ref().is_some_and(Result::is_ok) { None } else { answer }
    }
}

impl Disk {
    /// Takes an open image.
    pub fn new(image: Box<dyn Image>) -> Self {
        let (size, read_only) = (image.size(), image.read_only());
        Self { image: Arc::new(Mutex::new(image)), size, read_only, worker: None, reader: None, no_reader: false, told: Vec::new() }
    }

    /// How the host has failed to read ahead what is to be read now.
    fn failed_ahead(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.reader.as_mut().and_then(|reader| reader.take_failure(offset, len)).map_or(Ok(()), |e| Err(e.into()))
    }

    fn tell<T>(&mut self, what: &str, result: Result<T, BlockError>) -> Result<T, BlockError> {
        if let Err(BlockError::Host(e)) = &result {
            let kind = (e.kind(), e.raw_os_error());
            if !self.told.contains(&kind) {
                self.told.push(kind);
                let path = lock(&self.image).file().path().display().to_string();
                log::error!("the disk {path} cannot be {what}: {e}; the guest sees a failed disk (told once)");
            }
        }
        result
    }
}

impl BlockBackend for Disk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let ahead = self.failed_ahead(offset, buf.len() as u64);
        let result = ahead.and_then(|()| lock(&self.image).read_at(offset, buf));
        self.tell("read", result)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        let result = lock(&self.image).write_at(offset, buf);
        self.tell("written", result)
    }
    fn read_into(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        let ahead = self.failed_ahead(offset, runs.iter().map(|run| run.len as u64).sum());
        let result = ahead.and_then(|()| lock(&self.image).read_into(offset, memory, runs));
        self.tell("read", result)
    }
    fn write_from(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        let result = lock(&self.image).write_from(offset, memory, runs);
        self.tell("written", result)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        let begun = self.worker.as_mut().and_then(Worker::finish);
        let result = begun.unwrap_or_else(|| lock(&self.image).flush());
        self.tell("flushed", result)
    }
    fn begin_flush(&mut self) {
        if self.read_only {
            return;
        }
        if self.worker.is_none() {
            // Without a thread, the flush is made when its end is asked for.
            self.worker = Worker::start(&self.image).map_err(|e| log::warn!("no thread for a disk: {e}")).ok();
        }
        if let Some(worker) = &mut self.worker {
            worker.again = worker.running;
            worker.running = worker.running || worker.ask.send(()).is_ok();
        }
    }
    fn flushing(&mut self) -> bool {
        let Some(worker) = self.worker.as_mut().filter(|w| w.running && w.answer.is_none()) else { return false };
        match worker.done.try_recv() {
            Ok(answer) => {
                worker.answer = Some(answer);
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        }
    }
    fn begin_read(&mut self, offset: u64, len: u64) {
        if self.reader.is_none() && !self.no_reader {
            let handle = lock(&self.image).handle();
            // Without a thread, the guest's read waits itself.
            self.reader = handle.and_then(|file| Reader::start(file).map_err(|e| log::warn!("no thread for a disk: {e}")).ok());
            self.no_reader = self.reader.is_none();
        }
        if let Some(reader) = &mut self.reader {
            reader.begin(offset, len);
        }
    }
    fn reading(&mut self) -> bool {
        self.reader.as_mut().is_some_and(Reader::goes_on)
    }
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        let result = lock(&self.image).discard(offset, len);
        self.tell("written", result)
    }
    fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        let result = lock(&self.image).write_zeroes(offset, len);
        self.tell("written", result)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.reader = None;
        if let Some(mut worker) = self.worker.take() {
            worker.finish();
            // Its share of the image goes before this one does, so that the file is closed when this returns.
            drop(worker.ask);
            let _ = worker.thread.join();
        }
        if !self.read_only {
            // Whoever fails here has told it.
            let _ = self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::disk::file::{ImageFile, Lock};
    use crate::host::disk::raw::Raw;

    #[test]
    fn what_cannot_be_read_ahead_is_a_failed_read() {
        let f = tempfile::NamedTempFile::new().unwrap();
        f.as_file().set_len(1 << 20).unwrap();
        let raw = Raw::open(ImageFile::open(f.path(), Lock::Exclusive).unwrap(), false).unwrap();
        let mut disk = Disk::new(Box::new(raw));
        disk.begin_read(0, 4096);
        while disk.reading() {
            std::thread::yield_now();
        }
        disk.read_at(0, &mut [0; 4096]).unwrap();
        let mut reader = Reader::start(std::fs::File::options().write(true).open(f.path()).unwrap()).unwrap();
        reader.ask(0..8192);
        disk.reader = Some(reader);
        while disk.reading() {
            std::thread::yield_now();
        }
        let memory = GuestMemory::new(4096).unwrap();
        let sector = [Run { offset: 0, len: 512 }];
        assert!(matches!(disk.read_into(512, &memory, &sector), Err(BlockError::Host(_))));
        assert!(disk.read_into(512, &memory, &sector).unwrap());
    }

    #[test]
    fn flushes_beside_the_guest() {
        let f = tempfile::NamedTempFile::new().unwrap();
        f.as_file().set_len(1 << 20).unwrap();
        let raw = Raw::open(ImageFile::open(f.path(), Lock::Exclusive).unwrap(), false).unwrap();
        let mut disk = Disk::new(Box::new(raw));
        assert!(!disk.flushing());
        disk.flush().unwrap();
        for n in 0..20 {
            disk.write_at(n * 512, &[n as u8 + 1; 512]).unwrap();
            disk.begin_flush();
            if n % 3 == 0 {
                // Asked once more while the first may go on.
                disk.write_at(n * 512, &[0xff; 512]).unwrap();
                disk.begin_flush();
            }
            while n % 2 == 0 && disk.flushing() {
                std::thread::yield_now();
            }
            disk.flush().unwrap();
            assert!(!disk.flushing());
        }
        disk.begin_flush();
        drop(disk);
        assert_eq!(std::fs::read(f.path()).unwrap()[19 * 512], 20);
        // The lock has gone with the disk.
        ImageFile::open(f.path(), Lock::Exclusive).unwrap();
    }
}
