//! Which region and which window goes where: arithmetic only.

use crate::address::Bdf;
use crate::device::BarKind;
use crate::firmware::FirmwareWindows;
use std::ops::RangeInclusive;

const MIB: u64 = 1 << 20;
/// Granularity of a port's memory windows.
const MEMORY_STEP: u64 = MIB;
/// Granularity of a port's I/O window.
const IO_STEP: u64 = 0x1000;
/// What a port gets below 4 GiB at least, for a NIC plugged in later.
const MEM32_LEAST: u64 = 4 * MIB;
/// Prefetchable memory a port gets at least.
const PREFETCH_LEAST: u64 = 8 * MIB;
/// Room beyond what is there at the start.
const SPARE: u64 = 2 * MIB;

/// A region that wants a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BarNeed {
    pub(crate) bdf: Bdf,
    pub(crate) bar: usize,
    pub(crate) register: u16,
    pub(crate) kind: BarKind,
    pub(crate) prefetchable: bool,
    pub(crate) size: u64,
}

/// The regions below one port.
#[derive(Debug, Clone, Default)]
pub(crate) struct PortNeed {
    pub(crate) bars: Vec<BarNeed>,
}

/// The windows of one port; `None` is a closed one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PortWindows {
    pub(crate) io: Option<RangeInclusive<u64>>,
    pub(crate) mem32: Option<RangeInclusive<u64>>,
    pub(crate) prefetch: Option<RangeInclusive<u64>>,
}

/// Where everything goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) bars: Vec<(BarNeed, u64)>,
    pub(crate) ports: Vec<PortWindows>,
    pub(crate) unplaced: Vec<BarNeed>,
}

/// Which of the three kinds of room a region takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Io,
    Mem32,
    Prefetch,
}

/// Hands out ascending addresses of a range.
struct Ascending {
    next: u64,
    last: u64,
}

impl Ascending {
    fn new(range: &RangeInclusive<u64>) -> Self {
        // Address 0 means that a register holds none.
        Self {
            next: (*range.start()).max(1),
            last: *range.end(),
        }
    }

    fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let base = self.next.checked_next_multiple_of(align.max(1))?;
        let last = base.checked_add(size.checked_sub(1)?)?;
        if last > self.last {
            return None;
        }
        self.next = last.checked_add(1)?;
        Some(base)
    }
}

/// The room that is left, and what was planned so far.
struct Planner {
    io: Ascending,
    mem32: Ascending,
    mem64: Option<Ascending>,
    bars: Vec<(BarNeed, u64)>,
    unplaced: Vec<BarNeed>,
}

impl Planner {
    fn take(&mut self, room: Room, size: u64, align: u64) -> Option<u64> {
        match (room, &mut self.mem64) {
            (Room::Io, _) => self.io.take(size, align),
            (Room::Prefetch, Some(mem64)) => mem64.take(size, align),
            (Room::Mem32 | Room::Prefetch, _) => self.mem32.take(size, align),
        }
    }

    /// Opens one window of a port, of `least` bytes and, where there are regions for it, `extra` more than
    /// they need; places the regions.
    fn open(
        &mut self,
        room: Room,
        need: &PortNeed,
        least: u64,
        extra: u64,
    ) -> Option<RangeInclusive<u64>> {
        let has_mem64 = self.mem64.is_some();
        let bars = largest_first(&need.bars, |bar| room_below_a_port(bar, has_mem64) == room);
        let step = if room == Room::Io {
            IO_STEP
        } else {
            MEMORY_STEP
        };
        // Largest first from an aligned base: each size is a power of two, so no gaps arise.
        let size = bars
            .iter()
            .try_fold(0u64, |sum, bar| sum.checked_add(bar.size));
        let extra = if bars.is_empty() { 0 } else { extra };
        let size = size
            .and_then(|size| size.checked_add(extra))
            .and_then(|size| size.max(least).checked_next_multiple_of(step));
        let align = bars.first().map_or(step, |bar| bar.size.max(step));
        let base = match size {
            Some(0) => return None,
            Some(size) => self.take(room, size, align),
            None => None,
        };
        let Some((mut at, size)) = base.zip(size) else {
            self.unplaced.extend(bars.into_iter().cloned());
            return None;
        };
        let window = at..=at + (size - 1);
        for bar in bars {
            self.bars.push((bar.clone(), at));
            at += bar.size;
        }
        Some(window)
    }
}

