//! A tap as what the virtio-net device asks for: frames between guest memory and the kernel, one system
//! call each, nothing copied on the way.

use std::io;
use std::os::fd::BorrowedFd;

use virtio::{IoBuffer, NetBackend, Offloads, readv, unless_blocked, writev};

use super::Tap;
use crate::netdev::Netdev;
use crate::offload::Offload;

const PAIRS: [(Offload, Offloads); 5] = [
    (Offload::CSUM, Offloads::CSUM),
    (Offload::TSO4, Offloads::TSO4),
    (Offload::TSO6, Offloads::TSO6),
    (Offload::ECN, Offloads::ECN),
    (Offload::UFO, Offloads::UFO),
];

impl From<Offload> for Offloads {
    fn from(of_tap: Offload) -> Self {
        PAIRS
            .iter()
            .filter(|(tap, _)| of_tap.contains(*tap))
            .fold(Offloads::empty(), |all, (_, virtio)| all | *virtio)
    }
}

impl From<Offloads> for Offload {
    fn from(of_virtio: Offloads) -> Self {
        PAIRS
            .iter()
            .filter(|(_, virtio)| of_virtio.contains(*virtio))
            .fold(Offload::empty(), |all, (tap, _)| all | *tap)
    }
}

impl NetBackend for Tap {
    fn queue_pairs(&self) -> u16 {
        Tap::queue_pairs(self)
    }

    fn vnet_header(&self) -> bool {
        Tap::vnet_header(self)
    }

    fn offloads(&self) -> Offloads {
        self.supported_offloads().into()
    }

    fn mtu(&self) -> Option<u16> {
        Tap::mtu(self).and_then(|mtu| u16::try_from(mtu).ok())
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        Tap::set_offloads(self, offloads.into())
    }

    fn set_pair_enabled(&self, pair: u16, enabled: bool) -> io::Result<()> {
        Tap::set_pair_enabled(self, pair, enabled)
    }

    fn recv(&self, pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        let fd = self.queue(pair).ok_or(io::ErrorKind::NotFound)?;
        unless_blocked(readv(fd, into))
    }

    fn send(&self, pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        let fd = self.queue(pair).ok_or(io::ErrorKind::NotFound)?;
        unless_blocked(writev(fd, from))
    }

    fn poll_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        self.queue(pair)
    }
}

impl Netdev for Tap {
    fn kind(&self) -> &'static str {
        "tap"
    }

    fn describe(&self) -> String {
        Tap::describe(self)
    }

    fn announce(&self, frame: &[u8]) -> io::Result<()> {
        self.send_frame(frame)
    }

    fn interface(&self) -> Option<&str> {
        Some(self.name())
    }
}
