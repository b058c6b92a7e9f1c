//! A PCI Express root port with one slot below it (`pcie-root-port`).

use crate::config_layout::{ConfigLayout, Identity, LayoutError};
use crate::config_space::ConfigSpace;
use crate::device::{Decode, PciDevice, StateError};
use crate::express::{self, ExpressKind, add_express_capability};
use crate::lock::lock;
use crate::msi::Msi;
use crate::platform::{IntxLine, Platform};
use crate::regs;
use crate::slot_registers::{PowerIndicator, SlotRegisters};
use std::io;
use std::sync::{Arc, Mutex};

/// Which of the two controllers moves devices into and out of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlotDriver {
    /// The ACPI hotplug block at I/O port 0x0cc0; the slot is always powered.
    #[default]
    Acpi,
    /// The port's own slot registers.
    Native,
}

/// How a root port is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPortConfig {
    /// The port's id, which is its secondary bus's id as well.
    pub id: String,
    /// Chassis number; chassis and slot together are unique in a machine.
    pub chassis: u8,
    /// Physical slot number, below 8192.
    pub slot: u16,
    /// Port number in the link capabilities.
    pub port: u8,
    /// Devices can be plugged and unplugged at run time.
    pub hotplug: bool,
    /// The slot capabilities say so to the guest. QEMU 10 leaves this on with ACPI hotplug too, and has `_OSC`
    /// refuse native hotplug instead.
    pub native_hotplug: bool,
    /// Who drives the slot.
    pub driven_by: SlotDriver,
    /// The port's header says that its device has more functions.
    pub multifunction: bool,
}

/// A root port could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RootPortError {
    /// No interrupt vector.
    #[error("pcie-root-port '{id}': no interrupt vector: {source}")]
    Vector {
        /// The port.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// A property is out of range.
    #[error("pcie-root-port '{id}': slot={slot} is out of range, give 0 to 8191")]
    Slot {
        /// The port.
        id: String,
        /// The value.
        slot: u16,
    },
    /// The layout does not fit, which does not happen for values in range.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// What a configuration write to a port means for the bus below it; the root complex carries it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PortEffects {
    /// Secondary bus reset, or power came: every function below starts afresh.
    pub(crate) reset_below: bool,
    /// The guest let go of what is in the slot. The value says whether it was asked to.
    pub(crate) let_go: Option<bool>,
    /// The guest took note of the wish to unplug.
    pub(crate) noticed: bool,
    /// The guest was asked to unplug, was about to, and does not: it called the removal off.
    pub(crate) kept: bool,
}

/// A root port: vendor 1b36, device 000c, class 0604.
pub struct RootPort {
    config: RootPortConfig,
    msi: Msi,
    slot: SlotRegisters,
    state: Mutex<State>,
}

struct State {
    space: ConfigSpace,
    intx: Option<Arc<dyn IntxLine>>,
    intx_asserted: bool,
    /// Events that have interrupted and were not cleared since.
    interrupted: u16,
    /// An unplug was asked for and neither done nor withdrawn.
    unplug_asked: bool,
    /// An unplug was asked for and withdrawn, and the guest may act on it yet: when it begins to, the button is pressed a
    /// second time.
    called_off: bool,
    /// What is in the slot came after its power was turned off.
    plugged_since_power_off: bool,
    effects: PortEffects,
}

#[derive(Debug, minicbor::Encode, minicbor::Decode)]
struct Saved {
    #[cbor(n(0), with = "minicbor::bytes")]
    config: Vec<u8>,
    #[n(1)]
    unplug_asked: bool,
    #[n(2)]
    plugged_since_power_off: bool,
}

impl RootPort {
    /// A port with an empty slot, at power-on.
    ///
    /// # Errors
    /// No interrupt vector, or the slot number is out of range.
    pub fn new(config: RootPortConfig, platform: &dyn Platform) -> Result<Self, RootPortError> {
        if config.slot > 0x1fff {
            return Err(RootPortError::Slot {
                id: config.id,
                slot: config.slot,
            });
        }
        let vectors = platform
            .msi_vectors(1)
            .map_err(|source| RootPortError::Vector {
                id: config.id.clone(),
                source,
            })?;
        let mut layout = ConfigLayout::bridge(Identity {
            vendor: 0x1b36,
            device: 0x000c,
            class: 0x06_04_00,
            revision: 0,
            subsystem_vendor: 0,
            subsystem: 0,
        });
        layout.multifunction(config.multifunction).interrupt_pin(1);
        let msi = Msi::new(vectors, true)?;
        msi.add_capability(&mut layout)?;
        let express = add_express_capability(&mut layout, ExpressKind::RootPort, false)?;
        let slot = SlotRegisters { at: express };
        let flags = 2u16 | 4 << 4 | 1 << 8;
        layout
            .value(express + 2, &flags.to_le_bytes())
            .writable(express + express::ROOT_CONTROL, &[0x1f, 0]);
        slot.lay_out(
            &mut layout,
            config.slot,
            config.port,
            express::LINK_SPEED_WIDTH,
            config.hotplug && config.native_hotplug,
        );
        layout.capability(regs::CAP_SUBSYSTEM, &[0, 0, 0x36, 0x1b, 0, 0], &[])?;
        let mut space = layout.build();
        slot.reset(&mut space, false);
        Ok(Self {
            config,
            msi,
            slot,
            state: Mutex::new(State {
                space,
                intx: None,
                intx_asserted: false,
                interrupted: 0,
                unplug_asked: false,
                called_off: false,
                plugged_since_power_off: false,
                effects: PortEffects::default(),
            }),
        })
    }

