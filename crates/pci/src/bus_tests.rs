//! The bus as a kernel uses it: enumeration, windows, overlapping regions, hostile writes.

use crate::testing::{FakeFunction, MEM32, Told, complex, function, port};
use crate::{BarKind, Bdf, RootComplex, SlotDriver, SlotError, regs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

fn read32(root: &RootComplex, bdf: Bdf, offset: u16) -> u32 {
    let mut data = [0; 4];
    root.config_read(bdf, offset, &mut data);
    u32::from_le_bytes(data)
}

fn write32(root: &RootComplex, bdf: Bdf, offset: u16, value: u32) {
    root.config_write(bdf, offset, &value.to_le_bytes());
}

fn write16(root: &RootComplex, bdf: Bdf, offset: u16, value: u16) {
    root.config_write(bdf, offset, &value.to_le_bytes());
}

const PORT: Bdf = Bdf::new(0, 2, 0);
const NIC: Bdf = Bdf::new(5, 0, 0);

/// A NIC with a 64-bit prefetchable and an I/O region below a port, bus 5, windows as given by a kernel.
fn behind_a_port() -> (Arc<RootComplex>, Arc<FakeFunction>) {
    let root = complex();
    root.insert_port(2 << 3, port("rp0", 1, SlotDriver::Acpi).0)
        .unwrap();
    let bars = [
        (0, BarKind::Memory64, 0x4000, true),
        (2, BarKind::Io, 0x20, false),
    ];
    let nic = FakeFunction::new("nic", &bars);
    root.insert("rp0", 0, function("nic", nic.clone())).unwrap();
    assert_eq!(nic.told(), [Told::Connected]);
    (root, nic)
}

#[test]
fn a_kernel_reaches_a_region_behind_a_port() {
    let (root, nic) = behind_a_port();
    assert_eq!(read32(&root, NIC, 0), 0xffff_ffff, "not numbered yet");
    root.config_write(PORT, regs::PRIMARY_BUS, &[0, 5, 5]);
    assert_eq!(read32(&root, NIC, 0), 0x1041_1af4);
    assert_eq!(
        read32(&root, Bdf::new(5, 1, 0), 0),
        0xffff_ffff,
        "a port has one slot"
    );
    assert_eq!(read32(&root, Bdf::new(6, 0, 0), 0), 0xffff_ffff);

    write16(&root, NIC, regs::COMMAND, 7);
    write32(&root, NIC, 0x10, !0);
    write32(&root, NIC, 0x14, !0);
    assert_eq!(read32(&root, NIC, 0x10), 0xffff_c00c);
    assert_eq!(
        nic.told(),
        [],
        "nothing is placed while its size is found out"
    );
    write32(&root, NIC, 0x10, 0x4000_8000);
    write32(&root, NIC, 0x14, 0x80);
    write32(&root, NIC, 0x18, 0xc040);
    let mut data = [0x55; 4];
    assert!(
        !root.mmio_read(0x80_4000_8000, &mut data),
        "the port's windows are closed"
    );

    write32(&root, PORT, regs::PREFETCH_BASE, 0x4001_4001);
    write32(&root, PORT, regs::PREFETCH_BASE_UPPER, 0x80);
    write32(&root, PORT, regs::PREFETCH_BASE_UPPER + 4, 0x80);
    root.config_write(PORT, regs::IO_BASE, &[0xc0, 0xc0]);
    assert!(
        !root.mmio_read(0x80_4000_8000, &mut data),
        "the port does not decode"
    );
    write16(&root, PORT, regs::COMMAND, 7);
    assert_eq!(
        nic.told(),
        [
            Told::Placed(2, Some(0xc040)),
            Told::Placed(0, Some(0x80_4000_8000))
        ]
    );
    assert!(root.mmio_write(0x80_4000_8010, &[1, 2, 3, 4]));
    assert!(root.mmio_read(0x80_4000_8010, &mut data));
    assert_eq!(data, [1, 2, 3, 4]);
    assert!(root.pio_write(0xc05f, &[9]));
    let mut byte = [0];
    assert!(root.pio_read(0xc05f, &mut byte));
    assert_eq!(byte, [9]);

    let mut wide = [0; 4];
    assert!(root.mmio_read(0x80_4000_bffe, &mut wide));
    assert_eq!(wide, [0xff; 4], "torn at the end of the region");
    assert!(!root.mmio_read(0x80_4000_c000, &mut wide));
    assert!(!root.mmio_read(u64::MAX, &mut wide));

    let tree = root.snapshot();
    let bridge = tree.functions[0].bridge.as_ref().unwrap();
    assert_eq!((bridge.windows.secondary, bridge.bus.number), (5, 5));
    let nic_seen = &bridge.bus.functions[0];
    assert_eq!((nic_seen.bdf, nic_seen.class), (NIC, 0x0200));
    assert_eq!(nic_seen.regions[0].at, Some(0x80_4000_8000));

    // The window moves away, and the region with it.
    write32(&root, PORT, regs::PREFETCH_BASE, 0x5001_5001);
    assert_eq!(nic.told(), [Told::Placed(0, None)]);
    assert!(root.remove("nic").is_some());
    assert_eq!(nic.told(), [Told::Placed(2, None), Told::Detached]);
    assert_eq!(read32(&root, NIC, 0), 0xffff_ffff);
    assert!(!root.pio_read(0xc05f, &mut byte));
}

#[test]
fn a_kept_function_is_shown_and_answers_nobody() {
    let (root, nic) = behind_a_port();
    root.config_write(PORT, regs::PRIMARY_BUS, &[0, 5, 5]);
    write16(&root, NIC, regs::COMMAND, 7);
    write32(&root, NIC, 0x10, 0x4000_8000);
    write32(&root, NIC, 0x14, 0x80);
    assert!(root.remove("nic").is_some());
    let kept = function("nic", nic.clone());
    let shown = |devfn: u8, bus: &str| {
        let mut tree = root.snapshot();
        tree.add_kept(bus, devfn, &kept);
        tree.functions[0].bridge.clone().unwrap().bus.functions
    };
    let seen = shown(0, "rp0");
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].bdf, seen[0].class), (NIC, 0x0200));
    assert_eq!(seen[0].regions[0].at, None);
    assert_eq!(read32(&root, NIC, 0), 0xffff_ffff);
    assert!(shown(0, "nowhere").is_empty());
    root.insert("rp0", 0, function("nic", nic)).unwrap();
    assert_eq!(shown(0, "rp0").len(), 1, "its place is taken");
}

