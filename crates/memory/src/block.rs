//! RAM blocks: host memory, and where the guest sees it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::bitmap::NewBitmap;
use vm_memory::guest_memory::FileOffset;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryBackend, MmapRegion};

use crate::config::{GuestRange, HugePages, MemoryError, RamBackend, RamConfig};
use crate::host::{HostMemory, free_huge_pages, human};
use crate::{DirtyPages, GuestRam, KernelLog, PAGE_SIZE_BYTES, PageRun, RamBitmap, RamRegion};

/// `f_type` of hugetlbfs (linux/magic.h).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// Where `memfd_create` takes log2 of the huge page size.
const MFD_HUGE_SHIFT: u32 = 26;

/// A part of a block, and where the guest sees it.
#[derive(Debug, Clone)]
pub struct RamRange {
    /// First guest-physical address.
    pub guest_start: GuestAddress,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Where in the block it begins.
    pub block_offset: u64,
    /// The mapping.
    pub region: Arc<RamRegion>,
}

impl RamRange {
    /// The address it is mapped at in this process: what KVM, VFIO and vhost are told.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.region.as_ptr() as u64
    }
}

/// A named piece of host memory the guest has as RAM.
#[derive(Debug)]
pub struct RamBlock {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) ranges: Vec<RamRange>,
    pub(crate) file: Arc<File>,
    pub(crate) file_offset: u64,
    pub(crate) shared: bool,
    pub(crate) host_page_bytes: u64,
}

impl RamBlock {
    /// Its name, the same on both sides of a migration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Its number of 4 KiB pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.size_bytes / PAGE_SIZE_BYTES
    }

    /// Where the guest sees it, in ascending order of both address and offset.
    #[must_use]
    pub fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// The memory file behind it.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where in the file it begins.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// Size of the host's pages behind it: 4 KiB, or the huge page size.
    #[must_use]
    pub fn host_page_bytes(&self) -> u64 {
        self.host_page_bytes
    }

    pub(crate) fn range_at(&self, offset: u64) -> Option<&RamRange> {
        self.ranges.iter().find(|range| {
            offset >= range.block_offset && offset - range.block_offset < range.size_bytes
        })
    }
}

/// All of a machine's RAM. Made once by [`allocate`] and shared behind an `Arc`.
#[derive(Debug)]
pub struct Ram {
    guest: Arc<GuestRam>,
    blocks: Vec<RamBlock>,
    discard: AtomicBool,
    kernel_log: KernelLog,
}

impl Ram {
    /// What devices read and write.
    #[must_use]
    pub fn guest(&self) -> &Arc<GuestRam> {
        &self.guest
    }

    /// The blocks.
    #[must_use]
    pub fn blocks(&self) -> &[RamBlock] {
        &self.blocks
    }

    /// All mapped ranges of all blocks: one KVM memory slot each.
    pub fn ranges(&self) -> impl Iterator<Item = &RamRange> {
        self.blocks.iter().flat_map(|block| &block.ranges)
    }

