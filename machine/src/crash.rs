//! What is told of a guest that crashed or stopped: registers, exceptions, the code there.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use softmetal_cpu::state::seg;
use softmetal_cpu::{Processor, fault::Exception};

use crate::machine::Machine;

/// Names of the exceptions (SDM 3A, table 6-1).
fn exception_name(vector: u8) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE divide error",
        "#DB debug",
        "NMI",
        "#BP breakpoint",
        "#OF overflow",
        "#BR bound range",
        "#UD invalid opcode",
        "#NM device not available",
        "#DF double fault",
        "coprocessor overrun",
        "#TS invalid TSS",
        "#NP segment not present",
        "#SS stack fault",
        "#GP general protection",
        "#PF page fault",
        "reserved",
        "#MF x87 error",
        "#AC alignment check",
        "#MC machine check",
        "#XM SIMD error",
        "#VE virtualization",
        "#CP control protection",
    ];
    NAMES.get(usize::from(vector)).copied().unwrap_or("interrupt")
}

/// The registers, four a line.
#[must_use]
pub fn registers(p: &Processor) -> String {
    const NAMES: [&str; 16] =
        ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];
    let s = &p.cpu.state;
    let mut out = String::new();
    for (i, name) in NAMES.iter().enumerate() {
        let end = if i % 4 == 3 { '\n' } else { ' ' };
        let _ = write!(out, "{name:>4}={:016x}{end}", s.regs[i]);
    }
    let _ = writeln!(out, " RIP={:016x} RFLAGS={:08x} CPL={} halted={}", s.rip, p.cpu.eflags(), s.cpl, s.halted);
    for (n, name) in ["ES", "CS", "SS", "DS", "FS", "GS"].iter().enumerate() {
        let g = &s.segments[n];
        let end = if n % 2 == 1 { '\n' } else { ' ' };
        let _ = write!(out, "  {name}={:04x} base={:016x} limit={:08x} attr={:04x}{end}", g.selector, g.base, g.limit, g.attributes);
    }
    let _ = writeln!(
        out,
        " GDT={:016x}+{:04x} IDT={:016x}+{:04x} TR={:04x} LDT={:04x}",
        s.gdtr.base, s.gdtr.limit, s.idtr.base, s.idtr.limit, s.tr.selector, s.ldtr.selector
    );
    let _ = writeln!(out, " CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x} EFER={:08x}", s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
    out
}

/// Up to `count` instructions from RIP on, with their bytes.
#[must_use]
pub fn disassembly(p: &mut Processor, count: usize) -> String {
    let rip = p.cpu.state.rip;
    let bits = p.cpu.state.mode.bits();
    let linear = p.cpu.linear_rip();
    disassemble_at(p, linear, rip, bits, count)
}

fn disassemble_at(p: &mut Processor, linear: u64, rip: u64, bits: u32, count: usize) -> String {
    // The page after may be missing: take what there is.
    let mut bytes = vec![0; 15 * count.max(1)];
    let to_page_end = 0x1000 - (linear & 0xfff) as usize;
    if !p.cpu.debug_read(linear, &mut bytes) {
        bytes.truncate(to_page_end.min(bytes.len()));
        if !p.cpu.debug_read(linear, &mut bytes) {
            return format!("  {rip:016x}: not mapped\n");
        }
    }
    let mut out = String::new();
    let mut decoder = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let mut instruction = Instruction::default();
    for _ in 0..count {
        if !decoder.can_decode() {
            break;
        }
        let at = decoder.position();
        decoder.decode_out(&mut instruction);
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        let raw: Vec<String> = bytes[at..decoder.position()].iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(out, "  {:016x}: {:<30} {text}", instruction.ip(), raw.join(" "));
    }
    out
}

fn exception_line(rip: u64, e: &Exception) -> String {
    let mut line = format!("  {} (vector {})", exception_name(e.vector), e.vector);
    if let Some(code) = e.error {
        let _ = write!(line, ", error code {code:#x}");
    }
    if e.vector == softmetal_cpu::fault::vector::PF {
        let _ = write!(line, ", address {:#x}", e.address);
    }
    let _ = writeln!(line, ", at RIP {rip:#x}");
    line
}

/// The whole report.
#[must_use]
pub fn report(machine: &mut Machine, title: &str) -> String {
    let (icount, now) = (machine.icount(), machine.now());
    let p = machine.processor_mut();
    let mut out = format!("{title}\nafter {icount} instructions, {:.6} s of virtual time\n", now.0 as f64 / 1e9);
    let chain = p.exception_chain().to_vec();
    if !chain.is_empty() {
        out.push_str("exceptions, first to last:\n");
        for (rip, e) in &chain {
            out.push_str(&exception_line(*rip, e));
        }
    }
    out.push_str("registers:\n");
    out.push_str(&registers(p));
    out.push_str("instructions at RIP:\n");
    out.push_str(&disassembly(p, 5));
    let blocks: Vec<u64> = p.last_blocks().collect();
    if !blocks.is_empty() {
        out.push_str("the last blocks that ran, oldest first:\n");
        let s = &p.cpu.state;
        let (bits, long) = (s.mode.bits(), s.mode.long());
        let base = if long { 0 } else { s.segments[seg::CS].base };
        for rip in blocks {
            let linear = base.wrapping_add(rip);
            out.push_str(&disassemble_at(p, linear, rip, bits, 1));
        }
    }
    out
}
