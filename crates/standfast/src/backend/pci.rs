//! `query-pci`, from the registers of the functions the guest sees.

use machine::inspect::{
    BarKind, BridgeSnapshot, BusSnapshot, DeviceView, FunctionSnapshot, Inspect, RegionSnapshot,
};
use monitor::types::{
    PciBridgeInfo, PciBusInfo, PciDeviceClass, PciDeviceId, PciDeviceInfo, PciInfo, PciMemoryRange,
    PciMemoryRegion,
};
use std::ops::RangeInclusive;

pub(super) fn pci(machine: &dyn Inspect) -> Vec<PciInfo> {
    let devices = machine.devices();
    let root = machine.pci();
    root.iter().map(|bus| bus_info(bus, &devices)).collect()
}

fn bus_info(bus: &BusSnapshot, devices: &[DeviceView]) -> PciInfo {
    PciInfo {
        bus: bus.number.into(),
        devices: functions(bus, devices),
    }
}

fn functions(bus: &BusSnapshot, devices: &[DeviceView]) -> Vec<PciDeviceInfo> {
    let function = |f: &FunctionSnapshot| function_info(f, devices);
    bus.functions.iter().map(function).collect()
}

fn function_info(function: &FunctionSnapshot, devices: &[DeviceView]) -> PciDeviceInfo {
    let named = devices
        .iter()
        .any(|device| device.config.id.as_ref() == Some(&function.id));
    let (subsystem_vendor, subsystem) = function.subsystem;
    let subsystem_of = |id: u16| function.bridge.is_none().then(|| id.into());
    PciDeviceInfo {
        bus: function.bdf.bus().into(),
        slot: function.bdf.device().into(),
        function: function.bdf.function().into(),
        class_info: PciDeviceClass {
            desc: class_name(function.class).map(str::to_owned),
            class: function.class.into(),
        },
        id: PciDeviceId {
            device: function.device.into(),
            vendor: function.vendor.into(),
            subsystem: subsystem_of(subsystem),
            subsystem_vendor: subsystem_of(subsystem_vendor),
        },
        irq: (function.interrupt_pin != 0).then(|| function.interrupt_line.into()),
        irq_pin: function.interrupt_pin.into(),
        qdev_id: if named {
            function.id.clone()
        } else {
            String::new()
        },
        pci_bridge: function.bridge.as_ref().map(|b| bridge_info(b, devices)),
        regions: function.regions.iter().map(region_info).collect(),
    }
}

fn region_info(region: &RegionSnapshot) -> PciMemoryRegion {
    let memory = !region.is_io();
    PciMemoryRegion {
        bar: i64::try_from(region.bar).unwrap_or(-1),
        kind: if memory { "memory" } else { "io" }.to_owned(),
        address: region
            .at
            .and_then(|at| i64::try_from(at).ok())
            .unwrap_or(-1),
        size_bytes: i64::try_from(region.region.size).unwrap_or(i64::MAX),
        prefetch: memory.then_some(region.region.prefetchable),
        mem_type_64: memory.then_some(region.region.kind == BarKind::Memory64),
    }
}

/// A window; a closed one is what its registers say then: the base above the limit.
fn range(window: Option<&RangeInclusive<u64>>, closed: (i64, i64)) -> PciMemoryRange {
    let (base, limit) = match window {
        Some(open) => (
            i64::try_from(*open.start()).unwrap_or(i64::MAX),
            i64::try_from(*open.end()).unwrap_or(i64::MAX),
        ),
        None => closed,
    };
    PciMemoryRange { base, limit }
}

const CLOSED_IO: (i64, i64) = (0xf000, 0xfff);
const CLOSED_MEMORY: (i64, i64) = (0xfff0_0000, 0xf_ffff);

fn bridge_info(bridge: &BridgeSnapshot, devices: &[DeviceView]) -> PciBridgeInfo {
    let windows = &bridge.windows;
    PciBridgeInfo {
        bus: PciBusInfo {
            number: windows.primary.into(),
            secondary: windows.secondary.into(),
            subordinate: windows.subordinate.into(),
            io_range: range(windows.io.as_ref(), CLOSED_IO),
            memory_range: range(windows.memory.as_ref(), CLOSED_MEMORY),
            prefetchable_range: range(windows.prefetchable.as_ref(), CLOSED_MEMORY),
        },
        devices: (windows.secondary != 0).then(|| functions(&bridge.bus, devices)),
    }
}

/// What the PCI code and ID assignment specification calls a class, in the words clients know.
pub(super) fn class_name(class: u16) -> Option<&'static str> {
    Some(match class {
        0x0100 => "SCSI controller",
        0x0101 => "IDE controller",
        0x0104 => "RAID controller",
        0x0106 => "SATA controller",
        0x0108 => "NVMe controller",
        0x0180 => "Storage controller",
        0x0200 => "Ethernet controller",
        0x0207 => "InfiniBand controller",
        0x0280 => "Network controller",
        0x0300 => "VGA controller",
        0x0302 => "3D controller",
        0x0380 => "Display controller",
        0x0403 => "Audio controller",
        0x0500 => "RAM controller",
        0x0580 => "Memory controller",
        0x0600 => "Host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0700 => "Serial port",
        0x0c03 => "USB controller",
        0x0c05 => "SMBus",
        _ => return None,
    })
}