#[test]
fn regions_do_not_overlap_nor_leave_the_hosts_windows() {
    let root = complex();
    let bars = [(0, BarKind::Memory32, 0x1000, false)];
    let (first, second) = (FakeFunction::new("a", &bars), FakeFunction::new("b", &bars));
    root.insert("pcie.0", 3 << 3, function("a", first.clone()))
        .unwrap();
    root.insert("pcie.0", 4 << 3, function("b", second.clone()))
        .unwrap();
    for device in [4, 3] {
        write16(&root, Bdf::new(0, device, 0), regs::COMMAND, 2);
        write32(&root, Bdf::new(0, device, 0), 0x10, 0xd000_0000);
    }
    first.told();
    assert_eq!(
        second.told(),
        [
            Told::Connected,
            Told::Placed(0, Some(0xd000_0000)),
            Told::Placed(0, None)
        ],
        "the lower device number wins"
    );
    write32(&root, Bdf::new(0, 3, 0), 0x10, 0x1000);
    assert_eq!(first.told(), [Told::Placed(0, None)], "that is RAM");
    assert_eq!(second.told(), [Told::Placed(0, Some(0xd000_0000))]);
    let last_page = u32::try_from(MEM32.1).unwrap() & !0xfff;
    write32(&root, Bdf::new(0, 3, 0), 0x10, last_page);
    assert_eq!(first.told(), [Told::Placed(0, Some(u64::from(last_page)))]);
    root.reset();
    assert_eq!(first.told(), [Told::Reset, Told::Placed(0, None)]);
}

