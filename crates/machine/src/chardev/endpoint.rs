//! What is behind a character device.

use super::file;
use crate::network::FdSource;
use config::vm::{ChardevBackend, FdRef, SocketAddress, SocketConfig};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

type Input = Option<Box<dyn Read + Send>>;
type Connection = (Input, Box<dyn Write + Send>);

enum Kind {
    Unix {
        listener: UnixListener,
        path: Option<PathBuf>,
    },
    Tcp(TcpListener),
    /// Connects again so long after a connection ended or failed.
    Client {
        address: SocketAddress,
        nodelay: bool,
        again: Duration,
    },
    /// Connected at the start, once.
    Once,
}

/// An open socket, file, terminal or pipe.
pub(crate) struct Endpoint {
    kind: Kind,
    filename: String,
    /// A connection made while opening: the first of a server that waits, or the only one.
    first: Mutex<Option<Connection>>,
    /// The symbolic link to a pseudo-terminal of ours.
    link: Option<(PathBuf, PathBuf)>,
}

fn unix_pair(stream: UnixStream) -> io::Result<Connection> {
    let input = stream.try_clone()?;
    Ok((Some(Box::new(input)), Box::new(stream)))
}

fn tcp_pair(stream: TcpStream, nodelay: bool) -> io::Result<Connection> {
    stream.set_nodelay(nodelay)?;
    let input = stream.try_clone()?;
    Ok((Some(Box::new(input)), Box::new(stream)))
}

fn file_pair(file: File) -> io::Result<Connection> {
    let input = file.try_clone()?;
    Ok((Some(Box::new(input)), Box::new(file)))
}

/// An address as `query-chardev` shows it.
fn shown(address: &SocketAddress) -> String {
    match address {
        SocketAddress::Unix { path, .. } => format!("unix:{}", path.display()),
        SocketAddress::Tcp { host, port, .. } => format!("tcp:{}:{port}", host_of(host)),
        SocketAddress::Fd(FdRef::Number(number)) => format!("fd:{number}"),
        SocketAddress::Fd(FdRef::Name(name)) => format!("fd:{name}"),
    }
}

fn host_of(host: &str) -> &str {
    if host.is_empty() { "0.0.0.0" } else { host }
}

fn connect(address: &SocketAddress, nodelay: bool) -> Result<Connection, String> {
    let connected = match address {
        SocketAddress::Unix { path, .. } => UnixStream::connect(path)
            .and_then(unix_pair)
            .map_err(|error| (path.display().to_string(), error)),
        SocketAddress::Tcp { host, port, .. } => {
            let host = host_of(host);
            TcpStream::connect((host.trim_matches(['[', ']']), *port))
                .and_then(|stream| tcp_pair(stream, nodelay))
                .map_err(|error| (format!("{host}:{port}"), error))
        }
        SocketAddress::Fd(_) => return Err("an inherited socket is connected already".into()),
    };
    connected.map_err(|(to, error)| format!("Failed to connect to '{to}': {error}"))
}

impl Endpoint {
    pub(crate) fn open(backend: &ChardevBackend, fds: &dyn FdSource) -> Result<Self, String> {
        match backend {
            ChardevBackend::Socket(socket) => Self::open_socket(socket),
            ChardevBackend::Stdio { .. } => Ok(Self::once(
                "stdio",
                (Some(Box::new(io::stdin())), Box::new(io::stdout())),
            )),
            ChardevBackend::File {
                path,
                append,
                input_path,
            } => {
                let output = file::create(path, *append, fds)?;
                let input = input_path
                    .as_deref()
                    .map(|path| file::open(path, fds))
                    .transpose()?;
                let input: Input = input.map(|f| Box::new(f) as Box<dyn Read + Send>);
                Ok(Self::once("file", (input, Box::new(output))))
            }
            ChardevBackend::Pipe { path } => Self::open_pipe(path),
            ChardevBackend::Pty { link } => Self::open_pty(link.as_deref()),
            ChardevBackend::Null | ChardevBackend::RingBuf { .. } => Err("has no other end".into()),
        }
    }

    fn once(filename: &str, connection: Connection) -> Self {
        Self {
            kind: Kind::Once,
            filename: filename.into(),
            first: Mutex::new(Some(connection)),
            link: None,
        }
    }

