//! System management RAM, as a host bridge gives it out: the registers SMRAM (82441FX datasheet, 3.2.20) and, of Q35,
//! ESMRAMC (29C0 datasheet, 5.1.32).

use super::ConfigSpace;

/// Bits of SMRAM.
const D_OPEN: u8 = 1 << 6;
const D_CLS: u8 = 1 << 5;
const D_LCK: u8 = 1 << 4;
const G_SMRAME: u8 = 1 << 3;
/// C_BASE_SEG: 0xA0000, which is constant.
const C_BASE_SEG: u8 = 2;
/// Bits of ESMRAMC.
const H_SMRAME: u8 = 1 << 7;
const TSEG_SZ: u8 = 3 << 1;
const T_EN: u8 = 1 << 0;
/// SMRAM is cached: constant.
const CACHED: u8 = 7 << 3;

/// What of RAM is for system management mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Smram {
    /// There is any (G_SMRAME).
    pub enabled: bool,
    /// Everybody sees it, not the processor in system management mode alone (D_OPEN).
    pub open: bool,
    /// The RAM at 0xA0000 answers at 0xFEDA0000 (H_SMRAME), not at its own address.
    pub high: bool,
    /// Bytes at the top of low RAM that belong to it too (TSEG); 0 is none.
    pub tseg: u64,
}

/// Where the registers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub smram: u8,
    pub esmramc: Option<u8>,
}

impl Registers {
    pub fn define(self, config: &mut ConfigSpace) {
        config.define(self.smram.into(), &[C_BASE_SEG], &[D_OPEN | D_CLS | D_LCK | G_SMRAME]);
        if let Some(at) = self.esmramc {
            config.define(at.into(), &[CACHED], &[H_SMRAME | TSEG_SZ | T_EN]);
        }
    }

    /// The bits that D_LCK, once it is set, keeps as they are.
    pub fn frozen(self, config: &ConfigSpace) -> Vec<(u8, u8)> {
        if config.byte(self.smram) & D_LCK == 0 {
            return Vec::new();
        }
        let extended = self.esmramc.map(|at| (at, H_SMRAME | TSEG_SZ | T_EN));
        [(self.smram, D_OPEN | D_LCK | G_SMRAME)].into_iter().chain(extended).collect()
    }

    /// After a store: D_LCK closes SMRAM.
    pub fn settle(self, config: &mut ConfigSpace) {
        let smram = config.byte(self.smram);
        if smram & D_LCK != 0 {
            config.set_bits(self.smram, D_OPEN, 0);
        }
        if smram & D_CLS != 0 {
            log::warn!("SMRAM is to be closed to data (D_CLS): that has no effect here");
        }
    }

    pub fn smram(self, config: &ConfigSpace) -> Smram {
        let smram = config.byte(self.smram);
        let extended = self.esmramc.map_or(0, |at| config.byte(at));
        let enabled = smram & G_SMRAME != 0;
        let tseg = match (enabled && extended & T_EN != 0, (extended & TSEG_SZ) >> 1) {
            (true, 0) => 1 << 20,
            (true, 1) => 2 << 20,
            (true, 2) => 8 << 20,
            _ => 0,
        };
        Smram { enabled, open: smram & D_OPEN != 0, high: extended & H_SMRAME != 0, tseg }
    }
}
