//! Netdevs on sockets: from what the user named to what carries frames.

use super::{FdSource, resolve};
use config::vm::{DatagramConfig, NetAddress, SocketNetdev};
use net::dgram::Datagrams;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// The address of a host and port. An empty host is every interface, of the family of `like` if that is given.
fn address(host: &str, port: u16, like: Option<SocketAddr>) -> Result<SocketAddr, String> {
    if host.is_empty() {
        let any: IpAddr = match like {
            Some(SocketAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        return Ok((any, port).into());
    }
    let failed = |why: String| format!("can't resolve host address '{host}': {why}");
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|e| failed(e.to_string()))?
        .collect();
    found
        .iter()
        .find(|a| like.is_none_or(|like| like.is_ipv4() == a.is_ipv4()))
        .copied()
        .ok_or_else(|| failed("it has no address of the other end's family".to_owned()))
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
            let remote = address(remote_host, *remote_port, None)?;
            let local = address(host, *port, Some(remote))?;
            Datagrams::udp(local, remote, kind)
                .map_err(|e| format!("can't bind ip={} to socket: {e}", local.ip()))
        }
        (NetAddress::Unix(local), Some(NetAddress::Unix(remote))) => Datagrams::unix(local, remote)
            .map_err(|e| format!("failed to bind unix={} to socket: {e}", local.display())),
        _ => Err("remote and local types must be the same".to_owned()),
    }
}

/// Opens what `-netdev socket` describes.
pub(super) fn socket(
    config: &SocketNetdev,
    fds: &dyn FdSource,
) -> Result<Arc<dyn net::Netdev>, String> {
    match config {
        SocketNetdev::Datagram(config) => Ok(Arc::new(datagrams(config, "socket", fds)?)),
        SocketNetdev::Fd(fd) => {
            let socket = Datagrams::connected(resolve(fd, fds)?, "socket");
            Ok(Arc::new(socket.map_err(|e| e.to_string())?))
        }
        SocketNetdev::Stream(_) => Err("listen= and connect= are not supported yet".to_owned()),
    }
}
