//! What the device asks of the host's side of a NIC. The device knows no tap and no socket.

use super::kernel::KernelPairs;
use crate::features::net;
use crate::io_buffer::IoBuffer;
use std::io;
use std::os::fd::BorrowedFd;

/// Length of the header before each frame, on the queues and towards a backend with headers (virtio 1.2, section
/// 5.1.6): a modern device always has the field for the number of buffers.
pub const VNET_HEADER_BYTES: usize = 12;

bitflags::bitflags! {
    /// Frames that are not finished: what one side may leave to the other. The values are those of the `GUEST_*`
    /// feature bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Offloads: u64 {
        /// Partial checksums.
        const CSUM = net::GUEST_CSUM;
        /// TCP over IPv4 to be segmented.
        const TSO4 = net::GUEST_TSO4;
        /// TCP over IPv6 to be segmented.
        const TSO6 = net::GUEST_TSO6;
        /// Segmentation with ECN.
        const ECN = net::GUEST_ECN;
        /// UDP to be fragmented.
        const UFO = net::GUEST_UFO;
    }
}

impl Offloads {
    /// The same as feature bits of the other direction, what the device takes from the driver.
    #[must_use]
    pub fn host_features(self) -> u64 {
        [
            (Self::CSUM, net::CSUM),
            (Self::TSO4, net::HOST_TSO4),
            (Self::TSO6, net::HOST_TSO6),
            (Self::ECN, net::HOST_ECN),
            (Self::UFO, net::HOST_UFO),
        ]
        .into_iter()
        .filter(|(offload, _)| self.contains(*offload))
        .fold(0, |bits, (_, bit)| bits | bit)
    }

    /// Whether frames longer than the MTU may come.
    #[must_use]
    pub fn segments(self) -> bool {
        self.intersects(Self::TSO4 | Self::TSO6 | Self::UFO)
    }
}

/// The host's side of a NIC: queues of frames.
///
/// The workers of the device call it, one thread a queue pair; nothing may block. With [`vnet_header`](Self::vnet_header)
/// each frame has the [`VNET_HEADER_BYTES`] of header before it in both directions, without it has none.
pub trait NetBackend: Send + Sync {
    /// How many queue pairs there are, at least one.
    fn queue_pairs(&self) -> u16 {
        1
    }

    /// Whether frames carry a virtio-net header.
    fn vnet_header(&self) -> bool {
        false
    }

    /// What unfinished frames it takes and can give; none without a header.
    fn offloads(&self) -> Offloads {
        Offloads::empty()
    }

    /// The host interface's MTU in bytes, where there is such a thing.
    fn mtu(&self) -> Option<u16> {
        None
    }

    /// From now on frames given may be unfinished in these ways: what the driver takes. Called before the first
    /// frame is asked for and whenever the driver changes its mind.
    ///
    /// # Errors
    /// The host refused; the device logs it and goes on.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let _ = offloads;
        Ok(())
    }

    /// Whether the driver uses queue pair `pair`: the host shall give it frames only if so.
    ///
    /// # Errors
    /// The host refused; the device logs it and goes on.
    fn set_pair_enabled(&self, pair: u16, enabled: bool) -> io::Result<()> {
        let _ = (pair, enabled);
        Ok(())
    }

    /// Receives one frame into `into`, which is longer than any frame it gives. `None`: there is no more now.
    /// A frame that does not fit is cut off.
    ///
    /// # Errors
    /// The interface is gone or down.
    fn recv(&self, pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>>;

    /// Sends one frame. `None`: not now; [`poll_fd`](Self::poll_fd) becomes writable when it may be tried again.
    ///
    /// # Errors
    /// The frame is lost.
    fn send(&self, pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>>;

    /// What becomes readable when there is a frame, and writable when one can be sent. `None`: never.
    fn poll_fd(&self, pair: u16) -> Option<BorrowedFd<'_>>;

    /// The host's kernel, where it can move the frames of this interface by itself. What it serves is not asked for
    /// here by [`recv`](Self::recv) and [`send`](Self::send).
    fn kernel(&self) -> Option<&dyn KernelPairs> {
        None
    }
}

/// A NIC whose other end is connected to nothing: every frame is lost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unconnected;

impl NetBackend for Unconnected {
    fn recv(&self, _pair: u16, _into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn send(&self, _pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        Ok(Some(crate::io_buffer::total_len(from)))
    }

    fn poll_fd(&self, _pair: u16) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Turns "would block" into `None`.
///
/// # Errors
/// Every other error.
pub fn unless_blocked(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}
