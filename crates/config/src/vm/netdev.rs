//! The host side of a NIC: `-netdev` and `netdev_add`.

mod sockets;
mod user;

pub use sockets::{DatagramConfig, NetAddress, SocketNetdev, StreamConfig};
pub use user::UserConfig;

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::syntax::{Options, Reader, Source};

/// A network back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevConfig {
    /// `id=`: what a NIC's `netdev=` names.
    pub id: String,
    /// What is behind it.
    pub backend: NetdevBackend,
    /// The option's argument as the user wrote it: for messages.
    pub text: String,
}

/// The kinds of network back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetdevBackend {
    /// A tap interface.
    Tap(TapConfig),
    /// A port of a hub in this process.
    HubPort(HubPortConfig),
    /// Frames as datagrams.
    Datagram(DatagramConfig),
    /// Frames over a stream.
    Stream(StreamConfig),
    /// Either, by the older syntax.
    Socket(SocketNetdev),
    /// A network inside this process.
    User(UserConfig),
}

/// `-netdev hubport`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPortConfig {
    /// `hubid=`: the hub; it exists while it has ports.
    pub hub_id: i32,
}

/// A descriptor named by a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FdRef {
    /// The number of an inherited descriptor.
    Number(i32),
    /// The name under which a monitor client handed it over with `getfd`.
    Name(String),
}

/// A script run when a tap comes up or goes down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapScript {
    /// `script=no`.
    No,
    /// Not given: /etc/qemu-ifup or /etc/qemu-ifdown, if it is there.
    Default,
    /// A program of the user's, called with the interface's name.
    Path(PathBuf),
}

/// Where the tap comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSource {
    /// Open /dev/net/tun.
    Open {
        /// `ifname=`; `None` lets the kernel choose.
        ifname: Option<String>,
        /// `script=`.
        script: TapScript,
        /// `downscript=`.
        downscript: TapScript,
    },
    /// `fd=` or `fds=`: descriptors of an open tap, one a queue.
    Fds(Vec<FdRef>),
}

/// `-netdev tap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapConfig {
    /// Where it comes from.
    pub source: TapSource,
    /// Queue pairs: `queues=`, or the number of descriptors.
    pub queues: u16,
    /// `vhost=`: let the kernel's vhost-net carry the packets.
    pub vhost: bool,
    /// `vhostforce=`: fail rather than fall back when vhost-net cannot be had.
    pub vhost_force: bool,
    /// `vhostfd=`, `vhostfds=`: descriptors of /dev/vhost-net, one a queue; empty to open them.
    pub vhost_fds: Vec<FdRef>,
    /// `vnet_hdr=`: packets carry the virtio header.
    pub vnet_hdr: bool,
    /// `sndbuf=`, bytes.
    pub sndbuf_bytes: Option<u64>,
}

/// The back ends QEMU has and this program has not.
const NOT_HERE: &[&str] = &[
    "bridge",
    "l2tpv3",
    "vde",
    "netmap",
    "vhost-user",
    "vhost-vdpa",
    "af-xdp",
    "passt",
];

/// The back ends there are, with a line each: for `-netdev help` and the docs.
pub const NETDEV_TYPES: &[(&str, &str)] = &[
    (
        "tap",
        "a tap interface of the host, made here or handed over by fd=",
    ),
    (
        "hubport",
        "a port of hub hubid= in this process: what comes in at one goes out at all others",
    ),
    (
        "dgram",
        "frames as datagrams: local.type=inet, unix or fd, and a remote of the same kind",
    ),
    (
        "stream",
        "frames over a stream, each after its length: addr.type=inet, unix or fd, server=on to listen",
    ),
    (
        "socket",
        "the older form of both: listen= or connect=, udp= with localaddr=, or fd=",
    ),
    (
        "user",
        "a network inside this process with a gateway, DHCP and no way outside",
    ),
];

/// Most queue pairs a tap may have; the kernel's limit.
const MAX_QUEUES: u64 = 256;

impl NetdevConfig {
    /// Reads the options of `-netdev` or the arguments of `netdev_add`.
    ///
    /// # Errors
    /// An unknown kind or option, a bad value, one that asks for what cannot be had, a malformed id.
    pub fn from_options(options: Options, source: Source) -> Result<Self> {
        let text = options.to_string();
        let mut reader = Reader::new(options, source);
        let kind = reader.required("type")?;
        if NOT_HERE.contains(&kind.as_str()) {
            return Err(Error::Other(format!(
                "netdev type '{kind}' is not supported; use type 'tap'"
            )));
        }
        if !NETDEV_TYPES.iter().any(|(name, _)| *name == kind) {
            return Err(Error::Other(format!(
                "Parameter 'type' does not accept value '{kind}'"
            )));
        }
        let id = reader.id()?;
        let backend = match kind.as_str() {
            "hubport" => NetdevBackend::HubPort(hubport(&mut reader)?),
            "dgram" => NetdevBackend::Datagram(sockets::dgram(&mut reader)?),
            "stream" => NetdevBackend::Stream(sockets::stream(&mut reader)?),
            "socket" => NetdevBackend::Socket(sockets::socket(&mut reader)?),
            "user" => NetdevBackend::User(user::user(&mut reader)?),
            _ => NetdevBackend::Tap(tap(&mut reader)?),
        };
        reader.finish()?;
        Ok(Self { id, backend, text })
    }
}

