//! The table of all device types and their properties.
//!
//! A property that is taken and does nothing says so by [`Support::Ignored`] (and the help and the docs say it after
//! it); one that would ask for what cannot be had is [`Support::Only`] with the reason.

use crate::property::{BusKind, Category, DeviceType, Model, Property, PropertyKind, Support};

use PropertyKind as K;

const fn full(
    name: &'static str,
    kind: PropertyKind,
    default: Option<&'static str>,
    description: &'static str,
) -> Property {
    Property {
        name,
        kind,
        default,
        description,
        support: Support::Full,
    }
}

const fn on(name: &'static str, description: &'static str) -> Property {
    full(name, K::Bool, Some("on"), description)
}

const fn off(name: &'static str, description: &'static str) -> Property {
    full(name, K::Bool, Some("off"), description)
}

const fn ignored(
    name: &'static str,
    kind: PropertyKind,
    default: Option<&'static str>,
    description: &'static str,
) -> Property {
    Property {
        name,
        kind,
        default,
        description,
        support: Support::Ignored,
    }
}

const fn only(
    name: &'static str,
    kind: PropertyKind,
    default: &'static str,
    allowed: &'static [&'static str],
    description: &'static str,
    reason: &'static str,
) -> Property {
    Property {
        name,
        kind,
        default: Some(default),
        description,
        support: Support::Only(allowed, reason),
    }
}

/// What every PCI device has.
const PCI: &[Property] = &[
    full(
        "addr",
        K::PciAddr,
        None,
        "Slot and optional function number, example: 06.0 or 06; default: the first free slot",
    ),
    off("multifunction", "Other functions may share the slot"),
    full(
        "failover_pair_id",
        K::Str,
        None,
        "Id of the standby this device is the primary of (net failover)",
    ),
    full(
        "acpi-index",
        K::U32,
        Some("0"),
        "Instance number for the guest's persistent interface names, 0 for none",
    ),
    ignored("romfile", K::Str, None, "Expansion ROM image"),
    ignored("romsize", K::U32, None, "Size of the expansion ROM"),
    ignored(
        "x-pcie-lnksta-dllla",
        K::Bool,
        Some("on"),
        "Data link layer link active",
    ),
    ignored(
        "x-pcie-extcap-init",
        K::Bool,
        Some("on"),
        "PCIe extended capabilities",
    ),
    ignored(
        "x-pcie-ari-nextfn-1",
        K::Bool,
        Some("off"),
        "Next function of ARI is 1",
    ),
    ignored(
        "x-max-bounce-buffer-size",
        K::Size,
        Some("4k"),
        "Limit of DMA bounce buffers",
    ),
];

/// The expansion ROM of an emulated device: none has one.
const NO_ROM: &[Property] = &[ignored(
    "rombar",
    K::U32,
    Some("1"),
    "Show the expansion ROM in a BAR",
)];

