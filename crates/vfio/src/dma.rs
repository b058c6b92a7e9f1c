//! Mapping guest memory for DMA, in steps.
//!
//! The kernel pins each page of a range before a map call returns, and holds the address space's lock over the whole
//! call. A guest that runs beside it, on a migration target that takes its primary back, must not feel that: so a range
//! is mapped in steps of [`STEP_BYTES`], with the caller's hook asked between them whether to go on.

use crate::error::VfioError;
use crate::kernel::{AddressSpace, IommuInfo};
use memory::GuestRam;
use rustix::io::Errno;
use rustix::mm::{Advice, madvise};
use rustix::process::{Resource, getrlimit};
use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

/// How much is mapped by one call: large enough for the IOMMU's large pages, small enough to be over in a few
/// milliseconds (25 ms in the lab's emulation, where 256 MiB take 0.4 s).
pub(crate) const STEP_BYTES: u64 = 16 << 20;

/// How far the mapping of guest memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaProgress {
    /// Mapped so far.
    pub mapped_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// The steps a range is mapped in: start and size, cut at multiples of `step` so that large pages fit.
///
/// Pre: `step` is a power of two and the range does not wrap.
fn steps(start: u64, size: u64, step: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = start.saturating_add(size);
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let boundary = (at | (step - 1)).checked_add(1).unwrap_or(end);
        let from = at;
        at = boundary.min(end);
        Some((from, at - from))
    })
}

/// Guest memory in an I/O address space; taken out again by [`unmap`](Self::unmap).
#[derive(Debug, Default)]
pub(crate) struct DmaMap {
    /// Ranges that were mapped, in the order they were.
    mapped: Vec<(u64, u64)>,
}

