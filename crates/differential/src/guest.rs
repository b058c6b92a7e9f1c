//! The guest's part in a scenario, on the machine's `qtest` socket.
//!
//! Ports are counted as [`crate::machine::board`] makes them: port 0 is `root0`.

use anyhow::{Context, Result};
use guest_model::pci::regs;
use guest_model::virtio::{VirtioPci, features};
use guest_model::{Bdf, ConfigAccess, GuestBus, PciTree, QtestBus, Windows};

use crate::vmm::Vmm;

/// ACPI's block for PCI hotplug, of 32-bit registers.
const HOTPLUG: u16 = 0xcc0;
/// Slots of the selected bus whose eject is asked for.
const DOWN: u16 = HOTPLUG + 4;
/// A write ejects slots.
const EJECT: u16 = HOTPLUG + 8;
/// The bus that the others are about.
const SELECT: u16 = HOTPLUG + 0x10;

/// Slot Control (PCI Express Base 6.0, 7.5.3.10): the power indicator, off if both bits are set, and the power controller.
const INDICATOR: u16 = 3 << 8;
const INDICATOR_ON: u16 = 1 << 8;
const INDICATOR_BLINKS: u16 = 2 << 8;
const POWER_OFF: u16 = 1 << 10;
/// Slot Status (7.5.3.11): a one takes each of them back.
const SLOT_EVENTS: u16 = 0x11f;

const BUTTON: u16 = 1 << 0;
const PRESENT: u16 = 1 << 6;

/// A port's slot, as its registers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Something is in it.
    pub occupied: bool,
    /// The attention button was pressed, and the guest has not taken note.
    pub button: bool,
    /// The power controller is on.
    pub powered: bool,
    /// The power indicator: 1 is on, 2 blinks, 3 off.
    pub indicator: u16,
}

/// The kind of virtio registers whose capability has a multiplier (virtio 1.2, 4.1.4.4).
const NOTIFICATIONS: u8 = 2;

/// Where one kind of a virtio device's registers is (virtio 1.2, 4.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioRegisters {
    /// Which: 1 common, 2 notifications, 3 interrupt status, 4 the device's own.
    pub kind: u8,
    /// The region that they are in.
    pub bar: u8,
    /// From the region's beginning.
    pub offset: u32,
    /// Their length.
    pub bytes: u32,
    /// How far the queues' notifications are apart.
    pub multiplier: Option<u32>,
}

/// A guest that has set up PCI, and does with its devices what it is told.
pub struct Guest {
    bus: QtestBus,
    tree: PciTree,
}

impl Guest {
    /// Sets up PCI by the machine's `qtest` socket.
    ///
    /// # Errors
    /// The machine does not answer, or the socket is taken.
    pub fn boot(vmm: &mut Vmm) -> Result<Self> {
        let mut bus = QtestBus::over(vmm.take_guest()?)?;
        let tree = tree(&mut bus)?;
        Ok(Self { bus, tree })
    }

    /// Looks at all of PCI again.
    ///
    /// # Errors
    /// The machine does not answer.
    pub fn enumerate(&mut self) -> Result<()> {
        self.tree = tree(&mut self.bus)?;
        Ok(())
    }

    /// Sends a line of the `qtest` protocol; the answer is told as it is.
    ///
    /// # Errors
    /// The machine does not answer.
    pub fn line(&mut self, request: &str) -> Result<String> {
        Ok(self.bus.exchange(request)?)
    }

    /// The bus behind a port.
    fn behind(&self, port: usize) -> Result<u8> {
        let slot = u8::try_from(port + 1)?;
        let function = self.tree.function(Bdf::new(0, slot, 0));
        let bridge = function.and_then(|port| port.bridge.as_ref());
        Ok(bridge
            .with_context(|| format!("the guest finds no port {port}"))?
            .secondary)
    }

    fn device(&mut self, port: usize) -> Result<VirtioPci> {
        let at = Bdf::new(self.behind(port)?, 0, 0);
        let function = self.tree.function(at);
        let function =
            function.with_context(|| format!("the guest finds nothing at port {port}"))?;
        Ok(VirtioPci::find(
            &mut self.bus,
            self.tree.access(),
            function,
        )?)
    }

    fn drive(&mut self, port: usize, wanted: u64) -> Result<()> {
        let device = self.device(port)?;
        device.negotiate(&mut self.bus, |_| wanted)?;
        device.driver_ok(&mut self.bus)?;
        Ok(())
    }

    /// A driver for the virtio-net device at a port that accepts STANDBY, if it is offered.
    ///
    /// # Errors
    /// There is no such device, or it refuses.
    pub fn accept(&mut self, port: usize) -> Result<()> {
        self.drive(
            port,
            features::STANDBY | features::MAC | features::VERSION_1,
        )
    }

    /// One that does not know STANDBY.
    ///
    /// # Errors
    /// As [`Guest::accept`].
    pub fn refuse(&mut self, port: usize) -> Result<()> {
        self.drive(port, features::MAC | features::VERSION_1)
    }

    /// The driver resets the device, and leaves it.
    ///
    /// # Errors
    /// As [`Guest::accept`].
    pub fn reset(&mut self, port: usize) -> Result<()> {
        Ok(self.device(port)?.reset(&mut self.bus)?)
    }

    /// All features that the virtio device at a port offers.
    ///
    /// # Errors
    /// As [`Guest::accept`].
    pub fn offered(&mut self, port: usize) -> Result<u64> {
        Ok(self.device(port)?.offered(&mut self.bus)?)
    }

