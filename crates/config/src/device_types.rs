//! The table of all device types and their properties.
//!
//! A property that is taken and does nothing says so by [`Support::Ignored`](crate::property::Support::Ignored) (and the help and the docs say it after
//! it); one that would ask for what cannot be had is [`Support::Only`](crate::property::Support::Only) with the reason.

mod declare;
mod isa;
mod pci;
mod virtio;

use crate::property::{BusKind, Category, DeviceType, Model};

use isa::ISA_SERIAL;
use pci::{NO_ROM, PCI, ROOT_PORT, VFIO};
use virtio::{BLK, RNG, VIRTIO, VIRTIO_NET};

/// All device types, by name.
pub static DEVICE_TYPES: &[DeviceType] = &[
    DeviceType {
        name: "isa-serial",
        alias: None,
        bus: BusKind::Isa,
        category: Category::Input,
        description: "Serial port (16550)",
        hotpluggable: false,
        model: Model::IsaSerial,
        groups: &[ISA_SERIAL],
    },
    DeviceType {
        name: "pcie-root-port",
        alias: None,
        bus: BusKind::Pcie,
        category: Category::Bridge,
        description: "PCI Express root port, one slot",
        hotpluggable: false,
        model: Model::RootPort,
        groups: &[ROOT_PORT, NO_ROM, PCI],
    },
    DeviceType {
        name: "vfio-pci",
        alias: None,
        bus: BusKind::Pcie,
        category: Category::Misc,
        description: "A PCI device of the host, passed through by VFIO",
        hotpluggable: true,
        model: Model::VfioPci,
        groups: &[VFIO, PCI],
    },
    DeviceType {
        name: "virtio-blk-pci",
        alias: Some("virtio-blk"),
        bus: BusKind::Pcie,
        category: Category::Storage,
        description: "virtio block device",
        hotpluggable: true,
        model: Model::VirtioBlk,
        groups: &[BLK, VIRTIO, NO_ROM, PCI],
    },
    DeviceType {
        name: "virtio-blk-pci-non-transitional",
        alias: None,
        bus: BusKind::Pcie,
        category: Category::Storage,
        description: "virtio block device, modern interface only",
        hotpluggable: true,
        model: Model::VirtioBlk,
        groups: &[BLK, VIRTIO, NO_ROM, PCI],
    },
    DeviceType {
        name: "virtio-net-pci",
        alias: Some("virtio-net"),
        bus: BusKind::Pcie,
        category: Category::Network,
        description: "virtio NIC; with failover=on the standby of a pair",
        hotpluggable: true,
        model: Model::VirtioNet,
        groups: &[VIRTIO_NET, VIRTIO, NO_ROM, PCI],
    },
    DeviceType {
        name: "virtio-net-pci-non-transitional",
        alias: None,
        bus: BusKind::Pcie,
        category: Category::Network,
        description: "virtio NIC, modern interface only",
        hotpluggable: true,
        model: Model::VirtioNet,
        groups: &[VIRTIO_NET, VIRTIO, NO_ROM, PCI],
    },
    DeviceType {
        name: "virtio-rng-pci",
        alias: Some("virtio-rng"),
        bus: BusKind::Pcie,
        category: Category::Misc,
        description: "virtio random number generator",
        hotpluggable: true,
        model: Model::VirtioRng,
        groups: &[RNG, VIRTIO, NO_ROM, PCI],
    },
    DeviceType {
        name: "virtio-rng-pci-non-transitional",
        alias: None,
        bus: BusKind::Pcie,
        category: Category::Misc,
        description: "virtio random number generator, modern interface only",
        hotpluggable: true,
        model: Model::VirtioRng,
        groups: &[RNG, VIRTIO, NO_ROM, PCI],
    },
];

/// The device type of this name or alias.
pub fn find(name: &str) -> Option<&'static DeviceType> {
    DEVICE_TYPES
        .iter()
        .find(|device| device.name == name || device.alias == Some(name))
}
