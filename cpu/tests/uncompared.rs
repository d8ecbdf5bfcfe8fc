//! Instructions that no host can judge, because they tell of the processor itself, of time, or of what the system has set
//! up: with every engine.

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, ax, dword_ptr, eax, ecx, edx, ptr, qword_ptr, r8, r9, rax, rbx, rcx, rsi, word_ptr};
use softmetal_cpu::Engine;
use softmetal_cpu::exec::cpuid::Model;
use softmetal_cpu::fault::vector;
use softmetal_cpu::flags::{AF, ARITHMETIC, CF, OF, PF, SF, ZF};
use softmetal_cpu::state::{Segment, TableRegister, bits, reg, seg};
use softmetal_cpu::testing::{CODE, DESCRIPTORS, Harness};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Translator];
const DATA: u64 = 0x9000;
const GP: Option<(u8, Option<u32>)> = Some((vector::GP, Some(0)));

type Body = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// 64-bit code at privilege level `cpl`, with bits of CR4 set.
fn machine(engine: Engine, cpl: u8, cr4: u64, body: Body) -> Harness {
    let mut h = Harness::long().asm(body).on(engine);
    if cpl == 3 {
        h.p.cpu.state.cpl = 3;
        for (n, selector) in [(seg::CS, 0x33_u16), (seg::SS, 0x2b)] {
            h.p.cpu.set_segment(n, Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]));
        }
    }
    h.p.cpu.state.cr4 |= cr4;
    let state = h.p.cpu.state.clone();
    h.p.load(state);
    h.set_reg(reg::RBX, DATA);
    h
}

fn raised(h: &mut Harness, n: u64) -> Option<(u8, Option<u32>)> {
    h.run(n);
    h.exception().map(|(_, e)| (e.vector, e.error))
}

#[test]
fn the_time_and_the_number_of_the_processor() {
    for engine in ENGINES {
        let mut h = machine(engine, 0, 0, |a| {
            a.rdtsc()?;
            a.mov(r8, rax)?;
            a.rdtscp()?;
            a.mov(r9, rcx)?;
            a.rdpid(rsi)
        });
        h.p.cpu.state.msr.tsc_aux = 0x1234_5678;
        for r in [reg::RAX, reg::RDX, reg::RCX, reg::RSI] {
            h.set_reg(r, !0);
        }
        assert_eq!(raised(&mut h, 5), None);
        // The counter is the instruction count here; the upper halves are cleared.
        assert_eq!([reg::RAX, reg::RDX].map(|r| h.reg(r)), [2, 0], "{engine:?}");
        assert_eq!((h.reg(8), h.reg(9), h.reg(reg::RSI)), (0, 0x1234_5678, 0x1234_5678), "{engine:?}");
        for body in [(|a| a.rdtsc()) as Body, |a| a.rdtscp()] {
            assert_eq!(raised(&mut machine(engine, 3, bits::CR4_TSD, body), 1), GP, "{engine:?}");
            assert_eq!(raised(&mut machine(engine, 0, bits::CR4_TSD, body), 1), None, "{engine:?}");
        }
        // RDPMC: there are no counters, so none has a number.
        for cpl in [0, 3] {
            assert_eq!(raised(&mut machine(engine, cpl, bits::CR4_PCE, |a| a.rdpmc()), 1), GP, "{engine:?}");
        }
    }
}

