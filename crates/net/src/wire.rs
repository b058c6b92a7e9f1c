//! A wire between a NIC's worker and whatever else in this process carries its frames.
//!
//! ```text
//!   worker ── nic end ══ socket pair, whole frames ══ far end ── hub, gateway, stream thread
//! ```
//! It is a pair of `SOCK_SEQPACKET` sockets: the kernel keeps frames apart, bounds what waits in either direction, and tells
//! by `epoll` when there is a frame or room for one, which is all that a [`virtio::NetBackend`] is asked for.
//!
//! *Rejected: queues of our own with an eventfd.* An eventfd is always writable, so a worker could not wait for
//! room; and the bound would be ours to keep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use virtio::{IoBuffer, readv, unless_blocked, writev};

/// Bytes that may wait in each direction, as far as the host lets a process ask for them.
const BUFFER_BYTES: usize = 1 << 20;

/// The longest frame that any peer may send, in bytes: 64 KiB of IP behind an Ethernet header with two tags, and room
/// beyond. What is longer is not a frame.
pub const FRAME_BYTES_MAX: usize = 65536 + 4096;

/// The shortest thing that is a frame, in bytes: an Ethernet header.
pub const FRAME_BYTES_MIN: usize = 14;

/// Both ends of a wire.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The NIC's.
    pub(crate) nic: OwnedFd,
    /// The other one.
    pub(crate) far: OwnedFd,
}

impl Wire {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (nic, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        for end in [&nic, &far] {
            // Capped by net.core.wmem_max where it must be: less waits then.
            let _ = sockopt::set_socket_send_buffer_size(end, BUFFER_BYTES);
        }
        Ok(Self { nic, far })
    }
}

/// Sends one frame. `None`: there is no room now.
pub(crate) fn send(fd: BorrowedFd<'_>, frame: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
    unless_blocked(writev(fd, frame))
}

/// Receives one frame. `None`: there is none now.
pub(crate) fn recv(fd: BorrowedFd<'_>, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
    unless_blocked(readv(fd, into))
}

/// Sends one frame of our own; what finds no room is lost, as on any wire.
pub(crate) fn send_bytes(fd: &impl AsFd, frame: &[u8]) -> io::Result<()> {
    match rustix::io::write(fd, frame) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
