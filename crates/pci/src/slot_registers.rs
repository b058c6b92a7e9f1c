//! The slot registers of a port's PCI Express capability, and when they interrupt
//! (PCI Express Base 6.0, 7.5.3.9 to 7.5.3.11 and 6.7).

use crate::config_layout::ConfigLayout;
use crate::config_space::ConfigSpace;
use crate::express::{
    LINK_CAPABILITIES, LINK_STATUS, SLOT_CAPABILITIES, SLOT_CONTROL, SLOT_STATUS,
};

/// Attention button, power controller, attention indicator, power indicator.
const CAP_BUTTON_POWER_INDICATORS: u32 = 0b1_1011;
/// The slot can take devices in and out at run time.
const CAP_HOT_PLUG: u32 = 1 << 6;
const CAP_SLOT_NUMBER_SHIFT: u32 = 19;

const CONTROL_BUTTON_ENABLE: u16 = 1 << 0;
const CONTROL_PRESENCE_ENABLE: u16 = 1 << 3;
const CONTROL_HOT_PLUG_INTERRUPT: u16 = 1 << 5;
const CONTROL_ATTENTION_OFF: u16 = 3 << 6;
const CONTROL_POWER_INDICATOR: u16 = 3 << 8;
const CONTROL_POWER_INDICATOR_ON: u16 = 1 << 8;
const CONTROL_POWER_INDICATOR_BLINKING: u16 = 2 << 8;
const CONTROL_POWER_INDICATOR_OFF: u16 = 3 << 8;
const CONTROL_POWER_OFF: u16 = 1 << 10;
const CONTROL_LINK_ENABLE: u16 = 1 << 12;

const STATUS_BUTTON: u16 = 1 << 0;
const STATUS_PRESENCE_CHANGED: u16 = 1 << 3;
const STATUS_COMMAND_COMPLETED: u16 = 1 << 4;
const STATUS_PRESENT: u16 = 1 << 6;
const STATUS_LINK_CHANGED: u16 = 1 << 8;

/// Link capabilities: the port tells whether its data link layer is active.
const LINK_CAP_ACTIVE_REPORTING: u32 = 1 << 20;
/// Link status: data link layer active.
const LINK_ACTIVE: u16 = 1 << 13;

/// What software sees of a power indicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerIndicator {
    /// The slot is powered.
    On,
    /// Software is about to change the slot's power.
    Blinking,
    /// The slot is not powered.
    Off,
}

/// A guest's write to slot control, as what it means for the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SlotWrite {
    pub(crate) powered_off: bool,
    pub(crate) powered_on: bool,
    pub(crate) indicator_began_to_blink: bool,
    /// It blinked, and shines steadily again.
    pub(crate) indicator_ceased_to_blink: bool,
    pub(crate) indicator_turned_off: bool,
}

/// Views the slot and link registers of the capability at `at`.
pub(crate) struct SlotRegisters {
    pub(crate) at: u16,
}

impl SlotRegisters {
    /// Lays them out. `hot_plug` advertises button, indicators and power controller.
    pub(crate) fn lay_out(
        &self,
        layout: &mut ConfigLayout,
        slot: u16,
        port: u8,
        link: u32,
        hot_plug: bool,
    ) {
        let features = if hot_plug {
            CAP_BUTTON_POWER_INDICATORS | CAP_HOT_PLUG
        } else {
            0
        };
        let number = u32::from(slot & 0x1fff) << CAP_SLOT_NUMBER_SHIFT;
        let link = link | LINK_CAP_ACTIVE_REPORTING | u32::from(port) << 24;
        layout
            .value(self.at + LINK_CAPABILITIES, &link.to_le_bytes())
            .value(
                self.at + SLOT_CAPABILITIES,
                &(features | number).to_le_bytes(),
            )
            .writable(self.at + SLOT_CONTROL, &0x17ffu16.to_le_bytes())
            .write_one_to_clear(self.at + SLOT_STATUS, &0x011fu16.to_le_bytes())
            .device_owned(self.at + SLOT_STATUS, &STATUS_PRESENT.to_le_bytes())
            .device_owned(self.at + LINK_STATUS, &LINK_ACTIVE.to_le_bytes());
    }

    fn control(&self, space: &ConfigSpace) -> u16 {
        space.get_u16(self.at + SLOT_CONTROL)
    }

    fn status(&self, space: &ConfigSpace) -> u16 {
        space.get_u16(self.at + SLOT_STATUS)
    }

    pub(crate) fn present(&self, space: &ConfigSpace) -> bool {
        self.status(space) & STATUS_PRESENT != 0
    }

    pub(crate) fn powered(&self, space: &ConfigSpace) -> bool {
        self.control(space) & CONTROL_POWER_OFF == 0
    }

