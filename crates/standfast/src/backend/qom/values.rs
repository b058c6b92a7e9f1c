//! The values of a device's declared properties: as given, by default, or as the machine chose them.

use config::device_types;
use config::property::{DeviceType, Property, PropertyKind, PropertyValues};
use config::vm::{DeviceConfig, DeviceKind, GlobalProperty, VfioSource, VirtioCommon};
use config::{Options, Value as Given, format_mac};
use machine::inspect::DeviceView;
use serde_json::Value;

/// The name of a property's type.
pub(super) fn type_name(property: &Property) -> String {
    let target = match (property.kind, property.name) {
        (PropertyKind::Object, "rng") => "rng-backend",
        (PropertyKind::Object, name) => name,
        (kind, _) => return kind.type_name().to_owned(),
    };
    format!("link<{target}>")
}

/// What a property is when nothing was said and none is declared: QEMU's way to write "not set".
fn unset(kind: PropertyKind) -> Value {
    match kind {
        PropertyKind::Bool => false.into(),
        PropertyKind::OnOffAuto => "auto".into(),
        PropertyKind::U8 => u8::MAX.into(),
        PropertyKind::U16 => u16::MAX.into(),
        PropertyKind::U32 => u32::MAX.into(),
        PropertyKind::U64 => i64::MAX.into(),
        PropertyKind::Size => u64::MAX.into(),
        PropertyKind::I32 | PropertyKind::PciAddr => (-1).into(),
        PropertyKind::Str
        | PropertyKind::Choice(_)
        | PropertyKind::Mac
        | PropertyKind::HostPciAddr
        | PropertyKind::Netdev
        | PropertyKind::Chardev
        | PropertyKind::Drive
        | PropertyKind::Object
        | PropertyKind::Fd => "".into(),
    }
}

/// The value that `values` has, as JSON.
fn value_of(values: &PropertyValues, property: &Property) -> Option<Value> {
    let name = property.name;
    match property.kind {
        PropertyKind::Bool => Some(values.flag(name).into()),
        PropertyKind::U8
        | PropertyKind::U16
        | PropertyKind::U32
        | PropertyKind::U64
        | PropertyKind::Size => values.number::<u64>(name).map(Value::from),
        PropertyKind::I32 => values.signed(name).map(Value::from),
        PropertyKind::Mac => values.mac(name).map(|mac| format_mac(mac).into()),
        PropertyKind::PciAddr => values
            .slot(name)
            .map(|addr| (addr.slot << 3 | addr.function & 7).into()),
        PropertyKind::HostPciAddr => values.host(name).map(|host| host.to_string().into()),
        PropertyKind::OnOffAuto
        | PropertyKind::Str
        | PropertyKind::Choice(_)
        | PropertyKind::Netdev
        | PropertyKind::Chardev
        | PropertyKind::Drive
        | PropertyKind::Object
        | PropertyKind::Fd => values.text(name).map(Value::from),
    }
}

/// The declared default, as JSON.
pub(super) fn declared_default(device: &'static DeviceType, property: &Property) -> Option<Value> {
    property.default?;
    value_of(&PropertyValues::new(device), property)
}

/// Everything the user gave, read once more. What cannot be read (the text is cut when it is very long) is left at its default: the
/// typed configuration knows all that matters.
fn given(
    device: &'static DeviceType,
    config: &DeviceConfig,
    globals: &[GlobalProperty],
) -> PropertyValues {
    let mut values = PropertyValues::new(device);
    let here = globals
        .iter()
        .filter(|g| g.driver == device.name || Some(g.driver.as_str()) == device.alias);
    for global in here {
        // It was accepted when the device was made.
        let _ = values.set(&global.property, &Given::from(global.value.as_str()));
    }
    if let Ok(options) = Options::parse(&config.text, Some("driver")) {
        for (name, value) in options.iter() {
            if !matches!(name, "driver" | "id" | "bus") {
                let _ = values.set(name, value);
            }
        }
    }
    values
}

/// All declared properties of a device with what they are now. Empty for a driver that is not declared.
pub(super) fn current(
    view: &DeviceView,
    globals: &[GlobalProperty],
) -> Vec<(&'static Property, Value)> {
    let Some(device) = device_types::find(view.config.driver) else {
        return Vec::new();
    };
    let values = given(device, &view.config, globals);
    let value = |property: &Property| {
        live(view, property.name)
            .or_else(|| typed(&view.config, property.name))
            .or_else(|| value_of(&values, property))
            .unwrap_or_else(|| unset(property.kind))
    };
    device.properties().map(|p| (p, value(p))).collect()
}

