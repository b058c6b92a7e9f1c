//! A thread that serves queues: it sleeps on an epoll and stops at a request boundary.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How others reach a worker. Outlives the thread, so that nobody needs a lock to call it.
pub(crate) struct Bell {
    stopping: AtomicBool,
    wake: EventFd,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            stopping: AtomicBool::new(false),
            wake: eventfd()?,
        })
    }

    /// Makes the worker look at what changed.
    pub(crate) fn ring(&self) {
        // A counter that is full is signalled already.
        let _ = self.wake.write(1);
    }

    /// Whether the worker shall end.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// A non-blocking eventfd.
pub(crate) fn eventfd() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

/// A running thread that will hand back a `T`.
pub(crate) struct Worker<T> {
    bell: Arc<Bell>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread that watches `bell` and runs `body` until the bell says stop.
    pub(crate) fn spawn(
        name: String,
        bell: &Arc<Bell>,
        body: impl FnOnce(&Bell) -> T + Send + 'static,
    ) -> io::Result<Self> {
        bell.stopping.store(false, Ordering::Release);
        let bell = Arc::clone(bell);
        let theirs = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || body(&theirs))?;
        Ok(Self { bell, thread })
    }

    /// Tells the thread to stop, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        self.bell.stopping.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Waits for the thread; `None` if it panicked.
    pub(crate) fn join(self) -> Option<T> {
        self.ask_to_stop();
        self.thread.join().ok()
    }
}

/// What a worker sleeps on. Edge-triggered: counters are never read and a source is drained until it is empty, which
/// saves system calls.
pub(crate) struct Sleep {
    epoll: Epoll,
    events: [EpollEvent; 8],
}

/// Token of a worker's own [`Bell`].
pub(crate) const BELL: u64 = u64::MAX;

impl Sleep {
    pub(crate) fn new(bell: &Bell) -> io::Result<Self> {
        let sleep = Self {
            epoll: Epoll::new()?,
            events: [EpollEvent::default(); 8],
        };
        sleep.control(
            ControlOperation::Add,
            bell.wake.as_raw_fd(),
            EventSet::IN,
            BELL,
        )?;
        Ok(sleep)
    }

    fn control(
        &self,
        operation: ControlOperation,
        fd: i32,
        events: EventSet,
        token: u64,
    ) -> io::Result<()> {
        self.epoll.ctl(
            operation,
            fd,
            EpollEvent::new(events | EventSet::EDGE_TRIGGERED, token),
        )
    }

    pub(crate) fn add_eventfd(&self, fd: &EventFd, token: u64) -> io::Result<()> {
        self.control(ControlOperation::Add, fd.as_raw_fd(), EventSet::IN, token)
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.control(ControlOperation::Add, fd.as_raw_fd(), EventSet::IN, token)
    }

    /// No longer to be woken by `fd`.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(
            ControlOperation::Delete,
            fd.as_raw_fd(),
            EventSet::empty(),
            0,
        )
    }

    /// No longer to be woken by `fd`.
    pub(crate) fn remove_eventfd(&self, fd: &EventFd) -> io::Result<()> {
        self.control(
            ControlOperation::Delete,
            fd.as_raw_fd(),
            EventSet::empty(),
            0,
        )
    }

    /// Whether to be woken also when `fd` becomes writable. Looks at its state anew.
    pub(crate) fn set_writable(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        wanted: bool,
    ) -> io::Result<()> {
        let events = if wanted {
            EventSet::IN | EventSet::OUT
        } else {
            EventSet::IN
        };
        self.control(ControlOperation::Modify, fd.as_raw_fd(), events, token)
    }

    /// Sleeps until something happens, at most so long; `None`: however long. Returns token and kind of each event.
    pub(crate) fn wait(
        &mut self,
        at_most: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = (u64, EventSet)> + '_> {
        // Rounded up, so as not to spin through the last millisecond.
        let timeout = at_most.map_or(-1, |time| {
            i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        let count = match self.epoll.wait(timeout, &mut self.events) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        Ok(self
            .events
            .iter()
            .take(count)
            .map(|event| (event.data(), event.event_set())))
    }
}
