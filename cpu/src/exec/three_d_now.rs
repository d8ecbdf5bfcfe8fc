//! 3DNow!: singles in MMX registers (AMD 21928, APM 5).

use std::cmp::Ordering;

use crate::semantics::simd::{Vector, integer as i, three_d_now as t};
use crate::table::Row;
use crate::vector_rows;

/// Instruction rows. FEMMS is beside EMMS, PREFETCH and PREFETCHW are beside SSE's.
pub const ROWS: &[Row] = vector_rows! {
    mm {
        Pavgusb = |a, b| i::pavgb(a, b);
        Pmulhrw = |a, b| i::pmulhrw(a, b);
        Pswapd = |_, b| t::swap(b);
        Pi2fd = |_, b| t::from_i32(b);
        Pi2fw = |_, b| t::from_i16(b);
        Pf2id = |_, b| t::to_i32(b);
        Pf2iw = |_, b| t::to_i16(b);
        Pfadd = |a, b| t::add(a, b);
        Pfsub = |a, b| t::sub(a, b);
        Pfsubr = |a, b| t::sub(b, a);
        Pfmul = |a, b| t::mul(a, b);
        Pfacc = |a, b| t::accumulate(a, b, [false, false]);
        Pfnacc = |a, b| t::accumulate(a, b, [true, true]);
        Pfpnacc = |a, b| t::accumulate(a, b, [true, false]);
        Pfmin = |a, b| t::min(a, b);
        Pfmax = |a, b| t::max(a, b);
        Pfcmpeq = |a, b| t::compare(a, b, Ordering::is_eq);
        Pfcmpge = |a, b| t::compare(a, b, Ordering::is_ge);
        Pfcmpgt = |a, b| t::compare(a, b, Ordering::is_gt);
        Pfrcp = |_, b| t::reciprocal(b);
        Pfrsqrt = |_, b| t::reciprocal_root(b);
        Pfrcpit1 = |a, b| t::reciprocal_step(a, b);
        Pfrsqit1 = |a, b| t::root_step(a, b);
        Pfrcpit2 = |a, b| t::mul(a, b);
    }
};
