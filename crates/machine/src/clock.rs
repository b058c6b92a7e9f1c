//! Time, handed in: the host's, or one that a test moves.
//!
//! A machine has two clocks. By the *host's* its own waits end (an unplug's deadline, the next attempt to plug). By the
//! *guest's* its devices count (the ACPI timer). Under KVM both are the host's monotonic clock. For a client of `-qtest` the
//! guest's stands still but for `clock_step`. A test in this process hands in one [`ManualClock`] for both, and then
//! nothing happens by the passing of time but what the test says.

use hypervisor::qtest::GuestClock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A clock that only goes forward.
pub trait Clock: Send + Sync {
    /// Time since the machine was made.
    fn now(&self) -> Duration;

    /// The time of day: seconds since 1970.
    fn wall_s(&self) -> i64;

    /// How long the host has to wait at most until `left` has passed on this clock; `None` when no waiting helps.
    fn host_wait(&self, left: Duration) -> Option<Duration>;

    /// From now on `wake` is called whenever the clock was moved otherwise than by the passing of time.
    fn on_move(&self, wake: Box<dyn Fn() + Send + Sync>);

    /// As [`migration::Clock::alarm`].
    fn alarm(&self, at: Duration, ring: Box<dyn FnOnce() + Send>) -> Option<migration::Alarm> {
        let _ = (at, ring);
        None
    }
}

/// The host's clocks.
#[derive(Debug, Clone, Copy)]
pub struct HostClock(Instant);

impl HostClock {
    /// A clock whose zero is now.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for HostClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for HostClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall_s(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
    }

    fn host_wait(&self, left: Duration) -> Option<Duration> {
        Some(left)
    }

    fn on_move(&self, _: Box<dyn Fn() + Send + Sync>) {}
}

/// What a [`ManualClock`] shows as the time of day at its zero: 2026-01-01 00:00:00 UTC.
pub const MANUAL_EPOCH_S: i64 = 1_767_225_600;

/// Alarms by number: when, and what to call then, unless that was done.
type Alarms = BTreeMap<u64, (Duration, Option<Box<dyn FnOnce() + Send>>)>;

/// A clock that moves when it is told to.
#[derive(Default)]
pub struct ManualClock {
    now: Mutex<Duration>,
    wakes: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
    alarms: Arc<Mutex<Alarms>>,
}

/// An alarm that is set, until it is dropped.
struct SetAlarm {
    number: u64,
    alarms: Arc<Mutex<Alarms>>,
}

impl Drop for SetAlarm {
    fn drop(&mut self) {
        lock(&self.alarms).remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ManualClock {
    /// A clock at its zero.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Moves the clock forward and wakes whoever waits for a moment of it. That a control thread has done what was due
    /// shows by the answer to a job that is asked of it afterwards.
    pub fn advance(&self, by: Duration) {
        let to = self.now().saturating_add(by);
        self.advance_to(to);
    }

    /// Moves the clock forward to a moment; one that has passed leaves it where it is.
    pub fn advance_to(&self, to: Duration) {
        {
            let mut now = lock(&self.now);
            *now = (*now).max(to);
        }
        for wake in lock(&self.wakes).iter() {
            wake();
        }
        let mut alarms = lock(&self.alarms);
        let now = self.now();
        for (_, ring) in alarms.values_mut().filter(|(at, _)| *at <= now) {
            if let Some(ring) = ring.take() {
                ring();
            }
        }
    }

    /// When the next alarm is to ring.
    pub fn next_alarm(&self) -> Option<Duration> {
        let alarms = lock(&self.alarms);
        let waiting = alarms.values().filter(|(_, ring)| ring.is_some());
        waiting.map(|(at, _)| *at).min()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *lock(&self.now)
    }

    fn wall_s(&self) -> i64 {
        let seconds = i64::try_from(self.now().as_secs()).unwrap_or(i64::MAX);
        MANUAL_EPOCH_S.saturating_add(seconds)
    }

    fn host_wait(&self, _: Duration) -> Option<Duration> {
        None
    }

    fn on_move(&self, wake: Box<dyn Fn() + Send + Sync>) {
        lock(&self.wakes).push(wake);
    }

    fn alarm(&self, at: Duration, ring: Box<dyn FnOnce() + Send>) -> Option<migration::Alarm> {
        let mut alarms = lock(&self.alarms);
        let number = alarms.last_key_value().map_or(0, |(last, _)| last + 1);
        let mut ring = Some(ring);
        if self.now() >= at
            && let Some(ring) = ring.take()
        {
            ring();
        }
        alarms.insert(number, (at, ring));
        Some(Box::new(SetAlarm {
            number,
            alarms: Arc::clone(&self.alarms),
        }))
    }
}

impl GuestClock for ManualClock {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }

    fn advance_to_ns(&self, ns: u64) {
        self.advance_to(Duration::from_nanos(ns));
    }
}

/// A machine's two clocks.
#[derive(Clone)]
pub struct Clocks {
    /// By which the machine's own waits end.
    pub host: Arc<dyn Clock>,
    /// By which the guest's devices count.
    pub guest: Arc<dyn Clock>,
}

impl Clocks {
    /// The host's clock for both.
    pub fn host() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(HostClock::new());
        Self {
            host: Arc::clone(&clock),
            guest: clock,
        }
    }

