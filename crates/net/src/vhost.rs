//! vhost-net: the host's kernel moves frames between a guest's rings and a tap, without this process.
//!
//! ```text
//!   queue pair 0 ── /dev/vhost-net ── tap queue 0       one descriptor a pair, of which ring 0 receives and
//!   queue pair n ── /dev/vhost-net ── tap queue n       ring 1 transmits
//! ```
//!
//! The calls are those of the crate `vhost`; what it lacks is here: a descriptor that was passed in, detaching
//! a backend or a kick, and a check of rings that lets one end where RAM does and none reach over a region's end.
//!
//! While a migration wants to know what is written ([`KernelLog`]), the kernel notes it: what it writes into buffers
//! by `VHOST_F_LOG_ALL`, and the used rings by `VHOST_VRING_F_LOG`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{GuestRam, KernelLog, KernelWriter, LogBits, Ram};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::vhost_binding::{
    VHOST_F_LOG_ALL, VHOST_NET_F_VIRTIO_NET_HDR, VHOST_NET_SET_BACKEND, VHOST_SET_VRING_KICK,
    VHOST_VRING_F_LOG, vhost_vring_file,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio::KernelRing;
use virtio::features::{net, ring};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::ioctl::ioctl_with_ref;

const DEVICE: &str = "/dev/vhost-net";
const LOG_ALL: u64 = 1 << VHOST_F_LOG_ALL;
/// The kernel puts the virtio-net header before each frame, for a tap that gives none.
const OWN_HEADER: u64 = 1 << VHOST_NET_F_VIRTIO_NET_HDR;
const RING_LOG: u32 = 1 << VHOST_VRING_F_LOG;
/// The features that the kernel is told of.
const RING_FEATURES: u64 = ring::INDIRECT_DESC | ring::EVENT_IDX | ring::VERSION_1 | net::MRG_RXBUF;
/// Stands for no descriptor where the kernel takes one.
const NO_FD: RawFd = -1;

/// vhost-net could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostError {
    /// `/dev/vhost-net` cannot be opened.
    #[error(
        "tap: open vhost char device failed: {}; load the driver with 'modprobe vhost_net' and check the permissions of {DEVICE}, or leave vhost=on out", reason(.0)
    )]
    Open(#[source] io::Error),
    /// What was opened or passed in does not do as vhost-net.
    #[error("vhost-net requested but could not be initialized: {what}: {}", reason(.source))]
    Unusable {
        /// What was tried, and with which descriptor.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel's vhost-net is older than virtio 1.0.
    #[error(
        "vhost-net requested but could not be initialized: the host's kernel does not know virtio 1.0; leave vhost=on out"
    )]
    TooOld,
}

/// The system's sentence without Rust's "(os error N)".
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text.get(..at).unwrap_or_default().to_owned(),
        None => text,
    }
}

fn plain(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::IoctlError(error)
        | vhost::Error::VhostOpen(error)
        | vhost::Error::IOError(error) => error,
        other => io::Error::other(other),
    }
}

