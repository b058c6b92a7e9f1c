//! From the device to the driver: interrupts, the ISR register and the demand for a reset.
//!
//! Workers use this without the transport's lock: the transport holds that one while it waits for them to stop.

use crate::lock::lock;
use pci::{IntxLine, Msix};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use vmm_sys_util::eventfd::EventFd;

/// No vector is mapped (virtio 1.2, section 4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xffff;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// How a device reaches its driver.
pub struct Signals {
    label: String,
    msix: Msix,
    msix_enabled: AtomicBool,
    config_vector: AtomicU16,
    queue_vectors: Box<[AtomicU16]>,
    isr: AtomicU8,
    /// The line and whether the command register forbids to use it.
    intx: Mutex<Intx>,
    driver_ok: AtomicBool,
    broken: AtomicBool,
    generation: AtomicU8,
    rerouted: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct Intx {
    line: Option<Arc<dyn IntxLine>>,
    disabled: bool,
    high: bool,
}

impl Intx {
    fn set(&mut self, high: bool) {
        if let Some(line) = &self.line
            && self.high != high
        {
            line.set(high);
            self.high = high;
        }
    }
}

impl Signals {
    pub(crate) fn new(label: String, msix: Msix, queue_count: usize) -> Self {
        Self {
            label,
            msix,
            msix_enabled: AtomicBool::new(false),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queue_count)
                .map(|_| AtomicU16::new(NO_VECTOR))
                .collect(),
            isr: AtomicU8::new(0),
            intx: Mutex::default(),
            driver_ok: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            generation: AtomicU8::new(0),
            rerouted: OnceLock::new(),
        }
    }

    /// Interrupts for a queue in whose used ring there is something new.
    pub fn queue(&self, index: usize) {
        if self.msix_enabled.load(Ordering::Acquire) {
            if let Some(vector) = self.queue_vectors.get(index) {
                self.vector(vector.load(Ordering::Relaxed));
            }
        } else {
            self.raise(ISR_QUEUE);
        }
    }

    /// The vector that a queue's interrupts go to: `None` if there is none, or they take the line.
    pub(crate) fn vector_of(&self, queue: usize) -> Option<u16> {
        let vector = self.queue_vector(queue);
        (self.msix_enabled.load(Ordering::Acquire) && vector != NO_VECTOR).then_some(vector)
    }

    /// What a signal of that vector is.
    pub(crate) fn vector_fd(&self, vector: u16) -> Option<&EventFd> {
        let vector = self.msix.vector(usize::from(vector))?;
        Some(vector.trigger())
    }

    /// Has `listener` called, with the transport's lock held, when what [`vector_of`](Self::vector_of) says may have
    /// changed. Once.
    pub(crate) fn on_reroute(&self, listener: Box<dyn Fn() + Send + Sync>) {
        let _ = self.rerouted.set(listener);
    }

    fn reroute(&self) {
        if let Some(listener) = self.rerouted.get() {
            listener();
        }
    }

    /// The device's configuration changed: new generation, and an interrupt if the driver is up.
    pub fn config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if self.driver_ok.load(Ordering::Acquire) {
            self.config_interrupt();
        }
    }

    fn config_interrupt(&self) {
        if self.msix_enabled.load(Ordering::Acquire) {
            self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
            self.vector(self.config_vector.load(Ordering::Relaxed));
        } else {
            self.raise(ISR_CONFIG);
        }
    }

    /// Something happened after which the device cannot go on until its driver resets it (virtio 1.2, section 2.1.2):
    /// mostly the driver's own doing. Logged once.
    pub fn fail(&self, what: &str, reason: &dyn Display) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::error!(device = %self.label, at = what, "the device stands still until its driver resets it: {reason}");
            if self.driver_ok.load(Ordering::Acquire) {
                self.config_interrupt();
            }
        }
    }

    /// Whether the device waits for a reset.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn vector(&self, index: u16) {
        if index != NO_VECTOR {
            self.msix.signal(usize::from(index));
        }
    }

    fn raise(&self, bit: u8) {
        let mut intx = lock(&self.intx);
        self.isr.fetch_or(bit, Ordering::AcqRel);
        let high = !intx.disabled;
        intx.set(high);
    }

    /// A driver's read of the ISR register, which clears it and lowers the line.
    pub(crate) fn take_isr(&self) -> u8 {
        let mut intx = lock(&self.intx);
        let isr = self.isr.swap(0, Ordering::AcqRel);
        intx.set(false);
        isr
    }

    pub(crate) fn isr(&self) -> u8 {
        self.isr.load(Ordering::Acquire)
    }

    pub(crate) fn set_isr(&self, isr: u8) {
        self.isr.store(isr, Ordering::Release);
        self.refresh_line();
    }

    pub(crate) fn connect(&self, line: Arc<dyn IntxLine>) {
        let mut intx = lock(&self.intx);
        intx.line = Some(line);
        intx.high = false;
        drop(intx);
        self.refresh_line();
    }

    pub(crate) fn disconnect(&self) {
        let mut intx = lock(&self.intx);
        intx.set(false);
        intx.line = None;
    }

    /// Takes over what a configuration write may have changed.
    pub(crate) fn config_written(&self, space: &pci::ConfigSpace) {
        self.msix.config_written(space);
        let enabled = self.msix.enabled();
        if self.msix_enabled.swap(enabled, Ordering::AcqRel) != enabled {
            self.reroute();
        }
        let command = space.get_u16(pci::regs::COMMAND);
        lock(&self.intx).disabled = command & pci::regs::COMMAND_INTX_DISABLE != 0;
        self.refresh_line();
    }

    fn refresh_line(&self) {
        let mut intx = lock(&self.intx);
        let usable = !intx.disabled && !self.msix_enabled.load(Ordering::Acquire);
        intx.set(usable && self.isr() != 0);
    }

    pub(crate) fn set_driver_ok(&self, ok: bool) {
        self.driver_ok.store(ok, Ordering::Release);
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn set_generation(&self, generation: u8) {
        self.generation.store(generation, Ordering::Release);
    }

    pub(crate) fn msix(&self) -> &Msix {
        &self.msix
    }

    pub(crate) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Relaxed)
    }

    /// Maps configuration changes to a vector; one that does not exist becomes [`NO_VECTOR`].
    pub(crate) fn set_config_vector(&self, vector: u16) {
        self.config_vector
            .store(self.existing(vector), Ordering::Relaxed);
    }

    pub(crate) fn queue_vector(&self, queue: usize) -> u16 {
        self.queue_vectors
            .get(queue)
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed))
    }

    /// Maps a queue to a vector; one that does not exist becomes [`NO_VECTOR`].
    pub(crate) fn set_queue_vector(&self, queue: usize, vector: u16) {
        if let Some(slot) = self.queue_vectors.get(queue) {
            let vector = self.existing(vector);
            if slot.swap(vector, Ordering::AcqRel) != vector {
                self.reroute();
            }
        }
    }

    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.msix.vector_count() {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// Everything as after a device reset, the vectors' mapping included.
    pub(crate) fn reset(&self) {
        self.set_driver_ok(false);
        self.set_broken(false);
        self.set_config_vector(NO_VECTOR);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
        self.set_isr(0);
    }
}
