//! Time, handed in.

use std::time::{Duration, Instant};

/// What an alarm of a [`Clock`] is held by: it is taken back when this is dropped.
pub type Alarm = Box<dyn Send>;

/// A clock that only goes forward. Its zero means nothing; differences do.
pub trait Clock: Send + Sync {
    /// Time since the clock's zero.
    fn now(&self) -> Duration;

    /// Of a clock that somebody moves: `ring` is called once `at` has come, at once if it has. `None` of one that moves by
    /// itself, as the host's does: who waits sees it pass.
    fn alarm(&self, at: Duration, ring: Box<dyn FnOnce() + Send>) -> Option<Alarm> {
        let _ = (at, ring);
        None
    }
}

/// The host's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    zero: Instant,
}

impl MonotonicClock {
    /// A clock whose zero is now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            zero: Instant::now(),
        }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.zero.elapsed()
    }
}
