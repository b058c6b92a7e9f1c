//! PCI Express as a guest sees it: functions and their configuration space, the root complex with its
//! root ports, and the two hotplug controllers.
//!
//! The crate knows no hypervisor and no host device. What a function needs from below (interrupts,
//! doorbells, mappings of host memory) it asks of a [`Platform`]; what the bus needs from a function is
//! [`PciDevice`]. Both are small on purpose: a physical function passed through by VFIO, a virtio device and
//! a root port look alike from here.

mod address;
mod device;
mod platform;

pub use address::{Bdf, BdfParseError};
pub use device::{BAR_COUNT, BarKind, BarRegion, Decode, PciDevice, ROM_BAR, StateError};
pub use platform::{BarMapping, DoorbellWidth, IntxLine, MsiMessage, MsiVector, Platform};
