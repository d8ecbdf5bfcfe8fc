//! Far control transfers.
use crate::lower::Lower;
use crate::op::Op;
/// Far JMP.
pub fn lower_jmp(l: &Lower) -> Option<Op> { let _ = l; None }
/// Far CALL.
pub fn lower_call(l: &Lower) -> Option<Op> { let _ = l; None }
