//! The demonstration guest that is inside the `softmetal` binary.

use iced_x86::code_asm::*;
use softmetal_firmware::layout::{PM1A_CNT_PORT, SLP_TYP_S5};

use crate::console::{COM1, Console, LINE_STATUS};
use crate::image::{Emit, Image, jump_far};
use crate::tables::{Paging64, Table, gate64, gdt, idt64, page_table, paging64, pte, selector};

/// An address that nothing is mapped at until the page fault handler does so; the two pages after it show one frame.
const REMOTE: u64 = 0x40_0000_0000;
const PAGE: u64 = 4096;
/// What is written through one address and read through another.
const PATTERN: i32 = 0x600d_feed;
/// How many ticks are counted, 100 a second.
const TICKS: i32 = 25;
/// 1193182 Hz / 100.
const DIVISOR: u16 = 11932;
/// Vectors 32 to 47 are the interrupts of the 8259 pair.
const IRQ_BASE: u8 = 0x20;
const IRQS: u8 = 16;
/// The top of the stack: below the image.
const STACK: i32 = crate::image::ORIGIN as i32;

/// The guest's variables and routines.
struct Demo {
    console: Console,
    /// The heads of the lines that report a check.
    ok: u64,
    bad: u64,
    /// A byte: some check has failed.
    failed: u64,
    /// 64-bit words: ticks of the timer, page faults.
    ticks: u64,
    faults: u64,
    /// Two page frames, and the table that maps the pages from [`REMOTE`] on.
    frames: u64,
    remote: u64,
    paging: Paging64,
}

/// The image of the demonstration guest: it shows on the first serial port that processor modes, paging, timer interrupt,
/// serial and keyboard input and power-off work, and waits for keys. Enter or `q` powers off. When a check has failed it
/// ends through the debug-exit port instead.
#[must_use]
pub fn demo() -> Vec<u8> {
    let mut image = Image::default();
    let banner = image.text(
        "\n\
         Softmetal demonstration guest\n\
         =============================\n\
         A whole PC made of software is running this program; there is no operating system in it.\n\n",
    );
    let real = Console::new(&mut image, 16);
    let mut d = Demo {
        console: real,
        ok: image.text("  [ ok ] "),
        bad: image.text("  [FAIL] "),
        failed: image.zeros(1, 8),
        ticks: image.zeros(8, 8),
        faults: image.zeros(8, 8),
        frames: 0,
        remote: 0,
        paging: Paging64 { pml4: 0, pdpt: 0, directory: 0 },
    };
    let real_mode = image.text("real mode        16 bits, segment:offset addresses\n");
    let gdt = gdt(&mut image, None);

    d.frames = image.zeros(2 * PAGE, PAGE);
    d.paging = paging64(&mut image, 0);
    let directory = page_table(&mut image);
    d.remote = page_table(&mut image);
    image.poke_u64(d.paging.pdpt + (REMOTE >> 30) * 8, directory | pte::P | pte::W);
    image.poke_u64(directory, d.remote | pte::P | pte::W);
    for page in 1..3 {
        image.poke_u64(d.remote + page * 8, (d.frames + PAGE) | pte::P | pte::W);
    }

    d.console = Console::new(&mut image, 64);
    let long = d.long_mode(&mut image);
    d.console = Console::new(&mut image, 32);
    let protected = d.protected_mode(&mut image, long);
    d.console = real;
    image.start(|a| {
        a.cli()?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, STACK)?;
        real.say(a, banner)?;
        // 2000:0000 and 1fff:0010 are the same byte.
        a.mov(ax, 0x2000)?;
        a.mov(es, ax)?;
        a.mov(word_ptr(0).es(), 0x5afe)?;
        a.mov(ax, 0x1fff)?;
        a.mov(es, ax)?;
        a.cmp(word_ptr(0x10).es(), 0x5afe)?;
        d.verdict(a, real_mode)?;
        a.lgdt(ptr(gdt.pointer))?;
        a.mov(eax, cr0)?;
        a.or(eax, 1)?;
        a.mov(cr0, eax)?;
        jump_far(a, selector::CODE32, protected)
    })
}

