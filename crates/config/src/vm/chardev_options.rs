//! From options to a character device: `-chardev`, `chardev-add`, and the short forms of `-serial`, `-qmp`, `-monitor`.

use super::FdRef;
use super::chardev::{ChardevBackend, ChardevConfig, SocketAddress, SocketConfig};
use crate::error::{Error, Result};
use crate::syntax::{Options, Reader, Source, Value, nearest};

/// The back ends there are, with a line each: for `-chardev help` and the docs.
pub const CHARDEV_TYPES: &[(&str, &str)] = &[
    (
        "file",
        "path=[,append=on][,input-path=]: output to a file, or to a set of -add-fd (/dev/fdset/N)",
    ),
    ("null", "swallows all output, has no input"),
    (
        "pipe",
        "path=: the named pipes PATH.in and PATH.out, or PATH for both ways",
    ),
    (
        "pty",
        "[path=]: a pseudo-terminal of the host, with a symbolic link to it",
    ),
    (
        "ringbuf",
        "[size=]: the last bytes written, read by a monitor command",
    ),
    (
        "socket",
        "path=|host=,port=|fd=[,server=on][,wait=off][,reconnect-ms=]: a Unix or TCP socket",
    ),
    ("stdio", "[signal=off]: standard input and output"),
];

/// The back ends QEMU has and this program has not.
const NOT_HERE: &[&str] = &[
    "udp",
    "mux",
    "msmouse",
    "wctablet",
    "testdev",
    "vc",
    "console",
    "serial",
    "parallel",
    "braille",
    "spicevmc",
    "spiceport",
    "qemu-vdagent",
    "dbus",
    "hub",
    "memory",
    "tty",
];

/// What a short form such as `unix:/tmp/s,server=on` or `mon:stdio` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shorthand {
    /// `none`: no such front end.
    None,
    /// `chardev:ID`: a character device defined elsewhere.
    Existing(String),
    /// A character device of its own.
    Own {
        /// The device; its text is the short form.
        chardev: ChardevConfig,
        /// `mon:`: a human monitor shares it.
        with_monitor: bool,
    },
}

impl ChardevConfig {
    /// Reads the options of `-chardev` or the arguments of `chardev-add`.
    ///
    /// # Errors
    /// An unknown kind or option, a bad value, one that asks for what cannot be had, a malformed id.
    pub fn from_options(options: Options, source: Source) -> Result<Self> {
        let text = options.to_string();
        let mut options = options;
        if options.get("backend.type").is_some() {
            options = flatten_monitor_form(&options);
        }
        let mut reader = Reader::new(options, source);
        let kind = reader.required("backend")?;
        check_kind(&kind)?;
        let id = reader.id()?;
        let mux = reader.flag_or("mux", false)?;
        let logfile = reader.string("logfile")?.map(Into::into);
        let logappend = reader.flag_or("logappend", false)?;
        let backend = match kind.as_str() {
            "null" => ChardevBackend::Null,
            "stdio" => ChardevBackend::Stdio {
                signal: reader.flag_or("signal", true)?,
            },
            "socket" => ChardevBackend::Socket(socket(&mut reader)?),
            "file" => ChardevBackend::File {
                path: reader.required("path")?.into(),
                append: reader.flag_or("append", false)?,
                input_path: reader.string("input-path")?.map(Into::into),
            },
            "pty" => ChardevBackend::Pty {
                link: reader.string("path")?.map(Into::into),
            },
            "pipe" => ChardevBackend::Pipe {
                path: reader.required("path")?.into(),
            },
            _ => {
                let size_bytes = reader.size("size")?.unwrap_or(64 << 10);
                if !size_bytes.is_power_of_two() || size_bytes > MAX_RING_BYTES {
                    return Err(Error::other(
                        "size of ringbuf chardev must be a power of two, at most 1G",
                    ));
                }
                ChardevBackend::RingBuf { size_bytes }
            }
        };
        reader.finish()?;
        Ok(Self {
            id,
            backend,
            mux,
            logfile,
            logappend,
            option: "-chardev",
            text,
        })
    }

