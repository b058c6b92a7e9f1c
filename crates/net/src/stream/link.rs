//! How a stream comes about, ends and comes about again: the netdev's thread.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, accept_with, connect, getpeername,
    getsockname, sockopt,
};

use super::connection::{Connection, report};
use super::{Status, StreamAddress, family_of, new_socket};
use crate::wire::FRAME_BYTES_MAX;

/// Frames thrown away while nobody is connected before the thread looks at the rest of the world again.
const DISCARDS_PER_TURN: usize = 256;

/// How long a listener rests that the host did not let accept.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What a stream is made from, again and again.
enum Source {
    Listener(OwnedFd),
    Peer {
        address: StreamAddress,
        reconnect: Option<Duration>,
        /// Which of the addresses is next.
        next: usize,
    },
    /// A connection that somebody else made.
    Once,
}

enum State {
    /// Nothing to do, or nothing before that moment.
    Idle(Option<Instant>),
    Listening,
    Connecting(OwnedFd),
    Connected(Box<Connection>),
}

pub(super) struct Link {
    source: Source,
    state: State,
    status: String,
}

impl Link {
    pub(super) fn listening(listener: OwnedFd) -> Self {
        // One that was handed over may block.
        let _ = rustix::io::ioctl_fionbio(&listener, true);
        Self {
            source: Source::Listener(listener),
            state: State::Listening,
            status: "listening".to_owned(),
        }
    }

    pub(super) fn connecting(address: StreamAddress, reconnect: Option<Duration>) -> Self {
        Self {
            source: Source::Peer {
                address,
                reconnect,
                next: 0,
            },
            state: State::Idle(Some(Instant::now())),
            status: "connecting".to_owned(),
        }
    }

    pub(super) fn connected(socket: OwnedFd, description: String) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            source: Source::Once,
            state: State::Connected(Box::new(Connection::new(socket))),
            status: description,
        })
    }

    pub(super) fn runner(
        self,
        wire: OwnedFd,
        stop: Arc<OwnedFd>,
        status: Status,
        prefix: &'static str,
    ) -> Runner {
        let runner = Runner {
            source: self.source,
            state: self.state,
            wire,
            stop,
            status,
            prefix,
            scratch: vec![0; FRAME_BYTES_MAX],
        };
        runner.tell(&self.status);
        runner
    }
}

/// The thread.
pub(super) struct Runner {
    source: Source,
    state: State,
    wire: OwnedFd,
    stop: Arc<OwnedFd>,
    status: Status,
    prefix: &'static str,
    scratch: Vec<u8>,
}

/// What poll found.
#[derive(Clone, Copy)]
struct Ready {
    wire: PollFlags,
    socket: PollFlags,
}

impl Runner {
    fn tell(&self, status: &str) {
        let mut text = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        *text = format!("{}{status}", self.prefix);
    }