impl Demo {
    /// Emits: report a check, which has left ZF set if all is well.
    fn verdict(&self, a: &mut CodeAssembler, text: u64) -> Emit {
        let (mut bad, mut told) = (a.create_label(), a.create_label());
        a.jne(bad)?;
        self.console.say(a, self.ok)?;
        a.jmp(told)?;
        a.set_label(&mut bad)?;
        a.mov(byte_ptr(self.failed), 1)?;
        self.console.say(a, self.bad)?;
        a.set_label(&mut told)?;
        self.console.say(a, text)
    }

    fn protected_mode(&self, image: &mut Image, long: u64) -> u64 {
        let text = image.text("protected mode   32 bits, flat segments with limits\n");
        image.code(32, |a| {
            a.mov(eax, u32::from(selector::DATA))?;
            a.mov(ds, ax)?;
            a.mov(es, ax)?;
            a.mov(ss, ax)?;
            a.mov(esp, STACK)?;
            // The limit of a flat segment is 4 GiB - 1, that of a 16-bit one 64 KiB - 1.
            a.mov(eax, u32::from(selector::DATA))?;
            a.lsl(ebx, eax)?;
            a.mov(eax, u32::from(selector::DATA16))?;
            a.lsl(ecx, eax)?;
            a.sub(ebx, ecx)?;
            a.cmp(ebx, 0xffff_0000u32)?;
            self.verdict(a, text)?;
            a.mov(eax, cr4)?;
            a.or(eax, 1 << 5)?;
            a.mov(cr4, eax)?;
            a.mov(eax, self.paging.pml4 as u32)?;
            a.mov(cr3, eax)?;
            a.mov(ecx, 0xc000_0080u32)?;
            a.rdmsr()?;
            a.or(eax, 1 << 8)?;
            a.wrmsr()?;
            a.mov(eax, cr0)?;
            a.or(eax, 1u32 << 31)?;
            a.mov(cr0, eax)?;
            jump_far(a, selector::CODE64, long)
        })
    }

    fn long_mode(&self, image: &mut Image) -> u64 {
        let idt = self.interrupts(image);
        let text = image.text("long mode        64 bits\n");
        let facts = self.facts(image);
        let paging = self.paging_checks(image);
        let timer = self.timer_check(image);
        let input = self.input_loop(image);
        image.code(64, |a| {
            a.mov(eax, u32::from(selector::DATA))?;
            a.mov(ds, ax)?;
            a.mov(ss, ax)?;
            a.mov(rsp, STACK as u64)?;
            a.lidt(ptr(idt.pointer))?;
            a.mov(r15, 0x1234_5678_9abc_def0u64)?;
            a.lea(r14, ptr(r15 + r15 * 2))?;
            a.sub(r14, r15)?;
            a.shr(r14, 1)?;
            a.cmp(r14, r15)?;
            self.verdict(a, text)?;
            for part in [paging, timer, facts] {
                a.call(part)?;
            }
            a.jmp(input)
        })
    }

