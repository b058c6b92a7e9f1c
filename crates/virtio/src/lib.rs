//! virtio devices as PCI functions: the modern transport and the device types on it.
//!
//! ```text
//!   vCPU threads ──▶ VirtioPci (config space, registers, doorbells)      impl pci::PciDevice
//!                        │ start / stop / negotiated / reset
//!                        ▼
//!                   VirtioDevice: NetDevice, RngDevice, BlkDevice
//!                        │ one worker a queue pair (or a device)
//!                        ▼
//!   kick eventfds ──▶ worker ◀──▶ NetBackend (tap, socket: the machine's)
//!                        │ Virtqueue on guest RAM
//!                        ▼
//!                   Signals ──▶ MSI-X or INTx
//! ```
//!
//! The crate knows no host backend: bytes go between guest memory and whatever implements [`NetBackend`] as spans
//! ([`IoBuffer`]) that only the kernel or a copy touches. A driver is hostile: what it can do to a ring ends
//! in a device that asks for a reset, never in a panic, an endless loop or an access outside of RAM.

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

mod blk;
mod chain;
mod device;
pub mod features;
mod fuzz;
mod io_buffer;
mod lock;
mod net;
mod queue;
mod rng;
mod signals;
mod single;
mod transport;
mod worker;

pub use blk::{BlkConfig, VirtioBlk};
pub use chain::{CHAIN_MAX, RingError};
pub use device::{DeviceKind, Run, VirtioDevice};
pub use fuzz::{fuzz_function, fuzz_function_seeds, fuzz_queue, fuzz_queue_seeds};
pub use io_buffer::{
    IO_BUFFERS_MAX, IoBuffer, gather, preadv, pwritev, readv, scatter, skip, total_len, writev,
};
pub use net::{
    FEATURE_SWITCHES, KernelPairs, KernelRing, MAC_TABLE_ENTRIES, MacAddr, NetBackend, NetConfig,
    NetCounters, NetEvent, NetListener, Offloads, RxFilter, Unconnected, VNET_HEADER_BYTES,
    VirtioNet, unless_blocked,
};
pub use queue::{QueueSetup, Virtqueue};
pub use rng::{RngConfig, RngLimit, VirtioRng};
pub use signals::Signals;
pub use transport::{PciConfig, VirtioError, VirtioPci};
