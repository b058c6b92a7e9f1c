//! Which parts of a BAR the guest may reach without us, and their mappings in this process.

use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr;

use crate::hardware::RegionInfo;

/// A stretch of host memory of our own making, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct HostWindow {
    start: *mut u8,
    size: usize,
}

// SAFETY: the mapping is owned by this value and is only ever handed on as an address; nothing is tied to a thread.
#[allow(unsafe_code)]
unsafe impl Send for HostWindow {}
// SAFETY: as above; a shared reference gives out the address and the size only.
#[allow(unsafe_code)]
unsafe impl Sync for HostWindow {}

impl HostWindow {
    /// Maps `size` bytes of `file` from `offset`, shared.
    #[allow(unsafe_code)]
    pub(crate) fn of_file(
        file: impl AsFd,
        offset: u64,
        size: u64,
        writable: bool,
    ) -> io::Result<Self> {
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: no address is asked for, so the kernel picks a free one and no existing mapping is touched.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                size,
                protection,
                MapFlags::SHARED,
                file,
                offset,
            )?
        };
        Ok(Self {
            start: start.cast(),
            size,
        })
    }

    /// Its first byte. Nothing in this process reads or writes through it.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size as u64
    }
}

impl Drop for HostWindow {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `of_file` with this size and nobody else unmaps it.
        if let Err(error) = unsafe { rustix::mm::munmap(self.start.cast(), self.size) } {
            tracing::warn!(%error, "cannot unmap a BAR");
        }
    }
}

/// The parts of a region that can be mapped into the guest: what the kernel allows, in whole pages, without the pages
/// that hold one of the `trapped` ranges.
///
/// Pre: `page` is a power of two. Post: ascending, not empty, not overlapping, page-aligned, within the region.
pub(crate) fn mappable_ranges(
    region: &RegionInfo,
    trapped: &[Range<u64>],
    page: u64,
) -> Vec<Range<u64>> {
    if !region.can_map() {
        return Vec::new();
    }
    let whole = 0..region.size;
    let allowed: Vec<Range<u64>> = match &region.sparse {
        None => vec![whole.clone()],
        Some(areas) => areas
            .iter()
            .map(|&(offset, size)| offset..offset.saturating_add(size).min(whole.end))
            .collect(),
    };
    let mut ranges: Vec<Range<u64>> = allowed
        .into_iter()
        .map(|range| inward(range, page))
        .filter(|range| !range.is_empty())
        .collect();
    for trap in trapped.iter().filter(|trap| !trap.is_empty()) {
        let trap = outward(trap, page);
        ranges = ranges
            .into_iter()
            .flat_map(|range| {
                [
                    range.start..range.end.min(trap.start),
                    range.start.max(trap.end)..range.end,
                ]
            })
            .filter(|range| !range.is_empty())
            .collect();
    }
    ranges.sort_by_key(|range| range.start);
    // The kernel has no reason to name a page twice; if it does, once is enough.
    let mut end = 0;
    ranges.retain_mut(|range| {
        range.start = range.start.max(end);
        end = end.max(range.end);
        !range.is_empty()
    });
    ranges
}

fn inward(range: Range<u64>, page: u64) -> Range<u64> {
    let mask = page - 1;
    let start = range.start.checked_add(mask).map_or(u64::MAX, |end| end) & !mask;
    start..range.end & !mask
}

fn outward(range: &Range<u64>, page: u64) -> Range<u64> {
    let mask = page - 1;
    range.start & !mask..range.end.saturating_add(mask) & !mask
}

#[cfg(test)]
// One range in a list is just that here.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vfio_bindings::bindings::vfio::VFIO_REGION_INFO_FLAG_MMAP;

    fn region(size: u64, sparse: Option<Vec<(u64, u64)>>) -> RegionInfo {
        RegionInfo {
            flags: VFIO_REGION_INFO_FLAG_MMAP,
            size,
            sparse,
            ..RegionInfo::default()
        }
    }

    #[test]
    fn a_plain_bar_is_one_range_and_an_unmappable_one_none() {
        assert_eq!(
            mappable_ranges(&region(0x4000, None), &[], 0x1000),
            [0..0x4000]
        );
        assert!(mappable_ranges(&region(0x20, None), &[], 0x1000).is_empty());
        let mut closed = region(0x4000, None);
        closed.flags = 0;
        assert!(mappable_ranges(&closed, &[], 0x1000).is_empty());
    }

    #[test]
    fn the_pages_of_the_msix_table_stay_trapped() {
        // igbvf: table at 0, pending bits at 0x2000 of a BAR of 16 KiB.
        let ranges = mappable_ranges(&region(0x4000, None), &[0..0x30, 0x2000..0x2008], 0x1000);
        assert_eq!(ranges, [0x1000..0x2000, 0x3000..0x4000]);
        let ranges = mappable_ranges(&region(0x4000, None), &[0xff8..0x1008], 0x1000);
        assert_eq!(ranges, [0x2000..0x4000]);
    }

    #[test]
    fn sparse_areas_are_cut_to_whole_pages_within_the_region() {
        let sparse = vec![(0x2000, 0x2000), (0x800, 0x1000), (0x7000, u64::MAX)];
        let ranges = mappable_ranges(&region(0x8000, Some(sparse)), &[0x3000..0x3010], 0x1000);
        assert_eq!(ranges, [0x2000..0x3000, 0x7000..0x8000]);
    }

    proptest! {
        #[test]
        fn ranges_hold_what_is_promised(
            size in 0u64..0x40000,
            sparse in proptest::option::of(proptest::collection::vec((0u64..0x50000, any::<u64>()), 0..4)),
            trapped in proptest::collection::vec((0u64..0x40000, 0u64..0x3000), 0..3),
        ) {
            let trapped: Vec<_> = trapped.into_iter().map(|(start, len)| start..start + len).collect();
            let ranges = mappable_ranges(&region(size, sparse), &trapped, 0x1000);
            let mut end = 0;
            for range in ranges {
                prop_assert!(range.start >= end && range.start < range.end && range.end <= size);
                prop_assert_eq!((range.start | range.end) % 0x1000, 0);
                for trap in &trapped {
                    prop_assert!(trap.is_empty() || trap.end <= range.start || range.end <= trap.start);
                }
                end = range.end;
            }
        }
    }
}
