//! The cases.

use iced_x86::code_asm::*;

use super::{Body, DONE, INNER_GATE, TASK_GATE, World, sel};
use crate::image::{Emit, Image};
use crate::tables::pte;

/// Adds a case of that name.
pub(super) type Add<'a> = &'a mut dyn FnMut(&mut Image, &str, Body);

pub fn add_all(image: &mut Image, w: &World, add: Add) {
    segments(image, w, add);
    queries(image, add);
    transfers(image, w, add);
    rings(image, w, add);
    tasks(image, w, add);
    v86(image, w, add);
    debugging(image, w, add);
    paging(image, w, add);
    flags(image, add);
    x87(image, w, add);
}

/// Emits: load `segment` with `selector`.
fn load(a: &mut CodeAssembler, segment: AsmRegisterSegment, selector: u16) -> Emit {
    a.mov(eax, u32::from(selector))?;
    a.mov(segment, ax)
}

/// A far call or jump: `opcode` with a pointer.
fn far(a: &mut CodeAssembler, opcode: u8, selector: u16, offset: u32) -> Emit {
    let o = offset.to_le_bytes();
    let s = selector.to_le_bytes();
    a.db(&[opcode, o[0], o[1], o[2], o[3], s[0], s[1]])
}
const CALL: u8 = 0x9a;
const JMP: u8 = 0xea;

fn segments(image: &mut Image, w: &World, add: Add) {
    for (name, selector) in [
        ("execute-only", sel::EXECUTE_ONLY),
        ("read-only", sel::READ_ONLY),
        ("an absent segment", sel::ABSENT),
        ("a task state", sel::TASK),
        ("a null selector", 0),
        ("past the table", sel::WILD),
        ("ring 3 data", sel::DATA3),
        ("the LDT, which is none", 0x0c),
    ] {
        add(image, &format!("DS: {name}"), &|a| load(a, ds, selector));
        add(image, &format!("SS: {name}"), &|a| load(a, ss, selector));
    }
    add(image, "a load past the limit", &|a| {
        load(a, ds, sel::SMALL)?;
        a.mov(eax, dword_ptr(0xffd))
    });
    add(image, "a load up to the limit", &|a| {
        load(a, es, sel::SMALL)?;
        a.mov(eax, dword_ptr(0xffc).es())
    });
    add(image, "a load across 4 GiB, of a small segment", &|a| {
        load(a, es, sel::SMALL)?;
        a.mov(eax, dword_ptr(0xffff_fffeu32).es())
    });
    add(image, "expand-down: within the limit", &|a| {
        load(a, es, sel::DOWN)?;
        a.mov(eax, dword_ptr(0xfff).es())
    });
    add(image, "expand-down: above it", &|a| {
        load(a, es, sel::DOWN)?;
        a.mov(eax, dword_ptr(0x1000).es())
    });
    add(image, "expand-down: above 64 KiB", &|a| {
        load(a, es, sel::DOWN)?;
        a.mov(ax, word_ptr(0xffff).es())
    });
    add(image, "a store to a read-only segment", &|a| {
        load(a, es, sel::READ_ONLY)?;
        a.mov(dword_ptr(w.arena).es(), eax)
    });
    add(image, "a store to the code segment", &|a| a.mov(dword_ptr(w.arena).cs(), eax));
    add(image, "a load by a null selector", &|a| {
        load(a, es, 0)?;
        a.mov(eax, dword_ptr(w.arena).es())
    });
    add(image, "a pop past the stack's limit", &|a| {
        load(a, ss, sel::SMALL)?;
        a.mov(esp, 0xffe)?;
        a.pop(eax)
    });
    add(image, "LSS with an absent segment", &|a| {
        a.mov(dword_ptr(w.arena), 0x1234)?;
        a.mov(word_ptr(w.arena + 4), u32::from(sel::ABSENT))?;
        a.db(&[0x0f, 0xb2, 0x25])?;
        a.dd(&[w.arena as u32])
    });
    add(image, "an LDT: LLDT, LSL, load", &|a| {
        a.mov(dword_ptr(w.arena + 8), 0x0000_00ff)?;
        a.mov(dword_ptr(w.arena + 12), 0x0040_9300)?;
        a.mov(eax, u32::from(sel::LDT))?;
        a.lldt(ax)?;
        a.mov(eax, 0x0c)?;
        a.lsl(ebx, eax)?;
        a.mov(es, ax)?;
        a.mov(eax, dword_ptr(w.arena + 12))?;
        a.mov(eax, dword_ptr(0x100).es())
    });
    for (name, selector) in [("a code segment", sel::CODE), ("itself from the LDT", sel::LDT | 4), ("past the table", sel::WILD)] {
        add(image, &format!("LLDT: {name}"), &|a| {
            a.mov(eax, u32::from(selector))?;
            a.lldt(ax)
        });
        add(image, &format!("LTR: {name}"), &|a| {
            a.mov(eax, u32::from(selector))?;
            a.ltr(ax)
        });
    }
    add(image, "LTR: a busy task", &|a| {
        a.mov(eax, u32::from(sel::TASK))?;
        a.ltr(ax)
    });
    add(image, "BOUND, below", &|a| {
        a.mov(dword_ptr(w.arena), 5)?;
        a.mov(dword_ptr(w.arena + 4), 9)?;
        a.mov(ebx, 4)?;
        a.bound(ebx, qword_ptr(w.arena))
    });
    add(image, "BOUND, at the upper end", &|a| {
        a.mov(dword_ptr(w.arena), -5)?;
        a.mov(dword_ptr(w.arena + 4), 9)?;
        a.mov(ebx, 9)?;
        a.bound(ebx, qword_ptr(w.arena))
    });
    add(image, "INTO", &|a| {
        a.mov(eax, 0x7fff_ffff)?;
        a.inc(eax)?;
        a.into()
    });
}

