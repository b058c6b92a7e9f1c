//! An allocator that counts, and ends the process where one input makes the heap grow past its bound.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static MOST_BYTES: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's allocator with a count of the bytes in use. A program that wants [`within`] to be kept declares it as
/// its global allocator.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: usize) {
    let live = LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
    // A panic on its way takes memory for its backtrace.
    if live > MOST_BYTES.load(Ordering::Relaxed) && !std::thread::panicking() {
        // What follows allocates, too.
        MOST_BYTES.store(usize::MAX, Ordering::Relaxed);
        eprintln!("the heap grew past the target's bound: {bytes} bytes more make {live}");
        std::process::abort();
    }
}

// SAFETY: every request goes to the system's allocator as it came; only numbers are kept besides.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; `place` came from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, new_size) }
    }
}

/// Does `work`; the process is aborted if the heap has `most_bytes` more in use meanwhile than before. One at a time.
pub fn within(most_bytes: usize, work: impl FnOnce()) {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    MOST_BYTES.store(before.saturating_add(most_bytes), Ordering::Relaxed);
    work();
    MOST_BYTES.store(usize::MAX, Ordering::Relaxed);
}
