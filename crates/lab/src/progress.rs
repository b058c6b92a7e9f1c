//! Progress for a person and for a log: one line a step, with the seconds since the start.

use std::sync::OnceLock;
use std::time::Instant;

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Starts the clock that [`say`] counts from; later calls change nothing.
pub fn begin() {
    start();
}

/// Prints one step on stderr, so that stdout stays free for results.
pub fn say(text: impl AsRef<str>) {
    let seconds = start().elapsed().as_secs_f64();
    eprintln!("[{seconds:7.1}s] {}", text.as_ref());
}
