//! The translator against the interpreter: programs of random instructions, run by both, must leave the same state.
//!
//! `SOFTMETAL_FUZZ=n` makes n times as many programs (and `SOFTMETAL_SEED=s` one alone).
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use iced_x86::{
    Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Formatter, Instruction, InstructionInfoFactory, IntelFormatter,
    Mnemonic as M, OpAccess, OpCodeOperandKind as K, OpKind, Register,
};
use softmetal_cpu::semantics::x87::image::FXSAVE_SIZE;
use softmetal_cpu::state::{Segment, State, reg, seg};
use softmetal_cpu::testing::operands::{self, Registers};
use softmetal_cpu::testing::{CODE, GDT, Harness, Outcome, RAM};
use softmetal_cpu::{Engine, Stop};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        softmetal_bus::splitmix64(&mut self.0)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn value(&mut self) -> u64 {
        let v = self.next();
        match self.below(6) {
            0 => v & 0xff,
            1 => v as i32 as u64,
            2 => v >> self.below(64),
            3 => [0, 1, !0, 1 << 63, 1 << 31, 0x7fff_ffff, 0x8000, 0x80][self.below(8)],
            _ => v,
        }
    }
    /// Looks like a float or a few small integers.
    fn float(&mut self) -> u64 {
        match self.below(5) {
            0 => (self.next() as i16 as f64 / 16.0).to_bits(),
            1 => u64::from((self.next() as i16 as f32).to_bits()) << 32 | u64::from((self.next() as i8 as f32 / 3.0).to_bits()),
            2 => f64::NAN.to_bits() | self.next() >> 20,
            3 => [0, 1 << 63, f64::INFINITY.to_bits(), 1, 0x0010_0000_0000_0000][self.below(5)],
            _ => self.next(),
        }
    }
}

impl Random {
    /// An x87 state that looks used: mostly numbers of a usual size in mostly full registers, mostly all exceptions masked.
    fn x87(&mut self) -> [u8; FXSAVE_SIZE] {
        let mut image = [0; FXSAVE_SIZE];
        let masks = if self.below(16) == 0 { self.below(64) } else { 0x3f };
        let control = masks as u16 | [0x300, 0x200, 0][self.below(3)] | (self.below(4) as u16) << 10;
        image[..2].copy_from_slice(&control.to_le_bytes());
        image[3] = (self.below(8) as u8) << 3;
        image[4] = [0xff, 0, self.next() as u8, self.next() as u8][self.below(4)];
        for register in image[32..].chunks_mut(16) {
            let exponent = [0x3fff + self.below(16) as u16, 0, 0x7fff, 0x4000 + self.below(70) as u16, self.next() as u16][self.below(5)];
            let mantissa = [self.next() | 1 << 63, 1 << 63, self.next()][self.below(3)];
            register[..8].copy_from_slice(&mantissa.to_le_bytes());
            register[8..10].copy_from_slice(&(exponent | (self.below(2) as u16) << 15).to_le_bytes());
        }
        image
    }
}

/// Pages of data at whose middle the base registers point; the last ends where RAM does.
const DATA: [u64; 2] = [0x20_0000, RAM - 0x1000];
const BASES: [Register; 2] = [Register::RSI, Register::R14];

/// Where the data is outside of 64-bit mode.
const NARROW_DATA: u64 = 0x20_0000;