/// LAR, LSL, VERR, VERW and ARPL.
fn queries(image: &mut Image, add: Add) {
    for selector in (sel::CODE..=sel::DATA16).step_by(8).chain([sel::WILD]) {
        add(image, &format!("LAR, VERR of {selector:02x}"), &|a| {
            a.mov(ebx, u32::from(selector))?;
            a.lar(eax, ebx)?;
            // The other bits are left open.
            a.and(eax, 0xf0_ff00)?;
            a.verr(bx)
        });
        add(image, &format!("LSL, VERW of {selector:02x}"), &|a| {
            a.mov(ebx, u32::from(selector))?;
            a.lsl(eax, ebx)?;
            a.verw(bx)
        });
    }
    for (first, second) in [(0x20u32, 0x33u32), (0x23, 0x31)] {
        add(image, &format!("ARPL {first:x}, {second:x}"), &|a| {
            a.mov(eax, first)?;
            a.mov(ebx, second)?;
            a.cmp(eax, 0)?;
            a.arpl(ax, bx)
        });
    }
}

fn transfers(image: &mut Image, w: &World, add: Add) {
    for (name, selector) in [
        ("data", sel::DATA),
        ("ring 3 code", sel::CODE3),
        ("a null selector", 0),
        ("past the table", sel::WILD),
        ("an absent segment", sel::ABSENT),
        ("gate of ring 0", sel::GATE0),
        ("absent gate", sel::GATE_ABSENT),
        ("an LDT's descriptor", sel::LDT),
    ] {
        add(image, &format!("JMP FAR: {name}"), &|a| {
            for word in [0x5555, 0x6666, 0x7777] {
                a.push(word)?;
            }
            far(a, JMP, selector, 0)
        });
        add(image, &format!("CALL FAR: {name}"), &|a| {
            a.push(0x7777)?;
            far(a, CALL, selector, 0)
        });
    }
    add(image, "RETF to conforming code", &|a| {
        let mut there = a.create_label();
        a.push(u32::from(sel::CONFORMING) as i32)?;
        a.call(there)?;
        a.set_label(&mut there)?;
        a.add(dword_ptr(esp), 8)?;
        a.retf()?;
        a.nop()?;
        a.nop()?;
        a.nop()?;
        a.mov(eax, cs)
    });
    add(image, "RETF to an absent segment", &|a| {
        a.push(i32::from(sel::ABSENT))?;
        a.push(0)?;
        a.retf()
    });
    add(image, "IRET to data", &|a| {
        a.push(2)?;
        a.push(i32::from(sel::DATA))?;
        a.push(0)?;
        a.iretd()
    });
    add(image, "a jump past the code segment's limit", &|a| {
        a.mov(ebx, w.arena as u32)?;
        far(a, JMP, sel::CODE16, 0x1_0000)
    });
    add(image, "INT past the IDT", &|a| a.int(0x50));
    add(image, "INT1", &|a| a.int1());
    add(image, "INT3", &|a| a.int3());
}

