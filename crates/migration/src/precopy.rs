//! Sending pages: whole passes over what is dirty, within the bandwidth that is granted.

use std::time::Duration;

use memory::{DirtyPages, PAGE_SIZE_BYTES, PageRun, Ram};

use crate::cancel::CancelToken;
use crate::clock::Clock;
use crate::info::Statistics;
use crate::link::{Link, SendError};
use crate::reason::Reason;
use crate::stream::{RamTable, Run};

/// Pages a write carries at most: large enough that system calls do not count, small enough that cancelling and pacing are
/// prompt.
const BATCH_PAGES: u64 = 512;
/// Pages looked at in one go.
const SCAN_PAGES: u64 = 1 << 16;
/// A run of at least this many dirty pages is worth asking the host which of them it has memory for.
const SPARSE_PAGES: u64 = 32;
/// Rates are computed over at least this much time.
const RATE_WINDOW: Duration = Duration::from_millis(100);
/// A limiter lets a sender that was idle catch up at most this much.
const MAX_CREDIT: Duration = Duration::from_millis(100);

/// A sender that waits for its turn looks this often whether the limit is another one.
const LIMIT_LOOK: Duration = Duration::from_millis(100);

/// Spreads bytes over time.
#[derive(Debug, Default)]
struct Pacer {
    /// When the bytes sent so far are paid for.
    paid: Duration,
}

impl Pacer {
    /// How long to wait after sending `bytes`, at `limit` bytes a second (0: none).
    fn spend(&mut self, bytes: u64, limit: u64, now: Duration) -> Duration {
        if limit == 0 {
            self.paid = now;
            return Duration::ZERO;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(limit);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid = self
            .paid
            .max(now.saturating_sub(MAX_CREDIT))
            .saturating_add(cost);
        self.paid.saturating_sub(now)
    }

    /// The limit was `before` and is `limit` now, with `left` still to wait: how long to wait instead.
    fn grant_anew(&mut self, left: Duration, before: u64, limit: u64) -> Duration {
        let nanos = match limit {
            0 => 0,
            limit => left.as_nanos().saturating_mul(u128::from(before)) / u128::from(limit),
        };
        let instead = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid = self.paid.saturating_sub(left).saturating_add(instead);
        instead
    }
}

/// Measures what is sent. Time spent waiting for the pacer counts: what goes out between two waits says how fast buffers fill,
/// not what the link carries, and an estimate that is too high costs the guest its downtime limit.
#[derive(Debug, Default)]
struct Meter {
    since: Duration,
    bytes: u64,
    pages: u64,
}

/// Sends pages and keeps the figures.
pub(crate) struct PageSender<'a> {
    ram: &'a Ram,
    clock: &'a dyn Clock,
    cancel: &'a CancelToken,
    statistics: &'a Statistics,
    table: RamTable,
    table_pages: u64,
    pacer: Pacer,
    meter: Meter,
    /// Bytes a second that went out lately, when known.
    bandwidth: Option<u64>,
    /// Pages sent, zero pages among them.
    pages: u64,
}

impl<'a> PageSender<'a> {
    pub(crate) fn new(
        ram: &'a Ram,
        clock: &'a dyn Clock,
        cancel: &'a CancelToken,
        statistics: &'a Statistics,
    ) -> Self {
        let now = clock.now();
        Self {
            ram,
            clock,
            cancel,
            statistics,
            table: RamTable::default(),
            table_pages: 0,
            pacer: Pacer { paid: now },
            meter: Meter {
                since: now,
                ..Meter::default()
            },
            bandwidth: None,
            pages: 0,
        }
    }

    /// Pages sent so far, zero pages among them.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Bytes a second that went out lately; `None` before anything was sent.
    pub(crate) fn bandwidth(&self) -> Option<u64> {
        self.bandwidth
    }

    /// Sends every page marked in `dirty` and unmarks it. `limit` tells the bytes a second, 0 for as many as possible; it is
    /// asked again for each write.
    pub(crate) fn send(
        &mut self,
        link: &mut Link<'_>,
        dirty: &mut DirtyPages,
        limit: &dyn Fn() -> u64,
    ) -> Result<(), SendError> {
        let mut left = dirty.count();
        if self.meter.bytes == 0 {
            self.meter.since = self.clock.now();
        }
        for block in 0..self.ram.blocks().len() {
            let mut from = 0;
            while let Some(run) = dirty.next_run(block, from, SCAN_PAGES) {
                if self.cancel.is_cancelled() {
                    return Err(SendError::Cancelled);
                }
                from = run.first + run.count;
                // Unmark first: nobody but the next sync marks a page again.
                dirty.clear(run);
                self.send_run(link, run, limit)?;
                left = left.saturating_sub(run.count);
                self.statistics
                    .update(|figures| figures.ram.remaining_bytes = left * PAGE_SIZE_BYTES);
            }
        }
        self.flush(link, limit)
    }

    fn send_run(
        &mut self,
        link: &mut Link<'_>,
        run: PageRun,
        limit: &dyn Fn() -> u64,
    ) -> Result<(), SendError> {
        if run.count < SPARSE_PAGES {
            return self.scan(link, run, limit);
        }
        for extent in self.ram.extents(run).map_err(Reason::new)? {
            if extent.populated {
                self.scan(link, extent.run, limit)?;
            } else {
                self.push(link, extent.run, false, limit)?;
            }
        }
        Ok(())
    }

