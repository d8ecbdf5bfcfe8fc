//! Runs cases on the host's processor.
//!
//! A forked process does it. There, a signal handler loads a case by writing it into its own signal frame: the kernel's
//! return from the signal puts the whole state into the processor, in the mode that CS asks for. The case ends with an
//! exception, if nothing else with the INT3 that follows its code; the kernel turns it into a signal, and the frame of
//! that one is the outcome. A seccomp filter turns calls of the system from the region into signals, so a case can do
//! nothing to the world but kill its process, which the parent survives and replaces.

use std::io;
use std::mem::size_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::case::{
    CODE, CONSTANTS, Case, Engine, LOCAL, MAX_CODE, Outcome, PAGE, REGION, REGION_SIZE, WRITABLE_PAGES, X87_IMAGE, constants, event,
    selector,
};

/// Cases that are handed over at once.
pub const BATCH: usize = 64;

/// How long a batch may take before its process counts as stuck, in ms.
const PATIENCE: i32 = 2000;

const INT3: u8 = 0xcc;
/// AC, NT, TF and ID: what the handler must not run with.
const CLEARED: u64 = 1 << 18 | 1 << 14 | 1 << 8 | 1 << 21;
const XSTATE_HEADER: usize = 512;
const YMM_HIGH: usize = 576;
const UC_STRICT_RESTORE_SS: u64 = 4;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

/// What parent and child share.
#[repr(C)]
struct Shared {
    /// The slot that the child works on.
    current: AtomicU32,
    slots: [Slot; BATCH],
}

#[repr(C)]
struct Slot {
    case: Case,
    outcome: Outcome,
}

/// What the child's handler works with.
struct Worker {
    shared: *mut Shared,
    /// The region through a mapping that can be written.
    alias: *mut u8,
    /// Cases of this batch; 0 before the first.
    count: u32,
    requests: i32,
    answers: i32,
    thread_pointer: u64,
    avx: bool,
}

static WORKER: AtomicPtr<Worker> = AtomicPtr::new(ptr::null_mut());

core::arch::global_asm!(
    ".globl softmetal_oracle_entry",
    "softmetal_oracle_entry:",
    "pushfq",
    "and qword ptr [rsp], {kept}",
    "popfq",
    "mov eax, gs",
    "movzx ecx, ax",
    "shl rcx, 16",
    "mov eax, fs",
    "mov cx, ax",
    "shl rcx, 16",
    "mov eax, ds",
    "mov cx, ax",
    "shl rcx, 16",
    "mov eax, es",
    "mov cx, ax",
    "jmp {handler}",
    kept = const !(CLEARED as i64),
    handler = sym on_signal,
);

unsafe extern "C" {
    fn softmetal_oracle_entry();
}

/// A system call that touches no thread-local variable.
///
/// # Safety
/// That of the call.
unsafe fn system_call(number: i64, a: u64, b: u64) -> i64 {
    let result;
    // SAFETY: the caller answers for the call; RCX and R11 are declared.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, out("rcx") _, out("r11") _, options(nostack));
    }
    result
}

