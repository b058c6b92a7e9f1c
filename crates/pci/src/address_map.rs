//! Which function answers at an address: the regions that are reachable at the moment.

use crate::bridge_windows::{BridgeWindows, contains};
use crate::device::{BarKind, BarRegion, Decode, PciDevice};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The address ranges the machine leaves to PCI, as its `_CRS` says. Regions outside of them are not placed,
/// so a guest cannot put a function over RAM, the interrupt controllers or the configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostWindows {
    /// I/O ports.
    pub io: Vec<RangeInclusive<u64>>,
    /// Memory, below and above 4 GiB.
    pub memory: Vec<RangeInclusive<u64>>,
}

impl HostWindows {
    fn contain(&self, kind: BarKind, range: &RangeInclusive<u64>) -> bool {
        let windows = match kind {
            BarKind::Io => &self.io,
            BarKind::Memory32 | BarKind::Memory64 => &self.memory,
        };
        windows.iter().any(|window| contains(window, range))
    }
}

/// One reachable region.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) device: Arc<dyn PciDevice>,
    pub(crate) bar: usize,
    pub(crate) start: u64,
    pub(crate) last: u64,
}

impl Region {
    /// The same base address register of the same function.
    pub(crate) fn same_bar(&self, other: &Self) -> bool {
        self.bar == other.bar && Arc::ptr_eq(&self.device, &other.device)
    }

    pub(crate) fn same_place(&self, other: &Self) -> bool {
        self.same_bar(other) && self.start == other.start && self.last == other.last
    }
}

/// Regions of one address space, sorted, without overlaps.
#[derive(Clone, Default)]
pub(crate) struct Space {
    regions: Vec<Region>,
}

/// Where an access went.
pub(crate) enum Hit<'a> {
    /// It lies in a region as a whole.
    Inside(&'a Region, u64),
    /// It begins in a region and ends after it, or its length is none a function takes.
    Torn,
    /// No region begins before or at its start.
    Miss,
}

impl Space {
    /// Adds a region unless it overlaps one that is there.
    fn add(&mut self, region: Region) -> bool {
        let at = self.regions.partition_point(|r| r.start < region.start);
        let after_overlaps = self.regions.get(at).is_some_and(|r| r.start <= region.last);
        let before_overlaps = at
            .checked_sub(1)
            .and_then(|before| self.regions.get(before))
            .is_some_and(|r| r.last >= region.start);
        if after_overlaps || before_overlaps {
            return false;
        }
        self.regions.insert(at, region);
        true
    }

    pub(crate) fn find(&self, address: u64, len: usize) -> Hit<'_> {
        let after = self.regions.partition_point(|r| r.start <= address);
        let region = after.checked_sub(1).and_then(|at| self.regions.get(at));
        let Some(region) = region.filter(|r| address <= r.last) else {
            return Hit::Miss;
        };
        let end = address.checked_add(len as u64 - u64::from(len > 0));
        if matches!(len, 1 | 2 | 4 | 8) && end.is_some_and(|end| end <= region.last) {
            Hit::Inside(region, address - region.start)
        } else {
            Hit::Torn
        }
    }

    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }
}

/// All reachable regions.
#[derive(Clone, Default)]
pub(crate) struct AddressMap {
    pub(crate) io: Space,
    pub(crate) memory: Space,
}

impl AddressMap {
    pub(crate) fn regions(&self) -> impl Iterator<Item = &Region> {
        self.io.regions().iter().chain(self.memory.regions())
    }

    /// Adds what a function claims, as far as it is enabled, possible, within the host's windows and, behind
    /// a port, within those of the port. Where two regions overlap the one added first stays.
    pub(crate) fn add_function(
        &mut self,
        host: &HostWindows,
        above: Option<&(Decode, BridgeWindows)>,
        decode: &Decode,
        device: &Arc<dyn PciDevice>,
    ) {
        for (bar, region) in decode.bars.iter().enumerate() {
            let Some(region) = region else { continue };
            let enabled = |decode: &Decode| match region.kind {
                BarKind::Io => decode.io_enabled,
                BarKind::Memory32 | BarKind::Memory64 => decode.memory_enabled,
            };
            if !enabled(decode) || !above.is_none_or(|(port, _)| enabled(port)) {
                continue;
            }
            let Some(range) = possible_range(region) else {
                continue;
            };
            let reachable = host.contain(region.kind, &range)
                && above.is_none_or(|(_, windows)| windows.forwards(region.kind, &range));
            let region_here = Region {
                device: Arc::clone(device),
                bar,
                start: *range.start(),
                last: *range.end(),
            };
            let space = match region.kind {
                BarKind::Io => &mut self.io,
                BarKind::Memory32 | BarKind::Memory64 => &mut self.memory,
            };
            if !reachable || !space.add(region_here) {
                tracing::debug!(
                    device = device.label(),
                    bar,
                    "region {:#x}..={:#x} is outside of the windows above it or taken: not placed",
                    range.start(),
                    range.end()
                );
            }
        }
    }
}

/// The region's addresses, unless the register holds no address: nothing written yet, or all ones while
/// software finds out the size.
fn possible_range(region: &BarRegion) -> Option<RangeInclusive<u64>> {
    let last = region.base.checked_add(region.size.checked_sub(1)?)?;
    let end = match region.kind {
        BarKind::Io => 0x1_0000,
        BarKind::Memory32 => 0xffff_ffff,
        BarKind::Memory64 => u64::MAX,
    };
    (region.base != 0 && last < end).then_some(region.base..=last)
}
