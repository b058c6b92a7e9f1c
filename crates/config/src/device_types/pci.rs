//! PCI devices that are not virtio, and what all PCI devices share.

use super::declare::{full, ignored, off, on, only};
use crate::property::{Property, PropertyKind as K};

/// What every PCI device has.
pub(super) const PCI: &[Property] = &[
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
pub(super) const NO_ROM: &[Property] = &[ignored(
    "rombar",
    K::U32,
    Some("1"),
    "Show the expansion ROM in a BAR",
)];

pub(super) const ROOT_PORT: &[Property] = &[
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
    ignored(
        "bus-reserve",
        K::U32,
        None,
        "Bus numbers kept for behind the port",
    ),
    ignored("io-reserve", K::Size, None, "Size of the I/O window"),
    ignored("mem-reserve", K::Size, None, "Size of the memory window"),
    ignored(
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

pub(super) const VFIO: &[Property] = &[
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
        "fd",
        K::Fd,
        None,
        "The host's device as an open /dev/vfio/devices/vfioN, with iommufd=",
    ),
    ignored(
        "rombar",
        K::U32,
        Some("1"),
        "Show the device's expansion ROM; 0 for not",
    ),
    ignored(
        "x-no-mmap",
        K::Bool,
        Some("off"),
        "Trap all accesses to BARs (for debugging)",
    ),
    ignored(
        "x-no-kvm-msi",
        K::Bool,
        Some("off"),
        "Deliver MSI by user space (for debugging)",
    ),
    ignored(
        "x-no-kvm-msix",
        K::Bool,
        Some("off"),
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
