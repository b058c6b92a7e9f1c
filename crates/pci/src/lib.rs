//! PCI Express as a guest sees it: functions and their configuration space, the root complex with its
//! root ports, and the two hotplug controllers.
//!
//! The crate knows no hypervisor and no host device. What a function needs from below (interrupts,
//! doorbells, mappings of host memory) it asks of a [`Platform`]; what the bus needs from a function is
//! [`PciDevice`]. Both are small on purpose: a physical function passed through by VFIO, a virtio device and
//! a root port look alike from here.

// What a guest, a stream or a client sends ends no program: see "Hostile input" in CONTRIBUTING.md.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable
    )
)]

mod acpi_hotplug;
mod address;
mod address_map;
mod bridge_windows;
#[cfg(test)]
mod bus_tests;
mod config_access;
mod config_layout;
mod config_space;
mod device;
mod express;
mod firmware;
mod firmware_plan;
#[cfg(any(test, feature = "fuzz"))]
mod fuzz;
mod host_bridge;
mod hotplug;
#[cfg(test)]
mod hotplug_tests;
mod intx;
mod lock;
mod msi;
mod msix;
mod platform;
pub mod regs;
mod root_complex;
mod root_port;
mod slot_error;
mod slot_event;
mod slot_registers;
mod snapshot;
#[cfg(any(test, feature = "fuzz"))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
#[cfg_attr(not(test), allow(dead_code))]
mod testing;
mod topology;

pub use acpi_hotplug::{ACPI_HOTPLUG_BASE, ACPI_HOTPLUG_PORTS, AcpiHotplug, RaiseGpe};
pub use address::{Bdf, BdfParseError};
pub use address_map::HostWindows;
pub use bridge_windows::BridgeWindows;
pub use config_access::{CONFIG_PORTS_BASE, ConfigPorts, ECAM_BUS_BYTES, Ecam};
pub use config_layout::{ConfigLayout, HeaderKind, Identity, LayoutError};
pub use config_space::{CONFIG_SPACE_BYTES, ConfigMismatch, ConfigSpace};
pub use device::{BAR_COUNT, BarKind, BarRegion, Decode, PciDevice, ROM_BAR, StateError};
pub use express::{ExpressKind, add_express_capability, flr_requested};
pub use firmware::{Assignment, FirmwareWindows, assign};
#[cfg(any(test, feature = "fuzz"))]
pub use fuzz::{fuzz_bus, fuzz_bus_seeds};
pub use host_bridge::HostBridge;
pub use hotplug::{Hotplug, Withdrawal};
pub use intx::{IntxWiring, pirq, swizzle};
pub use msi::Msi;
pub use msix::{MSIX_ENTRY_BYTES, MSIX_MAX_VECTORS, Msix, MsixPlace, MsixSaved};
pub use platform::{BarMapping, DoorbellWidth, IntxLine, MsiMessage, MsiVector, Platform};
pub use root_complex::RootComplex;
pub use root_port::{RootPort, RootPortConfig, RootPortError, SlotDriver};
pub use slot_error::SlotError;
pub use slot_event::{LetGoCause, SlotEvent, SlotListener};
pub use slot_registers::PowerIndicator;
pub use snapshot::{BridgeSnapshot, BusSnapshot, FunctionSnapshot, RegionSnapshot};
pub use topology::{Function, ROOT_BUS};