/// Of `ucontext`'s registers: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
const GPR: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Saves the outcome of the case before, and leads to the next.
///
/// # Safety
/// The kernel calls it, by way of the entry above, in the child only.
unsafe extern "C" fn on_signal(signal: i32, _: *const libc::siginfo_t, context: *mut libc::ucontext_t, selectors: u64) {
    // SAFETY: the child's main has set WORKER, and nothing else uses it: signals do not nest here. The context is the
    // kernel's frame; its floating-point part has the XSAVE layout, which `Host::start` has asked the processor about.
    unsafe {
        let worker = &mut *WORKER.load(Ordering::Relaxed);
        let (mut fs, mut gs) = (0u64, 0u64);
        system_call(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut fs as u64);
        system_call(libc::SYS_arch_prctl, ARCH_GET_GS, &raw mut gs as u64);
        system_call(libc::SYS_arch_prctl, ARCH_SET_FS, worker.thread_pointer);
        let shared = &mut *worker.shared;
        let mut at = shared.current.load(Ordering::Relaxed);
        let registers = &mut (*context).uc_mcontext.gregs;
        let vectors = (*context).uc_mcontext.fpregs.cast::<u8>();
        if worker.count != 0 {
            let slot = &mut shared.slots[at as usize];
            let out = &mut slot.outcome;
            out.vector = if signal == libc::SIGSYS { event::SYSTEM_CALL } else { registers[libc::REG_TRAPNO as usize] as u32 };
            out.error = registers[libc::REG_ERR as usize] as u32;
            out.address = if out.vector == 14 { registers[libc::REG_CR2 as usize] as u64 } else { 0 };
            let end = &mut out.end;
            for (value, n) in end.gpr.iter_mut().zip(GPR) {
                *value = registers[n as usize] as u64;
            }
            end.rip = registers[libc::REG_RIP as usize] as u64;
            end.flags = registers[libc::REG_EFL as usize] as u64;
            (end.fs_base, end.gs_base) = (fs, gs);
            let packed = registers[libc::REG_CSGSFS as usize] as u64;
            let part = |v: u64, n: u32| (v >> (16 * n)) as u16;
            end.selectors =
                [part(selectors, 0), part(packed, 0), part(packed, 3), part(selectors, 1), part(selectors, 2), part(selectors, 3), 0, 0];
            ptr::copy_nonoverlapping(vectors, end.x87.as_mut_ptr(), X87_IMAGE);
            end.mxcsr = vectors.add(24).cast::<u32>().read_unaligned();
            end.x87[24..32].fill(0);
            ptr::copy_nonoverlapping(vectors.add(160), end.xmm.as_mut_ptr().cast(), 256);
            if worker.avx && vectors.add(XSTATE_HEADER).cast::<u64>().read_unaligned() & 4 != 0 {
                ptr::copy_nonoverlapping(vectors.add(YMM_HIGH), end.ymm.as_mut_ptr().cast(), 256);
            } else {
                end.ymm.as_mut_ptr().cast::<u8>().write_bytes(0, 256);
            }
            for (offset, place, len) in WRITABLE_PAGES {
                ptr::copy_nonoverlapping(worker.alias.add(offset as usize), end.memory.as_mut_ptr().add(place), len);
            }
            let begin = slot.case.code_offset() as usize;
            worker.alias.add(begin).write_bytes(INT3, (slot.case.len as usize).min(REGION_SIZE as usize - begin));
            at += 1;
            shared.current.store(at, Ordering::Relaxed);
        }
        if at >= worker.count {
            if worker.count != 0 {
                libc::write(worker.answers, (&raw const worker.count).cast(), 4);
            }
            if libc::read(worker.requests, (&raw mut worker.count).cast(), 4) != 4 {
                libc::_exit(0);
            }
            at = shared.current.load(Ordering::Relaxed);
        }
        let case = &shared.slots[at as usize].case;
        let start = &case.start;
        for (value, n) in start.gpr.iter().zip(GPR) {
            registers[n as usize] = *value as i64;
        }
        registers[libc::REG_RIP as usize] = start.rip as i64;
        registers[libc::REG_EFL as usize] = start.flags as i64;
        let [es, cs, ss, ds, fs, gs, ..] = start.selectors;
        registers[libc::REG_CSGSFS as usize] = (u64::from(cs) | u64::from(ss) << 48) as i64;
        let flags = (&raw mut (*context).uc_flags).cast::<u64>();
        *flags |= UC_STRICT_RESTORE_SS;
        ptr::copy_nonoverlapping(start.x87.as_ptr(), vectors, 24);
        vectors.add(24).cast::<u32>().write_unaligned(start.mxcsr);
        ptr::copy_nonoverlapping(start.x87.as_ptr().add(32), vectors.add(32), X87_IMAGE - 32);
        ptr::copy_nonoverlapping(start.xmm.as_ptr().cast::<u8>(), vectors.add(160), 256);
        let header = vectors.add(XSTATE_HEADER).cast::<u64>();
        if worker.avx {
            ptr::copy_nonoverlapping(start.ymm.as_ptr().cast::<u8>(), vectors.add(YMM_HIGH), 256);
            header.write_unaligned(header.read_unaligned() | 7);
        } else {
            header.write_unaligned(header.read_unaligned() | 3);
        }
        for (offset, place, len) in WRITABLE_PAGES {
            ptr::copy_nonoverlapping(start.memory.as_ptr().add(place), worker.alias.add(offset as usize), len);
        }
        let begin = case.code_offset() as usize;
        ptr::copy_nonoverlapping(case.code.as_ptr(), worker.alias.add(begin), (case.len as usize).min(REGION_SIZE as usize - begin));
        // From here on nothing may use a thread-local variable.
        core::arch::asm!("mov es, {0:x}", "mov ds, {1:x}", "mov fs, {2:x}", "mov gs, {3:x}", in(reg) es, in(reg) ds, in(reg) fs, in(reg) gs);
        if cs == selector::CODE_64 {
            system_call(libc::SYS_arch_prctl, ARCH_SET_FS, start.fs_base);
            system_call(libc::SYS_arch_prctl, ARCH_SET_GS, start.gs_base);
        }
    }
}

