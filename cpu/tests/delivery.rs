//! What comes of an exception while another is delivered, and what comes first of several at once (SDM 3A, 6.9 and 6.15),
//! with every engine.

use softmetal_bus::attention;
use softmetal_cpu::fault::vector;
use softmetal_cpu::flags::{IF, RF, TF};
use softmetal_cpu::state::{Segment, TableRegister, reg, seg};
use softmetal_cpu::testing::{CODE, DESCRIPTORS, GDT, Harness, STACK};
use softmetal_cpu::{Engine, Stop};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Translator];
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const RSP0: u64 = 0x7000;
/// The handler of vector `v` is at `HANDLERS + 16 * v`: IRETQ.
const HANDLERS: u64 = 0x2_0000;
/// Where nothing is mapped, and no canonical address.
const NOWHERE: u64 = 0x7f00_0000;
const WILD: u64 = 1 << 62;
/// A descriptor that is not present, of data of ring 3; the task register.
const ABSENT: u16 = 0x4b;
const TASK: u16 = 0x50;

fn handler(v: u8) -> u64 {
    HANDLERS + 16 * u64::from(v)
}

fn gate(h: &mut Harness, v: u8, gate: u64) {
    h.set_u64(IDT + 16 * u64::from(v), gate);
}

/// A gate to the usual handler, reachable from ring 3, with a stack of the interrupt stack table.
fn usual(v: u8, ist: u64) -> u64 {
    let at = handler(v);
    at & 0xffff | 8 << 16 | ist << 32 | 0xee << 40 | (at >> 16) << 48
}

/// 64-bit mode with a handler for every vector and a task state.
fn machine(engine: Engine, code: &[u8]) -> Harness {
    let mut h = Harness::long().code(code).on(engine);
    for v in 0..=255 {
        gate(&mut h, v, usual(v, 0));
        h.set_mem(handler(v), &[0x48, 0xcf]);
    }
    h.set_u64(GDT + u64::from(ABSENT & !7), DESCRIPTORS[5] & !(1 << 47));
    h.set_u64(TSS + 4, RSP0);
    // Of the interrupt stack table: not canonical, not mapped; the fifth entry lies beyond the limit.
    h.set_u64(TSS + 0x24, WILD);
    h.set_u64(TSS + 0x2c, NOWHERE);
    let s = &mut h.p.cpu.state;
    s.gdtr = TableRegister { base: GDT, limit: 0x4f };
    s.idtr = TableRegister { base: IDT, limit: 0xfff };
    s.tr = Segment { selector: TASK, attributes: 0x8b, limit: 0x43, base: TSS };
    h
}

fn user(h: &mut Harness) {
    h.p.cpu.state.cpl = 3;
    for (n, selector) in [(seg::CS, 0x33_u16), (seg::SS, 0x2b)] {
        h.p.cpu.set_segment(n, Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]));
    }
}

/// The words on the stack of the handler that has just been entered.
fn frame(h: &Harness) -> [u64; 5] {
    let sp = h.reg(reg::RSP);
    [0, 8, 16, 24, 32].map(|at| h.u64(sp + at))
}

/// Goes wrong while an exception is delivered, by its gate: what is raised, its error code without EXT, and CR2.
struct Second {
    vector: u8,
    gate: fn(u8) -> u64,
    error: fn(u8) -> u32,
}
const SECOND: [Second; 6] = [
    // The gate is not present; no gate; its selector is null.
    Second { vector: vector::NP, gate: |v| usual(v, 0) & !(1 << 47), error: |v| u32::from(v) << 3 | 2 },
    Second { vector: vector::GP, gate: |_| 0, error: |v| u32::from(v) << 3 | 2 },
    Second { vector: vector::GP, gate: |v| usual(v, 0) & !(0xffff << 16), error: |_| 0 },
    // Stacks.
    Second { vector: vector::SS, gate: |v| usual(v, 1), error: |_| 0 },
    Second { vector: vector::PF, gate: |v| usual(v, 2), error: |_| 2 },
    Second { vector: vector::TS, gate: |v| usual(v, 5), error: |_| u32::from(TASK) },
];

/// What is tried in ring 3: the exception that comes first, whether EXT is set while it is delivered.
const FIRST: [(u8, bool, &[u8]); 10] = [
    // DIV ECX; INT1; INT3; UD2; MOV DS, EBX; PUSH RAX (with a stack that is not canonical, below)
    (vector::DE, true, &[0xf7, 0xf1]),
    (vector::DB, true, &[0xf1]),
    (vector::BP, false, &[0xcc]),
    (vector::UD, true, &[0x0f, 0x0b]),
    (vector::NP, true, &[0x8e, 0xdb]),
    (vector::SS, true, &[0x50]),
    // HLT; MOV AL, [NOWHERE + 0x10]; FWAIT; MOV EAX, [RSI], unaligned.
    (vector::GP, true, &[0xf4]),
    (vector::PF, true, &[0x8a, 0x04, 0x25, 0x10, 0, 0, 0x7f]),
    (vector::MF, true, &[0x9b]),
    (vector::AC, true, &[0x8b, 0x06]),
];

