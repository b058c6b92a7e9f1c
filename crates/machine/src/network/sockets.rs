//! Netdevs on sockets: from what the user named to what carries frames.

use super::{FdSource, resolve};
use config::vm::{DatagramConfig, NetAddress, SocketNetdev, StreamConfig};
use net::dgram::Datagrams;
use net::stream::{Stream, StreamAddress, StreamSource};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// All addresses of a host, with the port. An empty host is every interface.
fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if host.is_empty() {
        return Ok(vec![(Ipv4Addr::UNSPECIFIED, port).into()]);
    }
    let failed = |why: String| format!("can't resolve host address '{host}': {why}");
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|e| failed(e.to_string()))?
        .collect();
    if found.is_empty() {
        return Err(failed("it has no address".to_owned()));
    }
    Ok(found)
}

/// The address of a host and port, of the family of `like`.
fn address(host: &str, port: u16, like: SocketAddr) -> Result<SocketAddr, String> {
    if host.is_empty() && like.is_ipv6() {
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    }
    addresses(host, port)?
        .into_iter()
        .find(|found| found.is_ipv4() == like.is_ipv4())
        .ok_or_else(|| format!("'{host}' has no address of the other end's family"))
}

/// Opens a netdev whose frames are datagrams; `kind` is what the user called it.
pub(super) fn datagrams(
    config: &DatagramConfig,
    kind: &'static str,
    fds: &dyn FdSource,
) -> Result<Datagrams, String> {
    match (&config.local, &config.remote) {
        (NetAddress::Fd(fd), _) => {
            Datagrams::connected(resolve(fd, fds)?, kind).map_err(|e| e.to_string())
        }
        (
            NetAddress::Inet { host, port },
            Some(NetAddress::Inet {
                host: remote_host,
                port: remote_port,
            }),
        ) => {
            let remote = addresses(remote_host, *remote_port)?;
            let remote = *remote.first().ok_or("the remote has no address")?;
            let local = address(host, *port, remote)?;
            Datagrams::udp(local, remote, kind)
                .map_err(|e| format!("can't bind ip={} to socket: {e}", local.ip()))
        }
        (NetAddress::Unix(local), Some(NetAddress::Unix(remote))) => Datagrams::unix(local, remote)
            .map_err(|e| format!("failed to bind unix={} to socket: {e}", local.display())),
        _ => Err("remote and local types must be the same".to_owned()),
    }
}

/// Opens a netdev whose frames go over a stream; `kind` is what the user called it.
pub(super) fn stream(
    id: &str,
    config: &StreamConfig,
    kind: &'static str,
    fds: &dyn FdSource,
) -> Result<Stream, String> {
    let reconnect = (config.reconnect_ms > 0).then(|| Duration::from_millis(config.reconnect_ms));
    let place = match &config.address {
        NetAddress::Fd(fd) => {
            let socket = resolve(fd, fds)?;
            let source = if config.server {
                StreamSource::Listening(socket)
            } else {
                StreamSource::Connected(socket)
            };
            return Stream::open(id, kind, source).map_err(|e| e.to_string());
        }
        NetAddress::Inet { host, port } => StreamAddress::Inet(addresses(host, *port)?),
        NetAddress::Unix(path) => StreamAddress::Unix(path.clone()),
    };
    let name = match &config.address {
        NetAddress::Inet { host, port } => format!("{host}:{port}"),
        NetAddress::Unix(path) => path.display().to_string(),
        NetAddress::Fd(_) => String::new(),
    };
    let source = if config.server {
        StreamSource::Listen(place)
    } else {
        StreamSource::Connect {
            address: place,
            reconnect,
        }
    };
    Stream::open(id, kind, source).map_err(|e| format!("Failed to bind socket to {name}: {e}"))
}

/// Opens what `-netdev socket` describes.
pub(super) fn socket(
    id: &str,
    config: &SocketNetdev,
    fds: &dyn FdSource,
) -> Result<Arc<dyn net::Netdev>, String> {
    match config {
        SocketNetdev::Datagram(config) => Ok(Arc::new(datagrams(config, "socket", fds)?)),
        SocketNetdev::Stream(config) => Ok(Arc::new(stream(id, config, "socket", fds)?)),
        SocketNetdev::Fd(fd) => {
            let socket = resolve(fd, fds)?;
            let kind = rustix::net::sockopt::socket_type(&socket)
                .map_err(|e| format!("can't get socket option SO_TYPE: {e}"))?;
            if kind == rustix::net::SocketType::STREAM {
                let connected = Stream::open(id, "socket", StreamSource::Connected(socket));
                return Ok(Arc::new(connected.map_err(|e| e.to_string())?));
            }
            let datagrams = Datagrams::connected(socket, "socket");
            Ok(Arc::new(datagrams.map_err(|e| e.to_string())?))
        }
    }
}