/// Emits: go on in ring 3, with these flags.
fn to_ring3(a: &mut CodeAssembler, w: &World, flags: u32) -> Emit {
    let mut there = a.create_label();
    a.push(i32::from(sel::DATA3))?;
    a.push(w.user_stack as i32)?;
    a.push(flags as i32)?;
    a.push(i32::from(sel::CODE3))?;
    a.call(there)?;
    a.set_label(&mut there)?;
    // Past the ADD and the IRET.
    a.add(dword_ptr(esp), 5)?;
    a.iretd()?;
    load(a, ds, sel::DATA3)?;
    load(a, es, sel::DATA3)
}

fn rings(image: &mut Image, w: &World, add: Add) {
    let tried: [(&str, Body); 20] = [
        ("INT by a gate of ring 3", &|_| Ok(())),
        ("INT by a gate of ring 0", &|a| a.int(INNER_GATE as i32)),
        ("INT3", &|a| a.int3()),
        ("call gate, two parameters", &|a| {
            a.push(0x1234)?;
            a.push(0x5678)?;
            far(a, CALL, sel::GATE3, 0)
        }),
        ("call gate of ring 0", &|a| far(a, CALL, sel::GATE0, 0)),
        ("JMP by a call gate inwards", &|a| far(a, JMP, sel::GATE3, 0)),
        ("CALL of ring 0 code", &|a| far(a, CALL, sel::CODE, 0)),
        ("DS: ring 0 data", &|a| load(a, ds, sel::DATA)),
        ("CLI", &|a| a.cli()),
        ("HLT", &|a| a.hlt()),
        ("MOV to CR0", &|a| a.mov(cr0, eax)),
        ("LGDT", &|a| a.lgdt(ptr(w.arena))),
        ("SLDT, SMSW without UMIP", &|a| {
            a.sldt(bx)?;
            a.smsw(ax)?;
            a.and(eax, 1)
        }),
        ("POPF of all flags", &|a| {
            a.push(0x3200 | 0xcd5)?;
            a.popfd()
        }),
        ("IN from a port of the bitmap", &|a| {
            a.in_(al, 0x40)?;
            a.xor(eax, eax)
        }),
        ("IN from another port", &|a| a.in_(al, 0x48)),
        ("IN across the end of the open ones", &|a| a.in_(ax, 0x47)),
        ("IN past the bitmap", &|a| {
            a.mov(edx, 0x400)?;
            a.in_(al, dx)
        }),
        ("RETF inwards", &|a| {
            a.push(i32::from(sel::CODE))?;
            a.push(0)?;
            a.retf()
        }),
        ("a task gate", &|a| a.int(TASK_GATE as i32)),
    ];
    for (name, body) in tried {
        add(image, &format!("ring 3: {name}"), &|a| {
            to_ring3(a, w, 2)?;
            a.xor(eax, eax)?;
            body(a)?;
            a.int(DONE)
        });
    }
    add(image, "ring 3 with IOPL 3: CLI, OUT", &|a| {
        to_ring3(a, w, 0x3002)?;
        a.cli()?;
        a.mov(eax, 0x55)?;
        a.out(0x80, al)
    });
    add(image, "ring 3: unaligned with AC, but CR0.AM off", &|a| {
        to_ring3(a, w, 0x4_0002)?;
        a.mov(eax, dword_ptr(w.arena + 0x101))
    });
    add(image, "ring 3: unaligned with AC and CR0.AM", &|a| {
        a.mov(eax, cr0)?;
        a.or(eax, 1 << 18)?;
        a.mov(cr0, eax)?;
        to_ring3(a, w, 0x4_0002)?;
        a.mov(eax, dword_ptr(w.arena + 0x101))
    });
    add(image, "IRET outwards with data of ring 0 for SS", &|a| {
        a.push(i32::from(sel::DATA))?;
        a.push(0)?;
        a.push(2)?;
        a.push(i32::from(sel::CODE3))?;
        a.push(0)?;
        a.iretd()
    });
    add(image, "what DS is after a RETF outwards", &|a| {
        let mut there = a.create_label();
        a.push(i32::from(sel::DATA3))?;
        a.push(w.user_stack as i32)?;
        a.push(i32::from(sel::CODE3))?;
        a.call(there)?;
        a.set_label(&mut there)?;
        a.add(dword_ptr(esp), 5)?;
        a.retf()?;
        a.mov(eax, ds)?;
        a.mov(ebx, es)
    });
}