    /// How it was made.
    pub fn config(&self) -> &RootPortConfig {
        &self.config
    }

    /// The power indicator as the guest set it.
    pub fn power_indicator(&self) -> PowerIndicator {
        self.slot.power_indicator(&lock(&self.state).space)
    }

    /// Whether what is in the slot can be reached: natively driven slots have a power controller.
    pub fn powered(&self) -> bool {
        self.powered_of(&lock(&self.state))
    }

    fn powered_of(&self, state: &State) -> bool {
        !self.native() || self.slot.powered(&state.space)
    }

    fn native(&self) -> bool {
        self.config.hotplug && self.config.driven_by == SlotDriver::Native
    }

    /// Whether an unplug was asked for and neither done nor withdrawn.
    pub fn unplug_asked(&self) -> bool {
        lock(&self.state).unplug_asked
    }

    pub(crate) fn set_unplug_asked(&self, asked: bool) {
        let mut state = lock(&self.state);
        state.unplug_asked = asked;
        state.called_off = false;
    }

    /// A request to unplug was withdrawn: has the guest call the removal off that it may have begun, or is about to begin.
    /// Says whether the guest cannot have seen the request.
    pub(crate) fn call_off(&self) -> bool {
        let mut state = lock(&self.state);
        let pending = self.slot.button_pending(&state.space);
        let blinking = self.slot.power_indicator(&state.space) == PowerIndicator::Blinking;
        match (blinking, pending) {
            // Within five seconds of the first press, the second one calls the removal off.
            (true, false) => self.slot.press_button(&mut state.space),
            (false, true) => self.slot.forget_button(&mut state.space),
            // It has taken note, and will blink in a moment.
            (false, false) => state.called_off = true,
            (true, true) => {}
        }
        self.update_interrupt(&mut state);
        !blinking && pending
    }

    /// A press of the attention button waits to be read by the guest.
    pub(crate) fn button_pending(&self) -> bool {
        self.slot.button_pending(&lock(&self.state).space)
    }

    pub(crate) fn press_button(&self) {
        let mut state = lock(&self.state);
        self.slot.press_button(&mut state.space);
        self.update_interrupt(&mut state);
    }

    /// Something was put into the slot, or the last function was taken out. `cold`: the machine does not run
    /// yet, so that the slot comes up powered and no event is latched.
    pub(crate) fn set_present(&self, present: bool, cold: bool) {
        let mut state = lock(&self.state);
        if cold {
            self.slot.reset(&mut state.space, present);
            state.plugged_since_power_off = false;
            return;
        }
        let changed = self.slot.set_present(&mut state.space, present);
        state.called_off = false;
        if !present {
            state.unplug_asked = false;
        }
        if changed && self.native() {
            state.plugged_since_power_off = present && !self.slot.powered(&state.space);
            self.slot.latch_presence_change(&mut state.space);
            self.update_interrupt(&mut state);
        }
    }

    /// What the last configuration write means for the bus below.
    pub(crate) fn take_effects(&self) -> PortEffects {
        std::mem::take(&mut lock(&self.state).effects)
    }

