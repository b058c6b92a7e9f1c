//! Where a monitor is to be reached: sockets that are listened on or connected to, and descriptors that were inherited.

use crate::stream::Stream;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where a monitor is to be reached.
#[derive(Debug)]
pub enum Endpoint {
    /// A unix socket to listen on. A socket that is there already is replaced; the file is removed at the end.
    UnixServer {
        /// Its path.
        path: PathBuf,
        /// Do not go on before a client has connected.
        wait: bool,
    },
    /// A TCP socket to listen on.
    TcpServer {
        /// Host name or address; empty is every address.
        host: String,
        /// The port.
        port: u16,
        /// Do not go on before a client has connected.
        wait: bool,
    },
    /// A unix socket to connect to.
    UnixClient {
        /// Its path.
        path: PathBuf,
    },
    /// A TCP socket to connect to.
    TcpClient {
        /// Host name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// Standard input and output.
    Stdio,
    /// An inherited socket that listens (libvirt).
    ListeningFd {
        /// The socket.
        fd: OwnedFd,
        /// Do not go on before a client has connected.
        wait: bool,
    },
    /// An inherited descriptor that is a connection: a socket, a terminal, a pseudo-terminal's master.
    ConnectedFd(OwnedFd),
}

/// Why a monitor's endpoint could not be had.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The file in the place of the socket is something else.
    #[error("monitor socket '{path}': the file exists and is no socket; remove it or choose another path", path = .0.display())]
    NotASocket(PathBuf),
    /// The socket could not be listened on.
    #[error("monitor: cannot listen on '{at}': {error}")]
    Listen {
        /// Where.
        at: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The socket could not be connected to.
    #[error("monitor: cannot connect to '{at}': {error}")]
    Connect {
        /// Where.
        at: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A descriptor could not be used.
    #[error("monitor: cannot use {what}: {error}")]
    Descriptor {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// A socket file of ours, removed when dropped, unless another took its place meanwhile.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        // Relative paths must survive a change of directory (`-daemonize`).
        Ok(Self {
            path: std::path::absolute(path)?,
            identity: (metadata.dev(), metadata.ino()),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the monitor's socket could not be removed");
        }
    }
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
    Inherited(OwnedFd),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
            Self::Inherited(fd) => fd.as_fd(),
        }
    }
}

/// An endpoint that exists: it listens, or is connected. Dropping it closes it and removes its socket file.
#[derive(Debug)]
pub struct OpenEndpoint {
    listener: Option<Listener>,
    first: Option<Stream>,
    description: String,
    _file: Option<SocketFile>,
}

impl Endpoint {
    /// Listens, or connects. With `wait`, returns once the first client has connected.
    ///
    /// # Errors
    /// The path is taken by something else, the address cannot be had, nobody listens there.
    pub fn open(self) -> Result<OpenEndpoint, EndpointError> {
        Ok(match self {
            Self::UnixServer { path, wait } => return open_unix_server(&path, wait),
            Self::TcpServer { host, port, wait } => return open_tcp_server(&host, port, wait),
            Self::ListeningFd { fd, wait } => {
                match rustix::net::sockopt::socket_acceptconn(&fd) {
                    Ok(true) => {}
                    Ok(false) => {
                        let error = io::Error::other("the socket does not listen");
                        return Err(EndpointError::Descriptor {
                            what: "the inherited socket",
                            error,
                        });
                    }
                    Err(error) => {
                        let error = error.into();
                        return Err(EndpointError::Descriptor {
                            what: "the inherited socket",
                            error,
                        });
                    }
                }
                let mut open = OpenEndpoint::listening(
                    Listener::Inherited(fd),
                    "fd,server=on".to_owned(),
                    None,
                );
                open.wait_if(wait)?;
                return Ok(open);
            }
            Self::UnixClient { path } => {
                let at = format!("unix:{}", path.display());
                let stream =
                    UnixStream::connect(&path).map_err(|error| EndpointError::Connect {
                        at: at.clone(),
                        error,
                    })?;
                OpenEndpoint::connected(Stream::new(stream.into()), at)
            }
            Self::TcpClient { host, port } => {
                let at = format!("tcp:{host}:{port}");
                let stream = TcpStream::connect((host.as_str(), port)).map_err(|error| {
                    EndpointError::Connect {
                        at: at.clone(),
                        error,
                    }
                })?;
                let _ = stream.set_nodelay(true);
                OpenEndpoint::connected(Stream::new(stream.into()), at)
            }
            Self::Stdio => {
                let refuse = |error| EndpointError::Descriptor {
                    what: "standard input and output",
                    error,
                };
                let input = io::stdin().as_fd().try_clone_to_owned().map_err(refuse)?;
                let output = io::stdout().as_fd().try_clone_to_owned().map_err(refuse)?;
                OpenEndpoint::connected(Stream::pair(input, output), "stdio".to_owned())
            }
            Self::ConnectedFd(fd) => OpenEndpoint::connected(Stream::new(fd), "fd".to_owned()),
        })
    }
}

fn open_unix_server(path: &Path, wait: bool) -> Result<OpenEndpoint, EndpointError> {
    let at = format!("unix:{}", path.display());
    let refuse = |error| EndpointError::Listen {
        at: at.clone(),
        error,
    };
    match rustix::fs::lstat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
            std::fs::remove_file(path).map_err(refuse)?;
        }
        Ok(_) => return Err(EndpointError::NotASocket(path.to_owned())),
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(refuse(error.into())),
    }
    let listener = UnixListener::bind(path).map_err(refuse)?;
    let file = SocketFile::new(path).map_err(refuse)?;
    let mut open = OpenEndpoint::listening(
        Listener::Unix(listener),
        format!("{at},server=on"),
        Some(file),
    );
    open.wait_if(wait)?;
    Ok(open)
}

