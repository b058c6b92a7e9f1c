//! The tree of functions: bus 0, and below each of its root ports a bus with one slot.

use crate::address::Bdf;
use crate::address_map::{AddressMap, HostWindows};
use crate::bridge_windows::BridgeWindows;
use crate::device::{Decode, PciDevice};
use crate::root_port::RootPort;
use crate::slot_error::SlotError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The id of bus 0.
pub const ROOT_BUS: &str = "pcie.0";

/// A function and what the monitor knows it by.
#[derive(Clone)]
pub struct Function {
    /// Unique in the tree: the user's id, or the last part of the function's path in the device tree.
    pub id: String,
    /// The device model's name: `virtio-net-pci`.
    pub model: String,
    /// The ACPI index the guest names its interface by; 0 for none.
    pub acpi_index: u32,
    /// The function.
    pub device: Arc<dyn PciDevice>,
}

/// A function in its slot.
pub(crate) struct Slotted {
    pub(crate) function: Function,
    pub(crate) below: Option<Below>,
    /// As of the last look at the registers.
    decode: Decode,
    /// Written to since its last reset.
    touched: bool,
}

/// The bus below a root port.
pub(crate) struct Below {
    pub(crate) port: Arc<RootPort>,
    pub(crate) functions: BTreeMap<u8, Slotted>,
    pub(crate) windows: BridgeWindows,
    pub(crate) powered: bool,
    pub(crate) driver_let_go_told: bool,
}

/// Where in the tree a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    /// On bus 0.
    Root { devfn: u8 },
    /// Below the port at `port` on bus 0.
    Below { port: u8, devfn: u8 },
}

/// What a second look at a function's registers found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change {
    /// Regions may have become reachable, moved or gone.
    pub(crate) decode: bool,
    /// Bus mastering was on and is off now.
    pub(crate) bus_master_off: bool,
}

impl Slotted {
    pub(crate) fn new(function: Function, port: Option<Arc<RootPort>>) -> Self {
        Self {
            decode: function.device.decode(),
            below: port.map(|port| Below {
                windows: BridgeWindows::of(&*function.device),
                powered: port.powered(),
                port,
                functions: BTreeMap::new(),
                driver_let_go_told: false,
            }),
            function,
            touched: false,
        }
    }

    pub(crate) fn device(&self) -> &Arc<dyn PciDevice> {
        &self.function.device
    }

    pub(crate) fn mark_touched(&mut self) {
        self.touched = true;
    }

    pub(crate) fn look_again(&mut self) -> Change {
        let decode = self.function.device.decode();
        let mut change = Change {
            decode: decode != self.decode,
            bus_master_off: self.decode.bus_master && !decode.bus_master,
        };
        self.decode = decode;
        if let Some(below) = &mut self.below {
            let windows = BridgeWindows::of(&*self.function.device);
            let powered = below.port.powered();
            change.decode |= windows != below.windows || powered != below.powered;
            below.windows = windows;
            below.powered = powered;
        }
        change
    }

    /// Resets the function unless nobody has written to it since the last time.
    pub(crate) fn reset_if_touched(&mut self) {
        if std::mem::take(&mut self.touched) {
            self.function.device.reset();
        }
    }
}

#[derive(Default)]
pub(crate) struct Topology {
    pub(crate) functions: BTreeMap<u8, Slotted>,
    /// What the functions were last told of their places.
    pub(crate) placed: AddressMap,
}

