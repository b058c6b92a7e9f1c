//! A netdev that learns from what the guest sends which addresses are the guest's.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use virtio::{IoBuffer, KernelPairs, NetBackend, Offloads, VNET_HEADER_BYTES, gather};

use crate::addresses::{Addresses, DECIDING_BYTES, LEARNING_BYTES, Sort};
use crate::netdev::Netdev;

/// Passes every frame on, and looks at those that go to the host. What the host's kernel moves by itself
/// ([`NetBackend::kernel`]) is not seen.
pub struct Watched {
    netdev: Arc<dyn Netdev>,
    addresses: Arc<Addresses>,
    now: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl Watched {
    /// What goes through `netdev` is told to `addresses`, with the time by `now`.
    pub fn new(
        netdev: Arc<dyn Netdev>,
        addresses: Arc<Addresses>,
        now: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self {
            netdev,
            addresses,
            now: Box::new(now),
        }
    }

    fn look(&self, frame: &[IoBuffer<'_>]) {
        let skip = if self.netdev.vnet_header() {
            VNET_HEADER_BYTES
        } else {
            0
        };
        let mut beginning = [0; DECIDING_BYTES];
        let bytes = gather(frame, skip, &mut beginning);
        let beginning = beginning.get(..bytes).unwrap_or_default();
        if self.addresses.sort(beginning) == Sort::Claim {
            let mut start = [0; LEARNING_BYTES];
            let bytes = gather(frame, skip, &mut start);
            let start = start.get(..bytes).unwrap_or_default();
            self.addresses.note(start, &self.now);
        }
    }
}

impl NetBackend for Watched {
    fn queue_pairs(&self) -> u16 {
        self.netdev.queue_pairs()
    }

    fn vnet_header(&self) -> bool {
        self.netdev.vnet_header()
    }

    fn offloads(&self) -> Offloads {
        self.netdev.offloads()
    }

    fn mtu(&self) -> Option<u16> {
        self.netdev.mtu()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.netdev.set_offloads(offloads)
    }

    fn set_pair_enabled(&self, pair: u16, enabled: bool) -> io::Result<()> {
        self.netdev.set_pair_enabled(pair, enabled)
    }

    fn recv(&self, pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        self.netdev.recv(pair, into)
    }

    fn send(&self, pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        let sent = self.netdev.send(pair, from)?;
        if sent.is_some() {
            self.look(from);
        }
        Ok(sent)
    }

    fn poll_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        self.netdev.poll_fd(pair)
    }

    fn kernel(&self) -> Option<&dyn KernelPairs> {
        self.netdev.kernel()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::gratuitous_arp;
    use crate::hub::Hub;
    use crate::testing::{receive, transmit};

    #[test]
    fn frames_pass_unchanged_and_are_learned_from() {
        const MAC: [u8; 6] = [0x52, 0x54, 0, 0x6f, 0x55, 0xcc];
        let hub = Arc::new(Hub::default());
        let port = Arc::new(hub.add_port(0).unwrap());
        let far = hub.add_port(0).unwrap();
        let addresses = Arc::new(Addresses::new(MAC));
        let watched = Watched::new(port, Arc::clone(&addresses), || Duration::from_secs(5));
        let ip = [192, 0, 2, 1].into();
        let frame = gratuitous_arp(MAC, ip, Some(7));
        transmit(&watched, &frame);
        assert_eq!(receive(&far), Some(frame));
        let current = addresses.current(Duration::from_secs(7));
        let [(address, age)] = current.as_slice() else {
            panic!("{current:?}");
        };
        assert_eq!((address.vlan, address.ip), (Some(7), ip.into()));
        assert_eq!(*age, Duration::from_secs(2));
        transmit(&far, &gratuitous_arp(MAC, [192, 0, 2, 2].into(), None));
        assert!(receive(&watched).is_some());
        assert_eq!(
            addresses.current(Duration::from_secs(7)).len(),
            1,
            "received, not sent"
        );
    }
}
