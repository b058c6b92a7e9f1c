//! Which pages were written: one bit a 4 KiB page, one bitmap a RAM block.

use vm_memory::GuestAddress;

use crate::{PAGE_SIZE_BYTES, Ram};

/// A run of pages of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// Index of the block in [`Ram::blocks`].
    pub block: usize,
    /// First page, counted from the block's start.
    pub first: u64,
    /// Number of pages, at least one.
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct BlockBits {
    pages: u64,
    words: Vec<u64>,
}

impl BlockBits {
    fn new(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(0);
        Self {
            pages,
            words: vec![0; words],
        }
    }

    /// Bits of word `index` that stand for pages that exist.
    fn valid_mask(&self, index: usize) -> u64 {
        let left = self.pages.saturating_sub(index as u64 * 64);
        if left >= 64 {
            u64::MAX
        } else {
            (1 << left) - 1
        }
    }

    fn or_word(&mut self, index: usize, bits: u64) {
        let mask = self.valid_mask(index);
        if let Some(word) = self.words.get_mut(index) {
            *word |= bits & mask;
        }
    }

    /// Calls `each` with every word the pages `[first, first+count)` touch and the mask of them.
    fn masks(first: u64, count: u64, mut each: impl FnMut(usize, u64)) {
        let mut page = first;
        let end = first.saturating_add(count);
        while page < end {
            let bit = page % 64;
            let here = (64 - bit).min(end - page);
            let mask = if here == 64 {
                u64::MAX
            } else {
                ((1u64 << here) - 1) << bit
            };
            let Ok(index) = usize::try_from(page / 64) else {
                return;
            };
            each(index, mask);
            page += here;
        }
    }

    /// The first page at or after `from` whose bit equals `set`; `self.pages` if there is none.
    fn find(&self, from: u64, set: bool) -> u64 {
        let mut page = from;
        while page < self.pages {
            let index = usize::try_from(page / 64).unwrap_or(usize::MAX);
            let Some(&word) = self.words.get(index) else {
                break;
            };
            let word = if set { word } else { !word };
            let rest = word & (u64::MAX << (page % 64));
            if rest != 0 {
                return (index as u64 * 64 + u64::from(rest.trailing_zeros())).min(self.pages);
            }
            page = (index as u64 + 1) * 64;
        }
        self.pages
    }
}

/// Written pages of all blocks. Merging is a union; a page out of range is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyPages {
    blocks: Vec<BlockBits>,
}

impl DirtyPages {
    /// Of `ram`'s shape, nothing dirty.
    #[must_use]
    pub fn clean(ram: &Ram) -> Self {
        Self::with_pages(
            ram.blocks()
                .iter()
                .map(|block| block.size_bytes() / PAGE_SIZE_BYTES),
        )
    }

    /// Of `ram`'s shape, everything dirty.
    #[must_use]
    pub fn all(ram: &Ram) -> Self {
        let mut dirty = Self::clean(ram);
        dirty.mark_all();
        dirty
    }

    /// For blocks of these numbers of pages, nothing dirty.
    pub fn with_pages(pages_per_block: impl IntoIterator<Item = u64>) -> Self {
        Self {
            blocks: pages_per_block.into_iter().map(BlockBits::new).collect(),
        }
    }

    /// Marks everything.
    pub fn mark_all(&mut self) {
        for block in &mut self.blocks {
            for index in 0..block.words.len() {
                block.or_word(index, u64::MAX);
            }
        }
    }

    /// Marks `run`, or what of it exists.
    pub fn mark(&mut self, run: PageRun) {
        if let Some(block) = self.blocks.get_mut(run.block) {
            let count = run.count.min(block.pages.saturating_sub(run.first));
            BlockBits::masks(run.first, count, |index, mask| block.or_word(index, mask));
        }
    }

    /// Unmarks `run`.
    pub fn clear(&mut self, run: PageRun) {
        if let Some(block) = self.blocks.get_mut(run.block) {
            let count = run.count.min(block.pages.saturating_sub(run.first));
            BlockBits::masks(run.first, count, |index, mask| {
                if let Some(word) = block.words.get_mut(index) {
                    *word &= !mask;
                }
            });
        }
    }

    /// Unmarks everything.
    pub fn clear_all(&mut self) {
        for block in &mut self.blocks {
            block.words.fill(0);
        }
    }