    /// One clock for both.
    pub fn manual(clock: &Arc<ManualClock>) -> Self {
        Self {
            host: clock.clone(),
            guest: clock.clone(),
        }
    }

    /// The host's clock for the machine's waits, `guest` for its devices.
    pub fn guest_by_hand(guest: &Arc<ManualClock>) -> Self {
        Self {
            host: Arc::new(HostClock::new()),
            guest: guest.clone(),
        }
    }
}

/// A clock as crate `migration` wants it.
pub(crate) struct MigrationClock(pub(crate) Arc<dyn Clock>);

impl migration::Clock for MigrationClock {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn alarm(&self, at: Duration, ring: Box<dyn FnOnce() + Send>) -> Option<migration::Alarm> {
        self.0.alarm(at, ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_manual_clock_moves_forward_only_and_wakes_its_waiters() {
        let clock = ManualClock::new();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        clock.on_move(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        clock.advance(Duration::from_secs(2));
        clock.advance_to(Duration::from_secs(1));
        assert_eq!(clock.now(), Duration::from_secs(2));
        assert_eq!(clock.wall_s(), MANUAL_EPOCH_S + 2);
        assert_eq!(woken.load(Ordering::SeqCst), 2);
        assert_eq!(clock.host_wait(Duration::from_secs(9)), None);
    }

    #[test]
    fn an_alarm_rings_once_its_time_has_come_and_not_if_it_is_taken_back() {
        let clock = ManualClock::new();
        let rung = Arc::new(AtomicUsize::new(0));
        let set = |seconds| {
            let count = Arc::clone(&rung);
            let ring = move || {
                count.fetch_add(1, Ordering::SeqCst);
            };
            clock.alarm(Duration::from_secs(seconds), Box::new(ring))
        };
        let (one, other) = (set(1), set(2));
        assert_eq!(clock.next_alarm(), Some(Duration::from_secs(1)));
        for _ in 0..2 {
            clock.advance(Duration::from_millis(700));
        }
        assert_eq!(rung.load(Ordering::SeqCst), 1);
        assert_eq!(clock.next_alarm(), Some(Duration::from_secs(2)));
        drop((one, other));
        assert_eq!(clock.next_alarm(), None);
        clock.advance(Duration::from_secs(9));
        assert_eq!(rung.load(Ordering::SeqCst), 1);
        // What is past already rings at once.
        let late = set(1);
        assert_eq!(rung.load(Ordering::SeqCst), 2);
        assert!(late.is_some() && clock.next_alarm().is_none());
        let by_itself = HostClock::new().alarm(Duration::ZERO, Box::new(|| ()));
        assert!(by_itself.is_none());
    }
}