/// A random instruction of which both engines should make the same.
fn instruction(random: &mut Random, info: &mut InstructionInfoFactory, bits: u32) -> Vec<u8> {
    loop {
        let mut bytes: Vec<u8> = Vec::new();
        if random.below(6) == 0 {
            bytes.push([0x66, 0xf2, 0xf3, 0x67, 0x64, 0x65][random.below(6)]);
        }
        if bits != 64 && random.below(4) == 0 {
            bytes.push([0x66, 0x67][random.below(2)]);
        }
        if bits != 64 && random.below(12) == 0 {
            bytes.push([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65][random.below(6)]);
        }
        if bits == 64 && random.below(2) == 0 {
            bytes.push(0x40 | random.below(16) as u8);
        }
        match random.below(14) {
            0..=4 => {}
            5 => bytes.extend([0x0f, 0x38]),
            6 => bytes.extend([0x0f, 0x3a]),
            7 | 12 | 13 => {
                bytes.clear();
                let inverted = if bits == 64 { random.next() as u8 & 0xe0 } else { 0xe0 };
                // Many have no form of 256 bits.
                let third = random.next() as u8 & [0xff, 0xfb][random.below(2)] | if bits == 64 { 0 } else { 0x40 };
                bytes.extend([0xc4, inverted | (1 + random.below(3) as u8), third]);
            }
            // x87
            8 | 9 => bytes.push(0xd8 | random.below(8) as u8),
            _ => bytes.push(0x0f),
        }
        bytes.extend((0..14).map(|_| random.next() as u8));
        let mut i = Decoder::with_ip(bits, &bytes, 0, DecoderOptions::NONE).decode();
        let stack = match bits {
            64 => matches!(i.mnemonic(), M::Push | M::Pop) && i.op0_kind() == OpKind::Register && i.op0_register().is_gpr64(),
            _ => matches!(i.mnemonic(), M::Push | M::Pop | M::Pusha | M::Popa | M::Pushad | M::Pushf | M::Pushfd),
        };
        let odd = i.is_invalid() || i.flow_control() != FlowControl::Next || i.is_privileged() || i.is_stack_instruction() && !stack;
        if odd
            || matches!(i.mnemonic(), M::Rdtsc | M::Rdtscp | M::In | M::Out | M::Sti | M::Cli | M::Popfq | M::Hlt | M::Rdrand | M::Rdseed)
        {
            continue;
        }
        if matches!(
            i.mnemonic(),
            M::Xlatb | M::Insb | M::Insd | M::Outsb | M::Outsd | M::Maskmovq | M::Maskmovdqu | M::Wrfsbase | M::Wrgsbase
        ) || i.is_string_instruction()
            || i.is_vsib()
            || (0..i.op_count()).any(|n| i.op_register(n).is_segment_register())
        {
            continue;
        }
        if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
            if matches!(i.mnemonic(), M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64 | M::Ldmxcsr | M::Fldenv | M::Frstor | M::Fldcw)
                && random.below(16) != 0
            {
                continue;
            }
            if bits != 64 {
                narrow_address(random, &mut i, bits);
            } else if i.is_ip_rel_memory_operand() {
                let to = 0x8000 + random.below(0x2000) as u64;
                i.set_memory_displacement64(to);
            } else {
                i.set_memory_base(BASES[random.below(2)]);
                i.set_memory_index(if random.below(3) == 0 { Register::R15 } else { Register::None });
                i.set_memory_index_scale(1 << random.below(4));
                let aligned = i.memory_size().size() >= 16 && random.below(8) != 0;
                let disp = (random.below(0x1100) as i64 - 0x880) & if aligned { !15 } else { !0 };
                i.set_memory_displ_size(if (-128..128).contains(&disp) { 1 } else { 8 });
                i.set_memory_displacement64(disp as u64);
            }
        }
        let kept = if bits == 64 { [Register::RSI, Register::R14, Register::R15, Register::RSP] } else { NARROW_KEPT };
        let keeps = |r: Register| !kept.contains(&r.full_register());
        let used = info.info(&i);
        let spoils =
            used.used_registers().iter().any(|u| u.access() != OpAccess::Read && u.access() != OpAccess::CondRead && !keeps(u.register()));
        let aside = kept[..3].contains(&i.op0_register().full_register()) || i.mnemonic() == M::Popa;
        if spoils && (!stack || bits != 64 && aside && i.mnemonic() != M::Push) {
            continue;
        }
        let mut encoder = Encoder::new(bits);
        if encoder.encode(&i, 0).is_ok() {
            return encoder.take_buffer();
        }
    }
}

/// Registers that programs outside of 64-bit mode keep: they hold addresses.
const NARROW_KEPT: [Register; 4] = [Register::RSI, Register::RDI, Register::RBP, Register::RSP];

/// Gives a memory operand an address at which there is data, as a rule.
fn narrow_address(random: &mut Random, i: &mut Instruction, bits: u32) {
    let size = i.memory_base().size().max(i.memory_index().size());
    let wide = if size == 0 { bits == 32 } else { size == 4 };
    let disp = random.below(0x1100) as i64 - 0x880;
    let index = random.below(3) == 0;
    if wide {
        i.set_memory_base(Register::ESI);
        i.set_memory_index(if index { Register::EDI } else { Register::None });
        i.set_memory_index_scale(1 << random.below(4));
        i.set_memory_displ_size(4);
        i.set_memory_displacement64(disp as u32 as u64);
    } else {
        i.set_memory_base([Register::SI, Register::BP][usize::from(index && random.below(3) == 0)]);
        i.set_memory_index(if index && i.memory_base() == Register::BP { Register::DI } else { Register::None });
        i.set_memory_index_scale(1);
        i.set_memory_displ_size(2);
        i.set_memory_displacement64(disp as u16 as u64);
    }
}