/// CF says that there is a number, the other flags are 0; 16 bits leave the upper ones, 32 clear them.
#[test]
fn random_numbers() {
    let cases: [(Body, u64); 6] = [
        (|a| a.rdrand(ax), 0xffff),
        (|a| a.rdrand(eax), 0xffff_ffff),
        (|a| a.rdrand(rax), !0),
        (|a| a.rdseed(ax), 0xffff),
        (|a| a.rdseed(eax), 0xffff_ffff),
        (|a| a.rdseed(rax), !0),
    ];
    for engine in ENGINES {
        for (body, mask) in cases {
            let mut h = machine(engine, 3, 0, body);
            let all = h.flags() | OF | SF | ZF | AF | PF;
            h.p.cpu.set_eflags(all);
            h.set_reg(reg::RAX, 0x1111_1111_1111_1111);
            let first = CODE;
            let mut seen = Vec::new();
            for _ in 0..3 {
                assert_eq!(raised(&mut h, 1), None);
                let v = h.reg(reg::RAX);
                assert_eq!(h.flags() & ARITHMETIC, CF, "{engine:?}");
                let above = if mask == 0xffff { 0x1111_1111_1111_0000 } else { 0 };
                assert_eq!(v & !mask, above, "{engine:?}: {v:#x}");
                seen.push(v & mask);
                h.p.cpu.state.rip = first;
            }
            assert!(seen[0] != seen[1] && seen[1] != seen[2], "{engine:?}: {seen:x?}");
        }
    }
}

/// They end at once here, as the manual allows; what they refuse is as it says (SDM 2, TPAUSE, UMONITOR, UMWAIT).
#[test]
fn waits_of_programs() {
    for engine in ENGINES {
        let waits: [Body; 2] = [|a| a.tpause(ecx), |a| a.umwait(ecx)];
        for body in waits {
            for (state, fault) in [(0, None), (1, None), (2, GP), (1 << 31, GP)] {
                let mut h = machine(engine, 3, 0, body);
                h.set_reg(reg::RCX, 1 << 32 | state);
                let all = h.flags() | ARITHMETIC;
                h.p.cpu.set_eflags(all);
                assert_eq!(raised(&mut h, 1), fault, "{engine:?}");
                if fault.is_none() {
                    assert_eq!((h.flags() & ARITHMETIC, h.p.icount()), (0, 1), "{engine:?}");
                }
            }
            assert_eq!(raised(&mut machine(engine, 3, bits::CR4_TSD, body), 1), GP, "{engine:?}");
        }
        // UMONITOR reads its line: nothing is there, or it is not canonical.
        for (address, fault) in [(DATA, None), (0x7f00_0000, Some((vector::PF, Some(4)))), (1 << 62, GP)] {
            let mut h = machine(engine, 3, 0, |a| a.umonitor(rax));
            h.set_reg(reg::RAX, address);
            assert_eq!(raised(&mut h, 1), fault, "{engine:?}: {address:#x}");
        }
    }
}

#[test]
fn serialize_and_direct_stores() {
    for engine in ENGINES {
        let mut h = machine(engine, 3, 0, |a| {
            a.movdiri(qword_ptr(rbx), rax)?;
            a.serialize()?;
            a.movdiri(dword_ptr(rbx + 9), edx)
        });
        h.set_reg(reg::RAX, 0x1122_3344_5566_7788);
        h.set_reg(reg::RDX, 0xaabb_ccdd_eeff_0011);
        let flags = h.flags();
        assert_eq!(raised(&mut h, 3), None);
        assert_eq!((h.u64(DATA), h.u64(DATA + 8), h.flags()), (0x1122_3344_5566_7788, 0xee_ff00_1100, flags), "{engine:?}");
        // Across into a page that is not there: nothing is stored.
        let mut h = machine(engine, 3, 0, |a| a.movdiri(qword_ptr(rbx), rax));
        h.set_reg(reg::RBX, softmetal_cpu::testing::RAM - 4);
        assert_eq!(raised(&mut h, 1), Some((vector::PF, Some(6))), "{engine:?}");
        assert_eq!(h.u64(softmetal_cpu::testing::RAM - 8), 0);
    }
}