    /// Whether a page is marked; `false` for one that does not exist.
    #[must_use]
    pub fn is_dirty(&self, block: usize, page: u64) -> bool {
        let Some(bits) = self.blocks.get(block) else {
            return false;
        };
        usize::try_from(page / 64)
            .ok()
            .and_then(|index| bits.words.get(index))
            .is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Merges a bitmap whose bit 0 stands for page `first_page` of `block`: what KVM's log of a memory slot looks like.
    pub fn merge_words(&mut self, block: usize, first_page: u64, words: &[u64]) {
        let Some(bits) = self.blocks.get_mut(block) else {
            return;
        };
        let Ok(base) = usize::try_from(first_page / 64) else {
            return;
        };
        let shift = first_page % 64;
        for (index, &word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
            let Some(at) = base.checked_add(index) else {
                return;
            };
            bits.or_word(at, word << shift);
            if shift != 0 {
                bits.or_word(at + 1, word >> (64 - shift));
            }
        }
    }

    /// Merges the log of the memory slot that starts at guest-physical `start`, one bit a page. Says whether `start` is RAM.
    pub fn merge_slot_log(&mut self, ram: &Ram, start: GuestAddress, words: &[u64]) -> bool {
        match ram.locate(start) {
            Some((block, offset)) => {
                self.merge_words(block, offset / PAGE_SIZE_BYTES, words);
                true
            }
            None => false,
        }
    }

    /// Merges another set of the same shape.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.blocks.iter_mut().zip(&other.blocks) {
            for (index, &word) in theirs.words.iter().enumerate() {
                mine.or_word(index, word);
            }
        }
    }

    /// Hands out what is marked, and leaves nothing marked.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let taken = self.clone();
        self.clear_all();
        taken
    }

    /// Number of marked pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.blocks
            .iter()
            .flat_map(|block| &block.words)
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Whether nothing is marked.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.blocks
            .iter()
            .all(|block| block.words.iter().all(|word| *word == 0))
    }

    /// The first marked run at or after page `from` of `block`, of at most `max_pages` pages.
    #[must_use]
    pub fn next_run(&self, block: usize, from: u64, max_pages: u64) -> Option<PageRun> {
        let bits = self.blocks.get(block)?;
        let first = bits.find(from, true);
        if first >= bits.pages || max_pages == 0 {
            return None;
        }
        let end = bits.find(first, false).min(first.saturating_add(max_pages));
        Some(PageRun {
            block,
            first,
            count: end - first,
        })
    }

    /// All marked runs, each of at most `max_pages` pages, in ascending order.
    pub fn runs(&self, max_pages: u64) -> impl Iterator<Item = PageRun> + '_ {
        let mut block = 0;
        let mut from = 0;
        std::iter::from_fn(move || {
            while block < self.blocks.len() {
                if let Some(run) = self.next_run(block, from, max_pages) {
                    from = run.first + run.count;
                    return Some(run);
                }
                block += 1;
                from = 0;
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_tail_of_the_last_word_is_never_marked() {
        let mut dirty = DirtyPages::with_pages([70, 3]);
        dirty.mark_all();
        assert_eq!(dirty.count(), 73);
        dirty.merge_words(1, 0, &[u64::MAX, u64::MAX]);
        assert_eq!(dirty.count(), 73);
        dirty.mark(PageRun {
            block: 1,
            first: u64::MAX - 1,
            count: u64::MAX,
        });
        dirty.merge_words(9, 0, &[1]);
        assert_eq!(dirty.count(), 73);
        assert_eq!(
            dirty.runs(u64::MAX).collect::<Vec<_>>(),
            [
                PageRun {
                    block: 0,
                    first: 0,
                    count: 70
                },
                PageRun {
                    block: 1,
                    first: 0,
                    count: 3
                }
            ]
        );
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            pages in 1u64..300,
            marks in prop::collection::vec((0u64..320, 0u64..80, any::<bool>()), 0..20),
            log in prop::collection::vec(any::<u64>(), 0..4),
            at in 0u64..200,
            max in 1u64..70,
        ) {
            let mut dirty = DirtyPages::with_pages([pages]);
            let mut model = BTreeSet::new();
            for (first, count, set) in marks {
                let run = PageRun { block: 0, first, count };
                for page in (first..first + count).filter(|page| *page < pages) {
                    if set { model.insert(page); } else { model.remove(&page); }
                }
                if set { dirty.mark(run) } else { dirty.clear(run) }
            }
            for (index, word) in log.iter().enumerate() {
                for bit in 0..64 {
                    let page = at + index as u64 * 64 + bit;
                    if word & (1 << bit) != 0 && page < pages { model.insert(page); }
                }
            }
            dirty.merge_words(0, at, &log);
            prop_assert_eq!(dirty.count(), model.len() as u64);
            let mut seen = Vec::new();
            let mut last_end = None;
            for run in dirty.runs(max) {
                prop_assert!(run.count >= 1 && run.count <= max);
                prop_assert!(last_end <= Some(run.first));
                last_end = Some(run.first + run.count);
                seen.extend(run.first..run.first + run.count);
            }
            prop_assert_eq!(&seen, &model.iter().copied().collect::<Vec<_>>());
            prop_assert!(seen.iter().all(|page| dirty.is_dirty(0, *page)));
            let taken = dirty.take();
            prop_assert!(dirty.is_clean());
            prop_assert_eq!(taken.count(), model.len() as u64);
        }
    }
}
