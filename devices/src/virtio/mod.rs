//! Virtio 1.x devices on PCI (OASIS Virtual I/O Device specification 1.2).
//!
//! | module | what it is |
//! |---|---|
//! | `queue` | the split virtqueue, as the device sees it |
//! | `pci` | the transport: registers, interrupts, feature negotiation |
//! | `block`, `scsi`, `console`, `input`, `rng` | the devices |
//! | `flush` | flushes that go on beside the guest |
//!
//! A queue is processed to its end inside the guest's notification, so a run repeats exactly. Whatever the driver puts
//! into a ring, work is bounded: a chain has at most as many buffers as its table has entries, and a ring that makes no
//! sense stops the device until the driver resets it (DEVICE_NEEDS_RESET).

mod block;
mod console;
mod flush;
mod input;
mod pci;
mod queue;
mod rng;
mod scsi;
#[cfg(test)]
mod testing;

use serde::{Serialize, de::DeserializeOwned};
use softmetal_bus::{Ctx, Input};

pub use block::VirtioBlk;
pub use console::VirtioConsole;
pub use input::{Kind as InputKind, VirtioInput};
pub use pci::VirtioPci;
pub use queue::{Broken, Chain, Fault, Queue, QueueState, Segments};
pub use rng::VirtioRng;
pub use scsi::{LUNS, Lun, VirtioScsi};

/// `state` and `set_state` of a device whose volatile state is its field `state`.
macro_rules! plain_state {
    () => {
        fn state(&self) -> &State {
            &self.state
        }
        fn set_state(&mut self, state: State) {
            self.state = state;
        }
    };
}
use plain_state;

/// What makes a virtio device more than its transport.
pub trait VirtioDevice: Send {
    /// The device's own volatile state.
    type State: Clone + Serialize + DeserializeOwned;
    /// The name in logs and saved state.
    const NAME: &'static str;
    /// The virtio device type (chapter 5).
    const TYPE: u16;
    /// The PCI class code, 24 bits.
    const CLASS: u32;
    /// The largest size of each queue, powers of two.
    const QUEUES: &'static [u16];

    /// The device's feature bits (those of the rings and the transport excluded).
    fn features(&self) -> u64;
    /// The device configuration structure as it is now.
    fn config(&self) -> Vec<u8>;
    /// A store to the device configuration structure.
    fn config_write(&mut self, ctx: &mut Ctx, offset: u64, bytes: &[u8]) {
        let _ = (ctx, bytes);
        log::debug!("{}: write to configuration byte {offset} ignored", Self::NAME);
    }
    /// The driver is ready (DRIVER_OK) and has accepted `features`.
    fn activate(&mut self, features: u64) {
        let _ = features;
    }
    /// Takes all that waits in queue `index` of `queues`, as far as the device can.
    ///
    /// # Errors
    /// [`Broken`] when the ring makes no sense; the transport then stops the device.
    fn process(&mut self, ctx: &mut Ctx, index: usize, queues: &mut [Queue]) -> Result<(), Broken>;
    /// Stores something from outside. Returns the queue that may be able to make progress now.
    fn input(&mut self, input: &Input) -> Option<usize> {
        let _ = input;
        None
    }
    /// What the device waited for on the host has ended, or the time for it has passed: completes the requests that wait.
    ///
    /// # Errors
    /// As of [`VirtioDevice::process`].
    fn host_done(&mut self, ctx: &mut Ctx, queues: &mut [Queue]) -> Result<(), Broken> {
        let _ = (ctx, queues);
        Ok(())
    }
    /// See [`softmetal_bus::Device::waits_for_host`].
    fn waits_for_host(&mut self) -> Option<bool> {
        None
    }
    /// See [`softmetal_bus::Device::input_room`].
    fn input_room(&self) -> usize {
        0
    }
    /// Back to the power-on state. `power` is false when only the driver resets the device.
    fn reset(&mut self, power: bool);
    /// The state to save.
    fn state(&self) -> &Self::State;
    /// Puts saved state back.
    fn set_state(&mut self, state: Self::State);
}
