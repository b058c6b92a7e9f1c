//! What slots tell the machine's control plane.

use crate::device::PciDevice;
use std::fmt;
use std::sync::Arc;

/// By what a guest let go of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetGoCause {
    /// It wrote the ACPI block's eject register (`_EJ0`).
    Eject,
    /// It turned the slot's power off.
    PowerOff,
    /// The slot had no power, so nobody had to be asked.
    NotPowered,
    /// The machine was reset while an unplug was asked for.
    MachineReset,
}

/// Something happened in a slot.
#[derive(Clone)]
pub enum SlotEvent {
    /// The guest took note of the wish to unplug: it read the ACPI block's down register, or made the slot's
    /// power indicator blink.
    Noticed {
        /// The port.
        bus: String,
    },
    /// The guest was asked to unplug, had begun to, and called the removal off: what is in the slot stays. Nothing is asked any
    /// more. Only a slot that is driven natively can tell.
    Kept {
        /// The port.
        bus: String,
    },
    /// The guest's driver is done with the device, of which an unplug was asked: it turned bus mastering off.
    /// The slot follows later. From now on no frame passes through the device.
    DriverLetGo {
        /// The port.
        bus: String,
        /// The function's id.
        id: String,
    },
    /// The guest let go of the function, which is out of its slot already.
    LetGo {
        /// The port.
        bus: String,
        /// The function's id.
        id: String,
        /// The function, detached; it can be put back at once.
        device: Arc<dyn PciDevice>,
        /// How.
        cause: LetGoCause,
        /// Whether it had been asked to.
        asked: bool,
    },
}

impl fmt::Debug for SlotEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noticed { bus } => write!(f, "Noticed({bus})"),
            Self::Kept { bus } => write!(f, "Kept({bus})"),
            Self::DriverLetGo { bus, id } => write!(f, "DriverLetGo({id} in {bus})"),
            Self::LetGo {
                bus,
                id,
                cause,
                asked,
                ..
            } => write!(f, "LetGo({id} in {bus}, {cause:?}, asked: {asked})"),
        }
    }
}

/// Hears of [`SlotEvent`]s.
pub trait SlotListener: Send + Sync {
    /// Called in a vCPU's thread, or in that of whoever asked for an unplug or reset. No lock of the bus is
    /// held. It must not block.
    fn slot_event(&self, event: SlotEvent);
}
