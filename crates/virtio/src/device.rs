//! What a device type brings to the transport.

use crate::queue::Virtqueue;
use crate::signals::Signals;
use memory::GuestRam;
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// Who a device type is (virtio 1.2, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKind {
    /// The device type's number: 1 network, 2 block, 4 entropy.
    pub id: u16,
    /// PCI class: base class, sub-class and programming interface.
    pub class: u32,
}

/// Everything a device needs to serve its queues.
pub struct Run {
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// The features agreed on.
    pub features: u64,
    /// The queues the driver enabled, by index.
    pub queues: Vec<Option<Virtqueue>>,
    /// What the driver's notifications signal, by queue.
    pub kicks: Arc<[EventFd]>,
}

/// A device type: what is not the transport's.
///
/// The transport calls [`start`](Self::start) when the driver is up, the function may access memory and the
/// machine runs, and [`stop`](Self::stop) when one of these ends; between the two the device's threads own the queues.
/// All but those two may come from any thread at any time. None may block on a vCPU.
pub trait VirtioDevice: Send + Sync {
    /// Who it is.
    fn kind(&self) -> DeviceKind;

    /// The features it offers beside [`VERSION_1`](crate::features::ring::VERSION_1), which the transport adds.
    fn features(&self) -> u64;

    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Told once, before anything else: how it reaches its driver.
    fn attach(&self, signals: Arc<Signals>);

    /// Reads the device's configuration (virtio 1.2, section 2.5); bytes beyond it are 0.
    fn config_read(&self, offset: usize, data: &mut [u8]);

    /// Writes the device's configuration.
    fn config_write(&self, offset: usize, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver's features were accepted; 0 after a reset.
    fn negotiated(&self, features: u64);

    /// Starts to serve the queues.
    ///
    /// # Errors
    /// The host has no thread or file descriptor left.
    fn start(&self, run: Run) -> io::Result<()>;

    /// Stops at a request boundary and gives the queues back; nothing of guest memory is accessed afterwards.
    /// Empty if it was not started.
    fn stop(&self) -> Vec<Option<Virtqueue>>;

    /// A driver's reset: as at power-on. It is stopped.
    fn reset(&self);

    /// The device type's own state, encoded. It is stopped.
    fn save(&self) -> Vec<u8>;

    /// Takes over a saved state. It is stopped; `features` are those negotiated.
    ///
    /// # Errors
    /// One sentence that says what does not fit.
    fn restore(&self, features: u64, state: &[u8]) -> Result<(), String>;
}
