//! Where accesses go that leave the guest: the PC's ports, configuration space, the regions of PCI functions.

use crate::address_map::ECAM;
use crate::chipset::PortDevice;
use crate::chipset::reset::RESET_PORT;
use hypervisor::Bus;
use pci::{ConfigPorts, Ecam, RootComplex};
use std::ops::Range;
use std::sync::Arc;

/// First port of configuration mechanism 1.
const CONFIG_PORTS: Range<u16> = 0xcf8..0xd00;

/// The board's wires. Made once; what changes at run time is below the root complex.
pub(crate) struct BoardBus {
    ports: Vec<(Range<u16>, Arc<dyn PortDevice>)>,
    root: Arc<RootComplex>,
    config: Arc<ConfigPorts>,
    ecam: Ecam,
    reset: Arc<dyn PortDevice>,
}

impl BoardBus {
    /// `ports` do not overlap; `reset` is the register at 0xcf9.
    pub(crate) fn new(
        root: Arc<RootComplex>,
        config: Arc<ConfigPorts>,
        mut ports: Vec<(Range<u16>, Arc<dyn PortDevice>)>,
        reset: Arc<dyn PortDevice>,
    ) -> Self {
        ports.sort_by_key(|(range, _)| range.start);
        let ecam = Ecam::new(Arc::clone(&root), 256);
        Self {
            ports,
            root,
            config,
            ecam,
            reset,
        }
    }

    fn port_device(&self, port: u16) -> Option<(u16, &dyn PortDevice)> {
        let after = self.ports.partition_point(|(range, _)| range.start <= port);
        let (range, device) = self.ports.get(after.checked_sub(1)?)?;
        range
            .contains(&port)
            .then(|| (port - range.start, device.as_ref()))
    }
}

impl Bus for BoardBus {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        if port == RESET_PORT && data.len() == 1 {
            self.reset.read(0, data);
        } else if CONFIG_PORTS.contains(&port) {
            self.config.read(port, data);
        } else if let Some((offset, device)) = self.port_device(port) {
            device.read(offset, data);
        } else {
            self.root.pio_read(port, data);
        }
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if port == RESET_PORT && data.len() == 1 {
            self.reset.write(0, data);
        } else if CONFIG_PORTS.contains(&port) {
            self.config.write(port, data);
        } else if let Some((offset, device)) = self.port_device(port) {
            device.write(offset, data);
        } else if !self.root.pio_write(port, data) {
            tracing::trace!(
                port = format_args!("{port:#x}"),
                ?data,
                "nobody is at this port"
            );
        }
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        if ECAM.contains(&address) {
            self.ecam.read(address - ECAM.start, data);
        } else if !self.root.mmio_read(address, data) {
            tracing::trace!(
                address = format_args!("{address:#x}"),
                "nobody is at this address"
            );
        }
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        if ECAM.contains(&address) {
            self.ecam.write(address - ECAM.start, data);
        } else if !self.root.mmio_write(address, data) {
            tracing::trace!(
                address = format_args!("{address:#x}"),
                "nobody is at this address"
            );
        }
    }
}
