//! Hears the vectors that somebody else signals by their descriptor: the kernel, for vhost or VFIO.
//!
//! A device of this process signals its vector by a call, which delivers at once. Only a vector whose descriptor was
//! handed out is watched; without one there is no thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Something with a descriptor that becomes readable.
pub(super) trait Watched: Send + Sync {
    /// It became readable.
    fn ready(&self);
}

type Table = Arc<Mutex<BTreeMap<u64, Weak<dyn Watched>>>>;

/// The key of the descriptor that ends the thread.
const END: u64 = 0;

pub(super) struct Watch {
    epoll: Arc<Epoll>,
    end: EventFd,
    table: Table,
    next: Mutex<u64>,
    thread: OnceLock<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let (epoll, end) = (Epoll::new()?, EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        epoll.ctl(
            ControlOperation::Add,
            end.as_raw_fd(),
            EpollEvent::new(EventSet::IN, END),
        )?;
        Ok(Self {
            epoll: Arc::new(epoll),
            end,
            table: Arc::default(),
            next: Mutex::new(END + 1),
            thread: OnceLock::new(),
        })
    }

    /// From now on `watched` hears whenever `fd` becomes readable, until either is gone.
    pub(super) fn add(&self, fd: &EventFd, watched: Weak<dyn Watched>) -> io::Result<()> {
        let key = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let key = *next;
            *next += 1;
            key
        };
        self.table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, watched);
        // Edge-triggered: a vector that is masked keeps its count, and must not keep the thread awake.
        self.epoll.ctl(
            ControlOperation::Add,
            fd.as_raw_fd(),
            EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, key),
        )?;
        if self.thread.get().is_none() {
            let (epoll, table) = (Arc::clone(&self.epoll), Arc::clone(&self.table));
            let thread = Builder::new()
                .name("qtest-msi".into())
                .spawn(move || run(&epoll, &table))?;
            if let Err(second) = self.thread.set(thread) {
                // Two vectors were handed out at once: two threads hear, and both are ended.
                drop(second);
            }
        }
        Ok(())
    }
}

fn run(epoll: &Epoll, table: &Table) {
    let mut events = [EpollEvent::default(); 16];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!(%error, "interrupts of the kernel's are not heard any more");
                return;
            }
        };
        for event in events.iter().take(count) {
            if event.data() == END {
                return;
            }
            let watched = {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                let found = table.get(&event.data()).and_then(Weak::upgrade);
                if found.is_none() {
                    table.remove(&event.data());
                }
                found
            };
            if let Some(watched) = watched {
                watched.ready();
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Not read by anyone, so that every thread sees it. The threads are not joined: the last hold on this may be
        // dropped by one of them.
        let _ = self.end.write(1);
    }
}
