//! A physical or virtual PCI function passed through by VFIO.
//!
//! ```text
//!   HostSpec ──find──▶ HostDevice ──┐
//!   (host=, sysfsdev=)  (sysfs)     │ open (slow: helper thread)
//!                                   ▼
//!   Container ◀──function, DMA── VfioPci ──implements──▶ pci::PciDevice
//!   (one a VM)      maps            │ config space: hardware, with emulated bits over it
//!     ├ Groups                      │ BARs: mapped into the guest, but for the MSI-X table
//!     └ Iommufds                    └ interrupts: hardware ─▶ eventfd ─▶ guest, without us
//! ```
//!
//! [`HostDevice::find`] is quick and opens nothing: it is what tells a user, at the moment the option is given, that
//! a function is missing or held by another driver. [`VfioPci::open`] is slow: it pins and maps the guest's memory.
//! It maps in steps, so that a running guest goes on running, and it can be cancelled between two of them.
//!
//! The kernel has two ways to a function, [`Access`]: its IOMMU group, put into a container (`group.rs`), or the
//! function's own character device, bound to an [`Iommufd`] (`iommufd.rs`). What comes of either is the same device
//! file, and an address space that guest memory is mapped into (`dma.rs`).
//!
//! The VFIO calls are our own (`kernel.rs`), on the kernel's structures from `vfio-bindings`; those of iommufd are the
//! crate `iommufd-ioctls`'. The crate `vfio-ioctls` was tried on paper and left: it drops the errno of the calls whose
//! failure a user must understand (group status, interrupt set-up, reset), takes a group that is not viable and one that
//! is in use for the same thing, and shifts region numbers when one region cannot be described. Its way by iommufd opens,
//! binds and attaches in one call, which cannot do anything else meanwhile nor be broken off.

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

mod address;
mod capabilities;
mod closing;
// Arrays of the size of the space, and offsets that were found in it.
#[allow(clippy::indexing_slicing)]
mod config_space;
mod container;
mod device;
mod dma;
mod error;
mod events;
mod function;
mod group;
mod hardware;
mod host;
mod interrupts;
mod intx;
mod iommufd;
mod kernel;
mod msix;
mod window;

pub use address::{HostAddress, HostSpec};
pub use container::Container;
pub use device::{VfioConfig, VfioPci};
pub use dma::DmaProgress;
pub use error::VfioError;
pub use events::VfioListener;
pub use host::{GroupMember, HostDevice};
pub use interrupts::InterruptMode;
pub use iommufd::{Access, GivenCdev, Iommufd};
