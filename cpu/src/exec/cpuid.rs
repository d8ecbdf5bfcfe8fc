//! CPUID.

/// What CPUID tells.
#[derive(Clone, Debug, Default)]
pub struct Model {}