impl Topology {
    /// Every function with its place, each port before what is below it.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Location, &Slotted)> {
        self.functions.iter().flat_map(|(&port, slotted)| {
            let below = slotted.below.iter().flat_map(|below| &below.functions);
            std::iter::once((Location::Root { devfn: port }, slotted)).chain(
                below.map(move |(&devfn, slotted)| (Location::Below { port, devfn }, slotted)),
            )
        })
    }

    pub(crate) fn locations(&self) -> Vec<Location> {
        self.all().map(|(location, _)| location).collect()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Location> {
        let mut all = self.all();
        all.find(|(_, slotted)| slotted.function.id == id)
            .map(|(location, _)| location)
    }

    pub(crate) fn get(&self, location: Location) -> Option<&Slotted> {
        match location {
            Location::Root { devfn } => self.functions.get(&devfn),
            Location::Below { port, devfn } => {
                let below = self.functions.get(&port)?.below.as_ref()?;
                below.functions.get(&devfn)
            }
        }
    }

    pub(crate) fn get_mut(&mut self, location: Location) -> Option<&mut Slotted> {
        match location {
            Location::Root { devfn } => self.functions.get_mut(&devfn),
            Location::Below { port, devfn } => {
                let below = self.functions.get_mut(&port)?.below.as_mut()?;
                below.functions.get_mut(&devfn)
            }
        }
    }

    /// The function that answers configuration requests for `bdf`.
    pub(crate) fn route(&self, bdf: Bdf) -> Option<Location> {
        let location = if bdf.bus() == 0 {
            Location::Root { devfn: bdf.devfn() }
        } else {
            let (&port, below) = self.functions.iter().find_map(|(devfn, slotted)| {
                let below = slotted.below.as_ref()?;
                below.windows.routes(bdf.bus()).then_some((devfn, below))
            })?;
            if below.windows.secondary != bdf.bus() || !below.powered {
                return None;
            }
            Location::Below {
                port,
                devfn: bdf.devfn(),
            }
        };
        self.get(location).map(|_| location)
    }

    /// Device and function number of the port with this id.
    pub(crate) fn port_devfn(&self, id: &str) -> Option<u8> {
        let mut ports = self.functions.iter();
        ports
            .find(|(_, slotted)| slotted.below.is_some() && slotted.function.id == id)
            .map(|(&devfn, _)| devfn)
    }

    pub(crate) fn below(&self, port: u8) -> Option<&Below> {
        self.functions.get(&port)?.below.as_ref()
    }

    pub(crate) fn below_mut(&mut self, port: u8) -> Option<&mut Below> {
        self.functions.get_mut(&port)?.below.as_mut()
    }

    /// Where a function of this id and number would go.
    ///
    /// # Errors
    /// The bus does not exist, the place is taken, or the id is.
    pub(crate) fn vacancy(
        &self,
        bus: &str,
        devfn: u8,
        new: &Function,
    ) -> Result<Location, SlotError> {
        let (slot, function) = (devfn >> 3, devfn & 7);
        let location = if bus == ROOT_BUS {
            Location::Root { devfn }
        } else {
            let port = self
                .port_devfn(bus)
                .ok_or_else(|| SlotError::BusNotFound(bus.to_owned()))?;
            if slot != 0 {
                return Err(SlotError::NoSuchSlot {
                    slot,
                    new: new.model.clone(),
                });
            }
            Location::Below { port, devfn }
        };
        if let Some(there) = self.get(location) {
            let by = there.function.model.clone();
            let new = new.model.clone();
            return Err(if matches!(location, Location::Below { devfn: 0, .. }) {
                SlotError::Occupied {
                    slot,
                    function,
                    by,
                    new,
                }
            } else {
                let id = there.function.id.clone();
                SlotError::InUse {
                    slot,
                    function,
                    new,
                    by,
                    id,
                }
            });
        }
        if self.find(&new.id).is_some() {
            return Err(SlotError::DuplicateId(new.id.clone()));
        }
        Ok(location)
    }

    /// The regions that are reachable as the registers stand.
    pub(crate) fn reachable(&self, host: &HostWindows) -> AddressMap {
        let mut map = AddressMap::default();
        for slotted in self.functions.values() {
            map.add_function(host, None, &slotted.decode, slotted.device());
            let Some(below) = slotted.below.as_ref().filter(|below| below.powered) else {
                continue;
            };
            let above = (slotted.decode, below.windows.clone());
            for child in below.functions.values() {
                map.add_function(host, Some(&above), &child.decode, child.device());
            }
        }
        map
    }
}
