//! Breaking off what is under way, from another thread.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::channel::timespec;

/// Locks, whatever a thread that panicked meanwhile may have left: the values kept in this crate are whole at any time.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Hook = Box<dyn FnOnce() + Send>;

enum Phase {
    Open(Vec<Hook>),
    Cancelled,
    Sealed,
}

struct Inner {
    phase: Mutex<Phase>,
    event: OwnedFd,
}

/// Says once, to everybody who waits in whatever way, that it is over.
///
/// A waiter may ask ([`CancelToken::is_cancelled`]), sleep on it ([`CancelToken::wait`]), poll its descriptor (readable once
/// cancelled), or leave a hook. A token is *sealed* at the point from which going back is no longer possible: cancelling it
/// then does nothing, and says so.
#[derive(Clone)]
pub struct CancelToken(Arc<Inner>);

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken")
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl CancelToken {
    /// A token nobody has cancelled.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner {
            phase: Mutex::new(Phase::Open(Vec::new())),
            event,
        })))
    }

    /// Cancels. Says whether it is cancelled now: `false` when it was sealed before.
    pub fn cancel(&self) -> bool {
        let hooks = {
            let mut phase = lock(&self.0.phase);
            match &mut *phase {
                Phase::Sealed => return false,
                Phase::Cancelled => return true,
                Phase::Open(hooks) => {
                    let hooks = std::mem::take(hooks);
                    *phase = Phase::Cancelled;
                    // The counter cannot overflow by one write.
                    let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
                    hooks
                }
            }
        };
        for hook in hooks {
            hook();
        }
        true
    }

    /// Makes cancelling impossible from here on. Says `false` when it was cancelled before.
    pub fn seal(&self) -> bool {
        let mut phase = lock(&self.0.phase);
        match *phase {
            Phase::Cancelled => false,
            Phase::Open(_) | Phase::Sealed => {
                *phase = Phase::Sealed;
                true
            }
        }
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(*lock(&self.0.phase), Phase::Cancelled)
    }

    /// Calls `hook` when it is cancelled: at once if it is already, on the thread that cancels otherwise. A hook must not
    /// block; it may send on a channel. Never called once sealed.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        {
            let mut phase = lock(&self.0.phase);
            match &mut *phase {
                Phase::Open(hooks) => {
                    hooks.push(Box::new(hook));
                    return;
                }
                Phase::Sealed => return,
                Phase::Cancelled => {}
            }
        }
        hook();
    }

    /// Sleeps for `duration`, or until it is cancelled; says whether it is.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        let mut fds = [PollFd::new(&self.0.event, PollFlags::IN)];
        // A signal may end the sleep early; callers ask the clock again.
        let _ = poll(&mut fds, Some(&timespec(duration)));
        self.is_cancelled()
    }
}

impl AsFd for CancelToken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn cancelling_wakes_every_kind_of_waiter() {
        let token = CancelToken::new().unwrap();
        let (tx, rx) = mpsc::channel();
        let early = tx.clone();
        token.on_cancel(move || early.send("hook").unwrap());
        let sleeper = token.clone();
        let asleep = std::thread::spawn(move || sleeper.wait(Duration::from_secs(3600)));
        assert!(!token.is_cancelled());
        assert!(token.cancel());
        assert!(asleep.join().unwrap());
        token.on_cancel(move || tx.send("late").unwrap());
        assert_eq!(rx.iter().collect::<Vec<_>>(), ["hook", "late"]);
        assert!(!token.seal());
    }

    #[test]
    fn a_sealed_token_is_not_cancelled() {
        let token = CancelToken::new().unwrap();
        token.on_cancel(|| panic!("must not run"));
        assert!(token.seal());
        assert!(token.seal());
        assert!(!token.cancel());
        assert!(!token.is_cancelled());
        assert!(!token.wait(Duration::ZERO));
    }
}