impl FdRef {
    /// Reads a descriptor: a number, or (for a monitor) the name it was handed over with.
    ///
    /// # Errors
    /// Neither.
    pub fn parse(key: &str, text: &str, source: Source) -> Result<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            if let Ok(number) = text.parse() {
                return Ok(Self::Number(number));
            }
        } else if source == Source::Monitor && !text.is_empty() {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(Error::BadValue {
            name: key.to_owned(),
            expected: match source {
                Source::CommandLine => {
                    format!("the number of an inherited file descriptor, not '{text}'")
                }
                Source::Monitor => {
                    format!("a file descriptor's number or getfd name, not '{text}'")
                }
            },
        })
    }

    fn parse_list(key: &str, text: &str, source: Source) -> Result<Vec<Self>> {
        text.split(':')
            .map(|part| Self::parse(key, part, source))
            .collect()
    }
}

fn hubport(reader: &mut Reader) -> Result<HubPortConfig> {
    if reader.string("netdev")?.is_some() {
        return Err(Error::other(
            "netdev= is not supported: a NIC is on the port; give the other netdev a NIC of its own",
        ));
    }
    let hub_id = reader
        .number("hubid", 0, i32::MAX.unsigned_abs().into())?
        .ok_or_else(|| Error::Missing("hubid".to_owned()))?;
    Ok(HubPortConfig {
        hub_id: i32::try_from(hub_id).unwrap_or(i32::MAX),
    })
}

fn tap(reader: &mut Reader) -> Result<TapConfig> {
    let source = reader.source();
    let ifname = reader.string("ifname")?;
    let script = reader.string("script")?;
    let downscript = reader.string("downscript")?;
    let helper = reader.string("helper")?;
    let bridge = reader.string("br")?;
    let queues = reader.number("queues", 1, MAX_QUEUES)?;
    let fd = reader.string("fd")?;
    let fds = reader.string("fds")?;
    let vhost = reader.flag("vhost")?;
    let vhost_force = reader.flag_or("vhostforce", false)?;
    let vhostfd = reader.string("vhostfd")?;
    let vhostfds = reader.string("vhostfds")?;
    let vnet_hdr = reader.flag_or("vnet_hdr", true)?;
    let sndbuf_bytes = reader.size("sndbuf")?;
    reader.ignore(&["poll-us"]);

    if helper.is_some() || bridge.is_some() {
        return Err(Error::other(
            "helper= and br= are not supported; make the tap beforehand and name it by ifname=",
        ));
    }
    let tap_fds = match (fd, fds) {
        (Some(_), Some(_)) => return Err(Error::other("fd= and fds= cannot be given together")),
        (Some(fd), None) => Some(vec![FdRef::parse("fd", &fd, source)?]),
        (None, Some(fds)) => Some(FdRef::parse_list("fds", &fds, source)?),
        (None, None) => None,
    };
    let vhost_fds = match (vhostfd, vhostfds) {
        (Some(_), Some(_)) => {
            return Err(Error::other(
                "vhostfd= and vhostfds= cannot be given together",
            ));
        }
        (Some(fd), None) => vec![FdRef::parse("vhostfd", &fd, source)?],
        (None, Some(fds)) => FdRef::parse_list("vhostfds", &fds, source)?,
        (None, None) => Vec::new(),
    };
    let given_queues = queues;
    let (source, queues) = match tap_fds {
        Some(fds) => {
            if ifname.is_some()
                || script.is_some()
                || downscript.is_some()
                || given_queues.is_some()
            {
                return Err(Error::other(
                    "ifname=, script=, downscript= and queues= are invalid with fd= and fds=",
                ));
            }
            let queues = fds.len() as u64;
            if queues > MAX_QUEUES {
                return Err(Error::Other(format!(
                    "fds= names more than {MAX_QUEUES} descriptors"
                )));
            }
            (TapSource::Fds(fds), queues)
        }
        None => {
            if let Some(name) = &ifname {
                check_ifname(name)?;
            }
            let script = TapScript::from_option(script);
            let downscript = TapScript::from_option(downscript);
            (
                TapSource::Open {
                    ifname,
                    script,
                    downscript,
                },
                given_queues.unwrap_or(1),
            )
        }
    };
    if !vhost_fds.is_empty() {
        if vhost == Some(false) {
            return Err(Error::other(
                "vhostfd= and vhostfds= are invalid with vhost=off",
            ));
        }
        if vhost_fds.len() as u64 != queues {
            return Err(Error::other(
                "The number of fds passed does not match the number of vhostfds passed",
            ));
        }
    }
    Ok(TapConfig {
        source,
        queues: u16::try_from(queues).unwrap_or(1),
        vhost: vhost.unwrap_or(vhost_force || !vhost_fds.is_empty()),
        vhost_force,
        vhost_fds,
        vnet_hdr,
        sndbuf_bytes,
    })
}

impl TapScript {
    fn from_option(option: Option<String>) -> Self {
        match option.as_deref() {
            None => Self::Default,
            Some("no" | "") => Self::No,
            Some(path) => Self::Path(path.into()),
        }
    }
}

/// An interface name the kernel would take (a `%d` in it lets the kernel number).
fn check_ifname(name: &str) -> Result<()> {
    let ok = !name.is_empty()
        && name.len() <= 15
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if ok {
        Ok(())
    } else {
        Err(Error::BadValue {
            name: "ifname".to_owned(),
            expected: format!("an interface name of at most 15 characters, not '{name}'"),
        })
    }
}