    /// Handlers of all exceptions and interrupts, and their table.
    fn interrupts(&self, image: &mut Image) -> Table {
        let text = image.text("\n  [FAIL] an exception that nothing here causes, at ");
        let fatal = image.code(64, |a| {
            self.console.say(a, text)?;
            a.mov(ebp, dword_ptr(rsp))?;
            a.call(self.console.hex)?;
            end(a, true)
        });
        let fault = image.code(64, |a| {
            let mut other = a.create_label();
            a.push(rax)?;
            a.push(rbx)?;
            a.mov(rax, cr2)?;
            a.mov(rbx, REMOTE)?;
            a.cmp(rax, rbx)?;
            a.jne(other)?;
            // Error code: a write, by the kernel, to a page that is not present.
            a.cmp(qword_ptr(rsp + 16), 2)?;
            a.jne(other)?;
            a.mov(qword_ptr(self.remote), (self.frames | pte::P | pte::W) as i32)?;
            a.inc(qword_ptr(self.faults))?;
            a.pop(rbx)?;
            a.pop(rax)?;
            a.add(rsp, 8)?;
            a.iretq()?;
            a.set_label(&mut other)?;
            a.add(rsp, 24)?;
            a.jmp(fatal)
        });
        let timer = image.code(64, |a| {
            a.inc(qword_ptr(self.ticks))?;
            acknowledge(a)
        });
        // Keys are read by the main loop, which the interrupt wakes.
        let wake = image.code(64, acknowledge);
        let mut gates = vec![gate64(fatal, 0, 0); usize::from(IRQ_BASE)];
        gates[14] = gate64(fault, 0, 0);
        gates.extend(vec![gate64(wake, 0, 0); usize::from(IRQS)]);
        gates[usize::from(IRQ_BASE)] = gate64(timer, 0, 0);
        idt64(image, &gates)
    }

    fn paging_checks(&self, image: &mut Image) -> u64 {
        let alias = image.text("paging           one page of memory seen at two addresses\n");
        let fault = image.text("page fault       caught, the missing page mapped, the write repeated\n");
        image.code(64, |a| {
            a.mov(rbx, REMOTE + PAGE)?;
            a.mov(dword_ptr(rbx + 8), PATTERN)?;
            a.cmp(dword_ptr(rbx + (PAGE + 8) as i32), PATTERN)?;
            self.verdict(a, alias)?;
            a.mov(rbx, REMOTE)?;
            a.mov(dword_ptr(rbx), PATTERN)?;
            // The write has reached the frame, after exactly one fault.
            a.mov(eax, dword_ptr(self.frames))?;
            a.sub(eax, PATTERN)?;
            a.mov(rdx, qword_ptr(self.faults))?;
            a.dec(rdx)?;
            a.or(rax, rdx)?;
            self.verdict(a, fault)?;
            a.ret()
        })
    }

    /// Waits, asleep, for 25 ticks of the 8254; the time-stamp counter tells how long that was.
    fn timer_check(&self, image: &mut Image) -> u64 {
        let text = image.text("timer interrupt  ");
        let ticks = image.text(" ticks of the 8254 in ");
        let unit = image.text(" ms of processor time\n");
        image.code(64, |a| {
            // The 8259 pair: vectors from 0x20 on, only the timer may interrupt.
            for (port, value) in [(0x20, 0x11), (0xa0, 0x11), (0x21, IRQ_BASE), (0xa1, IRQ_BASE + 8), (0x21, 4), (0xa1, 2)] {
                outb(a, port, value)?;
            }
            for (port, value) in [(0x21, 1), (0xa1, 1), (0x21, 0xfe), (0xa1, 0xff)] {
                outb(a, port, value)?;
            }
            let [low, high] = DIVISOR.to_le_bytes();
            for (port, value) in [(0x43, 0x34), (0x40, low), (0x40, high)] {
                outb(a, port, value)?;
            }
            sleep_until(a, self.ticks, 1)?;
            read_tsc(a)?;
            a.mov(r12, rax)?;
            sleep_until(a, self.ticks, 1 + TICKS)?;
            read_tsc(a)?;
            a.sub(rax, r12)?;
            a.mov(r12, rax)?;
            // Channel 0 in a mode that waits for a count: it is silent from here on.
            outb(a, 0x43, 0x30)?;
            // The counter's frequency: leaf 0x15, else it is not told.
            a.mov(eax, 0x15)?;
            a.cpuid()?;
            a.mov(eax, ecx)?;
            a.xor(edx, edx)?;
            a.mov(ecx, 1000)?;
            a.div(ecx)?;
            a.mov(ecx, eax)?;
            a.mov(rax, r12)?;
            a.xor(edx, edx)?;
            a.div(rcx)?;
            a.mov(r12, rax)?;
            // Ticks that come too early are an error; late ones are a busy host.
            let least = (TICKS - 1) * 10;
            a.cmp(rax, least)?;
            a.setb(al)?;
            a.test(al, al)?;
            self.verdict(a, text)?;
            a.mov(ebp, TICKS)?;
            a.call(self.console.decimal)?;
            self.console.say(a, ticks)?;
            a.mov(ebp, r12d)?;
            a.call(self.console.decimal)?;
            self.console.say(a, unit)?;
            a.ret()
        })
    }

