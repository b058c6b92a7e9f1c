//! The program as a client of QEMU's failover drives it: over the qtest socket in the processors' place, and over QMP. The
//! primary is a virtio NIC, as there is no other Ethernet device without hardware.

#![allow(clippy::unwrap_used)]

mod accelerators;
mod back;
mod client;
mod descriptors;
mod metrics;
mod migrate;
mod pair;
mod passthrough;
mod pci;
mod protocol;
mod reasons;
mod report;
mod sockets;