#[test]
fn slots_are_refused_in_a_clients_words() {
    let root = complex();
    root.insert_port(2 << 3, port("rp0", 1, SlotDriver::Acpi).0)
        .unwrap();
    let error = |result: Result<(), SlotError>| result.unwrap_err().to_string();
    let nic = |id| function(id, FakeFunction::new(id, &[]));
    assert_eq!(
        error(root.insert("rp9", 0, nic("a"))),
        "Bus 'rp9' not found"
    );
    root.insert("rp0", 0, nic("a")).unwrap();
    assert_eq!(
        error(root.insert("rp0", 0, nic("b"))),
        "PCI: slot 0 function 0 already occupied by fake-nic, new func fake-nic cannot be exposed to guest."
    );
    assert_eq!(
        error(root.insert("rp0", 8, nic("b"))),
        "PCI: slot 1 is not valid for fake-nic, parent device only allows plugging into slot 0."
    );
    assert_eq!(
        error(root.insert("pcie.0", 2 << 3, nic("b"))),
        "PCI: slot 2 function 0 not available for fake-nic, in use by pcie-root-port,id=rp0"
    );
    assert_eq!(
        error(root.insert("rp0", 1, nic("a"))),
        "Duplicate device ID 'a'"
    );
    let twin = port("rp1", 1, SlotDriver::Acpi).0;
    assert_eq!(
        error(root.insert_port(3 << 3, twin)),
        "pcie-root-port 'rp1': chassis=1,slot=1 is that of 'rp0' already, give it another"
    );
    assert_eq!(root.free_devfn("pcie.0").unwrap(), Some(0));
    assert_eq!(root.free_devfn("rp0").unwrap(), Some(0));
    assert!(root.free_devfn("x").is_err());
    assert!(root.remove("rp0").is_none(), "not with something below it");
    assert_eq!(root.slot_of("a"), Some(("rp0".to_owned(), 0)));
    assert_eq!(root.functions().len(), 2);
}

#[test]
fn a_secondary_bus_reset_resets_what_is_below() {
    let (root, nic) = behind_a_port();
    root.config_write(PORT, regs::PRIMARY_BUS, &[0, 5, 5]);
    write16(&root, NIC, regs::COMMAND, 7);
    write16(
        &root,
        PORT,
        regs::BRIDGE_CONTROL,
        regs::BRIDGE_CONTROL_RESET,
    );
    assert_eq!(nic.told(), [Told::Reset]);
    write16(&root, PORT, regs::BRIDGE_CONTROL, 0);
    assert_eq!(read32(&root, NIC, 4) & 7, 0);
    write16(
        &root,
        PORT,
        regs::BRIDGE_CONTROL,
        regs::BRIDGE_CONTROL_RESET,
    );
    assert_eq!(nic.told(), [], "untouched since");
}

#[test]
fn no_access_outlives_its_function() {
    let root = complex();
    let bars = [(0, BarKind::Memory32, 0x1000, false)];
    let nic = FakeFunction::new("nic", &bars);
    let nic_at = Bdf::new(0, 3, 0);
    let (done, reached) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    if root.mmio_write(0xd000_0000, &[1; 8]) {
                        reached.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        for _ in 0..300 {
            root.insert("pcie.0", 3 << 3, function("nic", nic.clone()))
                .unwrap();
            write32(&root, nic_at, 0x10, 0xd000_0000);
            write16(&root, nic_at, regs::COMMAND, 2);
            // Taken out while the threads are at it.
            let before = reached.load(Ordering::SeqCst);
            while reached.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
            root.remove("nic").unwrap();
            let mut data = [0];
            assert!(!root.mmio_read(0xd000_0000, &mut data));
        }
        done.store(true, Ordering::SeqCst);
    });
}

