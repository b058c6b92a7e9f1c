//! Channels: what a stream travels through.
//!
//! Every descriptor is non-blocking, and every wait also waits for a [`CancelToken`]: cancelling breaks a read or write that is
//! stuck on the peer at once, whatever kind of channel it is. Sockets have a way back; pipes and files have none.

mod address;
mod connect;
mod exec;
pub(crate) mod iov;
mod listen;
mod patience;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use memory::HostSpan;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt;

pub use address::{Address, AddressError};
pub use connect::connect;
pub use listen::{Listener, ListeningAt};
pub(crate) use patience::Patience;

use crate::cancel::CancelToken;
use crate::clock::Clock;
use exec::Running;
use iov::Piece;

/// A peer that answers nothing for this long, while it should, is taken for dead (TCP).
const DEAD_PEER_MS: u32 = 30_000;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;

/// Why a channel could not be had, or no longer carries anything.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No connection.
    #[error("Failed to connect to '{to}': {why}")]
    Connect {
        /// Host and port, or the path.
        to: String,
        /// The system's reason.
        why: String,
    },
    /// Not listening.
    #[error("Failed to listen on '{on}': {why}")]
    Listen {
        /// Host and port, or the path.
        on: String,
        /// The system's reason.
        why: String,
    },
    /// A file that cannot be opened.
    #[error("Could not {what} '{path}': {why}")]
    Open {
        /// What was to be done with it: "open", "create".
        what: &'static str,
        /// The file.
        path: String,
        /// The system's reason.
        why: String,
    },
    /// A command that cannot be run, or did not end well.
    #[error("migration command '{command}' {why}")]
    Command {
        /// The command.
        command: String,
        /// What happened.
        why: String,
    },
    /// No descriptor of that name.
    #[error("File descriptor named '{0}' has not been found")]
    NoSuchFd(String),
    /// The peer is gone: end of file where more was due.
    #[error("the connection was closed by the other side")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// Nothing came in time.
    #[error("no answer from the other side within {0:?}")]
    TimedOut(Duration),
    /// Nothing that was sent was taken for so long.
    #[error("the other side has taken nothing for {0:?}")]
    Stalled(Duration),
    /// The operation was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// The system's sentence alone, without Rust's "(os error N)".
pub(crate) fn sentence(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Socket,
    Pipe,
    File,
}

/// An open channel.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    kind: Kind,
    command: Option<Running>,
}