    /// Reads a short form: `unix:PATH,…`, `tcp:HOST:PORT,…`, `telnet:…`, `stdio`, `file:PATH`, `pipe:PATH`, `pty`,
    /// `null`, `none`, `chardev:ID`, `mon:…`. A device of its own gets the id `id`.
    ///
    /// # Errors
    /// An unknown form, a bad option in it.
    pub fn from_shorthand(id: &str, text: &str) -> Result<Shorthand> {
        if text == "none" {
            return Ok(Shorthand::None);
        }
        if let Some(existing) = text.strip_prefix("chardev:") {
            return Ok(Shorthand::Existing(existing.to_owned()));
        }
        let (form, with_monitor) = match text.strip_prefix("mon:") {
            Some(form) => (form, true),
            None => (text, false),
        };
        let mut options = shorthand_options(form)?;
        options.set("id", Value::from(id));
        if with_monitor {
            options.set("mux", Value::from("on"));
            if form == "stdio" {
                // Ctrl-C is for the guest; Ctrl-A x ends the machine.
                options.set("signal", Value::from("off"));
            }
        }
        let mut chardev = Self::from_options(options, Source::CommandLine)?;
        chardev.text = text.to_owned();
        Ok(Shorthand::Own {
            chardev,
            with_monitor,
        })
    }
}

/// The largest ring kept in memory.
const MAX_RING_BYTES: u64 = 1 << 30;

fn check_kind(kind: &str) -> Result<()> {
    if CHARDEV_TYPES.iter().any(|(name, _)| *name == kind) {
        return Ok(());
    }
    let names = || CHARDEV_TYPES.iter().map(|(name, _)| *name);
    if NOT_HERE.contains(&kind) {
        let list = names().collect::<Vec<_>>().join(", ");
        return Err(Error::Other(format!(
            "chardev backend '{kind}' is not supported; there are {list}"
        )));
    }
    let hint = nearest(kind, names())
        .map_or_else(String::new, |near| format!(" (did you mean '{near}'?)"));
    Err(Error::Other(format!(
        "'{kind}' is not a valid char driver name{hint}"
    )))
}

fn shorthand_options(form: &str) -> Result<Options> {
    let with_kind = |kind: &str, mut options: Options| {
        options.set("backend", Value::from(kind));
        options
    };
    let (kind, rest) = form.split_once(':').unwrap_or((form, ""));
    let single = |key: &str| {
        let mut options = Options::new();
        options.set(key, Value::from(rest));
        options
    };
    Ok(match (kind, form.contains(':')) {
        ("null" | "stdio", false) => with_kind(kind, Options::new()),
        // There is no display whose virtual console this could be.
        ("vc", _) => with_kind("null", Options::new()),
        ("pty", false) => with_kind("pty", Options::new()),
        ("pty", true) => with_kind("pty", single("path")),
        ("file" | "pipe", true) => with_kind(kind, single("path")),
        ("unix", true) => with_kind("socket", Options::parse(rest, Some("path"))?),
        ("tcp" | "telnet", true) => {
            let mut options = Options::parse(rest, Some("address"))?;
            let address = options
                .remove("address")
                .map(|value| value.text())
                .unwrap_or_default();
            let (host, port) = split_host_port(&address)?;
            options.set("host", Value::Text(host));
            options.set("port", Value::Text(port));
            if kind == "telnet" {
                options.set("telnet", Value::from("on"));
            }
            with_kind("socket", options)
        }
        _ => {
            return Err(Error::Other(format!(
                "'{form}' is not a character device; use unix:PATH, tcp:HOST:PORT, stdio, file:PATH, pipe:PATH, pty, null, none or chardev:ID"
            )));
        }
    })
}

