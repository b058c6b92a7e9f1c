//! The tree of objects as QEMU's clients know it: `qom-list`, `qom-get`, `qom-set`, and the types in it.
//!
//! ```text
//!   /machine ── peripheral ── ID …        devices with an id
//!       │       peripheral-anon ─ device[N] …   those without
//!       │       unattached ── device[N] …       vCPUs first, then the chipset
//!       └────── q35 ── mch, pcie.0
//!   /objects/ID, /chardevs/ID
//! ```
//! There is no tree that is kept: each query puts it together from what the machine is at that moment, so it cannot be out of date.

mod node;
mod qtree;
mod tree;
mod types;
mod values;

pub(super) use qtree::qtree;
pub(super) use tree::tree;
pub(super) use types::{device_properties, list as list_types, properties as type_properties};

use super::cpus;
use config::vm::VmConfig;
use machine::inspect::{DeviceView, Inspect, ROOT_BUS};

/// The name of the bus below a port: the port's id, as `bus=` gives it.
fn bus_below(port: &DeviceView) -> String {
    port.config.id.clone().unwrap_or_else(|| port.key.clone())
}

/// What the tree is made of, looked at once: a device's view reads its registers.
struct Parts<'a> {
    config: &'a VmConfig,
    devices: Vec<DeviceView>,
    cpu_count: usize,
}

impl<'a> Parts<'a> {
    fn of(machine: &'a dyn Inspect) -> Self {
        Self {
            config: machine.config(),
            devices: machine.devices(),
            cpu_count: machine.cpu_threads().len(),
        }
    }

    /// A bus' path: below the board's host bridge, or below its port.
    fn bus_path(&self, bus: &str) -> String {
        if bus == ROOT_BUS {
            return format!("/machine/q35/{ROOT_BUS}");
        }
        match self.devices.iter().find(|d| d.key == bus) {
            Some(port) => format!("{}/{}", port.path, bus_below(port)),
            None => String::new(),
        }
    }

    /// The path of the LPC bridge: it follows the vCPUs among what nobody asked for.
    fn lpc_path(&self) -> String {
        cpus::path(self.cpu_count)
    }

    /// What is on a bus.
    fn on_bus(&self, bus: &str) -> impl Iterator<Item = &DeviceView> {
        let there = move |d: &&DeviceView| d.place.as_ref().is_some_and(|(id, _)| id == bus);
        self.devices.iter().filter(there)
    }
}
