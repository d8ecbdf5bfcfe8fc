//! The x87 and MMX registers, in the host's while translated code uses them.
//!
//! This is one of the few modules with `unsafe`: XSAVE and XRSTOR move the registers. Nothing but translated code uses the
//! host's x87 unit, so what is there stays there while handlers carry out accesses; whatever else there is to do finds the
//! registers in the state. The pointers to the last instruction change with unmasked exceptions only, and stay in the state.

use std::arch::x86_64::{_xrstor64, _xsave64};

use super::context::{AWAY, HOME};
use crate::semantics::x87::image::FXSAVE_SIZE;
use crate::state::{Cpu, bits};

/// All exceptions are masked.
const MASKS: u16 = 0x3f;
/// The x87 unit's bit in XCR0 and XSTATE_BV.
const X87: u64 = 1;
/// Where XSTATE_BV is (SDM 1, 13.4.2).
const XSTATE_BV: usize = 512;

/// An XSAVE area: the legacy region and the header.
#[repr(C, align(64))]
pub struct Area([u8; 576]);

impl Default for Area {
    fn default() -> Self {
        Self([0; 576])
    }
}

impl Area {
    /// Loads the unit from here, or initializes it.
    fn load(&mut self, present: bool) {
        self.0[XSTATE_BV] = u8::from(present);
        // SAFETY: the area is aligned, as long as the two regions are, and its header admits no other component. The host
        // has XSAVE: blocks that come here are made for no other.
        unsafe { restore(self) }
    }

    fn store(&mut self) {
        // SAFETY: the area is aligned, and as long as the two regions are; as above.
        unsafe { save(self) }
    }
}

#[target_feature(enable = "xsave")]
unsafe fn restore(area: &Area) {
    // SAFETY: the caller's promise.
    unsafe { _xrstor64(area.0.as_ptr(), X87) }
}

#[target_feature(enable = "xsave")]
unsafe fn save(area: &mut Area) {
    // SAFETY: the caller's promise.
    unsafe { _xsave64(area.0.as_mut_ptr(), X87) }
}

/// Whether instructions can run on the host's registers: the unit is on, and no exception is unmasked.
pub fn can_be_brought(cpu: &Cpu) -> bool {
    let fpu = &cpu.state.fpu;
    let off = cpu.state.cr0 & (bits::CR0_EM | bits::CR0_TS) != 0;
    !off && !fpu.pending() && fpu.control() & MASKS == MASKS
}

/// Brings the registers into the host's, if they can be; false if not.
pub fn bring(cpu: &mut Cpu) -> bool {
    if !can_be_brought(cpu) {
        return false;
    }
    let area = &mut cpu.jit.x87;
    area.0[..FXSAVE_SIZE].copy_from_slice(&cpu.state.fpu.fxsave_image(true));
    area.load(true);
    cpu.jit.x87_home = AWAY;
    true
}

/// Brings the registers home, if they are not.
#[inline]
pub fn take_home(cpu: &mut Cpu) {
    if cpu.jit.x87_home == AWAY {
        take(cpu);
    }
}

fn take(cpu: &mut Cpu) {
    let area = &mut cpu.jit.x87;
    area.store();
    let mut image = [0; FXSAVE_SIZE];
    image.copy_from_slice(&area.0[..FXSAVE_SIZE]);
    let fpu = &mut cpu.state.fpu;
    let last = fpu.last;
    fpu.fxrstor_image(&image, true);
    fpu.last = last;
    // As the calling convention has it: empty, with the usual control word.
    area.load(false);
    cpu.jit.x87_home = HOME;
}