    /// Size of all blocks in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.blocks.iter().map(RamBlock::size_bytes).sum()
    }

    /// Number of 4 KiB pages of all blocks.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.size_bytes() / PAGE_SIZE_BYTES
    }

    /// Block index and block offset of a guest-physical address; `None` where there is no RAM.
    #[must_use]
    pub fn locate(&self, address: GuestAddress) -> Option<(usize, u64)> {
        self.blocks.iter().enumerate().find_map(|(index, block)| {
            let range = block.ranges.iter().find(|range| {
                address
                    .0
                    .checked_sub(range.guest_start.0)
                    .is_some_and(|into| into < range.size_bytes)
            })?;
            Some((
                index,
                range.block_offset + (address.0 - range.guest_start.0),
            ))
        })
    }

    /// Notes a write that did not go through vm-memory (a kernel worker, a device's DMA): `len_bytes` at a guest-physical
    /// address. What is not RAM is ignored.
    pub fn mark_dirty(&self, address: GuestAddress, len_bytes: u64) {
        for range in self.ranges() {
            let end = address.0.saturating_add(len_bytes);
            let from = address.0.max(range.guest_start.0);
            let to = end.min(range.guest_start.0 + range.size_bytes);
            if from < to {
                let at = usize::try_from(from - range.guest_start.0).unwrap_or(usize::MAX);
                let len = usize::try_from(to - from).unwrap_or(0);
                MmapRegion::bitmap(&range.region).set_addr_range(at, len);
            }
        }
    }

    /// The log of what the kernel writes on behalf of devices (vhost).
    #[must_use]
    pub fn kernel_log(&self) -> &KernelLog {
        &self.kernel_log
    }

    /// Moves what devices wrote since the last call into `dirty`, and forgets it; what the kernel wrote for them too,
    /// while [`Ram::kernel_log`] is on.
    ///
    /// A device marks a page after it wrote it, so take first and read the pages then: what is written later shows up
    /// in the next call. Nothing is lost once the devices have stopped.
    pub fn take_device_dirty(&self, dirty: &mut DirtyPages) {
        for (index, block) in self.blocks.iter().enumerate() {
            for range in &block.ranges {
                let words = MmapRegion::bitmap(&range.region).get_and_reset();
                dirty.merge_words(index, range.block_offset / PAGE_SIZE_BYTES, &words);
            }
        }
        self.kernel_log.take(|page| {
            let address = GuestAddress(page.saturating_mul(PAGE_SIZE_BYTES));
            if let Some((block, offset)) = self.locate(address) {
                dirty.mark(PageRun {
                    block,
                    first: offset / PAGE_SIZE_BYTES,
                    count: 1,
                });
            }
        });
    }

    /// Forgets what devices wrote so far: for the start of dirty tracking, when every page counts as dirty anyway.
    pub fn forget_device_dirty(&self) {
        for range in self.ranges() {
            MmapRegion::bitmap(&range.region).reset();
        }
        self.kernel_log.take(|_| ());
    }

    /// Whether [`Ram::zero_pages`] may give pages back to the host. Switch it off while something has guest memory pinned
    /// (VFIO): a discarded page would be a new one to the guest and still the old one to the device.
    pub fn set_discard_allowed(&self, allowed: bool) {
        self.discard.store(allowed, Ordering::Release);
    }

    pub(crate) fn discard_allowed(&self) -> bool {
        self.discard.load(Ordering::Acquire)
    }
}

/// Has the host provide `config`'s memory, and maps it at `layout`: ascending ranges that add up to the configured size.
///
/// The block's offsets follow the layout: the first range is the block's start, and so on.
///
/// # Errors
/// A [`MemoryError`] that names the block and says what was too much or not there; nothing is left behind.
pub fn allocate(config: &RamConfig, layout: &[GuestRange]) -> Result<Arc<Ram>, MemoryError> {
    check_layout(config, layout)?;
    check_host(config)?;
    let backing = open_backing(config)?;
    for (what, value) in [("size", config.size_bytes), ("file offset", backing.offset)]
        .into_iter()
        .chain(layout.iter().flat_map(|range| {
            [
                ("guest address", range.start.0),
                ("range size", range.size_bytes),
            ]
        }))
    {
        if !value.is_multiple_of(backing.page_bytes) {
            return Err(MemoryError::Unaligned {
                name: config.name.clone(),
                what,
                value,
                page_size_bytes: backing.page_bytes,
            });
        }
    }

    let mut ranges = Vec::with_capacity(layout.len());
    let mut block_offset = 0;
    for range in layout {
        let region = map(config, &backing, range, block_offset)?;
        ranges.push(RamRange {
            guest_start: range.start,
            size_bytes: range.size_bytes,
            block_offset,
            region: Arc::new(region),
        });
        block_offset += range.size_bytes;
    }
    let end_bytes = layout
        .last()
        .map_or(0, |range| range.start.0.saturating_add(range.size_bytes));
    let guest =
        GuestRam::from_arc_regions(ranges.iter().map(|range| range.region.clone()).collect())
            .map_err(|error| host_error(config, "lay it out", io::Error::other(error)))?;
    debug_assert_eq!(guest.num_regions(), ranges.len());

    Ok(Arc::new(Ram {
        guest: Arc::new(guest),
        blocks: vec![RamBlock {
            name: config.name.clone(),
            size_bytes: config.size_bytes,
            ranges,
            file: backing.file,
            file_offset: backing.offset,
            shared: backing.shared,
            host_page_bytes: backing.page_bytes,
        }],
        // Populated pages were asked for: giving them back would undo that.
        discard: AtomicBool::new(!config.prealloc),
        kernel_log: KernelLog::new(end_bytes),
    }))
}

