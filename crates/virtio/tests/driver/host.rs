//! The hypervisor and the host's side of the NIC, as far as a device sees them.

use pci::{BarMapping, DoorbellWidth, IntxLine, MsiMessage, MsiVector, Platform};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use virtio::{IoBuffer, NetBackend, Offloads, unless_blocked};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

struct Vector {
    fd: EventFd,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiVector for Vector {
    fn program(&self, message: Option<MsiMessage>) -> io::Result<()> {
        *self.message.lock().unwrap() = message;
        Ok(())
    }

    fn trigger(&self) -> &EventFd {
        &self.fd
    }

    fn pending(&self) -> bool {
        false
    }
}

/// Vectors whose eventfds a test reads, and doorbells it can ring.
#[derive(Default)]
pub(crate) struct Host {
    vectors: Mutex<Vec<Arc<Vector>>>,
    doorbells: Mutex<HashMap<u64, EventFd>>,
}

impl Host {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn vector(&self, index: usize) -> EventFd {
        self.vectors.lock().unwrap()[index].fd.try_clone().unwrap()
    }

    /// Whether an interrupt of the vector is there; consumes it.
    pub(crate) fn interrupted(&self, index: usize) -> bool {
        self.vector(index).read().is_ok()
    }

    pub(crate) fn doorbell_count(&self) -> usize {
        self.doorbells.lock().unwrap().len()
    }

    pub(crate) fn ring_doorbell(&self, address: u64) -> bool {
        let doorbells = self.doorbells.lock().unwrap();
        doorbells
            .get(&address)
            .is_some_and(|fd| fd.write(1).is_ok())
    }
}

impl Platform for Host {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        let made: Vec<_> = (0..count)
            .map(|_| {
                Arc::new(Vector {
                    fd: EventFd::new(EFD_NONBLOCK).unwrap(),
                    message: Mutex::default(),
                })
            })
            .collect();
        self.vectors.lock().unwrap().extend(made.iter().cloned());
        Ok(made.into_iter().map(|v| v as Arc<dyn MsiVector>).collect())
    }

    fn add_doorbell(&self, address: u64, _: DoorbellWidth, fd: &EventFd) -> io::Result<()> {
        let before = self
            .doorbells
            .lock()
            .unwrap()
            .insert(address, fd.try_clone()?);
        assert!(before.is_none());
        Ok(())
    }

    fn remove_doorbell(&self, address: u64, _: DoorbellWidth, _: &EventFd) -> io::Result<()> {
        self.doorbells
            .lock()
            .unwrap()
            .remove(&address)
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn map_bar(&self, _: u64, _: *mut u8, _: u64) -> io::Result<Box<dyn BarMapping>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn vfio_file(&self, _: BorrowedFd<'_>, _: bool) -> io::Result<()> {
        Ok(())
    }
}

/// An interrupt line a test looks at.
#[derive(Default)]
pub(crate) struct Line(pub(crate) AtomicBool);

impl Line {
    pub(crate) fn high(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl IntxLine for Line {
    fn set(&self, asserted: bool) {
        self.0.store(asserted, Ordering::SeqCst);
    }

    fn drive_by(&self, _: Option<(&EventFd, &EventFd)>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A NIC whose wire is a pair of datagram sockets, one a queue pair.
pub(crate) struct SocketNic {
    pub(crate) near: Vec<UnixDatagram>,
    pub(crate) vnet_header: bool,
    pub(crate) offloads_set: Mutex<Vec<Offloads>>,
    pub(crate) enabled: Mutex<HashMap<u16, bool>>,
}

/// The other ends of the wires.
pub(crate) type Wires = Vec<UnixDatagram>;

impl SocketNic {
    pub(crate) fn new(pairs: usize, vnet_header: bool) -> (Arc<Self>, Wires) {
        let (near, far) = (0..pairs)
            .map(|_| {
                let (near, far) = UnixDatagram::pair().unwrap();
                near.set_nonblocking(true).unwrap();
                far.set_read_timeout(Some(super::PATIENCE)).unwrap();
                (near, far)
            })
            .unzip();
        let nic = Self {
            near,
            vnet_header,
            offloads_set: Mutex::default(),
            enabled: Mutex::default(),
        };
        (Arc::new(nic), far)
    }
}

impl NetBackend for SocketNic {
    fn queue_pairs(&self) -> u16 {
        u16::try_from(self.near.len()).unwrap()
    }

    fn vnet_header(&self) -> bool {
        self.vnet_header
    }

    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn mtu(&self) -> Option<u16> {
        Some(1500)
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.offloads_set.lock().unwrap().push(offloads);
        Ok(())
    }

    fn set_pair_enabled(&self, pair: u16, enabled: bool) -> io::Result<()> {
        self.enabled.lock().unwrap().insert(pair, enabled);
        Ok(())
    }

    fn recv(&self, pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        unless_blocked(virtio::readv(self.near[usize::from(pair)].as_fd(), into))
    }

    fn send(&self, pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        unless_blocked(virtio::writev(self.near[usize::from(pair)].as_fd(), from))
    }

    fn poll_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        Some(self.near[usize::from(pair)].as_fd())
    }
}
