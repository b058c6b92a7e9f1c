//! A tap: an Ethernet interface of the host whose other end is this process.
//!
//! [`Tap::open`] attaches to one that exists, by name or by inherited descriptors. A name that does not
//! exist is an error, unless a script is there that would connect a new one: a tap that this process
//! creates vanishes with it, and one that is connected to nothing helps nobody.
//!
//! *Rejected: creating whatever name is given, as QEMU does.* A typing error then becomes a VM with a
//! dead NIC and no message.
//!
//! ```text
//!   guest queue pair 0 ── fd 0 ─┐
//!   guest queue pair 1 ── fd 1 ─┼── tap0 ── bridge ── uplink
//!   guest queue pair n ── fd n ─┘
//! ```

mod backend;
mod error;
mod ioctl;
mod script;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use memory::Ram;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

pub use error::TapError;
pub use script::Script;

use crate::offload::Offload;
use crate::vhost::{Vhost, VhostError};

/// Length of the virtio-net header that a tap is set to, in bytes (virtio 1.2, section 5.1.6: the form
/// with the number of buffers, which a modern device always has).
pub const VNET_HEADER_BYTES: u32 = 12;

/// The most queue pairs that the host's driver gives one tap.
pub const QUEUES_MAX: usize = 256;

const SCRIPT_UP: &str = "/etc/qemu-ifup";
const SCRIPT_DOWN: &str = "/etc/qemu-ifdown";

/// The largest frame that an interface of this process's network namespace takes, in bytes. The kernel is asked, not
/// `/sys`, which may show another namespace's.
///
/// # Errors
/// There is no such interface.
pub fn mtu_of(interface: &str) -> io::Result<u32> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    ioctl::mtu(socket.as_fd(), interface)
}

/// Where the tap comes from.
#[derive(Debug)]
pub enum TapSource {
    /// `ifname=`.
    Name(String),
    /// No `ifname=`: a new one with a name of the kernel's choice; needs a script that connects it.
    New,
    /// `fd=` or `fds=`: a descriptor a queue pair, all of one tap.
    Fds(Vec<OwnedFd>),
}

/// What `-netdev tap` says.
#[derive(Debug)]
pub struct TapConfig {
    /// Where it comes from.
    pub source: TapSource,
    /// `queues=`; for [`TapSource::Fds`] the number of descriptors counts.
    pub queues: u16,
    /// `vnet_hdr=`: a virtio-net header before each frame, so that checksums and segmentation can be
    /// left to the host. Descriptors tell it themselves.
    pub vnet_header: bool,
    /// `script=`, run once the tap is open. Not run for descriptors.
    pub script: Script,
    /// `downscript=`, run before the tap is closed. Not run for descriptors.
    pub downscript: Script,
}

impl TapConfig {
    /// `-netdev tap,ifname=NAME`: one queue, header on, the conventional scripts.
    pub fn named(name: &str) -> Self {
        Self {
            source: TapSource::Name(name.to_owned()),
            queues: 1,
            vnet_header: true,
            script: Script::default(),
            downscript: Script::default(),
        }
    }
}

/// An open tap. Dropping it runs the down script and closes it.
#[derive(Debug)]
pub struct Tap {
    name: String,
    index: Option<u32>,
    queues: Vec<OwnedFd>,
    vnet_header: bool,
    multi_queue: bool,
    supported: Offload,
    /// For questions about the interface; of the namespace the tap was opened in.
    socket: Option<OwnedFd>,
    down: Option<PathBuf>,
    vhost: Option<Vhost>,
}