fn check_layout(config: &RamConfig, layout: &[GuestRange]) -> Result<(), MemoryError> {
    if config.size_bytes == 0 {
        return Err(MemoryError::Empty {
            name: config.name.clone(),
        });
    }
    let wrong = |why| {
        Err(MemoryError::Layout {
            name: config.name.clone(),
            size_bytes: config.size_bytes,
            why,
        })
    };
    let mut total: u64 = 0;
    let mut next_free = 0;
    for range in layout {
        if range.size_bytes == 0 {
            return wrong("a range is empty");
        }
        if range.start.0 < next_free {
            return wrong("ranges overlap or do not ascend");
        }
        let (Some(end), Some(sum)) = (
            range.start.0.checked_add(range.size_bytes),
            total.checked_add(range.size_bytes),
        ) else {
            return wrong("a range ends past the last address");
        };
        next_free = end;
        total = sum;
    }
    if total != config.size_bytes {
        return wrong("the ranges do not add up to the size");
    }
    Ok(())
}

/// Refuses what cannot work, before the kernel kills somebody for it. Memory beyond what is available, but within what
/// the host has, is the operator's own decision: it is not populated yet.
fn check_host(config: &RamConfig) -> Result<(), MemoryError> {
    let asked = config.size_bytes;
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    if let Some(limit) = limit.filter(|limit| asked > *limit) {
        return Err(MemoryError::AddressSpaceLimit {
            asked: human(asked),
            limit: human(limit),
        });
    }
    let anonymous = matches!(config.backend, RamBackend::Memfd { huge_pages: None });
    let Some(host) = HostMemory::read().filter(|_| anonymous) else {
        return Ok(());
    };
    if asked > host.total_bytes.saturating_add(host.swap_bytes) {
        return Err(MemoryError::MoreThanHost {
            asked: human(asked),
            total: human(host.total_bytes),
            swap: human(host.swap_bytes),
        });
    }
    if asked > host.available_bytes {
        if config.prealloc {
            return Err(MemoryError::NotAvailable {
                asked: human(asked),
                available: human(host.available_bytes),
                total: human(host.total_bytes),
            });
        }
        tracing::warn!(
            "guest RAM of {} is more than the {} available on this host; a guest that uses it all will make it swap",
            human(asked),
            human(host.available_bytes),
        );
    }
    Ok(())
}

struct Backing {
    file: Arc<File>,
    offset: u64,
    shared: bool,
    page_bytes: u64,
}

fn host_error(
    config: &RamConfig,
    what: impl Into<String>,
    error: impl Into<io::Error>,
) -> MemoryError {
    MemoryError::Host {
        name: config.name.clone(),
        what: what.into(),
        error: error.into(),
    }
}

fn open_backing(config: &RamConfig) -> Result<Backing, MemoryError> {
    match &config.backend {
        RamBackend::Memfd { huge_pages } => open_memfd(config, *huge_pages),
        RamBackend::File { path, offset_bytes } => open_file(config, path, *offset_bytes),
    }
}

fn open_memfd(config: &RamConfig, huge_pages: Option<HugePages>) -> Result<Backing, MemoryError> {
    let name = config.name.as_str();
    let page_bytes = match huge_pages {
        None => PAGE_SIZE_BYTES,
        Some(HugePages::SizeBytes(bytes)) => bytes,
        Some(HugePages::HostDefault) => HostMemory::read().map_or(0, |host| host.huge_page_bytes),
    };
    let fd = if huge_pages.is_some() {
        check_huge_pages(config, page_bytes)?;
        let size = MemfdFlags::from_bits_retain(page_bytes.trailing_zeros() << MFD_HUGE_SHIFT);
        rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | size)
    } else {
        crate::anonymous::memory_file(name)
    }
    .map_err(|errno| host_error(config, "create a memory file", errno))?;
    rustix::fs::ftruncate(&fd, config.size_bytes)
        .map_err(|errno| host_error(config, "size its memory file", errno))?;
    Ok(Backing {
        file: Arc::new(File::from(fd)),
        offset: 0,
        shared: true,
        page_bytes,
    })
}

fn check_huge_pages(config: &RamConfig, page_bytes: u64) -> Result<(), MemoryError> {
    let free = page_bytes
        .is_power_of_two()
        .then(|| free_huge_pages(page_bytes))
        .flatten();
    let Some(free) = free else {
        return Err(MemoryError::NoSuchHugePage {
            name: config.name.clone(),
            size: human(page_bytes),
        });
    };
    let needed = config.size_bytes.div_ceil(page_bytes);
    if needed > free {
        return Err(MemoryError::HugePages {
            name: config.name.clone(),
            needed,
            size: human(page_bytes),
            size_kib: page_bytes / 1024,
            free,
        });
    }
    Ok(())
}