/// The system's last error, with what was tried.
fn failed(what: &str) -> io::Error {
    let e = io::Error::last_os_error();
    io::Error::new(e.kind(), format!("{what}: {e}"))
}

/// The process that runs cases.
struct Child {
    pid: i32,
    requests: i32,
    answers: i32,
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the descriptors and the process are this value's own.
        unsafe {
            libc::close(self.requests);
            libc::close(self.answers);
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, ptr::null_mut(), 0);
        }
    }
}

/// The host's processor.
pub struct Host {
    shared: *mut Shared,
    file: i32,
    child: Option<Child>,
    /// Processes that have gone, or were stuck.
    pub lost: u64,
}

impl Host {
    /// Makes ready; the process that runs cases is started with the first.
    ///
    /// # Errors
    /// If the system does not let us have the memory, or this program lies below 4 GiB, where cases could reach it.
    pub fn new() -> io::Result<Self> {
        if (on_signal as *const () as usize) < 1 << 32 {
            return Err(io::Error::other("this program is not position-independent, so cases could write into it"));
        }
        // SAFETY: new memory, shared with the child and zero, which is a valid value of all of `Shared`.
        let shared = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if shared == libc::MAP_FAILED {
            return Err(failed("memory for cases"));
        }
        // SAFETY: a name that ends with 0.
        let file = unsafe { libc::memfd_create(c"oracle".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: our own file.
        if file < 0 || unsafe { libc::ftruncate(file, REGION_SIZE as i64) } != 0 {
            return Err(failed("memory for the region"));
        }
        Ok(Self { shared: shared.cast(), file, child: None, lost: 0 })
    }

    fn start(&self) -> io::Result<Child> {
        let mut pipes = [[0; 2]; 2];
        for pipe in &mut pipes {
            // SAFETY: room for two descriptors.
            if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
                return Err(failed("a pipe"));
            }
        }
        let mut worker = Worker {
            shared: self.shared,
            alias: ptr::null_mut(),
            count: 0,
            requests: pipes[0][0],
            answers: pipes[1][1],
            thread_pointer: 0,
            avx: std::is_x86_feature_detected!("avx"),
        };
        let page = constants();
        // SAFETY: the child calls only what is safe after a fork of a program with threads, and never returns.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(failed("fork")),
            0 => {
                // SAFETY: as above; the ends that are closed are the parent's.
                unsafe {
                    libc::close(pipes[0][1]);
                    libc::close(pipes[1][0]);
                    child(&mut worker, self.file, &page)
                }
            }
            pid => {
                // SAFETY: the child's ends.
                unsafe {
                    libc::close(pipes[0][0]);
                    libc::close(pipes[1][1]);
                }
                Ok(Child { pid, requests: pipes[0][1], answers: pipes[1][0] })
            }
        }
    }

    /// Runs at most [`BATCH`] cases. What a case did to its process is in its outcome.
    ///
    /// # Errors
    /// If no process can be started.
    ///
    /// # Panics
    /// On more cases than [`BATCH`], or fewer outcomes than cases.
    pub fn run<'a>(&mut self, cases: impl ExactSizeIterator<Item = &'a Case>, outcomes: &mut [Outcome]) -> io::Result<()> {
        let total = cases.len();
        assert!(total <= BATCH && total <= outcomes.len());
        // SAFETY: while no request is under way, the child does not touch it.
        let shared = unsafe { &mut *self.shared };
        for (slot, case) in shared.slots.iter_mut().zip(cases) {
            slot.case.clone_from(case);
        }
        let mut from = 0;
        while from < total {
            let child = match self.child.take() {
                Some(child) => child,
                None => self.start()?,
            };
            shared.current.store(from as u32, Ordering::SeqCst);
            let count = total as u32;
            let mut answer = 0u32;
            // SAFETY: our descriptors, and four bytes each.
            let (ready, read) = unsafe {
                libc::write(child.requests, (&raw const count).cast(), 4);
                let mut poll = libc::pollfd { fd: child.answers, events: libc::POLLIN, revents: 0 };
                let ready = libc::poll(&raw mut poll, 1, PATIENCE);
                (ready, if ready > 0 { libc::read(child.answers, (&raw mut answer).cast(), 4) } else { 0 })
            };
            let done = (shared.current.load(Ordering::SeqCst) as usize).min(total);
            for (outcome, slot) in outcomes[..done].iter_mut().zip(&shared.slots).skip(from) {
                outcome.clone_from(&slot.outcome);
            }
            from = done;
            if read == 4 {
                self.child = Some(child);
                continue;
            }
            drop(child);
            self.lost += 1;
            if from < total {
                outcomes[from].vector = if ready == 0 { event::ENDLESS } else { event::DIED };
                from += 1;
            }
        }
        Ok(())
    }
}

