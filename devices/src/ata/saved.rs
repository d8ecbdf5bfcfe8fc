//! The saved form of a host adapter.

use serde::{Deserialize, Serialize};
use softmetal_bus::StateError;

use super::{Unit, UnitState};
use crate::pci::{ConfigSpace, Registers};

/// A host adapter's configuration space, its own state, and the state of its devices.
#[derive(Serialize, Deserialize)]
pub struct Saved<S> {
    config: Registers,
    state: S,
    units: Vec<Option<UnitState>>,
}

impl<S: Clone> Saved<S> {
    /// Of an adapter with `units` at its places.
    pub fn of(config: &ConfigSpace, state: &S, units: &[Option<Unit>]) -> Self {
        let units = units.iter().map(|unit| unit.as_ref().map(Unit::state)).collect();
        Self { config: config.registers().clone(), state: state.clone(), units }
    }

    /// The adapter's own state.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Puts it back into the adapter `name`.
    ///
    /// # Errors
    /// [`StateError`] when it is of an adapter with other devices; nothing has changed then.
    pub fn restore(
        self,
        name: &'static str,
        config: &mut ConfigSpace,
        state: &mut S,
        units: &mut [Option<Unit>],
    ) -> Result<(), StateError> {
        let fits = self.units.len() == units.len() && self.units.iter().zip(&*units).all(|(s, u)| s.is_some() == u.is_some());
        if !fits {
            return Err(StateError::Corrupt(name, "it has other devices".into()));
        }
        for (unit, state) in units.iter_mut().zip(self.units) {
            if let (Some(unit), Some(state)) = (unit, state) {
                unit.set_state(state);
            }
        }
        config.set_registers(self.config);
        *state = self.state;
        Ok(())
    }
}
