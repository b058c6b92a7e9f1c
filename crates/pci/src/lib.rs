//! PCI Express as a guest sees it: functions and their configuration space, the root complex with its
//! root ports, and the two hotplug controllers.
//!
//! The crate knows no hypervisor and no host device. What a function needs from below (interrupts,
//! doorbells, mappings of host memory) it asks of a [`Platform`]; what the bus needs from a function is
//! [`PciDevice`]. Both are small on purpose: a physical function passed through by VFIO, a virtio device and
//! a root port look alike from here.

mod address;
mod config_layout;
mod config_space;
mod device;
mod express;
mod lock;
mod msi;
mod msix;
mod platform;
pub mod regs;
#[cfg(test)]
mod testing;

pub use address::{Bdf, BdfParseError};
pub use config_layout::{ConfigLayout, HeaderKind, Identity, LayoutError};
pub use config_space::{CONFIG_SPACE_BYTES, ConfigMismatch, ConfigSpace};
pub use device::{BAR_COUNT, BarKind, BarRegion, Decode, PciDevice, ROM_BAR, StateError};
pub use express::{ExpressKind, add_express_capability, flr_requested};
pub use msi::Msi;
pub use msix::{MSIX_ENTRY_BYTES, MSIX_MAX_VECTORS, Msix, MsixPlace, MsixSaved};
pub use platform::{BarMapping, DoorbellWidth, IntxLine, MsiMessage, MsiVector, Platform};