/// SGDT, SIDT, SLDT, STR, SMSW: of 16 bits to memory, of the operand's size to registers; #GP(0) outside of ring 0 with UMIP.
#[test]
fn stores_of_system_registers() {
    let stores: [(Body, &[u8]); 7] = [
        (|a| a.sgdt(ptr(rbx)), &[0x34, 0x12, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]),
        (|a| a.sidt(ptr(rbx)), &[0x78, 0x56, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80]),
        (|a| a.sldt(word_ptr(rbx)), &[0x68, 0]),
        (|a| a.str(word_ptr(rbx)), &[0x70, 0]),
        (|a| a.smsw(word_ptr(rbx)), &[0x33, 0]),
        (
            |a| {
                a.sldt(rax)?;
                a.mov(qword_ptr(rbx), rax)
            },
            &[0x68, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            |a| {
                a.smsw(rax)?;
                a.mov(qword_ptr(rbx), rax)
            },
            &[0x33, 0, 1, 0x80, 0, 0, 0, 0],
        ),
    ];
    for engine in ENGINES {
        for (body, stored) in stores {
            for (cpl, umip) in [(0, true), (3, false), (3, true)] {
                let mut h = machine(engine, cpl, if umip { bits::CR4_UMIP } else { 0 }, body);
                h.set_mem(DATA, &[0xee; 16]);
                h.set_reg(reg::RAX, !0);
                let s = &mut h.p.cpu.state;
                s.gdtr = TableRegister { base: 0x1122_3344_5566_7788, limit: 0x1234 };
                s.idtr = TableRegister { base: 0x8070_6050_4030_2010, limit: 0x5678 };
                s.ldtr.selector = 0x68;
                s.tr.selector = 0x70;
                let refused = cpl == 3 && umip;
                // There is no IDT that could take it.
                assert_eq!(raised(&mut h, 2).is_some_and(|e| e == (vector::GP, Some(0))), refused, "{engine:?}: {stored:x?}");
                let mut left = [0; 16];
                h.mem(DATA, &mut left);
                let expected = if refused { vec![0xee; 16] } else { [stored, &vec![0xee; 16 - stored.len()]].concat() };
                assert_eq!(left.to_vec(), expected, "{engine:?}, ring {cpl}");
            }
        }
    }
}

/// A far pointer with an offset of 64 bits, which Intel's processors have, and the others' #UD is not (SDM 2, CALL, JMP, LSS).
#[test]
fn far_pointers_of_64_bits() {
    for engine in ENGINES {
        for body in [(|a| a.add_instruction(iced_x86::Instruction::with1(iced_x86::Code::Jmp_m1664, at())?)) as Body, |a| {
            a.add_instruction(iced_x86::Instruction::with1(iced_x86::Code::Call_m1664, at())?)
        }] {
            let mut h = machine(engine, 0, 0, body);
            h.set_u64(DATA, 0x20_0000);
            h.set_u64(DATA + 8, 8);
            h.set_mem(0x20_0000, &[0x90; 4]);
            assert_eq!(raised(&mut h, 2), None, "{engine:?}");
            assert_eq!(h.p.cpu.state.rip, 0x20_0001, "{engine:?}");
        }
        for (code, n) in
            [(iced_x86::Code::Lss_r64_m1664, seg::SS), (iced_x86::Code::Lfs_r64_m1664, seg::FS), (iced_x86::Code::Lgs_r64_m1664, seg::GS)]
        {
            let mut h = machine(engine, 0, 0, |_| Ok(()));
            let i = iced_x86::Instruction::with2(code, iced_x86::Register::RSI, at()).unwrap();
            let bytes = h.assemble(CODE, |a| a.add_instruction(i));
            h.set_mem(CODE, &bytes);
            h.set_u64(DATA, 0x1122_3344_5566_7788);
            h.set_u64(DATA + 8, 0x10);
            assert_eq!(raised(&mut h, 1), None, "{engine:?}");
            assert_eq!((h.reg(reg::RSI), h.p.cpu.state.segments[n].selector), (0x1122_3344_5566_7788, 0x10), "{engine:?}");
        }
    }
}

fn at() -> iced_x86::MemoryOperand {
    iced_x86::MemoryOperand::with_base(iced_x86::Register::RBX)
}

/// RDX and RCX are what a program may not name in PKRU's instructions.
#[test]
fn protection_key_rights() {
    for engine in ENGINES {
        let both: Body = |a| {
            a.wrpkru()?;
            a.mov(eax, 0)?;
            a.mov(edx, -1)?;
            a.rdpkru()
        };
        let mut h = machine(engine, 3, bits::CR4_PKE, both);
        for (r, v) in [(reg::RAX, 0x5555_0000), (reg::RCX, 0), (reg::RDX, 0)] {
            h.set_reg(r, v);
        }
        assert_eq!(raised(&mut h, 4), None, "{engine:?}");
        assert_eq!((h.reg(reg::RAX), h.reg(reg::RDX)), (0x5555_0000, 0), "{engine:?}");
        for (wrong, body) in [(reg::RCX, both), (reg::RDX, both), (reg::RCX, |a| a.rdpkru())] {
            let mut h = machine(engine, 3, bits::CR4_PKE, body);
            for r in [reg::RCX, reg::RDX] {
                h.set_reg(r, u64::from(r == wrong));
            }
            assert_eq!(raised(&mut h, 1), GP, "{engine:?}");
        }
        assert_eq!(raised(&mut machine(engine, 3, 0, |a| a.rdpkru()), 1), Some((vector::UD, None)), "{engine:?}");
    }
}

/// What other manufacturers' processors do otherwise: MOVSXD to 16 bits reads 16 (SDM 2, MOVSXD), and the opcodes of
/// PREFETCH that name no prefetch are NOPs that read nothing (SDM 2, table A-3).
#[test]
fn as_intels_processors_do() {
    for engine in ENGINES {
        let mut h = machine(engine, 0, 0, |_| Ok(())).code(&[0x66, 0x63, 0x03]);
        h.set_reg(reg::RBX, softmetal_cpu::testing::RAM - 2);
        h.set_reg(reg::RAX, !0);
        h.set_mem(softmetal_cpu::testing::RAM - 2, &[0x34, 0x12]);
        assert_eq!(raised(&mut h, 1), None, "{engine:?}");
        assert_eq!(h.reg(reg::RAX), 0xffff_ffff_ffff_1234, "{engine:?}");
        for code in [&[0x0f, 0x0d, 0x3b][..], &[0x66, 0x0f, 0x0d, 0x1b], &[0x48, 0x0f, 0x0d, 0xc3]] {
            let mut h = machine(engine, 0, 0, |_| Ok(())).code(code);
            h.set_reg(reg::RBX, 0x7f00_0000);
            let before = h.p.cpu.state.regs;
            assert_eq!(raised(&mut h, 1), None, "{engine:?}: {code:x?}");
            assert_eq!((h.p.cpu.state.rip, h.p.cpu.state.regs[..16].to_vec()), (CODE + code.len() as u64, before[..16].to_vec()));
        }
    }
}

/// FEMMS empties the x87 as EMMS does, and is #UD where there is no 3DNow!.
#[test]
fn femms_is_amds_emms() {
    for engine in ENGINES {
        for (model, fault) in [("k6-2", None), ("pentium3", Some((vector::UD, None)))] {
            let mut h = Harness::protected32().code(&[0x0f, 0x0e, 0xd9, 0x33]).on(engine);
            h.p.cpu.model = Model::by_name(model).unwrap();
            h.set_reg(reg::RBX, DATA);
            let state = h.p.cpu.state.clone();
            h.p.load(state);
            // FLDZ before it, FNSTENV behind: all tags are empty.
            h.set_mem(CODE - 2, &[0xd9, 0xee]);
            h.p.cpu.state.rip = CODE - 2;
            assert_eq!(raised(&mut h, 3), fault, "{engine:?}: {model}");
            if fault.is_none() {
                assert_eq!(h.u64(DATA + 8) as u16, 0xffff, "{engine:?}: {model}");
            }
        }
    }
}
