//! The code between Rust and translated code: the way in, the ways out, and the call of [`super::handle`].

use softmetal_bus::PAGE_SIZE;

use super::arena::Arena;
use super::assembler::{Assembler, At, Gate, host};
use super::context::{self, ANCHOR};
use super::registers::STATIC;

/// The results of translated code.
pub mod result {
    /// Go on (of [`super::super::handle`] only).
    pub const GO_ON: u64 = 0;
    /// RIP is the next block.
    pub const NEXT: u64 = 1;
    /// An operation did not complete.
    pub const FAULT: u64 = 3;
    /// The block at RIP must be interpreted: MXCSR unmasks exceptions.
    pub const INTERPRET: u64 = 4;
    /// Anything beyond is the host address of translated code.
    pub const LAST: u8 = 15;
}

/// Host addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thunks {
    /// The TLB's tables for translated code.
    pub tables: i32,
    /// How code asks whether something is there.
    pub gate: Gate,
    /// Called from Rust: goes to `target`.
    pub enter: u64,
    /// Jumped to with the next RIP in R15.
    pub leave: u64,
    /// Jumped to with the number of an edge pushed, and the offset in the page of the next RIP in R15.
    pub leave_by_edge: u64,
    /// Jumped to with the number of an edge pushed, and the next RIP in R15.
    pub leave_page_by_edge: u64,
    /// Jumped to with the offset in the page of the next RIP in R15.
    pub leave_in_page: u64,
    /// Jumped to with the next RIP in R15, which is a linear address that the jump cache's first table does not know: goes there
    /// if the second does. By privilege.
    pub second_look: [u64; 2],
    /// The same, for a call that has pushed half an entry of the stack of returns.
    pub second_look_of_call: [u64; 2],
    /// Called with the linear address of an access in R15: R11 is what is to be added to it, if RCX is the gate's key. By privilege, for loads
    /// and for stores, by the logarithm of its bytes.
    pub find: [[[u64; SIZES]; 2]; 2],
    /// Called with a site in R11, and where the operations are in RCX: [`super::handle`]; returns, or leaves.
    pub handle: u64,
    /// Called with the offset in the page of RIP in R15: brings the vector registers into the host's; or leaves.
    pub vectors: u64,
    /// Bytes of all of them.
    pub len: usize,
}

/// What RBP has a look at the TLB shift out: an offset in a page.
pub const PAGE_BITS: u32 = PAGE_SIZE.trailing_zeros();
/// Sizes of accesses: 1, 2, 4, 8 and 16 bytes.
pub const SIZES: usize = 5;

/// R11 is the place of linear address R15 in a table of the jump cache; RCX is the key of `gate` if the address is there.
pub fn look_up_target(a: &mut Assembler, gate: Gate, user: bool, second: bool) {
    a.pext(host::R11, host::R15, if second { context::MASK_SECOND } else { context::MASK_JUMP });
    a.load(host::RCX, context::jumps(user, second));
    a.lea(host::R11, At::indexed(host::R11, host::R11, 0, 0));
    a.lea(host::R11, context::jump_place(host::RCX, host::R11));
    a.load(host::RCX, context::jump_tag(host::R11));
    // The tag is inverted, not negated.
    a.lea(host::RCX, At::indexed(host::RCX, host::R15, 0, 1 + gate.key()));
}

/// R11 is the place in the TLB of the page of the linear address in `lin`; RCX is the gate's key if it is there with all of the
/// `bytes` bytes.
pub fn look_for_page(a: &mut Assembler, &Thunks { tables, .. }: &Thunks, user: bool, write: bool, lin: u8, bytes: usize) {
    a.pext(host::R11, lin, context::MASK_PAGE);
    a.load(host::RCX, context::tlb_tag(tables, user, write, host::R11));
    a.lea(host::RCX, At::indexed(host::RCX, lin, 0, bytes as i32 - 1));
    a.shrx(host::RCX, host::RCX, host::RBP);
}

const CALLEE_SAVED: [u8; 6] = [host::RBX, host::RBP, host::R12, host::R13, host::R14, host::R15];

/// R15 becomes what is so far from the start of the page; destroys RCX.
fn add_page(a: &mut Assembler) {
    a.load(host::RCX, context::PAGE);
    a.lea(host::R15, At::indexed(host::R15, host::RCX, 0, 0));
}