fn tried(engine: Engine, first: u8, code: &[u8]) -> Harness {
    let mut h = machine(engine, code);
    user(&mut h);
    h.set_reg(reg::RBX, ABSENT.into());
    h.set_reg(reg::RSI, 0x9001);
    let s = &mut h.p.cpu.state;
    match first {
        vector::SS => s.regs[usize::from(reg::RSP)] = WILD,
        // FLDENV of an environment in which an unmasked division by zero waits.
        vector::MF => {
            s.rip = CODE + 0x100;
            h.set_mem(CODE + 0x100, &[0xd9, 0x24, 0x25, 0x00, 0x98, 0, 0]);
            h.set_u64(0x9800, 4 << 32 | 0x37b);
            assert_eq!(h.run(1), Stop::Budget);
            h.p.cpu.state.rip = CODE;
        }
        vector::AC => {
            s.cr0 |= 1 << 18;
            s.eflags |= 1 << 18;
        }
        _ => {}
    }
    h
}

#[test]
fn an_exception_in_the_delivery_of_another() {
    const CONTRIBUTORY: [u8; 5] = [vector::DE, vector::TS, vector::NP, vector::SS, vector::GP];
    for engine in ENGINES {
        for (first, ext, code) in FIRST {
            for second in &SECOND {
                let what = format!("{engine:?}: {} while {first} is delivered", second.vector);
                let mut h = tried(engine, first, code);
                gate(&mut h, first, (second.gate)(first));
                // The second one has a gate of its own, if it is not the same vector, which then faults for ever.
                let doubles = if first == vector::PF {
                    CONTRIBUTORY.contains(&second.vector) || second.vector == vector::PF
                } else {
                    CONTRIBUTORY.contains(&first) && CONTRIBUTORY.contains(&second.vector)
                };
                assert_eq!(h.run(1), Stop::Budget, "{what}");
                let (v, error) = if doubles {
                    (vector::DF, 0)
                } else {
                    (second.vector, (second.error)(first) | u32::from(ext && second.vector != vector::PF))
                };
                let [pushed, rip, cs, ..] = frame(&h);
                assert_eq!(h.p.cpu.state.rip, handler(v), "{what}");
                assert_eq!((pushed, rip, cs), (error.into(), CODE, 0x33), "{what}");
                let page_fault = match (first, second.vector) {
                    (_, vector::PF) => NOWHERE - 8,
                    (vector::PF, _) => NOWHERE + 0x10,
                    _ => 0,
                };
                assert_eq!(h.p.cpu.state.cr2, page_fault, "{what}");
            }
        }
    }
}

#[test]
fn an_exception_in_the_delivery_of_an_interrupt() {
    for engine in ENGINES {
        for second in &SECOND {
            let mut h = machine(engine, &[0x90]);
            user(&mut h);
            h.p.cpu.state.eflags |= IF;
            gate(&mut h, 0x50, (second.gate)(0x50));
            h.interrupt(0x50);
            assert_eq!(h.run(1), Stop::Budget);
            let error = (second.error)(0x50) | u32::from(second.vector != vector::PF);
            assert_eq!((h.p.cpu.state.rip, frame(&h)[..2].to_vec()), (handler(second.vector), vec![error.into(), CODE]));
        }
    }
}

#[test]
fn an_exception_in_the_delivery_of_a_double_fault() {
    for engine in ENGINES {
        for second in &SECOND {
            let mut h = tried(engine, vector::GP, &[0xf4]);
            for v in [vector::GP, vector::DF] {
                gate(&mut h, v, (second.gate)(v));
            }
            // What is benign after #GP is delivered by itself.
            let doubles = second.vector != vector::PF;
            assert_eq!(h.run(1), if doubles { Stop::Shutdown } else { Stop::Budget }, "{}", second.vector);
        }
    }
}

