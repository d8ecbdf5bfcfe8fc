//! AES-NI, PCLMULQDQ, SHA and GFNI, with the VEX forms of VAES and VPCLMULQDQ.

use crate::semantics::simd::{Vector, crypto as c, gf2, sha};
use crate::table::Row;
use crate::vector_rows;

/// Instruction rows.
pub const ROWS: &[Row] = vector_rows! {
    xmm {
        Aesenc Vaesenc = |a, b| c::aesenc(a, b);
        Aesenclast Vaesenclast = |a, b| c::aesenclast(a, b);
        Aesdec Vaesdec = |a, b| c::aesdec(a, b);
        Aesdeclast Vaesdeclast = |a, b| c::aesdeclast(a, b);
        Pclmulqdq Vpclmulqdq = |a, b, n| c::pclmulqdq(a, b, n);
        Gf2p8mulb Vgf2p8mulb = |a, b| gf2::gf2p8mulb(a, b);
        Gf2p8affineqb Vgf2p8affineqb = |a, b, n| gf2::gf2p8affineqb(a, b, n);
        Gf2p8affineinvqb Vgf2p8affineinvqb = |a, b, n| gf2::gf2p8affineinvqb(a, b, n);
    }
    xmm_only {
        Aesimc Vaesimc = |_, b| c::aesimc(b);
        Aeskeygenassist Vaeskeygenassist = |_, b, n| c::aeskeygenassist(b, n);
        Sha1rnds4 = |a, b, n| sha::sha1rnds4(a, b, n);
        Sha1nexte = |a, b| sha::sha1nexte(a, b);
        Sha1msg1 = |a, b| sha::sha1msg1(a, b);
        Sha1msg2 = |a, b| sha::sha1msg2(a, b);
        Sha256msg1 = |a, b| sha::sha256msg1(a, b);
        Sha256msg2 = |a, b| sha::sha256msg2(a, b);
    }
    select {
        Sha256rnds2 = |a, b, m| sha::sha256rnds2(a.resized(), b.resized(), m.resized()).resized();
    }
};
