//! Guest RAM: regions, dirty bitmap, the alias every device uses.
//!
//! The machine hands in a layout (where RAM sits in guest-physical space) and a [`RamConfig`]; [`allocate`] answers with a
//! [`Ram`]: one block of host memory, mapped at each range of the layout. Devices get [`Ram::guest`], a vm-memory
//! collection whose writes mark a bitmap, so that migration sees what the device model wrote without asking it.
//!
//! ```text
//!   guest-physical                     RamBlock "pc.ram" (one memfd or file)
//!   0x1_0000_0000.. high RAM  ───────▶ [low_size, size)
//!             (hole: PCI, APICs)
//!   0x0..            low RAM  ───────▶ [0, low_size)
//! ```
//!
//! Everything that counts pages ([`DirtyPages`], the migration stream) counts them in *block offsets*, not guest
//! addresses: a hole in the layout is no hole in a block.

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

mod anonymous;
mod block;
mod config;
mod dirty;
mod host;
mod kernel_log;
mod pages;

pub use block::{Ram, RamBlock, RamRange, allocate};
pub use config::{GuestRange, HugePages, MemoryError, RamBackend, RamConfig};
pub use dirty::{DirtyPages, PageRun};
pub use host::HostMemory;
pub use kernel_log::{KernelLog, KernelWriter, LogBits};
pub use pages::{Extent, HostSpan};

/// The bitmap each RAM region carries: one bit a page, set by every write through vm-memory.
pub type RamBitmap = vm_memory::bitmap::AtomicBitmap;

/// One mapped range of guest RAM.
pub type RamRegion = vm_memory::GuestRegionMmap<RamBitmap>;

/// Guest-physical memory as devices see it. Cheap to clone (it shares its regions); writes mark [`RamBitmap`].
pub type GuestRam = vm_memory::GuestMemoryMmap<RamBitmap>;

/// The page size dirty tracking and migration count in, whatever the host backs the memory with: 4 KiB.
pub const PAGE_SIZE_BYTES: u64 = 4096;
