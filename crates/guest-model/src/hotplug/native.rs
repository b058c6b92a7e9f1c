//! Native PCIe hotplug (PCI Express 4.0, 6.7), with the states and times of Linux's driver for it.
//!
//! ```text
//!            button, 5 s pass                  driver out              1 s passes
//!    On ───▶ BlinkingOff ─────────▶ order: out ──────────▶ power off ─────────────▶ indicator off: Off
//!     ▲           │ button again                                                       │ card there
//!     └───────────┘                                                                    ▼
//!     ▲──────────────── indicator on ◀── order: in ◀── power on, link up ◀── button and 5 s, or at once
//! ```

use crate::bus::{BusError, GuestBus};
use crate::error::GuestError;
use crate::pci::{Bdf, ConfigAccess, Function, MessageCell, Msi, MsiWords, Msix, regs};
use std::time::Duration;

/// Slot capabilities: attention button, power controller, hot-plug capable.
const ATTENTION_BUTTON: u32 = 1 << 0;
const POWER_CONTROLLER: u32 = 1 << 1;
const HOTPLUG_CAPABLE: u32 = 1 << 6;
const NO_COMMAND_COMPLETED: u32 = 1 << 18;

/// Slot control: enables of events, then indicators and power.
const ENABLE_BUTTON: u16 = 1 << 0;
const ENABLE_PRESENCE: u16 = 1 << 3;
const ENABLE_COMPLETED: u16 = 1 << 4;
const ENABLE_INTERRUPT: u16 = 1 << 5;
const POWER_INDICATOR: u16 = 3 << 8;
const INDICATOR_ON: u16 = 1 << 8;
const INDICATOR_BLINK: u16 = 2 << 8;
const INDICATOR_OFF: u16 = 3 << 8;
const POWER_OFF: u16 = 1 << 10;
const ENABLE_LINK: u16 = 1 << 12;

/// Slot status.
const BUTTON: u16 = 1 << 0;
const PRESENCE_CHANGED: u16 = 1 << 3;
const COMPLETED: u16 = 1 << 4;
const PRESENT: u16 = 1 << 6;
const LINK_CHANGED: u16 = 1 << 8;
const EVENTS: u16 = BUTTON | 1 << 1 | 1 << 2 | PRESENCE_CHANGED | COMPLETED | LINK_CHANGED;

/// Link status: the data link layer is active.
const LINK_ACTIVE: u16 = 1 << 13;

/// How long a second press of the button may take it back.
const ABORT_INTERVAL: Duration = Duration::from_secs(5);
/// How long the power takes to go away.
const POWER_DOWN: Duration = Duration::from_secs(1);
/// How often a command's completion and a link are looked for, and how long in between.
const LOOKS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// What state the slot is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Without power.
    Off,
    /// With power, its function in use.
    On,
    /// The button was pressed on an empty slot or one without power.
    BlinkingOn {
        /// When it is carried out.
        until: Duration,
    },
    /// The button was pressed, the guest is to let go.
    BlinkingOff {
        /// When it is carried out.
        until: Duration,
    },
    /// The drivers are told to go.
    Leaving,
    /// The power is off, the indicator not yet.
    PoweringOff {
        /// When the indicator goes off.
        until: Duration,
    },
}

/// What the slot asks of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotOrder {
    /// A button was pressed; a power-off follows unless it is taken back.
    Noticed,
    /// It was pressed again: nothing is going to happen.
    TakenBack,
    /// Power and link are there: look at the slot, then call [`NativeSlot::came`].
    DriverIn,
    /// Take the drivers out, then call [`NativeSlot::power_off`].
    DriverOut,
    /// What was in the slot is gone without asking.
    Gone,
    /// The slot is off.
    Emptied,
}

/// A slot with its registers and its interrupt.
#[derive(Debug, Clone)]
pub struct NativeSlot {
    port: Bdf,
    express: u16,
    capabilities: u32,
    interrupt: MessageCell,
    power: Power,
}