/// The kernel's side of one queue pair.
struct Device {
    file: File,
    ram: Arc<GuestRam>,
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl VhostKernBackend for Device {
    type AS = Arc<GuestRam>;

    fn mem(&self) -> &Self::AS {
        &self.ram
    }

    /// Whether each part of the ring is RAM in one piece. The kernel is told where it begins in this process, and would
    /// write into what follows.
    fn is_valid(&self, ring: &VringConfigData) -> bool {
        let entries = usize::from(ring.queue_size);
        ring.queue_size.is_power_of_two()
            && ring.is_log_addr_valid()
            && [
                (ring.desc_table_addr, 16 * entries),
                (ring.avail_ring_addr, 6 + 2 * entries),
                (ring.used_ring_addr, 6 + 8 * entries),
            ]
            .into_iter()
            .all(|(at, bytes)| self.ram.get_slice(GuestAddress(at), bytes).is_ok())
    }
}

#[allow(unsafe_code)]
impl Device {
    fn set_backend(&self, ring: u32, tap: RawFd) -> io::Result<()> {
        let file = vhost_vring_file {
            index: ring,
            fd: tap,
        };
        // SAFETY: the kernel reads a structure of this type.
        match unsafe { ioctl_with_ref(self, VHOST_NET_SET_BACKEND(), &file) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has the driver's notifications wake the kernel no more.
    fn forget_kick(&self, ring: u32) -> io::Result<()> {
        let file = vhost_vring_file {
            index: ring,
            fd: NO_FD,
        };
        // SAFETY: as above.
        match unsafe { ioctl_with_ref(self, VHOST_SET_VRING_KICK(), &file) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Device {
    fn set_ring(&self, index: usize, ring: &RingPlace, logged: bool) -> io::Result<()> {
        let config = VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: if logged { RING_LOG } else { 0 },
            desc_table_addr: ring.descriptors,
            used_ring_addr: ring.used,
            avail_ring_addr: ring.available,
            log_addr: logged.then_some(ring.used),
        };
        self.set_vring_addr(index, &config).map_err(plain)
    }

    fn set_up_ring(
        &self,
        index: usize,
        ring: &KernelRing<'_>,
        failure: &EventFd,
    ) -> io::Result<()> {
        self.set_vring_num(index, ring.size)
            .and_then(|()| self.set_vring_base(index, ring.next_available))
            .and_then(|()| self.set_vring_kick(index, ring.kick))
            .and_then(|()| self.set_vring_call(index, ring.call))
            .and_then(|()| self.set_vring_err(index, failure))
            .map_err(plain)
    }
}

#[derive(Clone, Copy)]
struct RingPlace {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
}

/// While the kernel serves the pair.
struct Running {
    features: u64,
    rings: [RingPlace; 2],
}

struct PairState {
    device: Device,
    running: Option<Running>,
    /// Where it is to note what it writes.
    log: Option<Arc<LogBits>>,
    /// The log whose address the kernel knows.
    known: Option<Arc<LogBits>>,
}

impl PairState {
    /// Tells the kernel of features and rings, with the log as it is to be. Allowed while it runs.
    fn apply(&mut self, running: &Running) -> io::Result<()> {
        let mut features = running.features;
        if let Some(log) = &self.log {
            self.device
                .set_log_base(log.address(), None)
                .map_err(plain)?;
            self.known = Some(Arc::clone(log));
            features |= LOG_ALL;
        }
        self.device.set_features(features).map_err(plain)?;
        for (index, ring) in running.rings.iter().enumerate() {
            self.device.set_ring(index, ring, self.log.is_some())?;
        }
        Ok(())
    }
}

struct Pair {
    state: Mutex<PairState>,
    failure: EventFd,
}

impl Pair {
    fn state(&self) -> MutexGuard<'_, PairState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detach(device: &Device) {
        for ring in 0..2 {
            if let Err(error) = device.set_backend(ring, NO_FD) {
                tracing::warn!(ring, %error, "vhost-net could not be detached from the tap");
            }
            if let Err(error) = device.forget_kick(ring) {
                tracing::debug!(ring, %error, "vhost-net still hears the driver's notifications");
            }
        }
    }
}

impl KernelWriter for Pair {
    fn log_writes(&self, log: Option<&Arc<LogBits>>) -> io::Result<()> {
        let mut state = self.state();
        state.log = log.cloned();
        let Some(running) = state.running.take() else {
            return Ok(());
        };
        let outcome = state.apply(&running);
        state.running = Some(running);
        outcome.map_err(|error| io::Error::new(error.kind(), format!("vhost-net: {error}")))
    }
}

/// vhost-net for the queue pairs of one tap.
pub(crate) struct Vhost {
    pairs: Vec<Arc<Pair>>,
    features: u64,
    own_header: bool,
}

impl std::fmt::Debug for Vhost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vhost").finish_non_exhaustive()
    }
}

impl Vhost {
    /// For `pairs` queue pairs of guests with `ram`, on descriptors of `/dev/vhost-net` that were passed in (one a
    /// pair), or on new ones. `own_header`: the tap gives no headers.
    pub(crate) fn open(
        passed: Vec<OwnedFd>,
        pairs: u16,
        own_header: bool,
        ram: &Ram,
    ) -> Result<Self, VhostError> {
        let files = if passed.is_empty() {
            (0..pairs)
                .map(|_| open_device())
                .collect::<Result<_, _>>()?
        } else {
            passed
        };
        let mut vhost = Self {
            pairs: Vec::with_capacity(files.len()),
            features: u64::MAX,
            own_header,
        };
        for file in files {
            let (pair, features) = make_pair(file, ram)?;
            vhost.features &= features;
            vhost.pairs.push(pair);
        }
        if vhost.features & ring::VERSION_1 == 0 || own_header && vhost.features & OWN_HEADER == 0 {
            return Err(VhostError::TooOld);
        }
        let log: &KernelLog = ram.kernel_log();
        for pair in &vhost.pairs {
            let writer: Arc<dyn KernelWriter> = pair.clone();
            log.add(&writer).map_err(|source| VhostError::Unusable {
                what: "log what it writes".to_owned(),
                source,
            })?;
        }
        Ok(vhost)
    }