/// What every virtio PCI device has.
const VIRTIO: &[Property] = &[
    full(
        "vectors",
        K::U16,
        None,
        "MSI-X vectors, 0 for no MSI-X; default: what the queues need",
    ),
    on("event_idx", "Offer VIRTIO_F_EVENT_IDX"),
    on("indirect_desc", "Offer VIRTIO_F_INDIRECT_DESC"),
    on("ioeventfd", "Let the kernel take the queues' doorbells"),
    only(
        "disable-legacy",
        K::OnOffAuto,
        "auto",
        &["on", "auto"],
        "No legacy interface",
        "only the modern (virtio 1) interface exists; leave it out or use disable-legacy=on",
    ),
    only(
        "disable-modern",
        K::Bool,
        "off",
        &["off"],
        "No modern interface",
        "only the modern (virtio 1) interface exists; leave it out",
    ),
    only(
        "packed",
        K::Bool,
        "off",
        &["off"],
        "Offer VIRTIO_F_RING_PACKED",
        "packed virtqueues are not supported",
    ),
    only(
        "in_order",
        K::Bool,
        "off",
        &["off"],
        "Offer VIRTIO_F_IN_ORDER",
        "in-order virtqueues are not supported",
    ),
    only(
        "iommu_platform",
        K::Bool,
        "off",
        &["off"],
        "Offer VIRTIO_F_ACCESS_PLATFORM",
        "there is no vIOMMU to translate",
    ),
    only(
        "ats",
        K::Bool,
        "off",
        &["off"],
        "Address translation service",
        "there is no vIOMMU to translate",
    ),
    only(
        "page-per-vq",
        K::Bool,
        "off",
        &["off"],
        "A page of its own for each doorbell",
        "doorbells are 4 bytes apart",
    ),
    only(
        "modern-pio-notify",
        K::Bool,
        "off",
        &["off"],
        "Doorbells in I/O space",
        "doorbells are in memory space",
    ),
    ignored(
        "queue_reset",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_F_RING_RESET; it is not offered",
    ),
    ignored(
        "any_layout",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_F_ANY_LAYOUT; virtio 1 implies it",
    ),
    ignored(
        "notify_on_empty",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_F_NOTIFY_ON_EMPTY (legacy only)",
    ),
    ignored("aer", K::Bool, Some("off"), "Advanced error reporting"),
    ignored(
        "use-started",
        K::Bool,
        Some("on"),
        "State flag of old machine types",
    ),
    ignored(
        "use-disabled-flag",
        K::Bool,
        Some("on"),
        "State flag of old machine types",
    ),
    ignored(
        "migrate-extra",
        K::Bool,
        Some("on"),
        "State of old machine types",
    ),
    ignored(
        "virtio-pci-bus-master-bug-migration",
        K::Bool,
        Some("off"),
        "Repair of old guests",
    ),
    ignored(
        "x-disable-legacy-check",
        K::Bool,
        Some("off"),
        "Check of old machine types",
    ),
    ignored("x-disable-pcie", K::Bool, Some("off"), "No PCIe capability"),
    ignored(
        "x-pcie-deverr-init",
        K::Bool,
        Some("on"),
        "PCIe device errors",
    ),
    ignored(
        "x-pcie-lnkctl-init",
        K::Bool,
        Some("on"),
        "PCIe link control",
    ),
    ignored(
        "x-pcie-pm-init",
        K::Bool,
        Some("on"),
        "PCI power management",
    ),
    ignored(
        "x-pcie-flr-init",
        K::Bool,
        Some("on"),
        "Function level reset",
    ),
    ignored(
        "x-ats-page-aligned",
        K::Bool,
        Some("on"),
        "ATS with page-aligned requests",
    ),
    ignored(
        "x-ignore-backend-features",
        K::Bool,
        Some("off"),
        "Check of old machine types",
    ),
];

const ROOT_PORT: &[Property] = &[
    full(
        "port",
        K::U8,
        Some("0"),
        "Port number of the link capabilities",
    ),
    full(
        "chassis",
        K::U8,
        Some("0"),
        "Chassis number; with slot= it names the physical slot",
    ),
    full("slot", K::U16, Some("0"), "Slot number within the chassis"),
    on(
        "hotplug",
        "Devices can be added and removed while the machine runs",
    ),
    full(
        "bus-reserve",
        K::U32,
        None,
        "Bus numbers kept for behind the port",
    ),
    full("io-reserve", K::Size, None, "Size of the I/O window"),
    full("mem-reserve", K::Size, None, "Size of the memory window"),
    full(
        "pref64-reserve",
        K::Size,
        None,
        "Size of the prefetchable memory window",
    ),
    ignored(
        "pref32-reserve",
        K::Size,
        None,
        "Size of a 32-bit prefetchable memory window; windows are 64-bit",
    ),
    ignored(
        "disable-acs",
        K::Bool,
        Some("off"),
        "No access control services",
    ),
    ignored(
        "power_controller_present",
        K::Bool,
        Some("on"),
        "The slot has a power controller",
    ),
    ignored(
        "x-native-hotplug",
        K::Bool,
        Some("on"),
        "Native hotplug capability; chosen by -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support",
    ),
    ignored(
        "x-do-not-expose-native-hotplug-cap",
        K::Bool,
        Some("off"),
        "Hide the native hotplug capability",
    ),
    ignored(
        "x-speed",
        K::Choice(&["2_5", "5", "8", "16", "32", "64"]),
        Some("16"),
        "Link speed, GT/s",
    ),
    ignored(
        "x-width",
        K::Choice(&["1", "2", "4", "8", "12", "16", "32"]),
        Some("32"),
        "Link width, lanes",
    ),
    ignored(
        "x-migrate-msix",
        K::Bool,
        Some("on"),
        "State of old machine types",
    ),
    ignored("aer_log_max", K::U16, Some("8"), "Entries of the error log"),
];