    /// Carries frames until it is told to stop.
    pub(super) fn run(mut self) {
        loop {
            if let State::Idle(Some(due)) = self.state
                && due <= Instant::now()
            {
                self.begin();
            }
            match self.wait() {
                Ok(Some(ready)) => self.turn(ready),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "a stream netdev ends: the host cannot tell of its sockets");
                    self.tell(&format!("error: {error}"));
                    return;
                }
            }
        }
    }

    /// What it is that the state waits for, besides the order to stop.
    fn wait(&self) -> rustix::io::Result<Option<Ready>> {
        let none = PollFlags::empty();
        let (wire, socket) = match &self.state {
            State::Idle(_) => (PollFlags::IN, None),
            State::Listening => match &self.source {
                Source::Listener(listener) => {
                    (PollFlags::IN, Some((listener.as_fd(), PollFlags::IN)))
                }
                _ => (PollFlags::IN, None),
            },
            State::Connecting(socket) => (PollFlags::IN, Some((socket.as_fd(), PollFlags::OUT))),
            State::Connected(connection) => {
                let (wire, mut socket) = match (connection.socket_full(), connection.wire_full) {
                    (false, false) => (PollFlags::IN, PollFlags::IN),
                    (false, true) => (PollFlags::IN | PollFlags::OUT, none),
                    (true, false) => (none, PollFlags::IN),
                    (true, true) => (PollFlags::OUT, none),
                };
                if connection.socket_full() {
                    socket |= PollFlags::OUT;
                }
                (wire, Some((connection.socket(), socket)))
            }
        };
        let mut set = vec![
            PollFd::new(&*self.stop, PollFlags::IN),
            PollFd::new(&self.wire, wire),
        ];
        // Without a wish for it a peer that hung up would be told of again and again.
        if let Some((fd, flags)) = socket.filter(|(_, flags)| !flags.is_empty()) {
            set.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let limit = match self.state {
            State::Idle(Some(due)) => {
                let left = due.saturating_duration_since(Instant::now());
                Timespec::try_from(left.max(Duration::from_millis(1))).ok()
            }
            _ => None,
        };
        match poll(&mut set, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let found = |at: usize| set.get(at).map_or(none, PollFd::revents);
        Ok(found(0).is_empty().then(|| Ready {
            wire: found(1),
            socket: found(2),
        }))
    }

    fn turn(&mut self, ready: Ready) {
        let State::Connected(connection) = &mut self.state else {
            if !ready.wire.is_empty() {
                self.discard();
            }
            if !ready.socket.is_empty() {
                self.advance();
            }
            return;
        };
        let wire = self.wire.as_fd();
        let mut outcome = Ok(());
        if connection.socket_full() {
            if ready
                .socket
                .intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR)
            {
                outcome = connection.flush();
            }
        } else if ready.wire.contains(PollFlags::IN) {
            outcome = connection.send(wire);
        }
        if outcome.is_ok() {
            if connection.wire_full {
                if ready.wire.contains(PollFlags::OUT) {
                    outcome = connection.deliver(wire);
                }
            } else if ready
                .socket
                .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            {
                outcome = connection.receive(wire);
            }
        }
        if let Err(ended) = outcome {
            let name = std::thread::current().name().unwrap_or("net").to_owned();
            report(&name, &ended);
            self.over(&format!("error: {ended}"));
        }
    }

    /// Throws away what the guest sends: nobody is connected.
    fn discard(&mut self) {
        for _ in 0..DISCARDS_PER_TURN {
            if rustix::io::read(&self.wire, &mut self.scratch).is_err() {
                break;
            }
        }
    }

    /// A connection ended, or could not be made.
    fn over(&mut self, why: &str) {
        match &mut self.source {
            Source::Listener(_) => {
                self.state = State::Listening;
                self.tell("listening");
            }
            Source::Peer {
                reconnect: Some(after),
                next,
                ..
            } => {
                *next = 0;
                self.state = State::Idle(Some(Instant::now() + *after));
                self.tell("connecting");
            }
            Source::Peer { .. } | Source::Once => {
                self.state = State::Idle(None);
                self.tell(why);
            }
        }
    }

    /// Listens again, or starts connecting to the next address.
    fn begin(&mut self) {
        let Source::Peer { address, next, .. } = &mut self.source else {
            self.state = State::Listening;
            return;
        };
        let started = start(address, *next);
        *next += 1;
        match started {
            Ok(Started::Underway(socket)) => self.state = State::Connecting(socket),
            Ok(Started::Done(socket)) => self.connected(socket),
            Err(error) => self.not_connected(error),
        }
    }

    fn not_connected(&mut self, error: io::Error) {
        let Source::Peer { address, next, .. } = &self.source else {
            return;
        };
        let more = match address {
            StreamAddress::Inet(addresses) => *next < addresses.len(),
            StreamAddress::Unix(_) => false,
        };
        if more {
            self.state = State::Idle(Some(Instant::now()));
            return;
        }
        let name = address_name(address);
        tracing::debug!(%error, peer = name, "not connected");
        let reason = match error.raw_os_error() {
            Some(code) => Errno::from_raw_os_error(code).to_string(),
            None => error.to_string(),
        };
        self.over(&format!(
            "error: Failed to connect to '{name}': {}",
            plain(&reason)
        ));
    }

    /// The listener has a peer, or the connection that was begun is there or failed.
    fn advance(&mut self) {
        match std::mem::replace(&mut self.state, State::Listening) {
            State::Listening => {
                let Source::Listener(listener) = &self.source else {
                    return;
                };
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                match accept_with(listener, flags) {
                    Ok(socket) => self.connected(socket),
                    // It was gone again.
                    Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a peer that connects is not accepted");
                        self.state = State::Idle(Some(Instant::now() + ACCEPT_AGAIN));
                    }
                }
            }
            State::Connecting(socket) => match sockopt::socket_error(&socket) {
                Ok(Ok(())) => self.connected(socket),
                Ok(Err(error)) | Err(error) => self.not_connected(error.into()),
            },
            other => self.state = other,
        }
    }

    fn connected(&mut self, socket: OwnedFd) {
        // Frames are not to wait for more of them; a Unix socket knows no such option.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let mut status = String::new();
        if !self.prefix.is_empty() {
            let words = match &self.source {
                Source::Listener(_) => "connection from ",
                _ => "connect to ",
            };
            status.push_str(words);
            // Only IP has the older syntax.
            let _ = write!(status, "{}", peer_name(&socket).trim_start_matches("tcp:"));
        } else {
            status = peer_name(&socket);
        }
        tracing::info!(peer = peer_name(&socket), "stream connected");
        self.tell(&status);
        self.state = State::Connected(Box::new(Connection::new(socket)));
    }
}

