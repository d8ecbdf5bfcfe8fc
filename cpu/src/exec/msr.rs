//! Model-specific registers.

use serde::{Deserialize, Serialize};

/// The MSRs that are plain storage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Msrs {}
