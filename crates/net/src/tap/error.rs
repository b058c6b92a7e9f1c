//! What can be wrong with a tap, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A tap that could not be had. Nothing is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TapError {
    /// `/dev/net/tun` cannot be opened.
    #[error(
        "cannot open /dev/net/tun: {0}; load the driver with 'modprobe tun' and check the device's permissions"
    )]
    NoDriver(#[source] io::Error),
    /// The name is no interface name.
    #[error("ifname={0}: not an interface name (1 to 15 characters, no '/')")]
    BadName(String),
    /// There is no such interface, and no script that would connect a new one to anything.
    #[error("ifname={name}: no such interface; create it with 'ip tuntap add dev {name} mode tap{}', connect it and set it up", if *.queues > 1 { " multi_queue" } else { "" })]
    Missing {
        /// The name given.
        name: String,
        /// How many queue pairs it is to have.
        queues: u16,
    },
    /// No name, and no script that would connect a new tap to anything.
    #[error("give the tap's name (ifname=), or a script that connects a new one (script=FILE)")]
    Nameless,
    /// Another process uses the tap.
    #[error("ifname={0}: in use by another process, or no queue is left")]
    Busy(String),
    /// No right to attach.
    #[error(
        "ifname={0}: not permitted; run with CAP_NET_ADMIN, or give the tap to this user with 'ip tuntap add dev {0} mode tap user UID'"
    )]
    Denied(String),
    /// The interface exists and is not such a tap.
    #[error("ifname={name}: no tap with these properties ({wanted}); delete it and create it with 'ip tuntap add dev {name} mode tap{}'", if *.queues > 1 { " multi_queue" } else { "" })]
    Mismatch {
        /// The name given.
        name: String,
        /// What was asked for.
        wanted: String,
        /// How many queue pairs it is to have.
        queues: u16,
    },
    /// The host's driver lacks what was asked for.
    #[error("the host's tun driver has no {0}")]
    Unsupported(&'static str),
    /// A file descriptor that was handed in is no tap.
    #[error("fd={fd}: not an attached tap: {error}")]
    NotATap {
        /// The descriptor's number.
        fd: i32,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// Descriptors of different taps.
    #[error("fds= are queues of different taps ('{0}' and '{1}')")]
    MixedFds(String, String),
    /// Descriptors of which some have the virtio-net header and some not.
    #[error("fds= of '{0}' disagree about vnet_hdr")]
    MixedHeaders(String),
    /// A number of queues that makes no sense.
    #[error("queues={0}: must be 1 to 256")]
    BadQueues(usize),
    /// A script could not be run, or said no.
    #[error("script {path} for '{name}' failed: {why}; use script=no if the tap is set up already")]
    Script {
        /// The script.
        path: PathBuf,
        /// The tap's name.
        name: String,
        /// What happened.
        why: String,
    },
    /// Anything else the kernel said.
    #[error("'{name}': cannot {what}: {error}")]
    System {
        /// The tap's name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
}
