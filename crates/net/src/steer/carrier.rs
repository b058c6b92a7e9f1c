//! Whether the wire behind a VF is there, as the host sees it: the kernel tells of each change, nothing is polled.
//!
//! A VF has the link of its PF, unless an operator has set it up or down for good (`ip link set PF vf N state …`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::route::Route;

/// `RTNLGRP_LINK`: what happens to interfaces.
const LINK_GROUP: u32 = 1;

/// Which link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkOf {
    /// Index of the PF's interface, or of any other.
    pub interface: u32,
    /// The VF's number on it; none for the interface itself.
    pub vf: Option<u32>,
}

/// The thread that looks. Dropping it ends it.
#[derive(Debug)]
pub struct LinkWatch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl LinkWatch {
    /// Begins to look. `tell` is called on a thread of its own: once with whether it is up, and then at each change. It must
    /// not drop the watch. An interface that is not there (any more) counts as up, and is told last.
    ///
    /// # Errors
    /// No socket or thread to be had.
    pub fn start(link: LinkOf, tell: impl Fn(bool) + Send + 'static) -> io::Result<Self> {
        // Before the first look: what changes after it is told.
        let mut news = Socket::new(NETLINK_ROUTE)?;
        news.bind(&SocketAddr::new(0, 0))?;
        news.add_membership(LINK_GROUP)?;
        news.set_non_blocking(true)?;
        let mut route = Route::open()?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || {
                let mut up = None;
                loop {
                    match route.is_up(link) {
                        Ok(now) if Some(now) == up => {}
                        Ok(now) => {
                            up = Some(now);
                            tell(now);
                        }
                        Err(error) => {
                            tracing::debug!(?link, %error, "the link is no longer watched");
                            // Of an interface that is gone nothing is known.
                            return tell(true);
                        }
                    }
                    if !wait(&news, &stopped) {
                        return;
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        // It can fail for want of room in a counter only.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for news of any interface; `false` when it is to end. What the news say is asked for: they may be lost where there
/// are many.
fn wait(news: &Socket, stop: &OwnedFd) -> bool {
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        let mut fds = [
            PollFd::new(news, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return false,
            Ok(_) => {}
        }
        let [of_news, of_stop] = &fds;
        if !of_stop.revents().is_empty() {
            return false;
        }
        if of_news.revents().is_empty() {
            continue;
        }
        // All there is; an overrun is news too.
        loop {
            buffer.clear();
            match news.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return false,
            }
        }
    }
}
