//! A nested lab host with real KVM, IOMMU, VFIO and Linux guests, on any machine that runs QEMU.
//!
//! ```text
//! L0  this machine: packages, kernels, images, and L1 under qemu-system-x86_64 -accel tcg
//! L1  the lab host: two hosts, a switch and a client in namespaces; the VMM under test runs here
//! L2  the guest: Debian's kernel, unmodified
//! ```

pub mod channel;
pub mod cleanup;
pub mod clock;
pub mod contention;
pub mod cpio;
pub mod guest;
pub mod host;
pub mod initramfs;
pub mod kernel;
pub mod l1;
pub mod launch;
pub mod measurement;
pub mod modules;
pub mod native;
pub mod overhead;
pub mod packages;
pub mod page;
pub mod progress;
pub mod qmp;
pub mod report;
pub mod scenario;
pub mod seen;
pub mod serial;
pub mod site;
pub mod state;
pub mod topology;
pub mod traffic;
pub mod vm;
pub mod wire;
