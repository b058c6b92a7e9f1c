//! The monitors of a VM: each on its endpoint, with one client at a time and the others in the queue of the socket.

use crate::endpoint::OpenEndpoint;
use crate::fds::{FdSets, MonitorFds};
use crate::outbox::{LINGER, Outbox};
use crate::reply::Backend;
use crate::sink::EventSink;
use crate::stream::Stream;
use crate::types::{VersionInfo, VersionTriple};
use crate::{hmp, qmp};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Who answers: for the greeting, `query-version` and introspection.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The version of QEMU whose protocol is spoken.
    pub qemu: VersionTriple,
    /// Name and version of this program, as `Standfast 0.1.0`.
    pub package: String,
    /// The kinds of netdevs there are, for introspection of `netdev_add`.
    pub netdev_types: Vec<String>,
    /// The kinds of objects there are, for introspection of `object-add`.
    pub object_types: Vec<String>,
    /// What `device_add help` says, and `device_add DRIVER,help`; nothing of a driver that there is not.
    pub device_help: fn(Option<&str>) -> Option<String>,
}

impl Identity {
    /// `query-version`.
    pub fn version(&self) -> VersionInfo {
        VersionInfo {
            qemu: self.qemu.clone(),
            package: self.package.clone(),
        }
    }
}

/// Which language a monitor speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For programs (`-qmp`, `-mon mode=control`).
    Qmp {
        /// Answers are indented.
        pretty: bool,
    },
    /// For people (`-monitor`, `-mon mode=readline`).
    Hmp,
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) events: EventSink,
}

struct Running {
    label: String,
    thread: JoinHandle<()>,
    current: Arc<Mutex<Option<Arc<Outbox>>>>,
}

/// The monitors of a VM.
pub struct Monitors {
    shared: Arc<Shared>,
    sets: FdSets,
    stop: Arc<OwnedFd>,
    running: Vec<Running>,
}

impl Monitors {
    /// No monitors yet.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn new(
        identity: Identity,
        backend: Arc<dyn Backend>,
        events: EventSink,
    ) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                identity,
                backend,
                events,
            }),
            sets: FdSets::default(),
            stop: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            running: Vec::new(),
        })
    }

    /// The descriptor sets, shared by all monitors; `-add-fd` puts its own in.
    pub fn fd_sets(&self) -> &FdSets {
        &self.sets
    }

    /// Starts a monitor on `endpoint`, in threads of its own.
    ///
    /// # Errors
    /// The host has no threads left.
    pub fn serve(&mut self, mode: Mode, mut endpoint: OpenEndpoint) -> io::Result<()> {
        let label = endpoint.description().to_owned();
        let fds = MonitorFds::new(self.sets.clone());
        let shared = Arc::clone(&self.shared);
        let stop = Arc::clone(&self.stop);
        let current: Arc<Mutex<Option<Arc<Outbox>>>> = Arc::default();
        let slot = Arc::clone(&current);
        let name = label.clone();
        let thread = thread::Builder::new().name("monitor".to_owned()).spawn(move || {
            loop {
                let client = match endpoint.next_client(stop.as_fd()) {
                    Ok(Some(client)) => client,
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(monitor = name, %error, "a client could not be accepted");
                        if stopped_within(&stop, Duration::from_secs(1)) {
                            return;
                        }
                        continue;
                    }
                };
                tracing::debug!(monitor = name, "client connected");
                if let Err(error) = serve_client(&shared, &fds, &name, mode, client, &slot, &stop) {
                    tracing::warn!(monitor = name, %error, "a client could not be served");
                }
                tracing::debug!(monitor = name, "client disconnected");
            }
        })?;
        self.running.push(Running {
            label,
            thread,
            current,
        });
        Ok(())
    }

    /// Waits until no client can come any more: never, where a monitor listens.
    pub fn wait(&mut self) {
        self.join();
    }

    fn join(&mut self) {
        for monitor in self.running.drain(..) {
            if monitor.thread.join().is_err() {
                tracing::error!(monitor = monitor.label, "the monitor's thread panicked");
            }
        }
    }

    /// Ends all monitors: sends what waits for their clients (the answer to `quit`, SHUTDOWN), for at most `grace`, disconnects them,
    /// and removes the sockets.
    pub fn close(&mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        // The outboxes first: stopped readers end their sessions.
        for monitor in &self.running {
            let outbox = monitor
                .current
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(outbox) = outbox {
                outbox.finish(deadline);
            }
        }
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        self.join();
    }
}

impl Drop for Monitors {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

fn stopped_within(stop: &OwnedFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(stop, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let _ = poll(&mut fds, Some(&timeout));
    !fds[0].revents().is_empty()
}

fn serve_client(
    shared: &Arc<Shared>,
    fds: &MonitorFds,
    label: &str,
    mode: Mode,
    client: Stream,
    current: &Mutex<Option<Arc<Outbox>>>,
    stop: &OwnedFd,
) -> io::Result<()> {
    let client = Arc::new(client);
    let outbox = Outbox::new()?;
    *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&outbox));
    let writer = {
        let (client, outbox) = (Arc::clone(&client), Arc::clone(&outbox));
        thread::Builder::new()
            .name("monitor-write".to_owned())
            .spawn(move || outbox.send_all(client.output(), client.is_socket()))?
    };
    let served = match mode {
        Mode::Qmp { pretty } => {
            qmp::serve(shared, fds, label, pretty, &client, &outbox, stop.as_fd())
        }
        Mode::Hmp => hmp::serve(shared, fds, label, &client, &outbox, stop.as_fd()),
    };
    outbox.finish(
        Instant::now()
            + if served.is_ok() {
                LINGER
            } else {
                Duration::ZERO
            },
    );
    *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    client.shutdown();
    if writer.join().is_err() {
        tracing::error!(monitor = label, "the monitor's writer panicked");
    }
    served
}