/// Saves the flags; destroys RAX.
pub fn flags_to_memory(a: &mut Assembler) {
    // LAHF; SETO AL; MOVZX EAX, AX
    a.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x0f, 0xb7, 0xc0]);
    a.store(context::FLAGS, host::RAX);
}

fn save_flags(a: &mut Assembler) {
    a.store(context::reg(host::RAX), host::RAX);
    flags_to_memory(a);
}

/// Restores the flags; destroys RAX.
pub fn flags_from_memory(a: &mut Assembler) {
    a.load32(host::RAX, context::FLAGS);
    // ADD AL, 0x7f; SAHF
    a.bytes(&[0x04, 0x7f, 0x9e]);
}

fn restore_flags(a: &mut Assembler) {
    flags_from_memory(a);
    a.load(host::RAX, context::reg(host::RAX));
}

fn save_registers(a: &mut Assembler) {
    for &(guest, host) in &STATIC[1..] {
        a.store(context::reg(guest), host);
    }
}

fn load_registers(a: &mut Assembler) {
    for &(guest, host) in &STATIC[1..] {
        a.load(host, context::reg(guest));
    }
}

/// Brings the vector registers home, if they are not; sets the flags.
fn save_vectors(a: &mut Assembler) {
    a.cmp_byte_sets_flags(context::VECTORS_HOME, 0);
    let home = a.jcc(5);
    for n in 0..16 {
        a.store_ymm(context::ymm(n), n);
    }
    a.stmxcsr(context::MXCSR);
    a.ldmxcsr(context::HOST_MXCSR);
    // VZEROUPPER
    a.bytes(&[0xc5, 0xf8, 0x77]);
    a.store_imm64(context::VECTORS_HOME, context::HOME as i32);
    let here = a.here();
    a.bind(home, here);
}

/// Brings the vector registers into the host's; destroys RCX.
///
/// Upper halves that are 0 come as VZEROUPPER leaves them: where the processor does not know them to be 0, an SSE instruction
/// that writes a register waits for what the register was, since it keeps the upper half.
fn load_vectors(a: &mut Assembler) {
    let upper = |n| At { disp: context::ymm(n).disp + 16, ..context::ymm(n) };
    a.load_xmm(0, upper(0));
    for n in 1..16 {
        a.or_xmm(0, upper(n));
    }
    // VMOVHLPS XMM1, XMM0, XMM0; VORPS XMM0, XMM0, XMM1; VMOVQ RCX, XMM0
    a.bytes(&[0xc5, 0xf8, 0x12, 0xc8, 0xc5, 0xf8, 0x56, 0xc1, 0xc4, 0xe1, 0xf9, 0x7e, 0xc1]);
    let zero = a.jrcxz();
    let wide = a.jmp();
    a.land(zero);
    for n in 0..16 {
        a.load_xmm(n, context::ymm(n));
    }
    let done = a.jmp();
    let here = a.here();
    a.bind(wide, here);
    for n in 0..16 {
        a.load_ymm(n, context::ymm(n));
    }
    let here = a.here();
    a.bind(done, here);
}

/// Back to Rust, on whatever stack.
fn epilogue(a: &mut Assembler) {
    a.load(host::RSP, context::HOST_STACK);
    a.lea(host::RSP, At::base(host::RSP, 8));
    for &r in CALLEE_SAVED.iter().rev() {
        a.pop(r);
    }
    a.ret();
}

