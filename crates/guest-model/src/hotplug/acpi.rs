//! Hotplug by ACPI: what the methods of QEMU's and Standfast's DSDT do when a general-purpose event comes.
//!
//! ```text
//!   GPE 1 ──▶ for each bus: select, read up and down ──▶ up:   look at the slot again, driver in
//!                                                        down: driver out, then _EJ0: select, write the eject bit
//! ```

use crate::bus::{BusError, GuestBus};
use crate::pci::{Bdf, PciTree, regs};

const UP: u16 = 0xcc0;
const DOWN: u16 = 0xcc4;
const EJECT: u16 = 0xcc8;
const SELECT: u16 = 0xcd0;

/// Power management block, where a firmware puts it.
const PM_BASE: u16 = 0x600;
const GPE_STATUS: u16 = PM_BASE + 0x20;
const GPE_ENABLE: u16 = PM_BASE + 0x28;
const HOTPLUG_EVENT: u8 = 1 << 1;

/// The only device on a port's link.
const DEVICE_0: u32 = 1;

/// What the registers say of one port's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotChange {
    /// The port.
    pub port: Bdf,
    /// Something was plugged in.
    pub up: bool,
    /// The guest is asked to let go.
    pub down: bool,
}

/// The hotplug registers at 0xcc0, with the ports by their select numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiHotplug {
    /// By select number.
    ports: Vec<Bdf>,
}

impl AcpiHotplug {
    /// Finds the registers and switches their event on; `None` on a board without them, which has native hotplug.
    ///
    /// A kernel knows the ports' select numbers from the DSDT. Here they follow from the rule by which both VMMs number
    /// ports that were declared in the order of their addresses: the last is 0.
    ///
    /// # Errors
    /// The bus.
    pub fn find(bus: &mut dyn GuestBus, tree: &PciTree) -> Result<Option<Self>, BusError> {
        const LPC: Bdf = Bdf::new(0, 0x1f, 0);
        const PMBASE: u16 = 0x40;
        const ACPI_CONTROL: u16 = 0x44;
        bus.port_out(SELECT, 4, 0)?;
        if bus.port_in(SELECT, 4)? != 0 {
            return Ok(None);
        }
        let access = tree.access();
        access.write32(bus, LPC, PMBASE, u32::from(PM_BASE) | 1)?;
        access.write8(bus, LPC, ACPI_CONTROL, 0x80)?;
        let mut ports = slots(bus, tree)?;
        ports.reverse();
        bus.port_out(GPE_ENABLE, 1, HOTPLUG_EVENT.into())?;
        Ok(Some(Self { ports }))
    }

    /// The ports, by select number.
    pub fn ports(&self) -> &[Bdf] {
        &self.ports
    }

    /// Whether the event came since the last call.
    ///
    /// # Errors
    /// The bus.
    pub fn take_event(&self, bus: &mut dyn GuestBus) -> Result<bool, BusError> {
        let came = bus.port_in(GPE_STATUS, 1)? as u8 & HOTPLUG_EVENT != 0;
        if came {
            bus.port_out(GPE_STATUS, 1, HOTPLUG_EVENT.into())?;
        }
        Ok(came)
    }

    /// What changed, port by port. Reading clears `up`.
    ///
    /// # Errors
    /// The bus.
    pub fn changes(&self, bus: &mut dyn GuestBus) -> Result<Vec<SlotChange>, BusError> {
        let mut changes = Vec::new();
        for (select, &port) in (0_u32..).zip(&self.ports) {
            bus.port_out(SELECT, 4, select)?;
            let up = bus.port_in(UP, 4)? & DEVICE_0 != 0;
            let down = bus.port_in(DOWN, 4)? & DEVICE_0 != 0;
            if up || down {
                changes.push(SlotChange { port, up, down });
            }
        }
        Ok(changes)
    }

    /// `_EJ0` of the slot behind `port`. A port that has no hotplug is left alone.
    ///
    /// # Errors
    /// The bus.
    pub fn eject(&self, bus: &mut dyn GuestBus, port: Bdf) -> Result<(), BusError> {
        let Some(select) = self.ports.iter().position(|&known| known == port) else {
            return Ok(());
        };
        bus.port_out(SELECT, 4, select as u32)?;
        bus.port_out(EJECT, 4, DEVICE_0)
    }

    /// Writes anything anywhere in the block, as a guest out of its mind does: but no eject of a slot that exists.
    ///
    /// # Errors
    /// The bus.
    pub fn scribble(&self, bus: &mut dyn GuestBus, words: [u32; 4]) -> Result<(), BusError> {
        let [select, bits, register, value] = words;
        bus.port_out(SELECT, 4, select | 0x100)?;
        bus.port_out(EJECT, 4, bits)?;
        bus.port_out(SELECT, 4, 0)?;
        bus.port_out(EJECT, 4, bits & !DEVICE_0)?;
        bus.port_out(UP + (register % 8) as u16, 1, value & 0xff)?;
        bus.port_out(UP, 4, value)?;
        bus.port_out(DOWN, 4, value)
    }
}

/// The root ports and downstream ports with a slot. Their own hotplug capability is hidden or not, as it pleases the
/// board: with ACPI it does not count.
fn slots(bus: &mut dyn GuestBus, tree: &PciTree) -> Result<Vec<Bdf>, BusError> {
    const SLOT_IMPLEMENTED: u16 = 1 << 8;
    let mut ports = Vec::new();
    for function in tree.functions().iter().filter(|f| f.bridge.is_some()) {
        let Some(express) = function.capability(regs::CAP_EXPRESS) else {
            continue;
        };
        let offset = express.offset + regs::EXPRESS_FLAGS;
        if tree.access().read16(bus, function.bdf, offset)? & SLOT_IMPLEMENTED != 0 {
            ports.push(function.bdf);
        }
    }
    Ok(ports)
}