impl NativeSlot {
    /// Takes a port's slot over: interrupt, events, indicator. `None` when the slot has no hotplug.
    ///
    /// # Errors
    /// The port has no interrupt by message; the bus.
    pub fn take_over(
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        port: &Function,
        occupied: bool,
        words: &mut MsiWords,
    ) -> Result<Option<Self>, GuestError> {
        let Some(express) = port.capability(regs::CAP_EXPRESS) else {
            return Ok(None);
        };
        let express = express.offset;
        let offset = express + regs::SLOT_CAPABILITIES;
        let capabilities = access.read32(bus, port.bdf, offset)?;
        if port.bridge.is_none() || capabilities & HOTPLUG_CAPABLE == 0 {
            return Ok(None);
        }
        let interrupt = words.take(bus)?;
        if let Some(msix) = Msix::find(bus, access, port)? {
            msix.enable(bus, access)?;
            // The capability says which vector is the slot's.
            let flags = access.read16(bus, port.bdf, express + regs::EXPRESS_FLAGS)?;
            msix.set(bus, flags >> 9 & 31, interrupt)?;
        } else if let Some(msi) = Msi::find(port) {
            msi.enable(bus, access, interrupt)?;
        } else {
            return Err(GuestError::unfit(port.bdf, "has no MSI for its slot"));
        }
        let mut slot = Self {
            port: port.bdf,
            express,
            capabilities,
            interrupt,
            power: if occupied { Power::On } else { Power::Off },
        };
        access.write16(bus, slot.port, express + regs::SLOT_STATUS, EVENTS)?;
        let announce = if capabilities & ATTENTION_BUTTON != 0 {
            ENABLE_BUTTON
        } else {
            ENABLE_PRESENCE
        };
        let enables = ENABLE_INTERRUPT | ENABLE_LINK | announce | ENABLE_COMPLETED;
        let (indicator, power) = if occupied {
            (INDICATOR_ON, 0)
        } else {
            (INDICATOR_OFF, slot.power_bit())
        };
        let clear = POWER_INDICATOR | slot.power_bit();
        slot.control(bus, access, enables | indicator | power, clear)?;
        // An event from before the enables raises no interrupt any more.
        if slot.status(bus, access)? & PRESENT != 0 && !occupied {
            slot.power = Power::BlinkingOn {
                until: Duration::ZERO,
            };
        }
        Ok(Some(slot))
    }

    /// The port.
    pub fn port(&self) -> Bdf {
        self.port
    }

    /// The state.
    pub fn power(&self) -> Power {
        self.power
    }

    fn power_bit(&self) -> u16 {
        if self.capabilities & POWER_CONTROLLER != 0 {
            POWER_OFF
        } else {
            0
        }
    }

    fn status(&self, bus: &mut dyn GuestBus, access: ConfigAccess) -> Result<u16, BusError> {
        access.read16(bus, self.port, self.express + regs::SLOT_STATUS)
    }

    /// A command: writes slot control and waits until the slot has taken it.
    fn control(
        &mut self,
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        set: u16,
        clear: u16,
    ) -> Result<(), GuestError> {
        let offset = self.express + regs::SLOT_CONTROL;
        let old = access.read16(bus, self.port, offset)?;
        access.write16(bus, self.port, offset, old & !clear | set)?;
        if self.capabilities & NO_COMMAND_COMPLETED != 0 {
            return Ok(());
        }
        for _ in 0..LOOKS {
            if self.status(bus, access)? & COMPLETED != 0 {
                let status = self.express + regs::SLOT_STATUS;
                access.write16(bus, self.port, status, COMPLETED)?;
                return Ok(());
            }
            bus.pause(PAUSE)?;
        }
        Err(GuestError::Waited(format!(
            "slot {} to take a command",
            self.port
        )))
    }

    /// Looks at the interrupt and at the clock.
    ///
    /// # Errors
    /// The slot does not take a command; the bus.
    pub fn service(
        &mut self,
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        now: Duration,
    ) -> Result<Vec<SlotOrder>, GuestError> {
        let mut orders = Vec::new();
        if self.interrupt.take(bus)? {
            let status = self.status(bus, access)?;
            let events = status & EVENTS & !COMPLETED;
            if events != 0 {
                let offset = self.express + regs::SLOT_STATUS;
                access.write16(bus, self.port, offset, events)?;
                self.handle(bus, access, events, now, &mut orders)?;
            }
        }
        match self.power {
            Power::BlinkingOn { until } if now >= until => {
                self.switch_on(bus, access, &mut orders)?;
            }
            Power::BlinkingOff { until } if now >= until => {
                self.power = Power::Leaving;
                orders.push(SlotOrder::DriverOut);
            }
            Power::PoweringOff { until } if now >= until => {
                self.control(bus, access, INDICATOR_OFF, POWER_INDICATOR)?;
                self.power = Power::Off;
                orders.push(SlotOrder::Emptied);
                // The slot's own going off is no news.
                let offset = self.express + regs::SLOT_STATUS;
                access.write16(bus, self.port, offset, PRESENCE_CHANGED | LINK_CHANGED)?;
                self.interrupt.take(bus)?;
                if self.status(bus, access)? & PRESENT != 0 && self.link(bus, access)? {
                    self.switch_on(bus, access, &mut orders)?;
                }
            }
            _ => {}
        }
        Ok(orders)
    }

