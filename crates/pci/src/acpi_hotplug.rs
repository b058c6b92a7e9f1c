//! The ACPI PCI hotplug registers (a block of 24 I/O ports, at 0x0cc0 on q35).
//!
//! All registers are 32 bits wide, and those before bus select speak of the bus it selects. A bus is selected by
//! its number among the ports that have hotplug: of n such ports in the order they were put into the root
//! complex's block, port i has number n−1−i. `pcie.0` has no number: nothing is plugged into it at run time.
//! Bit s of a register stands for device s of the bus; below a root port there is device 0 alone.
//!
//! | offset | read | write |
//! | --- | --- | --- |
//! | 0x00 up | devices to be looked for; reading clears it | nothing |
//! | 0x04 down | devices to be let go | nothing |
//! | 0x08 eject | 0: no features | ejects the devices whose bits are set |
//! | 0x0c removable | all ones: every device below a port can be removed | nothing |
//! | 0x10 bus select | the selected number | selects a bus |
//! | 0x14 index | ACPI index of the device named last, and forgets it | names a device by its bit |

use crate::device::StateError;
use crate::lock::lock;
use crate::root_complex::RootComplex;
use crate::slot_event::{LetGoCause, SlotEvent};
use minicbor::{Decode, Encode};
use std::sync::{Arc, Mutex};

/// Where q35 has the block.
pub const ACPI_HOTPLUG_BASE: u16 = 0x0cc0;
/// Number of its I/O ports.
pub const ACPI_HOTPLUG_PORTS: u16 = 0x18;

const UP: u16 = 0x00;
const DOWN: u16 = 0x04;
const EJECT: u16 = 0x08;
const REMOVABLE: u16 = 0x0c;
const BUS_SELECT: u16 = 0x10;
const INDEX: u16 = 0x14;

/// Buses that there are numbers for. With one beyond them selected every register reads 0.
const SELECTABLE: usize = 256;

/// Raises the general purpose event whose handler reads the block (GPE 1 on q35).
pub type RaiseGpe = Box<dyn Fn() + Send + Sync>;

/// The block, and the requests it holds for the guest.
pub struct AcpiHotplug {
    root: Arc<RootComplex>,
    /// Ports by select number.
    buses: Vec<String>,
    raise_gpe: RaiseGpe,
    state: Mutex<State>,
}

struct State {
    select: u32,
    index: u32,
    requests: Vec<Requests>,
}

#[derive(Clone, Copy, Default)]
struct Requests {
    up: u32,
    down: u32,
    /// The guest has seen the bits of `down`.
    down_seen: bool,
}

#[derive(Debug, Encode, Decode)]
struct Saved {
    #[n(0)]
    select: u32,
    #[n(1)]
    buses: Vec<SavedBus>,
    #[n(2)]
    index: u32,
}

#[derive(Debug, Encode, Decode)]
struct SavedBus {
    #[n(0)]
    bus: String,
    #[n(1)]
    up: u32,
    #[n(2)]
    down: u32,
    #[n(3)]
    down_seen: bool,
}

const DEVICE: &str = "acpi-pci-hotplug";

impl AcpiHotplug {
    /// `ports` are the ids of the ports that have hotplug, in the order they were declared.
    pub fn new(root: Arc<RootComplex>, ports: Vec<String>, raise_gpe: RaiseGpe) -> Self {
        let buses: Vec<String> = ports.into_iter().rev().collect();
        Self {
            root,
            state: Mutex::new(State {
                select: 0,
                index: 0,
                requests: vec![Requests::default(); buses.len()],
            }),
            buses,
            raise_gpe,
        }
    }

    /// The number by which a port's bus is selected: what the DSDT calls `BSEL`.
    pub fn select_number(&self, port: &str) -> Option<u32> {
        let at = self.buses.iter().position(|bus| bus == port)?;
        u32::try_from(at).ok()
    }

    fn change(&self, port: &str, change: impl FnOnce(&mut Requests)) -> bool {
        let at = self.buses.iter().position(|bus| bus == port);
        let mut state = lock(&self.state);
        match at.and_then(|at| state.requests.get_mut(at)) {
            Some(requests) => {
                change(requests);
                true
            }
            None => false,
        }
    }

    /// A device was put below a port: has the guest look for it.
    pub(crate) fn inject_up(&self, port: &str) -> bool {
        let known = self.change(port, |requests| {
            requests.up |= 1;
            requests.down &= !1;
        });
        if known {
            (self.raise_gpe)();
        }
        known
    }

    /// Asks the guest to let go of the device below a port; may be repeated.
    pub(crate) fn inject_down(&self, port: &str) -> bool {
        let known = self.change(port, |requests| {
            requests.down |= 1;
            requests.down_seen = false;
        });
        if known {
            (self.raise_gpe)();
        }
        known
    }

    /// Takes the request back. True if the guest has not seen it.
    pub(crate) fn withdraw_down(&self, port: &str) -> bool {
        let mut unseen = false;
        self.change(port, |requests| {
            unseen = requests.down & 1 != 0 && !requests.down_seen;
            requests.down &= !1;
        });
        unseen
    }

