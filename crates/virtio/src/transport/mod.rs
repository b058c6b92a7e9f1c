//! virtio over PCI, modern only (virtio 1.2, section 4.1).
//!
//! [`VirtioPci`] is the function a driver sees: configuration space, common configuration, notifications and
//! interrupts. What the device does with its queues is a [`VirtioDevice`].

mod layout;
mod registers;
mod saved;

use crate::device::{Run, VirtioDevice};
use crate::features::ring;
use crate::lock::lock;
use crate::queue::{QueueSetup, Virtqueue};
use crate::signals::Signals;
use crate::worker::eventfd;
use layout::{DEVICE, ISR, MSIX_BAR, NOTIFY, NOTIFY_MULTIPLIER, Places, STRUCTURES_BAR};
use memory::GuestRam;
use pci::{
    ConfigSpace, Decode, DoorbellWidth, IntxLine, Msix, MsixPlace, PciDevice, Platform, StateError,
    flr_requested,
};
use registers::{
    Asked, STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK, STATUS_FAILED, STATUS_FEATURES_OK,
};
use saved::{QueueSaved, TransportSaved, VERSION};
use std::io;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// A virtio device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VirtioError {
    /// Interrupt vectors, event or epoll descriptors, threads.
    #[error("{device}: no host resources: {source}")]
    Host {
        /// Which device.
        device: String,
        /// What the host said.
        source: io::Error,
    },
    /// The number of vectors is not possible.
    #[error("{device}: {source}")]
    Layout {
        /// Which device.
        device: String,
        /// What does not fit.
        source: pci::LayoutError,
    },
    /// A property has a value it cannot have.
    #[error("{device}: {reason}")]
    Property {
        /// Which device.
        device: String,
        /// One sentence naming the property and what is possible.
        reason: String,
    },
}

/// The function a virtio device is on the bus.
#[derive(Debug, Clone)]
pub struct PciConfig {
    /// For logs and errors: `virtio-net-pci 'net1'`.
    pub label: String,
    /// Number of MSI-X vectors; `None`: one a queue and one for configuration changes.
    pub vectors: Option<u16>,
    /// The function sits on the root complex's own bus, not behind a port.
    pub on_root_bus: bool,
}

/// Registers and queues, as the driver programmed them.
pub(crate) struct State {
    space: ConfigSpace,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    /// The driver accepted features beyond bit 63.
    unknown_features: bool,
    status: u8,
    queue_select: u16,
    queue_sizes: Vec<u16>,
    queues: Vec<QueueSetup>,
    /// The device's threads own the queues.
    running: bool,
    /// The machine stands still.
    paused: bool,
    /// It was restored: an interrupt may have been lost on the way, so each queue's is repeated.
    repeat_interrupts: bool,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    label: String,
    device: Arc<dyn VirtioDevice>,
    ram: Arc<GuestRam>,
    platform: Arc<dyn Platform>,
    offered: u64,
    places: Places,
    signals: Arc<Signals>,
    kicks: Arc<[EventFd]>,
    state: Mutex<State>,
    /// Where the doorbells are, and for which queues.
    doorbells: Mutex<Vec<(u64, usize)>>,
}

impl VirtioPci {
    /// Makes the function for `device`.
    ///
    /// # Errors
    /// The host has no vectors or descriptors left, or their number is not possible.
    pub fn new(
        config: PciConfig,
        device: Arc<dyn VirtioDevice>,
        ram: Arc<GuestRam>,
        platform: Arc<dyn Platform>,
    ) -> Result<Arc<Self>, VirtioError> {
        let label = config.label;
        let host = |source| VirtioError::Host {
            device: label.clone(),
            source,
        };
        let layout = |source| VirtioError::Layout {
            device: label.clone(),
            source,
        };
        let queue_sizes = device.queue_sizes();
        let wanted = queue_sizes
            .len()
            .saturating_add(1)
            .min(pci::MSIX_MAX_VECTORS);
        let vectors = match config.vectors {
            Some(count) => count.max(1),
            None => u16::try_from(wanted).unwrap_or(u16::MAX),
        };
        // Table first, pending bits in the second half, as small as both fit.
        let table_bytes = u64::from(vectors) * pci::MSIX_ENTRY_BYTES;
        let half_bytes = table_bytes.next_power_of_two().max(0x800);
        let place = MsixPlace {
            bar: MSIX_BAR,
            table_offset: 0,
            pba_offset: u32::try_from(half_bytes).unwrap_or(0),
        };
        let msix =
            Msix::new(platform.msi_vectors(vectors).map_err(host)?, place).map_err(layout)?;
        let (space, places) =
            layout::config_space(device.kind(), &msix, half_bytes * 2, config.on_root_bus)
                .map_err(layout)?;
        let signals = Arc::new(Signals::new(label.clone(), msix, queue_sizes.len()));
        let kicks = queue_sizes
            .iter()
            .map(|_| eventfd())
            .collect::<io::Result<Arc<[EventFd]>>>()
            .map_err(host)?;
        device.attach(Arc::clone(&signals));
        let mut state = State {
            space,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            unknown_features: false,
            status: 0,
            queue_select: 0,
            queues: vec![QueueSetup::default(); queue_sizes.len()],
            queue_sizes,
            running: false,
            paused: false,
            repeat_interrupts: false,
        };
        state.reset_registers();
        Ok(Arc::new(Self {
            offered: device.features() | ring::VERSION_1,
            label,
            device,
            ram,
            platform,
            places,
            signals,
            kicks,
            state: Mutex::new(state),
            doorbells: Mutex::default(),
        }))
    }

