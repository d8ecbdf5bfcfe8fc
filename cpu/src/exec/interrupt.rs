//! Delivery of exceptions and interrupts (SDM 3A, chapter 6).

use crate::fault::Exception;
use crate::state::Cpu;

impl Cpu {
    /// Delivers `e`, and what faults on the way (double fault rules); each further exception is appended to `chain`.
    /// False on a triple fault.
    pub fn deliver_exception(&mut self, e: Exception, chain: &mut Vec<(u64, Exception)>) -> bool {
        let _ = (e, chain);
        false
    }
    /// Delivers an external interrupt or NMI. False on a triple fault.
    pub fn deliver_interrupt(&mut self, vector: u8, chain: &mut Vec<(u64, Exception)>) -> bool {
        let _ = (vector, chain);
        false
    }
}
