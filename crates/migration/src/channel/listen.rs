//! Incoming: waiting for the one stream that shall come.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
    sockopt,
};

use super::connect::host_port;
use super::{Address, Channel, ChannelError, exec, open_file, sentence};
use crate::cancel::CancelToken;

/// Where a source can connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListeningAt {
    /// An address of this host; the wildcard of IPv6 takes IPv4 as well.
    Inet(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// A place a source can connect to, or a channel that is open already.
///
/// Made before `migrate-incoming` replies, so that a source told of the reply finds somebody listening. Dropped or having
/// accepted, it listens no more, and its unix socket is gone from the file system.
#[derive(Debug)]
pub struct Listener {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Socket {
        fd: OwnedFd,
        path: Option<SocketPath>,
    },
    Open(Channel),
}

/// A name in the file system that goes when we go.
#[derive(Debug)]
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens at `address`, or opens it where nobody connects (`fd:`, `exec:`, `file:`). `named_fd` finds the descriptor of
    /// an `fd:NAME` address: a connected socket, a pipe or a file.
    ///
    /// # Errors
    /// A [`ChannelError`] that names the address and the reason.
    pub fn open(
        address: &Address,
        named_fd: &mut dyn FnMut(&str) -> Option<OwnedFd>,
    ) -> Result<Self, ChannelError> {
        let inner = match address {
            Address::Tcp { host, port } => listen_tcp(host, *port)?,
            Address::Unix(path) => listen_unix(path)?,
            Address::Fd(name) => {
                let fd = named_fd(name).ok_or_else(|| ChannelError::NoSuchFd(name.clone()))?;
                let channel =
                    Channel::from_fd(fd).map_err(|error| ChannelError::Lost(sentence(&error)))?;
                Inner::Open(channel)
            }
            Address::Exec(command) => Inner::Open(exec::spawn(command, false)?),
            Address::File { path, offset_bytes } => Inner::Open(
                open_file(path, *offset_bytes, false)
                    .and_then(Channel::from_fd)
                    .map_err(|error| ChannelError::Open {
                        what: "open",
                        path: path.display().to_string(),
                        why: sentence(&error),
                    })?,
            ),
        };
        Ok(Self { inner })
    }

    /// Where it listens, with what port 0 became; nothing where nobody connects.
    #[must_use]
    pub fn listening_at(&self) -> Option<ListeningAt> {
        match &self.inner {
            Inner::Open(_) => None,
            Inner::Socket {
                path: Some(path), ..
            } => Some(ListeningAt::Unix(path.0.clone())),
            Inner::Socket { fd, path: None } => {
                let address = rustix::net::getsockname(fd).ok()?;
                SocketAddr::try_from(address).ok().map(ListeningAt::Inet)
            }
        }
    }

    /// The TCP port listened on: what port 0 became.
    #[must_use]
    pub fn tcp_port(&self) -> Option<u16> {
        match self.listening_at()? {
            ListeningAt::Inet(address) => Some(address.port()),
            ListeningAt::Unix(_) => None,
        }
    }

    /// Waits for the source to connect, then listens no more.
    ///
    /// # Errors
    /// [`ChannelError::Cancelled`], or what the system says.
    pub fn accept(self, cancel: &CancelToken) -> Result<Channel, ChannelError> {
        let (fd, _path) = match self.inner {
            Inner::Open(channel) => return Ok(channel),
            Inner::Socket { fd, path } => (fd, path),
        };
        let lost = |errno: Errno| ChannelError::Lost(sentence(&errno.into()));
        loop {
            if cancel.is_cancelled() {
                return Err(ChannelError::Cancelled);
            }
            match accept_with(&fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(connection) => {
                    return Channel::from_fd(connection)
                        .map_err(|error| ChannelError::Lost(sentence(&error)));
                }
                Err(Errno::AGAIN) => {
                    let mut fds = [
                        PollFd::new(&fd, PollFlags::IN),
                        PollFd::new(cancel, PollFlags::IN),
                    ];
                    match poll(&mut fds, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return Err(lost(errno)),
                    }
                }
                // Somebody connected and was gone again before we looked.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(lost(errno)),
            }
        }
    }
}

fn listen_tcp(host: &str, port: u16) -> Result<Inner, ChannelError> {
    let failed = |why| ChannelError::Listen {
        on: host_port(host, port),
        why,
    };
    // Every address of this host: IPv6's wildcard takes IPv4 as well, where the host has IPv6.
    let addresses: Vec<SocketAddr> = if host.is_empty() {
        vec![
            SocketAddr::from(([0u16; 8], port)),
            SocketAddr::from(([0u8; 4], port)),
        ]
    } else {
        (host, port)
            .to_socket_addrs()
            .map_err(|error| failed(sentence(&error)))?
            .collect()
    };
    let mut why = "no address found".to_owned();
    for address in addresses {
        match listen_at(&address) {
            Ok(fd) => return Ok(Inner::Socket { fd, path: None }),
            Err(errno) => why = sentence(&errno.into()),
        }
    }
    Err(failed(why))
}

fn listen_at(address: &SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let fd = stream_socket(family)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, false)?;
    }
    bind(&fd, address)?;
    listen(&fd, 1)?;
    Ok(fd)
}

fn stream_socket(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(family, SocketType::STREAM, flags, None)
}

fn listen_unix(path: &Path) -> Result<Inner, ChannelError> {
    let failed = |why| ChannelError::Listen {
        on: path.display().to_string(),
        why,
    };
    let attempt = || -> rustix::io::Result<(OwnedFd, SocketPath)> {
        let address = SocketAddrUnix::new(path)?;
        let fd = stream_socket(AddressFamily::UNIX)?;
        // The socket of a process that is gone may still lie there; anything else is not ours to remove.
        let is_socket =
            std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            let _ = std::fs::remove_file(path);
        }
        bind(&fd, &address)?;
        let bound = SocketPath(path.to_owned());
        listen(&fd, 1)?;
        Ok((fd, bound))
    };
    let (fd, bound) = attempt().map_err(|errno| failed(sentence(&errno.into())))?;
    Ok(Inner::Socket {
        fd,
        path: Some(bound),
    })
}
