//! Addresses of sockets.

use crate::error::QmpError;
use crate::qapi::{Members, Path, QapiType, describe_member};
use crate::schema::{Schema, SchemaMember};
use serde_json::{Map, Value};

/// Where a socket listens, or connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// TCP.
    Inet {
        /// Host name or address.
        host: String,
        /// Port number or service name.
        port: String,
        /// Of IPv4.
        ipv4: Option<bool>,
        /// Of IPv6.
        ipv6: Option<bool>,
    },
    /// A unix socket.
    Unix {
        /// Its path.
        path: String,
    },
    /// A descriptor: a name given by `getfd`, or a number.
    Fd {
        /// The name or number.
        str: String,
    },
}

impl SocketAddress {
    /// Takes the address out of an object that may have other members.
    pub(crate) fn take(members: &mut Members<'_>) -> Result<Self, QmpError> {
        let kind: String = members.take("type")?;
        Ok(match kind.as_str() {
            "inet" => Self::Inet {
                host: members.take("host")?,
                port: members.take("port")?,
                ipv4: members.take("ipv4")?,
                ipv6: members.take("ipv6")?,
            },
            "unix" => Self::Unix {
                path: members.take("path")?,
            },
            "fd" => Self::Fd {
                str: members.take("str")?,
            },
            _ => return Err(QmpError::not_accepted("type", &kind)),
        })
    }

    /// The members of its object.
    pub(crate) fn members(&self) -> Map<String, Value> {
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        match self {
            Self::Inet {
                host,
                port,
                ipv4,
                ipv6,
            } => {
                put("type", "inet".into());
                put("host", host.as_str().into());
                put("port", port.as_str().into());
                for (name, on) in [("ipv4", ipv4), ("ipv6", ipv6)] {
                    if let Some(on) = on {
                        put(name, (*on).into());
                    }
                }
            }
            Self::Unix { path } => {
                put("type", "unix".into());
                put("path", path.as_str().into());
            }
            Self::Fd { str } => {
                put("type", "fd".into());
                put("str", str.as_str().into());
            }
        }
        object
    }
}

impl QapiType for SocketAddress {
    fn describe(schema: &mut Schema) -> String {
        schema.union(
            "SocketAddress",
            "type",
            |schema| {
                let type_name = schema.enumeration("SocketAddressType", &["inet", "unix", "fd"]);
                vec![SchemaMember {
                    name: "type",
                    type_name,
                    optional: false,
                }]
            },
            |schema| {
                let inet = schema.object("InetSocketAddress", |schema| {
                    vec![
                        describe_member::<String>(schema, "host"),
                        describe_member::<String>(schema, "port"),
                        describe_member::<Option<bool>>(schema, "ipv4"),
                        describe_member::<Option<bool>>(schema, "ipv6"),
                    ]
                });
                let unix = schema.object("UnixSocketAddress", |schema| {
                    vec![describe_member::<String>(schema, "path")]
                });
                let fd = schema.object("FdSocketAddress", |schema| {
                    vec![describe_member::<String>(schema, "str")]
                });
                vec![("inet", inet), ("unix", unix), ("fd", fd)]
            },
        )
    }

    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        let mut members = Members::open(value, at)?;
        let address = Self::take(&mut members)?;
        members.finish()?;
        Ok(address)
    }

    fn encode(&self) -> Value {
        Value::Object(self.members())
    }
}