    pub(crate) fn ring_features(&self) -> u64 {
        self.features & RING_FEATURES
    }

    fn pair(&self, pair: u16) -> io::Result<&Arc<Pair>> {
        self.pairs
            .get(usize::from(pair))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// See [`virtio::KernelPairs::start`]; `tap` is the pair's queue of the tap.
    pub(crate) fn start(
        &self,
        pair: u16,
        tap: BorrowedFd<'_>,
        features: u64,
        rings: &[KernelRing<'_>; 2],
    ) -> io::Result<()> {
        let pair = self.pair(pair)?;
        let mut features = features & self.ring_features();
        if self.own_header {
            features |= OWN_HEADER;
        }
        let running = Running {
            features,
            rings: rings.each_ref().map(|ring| RingPlace {
                size: ring.size,
                descriptors: ring.descriptors,
                available: ring.available,
                used: ring.used,
            }),
        };
        let mut state = pair.state();
        // Of an earlier failure.
        let _ = pair.failure.read();
        let outcome = rings
            .iter()
            .enumerate()
            .try_for_each(|(index, ring)| state.device.set_up_ring(index, ring, &pair.failure))
            .and_then(|()| state.apply(&running))
            .and_then(|()| {
                (0..2).try_for_each(|ring| state.device.set_backend(ring, tap.as_raw_fd()))
            });
        match outcome {
            Ok(()) => state.running = Some(running),
            Err(_) => Pair::detach(&state.device),
        }
        outcome
    }

    /// See [`virtio::KernelPairs::set_call`].
    pub(crate) fn set_call(&self, pair: u16, ring: usize, call: &EventFd) -> io::Result<()> {
        let state = self.pair(pair)?.state();
        state.device.set_vring_call(ring, call).map_err(plain)
    }

    /// See [`virtio::KernelPairs::stop`].
    pub(crate) fn stop(&self, pair: u16) -> [Option<u16>; 2] {
        let Ok(pair) = self.pair(pair) else {
            return [None; 2];
        };
        let mut state = pair.state();
        // Waits for what is under way.
        Pair::detach(&state.device);
        state.running = None;
        [0, 1].map(|ring| match state.device.get_vring_base(ring) {
            Ok(next) => u16::try_from(next & 0xffff).ok(),
            Err(error) => {
                tracing::warn!(ring, %error, "vhost-net does not say how far it got; the used ring does");
                None
            }
        })
    }

    /// See [`virtio::KernelPairs::failure_fd`].
    #[allow(unsafe_code)]
    pub(crate) fn failure_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        let pair = self.pairs.get(usize::from(pair))?;
        // SAFETY: the eventfd is open as long as `self` keeps the pair.
        Some(unsafe { BorrowedFd::borrow_raw(pair.failure.as_raw_fd()) })
    }
}

fn open_device() -> Result<OwnedFd, VhostError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open(DEVICE, flags, Mode::empty()).map_err(|error| VhostError::Open(error.into()))
}

fn make_pair(file: OwnedFd, ram: &Ram) -> Result<(Arc<Pair>, u64), VhostError> {
    let number = file.as_raw_fd();
    let unusable = |what: &str, source: io::Error| VhostError::Unusable {
        what: format!("descriptor {number}: {what}"),
        source,
    };
    fcntl_getfl(&file)
        .and_then(|flags| fcntl_setfl(&file, flags | OFlags::NONBLOCK))
        .map_err(|error| unusable("make it non-blocking", error.into()))?;
    let failure = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
        .map_err(|error| unusable("make an eventfd", error))?;
    let device = Device {
        file: File::from(file),
        ram: Arc::clone(ram.guest()),
    };
    device
        .set_owner()
        .map_err(|error| unusable("vhost_set_owner failed", plain(error)))?;
    let features = device
        .get_features()
        .map_err(|error| unusable("ask for its features", plain(error)))?;
    let regions: Vec<_> = ram
        .ranges()
        .map(|range| VhostUserMemoryRegionInfo {
            guest_phys_addr: range.guest_start.0,
            memory_size: range.size_bytes,
            userspace_addr: range.host_address(),
            ..VhostUserMemoryRegionInfo::default()
        })
        .collect();
    device
        .set_mem_table(&regions)
        .map_err(|error| unusable("tell it of guest RAM", plain(error)))?;
    let state = PairState {
        device,
        running: None,
        log: None,
        known: None,
    };
    let pair = Pair {
        state: Mutex::new(state),
        failure,
    };
    Ok((Arc::new(pair), features))
}