    /// Where the registers of the virtio device at a port are, by kinds: a driver looks for each of them, wherever it is listed.
    ///
    /// # Errors
    /// There is no such device.
    pub fn registers(&mut self, port: usize) -> Result<Vec<VirtioRegisters>> {
        let at = Bdf::new(self.behind(port)?, 0, 0);
        let access = self.tree.access();
        let function = self.tree.function(at);
        let function =
            function.with_context(|| format!("the guest finds nothing at port {port}"))?;
        let vendor = function.capabilities.iter();
        let vendor = vendor.filter(|capability| capability.id == regs::CAP_VENDOR);
        let bus = &mut self.bus;
        let found = vendor
            .map(|capability| {
                let offset = capability.offset;
                let kind = access.read8(bus, at, offset + 3)?;
                Ok(VirtioRegisters {
                    kind,
                    bar: access.read8(bus, at, offset + 4)?,
                    offset: access.read32(bus, at, offset + 8)?,
                    bytes: access.read32(bus, at, offset + 12)?,
                    multiplier: match kind {
                        NOTIFICATIONS => Some(access.read32(bus, at, offset + 16)?),
                        _ => None,
                    },
                })
            })
            .collect::<Result<Vec<_>>>();
        found.map(|mut all| {
            all.sort_by_key(|each| each.kind);
            all
        })
    }

    /// Fills memory with what cannot be sent as a page of zeros.
    ///
    /// # Errors
    /// The machine does not answer.
    pub fn fill(&mut self, pages: u64) -> Result<()> {
        const FIRST: u64 = 16 << 20;
        for page in 0..pages {
            self.bus.memory_write(FIRST + page * 4096, &[0xa5; 4096])?;
        }
        Ok(())
    }

    /// Vendor and device at a port, as configuration space has them: all ones if there is nothing.
    ///
    /// # Errors
    /// There is no such port.
    pub fn identity(&mut self, port: usize) -> Result<u32> {
        let at = Bdf::new(self.behind(port)?, 0, 0);
        Ok(self.tree.access().read32(&mut self.bus, at, regs::ID)?)
    }

    fn slot_registers(&self, port: usize) -> Result<(Bdf, u16)> {
        let at = Bdf::new(0, u8::try_from(port + 1)?, 0);
        let function = self.tree.function(at);
        let express = function.and_then(|port| port.capability(regs::CAP_EXPRESS));
        let express = express.with_context(|| format!("port {port} is none of PCI Express"))?;
        Ok((at, express.offset))
    }

    /// What a port's Slot Control and Slot Status say.
    ///
    /// # Errors
    /// There is no such port.
    pub fn slot(&mut self, port: usize) -> Result<Slot> {
        let (at, express) = self.slot_registers(port)?;
        let access = self.tree.access();
        let control = access.read16(&mut self.bus, at, express + regs::SLOT_CONTROL)?;
        let status = access.read16(&mut self.bus, at, express + regs::SLOT_STATUS)?;
        Ok(Slot {
            occupied: status & PRESENT != 0,
            button: status & BUTTON != 0,
            powered: control & POWER_OFF == 0,
            indicator: (control & INDICATOR) >> 8,
        })
    }

    /// Takes note of the slot's events, and sets its power and indicator.
    fn set_slot(&mut self, port: usize, power_and_indicator: u16) -> Result<()> {
        let (at, express) = self.slot_registers(port)?;
        let access = self.tree.access();
        access.write16(&mut self.bus, at, express + regs::SLOT_STATUS, SLOT_EVENTS)?;
        let offset = express + regs::SLOT_CONTROL;
        let control = access.read16(&mut self.bus, at, offset)?;
        let kept = control & !(INDICATOR | POWER_OFF);
        Ok(access.write16(&mut self.bus, at, offset, kept | power_and_indicator)?)
    }

    /// Switches a port's slot on, and finds what is in it.
    ///
    /// # Errors
    /// There is no such port.
    pub fn power_on(&mut self, port: usize) -> Result<()> {
        self.set_slot(port, INDICATOR_ON)?;
        self.enumerate()
    }

    /// Has the slot's power indicator blink, as during the seconds in which a press of the button can be taken back.
    ///
    /// # Errors
    /// There is no such port.
    pub fn blink(&mut self, port: usize) -> Result<()> {
        self.set_slot(port, INDICATOR_BLINKS)
    }

    /// Switches a port's slot off: the guest lets go of what is in it.
    ///
    /// # Errors
    /// There is no such port.
    pub fn power_off(&mut self, port: usize) -> Result<()> {
        self.set_slot(port, POWER_OFF | INDICATOR)
    }

    /// Ejects what is at a port, by ACPI; says whether it was asked for.
    ///
    /// # Errors
    /// There is no such port.
    pub fn eject(&mut self, port: usize) -> Result<bool> {
        let ports = self.tree.on_bus(0).filter(|f| f.bridge.is_some()).count();
        // The buses are numbered from the last declared port on.
        let number = ports
            .checked_sub(port + 1)
            .with_context(|| format!("the guest finds no port {port}"))?;
        self.bus.port_out(SELECT, 4, u32::try_from(number)?)?;
        let asked = self.bus.port_in(DOWN, 4)? & 1 != 0;
        self.bus.port_out(EJECT, 4, 1)?;
        Ok(asked)
    }
}

fn tree(bus: &mut QtestBus) -> Result<PciTree> {
    Ok(PciTree::enumerate(
        bus,
        ConfigAccess::Ports,
        &Windows::default(),
    )?)
}
