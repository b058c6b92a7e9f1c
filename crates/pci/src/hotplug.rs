//! Plugging and unplugging while the machine runs, by whichever controller drives the slot.

use crate::acpi_hotplug::{AcpiHotplug, RaiseGpe};
use crate::root_complex::RootComplex;
use crate::root_port::{RootPort, SlotDriver};
use crate::slot_error::SlotError;
use crate::slot_event::LetGoCause;
use crate::slot_registers::PowerIndicator;
use crate::topology::Function;
use std::sync::Arc;

/// What became of a request that was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// The guest had not seen it, or was told in time: the device stays.
    Withdrawn,
    /// The guest may be letting go already; if it does, a `LetGo` with `asked: false` follows.
    TooLate,
}

/// The two hotplug controllers of a machine behind one door. Requests come from the control thread.
pub struct Hotplug {
    root: Arc<RootComplex>,
    acpi: Arc<AcpiHotplug>,
}

impl Hotplug {
    /// The root complex holds all of its ports already. `ports` are the ids of the ports driven by ACPI that
    /// have hotplug, in the order they were declared; see [`AcpiHotplug`] for their numbering.
    pub fn new(root: Arc<RootComplex>, ports: Vec<String>, raise_gpe: RaiseGpe) -> Self {
        let acpi = Arc::new(AcpiHotplug::new(Arc::clone(&root), ports, raise_gpe));
        Self { root, acpi }
    }

    /// The ACPI block, for the machine's I/O ports and its DSDT.
    pub fn acpi(&self) -> &Arc<AcpiHotplug> {
        &self.acpi
    }

    /// Puts a function into a running machine: resets it, puts it below the port and tells the guest. A function
    /// other than 0 is shown together with function 0, which comes last.
    ///
    /// A function that was let go can be put back this way at once.
    ///
    /// # Errors
    /// No such bus, no hotplug there, or the slot is taken.
    pub fn plug(&self, bus: &str, devfn: u8, function: Function) -> Result<(), SlotError> {
        let complete = self.root.insert_hot(bus, devfn, function)?;
        if complete && self.driver(bus) == Some(SlotDriver::Acpi) {
            self.acpi.inject_up(bus);
        }
        Ok(())
    }

    fn driver(&self, bus: &str) -> Option<SlotDriver> {
        Some(self.root.port(bus)?.config().driven_by)
    }

    /// The port above a function that can be unplugged.
    fn port_of(&self, id: &str) -> Result<(String, Arc<RootPort>), SlotError> {
        let (bus, _) = self
            .root
            .slot_of(id)
            .ok_or_else(|| SlotError::DeviceNotFound(id.to_owned()))?;
        let port = self.root.port(&bus).filter(|port| port.config().hotplug);
        match port {
            Some(port) => Ok((bus, port)),
            None => Err(SlotError::NoHotplug(bus)),
        }
    }

    /// Whether [`Hotplug::request_unplug`] would be refused now, for whoever has to know before it is made.
    ///
    /// # Errors
    /// As [`Hotplug::request_unplug`].
    pub fn may_request_unplug(&self, id: &str) -> Result<(), SlotError> {
        let (_, port) = self.port_of(id)?;
        match port.config().driven_by {
            SlotDriver::Acpi => Ok(()),
            SlotDriver::Native => Self::may_press(id, &port),
        }
    }

    /// A second press of a slot's button would take the first one back.
    fn may_press(id: &str, port: &RootPort) -> Result<(), SlotError> {
        if port.unplug_asked() {
            return Err(SlotError::AlreadyUnplugging(id.to_owned()));
        }
        if port.power_indicator() == PowerIndicator::Blinking {
            return Err(SlotError::GuestBusy);
        }
        Ok(())
    }

    /// Asks the guest to let go of a function (all of its slot goes together). It has let go when the listener
    /// hears so, which may be before this returns if the slot has no power.
    ///
    /// # Errors
    /// No such function, its bus has no hotplug, or a natively driven slot is busy or was asked before; the
    /// ACPI block takes repeated requests.
    pub fn request_unplug(&self, id: &str) -> Result<(), SlotError> {
        let (bus, port) = self.port_of(id)?;
        match port.config().driven_by {
            SlotDriver::Acpi => {
                self.root.set_unplug_asked(&bus, true);
                self.acpi.inject_down(&bus);
            }
            SlotDriver::Native => {
                Self::may_press(id, &port)?;
                self.root.set_unplug_asked(&bus, true);
                if port.powered() {
                    port.press_button();
                } else {
                    self.root.let_go(&bus, LetGoCause::NotPowered);
                }
            }
        }
        Ok(())
    }

    /// Asks again, for a request that may have been lost. A guest that is at it is left alone: a second press of
    /// the button would call it off.
    ///
    /// # Errors
    /// No such function, or its bus has no hotplug.
    pub fn repeat_unplug_request(&self, id: &str) -> Result<(), SlotError> {
        let (bus, port) = self.port_of(id)?;
        if !port.unplug_asked() || port.config().driven_by == SlotDriver::Acpi {
            return self.request_unplug(id);
        }
        if !port.powered() {
            self.root.let_go(&bus, LetGoCause::NotPowered);
        } else if port.power_indicator() != PowerIndicator::Blinking && !port.button_pending() {
            port.press_button();
        }
        Ok(())
    }

    /// Takes a request back.
    ///
    /// # Errors
    /// No such function, or its bus has no hotplug.
    pub fn withdraw_unplug(&self, id: &str) -> Result<Withdrawal, SlotError> {
        let (bus, port) = self.port_of(id)?;
        let asked = port.unplug_asked();
        self.root.set_unplug_asked(&bus, false);
        let in_time = match port.config().driven_by {
            SlotDriver::Acpi => self.acpi.withdraw_down(&bus) || !asked,
            SlotDriver::Native if !asked => true,
            SlotDriver::Native => port.call_off(),
        };
        Ok(if in_time {
            Withdrawal::Withdrawn
        } else {
            Withdrawal::TooLate
        })
    }

    /// Takes a function out without asking the guest, and forgets requests about it.
    pub fn remove(&self, id: &str) -> Option<Arc<dyn crate::PciDevice>> {
        let bus = self.root.slot_of(id).map(|(bus, _)| bus);
        let device = self.root.remove(id)?;
        if let Some(bus) = bus {
            self.acpi.forget(&bus);
        }
        Some(device)
    }

    /// The machine is being reset, before [`RootComplex::reset`]: a guest that starts afresh has let go of
    /// whatever it was asked for.
    pub fn reset(&self) {
        for (bus, port) in self.root.ports() {
            if port.unplug_asked() {
                self.root.let_go(&bus, LetGoCause::MachineReset);
            }
        }
        self.acpi.reset();
    }
}
