//! Frames over sockets: `-netdev dgram`, `-netdev stream`, and the older `-netdev socket`.

use std::path::PathBuf;

use super::FdRef;
use crate::error::{Error, Result};
use crate::syntax::Reader;

/// Where a socket of a netdev is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetAddress {
    /// UDP or TCP over IP.
    Inet {
        /// Host name or address; empty is all interfaces.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket's path.
    Unix(PathBuf),
    /// An open socket.
    Fd(FdRef),
}

/// `-netdev dgram`: a frame a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatagramConfig {
    /// `local.…=`: where frames arrive.
    pub local: NetAddress,
    /// `remote.…=`: where they go, of the same kind; `None` for a descriptor, which is connected.
    pub remote: Option<NetAddress>,
}

/// `-netdev stream`: frames one after the other, each after its length (4 bytes, big endian).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// `addr.…=`.
    pub address: NetAddress,
    /// `server=`: listen for one client at a time instead of connecting.
    pub server: bool,
    /// `reconnect-ms=` or `reconnect=`: connect again so long after a connection ended or failed; 0 for never.
    pub reconnect_ms: u64,
}

/// `-netdev socket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketNetdev {
    /// `listen=` or `connect=`.
    Stream(StreamConfig),
    /// `udp=` and `localaddr=`.
    Datagram(DatagramConfig),
    /// `fd=`: a connected socket, of datagrams or a stream as it turns out.
    Fd(FdRef),
}

/// The longest a path of a Unix socket can be, in bytes.
const UNIX_PATH_MAX: usize = 107;

/// One round of reconnecting a day is often enough.
const RECONNECT_MS_MAX: u64 = 86_400_000;

fn port_of(key: &str, text: &str) -> Result<u16> {
    text.parse().map_err(|_| Error::BadValue {
        name: key.to_owned(),
        expected: format!("a port number, not '{text}'"),
    })
}

fn path_of(key: &str, text: String) -> Result<NetAddress> {
    if text.is_empty() || text.len() > UNIX_PATH_MAX || text.contains('\0') {
        return Err(Error::BadValue {
            name: key.to_owned(),
            expected: format!("the path of a socket, at most {UNIX_PATH_MAX} bytes long"),
        });
    }
    Ok(NetAddress::Unix(text.into()))
}

/// Reads an address from `key.type` and its fellows; `None` if there is none.
fn address(reader: &mut Reader, key: &str) -> Result<Option<NetAddress>> {
    let member = |name: &str| format!("{key}.{name}");
    let Some(kind) = reader.string(&member("type"))? else {
        return Ok(None);
    };
    match kind.as_str() {
        "inet" => {
            reader.ignore(&[&member("numeric")]);
            let host = reader.required(&member("host"))?;
            let port = member("port");
            let port = port_of(&port, &reader.required(&port)?)?;
            Ok(Some(NetAddress::Inet { host, port }))
        }
        "unix" => {
            let abstract_key = member("abstract");
            if reader.flag_or(&abstract_key, false)? {
                return Err(Error::Other(format!(
                    "{abstract_key}=on is not supported; give a path"
                )));
            }
            reader.ignore(&[&member("tight")]);
            let path = member("path");
            Ok(Some(path_of(&path, reader.required(&path)?)?))
        }
        "fd" => {
            let name = member("str");
            let text = reader.required(&name)?;
            let fd = FdRef::parse(&name, &text, reader.source())?;
            Ok(Some(NetAddress::Fd(fd)))
        }
        "vsock" => Err(Error::Other(format!(
            "{key}.type=vsock is not supported; use inet, unix or fd"
        ))),
        other => Err(Error::Other(format!(
            "Parameter 'type' does not accept value '{other}'"
        ))),
    }
}

/// `HOST:PORT` of the older syntax.
fn host_port(text: &str) -> Result<NetAddress> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Error::Other(format!(
            "host address '{text}' doesn't contain ':' separating host from port"
        )));
    };
    let port = port
        .parse()
        .map_err(|_| Error::Other(format!("port number '{port}' is invalid")))?;
    Ok(NetAddress::Inet {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
    })
}