fn tasks(image: &mut Image, w: &World, add: Add) {
    add(image, "JMP to a task", &|a| far(a, JMP, sel::OTHER, 0));
    add(image, "CALL of a task", &|a| far(a, CALL, sel::OTHER, 0));
    add(image, "a task gate", &|a| a.int(TASK_GATE as i32));
    add(image, "JMP to the busy task", &|a| far(a, JMP, sel::TASK, 0));
    add(image, "JMP to a task state that is too short", &|a| far(a, JMP, sel::BROKEN, 0));
    add(image, "IRET with NT to no task", &|a| {
        a.mov(word_ptr(w.task), u32::from(sel::OTHER))?;
        a.pushfd()?;
        a.or(dword_ptr(esp), 1 << 14)?;
        a.popfd()?;
        a.iretd()
    });
}

/// Emits: go to virtual-8086 mode, at the code that follows, with these flags. Offsets count from 64 KiB below.
fn to_v86(a: &mut CodeAssembler, w: &World, flags: u32, at: u64) -> Emit {
    a.mov(dword_ptr(w.start), (at & 15) as i32)?;
    for selector in [0, 0, (w.arena >> 4) as i32, 0] {
        a.push(selector)?;
    }
    a.push(0)?;
    a.push(0x1000)?;
    a.push((flags | 1 << 17) as i32)?;
    a.push((at >> 4) as i32)?;
    a.push((at & 15) as i32)?;
    a.mov(eax, 0x1_2345)?;
    a.iretd()
}

fn v86(image: &mut Image, w: &World, add: Add) {
    let tried: [(&str, Body); 14] = [
        ("MOV EAX, CS", &|a| a.mov(eax, cs)),
        ("CLI", &|a| a.cli()),
        ("PUSHF", &|a| a.pushf()),
        ("INT 21h", &|a| a.int(0x21)),
        ("INT3", &|a| a.int3()),
        ("IN from an open port", &|a| {
            a.in_(al, 0x40)?;
            a.xor(eax, eax)
        }),
        ("IN from another port", &|a| a.in_(al, 0x48)),
        ("HLT", &|a| a.hlt()),
        ("a word at FFFF", &|a| a.mov(ax, word_ptr(0xffff))),
        ("a push at 1", &|a| {
            a.mov(sp, 1)?;
            a.push(ax)
        }),
        ("an address above 64 KiB", &|a| {
            a.mov(ebx, 0x1_0000)?;
            a.mov(al, byte_ptr(ebx))
        }),
        ("LLDT", &|a| a.db(&[0x0f, 0x00, 0xd0])),
        ("ARPL", &|a| a.db(&[0x63, 0xc0])),
        ("MOV to CR0", &|a| a.mov(cr0, eax)),
    ];
    for (name, body) in tried {
        for iopl in [0, 3] {
            let at = image.code(16, |a| {
                body(a)?;
                a.int(DONE)
            });
            add(image, &format!("v86, IOPL {iopl}: {name}"), &|a| to_v86(a, w, 2 | iopl << 12, at));
        }
    }
}