/// What is due at once comes in the order of SDM 3A, table 6-2: all before the first instruction of the handler before it.
#[test]
fn what_comes_first() {
    for engine in ENGINES {
        // NOP, single-stepped, during which an NMI and an interrupt come.
        let mut h = machine(engine, &[0x90, 0x0f, 0x0b]);
        h.p.cpu.state.eflags |= TF | IF;
        assert_eq!(h.run(1), Stop::Budget);
        h.p.cpu.attention.raise(attention::NMI);
        h.interrupt(0x50);
        for (v, from) in [(vector::DB, CODE + 1), (vector::NMI, handler(vector::DB))] {
            h.run(1);
            assert_eq!((h.p.cpu.state.rip, frame(&h)[0]), (handler(v), from), "{engine:?}");
        }
        // The gates have closed IF: two IRETQs, then the interrupt comes before UD2 does.
        h.run(2);
        assert_eq!(h.p.cpu.state.rip, CODE + 1);
        h.run(1);
        assert_eq!((h.p.cpu.state.rip, frame(&h)[0]), (handler(0x50), CODE + 1), "{engine:?}");

        // An interrupt, then an instruction breakpoint, then what is wrong with the instruction.
        let mut h = machine(engine, &[0x0f, 0x0b]);
        h.p.cpu.state.eflags |= IF;
        let mut state = h.p.cpu.state.clone();
        (state.dr[0], state.dr[7]) = (CODE, 2);
        h.p.load(state);
        h.interrupt(0x50);
        for (v, next) in [(0x50, CODE), (vector::DB, CODE)] {
            h.run(1);
            assert_eq!((h.p.cpu.state.rip, frame(&h)[0]), (handler(v), CODE), "{engine:?}");
            // The debugger sets RF.
            let pushed = h.reg(reg::RSP) + 16;
            h.set_u64(pushed, h.u64(pushed) | if v == vector::DB { RF } else { 0 });
            h.run(1);
            assert_eq!(h.p.cpu.state.rip, next);
        }
        h.run(1);
        assert_eq!(h.p.cpu.state.rip, handler(vector::UD), "{engine:?}");
    }
}

/// A MOV SS holds off NMIs too; the trap of its operand's breakpoint comes behind what follows, even INT3, so that the first
/// instruction of that handler is not the first that the #DB handler sees.
#[test]
fn mov_ss_and_what_follows() {
    const WATCHED: u64 = 0x9000;
    // MOV SS, [WATCHED]; then one of these.
    for (after, to, back) in [
        (&[0x90][..], CODE + 8, CODE + 8),
        (&[0xcc], handler(vector::BP), handler(vector::BP)),
        (&[0xcd, 0x50], handler(0x50), handler(0x50)),
    ] {
        for engine in ENGINES {
            let mut code = vec![0x8e, 0x14, 0x25, 0x00, 0x90, 0, 0];
            code.extend(after);
            let mut h = machine(engine, &code);
            h.set_mem(WATCHED, &[0x10, 0]);
            let mut state = h.p.cpu.state.clone();
            (state.dr[0], state.dr[7]) = (WATCHED, 2 | 3 << 16);
            h.p.load(state);
            assert_eq!(h.run(1), Stop::Budget);
            h.p.cpu.attention.raise(attention::NMI);
            h.run(1);
            assert_eq!(h.p.cpu.state.rip, to, "{engine:?}, {after:x?}");
            h.run(1);
            assert_eq!((h.p.cpu.state.rip, frame(&h)[0]), (handler(vector::DB), back), "{engine:?}, {after:x?}");
            h.run(1);
            assert_eq!((h.p.cpu.state.rip, frame(&h)[0]), (handler(vector::NMI), handler(vector::DB)), "{engine:?}, {after:x?}");
        }
    }
}

/// NMIs wait from the delivery of one to the next IRET, that of an exception within its handler too; only one is kept.
#[test]
fn nmis_wait_for_any_iret() {
    for engine in ENGINES {
        let mut h = machine(engine, &[0x90; 4]);
        // The handler of NMIs: INT3; IRETQ.
        h.set_mem(handler(vector::NMI), &[0xcc, 0x48, 0xcf]);
        h.p.cpu.attention.raise(attention::NMI);
        h.run(1);
        for _ in 0..2 {
            h.p.cpu.attention.raise(attention::NMI);
        }
        // INT3, its IRETQ: and the second NMI comes.
        h.run(2);
        assert_eq!(h.p.cpu.state.rip, handler(vector::NMI) + 1, "{engine:?}");
        h.run(1);
        assert_eq!((h.p.cpu.state.rip, frame(&h)[0]), (handler(vector::NMI), handler(vector::NMI) + 1), "{engine:?}");
        h.run(4);
        assert_eq!((h.p.cpu.state.rip, h.reg(reg::RSP), h.p.cpu.state.nmi_blocked), (CODE, STACK, false), "{engine:?}");
    }
}
