//! `info pci`.

use crate::types::*;
use std::fmt::Write;

/// Every function, with its BARs, and what is behind bridges.
pub(crate) fn pci(buses: Vec<PciInfo>) -> String {
    let mut text = String::new();
    for bus in &buses {
        for device in &bus.devices {
            function(&mut text, device);
        }
    }
    text
}

fn function(text: &mut String, device: &PciDeviceInfo) {
    let _ = writeln!(
        text,
        "  Bus {:2}, device {:3}, function {}:",
        device.bus, device.slot, device.function
    );
    let class = match &device.class_info.desc {
        Some(words) => words.clone(),
        None => format!("Class {:04}", device.class_info.class),
    };
    let _ = writeln!(
        text,
        "    {class}: PCI device {:04x}:{:04x}",
        device.id.vendor, device.id.device
    );
    if let (Some(vendor), Some(subsystem)) = (device.id.subsystem_vendor, device.id.subsystem) {
        let _ = writeln!(text, "      PCI subsystem {vendor:04x}:{subsystem:04x}");
    }
    if let Some(irq) = device.irq {
        let pin = match device.irq_pin {
            1 => 'A',
            2 => 'B',
            3 => 'C',
            4 => 'D',
            _ => '?',
        };
        let _ = writeln!(text, "      IRQ {irq}, pin {pin}");
    }
    if let Some(bridge) = &device.pci_bridge {
        let bus = &bridge.bus;
        let _ = writeln!(text, "      BUS {}.", bus.number);
        let _ = writeln!(text, "      secondary bus {}.", bus.secondary);
        let _ = writeln!(text, "      subordinate bus {}.", bus.subordinate);
        let _ = writeln!(
            text,
            "      IO range [0x{:04x}, 0x{:04x}]",
            bus.io_range.base, bus.io_range.limit
        );
        let memory = &bus.memory_range;
        let _ = writeln!(
            text,
            "      memory range [0x{:08x}, 0x{:08x}]",
            memory.base, memory.limit
        );
        let prefetchable = &bus.prefetchable_range;
        let _ = writeln!(
            text,
            "      prefetchable memory range [0x{:08x}, 0x{:08x}]",
            prefetchable.base, prefetchable.limit
        );
    }
    for region in &device.regions {
        let end = region
            .address
            .wrapping_add(region.size_bytes)
            .wrapping_sub(1);
        if region.kind == "io" {
            let _ = writeln!(
                text,
                "      BAR{}: I/O at 0x{:04x} [0x{end:04x}].",
                region.bar, region.address
            );
        } else {
            let bits = if region.mem_type_64 == Some(true) {
                64
            } else {
                32
            };
            let prefetchable = if region.prefetch == Some(true) {
                " prefetchable"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "      BAR{}: {bits} bit{prefetchable} memory at 0x{:08x} [0x{end:08x}].",
                region.bar, region.address
            );
        }
    }
    let _ = writeln!(text, "      id \"{}\"", device.qdev_id);
    for behind in device
        .pci_bridge
        .iter()
        .flat_map(|bridge| bridge.devices.iter().flatten())
    {
        function(text, behind);
    }
}
