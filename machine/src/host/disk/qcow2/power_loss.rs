//! The host loses power: of what was written since the last fsync, any sectors may be there or not.

use std::collections::HashMap;
use std::path::Path;

use softmetal_bus::BlockBackend;

use super::{Header, Layout, Qcow2, check, create};
use crate::host::disk::file::{Change, ImageFile, Lock};

const SECTOR: usize = 512;
/// Of the guest's disk, in sectors.
const SECTORS: u64 = 3000;
/// Requests of the guest in a run, and moments at which the power is lost in each.
const REQUESTS: usize = 120;
const LOSSES: usize = 40;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        softmetal_bus::splitmix64(&mut self.0) % n
    }
}

/// What the guest did and when: the length of the journal then.
enum Request {
    /// The sector has this byte all over now.
    Set(usize, u64, u8),
    Flushed(usize),
}

fn guest(disk: &mut Qcow2, random: &mut Random) -> Vec<Request> {
    let mut requests = Vec::new();
    for _ in 0..REQUESTS {
        let first = random.below(SECTORS);
        let n = (random.below(60) + 1).min(SECTORS - first);
        let (at, len) = (first * SECTOR as u64, n as usize * SECTOR);
        let began = disk.file.journal.borrow().len();
        let byte = match random.below(10) {
            0..=5 => {
                let byte = random.below(255) as u8 + 1;
                disk.write_at(at, &vec![byte; len]).unwrap();
                byte
            }
            6 => {
                disk.write_zeroes(at, len as u64).unwrap();
                0
            }
            7 => {
                disk.discard(at, len as u64).unwrap();
                let mut now = vec![0; len];
                disk.read_at(at, &mut now).unwrap();
                for (i, sector) in now.chunks(SECTOR).enumerate() {
                    requests.push(Request::Set(began, first + i as u64, sector[0]));
                }
                continue;
            }
            _ => {
                disk.flush().unwrap();
                requests.push(Request::Flushed(disk.file.journal.borrow().len()));
                continue;
            }
        };
        requests.extend((0..n).map(|i| Request::Set(began, first + i, byte)));
    }
    requests
}

/// The file as it may be found after the power was lost when `journal` had come so far.
fn found(before: &[u8], journal: &[Change], random: &mut Random) -> Vec<u8> {
    let mut file = before.to_vec();
    let durable = journal.iter().rposition(|c| matches!(c, Change::Sync)).unwrap_or(0);
    for (n, change) in journal.iter().enumerate() {
        let sure = n < durable;
        let mut lucky = || sure || random.below(2) == 0;
        match change {
            Change::Write(at, bytes) => {
                let mut done = 0;
                while done < bytes.len() {
                    let at = *at as usize + done;
                    let len = (SECTOR - at % SECTOR).min(bytes.len() - done);
                    if lucky() {
                        file.resize(file.len().max(at + len), 0);
                        file[at..at + len].copy_from_slice(&bytes[done..done + len]);
                    }
                    done += len;
                }
            }
            Change::Length(len) if lucky() => file.resize(*len as usize, 0),
            Change::Hole(at, len) if lucky() => {
                let range = *at as usize..((at + len) as usize).min(file.len());
                file[range].fill(0);
            }
            _ => {}
        }
    }
    file
}

/// The image is sound, and each sector has what was flushed last, or something that was written to it since.
fn judge(path: &Path, requests: &[Request], lost: usize, what: &str) {
    let mut file = ImageFile::open(path, Lock::Shared).unwrap();
    let header = Header::parse(&file).unwrap();
    let findings = check(&mut file, &header, false).unwrap();
    assert_eq!(findings.corruptions, 0, "{what}: {:?}", findings.messages);
    let last_flush = requests.iter().rposition(|r| matches!(r, Request::Flushed(at) if *at <= lost)).unwrap_or(0);
    let mut possible: HashMap<u64, Vec<u8>> = HashMap::new();
    for (n, request) in requests.iter().enumerate() {
        if let Request::Set(began, sector, byte) = request {
            if n < last_flush {
                possible.insert(*sector, vec![*byte]);
            } else if *began < lost {
                possible.entry(*sector).or_insert_with(|| vec![0]).push(*byte);
            }
        }
    }
    let mut disk = Qcow2::open(file, header, None, None).unwrap();
    for sector in 0..SECTORS {
        let mut bytes = [0; SECTOR];
        disk.read_at(sector * SECTOR as u64, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == bytes[0]), "{what}: sector {sector} is torn");
        let may = possible.get(&sector).map_or(&[0][..], Vec::as_slice);
        assert!(may.contains(&bytes[0]), "{what}: sector {sector} is {}, not of {may:?}", bytes[0]);
    }
}

#[test]
fn at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (path, after) = (dir.path().join("disk"), dir.path().join("after"));
    let mut losses = 0;
    for (seed, cluster_bits) in [9, 12, 16, 9, 10, 12].into_iter().enumerate() {
        let mut random = Random(seed as u64);
        let _ = std::fs::remove_file(&path);
        let layout = Layout { size: SECTORS * SECTOR as u64, cluster_bits, backing: None };
        create(&mut ImageFile::create(&path).unwrap(), &layout).unwrap();
        let before = std::fs::read(&path).unwrap();
        let file = ImageFile::open(&path, Lock::Exclusive).unwrap();
        let header = Header::parse(&file).unwrap();
        let mut disk = Qcow2::open(file, header, None, None).unwrap();
        let requests = guest(&mut disk, &mut random);
        let journal = disk.file.journal.borrow().clone();
        for _ in 0..LOSSES {
            let lost = random.below(journal.len() as u64 + 1) as usize;
            std::fs::write(&after, found(&before, &journal[..lost], &mut random)).unwrap();
            judge(&after, &requests, lost, &format!("seed {seed}, power lost after {lost} of {} changes", journal.len()));
            losses += 1;
        }
    }
    println!("{losses} losses of power: every flushed sector is there");
}
