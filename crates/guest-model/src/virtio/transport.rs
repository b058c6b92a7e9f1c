//! The modern PCI transport (virtio 1.2, 4.1): where the registers are, and the steps of an initialisation.

use crate::bus::{BusError, BusWords, GuestBus};
use crate::error::GuestError;
use crate::pci::{Bdf, ConfigAccess, Function, Msix, regs};
use std::time::Duration;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};

const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;

const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY: u64 = 0x1e;
const QUEUE_RINGS: [u64; 3] = [0x20, 0x28, 0x30];

/// How often a reset's end is looked for, and how long in between; a second together.
const RESET_LOOKS: u32 = 1000;
const RESET_PAUSE: Duration = Duration::from_millis(1);

/// A virtio function's registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioPci {
    bdf: Bdf,
    common: u64,
    notify: u64,
    notify_multiplier: u64,
    isr: u64,
    device: u64,
    msix: Option<Msix>,
}

impl VirtioPci {
    /// Finds the registers by the vendor's capabilities, the first of each kind.
    ///
    /// # Errors
    /// One is missing, as in a legacy device, or in a region without an address; the bus.
    pub fn find(
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        function: &Function,
    ) -> Result<Self, GuestError> {
        let bdf = function.bdf;
        let mut places = [None; 5];
        let mut multiplier = 0;
        let vendor = function.capabilities.iter();
        for capability in vendor.filter(|c| c.id == regs::CAP_VENDOR) {
            let at = capability.offset;
            let kind = access.read8(bus, bdf, at + 3)?;
            let bar = access.read8(bus, bdf, at + 4)?;
            let offset = access.read32(bus, bdf, at + 8)?;
            let Some(place) = places.get_mut(usize::from(kind)) else {
                continue;
            };
            if place.is_some() {
                continue;
            }
            *place = function
                .bar_address(bar)
                .map(|base| base + u64::from(offset));
            if kind == NOTIFY {
                multiplier = access.read32(bus, bdf, at + 16)?.into();
            }
        }
        let place = |kind: u8, name| {
            places[usize::from(kind)]
                .ok_or_else(|| GuestError::unfit(bdf, format!("has no {name} registers")))
        };
        Ok(Self {
            bdf,
            common: place(COMMON, "common")?,
            notify: place(NOTIFY, "notification")?,
            notify_multiplier: multiplier,
            isr: place(ISR, "interrupt status")?,
            device: place(DEVICE, "device")?,
            msix: Msix::find(bus, access, function)?,
        })
    }

    /// Where the function is.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// Its MSI-X table.
    pub fn msix(&self) -> Option<&Msix> {
        self.msix.as_ref()
    }

    /// Address of the device's own registers.
    pub fn device_registers(&self) -> u64 {
        self.device
    }

    /// Resets the device, and waits for it to be done.
    ///
    /// # Errors
    /// It does not come back; the bus.
    pub fn reset(&self, bus: &mut dyn GuestBus) -> Result<(), GuestError> {
        bus.write8(self.common + STATUS, 0)?;
        for _ in 0..RESET_LOOKS {
            match bus.read8(self.common + STATUS)? {
                0 => return Ok(()),
                // It was pulled out meanwhile: there is nothing left to be reset.
                0xff => return Err(GuestError::Absent(self.bdf)),
                _ => bus.pause(RESET_PAUSE)?,
            }
        }
        Err(GuestError::Waited(format!("the reset of {}", self.bdf)))
    }

    /// The device status register.
    ///
    /// # Errors
    /// The bus.
    pub fn status(&self, bus: &mut dyn GuestBus) -> Result<u8, BusError> {
        bus.read8(self.common + STATUS)
    }

    /// Whether the device says that it cannot go on.
    ///
    /// # Errors
    /// The bus.
    pub fn needs_reset(&self, bus: &mut dyn GuestBus) -> Result<bool, BusError> {
        let status = self.status(bus)?;
        Ok(status != 0xff && u32::from(status) & VIRTIO_CONFIG_S_NEEDS_RESET != 0)
    }

    fn add_status(&self, bus: &mut dyn GuestBus, bit: u32) -> Result<u8, BusError> {
        let status = self.status(bus)? | bit as u8;
        bus.write8(self.common + STATUS, status)?;
        self.status(bus)
    }

    /// All features that the device offers.
    ///
    /// # Errors
    /// The bus.
    pub fn offered(&self, bus: &mut dyn GuestBus) -> Result<u64, BusError> {
        let mut features = 0;
        for half in 0..2_u32 {
            bus.write32(self.common + DEVICE_FEATURE_SELECT, half)?;
            let bits = bus.read32(self.common + DEVICE_FEATURE)?;
            features |= u64::from(bits) << (32 * half);
        }
        Ok(features)
    }

