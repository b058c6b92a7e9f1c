//! Pages of a block as memory of this process: where they are, whether they are zero, and making them zero.
//!
//! All of it works while vCPUs and devices go on writing: the memory is only ever touched through raw pointers and libc,
//! never through a Rust reference.

use std::io;
use std::marker::PhantomData;

use rustix::fs::{FallocateFlags, SeekFrom};

use crate::block::{Ram, RamBlock};
use crate::config::MemoryError;
use crate::{PAGE_SIZE_BYTES, PageRun};

const PAGE: usize = 4096;
static ZERO_PAGE: [u8; PAGE] = [0; PAGE];

/// A run of pages, and whether the host has memory behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The pages.
    pub run: PageRun,
    /// `false`: nobody has touched any of them yet, they read as zeroes. `true`: they may contain anything.
    pub populated: bool,
}

/// Guest pages in one piece of this process's memory.
#[derive(Debug, Clone, Copy)]
pub struct HostSpan<'ram> {
    start: *mut u8,
    pages: usize,
    ram: PhantomData<&'ram Ram>,
}

impl HostSpan<'_> {
    /// Where it begins, for system calls (`writev`, `readv`). The guest may change what is there at any time.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Length in bytes, a multiple of 4 KiB.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.pages * PAGE
    }

    /// Whether page `index` of the span is all zeroes. Pages past the end count as not zero.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn page_is_zero(&self, index: usize) -> bool {
        if index >= self.pages {
            return false;
        }
        // SAFETY: `index` is within the span, the span lies within a live mapping (its lifetime borrows the Ram), and
        // memcmp reads exactly a page of it and of the constant. A concurrent write by the guest can only change the
        // answer, and then the page is in the next dirty bitmap.
        unsafe {
            libc::memcmp(
                self.start.add(index * PAGE).cast(),
                ZERO_PAGE.as_ptr().cast(),
                PAGE,
            ) == 0
        }
    }

    /// Copies the span's bytes into `into`; both must have the same length, else nothing is copied and it says `false`.
    #[allow(unsafe_code)]
    pub fn copy_to(&self, into: &mut [u8]) -> bool {
        if into.len() != self.len_bytes() {
            return false;
        }
        // SAFETY: source is a live mapping of that length, destination a slice of the same length; a fresh Rust slice
        // never overlaps the guest's mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.cast_const(), into.as_mut_ptr(), into.len());
        }
        true
    }

    /// Copies `from` over the span; both must have the same length, else nothing is copied and it says `false`. Marks no
    /// dirty bitmap: for loading RAM, before a guest runs.
    #[allow(unsafe_code)]
    pub fn copy_from(&self, from: &[u8]) -> bool {
        if from.len() != self.len_bytes() {
            return false;
        }
        // SAFETY: as in copy_to, the other way round; the mapping is writable.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.start, from.len());
        }
        true
    }

    #[allow(unsafe_code)]
    fn fill_zero(&self, first: usize, count: usize) {
        if first.checked_add(count).is_none_or(|end| end > self.pages) {
            return;
        }
        // SAFETY: checked to be within the span, which is a live writable mapping.
        unsafe {
            std::ptr::write_bytes(self.start.add(first * PAGE), 0, count * PAGE);
        }
    }
}

impl Ram {
    fn checked(&self, run: PageRun) -> Result<&RamBlock, MemoryError> {
        let outside = MemoryError::OutOfRange {
            block: run.block,
            first: run.first,
            count: run.count,
        };
        match self.blocks().get(run.block) {
            Some(block)
                if run
                    .first
                    .checked_add(run.count)
                    .is_some_and(|end| end <= block.pages()) =>
            {
                Ok(block)
            }
            _ => Err(outside),
        }
    }

