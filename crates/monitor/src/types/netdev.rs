//! The kinds of netdevs: what each takes in `netdev_add`, for introspection and to check what a client sends.
//!
//! The values go on as they came: `config` reads them, as it reads `-netdev`, and has the last word. A test of the command line holds
//! what is listed here against what it takes.

use crate::error::QmpError;
use crate::qapi::{Members, Path, QapiType, qapi_struct};
use crate::schema::{Schema, SchemaMember};
use serde_json::{Map, Value};

qapi_struct! {
    /// `type=tap`.
    pub struct NetdevTapOptions {
        /// The interface.
        ifname: Option<String> = "ifname",
        /// An open tap.
        fd: Option<String> = "fd",
        /// Several, one a queue, with colons between.
        fds: Option<String> = "fds",
        /// Run when it comes up.
        script: Option<String> = "script",
        /// Run when it goes down.
        downscript: Option<String> = "downscript",
        /// The bridge for `helper`; refused.
        br: Option<String> = "br",
        /// A program that makes the tap; refused.
        helper: Option<String> = "helper",
        /// The send buffer, in bytes.
        sndbuf_bytes: Option<u64> = "sndbuf",
        /// Packets carry the virtio header.
        vnet_hdr: Option<bool> = "vnet_hdr",
        /// The kernel carries the packets.
        vhost: Option<bool> = "vhost",
        /// An open /dev/vhost-net.
        vhostfd: Option<String> = "vhostfd",
        /// Several, one a queue.
        vhostfds: Option<String> = "vhostfds",
        /// No falling back where the kernel does not carry them.
        vhostforce: Option<bool> = "vhostforce",
        /// Queue pairs.
        queues: Option<u32> = "queues",
        /// Taken, and of no effect.
        poll_us: Option<u32> = "poll-us",
    }

    /// `type=hubport`.
    pub struct NetdevHubPortOptions {
        /// The hub.
        hubid: i32 = "hubid",
        /// What is at this port in place of a NIC; refused.
        netdev: Option<String> = "netdev",
    }

    /// `type=socket`.
    pub struct NetdevSocketOptions {
        /// An open socket.
        fd: Option<String> = "fd",
        /// Where to listen.
        listen: Option<String> = "listen",
        /// Where to connect.
        connect: Option<String> = "connect",
        /// A multicast group; refused.
        mcast: Option<String> = "mcast",
        /// Where datagrams come from.
        localaddr: Option<String> = "localaddr",
        /// Where they go.
        udp: Option<String> = "udp",
    }

    /// `type=stream`.
    pub struct NetdevStreamOptions {
        /// Where.
        addr: NetdevAddress = "addr",
        /// Listen there.
        server: Option<bool> = "server",
        /// Connect again after so many seconds.
        reconnect_s: Option<i64> = "reconnect",
        /// The same in ms.
        reconnect_ms: Option<i64> = "reconnect-ms",
    }

    /// `type=dgram`.
    pub struct NetdevDgramOptions {
        /// Where datagrams come.
        local: Option<NetdevAddress> = "local",
        /// Where they go.
        remote: Option<NetdevAddress> = "remote",
    }

    /// `type=user`.
    pub struct NetdevUserOptions {
        /// The guest's name, told by DHCP.
        hostname: Option<String> = "hostname",
        /// No router and no name server are told.
        restrict: Option<bool> = "restrict",
        /// IPv4 is spoken, always.
        ipv4: Option<bool> = "ipv4",
        /// IPv6; refused.
        ipv6: Option<bool> = "ipv6",
        /// The network, by an older name.
        ip: Option<String> = "ip",
        /// The network.
        net: Option<String> = "net",
        /// The gateway.
        host: Option<String> = "host",
        /// The first address that DHCP gives.
        dhcpstart: Option<String> = "dhcpstart",
        /// The name server.
        dns: Option<String> = "dns",
        /// The domain, told by DHCP.
        domainname: Option<String> = "domainname",
    }

    /// An address of IP.
    pub struct NetdevInetAddress {
        /// Host name or address.
        host: String = "host",
        /// Port.
        port: String = "port",
        /// It is an address, and no name.
        numeric: Option<bool> = "numeric",
    }

    /// A Unix socket.
    pub struct NetdevUnixAddress {
        /// Its path.
        path: String = "path",
        /// It has a name, and no path; refused.
        is_abstract: Option<bool> = "abstract",
        /// The length of such a name.
        tight: Option<bool> = "tight",
    }

    /// An open socket.
    pub struct NetdevFdAddress {
        /// Its name or number.
        str: String = "str",
    }
}

/// The name of that type, and the kinds of address there are.
const ADDRESS: &str = "NetdevAddress";
const ADDRESS_TYPES: &[&str] = &["inet", "unix", "fd"];

/// Where a socket of a netdev is.
#[derive(Debug, Clone, PartialEq)]
pub enum NetdevAddress {
    /// IP.
    Inet(NetdevInetAddress),
    /// A path.
    Unix(NetdevUnixAddress),
    /// A descriptor.
    Fd(NetdevFdAddress),
}

