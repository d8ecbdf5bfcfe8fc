//! Which disk and which CD-ROM drive goes to which place.

use softmetal_bus::Drive;
use softmetal_devices::ata::Unit;
use softmetal_devices::scsi::cd::ScsiCd;
use softmetal_devices::scsi::disk::ScsiDisk;
use softmetal_devices::virtio::Lun;
use softmetal_devices::{ahci, ide};

use super::{Disk, Interface};

/// Places of the IDE function.
pub const IDE_PLACES: usize = 4;
/// Ports of the SATA host adapter.
pub const AHCI_PLACES: usize = ahci::PORTS;
/// The order in which CD-ROM drives take IDE places: the secondary channel first.
pub const CD_ORDER: [usize; IDE_PLACES] = [2, 3, 1, 0];

/// The devices of the host adapters.
#[derive(Default)]
pub struct Storage {
    /// Primary master and slave, secondary master and slave.
    pub ide: ide::Places,
    /// By port.
    pub ahci: ahci::Places,
    /// By target and unit.
    pub scsi: Vec<Lun>,
}

impl Storage {
    /// Disks fill the places of their interface from the first one on. CD-ROM drives are where [`cd_interface`] says: on IDE
    /// from the secondary channel on, elsewhere behind the disks. What finds no place is left out, with a log line.
    pub fn new(disks: &[Disk], cdroms: &[Drive]) -> Self {
        let mut all = Self::default();
        let disk = |interface: Interface| {
            let sata = interface == Interface::Ahci;
            let disks = disks.iter().enumerate().filter(move |(_, disk)| disk.interface == interface);
            disks.map(move |(n, disk)| Unit::disk(disk.backend.clone(), format!("softmetal-{n}"), sata))
        };
        disk(Interface::Ide).for_each(|unit| plug(&mut all.ide, 0..IDE_PLACES, unit));
        disk(Interface::Ahci).for_each(|unit| plug(&mut all.ahci, 0..AHCI_PLACES, unit));
        for (n, disk) in disks.iter().enumerate().filter(|(_, disk)| disk.interface == Interface::Scsi) {
            all.scsi.push(Lun::Disk(ScsiDisk::new(disk.backend.clone(), format!("softmetal-{n}"))));
        }
        let interface = cd_interface(disks.iter().map(|disk| disk.interface));
        for (n, drive) in cdroms.iter().enumerate() {
            let unit = |sata| Unit::cdrom(drive.clone(), format!("softmetal-cd{n}"), sata);
            match interface {
                Interface::Ahci => plug(&mut all.ahci, 0..AHCI_PLACES, unit(true)),
                Interface::Scsi => all.scsi.push(Lun::Cd(ScsiCd::new(drive.clone()))),
                Interface::Ide | Interface::Virtio => plug(&mut all.ide, CD_ORDER, unit(false)),
            }
        }
        all
    }

    /// Whether there is a SATA adapter.
    pub fn has_ahci(&self) -> bool {
        self.ahci.iter().any(Option::is_some)
    }
}

/// Where CD-ROM drives are, by the interfaces of the disks: beside the disks where none is on IDE and some are on the SATA
/// adapter or, failing that, on the SCSI host; else on IDE.
pub fn cd_interface(interfaces: impl Iterator<Item = Interface> + Clone) -> Interface {
    let has = |interface| interfaces.clone().any(|i| i == interface);
    let beside = [Interface::Ahci, Interface::Scsi].into_iter().find(|i| has(*i));
    beside.filter(|_| !has(Interface::Ide)).unwrap_or(Interface::Ide)
}

fn plug(places: &mut [Option<Unit>], order: impl IntoIterator<Item = usize>, unit: Unit) {
    match order.into_iter().find(|&place| places[place].is_none()) {
        Some(place) => places[place] = Some(unit),
        None => log::error!("no place is left for a drive; it is not there for the guest"),
    }
}
