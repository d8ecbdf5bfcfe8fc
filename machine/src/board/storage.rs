//! Which disk and which CD-ROM drive goes to which place.

use softmetal_bus::Drive;
use softmetal_devices::ata::Unit;
use softmetal_devices::ide::Places;

use super::{Disk, Interface};

/// Places of the IDE function.
pub const IDE_PLACES: usize = 4;
/// The order in which CD-ROM drives take IDE places: the secondary channel first.
pub const CD_ORDER: [usize; IDE_PLACES] = [2, 3, 1, 0];

/// The devices of the host adapters.
#[derive(Default)]
pub struct Storage {
    /// Primary master and slave, secondary master and slave.
    pub ide: Places,
}

impl Storage {
    /// IDE disks fill the IDE places from the first one on, CD-ROM drives from the secondary channel on. What finds no
    /// place is left out, with a log line.
    pub fn new(disks: &[Disk], cdroms: &[Drive]) -> Self {
        let mut all = Self::default();
        for (n, disk) in disks.iter().enumerate().filter(|(_, disk)| disk.interface == Interface::Ide) {
            all.plug(&[0, 1, 2, 3], Unit::disk(disk.backend.clone(), format!("softmetal-{n}"), false));
        }
        for (n, drive) in cdroms.iter().enumerate() {
            all.plug(&CD_ORDER, Unit::cdrom(drive.clone(), format!("softmetal-cd{n}"), false));
        }
        all
    }

    fn plug(&mut self, order: &[usize], unit: Unit) {
        match order.iter().find(|&&place| self.ide[place].is_none()) {
            Some(&place) => self.ide[place] = Some(unit),
            None => log::error!("no IDE place is left for a drive; it is not there for the guest"),
        }
    }
}
