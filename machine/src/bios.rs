//! The built-in BIOS's services between two instructions: the processor's registers and the board's chips for
//! [`softmetal_firmware::bios`].

use softmetal_cpu::state::{Segment, reg, seg};
use softmetal_cpu::{Cpu, Processor};
use softmetal_firmware::bios::rom::{SEGMENT, rom};
use softmetal_firmware::bios::{self, Call, Outcome, Platform, Reg, Registers, Seg};
use softmetal_firmware::{Drives, Layout};

use crate::board::{Board, SharedBoard};

const PAGE: u64 = 4096;
/// CR0.PG.
const PAGING: u64 = 1 << 31;
/// Where the stack of a boot sector is, below it.
const BOOT_STACK: u64 = 0x7c00;
const IF: u64 = 1 << 9;

/// The board at the instruction that called, as the processor sees it.
struct Host<'a> {
    cpu: &'a mut Cpu,
    board: &'a SharedBoard,
    drives: Drives,
    layout: Layout,
    at: u64,
}

impl Host<'_> {
    /// Carries out `f` for each page of the `len` bytes at `linear`, with its physical address; what is not mapped is left out.
    fn each_page(&mut self, linear: u32, len: usize, mut f: impl FnMut(&mut Board, u64, u64, std::ops::Range<usize>)) {
        if self.cpu.state.cr0 & PAGING == 0 {
            return f(&mut self.board.lock(), self.at, linear.into(), 0..len);
        }
        let mut done = 0;
        while done < len {
            let at = u64::from(linear.wrapping_add(done as u32));
            let n = ((PAGE - at % PAGE) as usize).min(len - done);
            match self.cpu.debug_translate(at) {
                Some(physical) => f(&mut self.board.lock(), self.at, physical, done..done + n),
                None => log::warn!(target: "bios", "the caller's address {at:#x} is not mapped"),
            }
            done += n;
        }
    }
}

impl Platform for Host<'_> {
    fn port_in(&mut self, port: u16, width: usize) -> u32 {
        self.board.lock().bios_in(self.at, port, width)
    }
    fn port_out(&mut self, port: u16, width: usize, value: u32) {
        self.board.lock().bios_out(self.at, port, width, value);
    }
    fn read(&mut self, linear: u32, buf: &mut [u8]) {
        buf.fill(0xff);
        self.each_page(linear, buf.len(), |board, at, physical, range| board.bios_load(at, physical, &mut buf[range]));
    }
    fn write(&mut self, linear: u32, bytes: &[u8]) {
        self.each_page(linear, bytes.len(), |board, at, physical, range| board.bios_store(at, physical, &bytes[range]));
    }
    fn read_physical(&mut self, address: u64, buf: &mut [u8]) {
        self.board.lock().bios_load(self.at, address, buf);
    }
    fn write_physical(&mut self, address: u64, bytes: &[u8]) {
        self.board.lock().bios_store(self.at, address, bytes);
    }
    fn video_len(&self) -> u64 {
        self.board.lock().video_memory().1
    }
    fn read_video(&mut self, at: u64, buf: &mut [u8]) {
        let board = self.board.lock();
        let (base, len) = board.video_memory();
        let n = len.saturating_sub(at).min(buf.len() as u64) as usize;
        buf.fill(0);
        if n > 0 && board.memory().read(base + at, &mut buf[..n]).is_err() {
            log::error!("video memory lies outside of guest memory");
        }
    }
    fn write_video(&mut self, at: u64, bytes: &[u8]) {
        let board = self.board.lock();
        let (base, len) = board.video_memory();
        let n = len.saturating_sub(at).min(bytes.len() as u64) as usize;
        if n > 0 && board.memory().write(base + at, &bytes[..n]).is_err() {
            log::error!("video memory lies outside of guest memory");
        }
    }
    fn framebuffer(&self) -> u32 {
        self.board.lock().framebuffer()
    }
    fn edid(&self) -> [u8; 128] {
        softmetal_devices::vga::edid()
    }
    fn pause(&mut self, ns: u64) {
        self.board.lock().pause(self.at, ns);
    }
    fn drives(&self) -> &Drives {
        &self.drives
    }
    fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// The registers that services use, in the order of [`Registers`].
const GENERAL: [u8; 7] = [reg::RAX, reg::RBX, reg::RCX, reg::RDX, reg::RSI, reg::RDI, reg::RBP];