    fn open_pipe(path: &Path) -> Result<Self, String> {
        let open = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&name)
                .map_err(|e| format!("{}: {e}", name.display()))
        };
        let connection = match (open(".in"), open(".out")) {
            (Ok(input), Ok(output)) => (
                Some(Box::new(input) as Box<dyn Read + Send>),
                Box::new(output) as Box<dyn Write + Send>,
            ),
            _ => file_pair(open("")?).map_err(|e| e.to_string())?,
        };
        Ok(Self::once("pipe", connection))
    }

    fn open_pty(link: Option<&Path>) -> Result<Self, String> {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let error = |e: rustix::io::Errno| format!("no pseudo-terminal: {e}");
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).map_err(error)?;
        grantpt(&master).map_err(error)?;
        unlockpt(&master).map_err(error)?;
        let name = ptsname(&master, Vec::new())
            .map_err(error)?
            .to_string_lossy()
            .into_owned();
        if let Some(link) = link {
            std::os::unix::fs::symlink(&name, link)
                .map_err(|e| format!("{}: {e}", link.display()))?;
        }
        eprintln!("char device redirected to {name}");
        let connection = file_pair(File::from(master)).map_err(|e| e.to_string())?;
        let mut endpoint = Self::once(&format!("pty:{name}"), connection);
        endpoint.link = link.map(|link| (link.to_owned(), name.into()));
        Ok(endpoint)
    }

    fn open_socket(socket: &SocketConfig) -> Result<Self, String> {
        let end = if socket.server { ",server=on" } else { "" };
        match &socket.address {
            SocketAddress::Unix {
                path,
                abstract_name: true,
                ..
            } => Err(format!(
                "'{}': sockets in the abstract name space are not supported; give a path",
                path.display()
            )),
            SocketAddress::Unix { path, .. } if socket.server => {
                let listener = listen_unix(path)?;
                let kind = Kind::Unix {
                    listener,
                    path: Some(path.clone()),
                };
                Self {
                    kind,
                    filename: format!("disconnected:unix:{}{end}", path.display()),
                    first: Mutex::new(None),
                    link: None,
                }
                .wait_if(socket.wait)
            }
            address @ (SocketAddress::Unix { .. } | SocketAddress::Tcp { .. })
                if !socket.server && socket.reconnect_ms != 0 =>
            {
                let first = connect(address, socket.nodelay);
                if let Err(error) = &first {
                    tracing::warn!("{error}; trying again");
                }
                Ok(Self {
                    kind: Kind::Client {
                        address: address.clone(),
                        nodelay: socket.nodelay,
                        again: Duration::from_millis(socket.reconnect_ms),
                    },
                    filename: shown(address),
                    first: Mutex::new(first.ok()),
                    link: None,
                })
            }
            address @ SocketAddress::Unix { .. } => {
                let connection = connect(address, socket.nodelay)?;
                Ok(Self::once(&shown(address), connection))
            }
            SocketAddress::Tcp { host, port, .. } => {
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                let at = (host.trim_matches(['[', ']']), *port);
                if socket.server {
                    let listener = TcpListener::bind(at)
                        .map_err(|e| format!("cannot listen on {host}:{port}: {e}"))?;
                    let filename = format!("disconnected:tcp:{host}:{port}{end}");
                    return Self {
                        kind: Kind::Tcp(listener),
                        filename,
                        first: Mutex::new(None),
                        link: None,
                    }
                    .wait_if(socket.wait);
                }
                let connection = connect(&socket.address, socket.nodelay)?;
                Ok(Self::once(&shown(&socket.address), connection))
            }
            SocketAddress::Fd(FdRef::Name(name)) => {
                Err(format!("no file descriptor is named '{name}'"))
            }
            SocketAddress::Fd(FdRef::Number(number)) => {
                let fd = crate::passed::take(*number).map_err(|e| e.to_string())?;
                if socket.server {
                    let kind = Kind::Unix {
                        listener: UnixListener::from(fd),
                        path: None,
                    };
                    return Self {
                        kind,
                        filename: format!("disconnected:fd:{number}"),
                        first: Mutex::new(None),
                        link: None,
                    }
                    .wait_if(socket.wait);
                }
                let connection = unix_pair(UnixStream::from(fd)).map_err(|e| e.to_string())?;
                Ok(Self::once(&format!("fd:{number}"), connection))
            }
        }
    }

    fn wait_if(self, wait: bool) -> Result<Self, String> {
        if wait {
            tracing::info!(socket = self.filename, "waiting for the first client");
            let connection = self.accept().map_err(|e| e.to_string())?;
            *self.first.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        }
        Ok(self)
    }

    fn accept(&self) -> io::Result<Option<Connection>> {
        match &self.kind {
            Kind::Unix { listener, .. } => unix_pair(listener.accept()?.0).map(Some),
            Kind::Tcp(listener) => tcp_pair(listener.accept()?.0, true).map(Some),
            Kind::Client {
                address,
                nodelay,
                again,
            } => loop {
                thread::sleep(*again);
                match connect(address, *nodelay) {
                    Ok(connection) => return Ok(Some(connection)),
                    Err(error) => tracing::debug!("{error}; trying again"),
                }
            },
            Kind::Once => Ok(None),
        }
    }

    /// Blocks until somebody is connected; `None` when nobody will be any more.
    pub(crate) fn next_connection(&self) -> io::Result<Option<Connection>> {
        let first = self
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match first {
            Some(connection) => Ok(Some(connection)),
            None => self.accept(),
        }
    }

    /// Removes a socket's file, or the link to a terminal: nobody will be served there any more.
    pub(crate) fn remove_file(&self) {
        if let Kind::Unix {
            path: Some(path), ..
        } = &self.kind
        {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
        if let Some((link, terminal)) = &self.link
            && std::fs::read_link(link).is_ok_and(|to| to == *terminal)
        {
            let _ = std::fs::remove_file(link);
        }
    }

    pub(crate) fn filename(&self) -> String {
        self.filename.clone()
    }
}

/// Listens at a path; a socket file that nobody listens at any more is replaced.
fn listen_unix(path: &Path) -> Result<UnixListener, String> {
    let failed = |e: io::Error| format!("Failed to bind socket to {}: {e}", path.display());
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(failed(error));
            }
            std::fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map_err(failed)
        }
        other => other.map_err(failed),
    }
}
