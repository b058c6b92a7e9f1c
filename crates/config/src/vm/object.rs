//! User-creatable objects: `-object` and `object-add`.

use std::path::PathBuf;

use super::FdRef;
use crate::error::{Error, Result};
use crate::syntax::{Options, Reader, Source, nearest, parse_number};

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
        fd: Option<FdRef>,
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

/// The types of object there are, with a line each: for `-object help` and the docs.
pub const OBJECT_TYPES: &[(&str, &str)] = &[
    (
        "iommufd",
        "the host's /dev/iommu, for vfio-pci; fd= is one that is open already",
    ),
    (
        "iothread",
        "taken and unused: each queue has a thread of its own",
    ),
    (
        "memory-backend-file",
        "guest memory from a file; size=, mem-path=, share=, prealloc=, ...",
    ),
    (
        "memory-backend-memfd",
        "guest memory from a memfd; size=, hugetlb=, hugetlbsize=, share=, prealloc=, ...",
    ),
    (
        "memory-backend-ram",
        "anonymous guest memory; size=, share=, prealloc=, ...",
    ),
    ("rng-builtin", "random bytes from the kernel"),
    (
        "rng-random",
        "random bytes from a device; filename= (default /dev/urandom)",
    ),
    ("secret", "taken and unused: nothing here needs one yet"),
];

impl ObjectConfig {
    /// Reads the options of `-object` or the arguments of `object-add`.
    ///
    /// # Errors
    /// An unknown kind or option, a bad value, one that asks for what cannot be had, a malformed id.
    pub fn from_options(options: Options, source: Source) -> Result<Self> {
        let text = options.to_string();
        let mut reader = Reader::new(options, source);
        let kind = reader.required("qom-type")?;
        if !OBJECT_TYPES.iter().any(|(name, _)| *name == kind) {
            let near = nearest(&kind, OBJECT_TYPES.iter().map(|(name, _)| *name));
            let hint = near.map_or_else(String::new, |near| format!(" (did you mean '{near}'?)"));
            return Err(Error::Other(format!(
                "Parameter 'qom-type' does not accept value '{kind}'{hint}"
            )));
        }
        let id = reader.id()?;
        let kind = match kind.as_str() {
            "memory-backend-ram" => {
                ObjectKind::Memory(memory(&mut reader, MemoryBackendSource::Ram)?)
            }
            "memory-backend-memfd" => {
                ObjectKind::Memory(memory(&mut reader, MemoryBackendSource::MemFd)?)
            }
            "memory-backend-file" => {
                let file = MemoryBackendSource::File {
                    path: reader.required("mem-path")?.into(),
                    readonly: reader.flag_or("readonly", false)?,
                    discard_data: reader.flag_or("discard-data", false)?,
                    offset_bytes: reader.size("offset")?.unwrap_or(0),
                };
                if reader.flag_or("pmem", false)? {
                    return Err(Error::other("pmem=on is not supported"));
                }
                reader.ignore(&["align", "rom"]);
                ObjectKind::Memory(memory(&mut reader, file)?)
            }
            "rng-random" => {
                let path = reader
                    .string("filename")?
                    .unwrap_or_else(|| "/dev/urandom".to_owned());
                ObjectKind::Rng { path: path.into() }
            }
            "rng-builtin" => ObjectKind::Rng {
                path: "/dev/urandom".into(),
            },
            "iommufd" => {
                let fd = reader.string("fd")?;
                ObjectKind::IommuFd {
                    fd: fd.map(|fd| FdRef::parse("fd", &fd, source)).transpose()?,
                }
            }
            "secret" => {
                reader.ignore(&["data", "file", "format", "keyid", "iv"]);
                ObjectKind::Secret
            }
            _ => {
                reader.ignore(&["poll-max-ns", "poll-grow", "poll-shrink"]);
                reader.ignore(&["aio-max-batch", "thread-pool-min", "thread-pool-max"]);
                ObjectKind::IoThread
            }
        };
        reader.finish()?;
        Ok(Self { id, kind, text })
    }

