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
