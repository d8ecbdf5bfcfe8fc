//! Segment registers.
use crate::lower::Lower;
use crate::op::Op;
/// MOV with a segment, control or debug register.
pub fn lower_mov(l: &Lower) -> Option<Op> { let _ = l; None }
/// PUSH of a segment register.
pub fn lower_push(l: &Lower) -> Option<Op> { let _ = l; None }
/// POP of a segment register.
pub fn lower_pop(l: &Lower) -> Option<Op> { let _ = l; None }