    /// Says what the guest finds in its machine.
    fn facts(&self, image: &mut Image) -> u64 {
        let processor = image.text("\n  processor  ");
        let memory = image.text("\n  memory     ");
        let unit = image.text(" MiB\n");
        let clock = image.text("  clock      ");
        let zone = image.text(" UTC\n\n");
        let name = image.zeros(49, 16);
        let c = self.console;
        image.code(64, |a| {
            c.say(a, processor)?;
            for leaf in 0..3u32 {
                a.mov(eax, 0x8000_0002 + leaf)?;
                a.cpuid()?;
                for (i, register) in [eax, ebx, ecx, edx].into_iter().enumerate() {
                    a.mov(dword_ptr(name + u64::from(leaf) * 16 + i as u64 * 4), register)?;
                }
            }
            c.say(a, name)?;
            c.say(a, memory)?;
            // Units of 64 KiB: from 16 MiB to 4 GiB, and above 4 GiB.
            a.xor(ebx, ebx)?;
            for index in [0x5d, 0x5c, 0x5b] {
                read_cmos(a, index)?;
                a.shl(ebx, 8)?;
                a.mov(bl, al)?;
            }
            read_cmos(a, 0x35)?;
            a.movzx(ecx, al)?;
            a.shl(ecx, 8)?;
            read_cmos(a, 0x34)?;
            a.mov(cl, al)?;
            a.lea(ebp, ptr(rbx + rcx + (16 << 4)))?;
            a.shr(ebp, 4)?;
            a.call(c.decimal)?;
            c.say(a, unit)?;
            c.say(a, clock)?;
            for (index, after) in [(0x32, 0), (9, b'-'), (8, b'-'), (7, b' '), (4, b':'), (2, b':'), (0, 0)] {
                read_cmos(a, index)?;
                a.movzx(ebp, al)?;
                a.shl(ebp, 24)?;
                a.mov(cx, 2)?;
                a.call(c.digits)?;
                if after != 0 {
                    a.mov(al, u32::from(after))?;
                    a.call(c.put)?;
                }
            }
            c.say(a, zone)?;
            a.ret()
        })
    }