    fn slot_control_written(&self, state: &mut State, before: u16) {
        let write = self.slot.control_written(&mut state.space, before);
        if self.native() {
            let present = self.slot.present(&state.space);
            if write.powered_on {
                state.plugged_since_power_off = false;
                state.effects.reset_below = true;
            }
            if write.indicator_began_to_blink && state.unplug_asked {
                state.effects.noticed = true;
            } else if write.indicator_began_to_blink && std::mem::take(&mut state.called_off) {
                self.slot.press_button(&mut state.space);
            }
            if write.indicator_ceased_to_blink
                && present
                && self.slot.powered(&state.space)
                && std::mem::take(&mut state.unplug_asked)
            {
                state.effects.kept = true;
            }
            if write.powered_off && present && state.unplug_asked {
                // The guest is done with the device once it has no power; a driver turns the indicator off
                // only a second later.
                state.effects.let_go = Some(true);
            } else if write.indicator_turned_off && present && !self.slot.powered(&state.space) {
                if state.plugged_since_power_off {
                    // A driver forgets events that came while the power went down. Now it listens again.
                    self.slot.latch_presence_change(&mut state.space);
                } else {
                    state.effects.let_go = Some(state.unplug_asked);
                }
            }
        }
        self.update_interrupt(state);
    }

    fn update_interrupt(&self, state: &mut State) {
        let interrupting = self.slot.interrupting(&state.space);
        let fresh = interrupting & !state.interrupted;
        state.interrupted = interrupting;
        if self.msi.enabled() && fresh != 0 {
            self.msi.signal(0);
        }
        let disabled = state.space.get_u16(regs::COMMAND) & regs::COMMAND_INTX_DISABLE != 0;
        let status = if interrupting != 0 {
            regs::STATUS_INTERRUPT
        } else {
            0
        };
        state
            .space
            .change_u16(regs::STATUS, regs::STATUS_INTERRUPT, status);
        let asserted = interrupting != 0 && !disabled && !self.msi.enabled();
        if asserted != state.intx_asserted {
            state.intx_asserted = asserted;
            if let Some(line) = &state.intx {
                line.set(asserted);
            }
        }
    }
}

impl PciDevice for RootPort {
    fn label(&self) -> String {
        format!("pcie-root-port '{}'", self.config.id)
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let mut state = lock(&self.state);
        self.msi.refresh_pending(&mut state.space);
        state.space.read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut state = lock(&self.state);
        let bridge_control = state.space.get_u16(regs::BRIDGE_CONTROL);
        let slot_control = self.slot.read_control(&state.space);
        state.space.write(offset, data);
        self.msi.config_written(&state.space);
        let now = state.space.get_u16(regs::BRIDGE_CONTROL);
        if !bridge_control & now & regs::BRIDGE_CONTROL_RESET != 0 {
            state.effects.reset_below = true;
        }
        if self.slot.covers_control(offset, data.len()) {
            self.slot_control_written(&mut state, slot_control);
        } else {
            self.update_interrupt(&mut state);
        }
    }

    fn decode(&self) -> Decode {
        lock(&self.state).space.decode()
    }

    // The port has no base address registers.
    fn bar_read(&self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn bar_placed(&self, _bar: usize, _at: Option<u64>) {}

    fn connect_intx(&self, line: Arc<dyn IntxLine>) {
        lock(&self.state).intx = Some(line);
    }

    fn reset(&self) {
        let mut state = lock(&self.state);
        let present = self.slot.present(&state.space);
        state.space.reset();
        self.slot.reset(&mut state.space, present);
        state.unplug_asked = false;
        state.called_off = false;
        state.plugged_since_power_off = false;
        state.effects = PortEffects::default();
        self.msi.config_written(&state.space);
        self.update_interrupt(&mut state);
    }

    fn state_version(&self) -> u16 {
        1
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        let mut state = lock(&self.state);
        self.msi.refresh_pending(&mut state.space);
        let saved = Saved {
            config: state.space.save(),
            unplug_asked: state.unplug_asked,
            plugged_since_power_off: state.plugged_since_power_off,
        };
        minicbor::to_vec(saved).map_err(|error| self.refused(error.to_string()))
    }

    fn restore(&self, version: u16, state: &[u8]) -> Result<(), StateError> {
        if version > self.state_version() {
            return Err(StateError::Newer {
                device: self.label(),
                found: version,
                known: self.state_version(),
            });
        }
        let saved: Saved =
            minicbor::decode(state).map_err(|error| self.refused(error.to_string()))?;
        let mut state = lock(&self.state);
        state
            .space
            .restore(&saved.config)
            .map_err(|error| self.refused(error.to_string()))?;
        state.unplug_asked = saved.unplug_asked;
        state.plugged_since_power_off = saved.plugged_since_power_off;
        state.effects = PortEffects::default();
        self.msi.config_written(&state.space);
        self.msi.restore_pending(&state.space);
        // What was latched has interrupted at the source already.
        state.interrupted = self.slot.interrupting(&state.space);
        self.update_interrupt(&mut state);
        Ok(())
    }
}

impl RootPort {
    fn refused(&self, reason: String) -> StateError {
        StateError::Refused {
            device: self.label(),
            reason,
        }
    }
}