    pub(crate) fn power_indicator(&self, space: &ConfigSpace) -> PowerIndicator {
        match self.control(space) & CONTROL_POWER_INDICATOR {
            CONTROL_POWER_INDICATOR_BLINKING => PowerIndicator::Blinking,
            CONTROL_POWER_INDICATOR_OFF => PowerIndicator::Off,
            _ => PowerIndicator::On,
        }
    }

    /// A press of the button that software has not taken note of yet.
    pub(crate) fn button_pending(&self, space: &ConfigSpace) -> bool {
        self.status(space) & STATUS_BUTTON != 0
    }

    /// As after a reset: a slot with a device in it is powered, an empty one is not.
    pub(crate) fn reset(&self, space: &mut ConfigSpace, present: bool) {
        let control = if present {
            CONTROL_POWER_INDICATOR_ON
        } else {
            CONTROL_POWER_INDICATOR_OFF | CONTROL_POWER_OFF
        };
        space.set_u16(self.at + SLOT_CONTROL, control | CONTROL_ATTENTION_OFF);
        self.set_present(space, present);
    }

    /// Sets presence and link state, and tells whether that changed them.
    pub(crate) fn set_present(&self, space: &mut ConfigSpace, present: bool) -> bool {
        let changed = self.present(space) != present;
        let (status, link) = if present {
            (STATUS_PRESENT, LINK_ACTIVE)
        } else {
            (0, 0)
        };
        space.change_u16(self.at + SLOT_STATUS, STATUS_PRESENT, status);
        space.change_u16(self.at + LINK_STATUS, LINK_ACTIVE, link);
        changed
    }

    /// Latches the events of a changed presence. A driver that listens to the button alone gets it pressed,
    /// others do not: read late, during its boot, a driver may take a press for a wish to unplug.
    pub(crate) fn latch_presence_change(&self, space: &mut ConfigSpace) {
        let control = self.control(space);
        let listens = control & (CONTROL_PRESENCE_ENABLE | CONTROL_LINK_ENABLE) != 0;
        let button_alone = control & CONTROL_BUTTON_ENABLE != 0 && !listens;
        let button = if button_alone && self.present(space) {
            STATUS_BUTTON
        } else {
            0
        };
        space.change_u16(
            self.at + SLOT_STATUS,
            0,
            STATUS_PRESENCE_CHANGED | STATUS_LINK_CHANGED | button,
        );
    }

    /// Takes a press back that software has not taken note of.
    pub(crate) fn forget_button(&self, space: &mut ConfigSpace) {
        space.change_u16(self.at + SLOT_STATUS, STATUS_BUTTON, 0);
    }

    pub(crate) fn press_button(&self, space: &mut ConfigSpace) {
        space.change_u16(self.at + SLOT_STATUS, 0, STATUS_BUTTON);
    }

    /// Whether a write of `len` bytes at `offset` touches slot control.
    pub(crate) fn covers_control(&self, offset: u16, len: usize) -> bool {
        let control = usize::from(self.at + SLOT_CONTROL);
        let offset = usize::from(offset);
        offset < control + 2 && control < offset + len
    }

    /// A guest wrote slot control, which held `before`: the command completes at once.
    pub(crate) fn control_written(&self, space: &mut ConfigSpace, before: u16) -> SlotWrite {
        let now = self.control(space);
        space.change_u16(self.at + SLOT_STATUS, 0, STATUS_COMMAND_COMPLETED);
        let turned =
            |to: u16| now & CONTROL_POWER_INDICATOR == to && before & CONTROL_POWER_INDICATOR != to;
        SlotWrite {
            powered_off: before & CONTROL_POWER_OFF == 0 && now & CONTROL_POWER_OFF != 0,
            powered_on: before & CONTROL_POWER_OFF != 0 && now & CONTROL_POWER_OFF == 0,
            indicator_began_to_blink: turned(CONTROL_POWER_INDICATOR_BLINKING),
            indicator_ceased_to_blink: turned(CONTROL_POWER_INDICATOR_ON)
                && before & CONTROL_POWER_INDICATOR == CONTROL_POWER_INDICATOR_BLINKING,
            indicator_turned_off: turned(CONTROL_POWER_INDICATOR_OFF),
        }
    }

    pub(crate) fn read_control(&self, space: &ConfigSpace) -> u16 {
        self.control(space)
    }

    /// The latched events that may interrupt, as bits of slot status.
    pub(crate) fn interrupting(&self, space: &ConfigSpace) -> u16 {
        let control = self.control(space);
        if control & CONTROL_HOT_PLUG_INTERRUPT == 0 {
            return 0;
        }
        // The enables of button, fault, latch, presence and command sit at their status bits' places.
        let link = if control & CONTROL_LINK_ENABLE != 0 {
            STATUS_LINK_CHANGED
        } else {
            0
        };
        self.status(space) & (control & 0x1f | link)
    }
}
