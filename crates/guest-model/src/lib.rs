//! The driver's side of a guest, in plain Rust: what a firmware, a kernel and its drivers do to a machine, done by a
//! test instead. Nothing of the machine is imitated; only the CPU's place is taken.
//!
//! ```text
//!        a test, or `examples/play.rs`                  Act, Moment: what it is told to do wrong; Seed
//!           │                                              │
//!           ▼                                              ▼
//!   Guest: boot, step(now), send, receive ── Jobs of slots ── AcpiHotplug | NativeSlot
//!           │        └── Master: net_failover's rules        │
//!           ▼                                                ▼
//!   NetDriver: rings, control queue, MSI-X, link     PciTree: buses, windows, regions, rescan of a slot
//!           │                                            │
//!           ├──────────── GuestRam, MsiWords ────────────┤      RAM that drivers hand to devices; interrupts as words
//!           ▼                                            ▼
//!        GuestBus: ports and memory, and nothing else
//!           │
//!           ▼
//!        QtestBus ── unix socket ──▶ QEMU, Standfast
//!        InProcessBus ─────────────▶ Standfast's machines in this process HostEnd ◀── unix socket ── -netdev dgram
//! ```
//!
//! Rules:
//! - Time is handed in, and nothing sleeps. What waits for a device that must answer at once (a reset, a control
//!   command) waits in [`GuestBus::pause`], for an interrupt or the like, and each such wait has an end.
//! - A driver does what its interrupt asks for and does not look for work without one ([`NetDriver::service`]), so
//!   that a lost interrupt is seen as a lost frame.
//! - The model behaves. What a guest does wrong on purpose is asked for by name.
//!
//! The model takes any Ethernet function for a primary. In a world without KVM that is a virtio-net function with
//! `failover_pair_id`; a real Linux does not take one of those for its primary.

mod behaviour;
mod bell;
mod bus;
mod error;
pub mod failover;
mod frame;
mod guest;
pub mod hotplug;
mod in_process;
pub mod pci;
mod qtest;
mod ram;
mod seed;
#[cfg(test)]
mod testing;
pub mod virtio;
pub mod vmm;

pub use behaviour::{Act, Moment};
pub use bell::Bell;
pub use bus::{BusError, BusWords, GuestBus};
pub use error::GuestError;
pub use frame::{Account, ETHERTYPE, HostEnd, Ledger, NumberedFrame};
pub use guest::{Delivery, Guest, GuestOptions, News};
pub use in_process::InProcessBus;
pub use pci::{Bdf, ConfigAccess, MessageCell, MsiWords, PciTree, Windows};
pub use qtest::{LineChange, QtestBus};
pub use ram::{Block, GuestRam};
pub use seed::{SEED_VARIABLE, Seed};
pub use virtio::{NetDriver, NetOptions, features};
