//! `x-query-qtree`: buses and what is on them, with all properties.

use super::{Parts, bus_below, values};
use config::vm::{DeviceKind, MachineKind};
use machine::inspect::{DeviceView, Inspect, ROOT_BUS};
use monitor::types::{QtreeBus, QtreeDevice, QtreeProperty};

pub(crate) fn qtree(machine: &dyn Inspect) -> Vec<QtreeBus> {
    let parts = Parts::of(machine);
    let mut devices = Vec::new();
    if parts.config.machine.kind == MachineKind::Q35 {
        devices.push(fixed("q35-pcihost", vec![root_bus(&parts)]));
    }
    vec![bus("main-system-bus", "System", devices)]
}

fn bus(name: &str, kind: &str, devices: Vec<QtreeDevice>) -> QtreeBus {
    QtreeBus {
        name: name.to_owned(),
        kind: kind.to_owned(),
        devices,
    }
}

/// A device of the board's own.
fn fixed(driver: &str, buses: Vec<QtreeBus>) -> QtreeDevice {
    QtreeDevice {
        driver: driver.to_owned(),
        id: String::new(),
        properties: Vec::new(),
        buses,
    }
}

fn root_bus(parts: &Parts<'_>) -> QtreeBus {
    let isa = parts.devices.iter().filter(|d| d.place.is_none());
    let mut on_isa = vec![fixed("mc146818rtc", Vec::new())];
    on_isa.extend(isa.map(|d| device(parts, d, Vec::new())));
    let mut devices = vec![
        fixed("mch", Vec::new()),
        fixed("ICH9-LPC", vec![bus("isa.0", "ISA", on_isa)]),
    ];
    for each in parts.on_bus(ROOT_BUS) {
        let below = matches!(each.config.kind, DeviceKind::RootPort(_)).then(|| {
            // A port carries no further port: one more level is all there is.
            let behind = parts.on_bus(&each.key);
            let behind = behind.map(|d| device(parts, d, Vec::new())).collect();
            bus(&bus_below(each), "PCIE", behind)
        });
        devices.push(device(parts, each, below.into_iter().collect()));
    }
    bus(ROOT_BUS, "PCIE", devices)
}

fn device(parts: &Parts<'_>, view: &DeviceView, buses: Vec<QtreeBus>) -> QtreeDevice {
    let properties = values::current(view, &parts.config.globals);
    let shown = properties.iter().map(|(property, value)| QtreeProperty {
        name: property.name.to_owned(),
        value: values::for_a_person(property, value),
    });
    QtreeDevice {
        driver: view.config.driver.to_owned(),
        id: view.config.id.clone().unwrap_or_default(),
        properties: shown.collect(),
        buses,
    }
}
