//! What one client is still to be sent, in order: answers and events in one queue, so that their order is the order in which the
//! machine gave them.
//!
//! Whoever puts something in never waits: the machine must not stand still because a client does not read. What grows without bound
//! instead would be memory, so events beyond [`MAX_PENDING_BYTES`] end the connection; answers are bounded by the client's own
//! commands, since the next one is not executed while more than [`COMMAND_PENDING_BYTES`] wait.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// With more than this waiting, an event ends the connection.
pub const MAX_PENDING_BYTES: usize = 4 << 20;
/// With more than this waiting, the client's next command waits too.
pub const COMMAND_PENDING_BYTES: usize = 1 << 20;

#[derive(Default)]
struct State {
    lines: VecDeque<Arc<[u8]>>,
    pending_bytes: usize,
    /// Capabilities are negotiated: events are wanted.
    listening: bool,
    /// No more is sent, what waits is thrown away.
    closed: bool,
    /// What waits is sent, then no more.
    finishing: bool,
    /// Requests that were read and not yet taken up.
    requests: usize,
    /// A command is being executed out of band.
    out_of_band: bool,
}

/// The queue of one client.
pub(crate) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
    /// Readable once the connection is to end: wakes whoever polls the client's descriptor.
    hangup: OwnedFd,
    /// Readable once all commands were answered: wakes the reader, which may have nothing else to wait for.
    session_over: OwnedFd,
}

impl Outbox {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            hangup: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            session_over: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an answer, or any text, in.
    pub(crate) fn push(&self, line: Vec<u8>) {
        self.push_locked(&mut self.lock(), line.into());
    }

    /// Puts the answer that ends the negotiation in: events come from here on.
    pub(crate) fn push_and_listen(&self, line: Vec<u8>) {
        let mut state = self.lock();
        self.push_locked(&mut state, line.into());
        state.listening = true;
    }

    /// Puts an event in, if the client listens. Returns false when there are too many of them: the connection ends.
    #[must_use]
    pub(crate) fn push_event(&self, line: &Arc<[u8]>) -> bool {
        let mut state = self.lock();
        if !state.listening || state.closed {
            return true;
        }
        if state.pending_bytes.saturating_add(line.len()) > MAX_PENDING_BYTES {
            self.close_locked(&mut state);
            return false;
        }
        self.push_locked(&mut state, Arc::clone(line));
        true
    }

    fn push_locked(&self, state: &mut State, line: Arc<[u8]>) {
        if state.closed || state.finishing {
            return;
        }
        state.pending_bytes += line.len();
        state.lines.push_back(line);
        self.changed.notify_all();
    }

    /// The next to be sent; waits for it. `None`: nothing more will come.
    fn next(&self) -> Option<Arc<[u8]>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(line) = state.lines.front() {
                return Some(Arc::clone(line));
            }
            if state.finishing {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The front line was sent.
    fn sent(&self) {
        let mut state = self.lock();
        if let Some(line) = state.lines.pop_front() {
            state.pending_bytes = state.pending_bytes.saturating_sub(line.len());
        }
        self.changed.notify_all();
    }

    /// Waits until the client has read enough for another command to be executed. False: the connection is over.
    pub(crate) fn wait_for_room(&self) -> bool {
        let mut state = self.lock();
        while !state.closed && state.pending_bytes > COMMAND_PENDING_BYTES {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// Waits until fewer than `limit` of the client's requests wait, and counts one more. False: the connection is over.
    pub(crate) fn begin_request(&self, limit: usize) -> bool {
        let mut state = self.lock();
        while !state.closed && state.requests >= limit {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.requests += 1;
        !state.closed
    }

    /// One request was taken up, or answered: what the limit counts is the caller's affair.
    pub(crate) fn end_request(&self) {
        let mut state = self.lock();
        state.requests = state.requests.saturating_sub(1);
        self.changed.notify_all();
    }

    /// An out-of-band command begins, or was answered.
    pub(crate) fn set_out_of_band(&self, busy: bool) {
        self.lock().out_of_band = busy;
        self.changed.notify_all();
    }

    /// Waits until no command is executed out of band. False: the connection is over.
    pub(crate) fn wait_for_out_of_band(&self) -> bool {
        let mut state = self.lock();
        while !state.closed && state.out_of_band {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// Waits until none of the client's requests waits. False: the connection is over.
    pub(crate) fn wait_for_requests(&self) -> bool {
        let mut state = self.lock();
        while !state.closed && state.requests > 0 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// Ends the connection now.
    pub(crate) fn close(&self) {
        self.close_locked(&mut self.lock());
    }

    fn close_locked(&self, state: &mut State) {
        state.closed = true;
        state.lines.clear();
        state.pending_bytes = 0;
        self.changed.notify_all();
        // An eventfd whose counter is full is readable already.
        let _ = rustix::io::write(&self.hangup, &1_u64.to_ne_bytes());
    }

    /// All commands of a client that sends no more were answered.
    pub(crate) fn end_session(&self) {
        let _ = rustix::io::write(&self.session_over, &1_u64.to_ne_bytes());
    }

    /// Sends what waits, then ends the connection; at the latest at `deadline`.
    pub(crate) fn finish(&self, deadline: Instant) {
        let mut state = self.lock();
        state.finishing = true;
        self.changed.notify_all();
        while !state.closed && !state.lines.is_empty() {
            let Some(left) = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                break;
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        self.close_locked(&mut state);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Readable once the connection is to end.
    pub(crate) fn hangup(&self) -> BorrowedFd<'_> {
        self.hangup.as_fd()
    }

    /// Readable after [`end_session`](Self::end_session).
    pub(crate) fn session_over(&self) -> BorrowedFd<'_> {
        self.session_over.as_fd()
    }

    /// Sends until nothing more will come or the client is gone: the writer's thread.
    pub(crate) fn send_all(&self, output: BorrowedFd<'_>, is_socket: bool) {
        while let Some(line) = self.next() {
            if let Err(error) = self.send(output, is_socket, &line) {
                tracing::debug!(%error, "the monitor's client is gone");
                self.close();
                return;
            }
            self.sent();
        }
    }

    fn send(&self, output: BorrowedFd<'_>, is_socket: bool, line: &[u8]) -> io::Result<()> {
        // A pipe or terminal that poll calls writable takes this much without blocking.
        const PIPE_BYTES: usize = 4096;
        let mut rest = line;
        while !rest.is_empty() {
            let mut fds = [
                PollFd::new(&output, PollFlags::OUT),
                PollFd::new(&self.hangup, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if self.is_closed() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let sent = if is_socket {
                use rustix::net::SendFlags;
                rustix::net::send(output, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
            } else {
                rustix::io::write(output, rest.get(..PIPE_BYTES).unwrap_or(rest))
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// How long a client that has hung up, or a program that ends, waits for the rest to be sent.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
