//! User-creatable objects: `-object` and `object-add`.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::syntax::{Options, Source};

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectConfig {
    /// `id=`.
    pub id: String,
    /// What it is.
    pub kind: ObjectKind,
    /// The option's argument as the user wrote it: for messages.
    pub text: String,
}

/// The kinds of object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectKind {
    /// `memory-backend-ram`, `-memfd`, `-file`.
    Memory(MemoryBackend),
    /// `rng-random`, `rng-builtin`.
    Rng {
        /// The device random bytes are read from.
        path: PathBuf,
    },
    /// `iommufd`.
    IommuFd {
        /// `fd=`: an open /dev/iommu.
        fd: Option<super::FdRef>,
    },
    /// `secret`: accepted, used by nothing yet.
    Secret,
    /// `iothread`: accepted, used by nothing yet (every queue has a worker of its own).
    IoThread,
}

/// Where the memory of a back end comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryBackendSource {
    /// Anonymous memory (a memfd too, so that it can be shared).
    Ram,
    /// A memfd.
    MemFd,
    /// A file, or a fresh file in a folder.
    File {
        /// `mem-path=`.
        path: PathBuf,
        /// `readonly=`.
        readonly: bool,
        /// `discard-data=`: drop the contents at the end.
        discard_data: bool,
        /// `offset=`, bytes.
        offset_bytes: u64,
    },
}

/// Guest memory as an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryBackend {
    /// Where it comes from.
    pub source: MemoryBackendSource,
    /// `size=`.
    pub size_bytes: u64,
    /// `share=`: mapped shared.
    pub share: bool,
    /// `prealloc=`: touch all pages at start.
    pub prealloc: bool,
    /// `prealloc-threads=`.
    pub prealloc_threads: u32,
    /// `hugetlb=`: huge pages (memfd).
    pub hugetlb: bool,
    /// `hugetlbsize=`: the size of one; `None` is the system's default.
    pub hugetlb_size_bytes: Option<u64>,
    /// `merge=`: KSM may merge it.
    pub merge: bool,
    /// `dump=`: part of a core dump.
    pub dump: bool,
    /// `reserve=`: reserve swap or huge pages when mapping.
    pub reserve: bool,
    /// `host-nodes=`: NUMA nodes of the host; empty for no policy.
    pub host_nodes: Vec<u32>,
    /// `policy=`.
    pub policy: NumaPolicy,
}

/// `policy=` of a memory back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NumaPolicy {
    /// The host's own.
    #[default]
    Default,
    /// Prefer the nodes.
    Preferred,
    /// Only the nodes.
    Bind,
    /// Interleave over the nodes.
    Interleave,
}

impl ObjectConfig {
    /// Reads the options of `-object` or the arguments of `object-add`.
    ///
    /// # Errors
    /// An unknown kind or option, a bad value, one that asks for what cannot be had, a malformed id.
    pub fn from_options(_options: Options, _source: Source) -> Result<Self> {
        Err(Error::other("not read yet"))
    }
}