fn open_tcp_server(host: &str, port: u16, wait: bool) -> Result<OpenEndpoint, EndpointError> {
    let at = format!("tcp:{host}:{port}");
    let refuse = |error| EndpointError::Listen {
        at: at.clone(),
        error,
    };
    // No host is every address; of a host without IPv6, those of IPv4.
    let hosts = if host.is_empty() {
        &["::", "0.0.0.0"][..]
    } else {
        &[host]
    };
    let mut addresses = Vec::new();
    for host in hosts {
        addresses.extend((*host, port).to_socket_addrs().map_err(refuse)?);
    }
    let listener = TcpListener::bind(addresses.as_slice()).map_err(refuse)?;
    let mut open =
        OpenEndpoint::listening(Listener::Tcp(listener), format!("{at},server=on"), None);
    open.wait_if(wait)?;
    Ok(open)
}

impl OpenEndpoint {
    fn listening(listener: Listener, description: String, file: Option<SocketFile>) -> Self {
        Self {
            listener: Some(listener),
            first: None,
            description,
            _file: file,
        }
    }

    fn connected(stream: Stream, description: String) -> Self {
        Self {
            listener: None,
            first: Some(stream),
            description,
            _file: None,
        }
    }

    fn wait_if(&mut self, wait: bool) -> Result<(), EndpointError> {
        if wait {
            tracing::info!("waiting for a connection on {}", self.description);
            let client = self.accept_unless(None);
            self.first = client.map_err(|error| EndpointError::Listen {
                at: self.description.clone(),
                error,
            })?;
        }
        Ok(())
    }

    /// Where it is, as `query-chardev` tells: `unix:PATH,server=on`.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The address a TCP server listens on: with port 0, the one the host chose.
    pub fn tcp_address(&self) -> Option<std::net::SocketAddr> {
        match &self.listener {
            Some(Listener::Tcp(listener)) => listener.local_addr().ok(),
            _ => None,
        }
    }

    /// The next client: the one that is there already, or the next that connects. `None`: there is none to come, or `stop`
    /// became readable.
    pub(crate) fn next_client(&mut self, stop: BorrowedFd<'_>) -> io::Result<Option<Stream>> {
        if let Some(stream) = self.first.take() {
            return Ok(Some(stream));
        }
        self.accept_unless(Some(stop))
    }

    fn accept_unless(&self, stop: Option<BorrowedFd<'_>>) -> io::Result<Option<Stream>> {
        let Some(listener) = &self.listener else {
            return Ok(None);
        };
        loop {
            let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
            if let Some(stop) = &stop {
                fds.push(PollFd::new(stop, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if fds.get(1).is_some_and(|stop| !stop.revents().is_empty()) {
                return Ok(None);
            }
            match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
                Ok(fd) => {
                    // Not every socket is TCP.
                    let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
                    return Ok(Some(Stream::new(fd)));
                }
                // An inherited socket may be non-blocking, and its client gone again.
                Err(
                    rustix::io::Errno::AGAIN
                    | rustix::io::Errno::INTR
                    | rustix::io::Errno::CONNABORTED,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
