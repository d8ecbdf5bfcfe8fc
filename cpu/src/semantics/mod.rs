//! What instructions compute: pure functions over values.

pub mod softfloat;
pub mod simd;
