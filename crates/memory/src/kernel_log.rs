//! What the host's kernel writes into guest RAM while it serves a device (vhost): neither KVM's log nor a region's bitmap
//! sees it.
//!
//! ```text
//!   migration ──start / stop──▶ KernelLog ──log_writes(bits)──▶ each KernelWriter ──▶ the kernel
//!       ▲                          │ LogBits, one bit a page of guest-physical space      │ sets bits
//!       └──── Ram::take_device_dirty ◀────────────────────────────────────────────────────┘
//! ```
//!
//! It is off but for the time of a migration: each bit costs the kernel a page it pins.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::PAGE_SIZE_BYTES;

const PAGES_PER_WORD: u64 = 64;

/// One bit for each page of guest-physical space up to RAM's end, which the kernel sets while we read and clear.
///
/// Whoever tells the kernel its address keeps it alive until the kernel has forgotten that.
pub struct LogBits {
    words: Box<[AtomicU64]>,
}

impl LogBits {
    fn new(end_bytes: u64) -> Self {
        let words = end_bytes.div_ceil(PAGE_SIZE_BYTES).div_ceil(PAGES_PER_WORD);
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Where it is in this process: what `VHOST_SET_LOG_BASE` takes. Bit 0 of the first byte stands for page 0.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }

    /// Notes that a page of guest-physical space was written, as the kernel does. A page beyond RAM is ignored.
    pub fn mark(&self, page: u64) {
        let word = usize::try_from(page / PAGES_PER_WORD).unwrap_or(usize::MAX);
        if let Some(word) = self.words.get(word) {
            word.fetch_or(1 << (page % PAGES_PER_WORD), Ordering::AcqRel);
        }
    }

    /// Hands each marked page to `each`, and leaves none marked.
    fn take(&self, mut each: impl FnMut(u64)) {
        for (index, word) in (0u64..).zip(&self.words) {
            // Most are 0, and a look costs less than an exchange.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                each(index * PAGES_PER_WORD + u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
    }
}

/// Something in the kernel that writes guest RAM on a device's behalf.
pub trait KernelWriter: Send + Sync {
    /// From the return on, until told otherwise, every page written is noted in `log`; `None`: no more.
    ///
    /// Called with the log's lock held: it must not call the [`KernelLog`].
    ///
    /// # Errors
    /// The kernel refused; nothing is noted.
    fn log_writes(&self, log: Option<&Arc<LogBits>>) -> io::Result<()>;
}

struct State {
    end_bytes: u64,
    /// Made at the first start, and kept: an address that the kernel was told stays good.
    bits: Option<Arc<LogBits>>,
    on: bool,
    writers: Vec<Weak<dyn KernelWriter>>,
}

/// Switches the log on and off for all that write, and collects it.
pub struct KernelLog {
    state: Mutex<State>,
}

impl fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelLog").finish_non_exhaustive()
    }
}

