//! MSI: one message in configuration space (PCI Local Bus 3.0, 6.8.1).

use softmetal_bus::Ctx;

use super::ConfigSpace;

const CAPABILITY: u8 = 0x05;
const ENABLE: u16 = 1 << 0;
const ADDRESS_64: u16 = 1 << 7;

/// A function's single message; its registers are in the configuration space.
#[derive(Clone, Copy, Debug)]
pub struct Msi {
    capability: u8,
}

impl Msi {
    /// Adds the capability, with a 64-bit address, to `config`.
    pub fn new(config: &mut ConfigSpace) -> Self {
        let mut body = [0; 12];
        body[..2].copy_from_slice(&ADDRESS_64.to_le_bytes());
        let mask = [ENABLE as u8, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        Self { capability: config.add_capability(CAPABILITY, &body, &mask) }
    }

    /// Whether the function signals by messages, not by INTx#.
    #[must_use]
    pub fn enabled(&self, config: &ConfigSpace) -> bool {
        config.word(self.capability + 2) & ENABLE != 0
    }

    /// Sends the message. Nothing happens when MSI is off.
    pub fn notify(&self, ctx: &mut Ctx, config: &ConfigSpace) {
        if self.enabled(config) {
            let dword = |at: u8| config.read((self.capability + at).into(), 4);
            let addr = u64::from(dword(4)) | u64::from(dword(8)) << 32;
            ctx.msi(addr, u32::from(config.word(self.capability + 12)));
        }
    }
}