impl QapiType for NetdevAddress {
    fn describe(schema: &mut Schema) -> String {
        schema.union(
            ADDRESS,
            "type",
            |schema| {
                let type_name = schema.enumeration("NetdevAddressType", ADDRESS_TYPES);
                vec![SchemaMember {
                    name: "type",
                    type_name,
                    optional: false,
                }]
            },
            |schema| {
                vec![
                    ("inet", NetdevInetAddress::describe(schema)),
                    ("unix", NetdevUnixAddress::describe(schema)),
                    ("fd", NetdevFdAddress::describe(schema)),
                ]
            },
        )
    }

    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        let mut members = Members::open(value, at)?;
        let kind: String = members.take("type")?;
        let rest = Value::Object(members.rest());
        Ok(match kind.as_str() {
            "inet" => Self::Inet(QapiType::decode(rest, at)?),
            "unix" => Self::Unix(QapiType::decode(rest, at)?),
            "fd" => Self::Fd(QapiType::decode(rest, at)?),
            _ => return Err(QmpError::not_accepted("type", &kind)),
        })
    }

    fn encode(&self) -> Value {
        let (kind, members) = match self {
            Self::Inet(address) => ("inet", address.encode()),
            Self::Unix(address) => ("unix", address.encode()),
            Self::Fd(address) => ("fd", address.encode()),
        };
        let mut object = Map::new();
        object.insert("type".to_owned(), kind.into());
        if let Value::Object(members) = members {
            object.extend(members);
        }
        Value::Object(object)
    }
}

/// What is known of one kind.
struct Kind {
    name: &'static str,
    describe: fn(&mut Schema) -> String,
    check: fn(Value) -> Result<(), QmpError>,
    options: fn(&mut Vec<NetdevOption>),
}

/// One of them by its type.
macro_rules! kind {
    ($name:literal, $type:ident) => {
        Kind {
            name: $name,
            describe: $type::describe,
            check: |members| $type::decode(members, &Path::ROOT).map(drop),
            options: |list| {
                let members = $type::schema_members(&mut Schema::default());
                options("", members, $type::ABOUT, list);
            },
        }
    };
}

const KINDS: &[Kind] = &[
    kind!("tap", NetdevTapOptions),
    kind!("hubport", NetdevHubPortOptions),
    kind!("dgram", NetdevDgramOptions),
    kind!("stream", NetdevStreamOptions),
    kind!("socket", NetdevSocketOptions),
    kind!("user", NetdevUserOptions),
];

/// What one kind of netdev takes, as a command line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevOption {
    /// `ifname`, or `addr.host` of an address.
    pub name: String,
    /// Its type: `str`, or the words that it may be.
    pub kind: String,
    /// What it is, in a few words.
    pub about: &'static str,
}

/// What a netdev of the kind `name` takes besides its id; nothing, if there is no such kind.
pub fn netdev_options(name: &str) -> Option<Vec<NetdevOption>> {
    let kind = KINDS.iter().find(|kind| kind.name == name)?;
    let mut list = Vec::new();
    (kind.options)(&mut list);
    Some(list)
}

/// Adds members to a list; those of an address each by itself, under the address's name.
fn options(
    prefix: &str,
    members: Vec<SchemaMember>,
    about: &'static [&'static str],
    list: &mut Vec<NetdevOption>,
) {
    for (member, about) in members.into_iter().zip(about) {
        let name = format!("{prefix}{}", member.name);
        let about = about.trim().trim_end_matches('.');
        if member.type_name != ADDRESS {
            list.push(NetdevOption {
                name,
                kind: member.type_name,
                about,
            });
            continue;
        }
        list.push(NetdevOption {
            name: format!("{name}.type"),
            kind: ADDRESS_TYPES.join("|"),
            about,
        });
        let schema = &mut Schema::default();
        let below = format!("{name}.");
        for (members, about) in [
            (
                NetdevInetAddress::schema_members(schema),
                NetdevInetAddress::ABOUT,
            ),
            (
                NetdevUnixAddress::schema_members(schema),
                NetdevUnixAddress::ABOUT,
            ),
            (
                NetdevFdAddress::schema_members(schema),
                NetdevFdAddress::ABOUT,
            ),
        ] {
            options(&below, members, about, list);
        }
    }
}

/// The members that each kind of `names` has besides the common ones.
pub(crate) fn netdev_variants(
    schema: &mut Schema,
    names: &[String],
) -> Vec<(&'static str, String)> {
    KINDS
        .iter()
        .filter(|kind| names.iter().any(|name| name == kind.name))
        .map(|kind| (kind.name, (kind.describe)(schema)))
        .collect()
}

/// Checks the members of a netdev of the kind `name`; whoever makes netdevs refuses a kind that is not known.
pub(crate) fn check_netdev(name: &str, members: &Map<String, Value>) -> Result<(), QmpError> {
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        return Ok(());
    };
    let mut members = members.clone();
    let id = members.shift_remove("id");
    String::decode(
        id.ok_or_else(|| QmpError::missing("id"))?,
        &Path::ROOT.member("id"),
    )?;
    (kind.check)(Value::Object(members))
}
