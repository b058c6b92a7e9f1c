//! Packing regions and windows into an address range.

/// Something to be placed: a region, or the window of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) size: u64,
    /// A power of two.
    pub(crate) align: u64,
}

/// Where things go relative to an aligned start, and what they take together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packing {
    /// One for each need, in the order they were given.
    pub(crate) offsets: Vec<u64>,
    pub(crate) total: Need,
}

/// Packs from the largest alignment down, which leaves gaps only at the end. The order of equals is kept, so that the
/// result depends on the tree alone.
pub(crate) fn pack(needs: &[Need]) -> Packing {
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(needs[at].align));
    let mut offsets = vec![0; needs.len()];
    let mut end = 0_u64;
    for at in order {
        let need = needs[at];
        if need.size == 0 {
            continue;
        }
        let start = end.next_multiple_of(need.align.max(1));
        offsets[at] = start;
        end = start.saturating_add(need.size);
    }
    Packing {
        offsets,
        total: Need {
            size: end,
            align: needs.iter().map(|need| need.align).max().unwrap_or(1),
        },
    }
}

/// A range that is handed out piece by piece and taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Range {
    start: u64,
    size: u64,
    /// Pieces given away: start and size, by start.
    taken: Vec<(u64, u64)>,
}

impl Range {
    pub(crate) fn new(start: u64, size: u64) -> Self {
        Self {
            start,
            size,
            taken: Vec::new(),
        }
    }

    /// The lowest place that fits.
    pub(crate) fn take(&mut self, need: Need) -> Option<u64> {
        let mut at = self.start.checked_next_multiple_of(need.align.max(1))?;
        for &(start, size) in &self.taken {
            if at.checked_add(need.size)? <= start {
                break;
            }
            at = at.max(start.checked_add(size)?);
            at = at.checked_next_multiple_of(need.align.max(1))?;
        }
        let end = at.checked_add(need.size)?;
        if end > self.start.checked_add(self.size)? {
            return None;
        }
        let position = self.taken.partition_point(|&(start, _)| start < at);
        self.taken.insert(position, (at, need.size));
        Some(at)
    }

    /// Marks a piece as given away that was placed otherwise.
    pub(crate) fn mark(&mut self, start: u64, size: u64) {
        let position = self.taken.partition_point(|&(other, _)| other < start);
        self.taken.insert(position, (start, size));
    }

    /// Takes the piece that begins here back.
    pub(crate) fn give_back(&mut self, start: u64) {
        self.taken.retain(|&(taken, _)| taken != start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn need(size: u64, align: u64) -> Need {
        Need { size, align }
    }

    #[test]
    fn large_alignment_goes_first_and_nothing_overlaps() {
        let packing = pack(&[need(0x1000, 0x1000), need(0x4000, 0x4000), need(0x20, 0x20)]);
        assert_eq!(packing.offsets, [0x4000, 0, 0x5000]);
        assert_eq!(packing.total, need(0x5020, 0x4000));
    }

    proptest! {
        #[test]
        fn a_range_never_hands_out_a_byte_twice(steps in prop::collection::vec((0_u32..14, any::<bool>()), 1..60)) {
            let mut range = Range::new(0x1_2000, 0x1_0000);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (bits, back) in steps {
                if back && !held.is_empty() {
                    let (start, _) = held.remove(bits as usize % held.len());
                    range.give_back(start);
                    continue;
                }
                let size = 1 << bits;
                if let Some(at) = range.take(need(size, size)) {
                    prop_assert_eq!(at % size, 0);
                    prop_assert!(at >= 0x1_2000 && at + size <= 0x2_2000);
                    for &(start, length) in &held {
                        prop_assert!(at + size <= start || start + length <= at);
                    }
                    held.push((at, size));
                }
            }
        }
    }
}