    /// Resets, greets, and accepts those of the `wanted` features that are offered. Returns what was accepted.
    ///
    /// # Errors
    /// The device refuses the choice; the reset; the bus.
    pub fn negotiate(
        &self,
        bus: &mut dyn GuestBus,
        wanted: impl FnOnce(u64) -> u64,
    ) -> Result<u64, GuestError> {
        self.reset(bus)?;
        self.add_status(bus, VIRTIO_CONFIG_S_ACKNOWLEDGE)?;
        self.add_status(bus, VIRTIO_CONFIG_S_DRIVER)?;
        let offered = self.offered(bus)?;
        let accepted = wanted(offered) & offered;
        for half in 0..2_u32 {
            bus.write32(self.common + DRIVER_FEATURE_SELECT, half)?;
            let bits = (accepted >> (32 * half)) as u32;
            bus.write32(self.common + DRIVER_FEATURE, bits)?;
        }
        let status = self.add_status(bus, VIRTIO_CONFIG_S_FEATURES_OK)?;
        if u32::from(status) & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            self.add_status(bus, VIRTIO_CONFIG_S_FAILED)?;
            let what = format!("refuses features {accepted:#x} of {offered:#x}");
            return Err(GuestError::unfit(self.bdf, what));
        }
        Ok(accepted)
    }

    /// The last step: the driver is ready.
    ///
    /// # Errors
    /// The bus.
    pub fn driver_ok(&self, bus: &mut dyn GuestBus) -> Result<(), BusError> {
        self.add_status(bus, VIRTIO_CONFIG_S_DRIVER_OK).map(drop)
    }

    /// The driver gives up.
    ///
    /// # Errors
    /// The bus.
    pub fn failed(&self, bus: &mut dyn GuestBus) -> Result<(), BusError> {
        self.add_status(bus, VIRTIO_CONFIG_S_FAILED).map(drop)
    }

    /// Queues the device has.
    ///
    /// # Errors
    /// The bus.
    pub fn queues(&self, bus: &mut dyn GuestBus) -> Result<u16, BusError> {
        bus.read16(self.common + QUEUES)
    }

    /// Largest size of a queue; 0 when there is no such queue. Leaves the queue selected.
    ///
    /// # Errors
    /// The bus.
    pub fn queue_limit(&self, bus: &mut dyn GuestBus, queue: u16) -> Result<u16, BusError> {
        bus.write16(self.common + QUEUE_SELECT, queue)?;
        bus.read16(self.common + QUEUE_SIZE)
    }

    /// Gives a queue its size, rings (descriptors, available, used) and vector, and enables it. Returns the address to
    /// write the queue's number to when there is something in it.
    ///
    /// # Errors
    /// The device has no such vector to give; the bus.
    pub fn enable_queue(
        &self,
        bus: &mut dyn GuestBus,
        queue: u16,
        size: u16,
        rings: [u64; 3],
        vector: Option<u16>,
    ) -> Result<u64, GuestError> {
        bus.write16(self.common + QUEUE_SELECT, queue)?;
        bus.write16(self.common + QUEUE_SIZE, size)?;
        for (register, address) in QUEUE_RINGS.into_iter().zip(rings) {
            bus.write32(self.common + register, address as u32)?;
            bus.write32(self.common + register + 4, (address >> 32) as u32)?;
        }
        if let Some(vector) = vector {
            bus.write16(self.common + QUEUE_VECTOR, vector)?;
            if bus.read16(self.common + QUEUE_VECTOR)? != vector {
                let what = format!("has no vector {vector} for queue {queue}");
                return Err(GuestError::unfit(self.bdf, what));
            }
        }
        bus.write16(self.common + QUEUE_ENABLE, 1)?;
        let offset: u64 = bus.read16(self.common + QUEUE_NOTIFY)?.into();
        Ok(self.notify + offset * self.notify_multiplier)
    }

    /// Gives configuration changes a vector.
    ///
    /// # Errors
    /// The device has no such vector to give; the bus.
    pub fn set_config_vector(&self, bus: &mut dyn GuestBus, vector: u16) -> Result<(), GuestError> {
        bus.write16(self.common + CONFIG_VECTOR, vector)?;
        if bus.read16(self.common + CONFIG_VECTOR)? != vector {
            let what = format!("has no vector {vector} for configuration changes");
            return Err(GuestError::unfit(self.bdf, what));
        }
        Ok(())
    }

    /// Reads the device's registers in a state they had at one moment.
    ///
    /// # Errors
    /// They change all the time; the bus.
    pub fn read_device(
        &self,
        bus: &mut dyn GuestBus,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), GuestError> {
        for _ in 0..100 {
            let before = bus.read8(self.common + GENERATION)?;
            for (at, byte) in data.iter_mut().enumerate() {
                *byte = bus.read8(self.device + offset + at as u64)?;
            }
            if bus.read8(self.common + GENERATION)? == before {
                return Ok(());
            }
        }
        let what = format!("{} to leave its configuration alone", self.bdf);
        Err(GuestError::Waited(what))
    }

    /// Reads (and so clears) the interrupt status of a function without MSI-X.
    ///
    /// # Errors
    /// The bus.
    pub fn interrupt_status(&self, bus: &mut dyn GuestBus) -> Result<u8, BusError> {
        bus.read8(self.isr)
    }
}