    /// Echoes what is typed at the serial port and the keyboard, asleep in between, until Enter or `q`.
    fn input_loop(&self, image: &mut Image) -> u64 {
        let prompt = image.text(
            "Type something: each key wakes the sleeping processor by an interrupt and is echoed.\n\
             Enter or q switches this machine off.  Next, try a real system:\n\n\
             \x20 softmetal run busybox    Linux with a shell; Ctrl-A x quits, Ctrl-A h helps\n\
             \x20 softmetal --help         everything else\n\n\
             > ",
        );
        let key = image.text("[keyboard ");
        let over = image.text("\nSwitching off through ACPI.\n");
        let sorry = image.text("\nSomething marked FAIL above does not work on this host.\n");
        let c = self.console;
        image.code(64, |a| {
            let (mut again, mut serial, mut keyboard, mut off, mut broken) =
                (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
            c.say(a, prompt)?;
            // The UART: 8 bits, FIFOs on with a trigger of one byte, OUT2, an interrupt for each byte.
            for (register, value) in [(1, 0), (3, 3), (2, 1), (4, 0x0b), (1, 1)] {
                a.mov(dx, i32::from(COM1 + register))?;
                a.mov(al, value)?;
                a.out(dx, al)?;
            }
            // The keyboard (1) and the serial port (4) may interrupt.
            outb(a, 0x21, !(1 << 1 | 1 << 4))?;
            a.set_label(&mut again)?;
            a.cli()?;
            a.mov(dx, i32::from(COM1 + LINE_STATUS))?;
            a.in_(al, dx)?;
            a.test(al, 1)?;
            a.jne(serial)?;
            a.in_(al, 0x64)?;
            a.test(al, 1)?;
            a.jne(keyboard)?;
            // Nothing: STI takes effect after HLT, so no interrupt is missed.
            a.sti()?;
            a.hlt()?;
            a.jmp(again)?;

            a.set_label(&mut keyboard)?;
            a.in_(al, 0x60)?;
            a.movzx(r12d, al)?;
            c.say(a, key)?;
            a.mov(ebp, r12d)?;
            a.shl(ebp, 24)?;
            a.mov(cx, 2)?;
            a.call(c.digits)?;
            a.mov(al, u32::from(b']'))?;
            a.call(c.put)?;
            // The make codes of Enter and Q.
            for code in [0x1c, 0x10] {
                a.cmp(r12d, code)?;
                a.je(off)?;
            }
            a.jmp(again)?;

            a.set_label(&mut serial)?;
            a.mov(dx, i32::from(COM1))?;
            a.in_(al, dx)?;
            // Enter (CR from a terminal, LF from a file), q, and what else people press to leave: Ctrl-C, Ctrl-D.
            for code in [b'\r', b'\n', b'q', b'Q', 3, 4] {
                a.cmp(al, i32::from(code))?;
                a.je(off)?;
            }
            let mut printable = a.create_label();
            a.cmp(al, i32::from(b' '))?;
            a.jae(printable)?;
            a.add(al, i32::from(b'@'))?;
            a.movzx(r12d, al)?;
            a.mov(al, u32::from(b'^'))?;
            a.call(c.put)?;
            a.mov(eax, r12d)?;
            a.set_label(&mut printable)?;
            a.call(c.put)?;
            a.jmp(again)?;

            a.set_label(&mut off)?;
            a.cmp(byte_ptr(self.failed), 0)?;
            a.jne(broken)?;
            c.say(a, over)?;
            end(a, false)?;
            a.set_label(&mut broken)?;
            c.say(a, sorry)?;
            end(a, true)
        })
    }
}

fn outb(a: &mut CodeAssembler, port: i32, value: u8) -> Emit {
    a.mov(al, u32::from(value))?;
    a.out(port, al)
}

fn read_cmos(a: &mut CodeAssembler, index: u8) -> Emit {
    outb(a, 0x70, index)?;
    a.in_(al, 0x71)
}

fn read_tsc(a: &mut CodeAssembler) -> Emit {
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)
}

/// Emits the end of an interrupt handler: the interrupt was of the master 8259.
fn acknowledge(a: &mut CodeAssembler) -> Emit {
    a.push(rax)?;
    outb(a, 0x20, 0x20)?;
    a.pop(rax)?;
    a.iretq()
}

/// Emits: sleep until the counter at `at` has reached `count`; interrupts are off afterwards.
fn sleep_until(a: &mut CodeAssembler, at: u64, count: i32) -> Emit {
    let (mut again, mut reached) = (a.create_label(), a.create_label());
    a.set_label(&mut again)?;
    a.cli()?;
    a.cmp(qword_ptr(at), count)?;
    a.jae(reached)?;
    a.sti()?;
    a.hlt()?;
    a.jmp(again)?;
    a.set_label(&mut reached)?;
    Ok(())
}

/// Emits the end of the run: by ACPI's soft off, or with a failure by the debug-exit port.
fn end(a: &mut CodeAssembler, failed: bool) -> Emit {
    const SLP_EN: u16 = 1 << 13;
    if failed {
        outb(a, 0xf4, 0)?;
    } else {
        a.mov(dx, u32::from(PM1A_CNT_PORT))?;
        a.mov(ax, u32::from(u16::from(SLP_TYP_S5) << 10 | SLP_EN))?;
        a.out(dx, ax)?;
    }
    let mut stay = a.create_label();
    a.set_label(&mut stay)?;
    a.cli()?;
    a.hlt()?;
    a.jmp(stay)
}