    fn handle(
        &mut self,
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        events: u16,
        now: Duration,
        orders: &mut Vec<SlotOrder>,
    ) -> Result<(), GuestError> {
        if events & BUTTON != 0 {
            let until = now + ABORT_INTERVAL;
            match self.power {
                Power::On => {
                    self.power = Power::BlinkingOff { until };
                    self.control(bus, access, INDICATOR_BLINK, POWER_INDICATOR)?;
                    orders.push(SlotOrder::Noticed);
                }
                Power::Off => {
                    self.power = Power::BlinkingOn { until };
                    self.control(bus, access, INDICATOR_BLINK, POWER_INDICATOR)?;
                }
                Power::BlinkingOff { .. } => self.take_back(bus, access, orders)?,
                Power::BlinkingOn { .. } => {
                    self.power = Power::Off;
                    self.control(bus, access, INDICATOR_OFF, POWER_INDICATOR)?;
                }
                Power::Leaving | Power::PoweringOff { .. } => {}
            }
        }
        if events & (PRESENCE_CHANGED | LINK_CHANGED) != 0 {
            let present = self.status(bus, access)? & PRESENT != 0;
            match self.power {
                Power::On | Power::BlinkingOff { .. } if !present => {
                    self.power = Power::Off;
                    let set = INDICATOR_OFF | self.power_bit();
                    self.control(bus, access, set, POWER_INDICATOR)?;
                    orders.push(SlotOrder::Gone);
                }
                Power::Off | Power::BlinkingOn { .. } if present => {
                    self.switch_on(bus, access, orders)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Does what a second press of the button does: the slot stays on.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    pub fn take_back(
        &mut self,
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        orders: &mut Vec<SlotOrder>,
    ) -> Result<(), GuestError> {
        if matches!(self.power, Power::BlinkingOff { .. } | Power::Leaving) {
            self.power = Power::On;
            self.control(bus, access, INDICATOR_ON, POWER_INDICATOR)?;
            orders.push(SlotOrder::TakenBack);
        }
        Ok(())
    }

    fn link(&self, bus: &mut dyn GuestBus, access: ConfigAccess) -> Result<bool, BusError> {
        let offset = self.express + regs::LINK_STATUS;
        Ok(access.read16(bus, self.port, offset)? & LINK_ACTIVE != 0)
    }

    fn switch_on(
        &mut self,
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        orders: &mut Vec<SlotOrder>,
    ) -> Result<(), GuestError> {
        self.control(bus, access, INDICATOR_BLINK, POWER_INDICATOR | POWER_OFF)?;
        for _ in 0..LOOKS {
            if self.link(bus, access)? {
                self.power = Power::On;
                orders.push(SlotOrder::DriverIn);
                return Ok(());
            }
            bus.pause(PAUSE)?;
        }
        let set = INDICATOR_OFF | self.power_bit();
        self.control(bus, access, set, POWER_INDICATOR)?;
        self.power = Power::Off;
        Ok(())
    }

    /// The drivers are in: the indicator shines.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    pub fn came(&mut self, bus: &mut dyn GuestBus, access: ConfigAccess) -> Result<(), GuestError> {
        self.control(bus, access, INDICATOR_ON, POWER_INDICATOR)
    }

    /// The drivers are out: power off, and the indicator a second later.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    pub fn power_off(
        &mut self,
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        now: Duration,
    ) -> Result<(), GuestError> {
        let power_off = self.power_bit();
        self.control(bus, access, power_off, 0)?;
        self.power = Power::PoweringOff {
            until: now + POWER_DOWN,
        };
        Ok(())
    }

    /// Writes anything to what cannot be written: the capabilities of slot and link, the states in slot status.
    ///
    /// # Errors
    /// The bus.
    pub fn scribble(
        &self,
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        words: [u32; 4],
    ) -> Result<(), BusError> {
        const LINK_CAPABILITIES: u16 = 0x0c;
        let [slot, link, status, _] = words;
        let express = self.express;
        access.write32(bus, self.port, express + regs::SLOT_CAPABILITIES, slot)?;
        access.write32(bus, self.port, express + LINK_CAPABILITIES, link)?;
        let status = status as u16 & !EVENTS;
        access.write16(bus, self.port, express + regs::SLOT_STATUS, status)
    }
}

#[cfg(test)]
#[path = "native_test.rs"]
mod tests;