    /// Whether what there is by the id that a device's `iommufd=` names is an `iommufd`.
    ///
    /// # Errors
    /// There is none, or it is another kind of object.
    pub fn check_iommufd(id: &str, found: Option<&Self>) -> Result<()> {
        match found.map(|object| &object.kind) {
            Some(ObjectKind::IommuFd { .. }) => Ok(()),
            Some(_) => Err(Error::BadType {
                name: "iommufd".to_owned(),
                expected: "iommufd",
            }),
            None => Err(Error::Other(format!(
                "Device '{id}' not found: define it by -object iommufd,id={id}"
            ))),
        }
    }
}

fn memory(reader: &mut Reader, source: MemoryBackendSource) -> Result<MemoryBackend> {
    let memfd = source == MemoryBackendSource::MemFd;
    let size_bytes = reader.size("size")?.unwrap_or(0);
    if size_bytes == 0 {
        return Err(Error::other(
            "can't create backend with size 0: give size=, such as size=512M",
        ));
    }
    if size_bytes % PAGE_BYTES != 0 {
        return Err(Error::BadValue {
            name: "size".to_owned(),
            expected: "a multiple of 4k".to_owned(),
        });
    }
    let (hugetlb, hugetlb_size_bytes) = if memfd {
        (
            reader.flag_or("hugetlb", false)?,
            reader.size("hugetlbsize")?,
        )
    } else {
        (false, None)
    };
    if let Some(page) = hugetlb_size_bytes {
        if !hugetlb {
            return Err(Error::other("hugetlbsize= needs hugetlb=on"));
        }
        if !page.is_power_of_two() || size_bytes % page != 0 {
            return Err(Error::BadValue {
                name: "hugetlbsize".to_owned(),
                expected: "a page size of the host, such as 2M, that divides size=".to_owned(),
            });
        }
    }
    if reader.flag_or("guest-memfd", false)? {
        return Err(Error::other("guest-memfd=on is not supported"));
    }
    reader.ignore(&[
        "seal",
        "x-use-canonical-path-for-ramblock-id",
        "prealloc-context",
    ]);
    let mut host_nodes = Vec::new();
    for node in reader.list("host-nodes")? {
        push_nodes(&mut host_nodes, &node)?;
    }
    let policy = match reader.choice("policy", &["default", "preferred", "bind", "interleave"])? {
        Some("preferred") => NumaPolicy::Preferred,
        Some("bind") => NumaPolicy::Bind,
        Some("interleave") => NumaPolicy::Interleave,
        _ => NumaPolicy::Default,
    };
    if host_nodes.is_empty() != (policy == NumaPolicy::Default) {
        return Err(Error::other(
            "host-nodes= and a policy= other than default must be given together",
        ));
    }
    Ok(MemoryBackend {
        share: reader.flag_or("share", memfd)?,
        prealloc: reader.flag_or("prealloc", false)?,
        prealloc_threads: u32::try_from(reader.number("prealloc-threads", 1, 1024)?.unwrap_or(1))
            .unwrap_or(1),
        merge: reader.flag_or("merge", true)?,
        dump: reader.flag_or("dump", true)?,
        reserve: reader.flag_or("reserve", true)?,
        source,
        size_bytes,
        hugetlb,
        hugetlb_size_bytes,
        host_nodes,
        policy,
    })
}

/// The guest's page; RAM is a whole number of them.
const PAGE_BYTES: u64 = 4096;

/// Adds `3` or `0-3` to a list of NUMA nodes.
fn push_nodes(nodes: &mut Vec<u32>, text: &str) -> Result<()> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (parse_number(first), parse_number(last)) {
        (Some(first), Some(last)) if first <= last && last < 1024 => {
            nodes.extend((first..=last).filter_map(|node| u32::try_from(node).ok()));
            Ok(())
        }
        _ => Err(Error::BadValue {
            name: "host-nodes".to_owned(),
            expected: "a node or a range such as 0-1".to_owned(),
        }),
    }
}
