//! `x-query-qtree`: buses and what is on them, with all properties.

use super::values;
use config::vm::{DeviceKind, MachineKind};
use machine::inspect::{DeviceView, Inspect, ROOT_BUS};
use monitor::types::{QtreeBus, QtreeDevice, QtreeProperty};

pub(crate) fn qtree(machine: &dyn Inspect) -> Vec<QtreeBus> {
    let mut devices = Vec::new();
    if machine.config().machine.kind == MachineKind::Q35 {
        let all = machine.devices();
        devices.push(fixed("q35-pcihost", vec![root_bus(machine, &all)]));
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

fn root_bus(machine: &dyn Inspect, all: &[DeviceView]) -> QtreeBus {
    let isa: Vec<_> = all.iter().filter(|d| d.place.is_none()).collect();
    let mut on_isa = vec![fixed("mc146818rtc", Vec::new())];
    on_isa.extend(isa.into_iter().map(|d| device(machine, d, Vec::new())));
    let mut devices = vec![
        fixed("mch", Vec::new()),
        fixed("ICH9-LPC", vec![bus("isa.0", "ISA", on_isa)]),
    ];
    for each in on_bus(all, ROOT_BUS) {
        let below = matches!(each.config.kind, DeviceKind::RootPort(_)).then(|| {
            // A port carries no further port: one more level is all there is.
            let behind = on_bus(all, &each.key)
                .map(|d| device(machine, d, Vec::new()))
                .collect();
            bus(&super::bus_below(each), "PCIE", behind)
        });
        devices.push(device(machine, each, below.into_iter().collect()));
    }
    bus(ROOT_BUS, "PCIE", devices)
}

fn on_bus<'a>(all: &'a [DeviceView], id: &'a str) -> impl Iterator<Item = &'a DeviceView> {
    let there = move |d: &&DeviceView| d.place.as_ref().is_some_and(|(bus, _)| bus == id);
    all.iter().filter(there)
}

fn device(machine: &dyn Inspect, view: &DeviceView, buses: Vec<QtreeBus>) -> QtreeDevice {
    let properties = values::current(view, &machine.config().globals);
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
