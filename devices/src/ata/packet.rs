//! The commands of a packet device (ATA/ATAPI-7, volume 1, chapter 6; MMC-5 for the packets).

use super::{ABORTED, COD, DEVICE_RESET, DIAGNOSTIC, Failure, Media, Place, SECTOR, Step, Taskfile, Transfer, Unit, error, status};
use crate::scsi::cd::Reply;

/// The PACKET command.
pub(super) const PACKET: u8 = 0xa0;

impl Unit {
    pub(super) fn packet_command(&mut self, tf: &mut Taskfile) -> Result<Step, Failure> {
        if let Some(step) = self.power_command(tf) {
            return Ok(step);
        }
        match tf.command {
            PACKET => {
                self.state.limit = (tf.lba >> 8) as u16;
                self.state.packet_dma = tf.features & 1 != 0;
                self.state.power = 0xff;
                tf.count = COD;
                tf.status = status::DRDY | status::DSC | status::DRQ;
                return Ok(Step::Packet);
            }
            0xa1 => {
                let data = self.identify();
                return Ok(self.answer(data, false, SECTOR));
            }
            DEVICE_RESET | DIAGNOSTIC => {
                self.sign(tf);
                tf.error = 1;
            }
            0xef if tf.features & 0xff == 3 => return self.set_mode(tf.count as u8),
            0xef if matches!(tf.features as u8, 0x66 | 0xcc) => {}
            0xe7 => {}
            // A driver that takes it for a disk learns what it is.
            0x20 | 0x21 | 0xec => {
                self.sign(tf);
                return Err(ABORTED);
            }
            command => {
                log::debug!("atapi: command {command:#04x} is not supported");
                return Err(ABORTED);
            }
        }
        Ok(Step::Done)
    }

    /// The most bytes of a PIO block for a transfer of `total` bytes: as the host has limited it, and even, unless it is
    /// the last.
    fn packet_block(&self, total: u64) -> u64 {
        let limit = match u64::from(self.state.limit) {
            0 | 0xffff => 0xfffe,
            limit => limit,
        };
        if limit < total { (limit & !1).max(2) } else { limit }
    }

    pub(super) fn packet_received(&mut self, packet: &[u8; 12]) -> Result<Step, Failure> {
        self.state.packet = *packet;
        let Media::Cd(cd) = &mut self.media else { return Err(Failure::Ata(0, error::ABRT, None)) };
        let dma = self.state.packet_dma;
        let (write, left, place) = match cd.execute(packet)? {
            Reply::Nothing => return Ok(Step::Done),
            Reply::Data(data) => {
                let block = self.packet_block(data.len() as u64);
                return Ok(self.answer(data, dma, block));
            }
            Reply::Transfer(extent) if extent.is_empty() => return Ok(Step::Done),
            Reply::Transfer(extent) => (false, extent.len(), Place::Cd(extent)),
            Reply::Wants(0) => return Ok(Step::Done),
            Reply::Wants(n) => (true, n.into(), Place::Parameters),
        };
        let block = self.packet_block(left);
        self.state.transfer = Some(Transfer { write, dma, left, block, place });
        Ok(Step::Data)
    }
}
