//! Why the machine could not do what it was asked.

use crate::boot::BootError;
use crate::chardev::ChardevError;
use crate::run_state::IllegalTransition;
use hypervisor::HypervisorError;

/// An error of the machine. The text is what a monitor's client or the command line's user reads: one line.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No such device (QMP class DeviceNotFound).
    #[error("Device '{0}' not found")]
    DeviceNotFound(String),
    /// Anything else with a message of its own.
    #[error("{0}")]
    Refused(String),
    /// `-device` or `device_add`; the first is the option's argument.
    #[error("-device {0}: {1}")]
    Device(String, String),
    /// Guest RAM.
    #[error("-m: {0}")]
    Memory(#[from] memory::MemoryError),
    /// The hypervisor.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The kernel to boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The ACPI tables.
    #[error(transparent)]
    Acpi(#[from] crate::acpi::TooLarge),
    /// A character device.
    #[error(transparent)]
    Chardev(#[from] ChardevError),
    /// The run state does not allow it.
    #[error(transparent)]
    RunState(#[from] IllegalTransition),
}

impl MachineError {
    /// A refusal with this text.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::Refused(text.into())
    }
}
