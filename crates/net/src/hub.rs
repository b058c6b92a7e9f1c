//! A hub in this process: `-netdev hubport`.
//!
//! ```text
//!   NIC 1 ── port a ─┐
//!   NIC 2 ── port b ─┼── hub 0        what comes in at one port goes out at every other
//!   NIC 3 ── port c ─┘
//! ```
//! No thread: the worker of the NIC that sends writes the frame to the wires of all the others. A port
//! whose NIC does not keep up loses frames; the others do not wait for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use virtio::{IoBuffer, NetBackend, total_len};

use crate::netdev::Netdev;
use crate::wire::{self, Wire};

/// The most ports of one hub: each frame is written to all of them.
pub const PORTS_MAX: usize = 64;

/// A hub; its ports keep it.
#[derive(Debug, Default)]
pub struct Hub {
    ports: Mutex<Vec<Weak<Wire>>>,
}

/// A port of a hub.
#[derive(Debug)]
pub struct HubPort {
    id: i32,
    hub: Arc<Hub>,
    wire: Arc<Wire>,
}

impl Hub {
    /// A port more. `id` is the hub's, for descriptions.
    ///
    /// # Errors
    /// The hub has [`PORTS_MAX`] ports, or the host has no sockets left.
    pub fn add_port(self: &Arc<Self>, id: i32) -> io::Result<HubPort> {
        let wire = Arc::new(Wire::new()?);
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|port| port.strong_count() > 0);
        if ports.len() >= PORTS_MAX {
            return Err(io::Error::other(format!(
                "hub {id} has {PORTS_MAX} ports, more than which it cannot have"
            )));
        }
        ports.push(Arc::downgrade(&wire));
        Ok(HubPort {
            id,
            hub: Arc::clone(self),
            wire,
        })
    }
}

impl HubPort {
    /// The hub it is a port of.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    fn others(&self) -> Vec<Arc<Wire>> {
        let ports = self
            .hub
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let open = ports.iter().filter_map(Weak::upgrade);
        open.filter(|wire| !Arc::ptr_eq(wire, &self.wire)).collect()
    }
}

impl NetBackend for HubPort {
    fn recv(&self, _pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        wire::recv(self.wire.nic.as_fd(), into)
    }

    fn send(&self, _pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        for other in self.others() {
            // No room, or a frame longer than the host's sockets take: lost for that port.
            let _ = wire::send(other.far.as_fd(), from);
        }
        Ok(Some(total_len(from)))
    }

    fn poll_fd(&self, _pair: u16) -> Option<BorrowedFd<'_>> {
        Some(self.wire.nic.as_fd())
    }
}

impl Netdev for HubPort {
    fn kind(&self) -> &'static str {
        "hubport"
    }

    fn describe(&self) -> String {
        format!("hubid={}", self.id)
    }

    fn announce(&self, frame: &[u8]) -> io::Result<()> {
        for other in self.others() {
            wire::send_bytes(&other.far, frame)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{frame, receive, transmit};

    #[test]
    fn a_frame_comes_out_at_every_other_port_and_not_where_it_came_in() {
        let hub = Arc::new(Hub::default());
        let ports: Vec<HubPort> = (0..3).map(|_| hub.add_port(0).unwrap()).collect();
        transmit(&ports[1], &frame(1, 60));
        assert_eq!(receive(&ports[0]), Some(frame(1, 60)));
        assert_eq!(receive(&ports[2]), Some(frame(1, 60)));
        for port in &ports {
            assert_eq!(receive(port), None);
        }
        transmit(&ports[0], &frame(2, 1514));
        assert_eq!(receive(&ports[1]), Some(frame(2, 1514)));
    }

    #[test]
    fn a_port_that_is_not_read_stops_nobody_and_keeps_a_bounded_number_of_frames() {
        let hub = Arc::new(Hub::default());
        let [from, idle, reads] = std::array::from_fn(|_| hub.add_port(0).unwrap());
        for _ in 0..10_000 {
            transmit(&from, &frame(7, 1514));
            assert_eq!(receive(&reads), Some(frame(7, 1514)));
        }
        let kept = std::iter::from_fn(|| receive(&idle)).count();
        assert!((10..2000).contains(&kept), "{kept}");
    }

    #[test]
    fn a_port_that_is_gone_gets_nothing_and_its_place_is_free() {
        let hub = Arc::new(Hub::default());
        let first = hub.add_port(0).unwrap();
        let mut more: Vec<HubPort> = (1..PORTS_MAX).map(|_| hub.add_port(0).unwrap()).collect();
        assert!(hub.add_port(0).is_err());
        drop(more.pop());
        transmit(&first, &frame(1, 60));
        let again = hub.add_port(0).unwrap();
        assert_eq!(receive(&again), None);
        transmit(&first, &frame(2, 60));
        assert_eq!(receive(&again), Some(frame(2, 60)));
    }
}
