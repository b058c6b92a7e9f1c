//! An entry for fuzzing: a guest that accesses configuration space, the hotplug block and the regions as it likes.

use crate::device::BarKind;
use crate::root_port::SlotDriver;
use crate::testing::{Ear, FakeFunction, complex, function, port};
use crate::{ACPI_HOTPLUG_PORTS, Bdf, ConfigPorts, Ecam, Hotplug};
use std::sync::Arc;

/// One access: what, where, and the bytes.
struct Access<'a> {
    kind: u8,
    place: u64,
    data: &'a [u8],
}

/// Cuts an access off the front of `input`: a kind, four bytes of place, a length and as many bytes.
fn next<'a>(input: &mut &'a [u8]) -> Option<Access<'a>> {
    let (head, rest) = input.split_at_checked(6)?;
    let &[kind, a, b, c, d, length] = head else {
        return None;
    };
    let (data, rest) = rest.split_at_checked(usize::from(length % 9))?;
    *input = rest;
    Some(Access {
        kind,
        place: u64::from(u32::from_le_bytes([a, b, c, d])),
        data,
    })
}

/// Plays the accesses that `input` describes to a machine with two ports and three functions.
pub fn fuzz_bus(mut input: &[u8]) {
    let root = complex();
    root.set_listener(Arc::new(Ear::default()));
    let ports = [(2, "rp0", SlotDriver::Acpi), (3, "rp1", SlotDriver::Native)];
    for (slot, (device, id, driver)) in (0..).zip(ports) {
        if root
            .insert_port(device << 3, port(id, slot, driver).0)
            .is_err()
        {
            return;
        }
    }
    let hotplug = Hotplug::new(Arc::clone(&root), vec!["rp0".to_owned()], Box::new(|| {}));
    let bars = [
        (0, BarKind::Memory64, 0x10_0000, true),
        (2, BarKind::Io, 0x20, false),
    ];
    let nic = |id: &str| function(id, FakeFunction::new(id, &bars));
    let (config, ecam) = (
        ConfigPorts::new(Arc::clone(&root)),
        Ecam::new(Arc::clone(&root), 4),
    );
    let plug = |id: &str, bus: &str| {
        // Taken places are part of the game.
        let _ = hotplug.plug(bus, 0, nic(id));
    };
    plug("a", "rp0");
    plug("b", "rp1");
    while let Some(access) = next(&mut input) {
        let mut back = access.data.to_vec();
        let place = access.place;
        let [low, high, bus, _] = u32::try_from(place).unwrap_or(0).to_le_bytes();
        let port = u16::from_le_bytes([low, high]);
        match access.kind % 8 {
            0 => {
                let at = Bdf::new(bus & 3, bus >> 2, 0);
                root.config_write(at, port & 0xfff, access.data);
                root.config_read(at, port & 0xfff, &mut back);
            }
            1 => {
                config.write(0xcf8 + port % 8, access.data);
                config.read(0xcf8 + port % 8, &mut back);
            }
            2 => {
                ecam.write(place % ecam.size_bytes(), access.data);
                ecam.read(place % ecam.size_bytes(), &mut back);
            }
            3 => hotplug.acpi().write(port % ACPI_HOTPLUG_PORTS, access.data),
            4 => hotplug.acpi().read(port % ACPI_HOTPLUG_PORTS, &mut back),
            5 => {
                root.mmio_write(0xc000_0000 + place % 0x4000_0000, access.data);
                root.mmio_read(0xc000_0000 + place % 0x4000_0000, &mut back);
                root.pio_write(port, access.data);
                root.pio_read(port, &mut back);
            }
            6 => match low % 6 {
                0 => plug("a", "rp0"),
                1 => plug("b", "rp1"),
                2 => drop(hotplug.request_unplug("a")),
                3 => drop(hotplug.request_unplug("b")),
                4 => drop(hotplug.withdraw_unplug("b")),
                _ => drop(hotplug.remove("a")),
            },
            _ => {
                for function in root.functions() {
                    // A state that is the fuzzer's own bytes is refused or taken; neither may harm.
                    let _ = function.device.restore(1, access.data);
                }
                root.redecode_all();
            }
        }
    }
}

/// A guest that finds its devices, opens the windows, and lets go of one.
pub fn fuzz_bus_seeds() -> Vec<Vec<u8>> {
    let mut seed = Vec::new();
    let mut access = |kind: u8, place: u32, data: &[u8]| {
        seed.push(kind);
        seed.extend(place.to_le_bytes());
        seed.push(u8::try_from(data.len()).unwrap_or(0));
        seed.extend(data);
    };
    // Bus numbers, memory window and command register of both ports; then the functions' regions and commands.
    for (port, bus) in [(2u32, 1u8), (3, 2)] {
        let at = port << 18;
        access(0, at | 0x18, &[0, bus, bus, 0]);
        access(0, at | 0x20, &[0, 0xc0 + bus, 0, 0xc0 + bus]);
        access(0, at | 0x04, &[7, 0]);
        let function = u32::from(bus) << 16;
        access(0, function | 0x10, &[0xff; 4]);
        access(0, function | 0x10, &[0, 0, 0, 0xc0 + bus]);
        access(0, function | 0x18, &[1, 0x10, 0, 0]);
        access(0, function | 0x04, &[7, 0]);
        access(5, (u32::from(bus) << 24) | 0x40, &[1, 2, 3, 4]);
        access(2, (u32::from(bus) << 20) | 0x3c, &[0; 4]);
    }
    access(1, 0, &[0, 0, 1, 0x80]);
    access(1, 4, &[0; 4]);
    // Slot control of the native port, and the hotplug block: which bus, what is up and down, eject.
    for value in 0..8 {
        access(0, (3 << 18) | 0x58, &[value << 2, value]);
    }
    for unplug in [2, 3, 5] {
        access(6, unplug, &[]);
    }
    for (port, value) in [(0x10, 1), (0, 0), (4, 0), (8, 1), (0x14, 1), (0x18, 1)] {
        access(3, port, &[value, 0, 0, 0]);
        access(4, port, &[0; 4]);
    }
    access(7, 0, &[1; 8]);
    vec![seed]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_input_harms(input in prop::collection::vec(any::<u8>(), 0..600)) {
            fuzz_bus(&input);
        }
    }
}