    /// Splits a run by whether its pages are zero.
    fn scan(
        &mut self,
        link: &mut Link<'_>,
        run: PageRun,
        limit: &dyn Fn() -> u64,
    ) -> Result<(), SendError> {
        let ram = self.ram;
        let mut first = run.first;
        for span in ram.spans(run).map_err(Reason::new)? {
            let pages = span.len_bytes() as u64 / PAGE_SIZE_BYTES;
            let is_zero =
                |page: u64| span.page_is_zero(usize::try_from(page).unwrap_or(usize::MAX));
            let mut page = 0;
            while page < pages {
                let zero = is_zero(page);
                let max = if zero {
                    pages
                } else {
                    pages.min(page + BATCH_PAGES.saturating_sub(self.table_pages).max(1))
                };
                let start = page;
                page += 1;
                while page < max && is_zero(page) == zero {
                    page += 1;
                }
                let piece = PageRun {
                    block: run.block,
                    first: first + start,
                    count: page - start,
                };
                self.push(link, piece, !zero, limit)?;
            }
            first += pages;
        }
        Ok(())
    }

    fn push(
        &mut self,
        link: &mut Link<'_>,
        pages: PageRun,
        bytes: bool,
        limit: &dyn Fn() -> u64,
    ) -> Result<(), SendError> {
        self.table.push(Run { pages, bytes });
        if bytes {
            self.table_pages += pages.count;
        }
        if self.table.is_full() || self.table_pages >= BATCH_PAGES {
            self.flush(link, limit)?;
        }
        Ok(())
    }

    fn flush(&mut self, link: &mut Link<'_>, limit: &dyn Fn() -> u64) -> Result<(), SendError> {
        if self.table.runs().is_empty() {
            return Ok(());
        }
        let before = link.sent_bytes();
        link.send_ram(self.ram, &self.table)?;
        let bytes = link.sent_bytes() - before;
        let all: u64 = self.table.runs().iter().map(|run| run.pages.count).sum();
        let normal = self.table_pages;
        self.table.clear();
        self.table_pages = 0;
        self.pages += all;
        let now = self.clock.now();
        self.statistics.update(|figures| {
            figures.ram.transferred_bytes = link.sent_bytes();
            figures.ram.normal_pages += normal;
            figures.ram.zero_pages += all - normal;
        });
        self.measure(bytes, all, now);

        let mut granted = limit();
        let mut wait = self.pacer.spend(bytes, granted, now);
        while !wait.is_zero() {
            let slice = wait.min(LIMIT_LOOK);
            if self.cancel.wait(slice) {
                return Err(SendError::Cancelled);
            }
            wait = wait.saturating_sub(slice);
            let limit = limit();
            if limit != granted {
                wait = self.pacer.grant_anew(wait, granted, limit);
                granted = limit;
            }
        }
        Ok(())
    }

    fn measure(&mut self, bytes: u64, pages: u64, now: Duration) {
        self.meter.bytes += bytes;
        self.meter.pages += pages;
        let elapsed = now.saturating_sub(self.meter.since);
        if elapsed >= RATE_WINDOW {
            self.close_window(now);
        }
    }

    /// Turns what was counted since the last time into rates.
    pub(crate) fn close_window(&mut self, now: Duration) {
        let meter = std::mem::replace(
            &mut self.meter,
            Meter {
                since: now,
                ..Meter::default()
            },
        );
        let elapsed = now.saturating_sub(meter.since);
        if meter.bytes == 0 || elapsed.is_zero() {
            return;
        }
        let carried = per_second(meter.bytes, elapsed);
        // A short burst only fills buffers; trust it as far as it is long, up to a whole window.
        let weight = (elapsed.as_secs_f64() / RATE_WINDOW.as_secs_f64()).min(1.0) * 0.5;
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let smoothed = self.bandwidth.map_or(carried, |old| {
            (old as f64 * (1.0 - weight) + carried as f64 * weight) as u64
        });
        self.bandwidth = Some(smoothed.max(1));
        #[allow(clippy::cast_precision_loss)]
        let mbps = carried as f64 * 8.0 / 1e6;
        self.statistics.update(|figures| {
            figures.ram.mbps = mbps;
            figures.ram.pages_per_second = per_second(meter.pages, elapsed);
        });
    }
}

/// `count` in `time`, a second.
pub(crate) fn per_second(count: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(count) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pacer_spreads_bytes_and_forgives_a_short_pause_only() {
        let second = Duration::from_secs(1);
        let mut pacer = Pacer::default();
        assert_eq!(pacer.spend(1 << 30, 0, second), Duration::ZERO);
        // 1000 bytes at 1000 a second: paid for in a second, less the credit.
        pacer.paid = Duration::ZERO;
        assert_eq!(pacer.spend(1000, 1000, second), second - MAX_CREDIT);
        assert_eq!(pacer.spend(1000, 1000, second), second * 2 - MAX_CREDIT);
        // An hour of silence is not an hour of credit.
        assert_eq!(pacer.spend(1000, 1000, second * 3600), second - MAX_CREDIT);
        assert!(pacer.spend(u64::MAX, 1, second) > second);
    }

    #[test]
    fn another_limit_counts_for_what_is_owed() {
        let second = Duration::from_secs(1);
        let mut pacer = Pacer { paid: second };
        let wait = pacer.spend(100_000, 1000, second);
        assert_eq!(wait, second * 100);
        assert_eq!(pacer.grant_anew(wait, 1000, 10_000), second * 10);
        assert_eq!(pacer.paid, second * 11);
        assert_eq!(pacer.grant_anew(second * 10, 10_000, 0), Duration::ZERO);
        assert_eq!(pacer.paid, second);
        assert!(pacer.grant_anew(Duration::MAX, u64::MAX, 1) > second);
    }
}
