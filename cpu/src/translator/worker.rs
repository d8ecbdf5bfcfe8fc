//! The thread that translates blocks, while the interpreter goes on with them.
//!
//! It is given all that code is made from, and what it makes may lie anywhere. So whatever happens to a block meanwhile, to its
//! page, or to all code, has nothing to wait for and nothing to take back: what was made is for a block that is still the one
//! that was asked about, as its serial number tells, or it is dropped. And nothing waits for the thread: what it does not get done
//! soon, because it has much to do, does not get a processor or has failed, is translated in the run loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use softmetal_bus::GuestMemory;

use super::Image;
use super::backend::{Input, Maker};
use crate::block::Block;

/// While there is something to do now and then, the thread looks by itself so often: to wake it costs the run loop of a host
/// that is a virtual machine as much as to translate several blocks, ...
const NAP: Duration = Duration::from_micros(50);
/// ... and once it has found nothing so often, it must be woken, ...
const NAPS: u32 = 100;
/// ... which is done for so many tasks.
const BATCH: usize = 16;
/// The thread is given no more while it has so many.
const BUSY: usize = 64;
/// A block is interpreted so often while it waits for its translation: that costs about as much as to make it.
const LATE: u32 = 24;

/// When a block is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Not yet, or that is under way.
    Later,
    /// By the thread.
    Meanwhile,
    /// In the run loop.
    Now,
}

/// A block that is to be translated, and what becomes of it. Its lists are used again for others.
#[derive(Default)]
pub(super) struct Task<C> {
    /// The block's index in the cache of blocks.
    pub index: u32,
    /// Its serial number: another block at that index has another.
    pub serial: u32,
    /// The linear address of its page.
    pub page: u64,
    /// What its code is made from.
    pub image: Image,
    /// Of a block that is not too long.
    pub code: C,
    /// It is not.
    pub fits: bool,
}

impl<C> Task<C> {
    /// To translate block `index`, in the page at linear address `page`; none if it is not in guest memory.
    pub fn take(&mut self, index: u32, block: &Block, page: u64, memory: &GuestMemory) -> Option<()> {
        (self.index, self.serial, self.page) = (index, block.serial, page);
        self.image.take(block, (block.physical & super::OFFSET) as i32, memory)
    }
}

/// Where tasks are carried out: on whatever thread.
pub(super) struct Workshop<M> {
    /// What makes the code.
    pub maker: M,
    /// Room for what is decoded.
    input: Input,
}

impl<M: Maker> Workshop<M> {
    pub fn new(maker: M) -> Self {
        Self { maker, input: Input::default() }
    }

    /// Makes the code, with [`Input::copies`] or without; whether it fits.
    pub fn carry_out(&mut self, task: &mut Task<M::Code>, copies: bool) -> bool {
        task.image.decode(&mut self.input);
        self.input.copies = copies;
        task.fits = self.maker.make(&mut self.input, &mut task.code);
        task.fits
    }
}

/// The thread, as the run loop sees it. It starts with the first tasks, and ends soon after this is dropped.
pub(super) struct Worker<M: Maker> {
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared<Task<M::Code>>>,
    /// Tasks that have not been handed over.
    waiting: Vec<Box<Task<M::Code>>>,
    /// How many have been, and are not done.
    under_way: usize,
    /// Those that are done.
    done: Vec<Box<Task<M::Code>>>,
    /// Tasks to be used again.
    spare: Vec<Box<Task<M::Code>>>,
    /// Tasks are wanted.
    on: bool,
}

/// What both threads see.
struct Shared<T> {
    tasks: Mutex<Vec<Box<T>>>,
    done: Mutex<Vec<Box<T>>>,
    /// There are some in `done`.
    ready: AtomicBool,
    /// The thread must be woken.
    asleep: AtomicBool,
    /// The machine is gone.
    over: AtomicBool,
}

