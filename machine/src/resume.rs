//! A reset of the processor alone, as programs of the 286's time leave protected mode by it: byte 0Fh of CMOS tells the BIOS
//! that this is no start, and the double word at 0040:0067 where to go on (IBM PC AT Technical Reference, "shutdown").
//!
//! Memory and chips stay as they are. Other firmware does all this by itself.

use softmetal_cpu::Processor;
use softmetal_cpu::state::{Segment, reg, seg};
use softmetal_firmware::Entry;

use crate::board::SharedBoard;
use crate::start;

/// Where the BIOS data area keeps offset and segment.
const RESUME: u64 = 0x467;

/// The flags that IRET loads in real mode.
const REAL_FLAGS: u64 = 0x7fd5;

/// What byte 0Fh of CMOS may say.
mod shutdown {
    /// End the interrupts under way, take what the keyboard has sent, and jump.
    pub const JUMP_AFTER_EOI: u8 = 0x05;
    pub const JUMP: u8 = 0x0a;
    /// The double word is SS:SP; the stack has what IRET or RETF take.
    pub const IRET: u8 = 0x0b;
    pub const RETF: u8 = 0x0c;
}

/// Resets the processor and goes on where the guest has said; false, and nothing is changed, if it has not.
pub fn resume(processor: &mut Processor, board: &SharedBoard) -> bool {
    let at = processor.icount();
    let code = {
        let mut board = board.lock();
        let code = board.shutdown_code();
        if !(shutdown::JUMP..=shutdown::RETF).contains(&code) && code != shutdown::JUMP_AFTER_EOI {
            return false;
        }
        board.clear_shutdown_code();
        if code == shutdown::JUMP_AFTER_EOI {
            board.end_interrupts(at);
        }
        code
    };
    let words = |address: u64| {
        let mut bytes = [0; 6];
        board.lock().bios_load(at, address, &mut bytes);
        [0, 2, 4].map(|n| u16::from_le_bytes([bytes[n], bytes[n + 1]]))
    };
    let [mut ip, mut cs, _] = words(RESUME);
    processor.init();
    let mut state = processor.cpu.state.clone();
    let mut stack = None;
    if matches!(code, shutdown::IRET | shutdown::RETF) {
        let (sp, ss) = (ip, cs);
        let flags;
        [ip, cs, flags] = words((u64::from(ss) << 4) + u64::from(sp));
        let taken = if code == shutdown::IRET {
            state.eflags = u64::from(flags) & REAL_FLAGS | 2;
            6
        } else {
            4
        };
        stack = Some((ss, sp.wrapping_add(taken)));
    }
    start::enter(&mut state, &Entry::Real { cs, ip, sp: 0, dl: 0 });
    if let Some((ss, sp)) = stack {
        state.segments[seg::SS] = Segment::real(ss);
        state.bases[seg::SS] = state.segments[seg::SS].base;
        state.regs[usize::from(reg::RSP)] = sp.into();
    }
    processor.load(state);
    log::debug!(target: "bios", "shutdown code {code:02X}h: goes on at {cs:04X}:{ip:04X}");
    true
}
