//! The bus master registers of the two channels (Programming Interface for Bus Master IDE Controller, 1.0).

use serde::{Deserialize, Serialize};
use softmetal_bus::Ctx;

use super::{Ide, Phase};
use crate::ata;
use crate::lanes::{read_bytes, write_bytes};
use crate::pci::{PciDevice, command as pci_command};

/// Command register: start, and direction (set: from the device to memory).
const START: u8 = 1 << 0;
const TO_MEMORY: u8 = 1 << 3;
/// Status register.
const ACTIVE: u8 = 1 << 0;
const ERROR: u8 = 1 << 1;
pub(super) const INTERRUPT: u8 = 1 << 2;
/// The firmware notes here that it has set the devices up for DMA.
const DMA_CAPABLE: u8 = 0x60;
/// A table of regions cannot cross 64 KiB.
const MAX_REGIONS: u32 = 8192;

/// The registers of a channel.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct BusMaster {
    command: u8,
    pub(super) status: u8,
    /// The table of memory regions.
    table: u32,
}

/// The regions of a table.
struct Table {
    list: Vec<(u64, u32)>,
    /// Bytes of all regions, if the last one is marked as such.
    whole: Option<u64>,
}

/// Reads a table as far as `needed` bytes want it. `None` if a part of it is not memory.
fn regions(ctx: &Ctx, table: u32, needed: u64) -> Option<Table> {
    let mut list = Vec::new();
    let mut total = 0;
    for i in 0..MAX_REGIONS {
        let mut entry = [0; 8];
        if !ctx.dma_read(u64::from(table) + u64::from(i) * 8, &mut entry) {
            return None;
        }
        let entry = u64::from_le_bytes(entry);
        let len = match entry >> 32 & 0xfffe {
            0 => 0x1_0000,
            len => len as u32,
        };
        list.push((entry & 0xffff_fffe, len));
        total += u64::from(len);
        if entry >> 63 != 0 {
            return Some(Table { list, whole: Some(total) });
        }
        if total >= needed {
            break;
        }
    }
    Some(Table { list, whole: None })
}

impl Ide {
    pub(super) fn master_read(&self, offset: u64, width: usize) -> u64 {
        read_bytes(width, |i| {
            let at = offset + i;
            let master = &self.state.channels[(at >> 3 & 1) as usize].master;
            match at & 7 {
                0 => master.command,
                2 => master.status,
                byte @ 4.. => master.table.to_le_bytes()[byte as usize - 4],
                _ => 0,
            }
        })
    }

    pub(super) fn master_write(&mut self, ctx: &mut Ctx, offset: u64, width: usize, value: u64) {
        write_bytes(width, value, |i, byte| {
            let at = offset + i;
            let n = (at >> 3 & 1) as usize;
            let master = &mut self.state.channels[n].master;
            match at & 7 {
                0 => {
                    let started = byte & !master.command & START != 0;
                    master.command = byte & (START | TO_MEMORY);
                    if started {
                        master.status |= ACTIVE;
                        self.run_master(ctx, n);
                    } else if byte & START == 0 {
                        master.status &= !ACTIVE;
                    }
                }
                2 => {
                    master.status &= !(byte & (ERROR | INTERRUPT));
                    master.status = master.status & !DMA_CAPABLE | byte & DMA_CAPABLE;
                }
                lane @ 4.. => {
                    let mut bytes = master.table.to_le_bytes();
                    bytes[lane as usize - 4] = byte;
                    master.table = u32::from_le_bytes(bytes) & !3;
                }
                _ => {}
            }
        });
    }

    /// Moves data if a device waits for that and the bus master is started.
    pub(super) fn run_master(&mut self, ctx: &mut Ctx, n: usize) {
        let allowed = self.config().command() & pci_command::MASTER != 0;
        let Some((channel, unit)) = self.active(n) else { return };
        let master = &mut channel.master;
        if channel.phase != Phase::Dma || master.status & ACTIVE == 0 || !allowed {
            return;
        }
        let tf = &mut channel.registers[channel.active];
        let same_way = unit.writes() == (master.command & TO_MEMORY == 0);
        let table = regions(ctx, master.table, unit.left()).filter(|_| same_way);
        let Some(table) = table else {
            log::warn!("ide: channel {n}: a DMA transfer in the wrong direction, or with a table that is not in memory");
            master.status = master.status & !ACTIVE | ERROR;
            unit.abort(tf);
            channel.phase = Phase::Idle;
            return self.interrupt(ctx, n);
        };
        let moved = ata::transfer(unit, ctx, tf, &table.list);
        if moved.fault {
            master.status |= ERROR;
        }
        // The bus master stops after its last region; if the device wants more, it waits for ever.
        if moved.fault || table.whole == Some(moved.bytes) || !moved.ended {
            master.status &= !ACTIVE;
        }
        if moved.ended {
            self.ended(ctx, n, true);
        }
    }
}