fn debugging(image: &mut Image, w: &World, add: Add) {
    add(image, "single step", &|a| {
        a.pushfd()?;
        a.or(dword_ptr(esp), 0x100)?;
        a.popfd()?;
        a.nop()?;
        a.mov(eax, 1)
    });
    add(image, "single step over MOV SS", &|a| {
        a.mov(ebx, ss)?;
        a.pushfd()?;
        a.or(dword_ptr(esp), 0x100)?;
        a.popfd()?;
        a.mov(ss, bx)?;
        a.mov(eax, 1)?;
        a.mov(eax, 2)
    });
    add(image, "a breakpoint on a store", &|a| {
        a.mov(eax, w.arena as u32 + 4)?;
        a.mov(dr0, eax)?;
        a.mov(eax, 0x000d_0402)?;
        a.mov(dr7, eax)?;
        a.mov(eax, dword_ptr(w.arena + 4))?;
        a.mov(dword_ptr(w.arena), eax)?;
        a.mov(byte_ptr(w.arena + 7), 1)?;
        a.nop()
    });
    add(image, "a breakpoint on a load", &|a| {
        a.mov(eax, w.arena as u32 + 4)?;
        a.mov(dr1, eax)?;
        a.mov(eax, 0x00f0_0408)?;
        a.mov(dr7, eax)?;
        a.mov(eax, dword_ptr(w.arena + 2))?;
        a.nop()
    });
    add(image, "a breakpoint on an instruction", &|a| {
        let mut there = a.create_label();
        a.call(there)?;
        a.set_label(&mut there)?;
        a.pop(eax)?;
        a.add(eax, 21)?;
        a.mov(dr2, eax)?;
        a.mov(eax, 0x420)?;
        a.mov(dr7, eax)?;
        for n in 0..12 {
            a.mov(bl, n)?;
        }
        Ok(())
    });
    add(image, "general detection", &|a| {
        a.mov(eax, 0x2400)?;
        a.mov(dr7, eax)?;
        a.mov(ebx, dr3)
    });
    add(image, "DR4 with CR4.DE", &|a| {
        a.mov(eax, cr4)?;
        a.or(eax, 8)?;
        a.mov(cr4, eax)?;
        a.mov(eax, dr4)
    });
    add(image, "DR4 without CR4.DE", &|a| {
        a.mov(eax, cr4)?;
        a.and(eax, -9)?;
        a.mov(cr4, eax)?;
        a.mov(eax, dr4)?;
        a.and(eax, 0xf00f)
    });
    add(image, "DR6 and DR7 after writing ones", &|a| {
        a.mov(eax, -1)?;
        a.mov(dr6, eax)?;
        a.mov(ebx, 0x0000_d3ff)?;
        a.and(ebx, 0xffff_dc00u32)?;
        a.mov(dr7, ebx)?;
        a.mov(ebx, dr7)?;
        a.mov(eax, dr6)?;
        a.and(eax, 0xffff_eff0u32)
    });
}

/// Emits: turn 32-bit paging on. The first 4 MiB are mapped one to one, the next by the table.
fn page(a: &mut CodeAssembler, w: &World, protect: bool) -> Emit {
    a.mov(dword_ptr(w.directory), (w.identity | pte::P | pte::W | pte::U) as u32)?;
    a.mov(dword_ptr(w.directory + 4), (w.table | pte::P | pte::W | pte::U) as u32)?;
    for (n, bits) in [pte::P | pte::W | pte::U, pte::P | pte::U, pte::P | pte::W, 0].into_iter().enumerate() {
        a.mov(dword_ptr(w.table + 4 * n as u64), (w.arena | bits) as u32)?;
    }
    a.mov(eax, w.directory as u32)?;
    a.mov(cr3, eax)?;
    a.mov(eax, cr0)?;
    a.or(eax, if protect { 0x8001_0000u32 } else { 0x8000_0000 })?;
    a.mov(cr0, eax)?;
    // Firmware may have left more of CR0 set.
    a.mov(eax, 0)
}

