//! Where each PCI device goes: buses found, addresses chosen, collisions refused.
//!
//! The root bus is `pcie.0`; a root port with an id is a bus of that name with one slot. A bus must be defined before
//! it is used, as with QEMU, so the order of `-device` options counts.

use std::collections::{BTreeMap, HashMap};

use super::device::{DeviceConfig, DeviceKind};
use crate::address::SlotAddr;
use crate::device_types;
use crate::error::{Error, Result};
use crate::property::BusKind;

/// The root bus.
pub const ROOT_BUS: &str = "pcie.0";
/// The ISA bus.
pub const ISA_BUS: &str = "isa.0";

/// The place of a PCI device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The bus: [`ROOT_BUS`] or a root port's id.
    pub bus: String,
    /// The slot and function on it.
    pub addr: SlotAddr,
}

/// What is known of a function that is taken.
struct Occupant {
    driver: String,
    id: Option<String>,
    multifunction: bool,
}

type Bus = BTreeMap<SlotAddr, Occupant>;

/// Gives each device its place, in order; `None` for those that are not on PCI.
///
/// # Errors
/// The index of the first device that cannot be placed, and why: an unknown bus or one of another kind, an address
/// taken or not on the bus, a full bus.
pub fn place_devices(
    devices: &[DeviceConfig],
) -> std::result::Result<Vec<Option<Place>>, (usize, Error)> {
    let mut buses: HashMap<String, Bus> = HashMap::from([(ROOT_BUS.to_owned(), chipset())]);
    let mut places = Vec::with_capacity(devices.len());
    for (index, device) in devices.iter().enumerate() {
        let place = place(&mut buses, device).map_err(|error| (index, error))?;
        if let (DeviceKind::RootPort(_), Some(id)) = (&device.kind, &device.id) {
            buses.insert(id.clone(), Bus::new());
        }
        places.push(place);
    }
    Ok(places)
}

/// What the q35 board itself has on the root bus.
fn chipset() -> Bus {
    let part = |driver: &str, multifunction| Occupant {
        driver: driver.to_owned(),
        id: None,
        multifunction,
    };
    Bus::from([
        (
            SlotAddr {
                slot: 0,
                function: 0,
            },
            part("mch", false),
        ),
        (
            SlotAddr {
                slot: 0x1f,
                function: 0,
            },
            part("ICH9-LPC", true),
        ),
    ])
}

fn place(buses: &mut HashMap<String, Bus>, device: &DeviceConfig) -> Result<Option<Place>> {
    let driver = device.driver;
    let kind = device_types::find(driver).map_or(BusKind::Pcie, |device| device.bus);
    let name = match (kind, device.bus.as_deref()) {
        (BusKind::Isa, None | Some(ISA_BUS | "ISA")) => return Ok(None),
        (BusKind::Isa, Some(bus)) if buses.contains_key(bus) => {
            return Err(Error::WrongBus {
                device: driver.to_owned(),
                bus: "PCIE",
            });
        }
        (BusKind::Pcie, Some(ISA_BUS)) => {
            return Err(Error::WrongBus {
                device: driver.to_owned(),
                bus: "ISA",
            });
        }
        (_, bus) => bus.unwrap_or(ROOT_BUS),
    };
    let on_root = name == ROOT_BUS;
    let bus = buses
        .get_mut(name)
        .ok_or_else(|| Error::UnknownBus(name.to_owned()))?;
    if matches!(device.kind, DeviceKind::RootPort(_)) && !on_root {
        return Err(Error::Other(format!(
            "Device '{driver}' can't go on bus '{name}', the bus of a root port; use bus={ROOT_BUS}"
        )));
    }
    let addr = match device.addr {
        Some(addr) => addr,
        None => free_slot(bus, on_root, driver)?,
    };
    if !on_root && addr.slot != 0 {
        return Err(Error::Other(format!(
            "PCI: slot {} is not valid for {driver}, parent device only allows plugging into slot 0.",
            addr.slot
        )));
    }
    check_free(bus, addr, device)?;
    bus.insert(
        addr,
        Occupant {
            driver: driver.to_owned(),
            id: device.id.clone(),
            multifunction: device.multifunction,
        },
    );
    Ok(Some(Place {
        bus: name.to_owned(),
        addr,
    }))
}

/// The first slot without a function 0; behind a root port always slot 0, which may turn out to be taken.
fn free_slot(bus: &Bus, on_root: bool, driver: &str) -> Result<SlotAddr> {
    if !on_root {
        return Ok(SlotAddr {
            slot: 0,
            function: 0,
        });
    }
    let free = |slot: &u8| bus.range(slot_range(*slot)).next().is_none();
    let slot = (0..32).find(free).ok_or_else(|| {
        Error::Other(format!(
            "PCI: no slot/function available for {driver}, all in use or reserved"
        ))
    })?;
    Ok(SlotAddr { slot, function: 0 })
}

fn slot_range(slot: u8) -> std::ops::RangeInclusive<SlotAddr> {
    SlotAddr { slot, function: 0 }..=SlotAddr { slot, function: 7 }
}

fn check_free(bus: &Bus, addr: SlotAddr, device: &DeviceConfig) -> Result<()> {
    if let Some(occupant) = bus.get(&addr) {
        return Err(Error::SlotTaken {
            slot: addr.slot,
            function: addr.function,
            occupant: occupant.driver.clone(),
            id: occupant.id.clone().unwrap_or_else(|| "(null)".to_owned()),
            device: device.driver.to_owned(),
        });
    }
    if addr.function != 0 {
        let first = bus.get(&SlotAddr {
            slot: addr.slot,
            function: 0,
        });
        if let Some(first) = first.filter(|first| !first.multifunction) {
            return Err(Error::Other(format!(
                "PCI: single function device {} in slot {:x}.0 leaves no room for {} at {addr}; give the first multifunction=on",
                first.driver, addr.slot, device.driver
            )));
        }
    } else if !device.multifunction && bus.range(slot_range(addr.slot)).next().is_some() {
        return Err(Error::Other(format!(
            "PCI: {:x}.0 indicates single function, but other functions of the slot are taken; give it multifunction=on",
            addr.slot
        )));
    }
    Ok(())
}