fn segment(cpu: &Cpu, n: usize) -> Seg {
    let s = &cpu.state.segments[n];
    Seg { selector: s.selector, base: s.base as u32 }
}

/// The linear address of the flags that an interrupt pushed: above offset and segment, two bytes each.
fn pushed_flags(cpu: &Cpu) -> u32 {
    let sp = cpu.state.regs[usize::from(reg::RSP)] as u32;
    let sp = if cpu.state.segments[seg::SS].big() { sp.wrapping_add(4) } else { u32::from((sp as u16).wrapping_add(4)) };
    (cpu.state.segments[seg::SS].base as u32).wrapping_add(sp)
}

/// Serves the call of the instruction that has just written the trap port. From anywhere else than the BIOS's own traps, a
/// write to that port does nothing.
pub fn serve(processor: &mut Processor, board: &SharedBoard) {
    let cpu = &mut processor.cpu;
    // The ROM may be mapped elsewhere, or something that takes its place may be mapped there.
    let linear = cpu.linear_rip();
    let physical = cpu.debug_translate(linear);
    let Some(call) = [Some(linear), physical].into_iter().flatten().find_map(|at| rom().call(at)) else {
        log::debug!(target: "bios", "a write to the trap port from outside of the BIOS, before {:#x}", cpu.linear_rip());
        return;
    };
    let general = GENERAL.map(|n| Reg(cpu.state.regs[usize::from(n)] as u32));
    let [a, b, c, d, si, di, bp] = general;
    let (ds, es) = (segment(cpu, seg::DS), segment(cpu, seg::ES));
    let (drives, layout) = {
        let board = board.lock();
        (board.drives().clone(), *board.layout())
    };
    let at = cpu.state.icount;
    let mut host = Host { cpu, board, drives, layout, at };
    let stack = pushed_flags(host.cpu);
    let flags = if call.flags_on_stack() {
        let mut bytes = [0; 2];
        host.read(stack, &mut bytes);
        u16::from_le_bytes(bytes)
    } else {
        host.cpu.eflags() as u16
    };
    let mut regs = Registers { a, b, c, d, si, di, bp, ds, es, flags };
    let outcome = bios::serve(&mut host, call, &mut regs);
    if regs.flags != flags {
        if call.flags_on_stack() {
            host.write(stack, &regs.flags.to_le_bytes());
        } else {
            let changed = host.cpu.eflags() & !0xffff | u64::from(regs.flags);
            host.cpu.set_eflags(changed);
        }
    }
    put_back(host.cpu, &general, (ds, es), &regs);
    go_on(host.cpu, call, outcome);
}

/// Puts what a service changed into the processor.
fn put_back(cpu: &mut Cpu, before: &[Reg; 7], segments: (Seg, Seg), regs: &Registers) {
    let after = [regs.a, regs.b, regs.c, regs.d, regs.si, regs.di, regs.bp];
    for ((n, old), new) in GENERAL.iter().zip(before).zip(after) {
        if *old != new {
            cpu.state.regs[usize::from(*n)] = new.0.into();
        }
    }
    for (n, old, new) in [(seg::DS, segments.0, regs.ds), (seg::ES, segments.1, regs.es)] {
        if old != new {
            let kept = cpu.state.segments[n];
            cpu.set_segment(n, Segment { selector: new.selector, base: new.base.into(), ..kept });
        }
    }
}

/// Where the processor goes on.
fn go_on(cpu: &mut Cpu, call: Call, outcome: Outcome) {
    match outcome {
        Outcome::Return => {}
        Outcome::Wait => {
            let wait = match call {
                Call::Int(vector) | Call::Resumed(vector) => rom().wait(vector),
                _ => None,
            };
            if let Some(ip) = wait {
                cpu.state.rip = ip.into();
            }
        }
        Outcome::Jump(cs, ip) => {
            // Where the BIOS itself goes on, the processor is in real mode.
            let flat = |selector| Segment { attributes: 0x93, ..Segment::real(selector) };
            cpu.set_segment(seg::SS, flat(0));
            cpu.set_segment(seg::CS, Segment { attributes: 0x9b, ..Segment::real(cs) });
            cpu.state.regs[usize::from(reg::RSP)] = BOOT_STACK;
            cpu.state.rip = ip.into();
            if cs != SEGMENT {
                cpu.set_eflags(IF | 2);
            }
        }
    }
}