const VIRTIO_NET: &[Property] = &[
    full(
        "netdev",
        K::Netdev,
        None,
        "Id of the netdev behind the NIC; without one it has no link",
    ),
    full(
        "mac",
        K::Mac,
        None,
        "MAC address; default: the next of 52:54:00:12:34:56 and on",
    ),
    off(
        "failover",
        "Standby of a net failover pair: offer VIRTIO_NET_F_STANDBY, keep the primary hidden until the guest accepts",
    ),
    off(
        "mq",
        "Offer VIRTIO_NET_F_MQ, as many queue pairs as the netdev has",
    ),
    full(
        "host_mtu",
        K::U16,
        Some("0"),
        "Offer VIRTIO_NET_F_MTU with this value; 0 for none",
    ),
    on("status", "Offer VIRTIO_NET_F_STATUS"),
    on("ctrl_vq", "Offer VIRTIO_NET_F_CTRL_VQ"),
    on("ctrl_rx", "Offer VIRTIO_NET_F_CTRL_RX"),
    on("ctrl_rx_extra", "Offer VIRTIO_NET_F_CTRL_RX_EXTRA"),
    on("ctrl_vlan", "Offer VIRTIO_NET_F_CTRL_VLAN"),
    on("ctrl_mac_addr", "Offer VIRTIO_NET_F_CTRL_MAC_ADDR"),
    on(
        "ctrl_guest_offloads",
        "Offer VIRTIO_NET_F_CTRL_GUEST_OFFLOADS",
    ),
    on("guest_announce", "Offer VIRTIO_NET_F_GUEST_ANNOUNCE"),
    on("mrg_rxbuf", "Offer VIRTIO_NET_F_MRG_RXBUF"),
    on("csum", "Offer VIRTIO_NET_F_CSUM, if the netdev can"),
    on(
        "guest_csum",
        "Offer VIRTIO_NET_F_GUEST_CSUM, if the netdev can",
    ),
    on(
        "guest_tso4",
        "Offer VIRTIO_NET_F_GUEST_TSO4, if the netdev can",
    ),
    on(
        "guest_tso6",
        "Offer VIRTIO_NET_F_GUEST_TSO6, if the netdev can",
    ),
    on(
        "guest_ecn",
        "Offer VIRTIO_NET_F_GUEST_ECN, if the netdev can",
    ),
    on(
        "guest_ufo",
        "Offer VIRTIO_NET_F_GUEST_UFO, if the netdev can",
    ),
    on(
        "host_tso4",
        "Offer VIRTIO_NET_F_HOST_TSO4, if the netdev can",
    ),
    on(
        "host_tso6",
        "Offer VIRTIO_NET_F_HOST_TSO6, if the netdev can",
    ),
    on("host_ecn", "Offer VIRTIO_NET_F_HOST_ECN, if the netdev can"),
    on("host_ufo", "Offer VIRTIO_NET_F_HOST_UFO, if the netdev can"),
    full(
        "rx_queue_size",
        K::U16,
        Some("256"),
        "Descriptors of a receive queue, a power of two from 256 to 1024",
    ),
    full(
        "tx_queue_size",
        K::U16,
        Some("256"),
        "Descriptors of a transmit queue, a power of two from 256 to 1024",
    ),
    full(
        "speed",
        K::I32,
        Some("-1"),
        "Link speed told to the guest, Mbit/s; -1 for unknown",
    ),
    full(
        "duplex",
        K::Choice(&["full", "half"]),
        None,
        "Duplex told to the guest",
    ),
    ignored(
        "gso",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_NET_F_GSO (legacy only)",
    ),
    ignored(
        "guest_uso4",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_NET_F_GUEST_USO4; it is not offered",
    ),
    ignored(
        "guest_uso6",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_NET_F_GUEST_USO6; it is not offered",
    ),
    ignored(
        "host_uso",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_NET_F_HOST_USO; it is not offered",
    ),
    only(
        "guest_rsc_ext",
        K::Bool,
        "off",
        &["off"],
        "Offer VIRTIO_NET_F_RSC_EXT",
        "coalescing of received segments is not supported",
    ),
    only(
        "rss",
        K::Bool,
        "off",
        &["off"],
        "Offer VIRTIO_NET_F_RSS",
        "receive-side scaling is not supported",
    ),
    only(
        "hash",
        K::Bool,
        "off",
        &["off"],
        "Offer VIRTIO_NET_F_HASH_REPORT",
        "hash reports are not supported",
    ),
    ignored(
        "rsc_interval",
        K::U32,
        Some("300000"),
        "Interval of segment coalescing, ns",
    ),
    ignored(
        "tx",
        K::Choice(&["bh", "timer"]),
        Some("bh"),
        "How transmission is scheduled",
    ),
    ignored(
        "x-txtimer",
        K::U32,
        Some("150000"),
        "Transmission timer, ns",
    ),
    ignored("x-txburst", K::I32, Some("256"), "Packets sent in one go"),
    ignored(
        "x-mtu-bypass-backend",
        K::Bool,
        Some("on"),
        "Check of old machine types",
    ),
    ignored("bootindex", K::I32, None, "Boot order"),
];