/// Gives `h` segments of all kinds: most that a system has, some odd ones.
fn narrow_segments(h: &mut Harness, random: &mut Random, bits: u32) {
    let flags = if bits == 32 { 0x4000 } else { 0 };
    let data = |base: u64, limit: u32, attributes: u16| Segment { selector: 0x10, attributes, limit, base };
    let s = &mut h.p.cpu.state;
    let set = |s: &mut softmetal_cpu::State, n: usize, segment: Segment| {
        s.segments[n] = segment;
        s.bases[n] = segment.base;
    };
    let offset = if bits == 32 { NARROW_DATA } else { 0x4000 };
    let near = NARROW_DATA - offset;
    for n in [seg::DS, seg::ES, seg::FS, seg::GS] {
        let odd = if n == seg::DS { random.below(5) } else { random.below(10) };
        let segment = match odd {
            // The last bytes of the data are beyond the limit.
            0 => data(near, (offset + 0xc00 + random.below(0x400) as u64) as u32, 0x93 | flags),
            // Moved, so that addresses wrap.
            1 if bits == 32 => data(0xffff_f800, u32::MAX, 0xc093),
            5 => data(near, (offset + 0x700) as u32, 0x97 | flags),
            6 => data(near, u32::MAX, 0xc091),
            7 => data(0, 0, 0),
            8 => data(near, u32::MAX, 0xc093),
            _ if bits == 32 => data(0, u32::MAX, 0xc093),
            _ => data(near, 0xffff, 0x93),
        };
        set(s, n, segment);
    }
    // The code, too, may lie anywhere, and its stack be of either size.
    let base = [0, 0, 0x800, 0x123][random.below(4)];
    let cs = &mut s.segments[seg::CS];
    if bits == 32 {
        if base != 0 {
            (cs.base, cs.limit) = (base, 0x2_0000);
            s.rip -= base;
        }
    } else {
        cs.base -= base;
        s.rip += base;
    }
    s.bases[seg::CS] = s.segments[seg::CS].base;
    let stack = match random.below(6) {
        0 => data(0x100, 0x8200, 0x93 | [0, 0x4000][random.below(2)]),
        1 => data(0x100, 0x5000, 0x97 | [0, 0x4000][random.below(2)]),
        2 => data(0x100, 0xffff, 0x93),
        _ if bits == 32 => data(0, u32::MAX, 0xc093),
        _ => data(0, 0xffff, 0x93),
    };
    set(s, seg::SS, stack);
    h.p.cpu.update_mode();
    let high = random.value() << 32;
    h.set_reg(reg::RSI, high | (offset + 0x800));
    h.set_reg(reg::RDI, high | random.below(64) as u64);
    h.set_reg(reg::RBP, high | 0x7800);
    h.set_reg(reg::RSP, high | (0x7f80 + random.below(8) as u64));
}

/// A loop of random instructions, some of them behind conditional jumps and in functions.
fn program(seed: u64, bits: u32) -> Vec<u8> {
    let mut random = Random(seed);
    let mut info = InstructionInfoFactory::new();
    let mut code = Vec::new();
    let n = 2 + random.below(40);
    for _ in 0..n {
        match random.below(12) {
            0 => {
                // Jcc over one instruction.
                let i = instruction(&mut random, &mut info, bits);
                code.extend([0x70 | random.below(16) as u8, i.len() as u8]);
                code.extend(i);
            }
            1 => {
                // CALL a function that lies here; JMP over it.
                let i = instruction(&mut random, &mut info, bits);
                let wide = bits == 16 && random.below(3) == 0;
                code.extend([0xeb, i.len() as u8 + 1 + u8::from(wide)]);
                let at = code.len();
                code.extend(i);
                code.extend(wide.then_some(0x66));
                code.push(0xc3);
                direct(&mut code, 0xe8, at, if wide { 32 } else { bits }, wide);
            }
            _ => code.extend(instruction(&mut random, &mut info, bits)),
        }
    }
    direct(&mut code, 0xe9, 0, bits, false);
    code
}