impl Tap {
    /// Opens a tap.
    ///
    /// # Errors
    /// One line that names the option and the remedy; nothing is left behind.
    pub fn open(config: TapConfig) -> Result<Self, TapError> {
        let TapConfig {
            source,
            queues,
            vnet_header,
            script,
            downscript,
        } = config;
        let name = match source {
            TapSource::Fds(fds) => return Self::from_fds(fds),
            TapSource::Name(name) => Some(name),
            TapSource::New => None,
        };
        if !(1..=QUEUES_MAX).contains(&usize::from(queues)) {
            return Err(TapError::BadQueues(queues.into()));
        }
        let up = script.program(SCRIPT_UP);
        let mut tap = Self::attach(name.as_deref(), queues, vnet_header, up.is_some())?;
        if let Some(program) = up {
            script::run(&program, &tap.name)?;
            tap.down = downscript.program(SCRIPT_DOWN);
        } else if let Script::Program(program) = downscript {
            tap.down = Some(program);
        }
        tap.finish()
    }

    fn attach(
        name: Option<&str>,
        queues: u16,
        vnet_header: bool,
        may_create: bool,
    ) -> Result<Self, TapError> {
        let wanted = name.unwrap_or("tap%d");
        if wanted.is_empty() || wanted.len() > 15 || wanted.contains(['/', '\0', ' ']) {
            return Err(TapError::BadName(wanted.to_owned()));
        }
        let first = open_tun()?;
        let socket = any_socket();
        let exists = match (&socket, name) {
            (Some(socket), Some(name)) => ioctl::index(socket.as_fd(), name).is_ok(),
            _ => false,
        };
        if !exists && !may_create {
            return Err(match name {
                Some(name) => TapError::Missing {
                    name: name.to_owned(),
                    queues,
                },
                None => TapError::Nameless,
            });
        }
        let features = ioctl::features(first.as_fd()).map_err(TapError::NoDriver)?;
        let mut flags = 0;
        if vnet_header {
            if features & ioctl::VNET_HDR == 0 {
                return Err(TapError::Unsupported("virtio-net header; use vnet_hdr=off"));
            }
            flags |= ioctl::VNET_HDR;
        }
        let mut multi_queue = queues > 1;
        if multi_queue && features & ioctl::MULTI_QUEUE == 0 {
            return Err(TapError::Unsupported("multiple queues; use queues=1"));
        }
        let explain = |error| explain_attach(wanted, queues, vnet_header, error);
        let with_queues = |multi: bool| {
            if multi {
                flags | ioctl::MULTI_QUEUE
            } else {
                flags
            }
        };
        let name = match ioctl::attach(first.as_fd(), wanted, with_queues(multi_queue)) {
            // One queue of a tap that was made for several: the flags must say so.
            Err(e) if queues == 1 && exists && e.raw_os_error() == Some(libc::EINVAL) => {
                multi_queue = true;
                ioctl::attach(first.as_fd(), wanted, with_queues(true)).map_err(explain)?
            }
            attached => attached.map_err(explain)?,
        };
        let mut fds = vec![first];
        for _ in 1..queues {
            let fd = open_tun()?;
            ioctl::attach(fd.as_fd(), &name, with_queues(true)).map_err(explain)?;
            fds.push(fd);
        }
        Ok(Self {
            name,
            index: None,
            queues: fds,
            vnet_header,
            multi_queue,
            supported: Offload::empty(),
            socket,
            down: None,
            vhost: None,
        })
    }

    fn from_fds(fds: Vec<OwnedFd>) -> Result<Self, TapError> {
        if !(1..=QUEUES_MAX).contains(&fds.len()) {
            return Err(TapError::BadQueues(fds.len()));
        }
        let mut seen: Option<(String, i32)> = None;
        for fd in &fds {
            let (name, flags) = ioctl::attached(fd.as_fd())
                .and_then(|(name, flags)| {
                    let is_tap = flags & libc::IFF_TAP != 0;
                    is_tap
                        .then_some((name, flags))
                        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
                })
                .map_err(|error| TapError::NotATap {
                    fd: fd.as_raw_fd(),
                    error,
                })?;
            match &seen {
                None => seen = Some((name, flags)),
                Some((first, _)) if *first != name => {
                    return Err(TapError::MixedFds(first.clone(), name));
                }
                Some((_, first)) if (first ^ flags) & ioctl::VNET_HDR != 0 => {
                    return Err(TapError::MixedHeaders(name));
                }
                Some(_) => {}
            }
        }
        let (name, flags) = seen.ok_or(TapError::BadQueues(0))?;
        Self {
            name,
            index: None,
            queues: fds,
            vnet_header: flags & ioctl::VNET_HDR != 0,
            multi_queue: flags & ioctl::MULTI_QUEUE != 0,
            supported: Offload::empty(),
            socket: any_socket(),
            down: None,
            vhost: None,
        }
        .finish()
    }