const VFIO: &[Property] = &[
    full(
        "host",
        K::HostPciAddr,
        None,
        "The host's device, [domain:]bus:device.function",
    ),
    full(
        "sysfsdev",
        K::Str,
        None,
        "The host's device as a folder in sysfs, instead of host=",
    ),
    full(
        "iommufd",
        K::Object,
        None,
        "Id of an iommufd object to use in place of the VFIO group",
    ),
    full(
        "rombar",
        K::U32,
        Some("1"),
        "Show the device's expansion ROM; 0 for not",
    ),
    off("x-no-mmap", "Trap all accesses to BARs (for debugging)"),
    off("x-no-kvm-msi", "Deliver MSI by user space (for debugging)"),
    off(
        "x-no-kvm-msix",
        "Deliver MSI-X by user space (for debugging)",
    ),
    ignored(
        "x-no-kvm-intx",
        K::Bool,
        Some("off"),
        "Deliver INTx by user space",
    ),
    ignored(
        "x-no-kvm-ioeventfd",
        K::Bool,
        Some("off"),
        "No ioeventfd for quirks",
    ),
    ignored(
        "x-no-vfio-ioeventfd",
        K::Bool,
        Some("off"),
        "No ioeventfd by VFIO",
    ),
    ignored(
        "x-no-geforce-quirks",
        K::Bool,
        Some("off"),
        "No quirks for graphics",
    ),
    ignored(
        "x-intx-mmap-timeout-ms",
        K::U32,
        Some("1100"),
        "How long BARs stay trapped after an INTx",
    ),
    ignored(
        "x-req",
        K::Bool,
        Some("on"),
        "Give the device back when its host driver asks",
    ),
    ignored(
        "x-balloon-allowed",
        K::Bool,
        Some("off"),
        "Let a balloon work beside the device",
    ),
    ignored(
        "x-pre-copy-dirty-page-tracking",
        K::OnOffAuto,
        Some("on"),
        "Track what the device writes before the stop",
    ),
    ignored(
        "x-device-dirty-page-tracking",
        K::OnOffAuto,
        Some("on"),
        "Let the device track what it writes",
    ),
    ignored("bootindex", K::I32, None, "Boot order"),
    only(
        "enable-migration",
        K::OnOffAuto,
        "auto",
        &["off", "auto"],
        "Migrate the device's own state",
        "a device with failover_pair_id is unplugged to migrate; the state of others cannot be migrated",
    ),
    only(
        "display",
        K::OnOffAuto,
        "off",
        &["off"],
        "Show the device's display",
        "there is no display",
    ),
    only(
        "ramfb",
        K::Bool,
        "off",
        &["off"],
        "Boot display",
        "there is no display",
    ),
    only(
        "x-vga",
        K::Bool,
        "off",
        &["off"],
        "Legacy VGA ranges",
        "legacy VGA is not supported",
    ),
    only(
        "x-igd-opregion",
        K::Bool,
        "off",
        &["off"],
        "Graphics op-region",
        "graphics are not supported",
    ),
];