/// CALL or JMP to offset `to` of the code, with an operand of `bits` bits.
fn direct(code: &mut Vec<u8>, opcode: u8, to: usize, bits: u32, prefix: bool) {
    code.extend(prefix.then_some(0x66));
    code.push(opcode);
    let size = if bits == 16 { 2 } else { 4 };
    let by = to as i32 - (code.len() + size) as i32;
    code.extend(&by.to_le_bytes()[..size]);
}

fn run(engine: Engine, (seed, bits): (u64, u32), code: &[u8], n: u64, slice: u64) -> (Outcome, u64) {
    let mut h = match bits {
        64 => Harness::long(),
        32 => Harness::protected32(),
        _ if seed % 3 == 0 => Harness::protected16(),
        _ => Harness::real(),
    }
    .code(code);
    h.p.set_engine(engine).unwrap();
    if seed % 8 >= 6 {
        h.p.assume_other_maker();
    }
    if seed % 4 == 1 {
        // Results of the thread come when they come.
        h.p.set_heat((seed % 8) as u32);
        h.p.use_thread(true);
    }
    let mut random = Random(seed ^ 0x5555);
    for r in 0..16 {
        let v = random.value();
        if r != reg::RSP {
            h.set_reg(r, v);
        }
    }
    h.set_reg(reg::RSI, DATA[0] + 0x800);
    h.set_reg(14, DATA[1] + 0x800);
    h.set_reg(15, random.below(64) as u64);
    if seed % 16 != 15 {
        h = h.with_avx();
    }
    if bits == 64 {
        for n in [seg::FS, seg::GS] {
            h.p.cpu.state.bases[n] = (16 * (random.below(64) as i64 - 32)) as u64;
        }
    } else {
        narrow_segments(&mut h, &mut random, bits);
    }
    for y in &mut h.p.cpu.state.ymm.0 {
        for part in y.0.chunks_mut(8) {
            part.copy_from_slice(&random.float().to_le_bytes());
        }
    }
    h.p.cpu.state.fpu.fxrstor_image(&random.x87(), true);
    for page in DATA {
        for at in (page..page + 0x1000).step_by(8) {
            let v = if random.below(2) == 0 { random.float() } else { random.value() };
            h.set_u64(at, v);
        }
    }
    let stop = h.run_in_slices(n, slice);
    let memory = DATA.into_iter().map(|p| p..p + 0x1000).chain(std::iter::once(0..0x2_2000));
    (h.outcome(stop, memory), h.p.blocks_translated())
}

fn listing(code: &[u8], bits: u32) -> String {
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    let mut i = Instruction::default();
    let mut decoder = Decoder::with_ip(bits, code, if bits == 16 { 0 } else { CODE }, DecoderOptions::NONE);
    while decoder.can_decode() {
        decoder.decode_out(&mut i);
        let mut line = String::new();
        formatter.format(&i, &mut line);
        text += &format!("{:#x} {line}\n", i.ip());
    }
    text
}

/// Finds the first instruction after which the engines differ.
fn explain(seed: (u64, u32), code: &[u8], most: u64) -> String {
    let differ = |n| run(Engine::Interpreter, seed, code, n, u64::MAX).0 != run(Engine::Translator, seed, code, n, u64::MAX).0;
    let (mut same, mut different) = (0, most);
    while different - same > 1 {
        let middle = same + (different - same) / 2;
        if differ(middle) { different = middle } else { same = middle }
    }
    let before = run(Engine::Interpreter, seed, code, same, u64::MAX).0;
    let right = run(Engine::Interpreter, seed, code, different, u64::MAX).0;
    let wrong = run(Engine::Translator, seed, code, different, u64::MAX).0;
    let lines = |o: &Outcome| format!("{o:#x?}").lines().map(str::to_owned).collect::<Vec<_>>();
    let differences: Vec<_> = lines(&right)
        .iter()
        .zip(lines(&wrong).iter().chain(std::iter::repeat(&String::new())))
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(n, (a, b))| format!("line {n}: {} / {}", a.trim(), b.trim()))
        .take(12)
        .collect();
    let at = format!("{:#x} ", before.rip);
    let text = listing(code, seed.1);
    let culprit = text.lines().find(|l| l.starts_with(&at)).unwrap_or(&at);
    let shown = if std::env::var_os("SOFTMETAL_SEED").is_some() { format!("{text}{before:x?}") } else { String::new() };
    format!("seed and bits {seed:?}, instruction {different}: {culprit}; flags before {:#x}: {differences:#?}\n{shown}", before.flags)
}

