//! Where a stream goes: the uris of `migrate` and `-incoming`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A migration address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `tcp:HOST:PORT`; an empty host is every address of this host.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `fd:NAME`, a descriptor handed in before.
    Fd(String),
    /// `exec:COMMAND`, run by `/bin/sh`; the stream is its standard input or output.
    Exec(String),
    /// `file:PATH[,offset=N]`.
    File {
        /// The file.
        path: PathBuf,
        /// Where in it the stream begins, in bytes.
        offset_bytes: u64,
    },
}

/// A uri that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another protocol.
    #[error("unknown migration protocol: {0}")]
    UnknownProtocol(String),
    /// `tcp:` without a usable port.
    #[error("error parsing address '{0}'")]
    Port(String),
    /// `unix:` without a path.
    #[error("invalid Unix socket address")]
    Unix,
    /// A protocol followed by nothing.
    #[error("migration address '{0}' is incomplete: expected {1}")]
    Incomplete(String, &'static str),
    /// `offset=` with no number.
    #[error("'{0}' is not an offset: expected a number of bytes, as in file:PATH,offset=4096")]
    Offset(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(uri: &str) -> Result<Self, AddressError> {
        let incomplete = |form| AddressError::Incomplete(uri.to_owned(), form);
        let Some((protocol, rest)) = uri.split_once(':') else {
            return Err(AddressError::UnknownProtocol(uri.to_owned()));
        };
        match protocol {
            "tcp" => {
                let (host, port) = rest
                    .rsplit_once(':')
                    .ok_or_else(|| AddressError::Port(rest.to_owned()))?;
                let port = port
                    .parse()
                    .map_err(|_| AddressError::Port(rest.to_owned()))?;
                let host = host
                    .strip_prefix('[')
                    .and_then(|host| host.strip_suffix(']'))
                    .unwrap_or(host);
                Ok(Self::Tcp {
                    host: host.to_owned(),
                    port,
                })
            }
            "unix" if rest.is_empty() => Err(AddressError::Unix),
            "unix" => Ok(Self::Unix(rest.into())),
            "fd" if rest.is_empty() => Err(incomplete("fd:NAME")),
            "fd" => Ok(Self::Fd(rest.to_owned())),
            "exec" if rest.is_empty() => Err(incomplete("exec:COMMAND")),
            "exec" => Ok(Self::Exec(rest.to_owned())),
            "file" => {
                let (path, offset_bytes) = match rest.rsplit_once(",offset=") {
                    Some((path, offset)) => (path, parse_offset(offset)?),
                    None => (rest, 0),
                };
                if path.is_empty() {
                    return Err(incomplete("file:PATH"));
                }
                Ok(Self::File {
                    path: path.into(),
                    offset_bytes,
                })
            }
            _ => Err(AddressError::UnknownProtocol(uri.to_owned())),
        }
    }
}

impl Address {
    /// Whether somebody has to be reached over a network, or a socket, which may take its time.
    #[must_use]
    pub const fn is_of_network(&self) -> bool {
        matches!(self, Self::Tcp { .. } | Self::Unix(_))
    }
}

/// A number of bytes: decimal or `0x…`, with an optional binary suffix k, M, G.
fn parse_offset(text: &str) -> Result<u64, AddressError> {
    let wrong = || AddressError::Offset(text.to_owned());
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).map_err(|_| wrong());
    }
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(name) => write!(f, "fd:{name}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::File {
                path,
                offset_bytes: 0,
            } => write!(f, "file:{}", path.display()),
            Self::File { path, offset_bytes } => {
                write!(f, "file:{},offset={offset_bytes}", path.display())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_and_shown() {
        for (uri, shown) in [
            ("tcp:10.0.0.2:4444", "tcp:10.0.0.2:4444"),
            ("tcp:[::]:4444", "tcp:[::]:4444"),
            ("tcp::4444", "tcp::4444"),
            ("unix:/run/m.sock", "unix:/run/m.sock"),
            ("fd:mig", "fd:mig"),
            ("exec:cat >/tmp/x:y", "exec:cat >/tmp/x:y"),
            ("file:/a,b,offset=0x1000", "file:/a,b,offset=4096"),
            ("file:/a,offset=2k", "file:/a,offset=2048"),
        ] {
            assert_eq!(uri.parse::<Address>().unwrap().to_string(), shown);
        }
        assert_eq!(
            "tcp:[fe80::1]:1".parse(),
            Ok(Address::Tcp {
                host: "fe80::1".to_owned(),
                port: 1
            })
        );
    }

    #[test]
    fn wrong_uris_say_what_is_wrong() {
        for (uri, text) in [
            ("bogus:xx", "unknown migration protocol: bogus:xx"),
            ("nonsense", "unknown migration protocol: nonsense"),
            ("tcp:host", "error parsing address 'host'"),
            ("tcp:host:99999", "error parsing address 'host:99999'"),
            ("unix:", "invalid Unix socket address"),
            (
                "file:/a,offset=é",
                "'é' is not an offset: expected a number of bytes, as in file:PATH,offset=4096",
            ),
            (
                "file:/a,offset=99999999999999999G",
                "'99999999999999999G' is not an offset: expected a number of bytes, as in file:PATH,offset=4096",
            ),
        ] {
            assert_eq!(uri.parse::<Address>().unwrap_err().to_string(), text);
        }
    }
}
