//! A connected stream: frames cut out of bytes, and put into bytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::wire::FRAME_BYTES_MAX;

/// Bytes of a frame's length before it.
const LENGTH_BYTES: usize = 4;

/// Frames that go out with one system call, as long as they are short.
const BATCH_BYTES: usize = 16 * 1024;

/// Why a connection is over, in words for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer announced a frame of {0} bytes, more than {FRAME_BYTES_MAX}")]
    Oversized(usize),
    #[error("{0}")]
    Failed(#[from] Errno),
}

/// Bytes on their way, from one end of a buffer of fixed size.
#[derive(Debug)]
struct Pending {
    bytes: Vec<u8>,
    done: usize,
}

impl Pending {
    fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(LENGTH_BYTES + FRAME_BYTES_MAX + BATCH_BYTES),
            done: 0,
        }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.done..).unwrap_or(&[])
    }

    fn is_empty(&self) -> bool {
        self.done >= self.bytes.len()
    }

    fn advance(&mut self, count: usize) {
        self.done += count;
        if self.is_empty() {
            self.bytes.clear();
            self.done = 0;
        }
    }

    /// Moves what is left to the front, so that there is room behind it.
    fn compact(&mut self) {
        self.bytes.drain(..self.done.min(self.bytes.len()));
        self.done = 0;
    }
}

/// A connected socket, and at most a frame and a batch in each direction.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    inward: Pending,
    outward: Pending,
    frame: Vec<u8>,
    /// A frame has come for which the wire has no room.
    pub(super) wire_full: bool,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            inward: Pending::new(),
            outward: Pending::new(),
            frame: vec![0; FRAME_BYTES_MAX],
            wire_full: false,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Bytes wait for the peer to take them.
    pub(super) fn socket_full(&self) -> bool {
        !self.outward.is_empty()
    }

    /// Takes frames from the wire and gives them to the peer, once, as far as it takes them.
    pub(super) fn send(&mut self, wire: BorrowedFd<'_>) -> Result<(), Ended> {
        while self.outward.bytes.len() < BATCH_BYTES {
            match rustix::io::read(wire, &mut self.frame) {
                Ok(count) => {
                    let frame = self.frame.get(..count).unwrap_or(&[]);
                    let length = u32::try_from(frame.len()).unwrap_or(0).to_be_bytes();
                    self.outward.bytes.extend_from_slice(&length);
                    self.outward.bytes.extend_from_slice(frame);
                    if count == 0 {
                        break;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.flush()
    }

    /// Gives the peer what waits, as far as it takes it.
    pub(super) fn flush(&mut self) -> Result<(), Ended> {
        while !self.outward.is_empty() {
            match rustix::io::write(&self.socket, self.outward.rest()) {
                Ok(count) => self.outward.advance(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes bytes from the peer, once, and gives the wire the frames in them.
    pub(super) fn receive(&mut self, wire: BorrowedFd<'_>) -> Result<(), Ended> {
        self.inward.compact();
        let have = self.inward.bytes.len();
        let room = self.inward.bytes.capacity();
        self.inward.bytes.resize(room, 0);
        let into = self.inward.bytes.get_mut(have..).unwrap_or(&mut []);
        let count = rustix::io::read(&self.socket, into);
        self.inward
            .bytes
            .truncate(have + *count.as_ref().unwrap_or(&0));
        match count {
            Ok(0) => Err(Ended::Closed),
            Ok(_) => self.deliver(wire),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the wire the whole frames that have come, as far as it has room.
    pub(super) fn deliver(&mut self, wire: BorrowedFd<'_>) -> Result<(), Ended> {
        self.wire_full = false;
        while let Some((length, rest)) = self.inward.rest().split_first_chunk::<LENGTH_BYTES>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > FRAME_BYTES_MAX {
                return Err(Ended::Oversized(length));
            }
            let Some(frame) = rest.get(..length) else {
                break;
            };
            // A frame of nothing would look like the wire's end.
            if length > 0 {
                match rustix::io::write(wire, frame) {
                    Err(Errno::AGAIN) => {
                        self.wire_full = true;
                        return Ok(());
                    }
                    Err(error) if error != Errno::MSGSIZE => return Err(error.into()),
                    _ => {}
                }
            }
            self.inward.advance(LENGTH_BYTES + length);
        }
        Ok(())
    }
}

/// What a connection that ends tells the log.
pub(super) fn report(id: &str, ended: &Ended) {
    match ended {
        Ended::Closed => tracing::info!(netdev = id, "{ended}"),
        _ => tracing::warn!(netdev = id, "{ended}: the connection is closed"),
    }
}

impl From<Ended> for io::Error {
    fn from(ended: Ended) -> Self {
        io::Error::other(ended.to_string())
    }
}
