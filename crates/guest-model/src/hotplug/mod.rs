//! Both ways a slot's content comes and goes while the guest runs.

mod acpi;
mod native;

pub use acpi::{AcpiHotplug, SlotChange};
pub use native::{NativeSlot, Power, SlotOrder};