fn open_file(config: &RamConfig, path: &Path, offset: u64) -> Result<Backing, MemoryError> {
    let shown = path.display();
    let end = offset
        .checked_add(config.size_bytes)
        .ok_or_else(|| MemoryError::Layout {
            name: config.name.clone(),
            size_bytes: config.size_bytes,
            why: "the file offset is too large",
        })?;
    let file = if path.is_dir() {
        // A file that never has a name cannot be left behind.
        rustix::fs::open(
            path,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .map(File::from)
        .map_err(|errno| host_error(config, format!("make a memory file in {shown}"), errno))?
    } else {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| host_error(config, format!("open {shown}"), error))?
    };
    let metadata = file
        .metadata()
        .map_err(|error| host_error(config, format!("look at {shown}"), error))?;
    if metadata.is_file() {
        if metadata.len() == 0 {
            rustix::fs::ftruncate(file.as_fd(), end)
                .map_err(|errno| host_error(config, format!("size {shown}"), errno))?;
        } else if metadata.len() < end {
            return Err(MemoryError::FileSize {
                name: config.name.clone(),
                path: path.to_owned(),
                found: metadata.len(),
                needed: end,
            });
        }
    }
    let stat = rustix::fs::fstatfs(&file)
        .map_err(|errno| host_error(config, format!("look at {shown}"), errno))?;
    let huge = u64::try_from(stat.f_type).is_ok_and(|magic| magic == HUGETLBFS_MAGIC);
    let page_bytes = if huge {
        u64::try_from(stat.f_bsize).unwrap_or(PAGE_SIZE_BYTES)
    } else {
        PAGE_SIZE_BYTES
    };
    if huge {
        check_huge_pages(config, page_bytes)?;
    }
    Ok(Backing {
        file: Arc::new(file),
        offset,
        shared: config.share,
        page_bytes,
    })
}

fn map(
    config: &RamConfig,
    backing: &Backing,
    range: &GuestRange,
    block_offset: u64,
) -> Result<RamRegion, MemoryError> {
    let wrong = |why| MemoryError::Layout {
        name: config.name.clone(),
        size_bytes: config.size_bytes,
        why,
    };
    let size = usize::try_from(range.size_bytes).map_err(|_| wrong("a range is too large"))?;
    let share = if backing.shared {
        MapFlags::SHARED
    } else {
        MapFlags::PRIVATE
    };
    let bits = |value: u32| i32::try_from(value).unwrap_or(0);
    let region = MmapRegionBuilder::new_with_bitmap(size, RamBitmap::with_len(size))
        .with_file_offset(FileOffset::from_arc(
            backing.file.clone(),
            backing.offset + block_offset,
        ))
        .with_mmap_prot(bits((ProtFlags::READ | ProtFlags::WRITE).bits()))
        .with_mmap_flags(bits((share | MapFlags::NORESERVE).bits()))
        .with_hugetlbfs(backing.page_bytes != PAGE_SIZE_BYTES)
        .build()
        .map_err(|error| host_error(config, "map it", io::Error::other(error)))?;

    let mut advices = Vec::new();
    if !config.dump {
        advices.push(("keep it out of core dumps", Advice::LinuxDontDump));
    }
    if config.merge {
        advices.push(("let its pages be merged", Advice::LinuxMergeable));
    }
    if backing.page_bytes == PAGE_SIZE_BYTES {
        advices.push(("use huge pages for it", Advice::LinuxHugepage));
    }
    for (what, advice) in advices {
        if let Err(errno) = advise(&region, advice) {
            tracing::debug!("guest RAM '{}': cannot {what}: {errno}", config.name);
        }
    }
    if config.prealloc {
        advise(&region, Advice::LinuxPopulateWrite)
            .map_err(|errno| host_error(config, "populate it", errno))?;
    }
    RamRegion::new(region, range.start).ok_or_else(|| wrong("a range ends past the last address"))
}

#[allow(unsafe_code)]
fn advise(region: &MmapRegion<RamBitmap>, advice: Advice) -> rustix::io::Result<()> {
    // SAFETY: the range is exactly a mapping that `region` owns and nobody uses yet; none of the advices that `map`
    // gives changes what it contains.
    unsafe { rustix::mm::madvise(region.as_ptr().cast(), region.size(), advice) }
}
