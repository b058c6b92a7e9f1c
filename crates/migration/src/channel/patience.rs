//! How long to wait for the peer.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;

use super::{ChannelError, timespec};
use crate::cancel::CancelToken;
use crate::clock::{Alarm, Clock};

/// How long to wait for the peer.
#[derive(Debug)]
pub(crate) enum Patience {
    /// As long as it takes; the token still breaks it.
    Endless,
    /// So long in all.
    Until { end: End, total: Duration },
}

/// How the end of a wait shows.
pub(crate) enum End {
    /// By the host's clock.
    At(Instant),
    /// By a clock that somebody moves: this is cancelled then.
    Rung { bell: CancelToken, _alarm: Alarm },
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(deadline) => write!(f, "{deadline:?}"),
            Self::Rung { bell, .. } => write!(f, "{bell:?}"),
        }
    }
}

impl Patience {
    /// By the host's clock.
    pub(crate) fn of(total: Duration) -> Self {
        match Instant::now().checked_add(total) {
            Some(deadline) => Self::Until {
                end: End::At(deadline),
                total,
            },
            None => Self::Endless,
        }
    }

    /// By this clock.
    pub(crate) fn by(clock: &dyn Clock, total: Duration) -> Self {
        let Ok(bell) = CancelToken::new() else {
            return Self::of(total);
        };
        let rung = bell.clone();
        let ring = Box::new(move || {
            rung.cancel();
        });
        match clock.alarm(clock.now().saturating_add(total), ring) {
            Some(alarm) => Self::Until {
                end: End::Rung {
                    bell,
                    _alarm: alarm,
                },
                total,
            },
            None => Self::of(total),
        }
    }

    /// What is left of it for a poll.
    pub(super) fn left(&self) -> Result<Option<Timespec>, ChannelError> {
        match self {
            Self::Endless => Ok(None),
            Self::Until { end, total } => {
                let left = match end {
                    End::At(deadline) => deadline.saturating_duration_since(Instant::now()),
                    End::Rung { bell, .. } if !bell.is_cancelled() => return Ok(None),
                    End::Rung { .. } => Duration::ZERO,
                };
                if left.is_zero() {
                    return Err(ChannelError::TimedOut(*total));
                }
                Ok(Some(timespec(left)))
            }
        }
    }

    /// What a poll has to wait for beside its time; it is over then.
    pub(super) fn bell(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Until {
                end: End::Rung { bell, .. },
                ..
            } => Some(bell.as_fd()),
            _ => None,
        }
    }
}