pub(super) fn dgram(reader: &mut Reader) -> Result<DatagramConfig> {
    let local = address(reader, "local")?;
    let remote = address(reader, "remote")?;
    match (local, remote) {
        (None, Some(NetAddress::Inet { host, .. })) if is_multicast(&host) => {
            Err(multicast_refused())
        }
        (None, _) => Err(Error::other("dgram requires local= parameter")),
        (Some(NetAddress::Fd(_)), Some(_)) => Err(Error::other("don't set remote with local.fd")),
        (Some(local @ NetAddress::Fd(_)), None) => Ok(DatagramConfig {
            local,
            remote: None,
        }),
        (Some(_), None) => Err(Error::other(
            "type=inet or type=unix requires remote parameter",
        )),
        (Some(local), Some(remote)) => {
            if std::mem::discriminant(&local) != std::mem::discriminant(&remote) {
                return Err(Error::other("remote and local types must be the same"));
            }
            if let NetAddress::Inet { host, .. } = &remote
                && is_multicast(host)
            {
                return Err(multicast_refused());
            }
            Ok(DatagramConfig {
                local,
                remote: Some(remote),
            })
        }
    }
}

fn is_multicast(host: &str) -> bool {
    host.parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_multicast())
}

fn multicast_refused() -> Error {
    Error::other("multicast is not supported; give the address of one peer, or use type 'hubport'")
}

pub(super) fn stream(reader: &mut Reader) -> Result<StreamConfig> {
    let address = address(reader, "addr")?.ok_or_else(|| Error::Missing("addr".to_owned()))?;
    let server = reader.flag_or("server", false)?;
    let seconds = reader.number("reconnect", 0, RECONNECT_MS_MAX / 1000)?;
    let milliseconds = reader.number("reconnect-ms", 0, RECONNECT_MS_MAX)?;
    if seconds.is_some() && milliseconds.is_some() {
        return Err(Error::other(
            "'reconnect' and 'reconnect-ms' are mutually exclusive",
        ));
    }
    let given = milliseconds.or(seconds.map(|s| s * 1000));
    if server && given.is_some() {
        return Err(Error::other(
            "'reconnect' and 'reconnect-ms' options are incompatible with socket in server mode",
        ));
    }
    Ok(StreamConfig {
        address,
        server,
        reconnect_ms: given.unwrap_or(0),
    })
}

pub(super) fn socket(reader: &mut Reader) -> Result<SocketNetdev> {
    let fd = reader.string("fd")?;
    let listen = reader.string("listen")?;
    let connect = reader.string("connect")?;
    let mcast = reader.string("mcast")?;
    let udp = reader.string("udp")?;
    let localaddr = reader.string("localaddr")?;
    let given = [&fd, &listen, &connect, &mcast, &udp];
    if given.into_iter().flatten().count() != 1 {
        return Err(Error::other(
            "exactly one of listen=, connect=, mcast= or udp= is required",
        ));
    }
    if localaddr.is_some() && udp.is_none() && mcast.is_none() {
        return Err(Error::other("localaddr= is only valid with mcast= or udp="));
    }
    let stream = |address, server| {
        SocketNetdev::Stream(StreamConfig {
            address,
            server,
            reconnect_ms: 0,
        })
    };
    if let Some(fd) = fd {
        return Ok(SocketNetdev::Fd(FdRef::parse("fd", &fd, reader.source())?));
    }
    if let Some(listen) = listen {
        return Ok(stream(host_port(&listen)?, true));
    }
    if let Some(connect) = connect {
        return Ok(stream(host_port(&connect)?, false));
    }
    let Some(udp) = udp else {
        return Err(multicast_refused());
    };
    let Some(local) = localaddr else {
        return Err(Error::other("localaddr= is mandatory with udp="));
    };
    Ok(SocketNetdev::Datagram(DatagramConfig {
        local: host_port(&local)?,
        remote: Some(host_port(&udp)?),
    }))
}
