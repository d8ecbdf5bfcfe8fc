//! What a processor has and what it has not: each instruction of some extension works, or is #UD or #GP as on processors
//! that came before it. What is printed differs from model to model.

use iced_x86::code_asm::*;

use super::cases::Add;
use super::{Body, DONE, World, sel};
use crate::image::{Emit, Image};

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;

/// Bits of CPUID leaf 1, EDX, that hang on nothing of the board: FPU to PAE, CX8, SEP, PGE, CMOV, PSE-36, MMX to SSE2.
const BASIC: u32 = 0x0782_a97f;
/// Those of leaf 0x8000_0001, EDX, that AMD added: SYSCALL, MMXEXT, long mode, 3DNow!.
const EXTENDED: u32 = 0xe040_0800;

pub fn add_all(image: &mut Image, w: &World, add: Add) {
    identity(image, add);
    instructions(image, w, add);
    control_registers(image, add);
    three_d_now(image, add);
    streaming(image, w, add);
    calls(image, w, add);
}

fn identity(image: &mut Image, add: Add) {
    add(image, "the ID flag changes", &|a| {
        a.pushfd()?;
        a.pop(ebx)?;
        a.mov(eax, ebx)?;
        a.xor(eax, 1 << 21)?;
        a.push(eax)?;
        a.popfd()?;
        a.pushfd()?;
        a.pop(eax)?;
        a.xor(eax, ebx)?;
        a.push(ebx)?;
        a.popfd()?;
        a.xor(ebx, ebx)
    });
    add(image, "CPUID: features", &|a| {
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(eax, edx)?;
        a.and(eax, BASIC)?;
        a.mov(ebx, 0)
    });
    add(image, "CPUID: AMD's features", &|a| {
        let mut none = a.create_label();
        a.mov(eax, 0x8000_0000u32)?;
        a.cpuid()?;
        a.xor(edx, edx)?;
        a.cmp(eax, 0x8000_0001u32)?;
        a.jb(none)?;
        a.cmp(eax, 0x8000_ffffu32)?;
        a.ja(none)?;
        a.mov(eax, 0x8000_0001u32)?;
        a.cpuid()?;
        a.set_label(&mut none)?;
        a.mov(eax, edx)?;
        a.and(eax, EXTENDED)?;
        a.mov(ebx, 0)
    });
}

fn instructions(image: &mut Image, w: &World, add: Add) {
    let tried: [(&str, Body); 22] = [
        ("BSWAP", &|a| a.bswap(ebx)),
        ("XADD", &|a| a.xadd(eax, ebx)),
        ("CMPXCHG", &|a| a.cmpxchg(ebx, ecx)),
        ("CMPXCHG8B", &|a| {
            a.mov(edx, 0)?;
            a.cmpxchg8b(qword_ptr(w.arena))
        }),
        ("LOCK CMPXCHG8B of a register", &|a| a.db(&[0xf0, 0x0f, 0xc7, 0xc8])),
        ("INVLPG", &|a| a.invlpg(byte_ptr(w.arena))),
        ("WBINVD", &|a| a.wbinvd()),
        ("RDTSC", &|a| {
            a.rdtsc()?;
            a.mov(eax, 1)
        }),
        ("RDMSR of the time-stamp counter", &|a| {
            a.mov(ecx, 0x10)?;
            a.rdmsr()?;
            a.mov(eax, 1)
        }),
        ("RDMSR of EFER", &|a| {
            a.mov(ecx, EFER)?;
            a.rdmsr()
        }),
        ("CMOVC", &|a| {
            a.stc()?;
            a.cmovc(eax, ebx)
        }),
        ("FCMOVE", &|a| {
            a.fninit()?;
            a.fld1()?;
            a.fldz()?;
            a.cmp(eax, eax)?;
            a.fcmove(st0, st1)?;
            a.fistp(dword_ptr(w.arena))?;
            a.mov(eax, dword_ptr(w.arena))
        }),
        ("FCOMI", &|a| {
            a.fninit()?;
            a.fld1()?;
            a.fldz()?;
            a.fcomi(st0, st1)?;
            a.setc(al)
        }),
        ("FISTTP", &|a| {
            a.fld1()?;
            a.fisttp(dword_ptr(w.arena))
        }),
        ("NOP of memory", &|a| a.nop_1(dword_ptr(w.arena))),
        ("UD2", &|a| a.ud2()),
        ("RSM", &|a| a.rsm()),
        ("FEMMS", &|a| a.femms()),
        ("PREFETCHW", &|a| a.prefetchw(byte_ptr(w.arena))),
        ("FXSAVE", &|a| a.fxsave(ptr(w.arena))),
        ("CLFLUSH", &|a| a.clflush(byte_ptr(w.arena))),
        ("MOVNTI", &|a| a.movnti(dword_ptr(w.arena), eax)),
    ];
    for (name, body) in tried {
        add(image, name, &|a| {
            a.mov(eax, 0x1122_3344)?;
            a.mov(ebx, 0x5566_7788)?;
            a.mov(ecx, 0x99aa_bbccu32)?;
            body(a)
        });
    }
}

/// Emits: set a bit of CR4, do this, and clear it again.
fn with_cr4(a: &mut CodeAssembler, bit: u32, body: Body) -> Emit {
    a.mov(eax, cr4)?;
    a.or(eax, 1i32 << bit)?;
    a.mov(cr4, eax)?;
    body(a)?;
    a.mov(ecx, cr4)?;
    a.and(ecx, !(1i32 << bit))?;
    a.mov(cr4, ecx)
}