/// Makes them, at the start of the arena; the TLB's tables are at `tables`.
pub fn make(arena: &mut Arena, tables: i32, gate: Gate) -> Thunks {
    let at = arena.next();
    let mut a = Assembler::new(at, Default::default());
    let origin = at.straight;
    let mut t = Thunks { tables, gate, enter: origin, ..Thunks::default() };
    for r in CALLEE_SAVED {
        a.push(r);
    }
    a.lea(host::RSP, At::base(host::RSP, -8));
    a.lea(host::RBP, At::base(host::RDI, ANCHOR));
    a.store(context::TARGET, host::RSI);
    a.store(context::HOST_STACK, host::RSP);
    a.load(host::RSP, context::STACK_TOP);
    load_registers(&mut a);
    restore_flags(&mut a);
    a.jmp_indirect(context::TARGET);

    t.leave_page_by_edge = origin + a.here() as u64;
    a.pop(host::RCX);
    a.store(context::EDGE, host::RCX);
    let out = a.jmp();

    t.leave_by_edge = origin + a.here() as u64;
    a.pop(host::RCX);
    a.store(context::EDGE, host::RCX);
    t.leave_in_page = origin + a.here() as u64;
    add_page(&mut a);

    let here = a.here();
    a.bind(out, here);
    t.leave = origin + a.here() as u64;
    a.store(context::RIP, host::R15);
    a.store(context::STACK_TOP, host::RSP);
    save_flags(&mut a);
    save_registers(&mut a);
    save_vectors(&mut a);
    a.mov_imm64(host::RAX, result::NEXT);
    epilogue(&mut a);

    for user in [false, true] {
        t.second_look_of_call[usize::from(user)] = origin + a.here() as u64;
        a.lea(host::RSP, At::base(host::RSP, 8));
        t.second_look[usize::from(user)] = origin + a.here() as u64;
        look_up_target(&mut a, gate, user, true);
        let unknown = a.pass(gate);
        a.lead_to(unknown, t.leave);
        a.jmp_indirect(context::jump_code(host::R11));
        for write in [false, true] {
            for size in 0..SIZES {
                t.find[usize::from(user)][usize::from(write)][size] = origin + a.here() as u64;
                look_for_page(&mut a, &t, user, write, host::R15, 1 << size);
                a.load(host::R11, context::tlb_host(tables, user, host::R11));
                a.ret();
            }
        }
    }

    t.handle = origin + a.here() as u64;
    save_flags(&mut a);
    save_registers(&mut a);
    a.store(context::LIN, host::R15);
    // The vector registers' way home leaves RCX and R11 alone.
    save_vectors(&mut a);
    a.lea(host::RDI, At::base(host::RBP, -ANCHOR));
    a.mov(host::RSI, host::RCX);
    a.mov(host::RDX, host::R11);
    // Without where this goes back to.
    a.lea(host::RCX, At::base(host::RSP, 8));
    a.store(context::STACK_TOP, host::RCX);
    a.load(host::RSP, context::HOST_STACK);
    a.call_indirect(context::HANDLE);
    // TEST RAX, RAX
    a.bytes(&[0x48, 0x85, 0xc0]);
    let out = a.jcc(5);
    a.load(host::RSP, context::STACK_TOP);
    a.lea(host::RSP, At::base(host::RSP, -8));
    load_registers(&mut a);
    restore_flags(&mut a);
    a.ret();
    let here = a.here();
    a.bind(out, here);
    // CMP RAX, LAST; JA
    a.bytes(&[0x48, 0x83, 0xf8, result::LAST]);
    let on = a.jcc(7);
    epilogue(&mut a);
    let here = a.here();
    a.bind(on, here);
    a.store(context::TARGET, host::RAX);
    a.load(host::RSP, context::STACK_TOP);
    load_registers(&mut a);
    restore_flags(&mut a);
    a.load(host::R15, context::RIP);
    a.jmp_indirect(context::TARGET);

    t.vectors = origin + a.here() as u64;
    a.load32(host::RCX, context::MXCSR);
    a.pext(host::RCX, host::RCX, context::MASK_EXCEPTIONS);
    a.lea(host::RCX, At::base(host::RCX, -0x3f));
    let masked = a.jrcxz();
    let unmasked = a.jmp();
    a.land(masked);
    load_vectors(&mut a);
    a.ldmxcsr(context::MXCSR);
    a.store_imm64(context::VECTORS_HOME, context::AWAY as i32);
    a.ret();
    let here = a.here();
    a.bind(unmasked, here);
    // Without where this goes back to.
    a.lea(host::RCX, At::base(host::RSP, 8));
    a.store(context::STACK_TOP, host::RCX);
    add_page(&mut a);
    a.store(context::RIP, host::R15);
    save_flags(&mut a);
    save_registers(&mut a);
    a.mov_imm64(host::RAX, result::INTERPRET);
    epilogue(&mut a);

    t.len = a.code.len().next_multiple_of(16);
    arena.append(&a.code, &[]);
    t
}
