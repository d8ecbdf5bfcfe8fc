//! Bytes moved straight between a file of a Unix host and guest memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::block::Run;
use crate::memory::{GuestMemory, MemoryError};

/// Pieces in one call of the host, which takes 1024: as many as a request of virtio-blk usually has.
const PIECES: usize = 256;

/// `preadv` or `pwritev`.
type Call = unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int, libc::off_t) -> isize;

impl GuestMemory {
    /// Fills `runs`, in order, with the bytes of `file` from `at` on, marked as [`GuestMemory::write`] marks them.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when a run lies past the end of memory (nothing has happened then),
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends too early, or the host's.
    pub fn read_file(&self, runs: &[Run], file: &File, at: u64) -> io::Result<()> {
        self.check_runs(runs)?;
        for run in runs {
            self.mark_written(run.offset, run.len);
        }
        self.transfer(runs, file, at, libc::preadv, io::ErrorKind::UnexpectedEof)
    }

    /// Stores the bytes of `runs`, in order, in `file` from `at` on.
    ///
    /// # Errors
    /// As of [`GuestMemory::read_file`], but [`io::ErrorKind::WriteZero`] when the file takes no more.
    pub fn write_file(&self, runs: &[Run], file: &File, at: u64) -> io::Result<()> {
        self.check_runs(runs)?;
        self.transfer(runs, file, at, libc::pwritev, io::ErrorKind::WriteZero)
    }

    fn check_runs(&self, runs: &[Run]) -> io::Result<()> {
        let outside = runs.iter().find(|run| self.check(run.offset, run.len).is_err());
        outside.map_or(Ok(()), |run| Err(io::Error::new(io::ErrorKind::InvalidInput, MemoryError::OutOfRange(run.offset))))
    }

    fn transfer(&self, runs: &[Run], file: &File, mut at: u64, call: Call, ended: io::ErrorKind) -> io::Result<()> {
        let mut pieces = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; PIECES];
        // The run at hand, and how much of it is done.
        let (mut first, mut done) = (0, 0);
        while first < runs.len() {
            let mut skip = done;
            let mut count = 0;
            for (piece, run) in pieces.iter_mut().zip(&runs[first..]) {
                let start = self.check(run.offset, run.len).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
                *piece = libc::iovec { iov_base: start.wrapping_add(skip).cast(), iov_len: run.len - skip };
                skip = 0;
                count += 1;
            }
            let place = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: the first `count` pieces were filled in above, each lies within the mapping (`check`), which lives as
            // long as `self`, and `count` is at most `PIECES`.
            let moved = unsafe { call(file.as_raw_fd(), pieces.as_ptr(), count, place) };
            let moved = match usize::try_from(moved) {
                Ok(moved) => moved,
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => continue,
                    e => return Err(e),
                },
            };
            at += moved as u64;
            done += moved;
            let before = first;
            while let Some(run) = runs.get(first).filter(|run| run.len <= done) {
                done -= run.len;
                first += 1;
            }
            if moved == 0 && first == before {
                return Err(ended.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Collector;

    #[test]
    fn files_and_memory_meet() {
        let (m, file) = (GuestMemory::new(8 << 20).unwrap(), tempfile::tempfile().unwrap());
        let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 7 + n / 251) as u8).collect();
        m.write(100, &bytes).unwrap();
        // More pieces than one call takes, and empty ones.
        let runs: Vec<Run> = (0..2500).map(|n| Run { offset: 100 + n * 300, len: if n % 7 == 3 { 0 } else { 300 } }).collect();
        m.write_file(&runs, &file, 4096).unwrap();
        let expected: Vec<u8> = runs.iter().flat_map(|r| &bytes[r.offset as usize - 100..][..r.len]).copied().collect();
        assert_eq!(file.metadata().unwrap().len(), 4096 + expected.len() as u64);

        let to: Vec<Run> = runs.iter().map(|r| Run { offset: r.offset + (4 << 20), len: r.len }).collect();
        m.read_file(&to, &file, 4096).unwrap();
        let mut found = Vec::new();
        for run in &to {
            let mut piece = vec![0; run.len];
            m.read(run.offset, &mut piece).unwrap();
            found.extend(piece);
        }
        assert!(found == expected);
        assert_eq!(m.read_file(&to, &file, 4097).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        m.read_file(&[], &file, 0).unwrap();
        m.read_file(&[Run { offset: 0, len: 0 }], &file, 1 << 40).unwrap();
    }

    #[test]
    fn what_is_read_is_marked() {
        let (m, file) = (GuestMemory::new(16 * 4096).unwrap(), tempfile::tempfile().unwrap());
        file.set_len(1 << 20).unwrap();
        m.mark_code(3 * 4096 + 100, 10);
        m.write(2 * 4096, &[1]).unwrap();
        let outside = [Run { offset: 4096, len: 1 }, Run { offset: 15 * 4096, len: 4097 }];
        for runs in [&outside[..], &[Run { offset: u64::MAX, len: 2 }]] {
            assert_eq!(m.read_file(runs, &file, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(m.write_file(runs, &file, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        m.write_file(&[Run { offset: 8 * 4096, len: 4096 }], &file, 0).unwrap();
        assert_eq!(m.collect(Collector::Checkpoint), [2]);
        m.read_file(&[Run { offset: 2 * 4096 + 10, len: 4096 + 100 }, Run { offset: 9 * 4096, len: 1 }], &file, 0).unwrap();
        assert_eq!(m.collect(Collector::Checkpoint), [2, 3, 9]);
        assert_eq!(m.take_code_writes(), [(3 * 4096, 110)]);
        assert_eq!(m.page(2).unwrap()[0], 1);
    }
}