enum Started {
    Done(OwnedFd),
    Underway(OwnedFd),
}

fn start(address: &StreamAddress, which: usize) -> io::Result<Started> {
    let (socket, begun) = match address {
        StreamAddress::Inet(addresses) => {
            let address = addresses
                .get(which)
                .ok_or(io::ErrorKind::AddrNotAvailable)?;
            let socket = new_socket(family_of(address))?;
            let begun = connect(&socket, address);
            (socket, begun)
        }
        StreamAddress::Unix(path) => {
            let socket = new_socket(AddressFamily::UNIX)?;
            let begun = connect(&socket, &SocketAddrUnix::new(path)?);
            (socket, begun)
        }
    };
    match begun {
        Ok(()) => Ok(Started::Done(socket)),
        Err(Errno::INPROGRESS) => Ok(Started::Underway(socket)),
        Err(error) => Err(error.into()),
    }
}

/// A system's message without the number that Rust adds.
fn plain(message: &str) -> &str {
    message.split(" (os error").next().unwrap_or(message)
}

fn address_name(address: &StreamAddress) -> String {
    match address {
        StreamAddress::Inet(addresses) => addresses
            .first()
            .map_or_else(String::new, SocketAddr::to_string),
        StreamAddress::Unix(path) => path.display().to_string(),
    }
}

/// The other end of a connected socket: `tcp:127.0.0.1:4711`, `unix:/run/x`.
pub(super) fn peer_name(socket: &OwnedFd) -> String {
    let name = |address: Option<SocketAddrAny>| {
        let address = address?;
        if let Ok(inet) = SocketAddr::try_from(address.clone()) {
            return Some(format!("tcp:{inet}"));
        }
        let unix = SocketAddrUnix::try_from(address).ok()?;
        let path = unix.path_bytes().unwrap_or(&[]);
        Some(format!("unix:{}", String::from_utf8_lossy(path)))
    };
    let fd: BorrowedFd<'_> = socket.as_fd();
    let peer = getpeername(fd).ok().flatten();
    match name(peer) {
        // Who accepts a Unix connection knows its own path only.
        Some(peer) if peer == "unix:" => name(getsockname(fd).ok()).unwrap_or(peer),
        Some(peer) => peer,
        None => "unknown".to_owned(),
    }
}