impl KernelLog {
    /// For guest RAM that ends below `end_bytes` of guest-physical space; off.
    #[must_use]
    pub fn new(end_bytes: u64) -> Self {
        Self {
            state: Mutex::new(State {
                end_bytes,
                bits: None,
                on: false,
                writers: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a writer, which is forgotten when it is dropped.
    ///
    /// # Errors
    /// The log is on and the writer cannot take part.
    pub fn add(&self, writer: &Arc<dyn KernelWriter>) -> io::Result<()> {
        let mut state = self.state();
        if state.on {
            writer.log_writes(state.bits.as_ref())?;
        }
        state.writers.retain(|writer| writer.strong_count() > 0);
        state.writers.push(Arc::downgrade(writer));
        Ok(())
    }

    /// From the return on every page written is noted.
    ///
    /// # Errors
    /// A writer's; the log is off then.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.state();
        state.writers.retain(|writer| writer.strong_count() > 0);
        let end_bytes = state.end_bytes;
        let bits = Arc::clone(
            state
                .bits
                .get_or_insert_with(|| Arc::new(LogBits::new(end_bytes))),
        );
        bits.take(|_| ());
        for writer in state.writers.iter().filter_map(Weak::upgrade) {
            if let Err(error) = writer.log_writes(Some(&bits)) {
                stop(&mut state);
                return Err(error);
            }
        }
        state.on = true;
        Ok(())
    }

    /// Nothing is noted any more, and what was noted is forgotten.
    pub fn stop(&self) {
        stop(&mut self.state());
    }

    /// Hands each page noted since the last call to `each`.
    pub fn take(&self, each: impl FnMut(u64)) {
        let bits = self.state().bits.clone();
        if let Some(bits) = bits {
            bits.take(each);
        }
    }
}

fn stop(state: &mut State) {
    state.on = false;
    for writer in state.writers.iter().filter_map(Weak::upgrade) {
        if let Err(error) = writer.log_writes(None) {
            // It costs time, and what it notes is dropped.
            tracing::warn!(%error, "the kernel goes on logging what it writes");
        }
    }
    if let Some(bits) = &state.bits {
        bits.take(|_| ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DirtyPages, GuestRange, RamConfig, allocate};
    use vm_memory::GuestAddress;

    #[derive(Default)]
    struct Writer {
        log: Mutex<Option<Arc<LogBits>>>,
        refuses: bool,
    }

    impl Writer {
        fn write(&self, page: u64) {
            if let Some(log) = &*self.log.lock().unwrap() {
                log.mark(page);
            }
        }
    }

    impl KernelWriter for Writer {
        fn log_writes(&self, log: Option<&Arc<LogBits>>) -> io::Result<()> {
            if self.refuses && log.is_some() {
                return Err(io::ErrorKind::Unsupported.into());
            }
            *self.log.lock().unwrap() = log.cloned();
            Ok(())
        }
    }

    fn add(log: &KernelLog, writer: &Arc<Writer>) -> io::Result<()> {
        let writer: Arc<dyn KernelWriter> = writer.clone();
        log.add(&writer)
    }

    #[test]
    fn what_the_kernel_writes_is_dirty_where_it_is_in_the_block() {
        const MIB: u64 = 1 << 20;
        // A second range that begins at no multiple of 64 pages.
        let high = 4 * MIB + 3 * PAGE_SIZE_BYTES;
        let layout = [(0, 2 * MIB), (high, MIB)].map(|(start, size_bytes)| GuestRange {
            start: GuestAddress(start),
            size_bytes,
        });
        let ram = allocate(&RamConfig::anonymous(3 * MIB), &layout).unwrap();
        let writer = Arc::new(Writer::default());
        add(ram.kernel_log(), &writer).unwrap();
        writer.write(1);
        ram.kernel_log().start().unwrap();
        let pages = [
            0,
            511,
            600,
            high / PAGE_SIZE_BYTES,
            (high + MIB) / PAGE_SIZE_BYTES - 1,
        ];
        for page in pages.into_iter().chain([u64::MAX]) {
            writer.write(page);
        }
        let mut dirty = DirtyPages::clean(&ram);
        ram.take_device_dirty(&mut dirty);
        // Page 600 is in the hole.
        let expected = [0, 511, 512, 767];
        assert_eq!(dirty.count(), 4);
        assert!(expected.into_iter().all(|page| dirty.is_dirty(0, page)));
        let mut again = DirtyPages::clean(&ram);
        ram.take_device_dirty(&mut again);
        assert!(again.is_clean());
        writer.write(7);
        ram.forget_device_dirty();
        ram.kernel_log().stop();
        writer.write(8);
        ram.take_device_dirty(&mut again);
        assert!(again.is_clean());
    }

    #[test]
    fn a_writer_that_comes_late_logs_and_one_that_is_gone_is_forgotten() {
        let log = KernelLog::new(1 << 30);
        log.start().unwrap();
        let late = Arc::new(Writer::default());
        add(&log, &late).unwrap();
        late.write(5);
        let mut seen = Vec::new();
        log.take(|page| seen.push(page));
        assert_eq!(seen, [5]);
        drop(late);
        log.stop();
        log.start().unwrap();
        assert!(log.state().writers.is_empty());
    }

    #[test]
    fn a_writer_that_cannot_log_leaves_the_log_off_for_all() {
        let log = KernelLog::new(1 << 20);
        let good = Arc::new(Writer::default());
        let bad = Arc::new(Writer {
            refuses: true,
            ..Writer::default()
        });
        add(&log, &good).unwrap();
        add(&log, &bad).unwrap();
        assert!(log.start().is_err());
        assert!(good.log.lock().unwrap().is_none());
        drop(bad);
        log.start().unwrap();
        assert!(good.log.lock().unwrap().is_some());
    }
}