impl Channel {
    /// Takes a descriptor of any kind: a socket becomes a channel with a way back, anything else one without.
    ///
    /// # Errors
    /// When the descriptor cannot be examined.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => Kind::Socket,
            FileType::RegularFile => Kind::File,
            _ => Kind::Pipe,
        };
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        if kind == Kind::Socket {
            tune(&fd);
        }
        Ok(Self {
            fd,
            kind,
            command: None,
        })
    }

    fn of_command(fd: OwnedFd, command: Running) -> io::Result<Self> {
        let mut channel = Self::from_fd(fd)?;
        channel.command = Some(command);
        Ok(channel)
    }

    /// Whether the other side can answer.
    #[must_use]
    pub fn is_bidirectional(&self) -> bool {
        self.kind == Kind::Socket
    }

    /// Whether it goes one way, to a process that may act on what it gets at once.
    pub(crate) fn is_pipe(&self) -> bool {
        self.kind == Kind::Pipe
    }

    /// Waits until one of `events` can be had, or the channel is broken.
    fn ready(
        &self,
        events: PollFlags,
        cancel: &CancelToken,
        patience: &Patience,
    ) -> Result<PollFlags, ChannelError> {
        loop {
            let timeout = patience.left()?;
            let mut fds = vec![
                PollFd::new(&self.fd, events),
                PollFd::new(cancel, PollFlags::IN),
            ];
            let bell = patience.bell();
            fds.extend(bell.iter().map(|bell| PollFd::new(bell, PollFlags::IN)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(ChannelError::Lost(sentence(&errno.into()))),
            }
            if cancel.is_cancelled() {
                return Err(ChannelError::Cancelled);
            }
            let revents = fds.first().map_or(PollFlags::empty(), PollFd::revents);
            if !revents.is_empty() {
                return Ok(revents);
            }
        }
    }

    /// Writes all of `pieces`. `interrupted` is asked whenever the peer has something to say while it does not take more;
    /// it may end the writing with an error. With `stall` the peer may take nothing for so long at most.
    pub(crate) fn write_all(
        &self,
        mut pieces: &mut [Piece<'_>],
        cancel: &CancelToken,
        stall: Option<(Duration, &dyn Clock)>,
        interrupted: &mut dyn FnMut(&Self) -> Result<(), ChannelError>,
    ) -> Result<(), ChannelError> {
        if cancel.is_cancelled() {
            return Err(ChannelError::Cancelled);
        }
        let mut listen = self.is_bidirectional();
        while !pieces.is_empty() {
            match iov::write(self.fd.as_fd(), self.kind == Kind::Socket, pieces) {
                Ok(0) if pieces.iter().all(|piece| piece.len() == 0) => break,
                Ok(0) => return Err(ChannelError::Closed),
                Ok(count) => {
                    pieces = iov::advance(pieces, count);
                    if cancel.is_cancelled() {
                        return Err(ChannelError::Cancelled);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut events = PollFlags::OUT;
                    if listen {
                        events |= PollFlags::IN;
                    }
                    let patience = stall.map_or(Patience::Endless, |(stall, clock)| {
                        Patience::by(clock, stall)
                    });
                    let ready = match self.ready(events, cancel, &patience) {
                        Err(ChannelError::TimedOut(total)) => {
                            return Err(ChannelError::Stalled(total));
                        }
                        ready => ready?,
                    };
                    if listen && ready.contains(PollFlags::IN) {
                        interrupted(self)?;
                        // What it said was not the end: do not spin on input nobody reads.
                        listen = false;
                    }
                }
                Err(error) => {
                    if self.is_bidirectional() {
                        interrupted(self)?;
                    }
                    return Err(ChannelError::Lost(sentence(&error)));
                }
            }
        }
        Ok(())
    }

    /// Reads at least a byte into `buffer`; 0 means that the peer closed.
    fn read_some(
        &self,
        cancel: &CancelToken,
        patience: &Patience,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Result<usize, ChannelError> {
        loop {
            match attempt(self.fd.as_fd()) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(PollFlags::IN, cancel, patience)?;
                }
                Err(error) => return Err(ChannelError::Lost(sentence(&error))),
            }
            if cancel.is_cancelled() {
                return Err(ChannelError::Cancelled);
            }
        }
    }

    /// Fills `buffer`; says how many bytes came for it, which are fewer only when the peer closed.
    pub(crate) fn fill(
        &self,
        buffer: &mut [u8],
        cancel: &CancelToken,
        patience: &Patience,
    ) -> Result<usize, ChannelError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let count =
                self.read_some(cancel, patience, |fd| Ok(rustix::io::read(fd, &mut *rest)?))?;
            if count == 0 {
                break;
            }
            filled += count;
        }
        Ok(filled)
    }

    /// The same for guest pages.
    pub(crate) fn fill_guest(
        &self,
        span: HostSpan<'_>,
        cancel: &CancelToken,
    ) -> Result<usize, ChannelError> {
        let mut filled = 0;
        while filled < span.len_bytes() {
            let count = self.read_some(cancel, &Patience::Endless, |fd| {
                iov::read_guest(fd, span, filled)
            })?;
            if count == 0 {
                break;
            }
            filled += count;
            if cancel.is_cancelled() {
                return Err(ChannelError::Cancelled);
            }
        }
        Ok(filled)
    }

    /// Waits for `event`. [`ChannelError::Closed`] when before that the peer says something or goes away, which it has no
    /// reason to while nothing is sent.
    pub(crate) fn wait_for(
        &self,
        event: &CancelToken,
        cancel: &CancelToken,
    ) -> Result<(), ChannelError> {
        let events = match self.kind {
            Kind::Socket => PollFlags::IN | PollFlags::RDHUP,
            // The far end of a pipe going away shows as an error, which needs no asking for.
            Kind::Pipe | Kind::File => PollFlags::empty(),
        };
        loop {
            let mut fds = [
                PollFd::new(event, PollFlags::IN),
                PollFd::new(cancel, PollFlags::IN),
                PollFd::new(&self.fd, events),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(ChannelError::Lost(sentence(&errno.into()))),
            }
            let broken = !fds[2].revents().is_empty();
            if cancel.is_cancelled() {
                return Err(ChannelError::Cancelled);
            }
            if event.is_cancelled() {
                return Ok(());
            }
            if broken {
                return Err(ChannelError::Closed);
            }
        }
    }

    /// One attempt at writing a last word, without waiting. The peer may or may not get it.
    pub(crate) fn try_write(&self, bytes: &[u8]) {
        let _ = iov::write(
            self.fd.as_fd(),
            self.kind == Kind::Socket,
            &[Piece::bytes(bytes)],
        );
    }

    /// Ends a one-way stream: a file is on the disk, a command has taken everything and ended well.
    pub(crate) fn finish(
        self,
        cancel: &CancelToken,
        patience: &Patience,
    ) -> Result<(), ChannelError> {
        let Self { fd, kind, command } = self;
        if kind == Kind::File {
            rustix::fs::fsync(&fd).map_err(|errno| ChannelError::Lost(sentence(&errno.into())))?;
        }
        drop(fd);
        match command {
            Some(command) => command.wait(cancel, patience),
            None => Ok(()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Finds out early that a TCP peer is gone, and sends small messages at once. Other sockets have none of it.
fn tune(fd: &OwnedFd) {
    let _ = sockopt::set_socket_keepalive(fd, true);
    let _ = sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(fd, KEEPALIVE_PROBES);
    let _ = sockopt::set_tcp_user_timeout(fd, DEAD_PEER_MS);
    let _ = sockopt::set_tcp_nodelay(fd, true);
}

/// Opens a file at an offset, for reading or (made if need be, cut off there) for writing.
fn open_file(path: &std::path::Path, offset: u64, write: bool) -> io::Result<OwnedFd> {
    let mut options = File::options();
    if write {
        options.write(true).create(true).truncate(false);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    } else {
        options.read(true);
    }
    let file = options.open(path)?;
    if write && file.metadata()?.is_file() {
        file.set_len(offset)?;
    }
    if offset != 0 {
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(offset))?;
    }
    Ok(file.into())
}