/// Splits `HOST:PORT` and `[HOST]:PORT`.
fn split_host_port(address: &str) -> Result<(String, String)> {
    let bad = || Error::Other(format!("'{address}' is not an address; expected HOST:PORT"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(bad)?,
        None if host.contains(':') => return Err(bad()),
        None => host,
    };
    Ok((host.to_owned(), port.to_owned()))
}

fn socket(reader: &mut Reader) -> Result<SocketConfig> {
    let source = reader.source();
    let path = reader.string("path")?;
    let host = reader.string("host")?;
    let port = reader.number("port", 0, 65535)?;
    let fd = reader.string("fd")?;
    let address = match (path, host.is_some() || port.is_some(), fd) {
        (Some(path), false, None) => SocketAddress::Unix {
            abstract_name: reader.flag_or("abstract", false)?,
            tight: reader.flag_or("tight", true)?,
            path: check_unix_path(path)?.into(),
        },
        (None, true, None) => {
            let Some(port) = port else {
                return Err(Error::other("chardev: socket: no port given"));
            };
            SocketAddress::Tcp {
                host: host.unwrap_or_default(),
                port: u16::try_from(port).unwrap_or(0),
                to: reader
                    .number("to", 0, 65535)?
                    .and_then(|to| u16::try_from(to).ok()),
                ipv4: reader.flag("ipv4")?,
                ipv6: reader.flag("ipv6")?,
            }
        }
        (None, false, Some(fd)) => SocketAddress::Fd(FdRef::parse("fd", &fd, source)?),
        (None, false, None) => {
            return Err(Error::other(
                "chardev: socket: no address given; give path=, host= and port=, or fd=",
            ));
        }
        _ => {
            return Err(Error::other(
                "None or one of 'path', 'fd' or 'host' option required.",
            ));
        }
    };
    let server = reader.flag_or("server", false)?;
    let wait = reader.flag("wait")?;
    if wait.is_some() && !server {
        return Err(Error::other(
            "'wait' option is incompatible with socket in client connect mode",
        ));
    }
    let reconnect_s = reader.number("reconnect", 0, u64::from(u32::MAX))?;
    let reconnect_ms = reader.number("reconnect-ms", 0, u64::from(u32::MAX))?;
    if reconnect_s.is_some() && reconnect_ms.is_some() {
        return Err(Error::other(
            "'reconnect' and 'reconnect-ms' are mutually exclusive",
        ));
    }
    let reconnect_ms = reconnect_ms
        .or(reconnect_s.map(|s| s.saturating_mul(1000)))
        .unwrap_or(0);
    if reconnect_ms != 0 && server {
        return Err(Error::other(
            "'reconnect' option is incompatible with 'server' mode",
        ));
    }
    let nodelay = match (reader.flag("nodelay")?, reader.flag("delay")?) {
        (Some(nodelay), _) => nodelay,
        (None, Some(delay)) => !delay,
        (None, None) => false,
    };
    for refused in ["telnet", "websocket", "tn3270"] {
        if reader.flag_or(refused, false)? {
            return Err(Error::Other(format!(
                "{refused}=on is not supported; use a plain socket, as tcp:HOST:PORT"
            )));
        }
    }
    for refused in ["tls-creds", "tls-authz"] {
        if reader.string(refused)?.is_some() {
            return Err(Error::Other(format!(
                "{refused}= is not supported; use a Unix socket or an SSH tunnel"
            )));
        }
    }
    Ok(SocketConfig {
        address,
        server,
        wait: server && wait.unwrap_or(true),
        nodelay,
        reconnect_ms,
    })
}

/// The room for a path in `struct sockaddr_un`, its final zero left out.
const MAX_UNIX_PATH: usize = 107;

fn check_unix_path(path: String) -> Result<String> {
    if path.is_empty() {
        return Err(Error::BadValue {
            name: "path".to_owned(),
            expected: "a path".to_owned(),
        });
    }
    if path.len() > MAX_UNIX_PATH {
        return Err(Error::Other(format!(
            "UNIX socket path '{path}' is too long: path must be less than {} bytes",
            MAX_UNIX_PATH + 1
        )));
    }
    Ok(path)
}

/// `chardev-add` nests what `-chardev` has flat: `backend.data.addr.data.path` is `path`.
fn flatten_monitor_form(options: &Options) -> Options {
    let mut flat = Options::new();
    for (key, value) in options.iter() {
        let name = key
            .strip_prefix("backend.data.addr.data.")
            .or_else(|| key.strip_prefix("backend.data.addr."))
            .or_else(|| key.strip_prefix("backend.data."))
            .unwrap_or(key);
        let name = match (key, name) {
            ("backend.type", _) => "backend",
            ("backend.data.addr.type", _) => continue,
            // A descriptor's address is {"type": "fd", "data": {"str": NAME}}.
            (_, "str") => "fd",
            ("backend.data.out", _) => "path",
            ("backend.data.in", _) => "input-path",
            ("backend.data.device", _) => "path",
            _ => name,
        };
        flat.set(name, value.clone());
    }
    flat
}
