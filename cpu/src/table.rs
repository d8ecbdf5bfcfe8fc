//! The instruction table: one row a mnemonic (with its VEX twin).
//!
//! To add an instruction: write its semantic in [`crate::semantics`], a handler in [`crate::exec`], a lowering that picks
//! the handler's instance (see [`crate::lower`]), and a row in its family's `ROWS`. The audit test then proves that every
//! form of every advertised feature has a row that lowers, and that the flags a row declares are those that iced knows.

use std::sync::LazyLock;

use iced_x86::Mnemonic;

use crate::exec;
use crate::lower::LowerFn;

/// A row of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// The mnemonic.
    pub mnemonic: Mnemonic,
    /// That of the same instruction in VEX encoding, lowered by the same function.
    pub vex: Option<Mnemonic>,
    /// Picks the handler.
    pub lower: LowerFn,
    /// Status and control flags that the instruction may change (written, cleared, set or left undefined), of "oszapcid",
    /// in this order.
    pub modifies: &'static str,
}

/// A row whose instruction leaves the flags alone.
#[must_use]
pub const fn row(mnemonic: Mnemonic, lower: LowerFn) -> Row {
    Row { mnemonic, vex: None, lower, modifies: "" }
}

impl Row {
    /// Declares the flags that it modifies.
    #[must_use]
    pub const fn modifies(self, flags: &'static str) -> Self {
        Self { modifies: flags, ..self }
    }

    /// Names the VEX twin.
    #[must_use]
    pub const fn vex(self, mnemonic: Mnemonic) -> Self {
        Self { vex: Some(mnemonic), ..self }
    }
}

static TABLE: LazyLock<Vec<Option<Row>>> = LazyLock::new(|| {
    let mut table = vec![None; Mnemonic::values().len()];
    for row in exec::families().into_iter().flatten() {
        for mnemonic in [Some(row.mnemonic), row.vex].into_iter().flatten() {
            let slot = &mut table[mnemonic as usize];
            debug_assert!(slot.is_none(), "two rows for {mnemonic:?}");
            *slot = Some(*row);
        }
    }
    table
});

/// The row of a mnemonic.
#[must_use]
pub fn find(mnemonic: Mnemonic) -> Option<&'static Row> {
    TABLE[mnemonic as usize].as_ref()
}
