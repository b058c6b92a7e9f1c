//! Places of PCI devices: whatever is asked for, no two share one, and a refusal names the device.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};

use config::vm::{DeviceConfig, ROOT_BUS, place_devices};
use config::{Options, SlotAddr, Source};
use proptest::prelude::*;

fn device(text: &str) -> DeviceConfig {
    DeviceConfig::from_options(
        Options::parse(text, Some("driver")).unwrap(),
        Source::CommandLine,
    )
    .unwrap()
}

fn places(texts: &[&str]) -> Vec<String> {
    let devices: Vec<DeviceConfig> = texts.iter().map(|text| device(text)).collect();
    let places = place_devices(&devices).unwrap();
    places
        .into_iter()
        .map(|place| place.map_or("-".to_owned(), |p| format!("{} {}", p.bus, p.addr)))
        .collect()
}

#[test]
fn free_slots_are_filled_around_those_asked_for() {
    assert_eq!(
        places(&[
            "virtio-rng-pci,addr=2",
            "pcie-root-port,id=a",
            "virtio-rng-pci",
            "virtio-net-pci,bus=a",
            "isa-serial,chardev=c",
            "pcie-root-port,id=b,addr=5.0,multifunction=on",
            "pcie-root-port,id=c,addr=5.3",
            "virtio-rng-pci,addr=1f.5",
        ]),
        [
            "pcie.0 02.0",
            "pcie.0 01.0",
            "pcie.0 03.0",
            "a 00.0",
            "-",
            "pcie.0 05.0",
            "pcie.0 05.3",
            "pcie.0 1f.5"
        ]
    );
}

#[test]
fn a_full_bus_says_so() {
    let devices: Vec<DeviceConfig> = (0..31).map(|_| device("virtio-rng-pci")).collect();
    let (index, error) = place_devices(&devices).unwrap_err();
    assert_eq!(index, 30, "slots 1 to 0x1e are free");
    assert_eq!(
        error.to_string(),
        "PCI: no slot/function available for virtio-rng-pci, all in use or reserved"
    );
}

proptest! {
    #[test]
    fn no_two_devices_share_a_place(
        asked in proptest::collection::vec((any::<bool>(), 0usize..4, proptest::option::of((0u8..32, 0u8..3)), any::<bool>()), 0..40),
    ) {
        let devices: Vec<DeviceConfig> = asked
            .iter()
            .enumerate()
            .map(|(index, (port, bus, addr, multifunction))| {
                let mut text = if *port { format!("pcie-root-port,id=p{index}") } else { "virtio-rng-pci".to_owned() };
                // A few of the buses that may be there, root ports among them.
                match bus {
                    0 | 1 => {}
                    2 => text.push_str(",bus=p0"),
                    _ => text.push_str(",bus=p1"),
                }
                if let Some((slot, function)) = addr {
                    text.push_str(&format!(",addr={slot:x}.{function}"));
                }
                if *multifunction {
                    text.push_str(",multifunction=on");
                }
                device(&text)
            })
            .collect();
        // What comes before the first device refused must be placed without a clash.
        let placed = match place_devices(&devices) {
            Ok(places) => places,
            Err((index, error)) => {
                prop_assert!(index < devices.len() && !error.to_string().is_empty());
                place_devices(&devices[..index]).unwrap()
            }
        };
        let mut taken = HashSet::new();
        let mut slots: HashMap<(String, u8), Vec<(SlotAddr, bool)>> = HashMap::new();
        for (place, device) in placed.iter().zip(&devices) {
            let place = place.as_ref().unwrap();
            prop_assert!(taken.insert((place.bus.clone(), place.addr)), "{place:?}");
            prop_assert!(place.bus == ROOT_BUS || place.addr.slot == 0);
            slots.entry((place.bus.clone(), place.addr.slot)).or_default().push((place.addr, device.multifunction));
        }
        for functions in slots.values().filter(|functions| functions.len() > 1) {
            let first = functions.iter().find(|(addr, _)| addr.function == 0);
            prop_assert!(first.is_none_or(|(_, multifunction)| *multifunction), "{functions:?}");
        }
    }
}