fn paging(image: &mut Image, w: &World, add: Add) {
    const HIGH: u64 = 0x40_0000;
    let entries = |a: &mut CodeAssembler, n: u64| {
        a.mov(eax, dword_ptr(w.directory + 4))?;
        a.and(eax, 0xfff)?;
        a.mov(ebx, dword_ptr(w.table + 4 * n))?;
        a.and(ebx, 0xfff)
    };
    add(image, "paging: entries before an access", &|a| {
        page(a, w, true)?;
        entries(a, 0)
    });
    add(image, "paging: entries after a load", &|a| {
        page(a, w, true)?;
        a.mov(eax, dword_ptr(HIGH))?;
        entries(a, 0)
    });
    add(image, "paging: entries after a store", &|a| {
        page(a, w, true)?;
        a.mov(dword_ptr(HIGH), eax)?;
        entries(a, 0)
    });
    add(image, "paging: entries after a load and a store", &|a| {
        page(a, w, true)?;
        a.mov(eax, dword_ptr(HIGH))?;
        a.mov(dword_ptr(HIGH + 8), eax)?;
        entries(a, 0)
    });
    add(image, "paging: ring 0 stores read-only, WP", &|a| {
        page(a, w, true)?;
        a.mov(dword_ptr(HIGH + 0x1004), eax)
    });
    add(image, "paging: ring 0 stores read-only, no WP", &|a| {
        page(a, w, false)?;
        a.mov(dword_ptr(HIGH + 0x1004), eax)?;
        entries(a, 1)
    });
    for (name, offset, store) in [
        ("loads read-only", 0x1004, false),
        ("stores read-only", 0x1004, true),
        ("loads the system's", 0x2008, false),
        ("stores the system's", 0x2008, true),
        ("loads an absent page", 0x300c, false),
        ("stores an absent page", 0x300c, true),
        ("loads across into one", 0x2ffe, false),
    ] {
        for ring in [0, 3] {
            add(image, &format!("paging: ring {ring} {name}"), &|a| {
                page(a, w, true)?;
                if ring == 3 {
                    to_ring3(a, w, 2)?;
                }
                a.xor(eax, eax)?;
                if store { a.mov(dword_ptr(HIGH + offset), eax) } else { a.mov(ebx, dword_ptr(HIGH + offset)) }?;
                a.xor(ebx, ebx)?;
                a.int(DONE)
            });
        }
    }
    add(image, "paging: a large page", &|a| {
        page(a, w, true)?;
        a.mov(dword_ptr(w.directory + 4), (pte::P | pte::W | pte::PS) as u32)?;
        a.mov(eax, cr4)?;
        a.or(eax, 0x10)?;
        a.mov(cr4, eax)?;
        a.mov(eax, dword_ptr(HIGH + w.directory + 4))?;
        a.mov(dword_ptr(HIGH + w.arena), eax)?;
        a.mov(ebx, dword_ptr(w.directory + 4))?;
        a.and(ebx, 0xfff)
    });
    add(image, "paging: a jump to an absent page", &|a| {
        page(a, w, true)?;
        a.mov(ebx, HIGH as u32 + 0x3000)?;
        a.jmp(ebx)
    });
    add(image, "paging: a stale entry until INVLPG", &|a| {
        page(a, w, true)?;
        a.mov(eax, dword_ptr(HIGH))?;
        a.mov(dword_ptr(w.table), 0)?;
        a.invlpg(byte_ptr(HIGH))?;
        a.mov(eax, dword_ptr(HIGH))
    });
    add(image, "paging: FNSTENV across into an absent page", &|a| {
        page(a, w, true)?;
        a.mov(ebx, HIGH as u32 + 0x2ffe)?;
        a.fnstenv(ptr(ebx))
    });
}

