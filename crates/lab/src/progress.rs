//! Progress for a person and for a log: one line a step, with the seconds since the start.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Starts the clock that [`say`] counts from; later calls change nothing.
pub fn begin() {
    start();
}

/// Set for a program whose stderr ends on a terminal, however far away: then a line can be written over.
pub const TERMINAL: &str = "LAB_TERMINAL";

/// Whether a line on stderr can be written over.
pub fn on_terminal() -> bool {
    static TOLD: OnceLock<bool> = OnceLock::new();
    *TOLD.get_or_init(|| std::env::var_os(TERMINAL).is_some() || std::io::stderr().is_terminal())
}

/// A status is on the last line, without an end.
static OPEN: AtomicBool = AtomicBool::new(false);
const CLEAR: &str = "\r\x1b[K";

/// Prints one step on stderr, so that stdout stays free for results.
pub fn say(text: impl AsRef<str>) {
    let seconds = start().elapsed().as_secs_f64();
    let clear = if OPEN.swap(false, Ordering::Relaxed) {
        CLEAR
    } else {
        ""
    };
    eprintln!("{clear}[{seconds:7.1}s] {}", text.as_ref());
}

/// Shows how far something is, in place of the status before; in a log, where nothing can be written over, once a
/// second.
pub fn status(text: impl AsRef<str>) {
    static LAST_TENTH: AtomicU64 = AtomicU64::new(0);
    let seconds = start().elapsed().as_secs_f64();
    if on_terminal() {
        OPEN.store(true, Ordering::Relaxed);
        eprint!("{CLEAR}[{seconds:7.1}s] {}", text.as_ref());
        return;
    }
    // Never 0, so that the first one is shown.
    let now = (seconds * 10.0) as u64 + 10;
    if now >= LAST_TENTH.load(Ordering::Relaxed) + 10 {
        LAST_TENTH.store(now, Ordering::Relaxed);
        say(text);
    }
}
