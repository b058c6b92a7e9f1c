//! `query-pci`.

use crate::qapi::qapi_struct;

qapi_struct! {
    /// One BAR.
    pub struct PciMemoryRegion {
        /// The BAR's number.
        bar: i64 = "bar",
        /// `io` or `memory`.
        kind: String = "type",
        /// Where the guest put it; -1 while it is unmapped.
        address: i64 = "address",
        /// Length in bytes.
        size_bytes: i64 = "size",
        /// Memory: prefetchable.
        prefetch: Option<bool> = "prefetch",
        /// Memory: a 64-bit BAR.
        mem_type_64: Option<bool> = "mem_type_64",
    }

    /// A window of a bridge.
    pub struct PciMemoryRange {
        /// Its first address.
        base: i64 = "base",
        /// Its last address.
        limit: i64 = "limit",
    }

    /// The bus numbers and windows of a bridge.
    pub struct PciBusInfo {
        /// Primary bus number.
        number: i64 = "number",
        /// Secondary bus number.
        secondary: i64 = "secondary",
        /// Subordinate bus number.
        subordinate: i64 = "subordinate",
        /// I/O window.
        io_range: PciMemoryRange = "io_range",
        /// Memory window.
        memory_range: PciMemoryRange = "memory_range",
        /// Prefetchable window.
        prefetchable_range: PciMemoryRange = "prefetchable_range",
    }

    /// A bridge and what is behind it.
    pub struct PciBridgeInfo {
        /// Its bus numbers and windows.
        bus: PciBusInfo = "bus",
        /// The devices behind it; absent while the guest gave it no bus number.
        devices: Option<Vec<PciDeviceInfo>> = "devices",
    }

    /// The class code.
    pub struct PciDeviceClass {
        /// In words, when it is known.
        desc: Option<String> = "desc",
        /// Base class and subclass.
        class: i64 = "class",
    }

    /// The identity of a function.
    pub struct PciDeviceId {
        /// Device id.
        device: i64 = "device",
        /// Vendor id.
        vendor: i64 = "vendor",
        /// Subsystem id; absent for a bridge.
        subsystem: Option<i64> = "subsystem",
        /// Subsystem vendor id; absent for a bridge.
        subsystem_vendor: Option<i64> = "subsystem-vendor",
    }

    /// One function.
    pub struct PciDeviceInfo {
        /// The bus number it is on.
        bus: i64 = "bus",
        /// Its device (slot) number.
        slot: i64 = "slot",
        /// Its function number.
        function: i64 = "function",
        /// Its class.
        class_info: PciDeviceClass = "class_info",
        /// Its identity.
        id: PciDeviceId = "id",
        /// The interrupt line register, when it has an interrupt pin.
        irq: Option<i64> = "irq",
        /// The interrupt pin: 0 none, 1 INTA …
        irq_pin: i64 = "irq_pin",
        /// The device's id, empty where it has none.
        qdev_id: String = "qdev_id",
        /// For a bridge: what is behind it.
        pci_bridge: Option<PciBridgeInfo> = "pci_bridge",
        /// Its BARs.
        regions: Vec<PciMemoryRegion> = "regions",
    }

    /// One root bus of `query-pci`.
    pub struct PciInfo {
        /// The bus number.
        bus: i64 = "bus",
        /// What is on it.
        devices: Vec<PciDeviceInfo> = "devices",
    }
}