impl Engine for Host {
    fn run(&mut self, case: &Case, outcome: &mut Outcome) {
        if Self::run(self, std::slice::from_ref(case).iter(), std::slice::from_mut(outcome)).is_err() {
            outcome.vector = event::DIED;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.child = None;
        // SAFETY: the memory and the file are this value's own.
        unsafe {
            libc::munmap(self.shared.cast(), size_of::<Shared>());
            libc::close(self.file);
        }
    }
}

/// The child's whole life: sets up the region and the signals, and enters the handler, which it does not leave.
///
/// # Safety
/// Only in a new process.
unsafe fn child(worker: &mut Worker, file: i32, page: &[u8; PAGE as usize]) -> ! {
    // SAFETY: a new process, whose memory is a copy of its own; only async-signal-safe functions are called.
    unsafe {
        let code = set_up(worker, file, page);
        if code == 0 {
            libc::raise(libc::SIGUSR1);
        }
        libc::_exit(code)
    }
}

/// 0, or the number of the step that the system refused.
///
/// # Safety
/// Only in a new process.
unsafe fn set_up(worker: &mut Worker, file: i32, page: &[u8; PAGE as usize]) -> i32 {
    // SAFETY: see `child`. The program lies above 4 GiB, and the child needs nothing below it, where its region comes.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        let (read, write, exec) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        // The guest's tables lie below 2 GiB, and would be memory to cases that use an address of 32 bits.
        if libc::munmap(ptr::null_mut(), 1 << 32) != 0 {
            return 16;
        }
        let alias = libc::mmap(ptr::null_mut(), REGION_SIZE as usize, read | write, libc::MAP_SHARED | libc::MAP_POPULATE, file, 0);
        if alias == libc::MAP_FAILED {
            return 10;
        }
        worker.alias = alias.cast();
        worker.alias.add(CODE as usize).write_bytes(INT3, PAGE as usize);
        ptr::copy_nonoverlapping(page.as_ptr(), worker.alias.add(CONSTANTS as usize), page.len());
        let parts = [(CODE, PAGE as usize, read | exec), (CONSTANTS, PAGE as usize, read)];
        let parts = parts.into_iter().chain(WRITABLE_PAGES.map(|(at, _, len)| (at, len, read | write)));
        for (at, len, protection) in parts {
            let place = (REGION + at) as *mut libc::c_void;
            let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
            if libc::mmap(place, len, protection, flags, file, at as i64) != place {
                return 11;
            }
        }
        for (i, d) in LOCAL.iter().enumerate() {
            let bits = u32::from(d.big) | u32::from(d.contents) << 1 | u32::from(d.restricted) << 3 | u32::from(!d.present) << 5;
            let words = [i as u32, REGION as u32, d.limit, bits];
            if libc::syscall(libc::SYS_modify_ldt, 0x11, words.as_ptr(), size_of_val(&words)) != 0 {
                return 12;
            }
        }
        let stack_size = 1 << 17;
        let stack = libc::mmap(ptr::null_mut(), stack_size, read | write, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        let stack = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: stack_size };
        if libc::sigaltstack(&raw const stack, ptr::null_mut()) != 0 {
            return 13;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = softmetal_oracle_entry as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signal in [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGBUS, libc::SIGSYS, libc::SIGUSR1] {
            if libc::sigaction(signal, &raw const action, ptr::null_mut()) != 0 {
                return 14;
            }
        }
        system_call(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut worker.thread_pointer as u64);
        WORKER.store(worker, Ordering::SeqCst);
        if filter() { 0 } else { 15 }
    }
}

/// Calls of the system from below 4 GiB, and those of 32-bit programs, become SIGSYS.
///
/// # Safety
/// Only in a new process, for which this stays so.
unsafe fn filter() -> bool {
    const ARCH_X86_64: u32 = 0xc000_003e;
    let load = |at: u32| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: at };
    let equal = |k: u32, jt: u8, jf: u8| libc::sock_filter { code: 0x15, jt, jf, k };
    let end = |k: u32| libc::sock_filter { code: 6, jt: 0, jf: 0, k };
    let mut program = [
        // The architecture, then the upper half of the instruction pointer.
        load(4),
        equal(ARCH_X86_64, 0, 2),
        load(12),
        equal(0, 0, 1),
        end(libc::SECCOMP_RET_TRAP),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program is well-formed and read only during the call.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}

const _: () = assert!(MAX_CODE <= PAGE as usize);
