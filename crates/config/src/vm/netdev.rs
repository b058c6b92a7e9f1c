//! The host side of a NIC: `-netdev` and `netdev_add`.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::syntax::{Options, Source};

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

impl NetdevConfig {
    /// Reads the options of `-netdev` or the arguments of `netdev_add`.
    ///
    /// # Errors
    /// An unknown kind or option, a bad value, one that asks for what cannot be had, a malformed id.
    pub fn from_options(_options: Options, _source: Source) -> Result<Self> {
        Err(Error::other("not read yet"))
    }
}
