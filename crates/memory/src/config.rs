//! What guest RAM is asked to be, and why it could not be had.

use std::io;
use std::path::PathBuf;

use vm_memory::GuestAddress;

/// A range of guest-physical addresses that RAM shall appear at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestRange {
    /// First guest-physical address; a multiple of 4 KiB.
    pub start: GuestAddress,
    /// Length in bytes; a multiple of 4 KiB, not zero.
    pub size_bytes: u64,
}

impl GuestRange {
    /// The range of `size_bytes` bytes from guest-physical address `start` on.
    #[must_use]
    pub const fn new(start: u64, size_bytes: u64) -> Self {
        Self {
            start: GuestAddress(start),
            size_bytes,
        }
    }
}

/// Which huge pages back an anonymous memory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// The host's default huge page size.
    HostDefault,
    /// Huge pages of this many bytes (2 MiB or 1 GiB on x86).
    SizeBytes(u64),
}

/// Where the bytes live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RamBackend {
    /// An anonymous memory file (close-on-exec), of huge pages if asked for. Always mapped shared, so
    /// that another process (vhost-user) can be given its descriptor.
    Memfd {
        /// Reserved huge pages to back it with; `None` for normal pages, which the kernel may make huge by itself
        /// (transparent huge pages).
        huge_pages: Option<HugePages>,
    },
    /// A file, or a directory (a hugetlbfs mount, say) in which a file without a name is made.
    File {
        /// The file or directory.
        path: PathBuf,
        /// Where in the file RAM begins; a multiple of the page size.
        offset_bytes: u64,
    },
}

/// Guest RAM as configured by `-m` and `-object memory-backend-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamConfig {
    /// The block's name, which source and target of a migration must agree on: `pc.ram`, or the backend's id.
    pub name: String,
    /// Size of the whole block in bytes.
    pub size_bytes: u64,
    /// Where the bytes live.
    pub backend: RamBackend,
    /// For a file: whether writes reach it. A memfd is always shared.
    pub share: bool,
    /// Populate every page now, rather than when it is first touched.
    pub prealloc: bool,
    /// Whether a core dump of this process includes guest RAM.
    pub dump: bool,
    /// Let the kernel merge equal pages (KSM).
    pub merge: bool,
}

impl RamConfig {
    /// `size_bytes` of anonymous memory named `pc.ram`: what plain `-m` means.
    #[must_use]
    pub fn anonymous(size_bytes: u64) -> Self {
        Self {
            name: "pc.ram".to_owned(),
            size_bytes,
            backend: RamBackend::Memfd { huge_pages: None },
            share: true,
            prealloc: false,
            dump: true,
            merge: false,
        }
    }
}

/// Why guest RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A size of zero.
    #[error("guest RAM '{name}' has size 0: give a size with -m")]
    Empty {
        /// The block.
        name: String,
    },
    /// The size or a range does not fall on the backend's page boundaries.
    #[error(
        "guest RAM '{name}': {what} {value:#x} is not a multiple of the backend's page size {page_size_bytes:#x}"
    )]
    Unaligned {
        /// The block.
        name: String,
        /// Which value: size, offset, guest address.
        what: &'static str,
        /// The value.
        value: u64,
        /// The granule it must be a multiple of.
        page_size_bytes: u64,
    },
    /// The layout does not describe exactly the configured size, in ascending order and without overlap.
    #[error("guest RAM '{name}' of {size_bytes:#x} bytes does not fit its address map: {why}")]
    Layout {
        /// The block.
        name: String,
        /// The configured size.
        size_bytes: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than the host has at all.
    #[error(
        "cannot have {asked} of guest RAM: the host has {total} of memory and {swap} of swap; ask for less with -m"
    )]
    MoreThanHost {
        /// What was asked for, as `12 GiB`.
        asked: String,
        /// The host's memory.
        total: String,
        /// The host's swap.
        swap: String,
    },
    /// More than is free now, and all of it shall be populated at once.
    #[error(
        "cannot populate {asked} of guest RAM: only {available} of the host's {total} are available; ask for less with -m, \
         or leave prealloc=off"
    )]
    NotAvailable {
        /// What was asked for.
        asked: String,
        /// What is available.
        available: String,
        /// The host's memory.
        total: String,
    },
    /// `RLIMIT_AS` forbids it.
    #[error(
        "cannot map {asked} of guest RAM: this process may use {limit} of address space (ulimit -v)"
    )]
    AddressSpaceLimit {
        /// What was asked for.
        asked: String,
        /// The limit.
        limit: String,
    },
    /// Not enough free huge pages.
    #[error(
        "guest RAM '{name}' needs {needed} huge pages of {size}, the host has {free} free: reserve more \
         (/sys/kernel/mm/hugepages/hugepages-{size_kib}kB/nr_hugepages) or leave hugetlb=off"
    )]
    HugePages {
        /// The block.
        name: String,
        /// Pages needed.
        needed: u64,
        /// Page size, for people.
        size: String,
        /// Page size in KiB, as in sysfs.
        size_kib: u64,
        /// Pages free.
        free: u64,
    },
    /// The host has no huge pages of this size.
    #[error("guest RAM '{name}': this host has no huge pages of {size}")]
    NoSuchHugePage {
        /// The block.
        name: String,
        /// Page size, for people.
        size: String,
    },
    /// The backing file exists and has another size.
    #[error("guest RAM '{name}': {path} is {found:#x} bytes long, {needed:#x} are needed")]
    FileSize {
        /// The block.
        name: String,
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What is needed.
        needed: u64,
    },
    /// The host refused a step.
    #[error("guest RAM '{name}': cannot {what}: {error}")]
    Host {
        /// The block.
        name: String,
        /// The step: "create a memory file", "map it", ….
        what: String,
        /// The host's reason.
        error: io::Error,
    },
    /// A page run outside of a block, or a block that does not exist.
    #[error("pages {first:#x}+{count:#x} of RAM block {block} do not exist")]
    OutOfRange {
        /// Index of the block.
        block: usize,
        /// First page of the run.
        first: u64,
        /// Pages in the run.
        count: u64,
    },
}
