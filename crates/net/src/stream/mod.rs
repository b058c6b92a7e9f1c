//! Frames over a stream, each after its length in 4 bytes, big endian: `-netdev stream`, and `-netdev socket` with
//! `listen=`, `connect=` or a stream socket.
//!
//! ```text
//!   worker ══ wire ══ thread "net ID" ── socket: connects, listens, connects again
//! ```
//! The worker of the NIC must not block, and a connection comes and goes under it: a thread of this netdev's own
//! carries frames between `wire` and socket. It holds one frame a direction; what waits besides waits in the
//! kernel, and whoever sends more than the other takes is not read for so long. While nobody is connected the guest's
//! frames are lost. A peer that breaks the format loses the connection.

mod connection;
mod link;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use virtio::{IoBuffer, NetBackend};

use crate::netdev::Netdev;
use crate::socket_file::{SocketFile, clear_the_way};
use crate::wire::{self, Wire};
use link::Link;

/// Where a stream leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamAddress {
    /// TCP: the addresses of one host, tried in order.
    Inet(Vec<SocketAddr>),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// How a stream comes about.
#[derive(Debug)]
pub enum StreamSource {
    /// Listen there, for one peer at a time.
    Listen(StreamAddress),
    /// Use a socket that listens.
    Listening(OwnedFd),
    /// Connect to it.
    Connect {
        /// Where.
        address: StreamAddress,
        /// So long after a connection ended or failed, try again; `None`: never.
        reconnect: Option<Duration>,
    },
    /// Use a socket that is connected.
    Connected(OwnedFd),
}

/// What has become of a stream, for `info network`.
type Status = Arc<Mutex<String>>;

/// A netdev on a stream socket.
#[derive(Debug)]
pub struct Stream {
    nic: OwnedFd,
    kind: &'static str,
    status: Status,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// Where it listens.
    _file: Option<SocketFile>,
}

impl Stream {
    /// Opens a stream: listens, or begins to connect. `id` is the netdev's; `kind` is `stream` or `socket`.
    ///
    /// # Errors
    /// The address is in use, or a descriptor is no such socket. A peer that is not there is no error.
    pub fn open(id: &str, kind: &'static str, source: StreamSource) -> io::Result<Self> {
        let mut file = None;
        let link = match source {
            StreamSource::Listen(address) => {
                let listener = listen_at(&address)?;
                if let StreamAddress::Unix(path) = &address {
                    file = Some(SocketFile::made(path));
                }
                Link::listening(listener)
            }
            StreamSource::Listening(fd) => {
                check_stream(&fd)?;
                Link::listening(fd)
            }
            StreamSource::Connect { address, reconnect } => Link::connecting(address, reconnect),
            StreamSource::Connected(fd) => {
                check_stream(&fd)?;
                let description = match kind {
                    "socket" => format!("fd={}", fd.as_raw_fd()),
                    _ => link::peer_name(&fd),
                };
                Link::connected(fd, description)?
            }
        };
        let prefix = if kind == "socket" { "socket: " } else { "" };
        let wire = Wire::new()?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let status = Status::default();
        let runner = link.runner(wire.far, Arc::clone(&stop), Arc::clone(&status), prefix);
        let thread = std::thread::Builder::new()
            .name(format!("net {id}"))
            .spawn(move || runner.run())?;
        Ok(Self {
            nic: wire.nic,
            kind,
            status,
            stop,
            thread: Some(thread),
            _file: file,
        })
    }
}

fn check_stream(fd: &OwnedFd) -> io::Result<()> {
    if sockopt::socket_type(fd)? != SocketType::STREAM {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a socket of datagrams, not a stream",
        ));
    }
    Ok(())
}

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

fn family_of(address: &SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

fn listen_at(address: &StreamAddress) -> io::Result<OwnedFd> {
    let listener = match address {
        StreamAddress::Inet(addresses) => {
            let address = addresses.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let socket = new_socket(family_of(address))?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, address)?;
            socket
        }
        StreamAddress::Unix(path) => {
            clear_the_way(path, SocketType::STREAM)?;
            let socket = new_socket(AddressFamily::UNIX)?;
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            socket
        }
    };
    listen(&listener, 1)?;
    Ok(listener)
}

impl NetBackend for Stream {
    fn recv(&self, _pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        match wire::recv(self.nic.as_fd(), into) {
            // The thread has ended, which it does only if the host lets it down.
            Ok(Some(0)) => Ok(None),
            other => other,
        }
    }

    fn send(&self, _pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        wire::send(self.nic.as_fd(), from)
    }

    fn poll_fd(&self, _pair: u16) -> Option<BorrowedFd<'_>> {
        Some(self.nic.as_fd())
    }
}

impl Netdev for Stream {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn describe(&self) -> String {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }

    fn announce(&self, frame: &[u8]) -> io::Result<()> {
        wire::send_bytes(&self.nic, frame)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Fails only if it has been told already.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It waits for nothing but poll: the address is free when this returns.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
