//! The processor's registers as gdb numbers them.

use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use softmetal_cpu::Cpu;
use softmetal_cpu::semantics::simd::V128;
use softmetal_cpu::semantics::x87::{Fpu, image::Layout};
use softmetal_cpu::state::seg;

/// gdb's order of the general registers (RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8...), in the instruction set's numbers.
const GENERAL: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

/// The registers that gdb sees: the core and SSE registers, then the bases of FS and GS and the system registers that it
/// shows under "info registers system".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registers {
    /// General, segment, x87 and SSE registers. RIP is a linear address: the code segment's base is in it.
    pub core: X86_64CoreRegs,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: u64,
}

impl Registers {
    /// Those of `cpu`.
    #[must_use]
    pub fn of(cpu: &mut Cpu) -> Self {
        let cr8 = u64::from(cpu.bus.task_priority());
        let s = &cpu.state;
        let selector = |n: usize| u32::from(s.segments[n].selector);
        let core = X86_64CoreRegs {
            regs: GENERAL.map(|n| s.regs[n]),
            eflags: cpu.eflags() as u32,
            rip: cpu.linear_rip(),
            segments: X86SegmentRegs {
                cs: selector(seg::CS),
                ss: selector(seg::SS),
                ds: selector(seg::DS),
                es: selector(seg::ES),
                fs: selector(seg::FS),
                gs: selector(seg::GS),
            },
            st: stack(&s.fpu),
            fpu: internal(&s.fpu),
            xmm: std::array::from_fn(|r| s.xmm(r).into()),
            mxcsr: s.mxcsr,
        };
        Self {
            core,
            fs_base: s.segments[seg::FS].base,
            gs_base: s.segments[seg::GS].base,
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8,
            efer: s.efer,
        }
    }

    /// Puts the general, flag, x87 and SSE registers, RIP, CR2 and the bases of FS and GS into `cpu`. Selectors and the other
    /// system registers are read-only here: changing them has consequences that only the guest's own instructions carry
    /// out.
    pub fn apply(&self, cpu: &mut Cpu) {
        let linear = cpu.linear_rip();
        let s = &mut cpu.state;
        for (value, n) in self.core.regs.iter().zip(GENERAL) {
            s.regs[n] = *value;
        }
        if self.core.rip != linear {
            let base = if s.mode.long() { 0 } else { s.segments[seg::CS].base };
            s.rip = self.core.rip.wrapping_sub(base);
            s.halted = false;
        }
        if self.core.st != stack(&s.fpu) || self.core.fpu != internal(&s.fpu) {
            set_fpu(&mut s.fpu, &self.core);
        }
        for (r, v) in self.core.xmm.into_iter().enumerate() {
            s.set_xmm(r, V128::from(v));
        }
        s.mxcsr = self.core.mxcsr & 0xffff;
        s.cr2 = self.cr2;
        cpu.set_base(seg::FS, self.fs_base);
        cpu.set_base(seg::GS, self.gs_base);
        if u64::from(self.core.eflags) != cpu.eflags() {
            cpu.set_eflags(u64::from(self.core.eflags));
        }
    }

    /// Those after the core, in the order of `target.xml`.
    fn rest(&mut self) -> [&mut u64; 8] {
        let Self { core: _, fs_base, gs_base, cr0, cr2, cr3, cr4, cr8, efer } = self;
        [fs_base, gs_base, cr0, cr2, cr3, cr4, cr8, efer]
    }
}

impl gdbstub::arch::Registers for Registers {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        for register in self.clone().rest() {
            register.to_le_bytes().into_iter().for_each(|b| write_byte(Some(b)));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let rest = self.rest();
        let split = bytes.len().checked_sub(rest.len() * 8).ok_or(())?;
        for (register, bytes) in rest.into_iter().zip(bytes[split..].chunks_exact(8)) {
            *register = bytes.try_into().map(u64::from_le_bytes).map_err(|_| ())?;
        }
        self.core.gdb_deserialize(&bytes[..split])
    }
}

/// The image of FNSAVE in 32-bit protected mode: 28 bytes of environment, then ST(0) to ST(7).
const IMAGE: Layout = Layout { wide: true, real: false };

fn image(fpu: &Fpu) -> Vec<u8> {
    let mut bytes = vec![0; IMAGE.save_size()];
    fpu.save(IMAGE, &mut bytes);
    bytes
}

/// ST(0) to ST(7).
fn stack(fpu: &Fpu) -> [[u8; 10]; 8] {
    let bytes = image(fpu);
    let registers = &bytes[IMAGE.environment_size()..];
    std::array::from_fn(|i| std::array::from_fn(|n| registers[10 * i + n]))
}

fn internal(fpu: &Fpu) -> X87FpuInternalRegs {
    let bytes = image(fpu);
    let word = |i: usize| u32::from(u16::from_le_bytes([bytes[4 * i], bytes[4 * i + 1]]));
    X87FpuInternalRegs {
        fctrl: word(0),
        fstat: word(1),
        ftag: word(2),
        fiseg: fpu.last.cs.into(),
        fioff: fpu.last.ip as u32,
        foseg: fpu.last.ds.into(),
        fooff: fpu.last.dp as u32,
        fop: fpu.last.opcode.into(),
    }
}

/// Control, status and tag words and the stack; the pointers to the last instruction stay.
fn set_fpu(fpu: &mut Fpu, core: &X86_64CoreRegs) {
    let (mut bytes, last) = (image(fpu), fpu.last);
    for (i, value) in [core.fpu.fctrl, core.fpu.fstat, core.fpu.ftag].into_iter().enumerate() {
        bytes[4 * i..4 * i + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }
    bytes[IMAGE.environment_size()..].copy_from_slice(core.st.as_flattened());
    fpu.restore(IMAGE, &bytes);
    fpu.last = last;
}

/// Reads memory at a linear address up to the first page that is not mapped memory; how many bytes that are.
pub fn read_memory(cpu: &mut Cpu, linear: u64, buf: &mut [u8]) -> usize {
    let mut done = 0;
    while done < buf.len() {
        let at = linear.wrapping_add(done as u64);
        let len = (4096 - at as usize % 4096).min(buf.len() - done);
        if !cpu.debug_read(at, &mut buf[done..done + len]) {
            break;
        }
        done += len;
    }
    done
}
