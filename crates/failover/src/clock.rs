//! Time as the state machine sees it: handed in by the caller, never read from the host.

use std::fmt;

/// A point on the caller's monotonic clock, in milliseconds since any fixed origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The moment `ms` milliseconds after the clock's origin.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the clock's origin.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// The moment `ms` milliseconds later; stays at the end of time rather than wrap.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this moment; zero if `earlier` is the later one.
    pub const fn ms_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}

/// How long each wait may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the first request to unplug until the guest is said to ignore it.
    pub unplug_timeout_ms: u64,
    /// Between one request to unplug and its repeat: an ACPI notification that the guest was too
    /// early in its boot to handle is lost without a trace.
    pub unplug_resend_ms: u64,
    /// From the moment the guest was told of its primary until it is said to have no driver for it.
    pub driver_timeout_ms: u64,
    /// How long the host may take to open and plug a primary before that is told.
    pub plug_timeout_ms: u64,
    /// The wait before the first retry of a failed plug; doubles with each further failure.
    pub retry_min_ms: u64,
    /// The longest wait between two retries.
    pub retry_max_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            unplug_timeout_ms: 30_000,
            unplug_resend_ms: 5_000,
            driver_timeout_ms: 30_000,
            plug_timeout_ms: 30_000,
            retry_min_ms: 500,
            retry_max_ms: 30_000,
        }
    }
}

impl Timing {
    /// The wait after the `attempt`-th failed plug (counted from 1).
    pub(crate) fn backoff_ms(&self, attempt: u32) -> u64 {
        let doublings = attempt.saturating_sub(1).min(32);
        self.retry_min_ms
            .max(1)
            .saturating_mul(1 << doublings)
            .min(self.retry_max_ms.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let t = Timing {
            retry_min_ms: 500,
            retry_max_ms: 3_000,
            ..Timing::default()
        };

        let waits: Vec<u64> = (1..=5).map(|n| t.backoff_ms(n)).collect();

        assert_eq!(waits, [500, 1_000, 2_000, 3_000, 3_000]);
        assert_eq!(t.backoff_ms(u32::MAX), 3_000);
    }

    #[test]
    fn the_clock_saturates() {
        assert_eq!(
            Moment::from_ms(u64::MAX).after_ms(1),
            Moment::from_ms(u64::MAX)
        );
        assert_eq!(Moment::from_ms(1).ms_since(Moment::from_ms(2)), 0);
    }
}