impl Plan {
    /// Plans with room to spare, and without if that does not fit.
    pub(crate) fn make(windows: &FirmwareWindows, root: &[BarNeed], ports: &[PortNeed]) -> Self {
        let generous = Self::with(windows, root, ports, true);
        if generous.unplaced.is_empty() {
            return generous;
        }
        let tight = Self::with(windows, root, ports, false);
        if tight.unplaced.len() < generous.unplaced.len() {
            tight
        } else {
            generous
        }
    }

    fn with(windows: &FirmwareWindows, root: &[BarNeed], ports: &[PortNeed], spare: bool) -> Self {
        let mut planner = Planner {
            io: Ascending::new(&windows.io),
            mem32: Ascending::new(&windows.mem32),
            mem64: windows.mem64_prefetch.as_ref().map(Ascending::new),
            bars: Vec::new(),
            unplaced: Vec::new(),
        };
        for bar in largest_first(root, |_| true) {
            // On bus 0 no window decides: anything that can count to 64 bits may go up.
            let room = match bar.kind {
                BarKind::Io => Room::Io,
                BarKind::Memory64 if planner.mem64.is_some() => Room::Prefetch,
                BarKind::Memory32 | BarKind::Memory64 => Room::Mem32,
            };
            match planner.take(room, bar.size, bar.size) {
                Some(base) => planner.bars.push((bar.clone(), base)),
                None => planner.unplaced.push(bar.clone()),
            }
        }
        let mut opened = vec![PortWindows::default(); ports.len()];
        // Ports with I/O regions first: there is room for fifteen I/O windows only.
        for needed in [true, false] {
            for (need, windows) in ports.iter().zip(&mut opened) {
                let has_io = need.bars.iter().any(|bar| bar.kind == BarKind::Io);
                if has_io == needed {
                    let least = if needed || spare { IO_STEP } else { 0 };
                    windows.io = planner.open(Room::Io, need, least, 0);
                }
            }
        }
        let (mem32, prefetch, extra) = if spare {
            (MEM32_LEAST, PREFETCH_LEAST, SPARE)
        } else {
            (0, 0, 0)
        };
        // Those with regions first: an empty port's spare room must not take theirs.
        for occupied in [true, false] {
            for (need, windows) in ports.iter().zip(&mut opened) {
                if need.bars.is_empty() != occupied {
                    windows.mem32 = planner.open(Room::Mem32, need, mem32, extra);
                    windows.prefetch = planner.open(Room::Prefetch, need, prefetch, extra);
                }
            }
        }
        Self {
            bars: planner.bars,
            ports: opened,
            unplaced: planner.unplaced,
        }
    }
}

/// Behind a port a region that is not prefetchable has to be in the window for such, which is below 4 GiB.
fn room_below_a_port(bar: &BarNeed, has_mem64: bool) -> Room {
    match bar.kind {
        BarKind::Io => Room::Io,
        BarKind::Memory64 if bar.prefetchable => Room::Prefetch,
        BarKind::Memory32 if bar.prefetchable && !has_mem64 => Room::Prefetch,
        BarKind::Memory32 | BarKind::Memory64 => Room::Mem32,
    }
}

fn largest_first(bars: &[BarNeed], wanted: impl Fn(&BarNeed) -> bool) -> Vec<&BarNeed> {
    let mut bars: Vec<&BarNeed> = bars.iter().filter(|bar| wanted(bar)).collect();
    bars.sort_by_key(|bar| std::cmp::Reverse(bar.size));
    bars
}
