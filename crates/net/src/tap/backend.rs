//! A tap as what the virtio-net device asks for: frames between guest memory and the kernel, one system
//! call each, nothing copied on the way.

use std::io;
use std::os::fd::BorrowedFd;

use virtio::{
    IoBuffer, KernelPairs, KernelRing, NetBackend, Offloads, readv, unless_blocked, writev,
};
use vmm_sys_util::eventfd::EventFd;

use super::Tap;
use crate::netdev::Netdev;
use crate::offload::Offload;
use crate::vhost::Vhost;

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

    fn kernel(&self) -> Option<&dyn KernelPairs> {
        self.vhost.as_ref().map(|_| self as &dyn KernelPairs)
    }
}

impl Tap {
    fn vhost(&self) -> io::Result<&Vhost> {
        self.vhost
            .as_ref()
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

impl KernelPairs for Tap {
    fn ring_features(&self) -> u64 {
        self.vhost.as_ref().map_or(0, Vhost::ring_features)
    }

    fn start(&self, pair: u16, features: u64, rings: [KernelRing<'_>; 2]) -> io::Result<()> {
        let queue = self.queue(pair).ok_or(io::ErrorKind::NotFound)?;
        self.vhost()?.start(pair, queue, features, &rings)
    }

    fn set_call(&self, pair: u16, ring: usize, call: &EventFd) -> io::Result<()> {
        self.vhost()?.set_call(pair, ring, call)
    }

    fn stop(&self, pair: u16) -> [Option<u16>; 2] {
        self.vhost
            .as_ref()
            .map_or([None; 2], |vhost| vhost.stop(pair))
    }

    fn failure_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        self.vhost.as_ref()?.failure_fd(pair)
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
