//! Character devices: where serial ports and monitors lead.

use std::path::PathBuf;

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevConfig {
    /// `id=`: what a serial port or a monitor names.
    pub id: String,
    /// What is behind it.
    pub backend: ChardevBackend,
    /// `mux=`: several front ends share it (serial and monitor on one terminal, switched by Ctrl-A c).
    pub mux: bool,
    /// `logfile=`: a copy of what is written goes there.
    pub logfile: Option<PathBuf>,
    /// `logappend=`: append to the log file.
    pub logappend: bool,
    /// The option that asked for it (`-chardev`, `-serial`, `-qmp` ...): for messages.
    pub option: &'static str,
    /// Its argument, as the user wrote it.
    pub text: String,
}

/// The kinds of character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChardevBackend {
    /// Swallows all, gives nothing.
    Null,
    /// A stream socket.
    Socket(SocketConfig),
    /// Standard input and output.
    Stdio {
        /// `signal=`: Ctrl-C ends the program.
        signal: bool,
    },
    /// A file that output goes to; `/dev/fdset/N` names a descriptor of `-add-fd`.
    File {
        /// `path=`.
        path: PathBuf,
        /// `append=`.
        append: bool,
        /// `input-path=`: where input is read from.
        input_path: Option<PathBuf>,
    },
    /// A pseudo-terminal of our making.
    Pty {
        /// `path=`: a symbolic link to make to it.
        link: Option<PathBuf>,
    },
    /// A pair of named pipes, PATH.in and PATH.out, or one PATH for both.
    Pipe {
        /// `path=`.
        path: PathBuf,
    },
    /// The last bytes written, kept in memory.
    RingBuf {
        /// `size=`: a power of two.
        size_bytes: u64,
    },
}

/// A stream socket as a character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// Where.
    pub address: SocketAddress,
    /// `server=`: listen (again after each client) instead of connecting.
    pub server: bool,
    /// `wait=`: block at start until the first client is there (servers only).
    pub wait: bool,
    /// `nodelay=`: TCP_NODELAY.
    pub nodelay: bool,
    /// `reconnect-ms=` or `reconnect=`: connect again after so long; 0 for never (clients only).
    pub reconnect_ms: u64,
}

/// Where a stream socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// A Unix socket.
    Unix {
        /// Its path, or its name in the abstract name space.
        path: PathBuf,
        /// `abstract=`: in Linux's abstract name space.
        abstract_name: bool,
        /// `tight=`: the abstract name is not padded with zeros.
        tight: bool,
    },
    /// TCP.
    Tcp {
        /// Host name or address; empty is all interfaces.
        host: String,
        /// Port.
        port: u16,
        /// `to=`: try ports up to this one.
        to: Option<u16>,
        /// `ipv4=`: `None` if not said.
        ipv4: Option<bool>,
        /// `ipv6=`: `None` if not said.
        ipv6: Option<bool>,
    },
    /// An inherited socket: a listening one for a server, a connected one otherwise.
    Fd(super::FdRef),
}