const RNG: &[Property] = &[
    full(
        "rng",
        K::Object,
        None,
        "Id of an rng-random object; default: the host's /dev/urandom",
    ),
    full(
        "max-bytes",
        K::U64,
        None,
        "Bytes the guest gets in each period; default: no limit",
    ),
    full("period", K::U32, Some("65536"), "Length of a period, ms"),
];

const BLK: &[Property] = &[
    full(
        "drive",
        K::Drive,
        None,
        "Id of a -drive or node name of a -blockdev",
    ),
    full(
        "serial",
        K::Str,
        None,
        "Serial number, at most 20 characters",
    ),
    full(
        "queue-size",
        K::U16,
        Some("256"),
        "Descriptors of the queue, a power of two from 2 to 1024",
    ),
    full(
        "logical_block_size",
        K::Size,
        Some("512"),
        "Block size told to the guest, a power of two from 512 to 4096",
    ),
    full("bootindex", K::I32, None, "Boot order"),
    only(
        "num-queues",
        K::U16,
        "1",
        &["1"],
        "Number of queues",
        "there is one queue",
    ),
    ignored(
        "physical_block_size",
        K::Size,
        Some("512"),
        "Physical block size told to the guest",
    ),
    ignored(
        "config-wce",
        K::Bool,
        Some("on"),
        "Let the guest switch the write cache",
    ),
    ignored("write-cache", K::OnOffAuto, Some("auto"), "Write cache"),
    ignored(
        "share-rw",
        K::Bool,
        Some("off"),
        "Others may write to the image",
    ),
    ignored(
        "discard",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_BLK_F_DISCARD; it is not offered",
    ),
    ignored(
        "write-zeroes",
        K::Bool,
        Some("on"),
        "Offer VIRTIO_BLK_F_WRITE_ZEROES; it is not offered",
    ),
    ignored("request-merging", K::Bool, Some("on"), "Merge requests"),
    ignored(
        "seg-max-adjust",
        K::Bool,
        Some("on"),
        "Segments follow the queue size",
    ),
    ignored(
        "iothread",
        K::Object,
        None,
        "I/O thread; each queue has a thread of its own",
    ),
    only(
        "scsi",
        K::Bool,
        "off",
        &["off"],
        "Pass SCSI commands",
        "SCSI commands are not passed",
    ),
];

const ISA_SERIAL: &[Property] = &[
    full(
        "chardev",
        K::Chardev,
        None,
        "Id of the chardev behind the port",
    ),
    full(
        "index",
        K::U8,
        None,
        "0 for COM1 to 3 for COM4; default: the next free one",
    ),
    full(
        "iobase",
        K::U16,
        None,
        "First I/O port; default: that of the index",
    ),
    full("irq", K::U8, None, "Interrupt; default: that of the index"),
    ignored("wakeup", K::Bool, Some("off"), "Wake the guest"),
];

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