    /// Stops serving the queues at a request boundary; afterwards the device writes nothing to guest RAM. To be called
    /// when the machine has stopped its vCPUs, before RAM is read for the last time.
    pub fn pause(&self) {
        let mut state = lock(&self.state);
        state.paused = true;
        self.reconcile(&mut state);
    }

    /// Goes on after [`pause`](Self::pause) or [`restore`](PciDevice::restore), if the driver is up.
    pub fn resume(&self) {
        let mut state = lock(&self.state);
        state.paused = false;
        self.reconcile(&mut state);
        if std::mem::take(&mut state.repeat_interrupts) && state.running {
            for (index, _) in state.queues.iter().enumerate().filter(|(_, q)| q.enabled) {
                self.signals.queue(index);
            }
        }
    }

    /// The features the device offers.
    pub fn offered_features(&self) -> u64 {
        self.offered
    }

    /// Whether the driver is up and the device serves it.
    pub fn running(&self) -> bool {
        lock(&self.state).running
    }

    /// Brings the device's threads into the state the registers ask for.
    fn reconcile(&self, state: &mut State) {
        let bus_master = state.space.get_u16(pci::regs::COMMAND) & pci::regs::COMMAND_BUS_MASTER;
        let wanted = state.status & STATUS_DRIVER_OK != 0
            && bus_master != 0
            && !state.paused
            && !self.signals.broken();
        if wanted && !state.running {
            self.start(state);
        } else if !wanted && state.running {
            self.stop(state);
        }
    }

    fn start(&self, state: &mut State) {
        let mut queues = Vec::with_capacity(state.queues.len());
        for (index, (setup, max)) in state.queues.iter().zip(&state.queue_sizes).enumerate() {
            if !setup.enabled {
                queues.push(None);
                continue;
            }
            match Virtqueue::new(setup, *max, state.driver_features, &self.ram) {
                Ok(queue) => queues.push(Some(queue)),
                Err(error) => {
                    self.signals.fail(&format!("queue {index}"), &error);
                    return;
                }
            }
        }
        let run = Run {
            ram: Arc::clone(&self.ram),
            features: state.driver_features,
            queues,
            kicks: Arc::clone(&self.kicks),
        };
        match self.device.start(run) {
            Ok(()) => state.running = true,
            Err(error) => self.signals.fail("start", &error),
        }
    }

    fn stop(&self, state: &mut State) {
        if !std::mem::take(&mut state.running) {
            return;
        }
        let queues = self.device.stop();
        for (index, setup) in state.queues.iter_mut().enumerate() {
            match queues.get(index) {
                Some(Some(queue)) => (setup.next_available, setup.next_used) = queue.progress(),
                _ if setup.enabled => self
                    .signals
                    .fail(&format!("queue {index}"), &"its worker ended"),
                _ => {}
            }
        }
    }

    /// A driver's reset: returns with the device stopped.
    fn reset_device(&self, state: &mut State) {
        self.stop(state);
        let known = state.status != 0;
        state.reset_registers();
        state.repeat_interrupts = false;
        self.signals.reset();
        self.device.reset();
        if known {
            self.device.negotiated(0);
        }
    }

    fn reset_function(&self, state: &mut State) {
        self.reset_device(state);
        self.signals.msix().reset();
        state.space.reset();
        self.signals.config_written(&state.space);
    }