/// Lists are sound whoever has panicked.
fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Maker> Worker<M> {
    /// No thread, until it is wanted.
    pub fn new() -> Self {
        let [ready, asleep, over] = [false; 3].map(AtomicBool::new);
        let shared = Arc::new(Shared { tasks: Mutex::default(), done: Mutex::default(), ready, asleep, over });
        let [waiting, done, spare] = Default::default();
        Self { thread: None, shared, waiting, under_way: 0, done, spare, on: false }
    }

    /// From now on tasks are welcome, or not.
    pub fn set_on(&mut self, on: bool) {
        self.on = on;
    }

    /// When to translate a block that is about to run for the `heat`th time, if it is hot after `hot` times.
    pub fn when(&self, heat: u32, hot: u32) -> When {
        if heat <= hot {
            When::Later
        } else if !self.on || heat > hot.saturating_add(LATE) {
            When::Now
        } else if heat > hot + 1 {
            // It was asked for when it became hot.
            When::Later
        } else if self.under_way + self.waiting.len() < BUSY {
            When::Meanwhile
        } else {
            When::Now
        }
    }

    /// A task to be filled in.
    pub fn task(&mut self) -> Box<Task<M::Code>> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a task.
    pub fn recycle(&mut self, task: Box<Task<M::Code>>) {
        self.spare.push(task);
    }

    /// Takes a task, to be handed over soon.
    pub fn ask(&mut self, task: Box<Task<M::Code>>) {
        self.waiting.push(task);
    }

    /// Whether there are tasks to be handed over, or some are done.
    #[inline(always)]
    pub fn calls(&self) -> bool {
        let due = || self.waiting.len() >= BATCH || self.thread.is_some() && !self.shared.asleep.load(Ordering::Relaxed);
        !self.waiting.is_empty() && due() || self.under_way != 0 && self.shared.ready.load(Ordering::Relaxed)
    }

    /// Hands over what waits, to a thread that has a workshop of its own.
    pub fn hand_over(&mut self, workshop: impl FnOnce() -> Workshop<M>) {
        if self.waiting.is_empty() {
            return;
        }
        if self.thread.is_none() {
            match start(workshop(), self.shared.clone()) {
                Ok(thread) => self.thread = Some(thread),
                Err(why) => {
                    log::warn!("no thread translates blocks meanwhile: {why}");
                    self.on = false;
                    self.waiting.clear();
                    return;
                }
            }
        }
        self.under_way += self.waiting.len();
        lock(&self.shared.tasks).append(&mut self.waiting);
        self.wake();
    }

    /// A task that is done, if there is one.
    pub fn done(&mut self) -> Option<Box<Task<M::Code>>> {
        if self.done.is_empty() && self.under_way != 0 && self.shared.ready.swap(false, Ordering::Acquire) {
            std::mem::swap(&mut self.done, &mut lock(&self.shared.done));
            self.under_way -= self.done.len();
        }
        self.done.pop()
    }

    /// Hands over what waits and waits until all is done, unless the thread has failed.
    pub fn finish(&mut self, workshop: impl FnOnce() -> Workshop<M>) {
        self.hand_over(workshop);
        let left = || lock(&self.shared.done).len() < self.under_way;
        while left() && self.thread.as_ref().is_some_and(|t| !t.is_finished()) {
            thread::sleep(NAP);
        }
    }

    fn wake(&self) {
        // It falls asleep before it looks for tasks once more; here they are put there first.
        if self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.thread.iter().for_each(|t| t.thread().unpark());
        }
    }
}

impl<M: Maker> Drop for Worker<M> {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.wake();
    }
}

/// Starts a thread.
fn start<M: Maker>(mut workshop: Workshop<M>, shared: Arc<Shared<Task<M::Code>>>) -> std::io::Result<JoinHandle<()>> {
    let work = move || {
        let (mut tasks, mut naps) = (Vec::new(), 0);
        while !shared.over.load(Ordering::SeqCst) {
            std::mem::swap(&mut tasks, &mut lock(&shared.tasks));
            if tasks.is_empty() {
                if naps < NAPS {
                    naps += 1;
                    thread::park_timeout(NAP);
                } else if shared.asleep.swap(true, Ordering::SeqCst) {
                    thread::park();
                }
                continue;
            }
            shared.asleep.store(false, Ordering::SeqCst);
            naps = 0;
            for mut task in tasks.drain(..) {
                workshop.carry_out(&mut task, false);
                lock(&shared.done).push(task);
                shared.ready.store(true, Ordering::Release);
            }
        }
    };
    thread::Builder::new().name("translator".into()).spawn(work)
}

#[cfg(test)]
mod tests {
    use iced_x86::Instruction;

    use super::*;
    use crate::state::Mode;
    use crate::translator::backend::Leads;

    /// Makes nothing, or fails.
    struct Maker {
        fails: bool,
    }

    impl super::Maker for Maker {
        type Code = u32;

        fn leads(&mut self, _: &[Instruction], _: &[bool], _: Mode) -> Vec<Leads> {
            Vec::new()
        }

        fn make(&mut self, _: &mut Input, code: &mut u32) -> bool {
            assert!(!self.fails, "as it is meant to");
            *code += 1;
            true
        }
    }

    fn worker(fails: bool) -> (Worker<Maker>, impl Fn() -> Workshop<Maker>) {
        let mut worker = Worker::new();
        worker.set_on(true);
        (worker, move || Workshop::new(Maker { fails }))
    }

    #[test]
    fn all_that_is_asked_for_is_done_once() {
        let (mut worker, workshop) = worker(false);
        let mut done = Vec::new();
        for round in 0..20 {
            for n in 0..10 {
                let mut task = worker.task();
                (task.index, task.code) = (10 * round + n, 0);
                worker.ask(task);
                if worker.calls() {
                    worker.hand_over(&workshop);
                }
            }
            // It sleeps sometimes, and must be woken.
            thread::sleep(NAP * round);
            if round % 4 == 3 {
                worker.finish(&workshop);
            }
            while let Some(task) = worker.done() {
                assert_eq!((task.code, task.fits), (1, true));
                done.push(task.index);
                worker.recycle(task);
            }
        }
        done.sort_unstable();
        assert_eq!(done, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_thread_that_has_failed_is_waited_for_by_nobody() {
        let (mut worker, workshop) = worker(true);
        for _ in 0..BUSY {
            assert_eq!([1, 2, 3].map(|heat| worker.when(heat, 1)), [When::Later, When::Meanwhile, When::Later]);
            let task = worker.task();
            worker.ask(task);
            if worker.calls() {
                worker.hand_over(&workshop);
            }
        }
        worker.finish(&workshop);
        assert!(worker.done().is_none());
        assert_eq!([1, 2, 3].map(|heat| worker.when(heat, 1)), [When::Later, When::Now, When::Later]);
        assert_eq!(worker.when(LATE + 2, 1), When::Now);
    }
}