    /// What every queue needs, however it came here.
    fn finish(mut self) -> Result<Self, TapError> {
        for fd in &self.queues {
            fcntl_getfl(fd)
                .and_then(|flags| fcntl_setfl(fd, flags | OFlags::NONBLOCK))
                .map_err(|e| self.system("make it non-blocking", e.into()))?;
            if self.vnet_header {
                ioctl::set_header_bytes(fd.as_fd(), VNET_HEADER_BYTES)
                    .map_err(|e| self.system("set the length of its header", e))?;
            }
        }
        if self.vnet_header {
            self.supported = self.probe_offloads();
        }
        self.index = self
            .socket
            .as_ref()
            .and_then(|socket| ioctl::index(socket.as_fd(), &self.name).ok());
        if self.is_up() == Some(false) {
            let name = &self.name;
            tracing::warn!("tap '{name}' is down; set it up with 'ip link set {name} up'");
        }
        Ok(self)
    }

    /// Tries what the host takes, the largest set first, and leaves every offload off.
    fn probe_offloads(&self) -> Offload {
        let Some(fd) = self.queues.first() else {
            return Offload::empty();
        };
        let all = Offload::all();
        let candidates = [
            all,
            all - Offload::UFO,
            all - Offload::UFO - Offload::ECN,
            Offload::CSUM,
        ];
        let found = candidates
            .into_iter()
            .find(|set| ioctl::set_offload(fd.as_fd(), set.bits()).is_ok())
            .unwrap_or(Offload::empty());
        if let Err(e) = ioctl::set_offload(fd.as_fd(), 0) {
            tracing::debug!("tap '{}': cannot switch offloads off: {e}", self.name);
        }
        found
    }

    fn system(&self, what: &'static str, error: io::Error) -> TapError {
        TapError::System {
            name: self.name.clone(),
            what,
            error,
        }
    }

