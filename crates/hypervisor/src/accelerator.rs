//! Whoever runs the guest: what the board asks of KVM, and of the client that stands in for processors.
//!
//! ```text
//!                         ┌── Vm     KVM: vCPU threads run guest code
//!   board ─ Accelerator ──┤
//!                         └── Qtest  no code runs; a client reads and writes memory, ports and registers
//! ```
//! Both keep saved states of their own kind. What is saved crosses this seam encoded, under a name that says who wrote
//! it, so that one accelerator's state is never given to the other.

use crate::{BootRegisters, Bus, CpuListener, DirtyLog, HypervisorError, Topology};
use pci::{IntxLine, Platform};
use std::sync::Arc;

/// A kind of saved state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateKind {
    /// Who wrote it, as the model's name in a migration stream.
    pub model: &'static str,
    /// Version of its encoded form.
    pub version: u16,
}

/// What runs the guest, beside its processors.
pub trait Accelerator: Platform {
    /// Its name after `-accel`.
    fn name(&self) -> &'static str;

    /// A device's share of the interrupt line `gsi` (0..24).
    fn irq_line(&self, gsi: u32) -> Arc<dyn IntxLine>;

    /// Creates `count` processors, paused, in their power-on state. Once for each machine.
    ///
    /// # Errors
    /// More than there can be, or the host refused one.
    fn processors(
        self: Arc<Self>,
        count: u32,
        topology: Topology,
        bus: Arc<dyn Bus>,
        listener: Arc<dyn CpuListener>,
    ) -> Result<Box<dyn Processors>, HypervisorError>;

    /// Switches the log of pages the guest writes on, all clean, or off. What is written through vm-memory is not in
    /// it: that has a bitmap of its own (crate `memory`).
    ///
    /// # Errors
    /// The host refused it.
    fn set_dirty_log(&self, on: bool) -> Result<(), HypervisorError>;

    /// The pages written since the last call or since the log was switched on; empty while it is off.
    ///
    /// # Errors
    /// The host refused it.
    fn dirty_log(&self) -> Result<Vec<DirtyLog>, HypervisorError>;

    /// The kind of [`save_irqchip`](Self::save_irqchip)'s states.
    fn irqchip_kind(&self) -> StateKind;

    /// Interrupt controllers, timer and clock, encoded; the processors are paused.
    ///
    /// # Errors
    /// The host refused it.
    fn save_irqchip(&self) -> Result<Vec<u8>, HypervisorError>;

    /// Sets interrupt controllers, timer and clock; the processors are paused. `state` is hostile input of the kind and
    /// version of [`irqchip_kind`](Self::irqchip_kind).
    ///
    /// # Errors
    /// The state does not fit or the host refused it.
    fn restore_irqchip(&self, state: &[u8]) -> Result<(), HypervisorError>;
}

/// The processors of a machine. Dropping them ends their threads.
pub trait Processors: Send {
    /// How many there are.
    fn count(&self) -> usize;

    /// A host thread for each, for `query-cpus-fast`.
    ///
    /// # Errors
    /// A thread is gone.
    fn thread_ids(&self) -> Result<Vec<i32>, HypervisorError>;

    /// Lets the guest run.
    fn resume(&self);

    /// Takes all processors out of the guest; when this returns none of their threads touches a device.
    fn pause(&self);

    /// Power-on state; with `boot`, the first processor then begins as the boot protocol says. Pre: paused.
    ///
    /// # Errors
    /// The host refused it.
    fn reset(&self, boot: Option<BootRegisters>) -> Result<(), HypervisorError>;

    /// The kind of [`save`](Self::save)'s states.
    fn kind(&self) -> StateKind;

    /// Everything of each processor that a guest can see, encoded. Pre: paused.
    ///
    /// # Errors
    /// The host refused it.
    fn save(&self) -> Result<Vec<Vec<u8>>, HypervisorError>;

    /// Takes over saved states, one for each processor. Pre: paused; `states` is hostile input of the kind and version of
    /// [`kind`](Self::kind).
    ///
    /// # Errors
    /// A state does not fit or the host refused it.
    fn restore(&self, states: &[Vec<u8>]) -> Result<(), HypervisorError>;
}

/// Encodes a saved state.
pub(crate) fn encode<T: minicbor::Encode<()>>(
    what: &'static str,
    state: &T,
) -> Result<Vec<u8>, HypervisorError> {
    minicbor::to_vec(state).map_err(|error| HypervisorError::State {
        what,
        reason: error.to_string(),
    })
}

/// Decodes a saved state.
pub(crate) fn decode<'b, T: minicbor::Decode<'b, ()>>(
    what: &'static str,
    state: &'b [u8],
) -> Result<T, HypervisorError> {
    minicbor::decode(state).map_err(|error| HypervisorError::State {
        what,
        reason: format!("malformed: {error}"),
    })
}