mod hostile {
    use super::*;
    use crate::lock::lock;
    use crate::testing::Ear;
    use crate::{ConfigPorts, Ecam, Hotplug};
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Act {
        Config {
            bus: u8,
            device: u8,
            offset: u16,
            data: Vec<u8>,
        },
        Ports {
            port: u16,
            data: Vec<u8>,
        },
        Ecam {
            offset: u64,
            data: Vec<u8>,
        },
        Acpi {
            offset: u16,
            data: Vec<u8>,
            read: bool,
        },
        Memory {
            address: u64,
            data: Vec<u8>,
        },
        Aim {
            at: usize,
            register: u16,
            base: u32,
        },
        Plug,
        Unplug(u8),
        Reset,
        Reload,
    }

    fn data() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(7)];
        (prop_oneof![Just(1usize), Just(2), Just(4), Just(8), 0usize..9])
            .prop_flat_map(move |len| prop::collection::vec(byte.clone(), len))
    }

    fn act() -> impl Strategy<Value = Act> {
        let offset = prop_oneof![0u16..0x100, Just(4u16), 0x10u16..0x34, any::<u16>()];
        let address = prop_oneof![any::<u64>(), 0xc000_0000u64..0x1_0000_0000, 0u64..0x1_0000];
        prop_oneof![
            8 => (0u8..4, 0u8..6, offset, data())
                .prop_map(|(bus, device, offset, data)| Act::Config { bus, device, offset, data }),
            1 => (0xcf0u16..0xd08, data()).prop_map(|(port, data)| Act::Ports { port, data }),
            1 => (0u64..0x30_0000, data()).prop_map(|(offset, data)| Act::Ecam { offset, data }),
            2 => (0u16..0x20, data(), any::<bool>())
                .prop_map(|(offset, data, read)| Act::Acpi { offset, data, read }),
            2 => (address, data()).prop_map(|(address, data)| Act::Memory { address, data }),
            8 => (0usize..4, prop_oneof![Just(0x10u16), Just(0x1c), Just(0x18)], 0u32..8).prop_map(
                |(at, register, step)| Act::Aim { at, register, base: 0xd000_0000 + step * 0x1_0000 }
            ),
            1 => Just(Act::Plug),
            1 => (0u8..4).prop_map(Act::Unplug),
            1 => Just(Act::Reset),
            1 => Just(Act::Reload),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn no_write_breaks_the_map(acts in prop::collection::vec(act(), 1..120)) {
            let root = complex();
            let ear = Arc::new(Ear::default());
            root.set_listener(ear.clone());
            root.insert_port(2 << 3, port("rp0", 0, SlotDriver::Acpi).0).unwrap();
            root.insert_port(3 << 3, port("rp1", 1, SlotDriver::Native).0).unwrap();
            let hotplug = Hotplug::new(Arc::clone(&root), vec!["rp0".to_owned()], Box::new(|| {}));
            let bars = [
                (0, BarKind::Memory64, 0x10_0000, true),
                (2, BarKind::Io, 0x20, false),
                (3, BarKind::Memory32, 0x2_0000, false),
            ];
            let nics: Vec<_> = ["a", "b", "c", "d"].iter().map(|id| FakeFunction::new(id, &bars)).collect();
            root.insert("pcie.0", 4 << 3, function("c", nics[2].clone())).unwrap();
            root.insert("pcie.0", 5 << 3, function("d", nics[3].clone())).unwrap();
            let (ports, ecam) = (ConfigPorts::new(Arc::clone(&root)), Ecam::new(Arc::clone(&root), 4));
            for bus in [2u8, 3] {
                root.config_write(Bdf::new(0, bus, 0), regs::PRIMARY_BUS, &[0, bus - 1, bus - 1]);
                root.config_write(Bdf::new(0, bus, 0), regs::MEMORY_BASE, &[0, 0xd0, 0x10, 0xd0]);
                root.config_write(Bdf::new(0, bus, 0), regs::COMMAND, &[7, 0]);
            }
            for act in acts {
                match act {
                    Act::Config { bus, device, offset, data } => {
                        root.config_write(Bdf::new(bus, device, 0), offset, &data);
                        let mut back = data;
                        root.config_read(Bdf::new(bus, device, 0), offset, &mut back);
                    }
                    Act::Ports { port, mut data } => {
                        ports.write(port, &data);
                        ports.read(port, &mut data);
                    }
                    Act::Ecam { offset, mut data } => {
                        ecam.write(offset, &data);
                        ecam.read(offset, &mut data);
                    }
                    Act::Acpi { offset, mut data, read } => {
                        if read {
                            hotplug.acpi().read(offset, &mut data);
                        } else {
                            hotplug.acpi().write(offset, &data);
                        }
                    }
                    Act::Memory { address, mut data } => {
                        root.mmio_write(address, &data);
                        root.mmio_read(address, &mut data);
                        let port = u16::try_from(address & 0xffff).unwrap();
                        root.pio_write(port, &data);
                        root.pio_read(port, &mut data);
                    }
                    // Few places for many regions: they meet.
                    Act::Aim { at, register, base } => {
                        let bdf = [(1, 0), (2, 0), (0, 4), (0, 5)].map(|(bus, device)| Bdf::new(bus, device, 0))[at];
                        write32(&root, bdf, register, base);
                        write32(&root, bdf, 0x14, 0);
                        write16(&root, bdf, regs::COMMAND, 7);
                    }
                    Act::Plug => {
                        let _ = hotplug.plug("rp0", 0, function("a", nics[0].clone()));
                        let _ = hotplug.plug("rp1", 0, function("b", nics[1].clone()));
                    }
                    Act::Unplug(how) => {
                        for id in ["a", "b", "c"] {
                            let _ = match how {
                                0 => hotplug.request_unplug(id).is_ok(),
                                1 => hotplug.repeat_unplug_request(id).is_ok(),
                                2 => hotplug.withdraw_unplug(id).is_ok(),
                                _ => hotplug.remove("b").is_some(),
                            };
                        }
                    }
                    Act::Reset => {
                        hotplug.reset();
                        root.reset();
                    }
                    Act::Reload => {
                        for function in root.functions() {
                            let saved = function.device.save().unwrap();
                            function.device.restore(1, &saved).unwrap();
                        }
                        let saved = hotplug.acpi().save().unwrap();
                        hotplug.acpi().restore(1, &saved).unwrap();
                        root.redecode_all();
                    }
                }
                root.with_topology(|topology| {
                    for space in [&topology.placed.io, &topology.placed.memory] {
                        for pair in space.regions().windows(2) {
                            assert!(pair[0].last < pair[1].start);
                        }
                        for region in space.regions() {
                            assert!(region.start <= region.last && region.start >= 0x1000);
                            let decode = region.device.decode();
                            assert_eq!(decode.bars[region.bar].unwrap().base, region.start);
                        }
                    }
                });
            }
            // Whatever was placed in a function is what the map says.
            for (id, nic) in ["a", "b", "c", "d"].iter().zip(&nics) {
                let mut at = [None; 7];
                for told in nic.told() {
                    match told {
                        Told::Placed(bar, place) => {
                            assert!(place.is_none() || at[bar].is_none(), "moved without being taken away");
                            at[bar] = place;
                        }
                        Told::Detached => assert_eq!(at, [None; 7], "detached while placed"),
                        Told::Connected | Told::Reset => {}
                    }
                }
                root.with_topology(|topology| {
                    let here = topology.find(id).is_some();
                    let placed = topology.placed.regions().filter(|r| r.device.label() == **id).count();
                    assert_eq!(at.iter().flatten().count(), placed);
                    assert!(here || placed == 0);
                });
                drop(lock(&nic.memory));
            }
        }
    }
}