    /// Has the host's kernel move the frames from now on (`vhost=on`) for a machine with `ram`, where the guest's rings
    /// and the link allow it. `fds` are descriptors of `/dev/vhost-net`, one a queue pair (`vhostfds=`); if there are none
    /// it is opened.
    ///
    /// # Errors
    /// One line that names the remedy; the tap is as before.
    pub fn set_vhost(&mut self, fds: Vec<OwnedFd>, ram: &Ram) -> Result<(), VhostError> {
        let vhost = Vhost::open(fds, self.queue_pairs(), !self.vnet_header, ram)?;
        self.vhost = Some(vhost);
        Ok(())
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index in the namespace it was opened in; unknown for a descriptor whose
    /// interface is elsewhere.
    pub fn index(&self) -> Option<u32> {
        self.index
    }

    /// How many queue pairs it has, at least one.
    pub fn queue_pairs(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// Whether each frame has [`VNET_HEADER_BYTES`] of header before it.
    pub fn vnet_header(&self) -> bool {
        self.vnet_header
    }

    /// The unfinished frames that the host's side takes and can give.
    pub fn supported_offloads(&self) -> Offload {
        self.supported
    }

    /// From now on frames read may be unfinished in these ways. Anything not supported is left out.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_offloads(&self, offloads: Offload) -> io::Result<()> {
        let Some(fd) = self.queues.first().filter(|_| self.vnet_header) else {
            return Ok(());
        };
        // Offloads belong to the interface, not to the queue.
        ioctl::set_offload(fd.as_fd(), (offloads & self.supported).with_csum().bits())
    }

    /// Puts queue pair `pair` in or out of use; the host spreads frames over those in use.
    ///
    /// # Errors
    /// No such pair, or the kernel refused.
    pub fn set_pair_enabled(&self, pair: u16, enabled: bool) -> io::Result<()> {
        let fd = self.queue(pair).ok_or(io::ErrorKind::NotFound)?;
        if !self.multi_queue {
            return Ok(());
        }
        match ioctl::set_queue(fd, enabled) {
            // In (or out of) use already.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// The descriptor of queue pair `pair`: readable when there is a frame, writable when one can be
    /// sent.
    pub fn queue(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        self.queues.get(usize::from(pair)).map(AsFd::as_fd)
    }

    /// The interface's MTU in bytes, where it can be asked.
    pub fn mtu(&self) -> Option<u32> {
        ioctl::mtu(self.socket.as_ref()?.as_fd(), &self.name).ok()
    }

    /// Whether the interface is up, where it can be asked.
    pub fn is_up(&self) -> Option<bool> {
        ioctl::is_up(self.socket.as_ref()?.as_fd(), &self.name).ok()
    }

    /// Sends a whole frame of our own towards the host (an announcement), before which the header is
    /// put where there is one.
    ///
    /// # Errors
    /// The interface is down or gone, or cannot take a frame now.
    pub fn send_frame(&self, frame: &[u8]) -> io::Result<()> {
        let fd = self.queue(0).ok_or(io::ErrorKind::NotFound)?;
        let header = [0u8; VNET_HEADER_BYTES as usize];
        let header = if self.vnet_header {
            header.as_slice()
        } else {
            &[]
        };
        let parts = [io::IoSlice::new(header), io::IoSlice::new(frame)];
        let sent = rustix::io::writev(fd, &parts)?;
        if sent == header.len() + frame.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// What `info network` says of it.
    pub fn describe(&self) -> String {
        let queues = match self.queues.len() {
            1 => String::new(),
            n => format!(",queues={n}"),
        };
        let header = if self.vnet_header { "on" } else { "off" };
        let vhost = if self.vhost.is_some() {
            ",vhost=on"
        } else {
            ""
        };
        format!("ifname={}{queues},vnet_hdr={header}{vhost}", self.name)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Before the descriptors close: a tap of our own vanishes with them.
        if let Some(program) = &self.down
            && let Err(error) = script::run(program, &self.name)
        {
            tracing::warn!("{error}");
        }
    }
}

fn open_tun() -> Result<OwnedFd, TapError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open("/dev/net/tun", flags, Mode::empty()).map_err(|e| TapError::NoDriver(e.into()))
}

/// A socket to ask about interfaces with; any family does.
fn any_socket() -> Option<OwnedFd> {
    let cloexec = SocketFlags::CLOEXEC;
    [AddressFamily::INET, AddressFamily::UNIX]
        .into_iter()
        .find_map(|family| socket_with(family, SocketType::DGRAM, cloexec, None).ok())
}

fn explain_attach(name: &str, queues: u16, vnet_header: bool, error: io::Error) -> TapError {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::E2BIG) => TapError::Busy(name.to_owned()),
        Some(libc::EPERM | libc::EACCES) => TapError::Denied(name.to_owned()),
        Some(libc::EINVAL) => {
            let wanted = format!(
                "mode tap, queues={queues}, vnet_hdr={}",
                if vnet_header { "on" } else { "off" }
            );
            TapError::Mismatch {
                name: name.to_owned(),
                wanted,
                queues,
            }
        }
        _ => TapError::System {
            name: name.to_owned(),
            what: "attach to it",
            error,
        },
    }
}
