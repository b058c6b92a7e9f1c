//! Outgoing: opening a channel.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};

use super::{Address, Channel, ChannelError, Patience, exec, open_file, sentence};
use crate::cancel::CancelToken;

/// A peer that neither accepts nor refuses for this long is unreachable.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// How often a full queue of a unix socket is tried again; there is no event for it.
const BACKLOG_RETRY: Duration = Duration::from_millis(10);

/// Opens the channel to `address`. `named_fd` finds the descriptor of an `fd:NAME` address (it gives it away).
///
/// # Errors
/// A [`ChannelError`] that names the address and the reason; nothing is left open.
pub fn connect(
    address: &Address,
    named_fd: &mut dyn FnMut(&str) -> Option<OwnedFd>,
    cancel: &CancelToken,
) -> Result<Channel, ChannelError> {
    match address {
        Address::Tcp { host, port } => connect_tcp(host, *port, cancel),
        Address::Unix(path) => connect_unix(path, cancel),
        Address::Fd(name) => {
            let fd = named_fd(name).ok_or_else(|| ChannelError::NoSuchFd(name.clone()))?;
            Channel::from_fd(fd).map_err(|error| ChannelError::Lost(sentence(&error)))
        }
        Address::Exec(command) => exec::spawn(command, true),
        Address::File { path, offset_bytes } => open_file(path, *offset_bytes, true)
            .and_then(Channel::from_fd)
            .map_err(|error| ChannelError::Open {
                what: "create",
                path: path.display().to_string(),
                why: sentence(&error),
            }),
    }
}

/// `HOST:PORT` as messages show it.
pub(super) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn connect_tcp(host: &str, port: u16, cancel: &CancelToken) -> Result<Channel, ChannelError> {
    let to = host_port(host, port);
    let name = if host.is_empty() { "localhost" } else { host };
    let addresses: Vec<SocketAddr> = (name, port)
        .to_socket_addrs()
        .map_err(|error| ChannelError::Connect {
            to: to.clone(),
            why: sentence(&error),
        })?
        .collect();
    let mut why = "no address found".to_owned();
    for address in addresses {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        match connect_socket(family, &address, cancel) {
            Ok(channel) => return Ok(channel),
            Err(Attempt::Cancelled) => return Err(ChannelError::Cancelled),
            Err(Attempt::Failed(error)) => why = sentence(&error),
        }
    }
    Err(ChannelError::Connect { to, why })
}

fn connect_unix(path: &Path, cancel: &CancelToken) -> Result<Channel, ChannelError> {
    let failed = |why| ChannelError::Connect {
        to: path.display().to_string(),
        why,
    };
    let address = SocketAddrUnix::new(path).map_err(|errno| failed(sentence(&errno.into())))?;
    loop {
        match connect_socket(AddressFamily::UNIX, &address, cancel) {
            Ok(channel) => return Ok(channel),
            Err(Attempt::Cancelled) => return Err(ChannelError::Cancelled),
            Err(Attempt::Failed(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if cancel.wait(BACKLOG_RETRY) {
                    return Err(ChannelError::Cancelled);
                }
            }
            Err(Attempt::Failed(error)) => return Err(failed(sentence(&error))),
        }
    }
}

enum Attempt {
    Cancelled,
    Failed(io::Error),
}

impl From<Errno> for Attempt {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno.into())
    }
}

fn connect_socket(
    family: AddressFamily,
    address: &impl rustix::net::addr::SocketAddrArg,
    cancel: &CancelToken,
) -> Result<Channel, Attempt> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&fd, address) {
        Ok(()) => return Channel::from_fd(fd).map_err(Attempt::Failed),
        Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let channel = Channel::from_fd(fd).map_err(Attempt::Failed)?;
    match channel.ready(PollFlags::OUT, cancel, &Patience::of(CONNECT_PATIENCE)) {
        Ok(_) => {}
        Err(ChannelError::Cancelled) => return Err(Attempt::Cancelled),
        Err(_) => return Err(Errno::TIMEDOUT.into()),
    }
    sockopt::socket_error(&channel)??;
    Ok(channel)
}
