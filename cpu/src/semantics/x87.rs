//! The x87 FPU and the MMX registers that alias it.

use serde::{Deserialize, Serialize};

/// x87 and MMX state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Fpu {}