    fn write_status(&self, state: &mut State, value: u8) {
        if value == 0 {
            self.reset_device(state);
            return;
        }
        let mut new = state.status
            | value & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED | STATUS_FEATURES_OK);
        if new & !state.status & STATUS_FEATURES_OK != 0 {
            let features = state.driver_features;
            let refused = features & !self.offered;
            if refused != 0 || features & ring::VERSION_1 == 0 || state.unknown_features {
                tracing::warn!(
                    device = %self.label,
                    "the guest's driver asks for features {features:#x} that are not offered or leaves out VERSION_1; \
                     refused (offered {:#x})",
                    self.offered
                );
                new &= !STATUS_FEATURES_OK;
            } else {
                state.status = new;
                self.device.negotiated(features);
            }
        }
        if value & STATUS_DRIVER_OK != 0 && new & STATUS_FEATURES_OK != 0 {
            new |= STATUS_DRIVER_OK;
        }
        state.status = new;
        self.signals.set_driver_ok(new & STATUS_DRIVER_OK != 0);
        self.reconcile(state);
    }

    fn structures_read(&self, state: &State, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            ..ISR => state.read_common(&self.signals, self.offered, offset, data),
            ISR => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.signals.take_isr();
                }
            }
            DEVICE..NOTIFY => {
                if let Ok(offset) = usize::try_from(offset - DEVICE) {
                    self.device.config_read(offset, data);
                }
            }
            _ => {}
        }
    }

    fn structures_write(&self, state: &mut State, offset: u64, data: &[u8]) {
        match offset {
            ..ISR => {
                if let Asked::Status(value) = state.write_common(&self.signals, offset, data) {
                    self.write_status(state, value);
                }
            }
            DEVICE..NOTIFY => {
                if let Ok(offset) = usize::try_from(offset - DEVICE) {
                    self.device.config_write(offset, data);
                }
            }
            _ => self.notify(offset),
        }
    }

    /// A notification that came as a write, for want of a doorbell.
    fn notify(&self, offset: u64) {
        let queue = offset
            .checked_sub(NOTIFY)
            .and_then(|at| usize::try_from(at / NOTIFY_MULTIPLIER).ok());
        if let Some(kick) = queue.and_then(|queue| self.kicks.get(queue)) {
            // A counter that is full is signalled already.
            let _ = kick.write(1);
        }
    }

    fn take_doorbells(&self) {
        for (address, queue) in lock(&self.doorbells).drain(..) {
            if let Some(kick) = self.kicks.get(queue)
                && let Err(error) = self
                    .platform
                    .remove_doorbell(address, DoorbellWidth::Any, kick)
            {
                tracing::warn!(device = %self.label, queue, %error, "doorbell could not be taken back");
            }
        }
    }

    fn place_doorbells(&self, base: u64) {
        let mut doorbells = lock(&self.doorbells);
        for (queue, kick) in self.kicks.iter().enumerate() {
            let Some(address) = base.checked_add(NOTIFY + queue as u64 * NOTIFY_MULTIPLIER) else {
                return;
            };
            match self
                .platform
                .add_doorbell(address, DoorbellWidth::Any, kick)
            {
                Ok(()) => doorbells.push((address, queue)),
                Err(error) => {
                    tracing::debug!(device = %self.label, queue, %error, "no doorbell, notifications are trapped");
                }
            }
        }
    }

    fn refused(&self, reason: impl std::fmt::Display) -> StateError {
        StateError::Refused {
            device: self.label.clone(),
            reason: reason.to_string(),
        }
    }

    fn saved(&self, state: &State) -> TransportSaved {
        TransportSaved {
            config_space: state.space.save(),
            msix: self.signals.msix().save(),
            device_feature_select: state.device_feature_select,
            driver_feature_select: state.driver_feature_select,
            driver_features: state.driver_features,
            status: state.status,
            broken: self.signals.broken(),
            queue_select: state.queue_select,
            config_vector: self.signals.config_vector(),
            isr: self.signals.isr(),
            generation: self.signals.generation(),
            queues: state
                .queues
                .iter()
                .enumerate()
                .map(|(index, setup)| QueueSaved::of(setup, self.signals.queue_vector(index)))
                .collect(),
            device: self.device.save(),
        }
    }

    fn take_over(&self, state: &mut State, saved: &TransportSaved) -> Result<(), StateError> {
        let features = saved.driver_features;
        let negotiated = saved.status & STATUS_FEATURES_OK != 0;
        // Until it is agreed on, a driver may have written anything: that is refused when it asks for the agreement.
        if negotiated && features & !self.offered != 0 {
            return Err(self.refused(format_args!(
                "Features {features:#x} unsupported. Allowed features: {:#x}",
                self.offered
            )));
        }
        if saved.queues.len() != state.queues.len() {
            return Err(self.refused(format_args!(
                "{} queues were saved, there are {} here: the device is configured differently",
                saved.queues.len(),
                state.queues.len()
            )));
        }
        let queues = saved
            .queues
            .iter()
            .zip(&state.queue_sizes)
            .map(|(queue, max)| queue.setup(*max))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| self.refused("a queue was saved with a size not possible here"))?;
        if saved.status & STATUS_DRIVER_OK != 0 && !negotiated {
            return Err(self.refused("the driver was up without features agreed on"));
        }
        state
            .space
            .restore(&saved.config_space)
            .map_err(|error| self.refused(error))?;
        self.signals
            .msix()
            .restore(&self.label, &saved.msix, &state.space)?;
        state.device_feature_select = saved.device_feature_select;
        state.driver_feature_select = saved.driver_feature_select;
        state.driver_features = features;
        state.status = saved.status;
        state.queue_select = saved.queue_select;
        state.queues = queues;
        self.device
            .restore(if negotiated { features } else { 0 }, &saved.device)
            .map_err(|reason| self.refused(reason))?;
        self.signals.set_generation(saved.generation);
        self.signals.set_config_vector(saved.config_vector);
        for (index, queue) in saved.queues.iter().enumerate() {
            self.signals.set_queue_vector(index, queue.vector);
        }
        self.signals.set_broken(saved.broken);
        self.signals
            .set_driver_ok(saved.status & STATUS_DRIVER_OK != 0);
        self.signals.config_written(&state.space);
        self.signals.set_isr(saved.isr);
        Ok(())
    }
}