/// What the machine chose or found.
fn live(view: &DeviceView, name: &str) -> Option<Value> {
    match name {
        "addr" => view.place.as_ref().map(|(_, devfn)| (*devfn).into()),
        "mac" => view.mac.map(|mac| mac.to_string().into()),
        "vectors" if view.place.is_some() => Some(view.msix_vectors.into()),
        _ => None,
    }
}

/// What the configuration says; `None` for what it leaves to the machine, or does not know.
fn typed(config: &DeviceConfig, name: &str) -> Option<Value> {
    match name {
        "multifunction" => return Some(config.multifunction.into()),
        "acpi-index" => return Some(config.acpi_index.into()),
        "failover_pair_id" => return config.failover_pair_id.clone().map(Value::from),
        _ => {}
    }
    match &config.kind {
        DeviceKind::RootPort(port) => Some(match name {
            "port" => port.port.into(),
            "chassis" => port.chassis.into(),
            "slot" => port.slot.into(),
            "hotplug" => port.hotplug.into(),
            _ => return None,
        }),
        DeviceKind::VirtioNet(net) => common(&net.common, name).or_else(|| {
            Some(match name {
                "netdev" => net.netdev.clone()?.into(),
                "failover" => net.failover.into(),
                "mq" => net.mq.into(),
                "host_mtu" => net.host_mtu.unwrap_or(0).into(),
                "rx_queue_size" => net.rx_queue_size.into(),
                "tx_queue_size" => net.tx_queue_size.into(),
                _ => return None,
            })
        }),
        DeviceKind::VirtioRng(rng) => common(&rng.common, name).or_else(|| {
            Some(match name {
                "rng" => format!("/objects/{}", rng.rng.as_deref()?).into(),
                "max-bytes" => rng.max_bytes?.into(),
                "period" => rng.period_ms.into(),
                _ => return None,
            })
        }),
        DeviceKind::VirtioBlk(blk) => common(&blk.common, name).or_else(|| {
            Some(match name {
                "drive" => blk.drive.clone().into(),
                "serial" => blk.serial.clone()?.into(),
                "queue-size" => blk.queue_size.into(),
                "logical_block_size" => blk.logical_block_size_bytes.into(),
                "bootindex" => blk.bootindex?.into(),
                _ => return None,
            })
        }),
        DeviceKind::VfioPci(vfio) => Some(match (name, &vfio.source) {
            ("host", VfioSource::Host(host)) => host.to_string().into(),
            ("sysfsdev", VfioSource::SysfsDev(path)) => path.display().to_string().into(),
            ("iommufd", _) => format!("/objects/{}", vfio.iommufd.as_deref()?).into(),
            _ => return None,
        }),
        DeviceKind::IsaSerial(serial) => Some(match name {
            "chardev" => serial.chardev.clone().into(),
            "index" => serial.index?.into(),
            "iobase" => serial.iobase?.into(),
            "irq" => serial.irq?.into(),
            _ => return None,
        }),
    }
}

fn common(common: &VirtioCommon, name: &str) -> Option<Value> {
    Some(match name {
        "event_idx" => common.event_idx.into(),
        "indirect_desc" => common.indirect_desc.into(),
        "ioeventfd" => common.ioeventfd.into(),
        _ => return None,
    })
}

/// A value as `info qtree` shows it.
pub(super) fn for_a_person(property: &Property, value: &Value) -> String {
    match (property.kind, value) {
        (PropertyKind::PciAddr, Value::Number(devfn)) => match devfn.as_u64() {
            Some(devfn) => format!("{:02x}.{:x}", devfn >> 3, devfn & 7),
            None => devfn.to_string(),
        },
        (PropertyKind::Size, Value::Number(size)) => match size.as_u64() {
            Some(size) => format!("{size} ({})", binary_size(size)),
            None => size.to_string(),
        },
        (_, Value::Number(number)) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => format!("{number} (0x{number:x})"),
            (None, Some(number)) => format!("{number} (0x{number:x})"),
            (None, None) => number.to_string(),
        },
        (_, value) => value.to_string(),
    }
}

/// With three digits and a binary unit: `4 KiB`.
fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let shown = match value {
        v if v.fract().abs() < 0.005 || v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    format!("{shown} {}", UNITS.get(unit).copied().unwrap_or("B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_qemus() {
        assert_eq!(binary_size(512), "512 B");
        assert_eq!(binary_size(4096), "4 KiB");
        assert_eq!(binary_size(u64::MAX), "16 EiB");
        assert_eq!(binary_size(256 << 20), "256 MiB");
        assert_eq!(binary_size(1536 << 10), "1.50 MiB");
    }
}
