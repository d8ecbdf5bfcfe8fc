//! Media that are changed while the machine runs.
//!
//! A change is an input event. It names the medium; whose bytes those are, the host has told before
//! ([`Machine::offer_medium`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, SharedDisk};

use crate::machine::Machine;

/// A drive for removable media. Users say `cdrom` (or `cdrom0`), `cdrom1`, `floppy`, `floppy1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriveName {
    /// A CD-ROM drive, in the order in which they were plugged in.
    Cdrom(u8),
    /// A floppy drive.
    Floppy(u8),
}

impl FromStr for DriveName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse().ok() };
        let cdrom = text.strip_prefix("cdrom").and_then(number).map(Self::Cdrom);
        cdrom
            .or_else(|| text.strip_prefix("floppy").and_then(number).map(Self::Floppy))
            .ok_or_else(|| format!("there is no drive `{text}`; drives are called cdrom, cdrom1, floppy, floppy1 and so on"))
    }
}

impl fmt::Display for DriveName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (kind, n) = match self {
            Self::Cdrom(n) => ("cdrom", n),
            Self::Floppy(n) => ("floppy", n),
        };
        if *n == 0 { f.write_str(kind) } else { write!(f, "{kind}{n}") }
    }
}

/// What happens to a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MediumEvent {
    /// The eject button is pressed: the medium comes out, or if the guest holds it, the guest is asked for it.
    Eject,
    /// The medium is taken out, whether the guest holds it or not.
    Remove,
    /// The medium of this name is put in, in the place of one that the guest does not hold.
    Insert(String),
}

impl Machine {
    /// Has a medium at hand under `name`, for [`MediumEvent::Insert`]. A machine that runs beside in lockstep gets the same
    /// bytes, so nobody should write them then.
    pub fn offer_medium(&mut self, name: &str, medium: &SharedDisk) {
        self.beside(|other| other.offer_medium(name, medium));
        self.shelf_mut().insert(name.into(), medium.clone());
    }

    /// Forgets the medium that [`Machine::offer_medium`] had at hand; one that is in a drive stays there.
    pub fn forget_medium(&mut self, name: &str) {
        self.beside(|other| other.forget_medium(name));
        self.shelf_mut().remove(name);
    }

    pub(crate) fn change_medium(&mut self, name: DriveName, event: &MediumEvent) {
        let Some(drive) = self.drive(name) else {
            log::warn!("there is no drive {name}; nothing is changed");
            return;
        };
        let out = match event {
            MediumEvent::Eject => drive.press_eject(),
            MediumEvent::Remove => drive.eject(),
            MediumEvent::Insert(_) if drive.locked() && drive.medium().is_some() => {
                log::warn!("the guest holds the medium in {name}; nothing is put in");
                None
            }
            MediumEvent::Insert(medium) => match self.shelf_mut().get(medium) {
                Some(medium) => drive.insert(medium.clone()),
                None => {
                    log::warn!("there is no medium {medium} at hand; nothing is put into {name}");
                    None
                }
            },
        };
        // What is taken away has all that was written.
        if let Some(Err(e)) = out.map(|mut medium| medium.flush()) {
            log::error!("the medium from {name} may lack what was written last: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, name) in [("cdrom", DriveName::Cdrom(0)), ("cdrom1", DriveName::Cdrom(1)), ("floppy1", DriveName::Floppy(1))] {
            assert_eq!((text.parse(), name.to_string().as_str()), (Ok(name), text));
        }
        assert_eq!("floppy0".parse(), Ok(DriveName::Floppy(0)));
        for bad in ["", "cd", "cdrom-1", "floppy256", "a:"] {
            assert!(bad.parse::<DriveName>().is_err(), "{bad}");
        }
    }
}
