//! A network inside this process: `-netdev user`.
//!
//! The guest gets an address by DHCP and can ping the gateway. **There is no way outside**: no address translation, no
//! forwarding in either direction, no name server, no TFTP. Whatever is sent beyond is answered at once with "network
//! unreachable", so that a guest's programs fail rather than hang. It is for tests, and for guests that insist on a network.

mod gateway;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use virtio::{IoBuffer, NetBackend, Offloads, gather, total_len};

use crate::netdev::Netdev;
use crate::wire::{self, FRAME_BYTES_MAX, Wire};
use gateway::Gateway;

/// Where the network lies, and what DHCP tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserConfig {
    /// The network's address.
    pub network: Ipv4Addr,
    /// Its mask.
    pub mask: Ipv4Addr,
    /// The gateway, which answers.
    pub host: Ipv4Addr,
    /// The name server, which is there and resolves nothing.
    pub dns: Ipv4Addr,
    /// The first address that is leased.
    pub dhcp_start: Ipv4Addr,
    /// The name that DHCP tells the guest.
    pub hostname: Option<String>,
    /// The domain that DHCP tells the guest.
    pub domain_name: Option<String>,
    /// DHCP names neither router nor name server.
    pub restrict: bool,
}

/// The network, as what a NIC is on.
#[derive(Debug)]
pub struct UserNet {
    wire: Wire,
    gateway: Mutex<Gateway>,
    description: String,
}

impl UserNet {
    /// Makes the network.
    ///
    /// # Errors
    /// The host has no sockets left.
    pub fn new(config: UserConfig) -> io::Result<Self> {
        let restrict = if config.restrict { "on" } else { "off" };
        Ok(Self {
            wire: Wire::new()?,
            description: format!("net={},restrict={restrict}", config.network),
            gateway: Mutex::new(Gateway::new(config)),
        })
    }

    fn take(&self, frame: &[u8]) -> io::Result<()> {
        let mut gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
        match gateway.answer(frame) {
            Some(answer) => wire::send_bytes(&self.wire.far, &answer),
            None => Ok(()),
        }
    }
}

impl NetBackend for UserNet {
    fn vnet_header(&self) -> bool {
        false
    }

    fn offloads(&self) -> Offloads {
        Offloads::empty()
    }

    fn recv(&self, _pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        wire::recv(self.wire.nic.as_fd(), into)
    }

    fn send(&self, _pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        let bytes = total_len(from);
        let mut frame = vec![0; bytes.min(FRAME_BYTES_MAX)];
        gather(from, 0, &mut frame);
        self.take(&frame)?;
        Ok(Some(bytes))
    }

    fn poll_fd(&self, _pair: u16) -> Option<BorrowedFd<'_>> {
        Some(self.wire.nic.as_fd())
    }
}

impl Netdev for UserNet {
    fn kind(&self) -> &'static str {
        "user"
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn announce(&self, _frame: &[u8]) -> io::Result<()> {
        // Nobody on this network has an address to relearn.
        Ok(())
    }
}