fn control_registers(image: &mut Image, add: Add) {
    for (name, bit) in [("VME", 0), ("TSD", 2), ("DE", 3), ("PSE", 4), ("PAE", 5), ("PGE", 7), ("OSFXSR", 9), ("OSXMMEXCPT", 10)] {
        add(image, &format!("CR4.{name}"), &|a| {
            with_cr4(a, bit, &|a| {
                a.mov(eax, cr4)?;
                a.and(eax, 1i32 << bit)
            })
        });
    }
}

/// Emits: MM0 and MM1 from pairs of words, this, and MM0 in EAX and EBX.
fn with_mmx(a: &mut CodeAssembler, first: [u32; 2], second: [u32; 2], body: Body) -> Emit {
    for (register, [low, high]) in [(mm0, first), (mm1, second)] {
        a.push(high as i32)?;
        a.push(low as i32)?;
        a.movq(register, qword_ptr(esp))?;
        a.add(esp, 8)?;
    }
    body(a)?;
    a.sub(esp, 8)?;
    a.movq(qword_ptr(esp), mm0)?;
    a.pop(eax)?;
    a.pop(ebx)?;
    a.emms()
}

const fn single(v: f32) -> u32 {
    v.to_bits()
}

fn three_d_now(image: &mut Image, add: Add) {
    let floats = [[single(1.5), single(-2.0)], [single(0.25), single(3.0e30)]];
    let bytes = [[0x0102_8384, 0xff80_7f01], [0x1020_3040, 0x8001_7fff]];
    let tried: [(&str, [[u32; 2]; 2], Body); 17] = [
        ("PADDB", bytes, &|a| a.paddb(mm0, mm1)),
        ("PMADDWD", bytes, &|a| a.pmaddwd(mm0, mm1)),
        ("PSHUFW", bytes, &|a| a.pshufw(mm0, mm1, 0x1b)),
        ("PMINUB", bytes, &|a| a.pminub(mm0, mm1)),
        ("PAVGUSB", bytes, &|a| a.pavgusb(mm0, mm1)),
        ("PMULHRW", bytes, &|a| a.pmulhrw(mm0, mm1)),
        ("PFADD", floats, &|a| a.pfadd(mm0, mm1)),
        ("PFSUB", floats, &|a| a.pfsub(mm0, mm1)),
        ("PFSUBR", floats, &|a| a.pfsubr(mm0, mm1)),
        ("PFMUL", floats, &|a| a.pfmul(mm0, mm1)),
        ("PFACC", floats, &|a| a.pfacc(mm0, mm1)),
        ("PFMAX", floats, &|a| a.pfmax(mm0, mm1)),
        ("PFCMPGE", floats, &|a| a.pfcmpge(mm0, mm1)),
        ("PF2ID", floats, &|a| a.pf2id(mm0, mm1)),
        ("PI2FD", bytes, &|a| a.pi2fd(mm0, mm1)),
        ("PF2IW", floats, &|a| a.pf2iw(mm0, mm1)),
        ("PSWAPD", floats, &|a| a.pswapd(mm0, mm1)),
    ];
    for (name, [first, second], body) in tried {
        add(image, name, &|a| with_mmx(a, first, second, body));
    }
}

fn streaming(image: &mut Image, w: &World, add: Add) {
    let tried: [(&str, Body); 5] = [
        ("XORPS", &|a| a.xorps(xmm0, xmm0)),
        ("ADDPS", &|a| {
            a.mov(dword_ptr(w.arena), single(1.5) as i32)?;
            a.movss(xmm0, dword_ptr(w.arena))?;
            a.addss(xmm0, xmm0)?;
            a.movss(dword_ptr(w.arena), xmm0)?;
            a.mov(eax, dword_ptr(w.arena))
        }),
        ("ADDPD", &|a| a.addpd(xmm0, xmm0)),
        ("SFENCE", &|a| a.sfence()),
        ("LFENCE", &|a| a.lfence()),
    ];
    for (name, body) in tried {
        add(image, name, body);
        add(image, &format!("{name} with CR4.OSFXSR"), &|a| with_cr4(a, 9, body));
    }
}

/// Emits WRMSR.
fn write(a: &mut CodeAssembler, msr: u32, low: u32, high: u32) -> Emit {
    a.mov(ecx, msr)?;
    a.mov(eax, low)?;
    a.mov(edx, high)?;
    a.wrmsr()
}

fn calls(image: &mut Image, w: &World, add: Add) {
    add(image, "SYSENTER without a segment", &|a| a.sysenter());
    add(image, "SYSEXIT without a segment", &|a| a.sysexit());
    add(image, "SYSCALL switched off", &|a| a.syscall());
    let telling = image.code(32, |a| {
        a.mov(eax, cs)?;
        a.mov(ebx, ss)?;
        a.int(DONE)
    });
    // The selectors of SYSRET: ring 3's code, and the next one.
    let selectors = u32::from(sel::CODE) | u32::from(sel::CODE3 & !3) << 16;
    add(image, "SYSCALL", &|a| {
        write(a, STAR, telling as u32, selectors)?;
        write(a, EFER, 1, 0)?;
        a.syscall()
    });
    add(image, "SYSRET", &|a| {
        write(a, STAR, telling as u32, selectors)?;
        write(a, EFER, 1, 0)?;
        a.mov(ecx, telling as u32)?;
        a.sysret()
    });
    add(image, "SYSENTER", &|a| {
        write(a, 0x174, sel::CODE.into(), 0)?;
        write(a, 0x175, w.user_stack as u32, 0)?;
        write(a, 0x176, telling as u32, 0)?;
        a.sysenter()
    });
}