    /// Where the pages of `run` are in this process: one span a mapping they lie in, in order.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] unless every page of the run exists.
    pub fn spans(&self, run: PageRun) -> Result<impl Iterator<Item = HostSpan<'_>>, MemoryError> {
        let block = self.checked(run)?;
        let mut offset = run.first * PAGE_SIZE_BYTES;
        let end = offset + run.count * PAGE_SIZE_BYTES;
        Ok(std::iter::from_fn(move || {
            if offset >= end {
                return None;
            }
            let range = block.range_at(offset)?;
            let into = offset - range.block_offset;
            let len = (range.size_bytes - into).min(end - offset);
            offset += len;
            Some(HostSpan {
                start: range
                    .region
                    .as_ptr()
                    .wrapping_add(usize::try_from(into).ok()?),
                pages: usize::try_from(len).ok()? / PAGE,
                ram: PhantomData,
            })
        }))
    }

    /// Splits `run` by whether the host has memory behind it, without touching (and so populating) any page. Where the host
    /// cannot tell, all of it counts as populated.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] unless every page of the run exists.
    pub fn extents(&self, run: PageRun) -> Result<Vec<Extent>, MemoryError> {
        let block = self.checked(run)?;
        let mut extents = Vec::new();
        let end = run.first + run.count;
        let mut push = |first: u64, until: u64, populated| {
            if first < until {
                extents.push(Extent {
                    run: PageRun {
                        block: run.block,
                        first,
                        count: until - first,
                    },
                    populated,
                });
            }
        };
        let mut page = run.first;
        while page < end {
            let (data, hole) = next_data(block, page);
            let data = data.clamp(page, end);
            let hole = hole.clamp(data, end);
            push(page, data, false);
            push(data, hole, true);
            // `next_data` moves forward by a page at least, unless all the rest is a hole.
            page = if hole > page { hole } else { end };
        }
        Ok(extents)
    }

    /// Makes the pages of `run` read as zeroes: by giving them back to the host where that is possible and allowed
    /// ([`Ram::set_discard_allowed`]), else by writing zeroes over those that are not zero. Marks no dirty bitmap.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] unless every page of the run exists.
    pub fn zero_pages(&self, run: PageRun) -> Result<(), MemoryError> {
        for extent in self.extents(run)? {
            if !extent.populated {
                continue;
            }
            let block = self.checked(extent.run)?;
            if block.shared && block.host_page_bytes == PAGE_SIZE_BYTES && self.discard_allowed() {
                match punch(block, extent.run) {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::debug!("cannot discard pages of '{}': {error}", block.name());
                    }
                }
            }
            for span in self.spans(extent.run)? {
                for index in 0..span.pages {
                    // A page that is zero already may have nothing behind it yet: do not populate it for nothing.
                    if !span.page_is_zero(index) {
                        span.fill_zero(index, 1);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Pages `(data, hole)`: at `data` begins the first populated stretch at or after `page`, at `hole` it ends.
fn next_data(block: &RamBlock, page: u64) -> (u64, u64) {
    let all = (page, block.pages());
    // What a private mapping has copied is not in the file, so the file's holes tell nothing about it.
    if !block.shared {
        return all;
    }
    let to_page = |at: u64| at.saturating_sub(block.file_offset);
    let from = block.file_offset + page * PAGE_SIZE_BYTES;
    let data = match rustix::fs::seek(&*block.file, SeekFrom::Data(from)) {
        Ok(at) => at,
        // No data from here to the end of the file.
        Err(rustix::io::Errno::NXIO) => return (block.pages(), block.pages()),
        Err(_) => return all,
    };
    match rustix::fs::seek(&*block.file, SeekFrom::Hole(data)) {
        Ok(hole) => (
            to_page(data) / PAGE_SIZE_BYTES,
            to_page(hole).div_ceil(PAGE_SIZE_BYTES).max(page + 1),
        ),
        Err(_) => all,
    }
}

fn punch(block: &RamBlock, run: PageRun) -> io::Result<()> {
    rustix::fs::fallocate(
        &*block.file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        block.file_offset + run.first * PAGE_SIZE_BYTES,
        run.count * PAGE_SIZE_BYTES,
    )?;
    Ok(())
}