impl PciDevice for VirtioPci {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let state = lock(&self.state);
        match self.places.windowed(&state.space, offset, data.len()) {
            Some(access) => {
                data.fill(0);
                let (read, _) = data.split_at_mut(access.length);
                self.structures_read(&state, access.offset, read);
            }
            None => state.space.read(offset, data),
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut state = lock(&self.state);
        if flr_requested(self.places.express, offset, data) {
            self.reset_function(&mut state);
            return;
        }
        if let Some(access) = self.places.windowed(&state.space, offset, data.len()) {
            let (written, _) = data.split_at(access.length);
            self.structures_write(&mut state, access.offset, written);
            return;
        }
        state.space.write(offset, data);
        self.signals.config_written(&state.space);
        self.reconcile(&mut state);
    }

    fn decode(&self) -> Decode {
        lock(&self.state).space.decode()
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if bar == usize::from(STRUCTURES_BAR) {
            self.structures_read(&lock(&self.state), offset, data);
        } else {
            data.fill(0);
            if bar == usize::from(MSIX_BAR) {
                self.signals.msix().bar_read(offset, data);
            }
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        if bar == usize::from(STRUCTURES_BAR) {
            // A notification needs no register, and must not wait for one.
            if offset >= NOTIFY {
                self.notify(offset);
            } else {
                self.structures_write(&mut lock(&self.state), offset, data);
            }
        } else if bar == usize::from(MSIX_BAR) {
            self.signals.msix().bar_write(offset, data);
        }
    }

    fn bar_placed(&self, bar: usize, at: Option<u64>) {
        if bar == usize::from(STRUCTURES_BAR) {
            self.take_doorbells();
            if let Some(base) = at {
                self.place_doorbells(base);
            }
        }
    }

    fn connect_intx(&self, line: Arc<dyn IntxLine>) {
        self.signals.connect(line);
    }

    fn detached(&self) {
        self.take_doorbells();
        // The guest has let go of it; it comes back as at power-on.
        self.reset_function(&mut lock(&self.state));
        self.signals.disconnect();
    }

    fn reset(&self) {
        self.reset_function(&mut lock(&self.state));
    }

    fn state_version(&self) -> u16 {
        VERSION
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        let mut state = lock(&self.state);
        self.stop(&mut state);
        let saved = self.saved(&state);
        self.reconcile(&mut state);
        minicbor::to_vec(saved).map_err(|error| self.refused(error))
    }

    fn restore(&self, version: u16, bytes: &[u8]) -> Result<(), StateError> {
        if version > VERSION {
            return Err(StateError::Newer {
                device: self.label.clone(),
                found: version,
                known: VERSION,
            });
        }
        let saved: TransportSaved = minicbor::decode(bytes).map_err(|error| {
            self.refused(format_args!("the saved state does not decode: {error}"))
        })?;
        let mut state = lock(&self.state);
        self.stop(&mut state);
        state.paused = true;
        self.take_over(&mut state, &saved)?;
        state.repeat_interrupts = true;
        Ok(())
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.take_doorbells();
        let state = self.state.get_mut().unwrap_or_else(|e| e.into_inner());
        if std::mem::take(&mut state.running) {
            drop(self.device.stop());
        }
    }
}