impl DmaMap {
    /// Maps all of guest memory, I/O address = guest-physical address.
    ///
    /// `hook` is asked before each step; [`ControlFlow::Break`] ends it with [`VfioError::Cancelled`]. On any error
    /// nothing stays mapped.
    pub(crate) fn map(
        space: &dyn AddressSpace,
        ram: &GuestRam,
        device: &str,
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<Self, VfioError> {
        let total_bytes = ram.iter().map(GuestMemoryRegion::len).sum();
        let info = space.info().unwrap_or_else(|error| {
            tracing::debug!(%error, "the kernel does not describe its IOMMU");
            IommuInfo::default()
        });
        check_aperture(&info, ram, device)?;
        let step = step_for(total_bytes, info.mappings_left);
        let mut map = Self::default();
        match map.fill(space, ram, device, (total_bytes, step), hook) {
            Ok(()) => Ok(map),
            Err(error) => {
                map.unmap(space);
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        space: &dyn AddressSpace,
        ram: &GuestRam,
        device: &str,
        (total_bytes, step): (u64, u64),
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<(), VfioError> {
        let mut mapped_bytes = 0;
        for region in ram.iter() {
            let base = region.start_addr().raw_value();
            for (start, size) in steps(base, region.len(), step) {
                let progress = DmaProgress {
                    mapped_bytes,
                    total_bytes,
                };
                if hook(progress).is_break() {
                    return Err(VfioError::Cancelled {
                        device: device.to_owned(),
                    });
                }
                let host = region
                    .get_host_address(MemoryRegionAddress(start - base))
                    .map_err(|error| VfioError::Map {
                        device: device.to_owned(),
                        start,
                        end: start + size,
                        source: io::Error::other(error),
                    })?;
                // SAFETY: the step lies within a region of `ram`, which the container keeps mapped for as long as the
                // address space is there; guest memory is only ever reached through volatile accesses.
                #[allow(unsafe_code)]
                let result = unsafe { space.map(start, host, size) };
                result.map_err(|source| map_error(source, device, start, size, total_bytes))?;
                self.mapped.push((start, size));
                mapped_bytes += size;
            }
        }
        let _ = hook(DmaProgress {
            mapped_bytes,
            total_bytes,
        });
        Ok(())
    }

    /// Takes guest memory out of the address space, step by step.
    pub(crate) fn unmap(&mut self, space: &dyn AddressSpace) {
        for (start, size) in self.mapped.drain(..).rev() {
            if let Err(error) = space.unmap(start, size) {
                // The kernel takes the rest back when the address space goes.
                tracing::warn!(start, size, %error, "cannot take guest memory out of the IOMMU");
            }
        }
    }
}

/// Has the host provide the memory's pages, in steps of [`STEP_BYTES`], without changing their content.
///
/// `device` is whom errors name.
pub(crate) fn populate(
    ram: &GuestRam,
    device: &str,
    hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
) -> Result<(), VfioError> {
    let device = || device.to_owned();
    let total_bytes = ram.iter().map(GuestMemoryRegion::len).sum();
    let mut mapped_bytes = 0;
    for region in ram.iter() {
        let base = region.start_addr().raw_value();
        for (start, size) in steps(base, region.len(), STEP_BYTES) {
            let progress = DmaProgress {
                mapped_bytes,
                total_bytes,
            };
            if hook(progress).is_break() {
                return Err(VfioError::Cancelled { device: device() });
            }
            let populated = region
                .get_host_address(MemoryRegionAddress(start - base))
                .map_err(io::Error::other)
                .and_then(|host| populate_range(host, size));
            populated.map_err(|source| VfioError::Map {
                device: device(),
                start,
                end: start + size,
                source,
            })?;
            mapped_bytes += size;
        }
    }
    let _ = hook(DmaProgress {
        mapped_bytes,
        total_bytes,
    });
    Ok(())
}

/// `MADV_POPULATE_WRITE` (Linux 5.14); a kernel without it leaves the work for later.
fn populate_range(host: *mut u8, size: u64) -> io::Result<()> {
    let size = usize::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the range is part of a mapped region of guest memory; the advice changes neither mapping nor content.
    #[allow(unsafe_code)]
    let result = unsafe { madvise(host.cast(), size, Advice::LinuxPopulateWrite) };
    match result {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The size of a step, so that all of memory takes half of the mappings the kernel has left for us, or fewer.
fn step_for(total_bytes: u64, mappings_left: Option<u32>) -> u64 {
    let budget = u64::from(mappings_left.unwrap_or(u32::MAX) / 2).max(1);
    let mut step = STEP_BYTES;
    while total_bytes / step > budget {
        step *= 2;
    }
    step
}

/// Says in advance which guest memory the IOMMU cannot reach: the kernel's own answer would be "invalid argument".
fn check_aperture(info: &IommuInfo, ram: &GuestRam, device: &str) -> Result<(), VfioError> {
    for region in ram.iter() {
        let start = region.start_addr().raw_value();
        let end = start.saturating_add(region.len());
        if !reachable(&info.ranges, start, end) {
            let ranges: Vec<String> = info
                .ranges
                .iter()
                .map(|range| format!("{:#x}..={:#x}", range.start(), range.end()))
                .collect();
            return Err(VfioError::OutOfAperture {
                device: device.to_owned(),
                start,
                end,
                ranges: ranges.join(", "),
            });
        }
    }
    Ok(())
}

/// Whether one of the ranges holds `start..end`. The kernel merges neighbours; no ranges at all means it did not say.
fn reachable(ranges: &[RangeInclusive<u64>], start: u64, end: u64) -> bool {
    ranges.is_empty()
        || start >= end
        || ranges
            .iter()
            .any(|range| range.contains(&start) && range.contains(&(end - 1)))
}

fn map_error(
    source: io::Error,
    device: &str,
    start: u64,
    size: u64,
    total_bytes: u64,
) -> VfioError {
    let device = device.to_owned();
    let limit = getrlimit(Resource::Memlock).current;
    match (source.raw_os_error(), limit) {
        (Some(libc::ENOMEM), Some(limit)) if limit < total_bytes => VfioError::MemoryLockLimit {
            device,
            needed_mib: total_bytes.div_ceil(1 << 20),
            limit_kib: limit >> 10,
        },
        _ => VfioError::Map {
            device,
            start,
            end: start.saturating_add(size),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn steps_end_at_boundaries() {
        let cut: Vec<_> = steps(0x1000, 0x6000, 0x4000).collect();
        assert_eq!(cut, [(0x1000, 0x3000), (0x4000, 0x3000)]);
        assert_eq!(steps(0, 0, 0x4000).count(), 0);
        let top = u64::MAX - 0xfff;
        assert_eq!(
            steps(top, 0xfff, 0x4000).collect::<Vec<_>>(),
            [(top, 0xfff)]
        );
    }

    proptest! {
        #[test]
        fn steps_cover_the_range_without_gaps(start in 0u64..1 << 40, size in 0u64..1 << 24, shift in 12u32..20) {
            let step = 1u64 << shift;
            let mut at = start;
            for (from, length) in steps(start, size, step) {
                prop_assert_eq!(from, at);
                prop_assert!(length > 0 && length <= step && from / step == (from + length - 1) / step);
                at += length;
            }
            prop_assert_eq!(at, start + size);
        }
    }

    #[test]
    fn a_large_guest_takes_larger_steps() {
        assert_eq!(step_for(1 << 30, Some(65535)), STEP_BYTES);
        assert_eq!(step_for(1 << 30, None), STEP_BYTES);
        // 1 TiB in fewer than 32767 mappings.
        assert_eq!(step_for(1 << 40, Some(65535)), 4 * STEP_BYTES);
        assert_eq!(step_for(u64::MAX, Some(0)), 1 << 63);
    }

    /// An address space that takes so many mappings and no more.
    struct Small {
        room: usize,
        mapped: std::sync::Mutex<Vec<(u64, u64)>>,
    }

    #[allow(unsafe_code)]
    impl AddressSpace for Small {
        fn info(&self) -> io::Result<IommuInfo> {
            Ok(IommuInfo::default())
        }

        unsafe fn map(&self, iova: u64, _: *mut u8, size: u64) -> io::Result<()> {
            let mut mapped = self.mapped.lock().unwrap();
            if mapped.len() == self.room {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            mapped.push((iova, size));
            Ok(())
        }

        fn unmap(&self, iova: u64, size: u64) -> io::Result<()> {
            let mut mapped = self.mapped.lock().unwrap();
            let at = mapped.iter().position(|range| *range == (iova, size));
            mapped.remove(at.unwrap());
            Ok(())
        }
    }

    #[test]
    fn all_of_memory_is_mapped_in_steps_or_none_of_it() {
        use memory::{GuestRange, RamConfig, allocate};
        let layout = [
            GuestRange::new(0, 2 * STEP_BYTES),
            GuestRange::new(4 << 30, STEP_BYTES),
        ];
        let ram = allocate(&RamConfig::anonymous(3 * STEP_BYTES), &layout).unwrap();
        let map = |room: usize, stop_at: u64| {
            let space = Small {
                room,
                mapped: std::sync::Mutex::default(),
            };
            let result = DmaMap::map(&space, ram.guest(), "f", &mut |progress| {
                if progress.mapped_bytes == stop_at {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            (result, space)
        };
        let (whole, space) = map(3, u64::MAX);
        let step = |start: u64| (start, STEP_BYTES);
        assert_eq!(
            *space.mapped.lock().unwrap(),
            [step(0), step(STEP_BYTES), step(4 << 30)]
        );
        whole.unwrap().unmap(&space);
        assert!(space.mapped.lock().unwrap().is_empty());

        let (full, space) = map(2, u64::MAX);
        assert!(matches!(full, Err(VfioError::Map { start, .. }) if start == 4 << 30));
        assert!(space.mapped.lock().unwrap().is_empty());
        let (stopped, space) = map(3, 2 * STEP_BYTES);
        assert!(matches!(stopped, Err(VfioError::Cancelled { .. })));
        assert!(space.mapped.lock().unwrap().is_empty());
    }

    #[test]
    fn populating_keeps_what_is_written_and_stops_when_told() {
        use memory::{GuestRange, RamConfig, allocate};
        use vm_memory::{Bytes, GuestAddress};
        let size = 2 * STEP_BYTES;
        let ram = allocate(&RamConfig::anonymous(size), &[GuestRange::new(0, size)]).unwrap();
        ram.guest()
            .write_obj(0x1234_5678u32, GuestAddress(0x1000))
            .unwrap();
        let mut seen = Vec::new();
        populate(ram.guest(), "guest memory", &mut |progress| {
            seen.push(progress.mapped_bytes);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, [0, STEP_BYTES, size]);
        let word: u32 = ram.guest().read_obj(GuestAddress(0x1000)).unwrap();
        assert_eq!(word, 0x1234_5678);
        let stopped = populate(ram.guest(), "guest memory", &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(VfioError::Cancelled { .. })));
    }

    #[test]
    fn memory_behind_the_msi_window_is_another_range() {
        let ranges = [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];
        assert!(reachable(&ranges, 0, 0x8000_0000));
        assert!(reachable(&ranges, 0x1_0000_0000, 0x80_0000_0000));
        assert!(!reachable(&ranges, 0x1_0000_0000, 0x80_0000_1000));
        assert!(!reachable(&ranges, 0xfed0_0000, 0xff00_0000));
        assert!(reachable(&[], 0, u64::MAX));
    }

    #[test]
    fn out_of_memory_under_a_limit_names_the_limit() {
        let error = |errno| {
            map_error(
                io::Error::from_raw_os_error(errno),
                "x",
                0,
                0x1000,
                u64::MAX,
            )
            .to_string()
        };
        // Whatever this process may lock, it is below the whole address space, unless there is no limit.
        if getrlimit(Resource::Memlock).current.is_some() {
            assert!(error(libc::ENOMEM).contains("RLIMIT_MEMLOCK"));
        }
        assert!(!error(libc::EINVAL).contains("RLIMIT_MEMLOCK"));
    }
}
