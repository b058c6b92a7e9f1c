//! A unicast address claimed on an interface for as long as a packet socket is open (packet(7), `PACKET_MR_UNICAST`).
//!
//! The interface's filter takes the address in as by `bridge fdb add MAC dev PF self`, but an entry made by that outlives a
//! program that is killed: the NIC would keep the guest's frames from whoever they are for, with nobody to take it out.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::from_ref;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::announce::Mac;

/// A socket that receives nothing; what is claimed by it ends with it.
#[derive(Debug)]
pub(super) struct Claims(OwnedFd);

impl Claims {
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW` in the namespace.
    pub(super) fn open() -> io::Result<Self> {
        // Without a protocol no frame is handed to it.
        let socket = socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self(socket))
    }

    /// Claims the address on the interface of this index.
    pub(super) fn add(&self, interface: u32, mac: Mac) -> io::Result<()> {
        self.change(libc::PACKET_ADD_MEMBERSHIP, interface, mac)
    }

    /// Gives it up.
    ///
    /// # Errors
    /// `ENOENT` if it is not claimed, or not any more since the interface is gone.
    pub(super) fn remove(&self, interface: u32, mac: Mac) -> io::Result<()> {
        self.change(libc::PACKET_DROP_MEMBERSHIP, interface, mac)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EADDRNOTAVAIL) => io::Error::from_raw_os_error(libc::ENOENT),
                _ => error,
            })
    }

    fn change(&self, what: libc::c_int, interface: u32, mac: Mac) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(libc::ENODEV);
        let [a, b, c, d, e, f] = mac;
        let request = libc::packet_mreq {
            mr_ifindex: i32::try_from(interface).map_err(|_| invalid())?,
            mr_type: libc::PACKET_MR_UNICAST as u16,
            mr_alen: mac.len() as u16,
            mr_address: [a, b, c, d, e, f, 0, 0],
        };
        // SAFETY: the kernel reads `packet_mreq` at this address, for this length, before the call returns.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                what,
                from_ref(&request).cast(),
                size_of_val(&request) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
