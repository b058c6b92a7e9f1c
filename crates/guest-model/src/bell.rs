//! What wakes a test: rung by whatever may have changed something, waited for together with sockets.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A bell; its clones are the same bell. It is heard once, however often it was rung meanwhile.
#[derive(Debug, Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// A bell that was not rung.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(event)))
    }

    /// Rings it; never blocks.
    pub fn ring(&self) {
        // A count that is full says that it was rung.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Whether it was rung since it was last heard.
    pub fn heard(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }

    /// Waits until it is rung or one of `sources` can be read, at most `limit`. Whether something of it came; the
    /// ring is heard by then.
    ///
    /// # Errors
    /// A descriptor cannot be waited for.
    pub fn wait(&self, sources: &[BorrowedFd<'_>], limit: Duration) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.0, PollFlags::IN)];
        fds.extend(
            sources
                .iter()
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        let came = ready(&mut fds, limit)?;
        // Only then: a ring that comes after the look, to who is told that nothing came, is for the next one.
        if came {
            self.heard();
        }
        Ok(came)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for one of `fds`, at most `limit`.
pub(crate) fn ready(fds: &mut [PollFd<'_>], limit: Duration) -> io::Result<bool> {
    let limit = Timespec {
        tv_sec: limit.as_secs().min(i64::MAX as u64) as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    match poll(fds, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether `fd` can be read, after at most `limit`.
pub(crate) fn readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    ready(&mut [PollFd::new(&fd, PollFlags::IN)], limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_is_heard_once_and_wakes_who_waits() {
        let bell = Bell::new().unwrap();
        assert!(!bell.heard());
        assert!(!bell.wait(&[], Duration::ZERO).unwrap());
        bell.ring();
        bell.ring();
        assert!(bell.heard() && !bell.heard());
        let far = bell.clone();
        let ringer = std::thread::spawn(move || far.ring());
        assert!(bell.wait(&[], Duration::from_secs(60)).unwrap());
        ringer.join().unwrap();
        let other = Bell::new().unwrap();
        other.ring();
        assert!(
            bell.wait(&[other.as_fd()], Duration::from_secs(60))
                .unwrap()
        );
    }

    #[test]
    fn no_ring_is_lost_between_two_looks() {
        use std::sync::atomic::{AtomicU64, Ordering};
        const RINGS: u64 = 20_000;
        let (there, back) = (Bell::new().unwrap(), Bell::new().unwrap());
        let (asked, answered) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let far = {
            let (there, back) = (there.clone(), back.clone());
            let (asked, answered) = (Arc::clone(&asked), Arc::clone(&answered));
            std::thread::spawn(move || {
                for number in 1..=RINGS {
                    while asked.load(Ordering::SeqCst) < number {
                        there.wait(&[], Duration::from_secs(60)).unwrap();
                    }
                    answered.store(number, Ordering::SeqCst);
                    back.ring();
                }
            })
        };
        for number in 1..=RINGS {
            asked.store(number, Ordering::SeqCst);
            there.ring();
            // A look in passing, then the wait, as who has something else to do meanwhile.
            while answered.load(Ordering::SeqCst) < number {
                let came = back.wait(&[], Duration::ZERO).unwrap()
                    || back.wait(&[], Duration::from_secs(60)).unwrap();
                assert!(came, "ring {number} was lost");
            }
        }
        far.join().unwrap();
    }
}
