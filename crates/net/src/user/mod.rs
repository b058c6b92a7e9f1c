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

use virtio::{IoBuffer, NetBackend, gather, total_len};

use crate::netdev::Netdev;
use crate::wire::{self, FRAME_BYTES_MAX, Wire};
use gateway::Gateway;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its mask.
    pub mask: Ipv4Addr,
}

impl Subnet {
    /// Whether an address is in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask.to_bits() == self.address.to_bits()
    }
}

/// The network, and who is on it beside the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where it lies.
    pub subnet: Subnet,
    /// Who answers, and leases addresses.
    pub gateway: Ipv4Addr,
    /// Who is there and resolves nothing.
    pub name_server: Ipv4Addr,
    /// The first of the addresses that are leased.
    pub first_lease: Ipv4Addr,
    /// The names that come with a lease.
    pub names: LeaseNames,
    /// A lease names router and name server.
    pub routed: bool,
}

/// What a lease calls the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseNames {
    /// Its name (RFC 2132, option 12).
    pub host: Option<String>,
    /// Its domain (option 15).
    pub domain: Option<String>,
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
    pub fn new(plan: Plan) -> io::Result<Self> {
        let restrict = if plan.routed { "off" } else { "on" };
        Ok(Self {
            wire: Wire::new()?,
            description: format!("net={},restrict={restrict}", plan.subnet.address),
            gateway: Mutex::new(Gateway::new(plan)),
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