#[test]
fn random_programs_leave_the_same_state() {
    compare_programs(64, 500);
}

#[test]
fn random_programs_of_32_bits_leave_the_same_state() {
    compare_programs(32, 500);
}

#[test]
fn random_programs_of_16_bits_leave_the_same_state() {
    compare_programs(16, 500);
}

fn compare_programs(bits: u32, count: u64) {
    let times = std::env::var("SOFTMETAL_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let alone = std::env::var("SOFTMETAL_SEED").ok().and_then(|v| v.parse().ok());
    let seeds = alone.map_or(0..count * times, |s| s..s + 1);
    let (mut translated, mut long, mut vectors, mut failures) = (0, 0, 0, Vec::new());
    for seed in seeds {
        let code = program(seed, bits);
        let (right, _) = run(Engine::Interpreter, (seed, bits), &code, 3000, u64::MAX);
        let slice = if seed % 4 == 0 { 300 } else { u64::MAX };
        let (got, blocks) = run(Engine::Translator, (seed, bits), &code, 3000, slice);
        translated += blocks;
        long += u64::from(right.icount == 3000);
        vectors += u64::from(right.icount == 3000 && has_avx(&code, bits));
        if got != right {
            failures.push(explain((seed, bits), &code, 3000));
            if failures.len() >= 25 {
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let enough = translated > 100 && long > 100 && vectors > 10;
    assert!(enough || alone.is_some(), "{translated} blocks, {long} programs that did not fault, {vectors} of them with AVX");
}

/// Whether one of the instructions of `code` needs CR4.OSXSAVE.
fn has_avx(code: &[u8], bits: u32) -> bool {
    let avx = |i: Instruction| (0..i.op_count()).any(|n| i.op_register(n).is_vector_register()) && i.encoding() == EncodingKind::VEX;
    Decoder::new(bits, code, DecoderOptions::NONE).into_iter().any(avx)
}

/// Where the edge of RAM is met, beyond an access that ends with it: one that runs over it, and others farther behind it.
const PLACES: [i64; 4] = [0, 1, 64, 65];

/// Every form of every instruction with a memory operand, made from its code, with RSI or ESI as the operand's base.
fn memory_forms(bits: u32) -> Vec<(Vec<u8>, usize)> {
    let mut forms = Vec::new();
    let mut encoder = Encoder::new(bits);
    'codes: for code in iced_x86::Code::values() {
        let described = code.op_code();
        let memory = (0..described.op_count()).find(|&n| {
            let kind = described.op_kind(n);
            operands::may_be_memory(kind) && operands::gathered_by(kind).is_none() && operands::registers(kind) != Some(Registers::Mmx)
        });
        let here = if bits == 64 { described.mode64() } else { described.mode32() };
        let (Some(memory), true) = (memory, described.is_instruction() && here && described.cpl3()) else { continue };
        let mut i = Instruction::default();
        i.set_code(code);
        for n in 0..described.op_count() {
            let kind = described.op_kind(n);
            if n == memory {
                i.set_op_kind(n, OpKind::Memory);
                i.set_memory_base(if bits == 64 { Register::RSI } else { Register::ESI });
                continue;
            }
            match operands::registers(kind) {
                Some(all @ (Registers::General(_) | Registers::Xmm | Registers::Ymm | Registers::One(_))) => {
                    i.set_op_kind(n, OpKind::Register);
                    i.set_op_register(n, all.nth(if matches!(kind, K::xmm_vvvv | K::xmm_is4 | K::ymm_vvvv | K::ymm_is4) { 4 } else { 3 }));
                }
                // No operand that is renamed.
                Some(_) => continue 'codes,
                None => {
                    let Some(other) = operands::other(described, n, bits) else { continue 'codes };
                    i.set_op_kind(n, other);
                    if kind == K::imm8_const_1 {
                        i.set_immediate8(1);
                    }
                }
            }
        }
        let encoded = encoder.encode(&i, 0).is_ok();
        let bytes = encoder.take_buffer();
        if encoded {
            forms.push((bytes, i.memory_size().size()));
        }
    }
    forms
}

/// Another access of the loop: none, one before the form or one behind it, so many bytes from the form's address (and with
/// `true` from its end). What does not fault shares its look at the TLB.
const NEIGHBOURS: [Option<(bool, bool, i8)>; 5] =
    [None, Some((true, false, -32)), Some((true, false, 0)), Some((false, false, -8)), Some((false, true, 0))];

/// Translated code reaches to the last byte of RAM and not beyond, with every form that it has of a memory operand.
#[test]
fn every_memory_form_at_the_edges_of_ram() {
    let forms = at_the_edges_of_ram(64, &NEIGHBOURS);
    assert!(forms > 600, "{forms}");
}

#[test]
fn every_memory_form_of_32_bits_at_the_edges_of_ram() {
    let forms = at_the_edges_of_ram(32, &NEIGHBOURS[..1]);
    assert!(forms > 500, "{forms}");
}

/// Compares all forms and returns how many there are.
fn at_the_edges_of_ram(width: u32, neighbours: &[Option<(bool, bool, i8)>]) -> usize {
    // All programs are in memory from the start, so that no store is to code.
    const FIRST: u64 = 0x40_0000;
    const ROOM: u64 = 64;
    let forms = memory_forms(width);
    let mut programs = Vec::new();
    for (form, size) in &forms {
        for neighbour in neighbours {
            let mut code = form.clone();
            if let &Some((before, from_end, by)) = neighbour {
                // MOV DL, [RSI + by]
                let access = [0x8a, 0x56, by.wrapping_add(if from_end { *size as i8 } else { 0 }) as u8];
                code.splice(if before { 0..0 } else { form.len()..form.len() }, access);
            }
            // Over and over: LFENCE keeps the instruction before it as it is, JMP goes back.
            let back = -(code.len() as i8) - 5;
            code.extend([0x0f, 0xae, 0xe8, 0xeb, back as u8]);
            assert!(code.len() <= ROOM as usize);
            programs.push((code, *size));
        }
    }
    let start = |n: usize| FIRST + n as u64 * ROOM;
    let make = |engine| {
        let mut h = if width == 64 { Harness::long() } else { Harness::protected32() }.with_avx();
        h.p.set_engine(engine).unwrap();
        for (n, (code, _)) in programs.iter().enumerate() {
            h.set_mem(start(n), code);
        }
        h.set_reg(reg::RBX, 0x1234_5678_9abc_def0);
        h.set_reg(reg::RCX, 3);
        let state = h.p.cpu.state.clone();
        (h, state)
    };
    let run = |(h, state): &mut (Harness, State), rip: u64, address: u64| {
        h.p.load(state.clone());
        h.p.cpu.state.rip = rip;
        h.set_reg(reg::RSI, address);
        let edges = || (RAM - 64..RAM).chain(0..64).step_by(8);
        for at in edges() {
            h.set_u64(at, at.wrapping_mul(0x0101_0307_0503_0701));
        }
        let stop = h.run(600);
        let s = &h.p.cpu.state;
        let bytes: Vec<u64> = edges().map(|at| h.u64(at)).collect();
        (stop, s.regs[..16].to_vec(), s.rip, h.flags(), s.icount, s.ymm, h.exception(), bytes)
    };
    let (mut right, mut got) = (make(Engine::Interpreter), make(Engine::Translator));
    for (n, (code, size)) in programs.iter().enumerate() {
        let (before, mut whole) = (got.0.p.blocks_translated(), false);
        for place in PLACES {
            let address = (RAM as i64 - *size as i64 + place) as u64;
            let expected = run(&mut right, start(n), address);
            whole |= place == 0 && expected.0 == Stop::Budget;
            assert_eq!(run(&mut got, start(n), address), expected, "{} at {address:#x}", listing(code, width));
        }
        let stays = Decoder::new(width, code, DecoderOptions::NONE).decode().flow_control() == FlowControl::Next;
        let translated = got.0.p.blocks_translated() > before;
        assert!(translated || !whole || !stays, "{} is not translated", listing(code, width));
    }
    forms.len()
}

/// Nothing is found by chance where tags of empty places in the TLB could be taken for those of pages: around address 0, and at the ends of
/// both halves of the address space.
#[test]
fn ends_of_the_address_space_are_found_where_they_are() {
    use iced_x86::code_asm::*;
    let mut forms: Vec<Vec<u8>> = Vec::new();
    let mut form = |f: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>| forms.push(Harness::long().assemble(CODE, f));
    form(&|a| a.movzx(eax, byte_ptr(rsi)));
    form(&|a| a.mov(byte_ptr(rsi), al));
    form(&|a| a.mov(eax, dword_ptr(rsi)));
    form(&|a| a.add(qword_ptr(rsi), rax));
    form(&|a| a.movaps(xmm1, xmmword_ptr(rsi)));
    form(&|a| a.vmovaps(ymm1, ymmword_ptr(rsi)));
    form(&|a| a.vmovups(ymmword_ptr(rsi), ymm2));
    // They share a look: two, two that are far from each other, two that are aligned.
    form(&|a| a.mov(rax, qword_ptr(rsi)).and_then(|()| a.mov(rdx, qword_ptr(rsi + 8))));
    form(&|a| a.mov(rax, qword_ptr(rsi)).and_then(|()| a.mov(qword_ptr(rsi + 0x1f0), rdx)));
    form(&|a| a.movaps(xmm1, xmmword_ptr(rsi)).and_then(|()| a.movaps(xmmword_ptr(rsi + 16), xmm1)));
    let pages: [u64; 8] =
        [0, 0x1000, 0x2000, 0x3000, 0x8000_0000_0000, 0xffff_8000_0000_0000, 0xffff_ffff_ffff_f000, 0xffff_ffff_ffff_e000];
    let offsets = [0, 1, 8, 0x10, 0x1f0, 0x1f8].map(|by: u64| by.wrapping_neg());
    for (n, form) in forms.iter().enumerate() {
        let mut code = Harness::long().assemble(CODE, |a| a.mov(ecx, 400));
        let start = code.len();
        code.extend(form);
        // From the middle of the rounds on at RDI: some of them are interpreted.
        code.extend(Harness::long().assemble(CODE, |a| {
            a.cmp(ecx, 200)?;
            a.cmove(rsi, rdi)?;
            a.dec(ecx)
        }));
        code.extend([0x75, (code.len() + 2 - start).wrapping_neg() as u8, 0xf4]);
        for target in pages.iter().flat_map(|page| offsets.map(|by| page.wrapping_add(by))) {
            let outcome = |engine, other_maker| {
                let mut h = Harness::long().code(&code).with_avx();
                h.p.set_engine(engine).unwrap();
                h.p.set_heat(1);
                if other_maker {
                    h.p.assume_other_maker();
                }
                h.set_reg(reg::RSI, DATA[0]);
                h.set_reg(reg::RDI, target);
                for at in (0..0x4000).step_by(8).filter(|at| !(GDT..GDT + 0x100).contains(at)) {
                    h.set_u64(at, at ^ 0x5a5a);
                }
                let stop = h.run(10_000);
                assert_eq!(h.p.blocks_translated() > 0, engine == Engine::Translator);
                h.outcome(stop, [0..0x4000, DATA[0]..DATA[0] + 0x1000])
            };
            let right = outcome(Engine::Interpreter, false);
            for other_maker in [false, true] {
                assert_eq!(outcome(Engine::Translator, other_maker), right, "form {n} at {target:#x}, {other_maker}");
            }
        }
    }
}

/// Outside of 64-bit mode VZEROUPPER and VZEROALL leave YMM8 to YMM15 alone (SDM 2, VZEROUPPER).
#[test]
fn code_of_32_bits_does_not_clear_registers_beyond_its_own() {
    use iced_x86::code_asm::*;
    for whole in [false, true] {
        let outcome = |engine| {
            let h = Harness::protected32().asm(|a| {
                a.mov(ecx, 20)?;
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                if whole {
                    a.vzeroall()?
                } else {
                    a.vzeroupper()?
                }
                a.dec(ecx)?;
                a.jne(again)?;
                a.hlt()
            });
            let mut h = h.with_avx();
            h.p.set_engine(engine).unwrap();
            h.p.set_heat(1);
            h.p.cpu.state.ymm.0.iter_mut().for_each(|y| y.0.fill(7));
            let stop = h.run(1000);
            assert_eq!(h.p.blocks_translated() > 0, engine == Engine::Translator);
            h.outcome(stop, [])
        };
        let right = outcome(Engine::Interpreter);
        assert_eq!(right.ymm.0.map(|y| y.0[31]), std::array::from_fn(|n| if n < 8 { 0 } else { 7 }));
        assert_eq!(outcome(Engine::Translator), right);
    }
}