/// Flags and results that the manuals define.
fn flags(image: &mut Image, add: Add) {
    let tried: [(&str, Body); 16] = [
        ("ADD", &|a| a.add(eax, ebx)),
        ("ADC", &|a| a.adc(al, bl)),
        ("SBB", &|a| a.sbb(ax, bx)),
        ("CMP", &|a| a.cmp(ax, bx)),
        ("INC", &|a| a.inc(eax)),
        ("NEG", &|a| a.neg(eax)),
        ("DAA", &|a| a.daa()),
        ("DAS", &|a| a.das()),
        ("AAA", &|a| a.aaa()),
        ("SHL 1", &|a| a.shl(eax, 1)),
        ("SAR 5", &|a| a.sar(eax, 5)),
        ("ROL 1", &|a| a.rol(ax, 1)),
        ("RCR 1", &|a| a.rcr(eax, 1)),
        ("BT", &|a| a.bt(eax, ebx)),
        ("XADD", &|a| a.xadd(eax, ebx)),
        ("CMPXCHG", &|a| a.cmpxchg(ebx, ecx)),
    ];
    for (name, body) in tried {
        // What each leaves undefined: SDM 1, appendix A.
        let undefined = match name {
            "DAA" | "DAS" => 0x800,
            "AAA" => 0x8c4,
            "SHL 1" | "SAR 5" => {
                if name == "SAR 5" {
                    0x810
                } else {
                    0x10
                }
            }
            "BT" => 0x8d4 & !0x40,
            _ => 0,
        };
        for (first, second) in [(0x7fff_ffffu32, 1u32), (0x8000_8080, 0xffff_ff7f), (0x0000_009a, 0x0000_0013)] {
            add(image, &format!("{name} {first:08x} {second:08x}"), &|a| {
                a.mov(eax, first)?;
                a.mov(ebx, second)?;
                a.mov(ecx, 0x1234_5678)?;
                a.stc()?;
                body(a)?;
                a.pushfd()?;
                a.and(dword_ptr(esp), !undefined)?;
                a.popfd()
            });
        }
    }
}

fn x87(image: &mut Image, w: &World, add: Add) {
    let tried: [(&str, Body); 9] = [
        ("1 / 0", &|a| {
            a.fld1()?;
            a.fldz()?;
            a.fdivp(st1, st0)
        }),
        ("the root of -1", &|a| {
            a.fld1()?;
            a.fchs()?;
            a.fsqrt()
        }),
        ("a pop of nothing", &|a| a.fstp(st0)),
        ("nine pushes", &|a| {
            for _ in 0..9 {
                a.fldz()?;
            }
            Ok(())
        }),
        ("1 / 3", &|a| {
            a.fld1()?;
            a.fild(word_ptr(w.arena + 0x20))?;
            a.fdivp(st1, st0)
        }),
        ("FCOM with a NaN", &|a| {
            a.fldz()?;
            a.fldz()?;
            a.fdiv_2(st0, st1)?;
            a.fcom_2(st0, st1)
        }),
        ("FXAM of nothing", &|a| a.fxam()),
        ("FPREM of 7 and 2", &|a| {
            a.fild(word_ptr(w.arena + 0x22))?;
            a.fild(word_ptr(w.arena + 0x24))?;
            a.fprem()
        }),
        ("FIST of 40000", &|a| {
            a.fild(dword_ptr(w.arena + 0x28))?;
            a.fistp(word_ptr(w.arena + 0x30))
        }),
    ];
    for (name, body) in tried {
        for masked in [true, false] {
            let how = if masked { "masked" } else { "unmasked" };
            add(image, &format!("x87, {how}: {name}"), &|a| {
                a.mov(dword_ptr(w.arena + 0x20), 0x0007_0003)?;
                // The third word is 7, the next one 2; then 40000.
                a.mov(dword_ptr(w.arena + 0x24), 2)?;
                a.mov(dword_ptr(w.arena + 0x28), 40000)?;
                a.mov(dword_ptr(w.arena + 0x2c), if masked { 0x37f } else { 0x340 })?;
                a.mov(eax, cr0)?;
                a.or(eax, 0x22)?;
                a.mov(cr0, eax)?;
                a.xor(eax, eax)?;
                a.fninit()?;
                a.fldcw(word_ptr(w.arena + 0x2c))?;
                body(a)?;
                a.xor(ebx, ebx)?;
                a.fnstsw(ax)?;
                a.mov(ebx, eax)?;
                a.wait()?;
                a.fnstenv(ptr(w.arena + 0x40))?;
                // The tags; what is above them is left open.
                a.movzx(eax, word_ptr(w.arena + 0x48))
            });
        }
    }
}