    /// The device is out by other means: nothing is left to ask.
    pub(crate) fn forget(&self, port: &str) {
        self.change(port, |requests| *requests = Requests::default());
    }

    /// A guest's read at an offset of the block. Registers answer to whole 32-bit accesses; others read 0.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let value = if data.len() == 4 {
            self.read_register(offset)
        } else {
            0
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn read_register(&self, offset: u16) -> u32 {
        let mut noticed = false;
        let (value, selected) = {
            let mut state = lock(&self.state);
            let selected = usize::try_from(state.select).unwrap_or(usize::MAX);
            let value = match (offset, state.requests.get_mut(selected)) {
                (UP, Some(requests)) => std::mem::take(&mut requests.up),
                (DOWN, Some(requests)) => {
                    noticed =
                        requests.down != 0 && !std::mem::replace(&mut requests.down_seen, true);
                    requests.down
                }
                (_, None) if selected >= SELECTABLE => 0,
                (REMOVABLE, _) => u32::MAX,
                (BUS_SELECT, _) => state.select,
                (INDEX, _) => std::mem::take(&mut state.index),
                _ => 0,
            };
            (value, selected)
        };
        if noticed && let Some(bus) = self.buses.get(selected) {
            self.root
                .tell(vec![SlotEvent::Noticed { bus: bus.clone() }]);
        }
        value
    }

    /// A guest's write at an offset of the block; whole 32-bit accesses count, others do nothing. An eject is
    /// done when it returns, and the listener told.
    pub fn write(&self, offset: u16, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        match offset {
            BUS_SELECT => lock(&self.state).select = value,
            EJECT => self.eject(value),
            INDEX => {
                let selected = usize::try_from(lock(&self.state).select).unwrap_or(usize::MAX);
                let index = match self.buses.get(selected) {
                    Some(bus) if value & 1 != 0 => self.root.acpi_index_below(bus),
                    _ => 0,
                };
                lock(&self.state).index = index;
            }
            _ => {}
        }
    }

    fn eject(&self, slots: u32) {
        let bus = {
            let mut state = lock(&self.state);
            let selected = usize::try_from(state.select).unwrap_or(usize::MAX);
            if let Some(requests) = state.requests.get_mut(selected) {
                requests.up &= !slots;
                requests.down &= !slots;
            }
            self.buses.get(selected)
        };
        if let Some(bus) = bus.filter(|_| slots & 1 != 0) {
            self.root.let_go(bus, LetGoCause::Eject);
        }
    }

    /// Power-on state: no bus selected but 0, nothing asked.
    pub(crate) fn reset(&self) {
        let mut state = lock(&self.state);
        state.select = 0;
        state.index = 0;
        state.requests.fill(Requests::default());
    }

    /// Version of what [`save`](Self::save) writes.
    pub fn state_version(&self) -> u16 {
        1
    }

    /// The block's state; the machine is stopped.
    ///
    /// # Errors
    /// It does not encode, which does not happen.
    pub fn save(&self) -> Result<Vec<u8>, StateError> {
        let state = lock(&self.state);
        let buses = self.buses.iter().zip(&state.requests);
        let saved = Saved {
            select: state.select,
            index: state.index,
            buses: buses
                .map(|(bus, requests)| SavedBus {
                    bus: bus.clone(),
                    up: requests.up,
                    down: requests.down,
                    down_seen: requests.down_seen,
                })
                .collect(),
        };
        minicbor::to_vec(saved).map_err(|error| refused(error.to_string()))
    }

    /// Takes over a saved state; the root ports were restored before.
    ///
    /// # Errors
    /// It does not decode, is newer, or speaks of other ports.
    pub fn restore(&self, version: u16, state: &[u8]) -> Result<(), StateError> {
        if version > self.state_version() {
            return Err(StateError::Newer {
                device: DEVICE.to_owned(),
                found: version,
                known: self.state_version(),
            });
        }
        let saved: Saved = minicbor::decode(state).map_err(|error| refused(error.to_string()))?;
        let same = saved.buses.len() == self.buses.len()
            && saved
                .buses
                .iter()
                .zip(&self.buses)
                .all(|(there, here)| there.bus == *here);
        if !same {
            let there: Vec<&str> = saved.buses.iter().map(|bus| bus.bus.as_str()).collect();
            return Err(refused(format!(
                "the ports with hotplug were [{}] in the saved machine and are [{}] here (last declared first)",
                there.join(", "),
                self.buses.join(", ")
            )));
        }
        let mut state = lock(&self.state);
        state.select = saved.select;
        state.index = saved.index;
        for (requests, saved) in state.requests.iter_mut().zip(saved.buses) {
            *requests = Requests {
                up: saved.up,
                down: saved.down,
                down_seen: saved.down_seen,
            };
        }
        Ok(())
    }
}

fn refused(reason: String) -> StateError {
    StateError::Refused {
        device: DEVICE.to_owned(),
        reason,
    }
}
