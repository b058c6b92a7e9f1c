//! A device a user asks for, by `-device` or by `device_add`.

use std::path::PathBuf;

use super::FdRef;
use crate::address::{HostPciAddr, SlotAddr};

/// A device: what every device has, and what its type adds.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceConfig {
    /// `id=`.
    pub id: Option<String>,
    /// The type's name as the user gave it, aliases resolved.
    pub driver: &'static str,
    /// `bus=`; `None` lets the machine choose.
    pub bus: Option<String>,
    /// `addr=`; `None` lets the machine choose.
    pub addr: Option<SlotAddr>,
    /// `multifunction=`.
    pub multifunction: bool,
    /// `failover_pair_id=`: the standby this device is the primary of.
    pub failover_pair_id: Option<String>,
    /// `acpi-index=`, 0 for none.
    pub acpi_index: u32,
    /// What its type adds.
    pub kind: DeviceKind,
    /// The option's argument as the user wrote it (the JSON text for a monitor's): for messages.
    pub text: String,
}

/// What a type of device adds to [`DeviceConfig`].
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceKind {
    /// `pcie-root-port`.
    RootPort(RootPortConfig),
    /// `virtio-net-pci`.
    VirtioNet(VirtioNetConfig),
    /// `vfio-pci`.
    VfioPci(VfioPciConfig),
    /// `virtio-rng-pci`.
    VirtioRng(RngConfig),
    /// `virtio-blk-pci`.
    VirtioBlk(BlkConfig),
    /// `isa-serial`.
    IsaSerial(IsaSerialConfig),
}

/// `pcie-root-port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPortConfig {
    /// `port=`: the port number of the link capabilities.
    pub port: u8,
    /// `chassis=`: part of the slot's physical number.
    pub chassis: u8,
    /// `slot=`: the slot's physical number.
    pub slot: u16,
    /// `hotplug=`: the slot can be hot-plugged.
    pub hotplug: bool,
    /// `bus-reserve=`: bus numbers kept for behind it.
    pub bus_reserve: Option<u32>,
    /// `io-reserve=`, bytes.
    pub io_reserve_bytes: Option<u64>,
    /// `mem-reserve=`: non-prefetchable memory window, bytes.
    pub mem_reserve_bytes: Option<u64>,
    /// `pref64-reserve=`: prefetchable memory window, bytes.
    pub pref64_reserve_bytes: Option<u64>,
}

/// What all virtio PCI devices have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioCommon {
    /// `vectors=`: MSI-X vectors; 0 switches MSI-X off, `None` chooses what the queues need.
    pub vectors: Option<u16>,
    /// `event_idx=`: offer VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// `indirect_desc=`: offer VIRTIO_F_INDIRECT_DESC.
    pub indirect_desc: bool,
    /// `ioeventfd=`: let the kernel take the doorbells.
    pub ioeventfd: bool,
}

/// `virtio-net-pci`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioNetConfig {
    /// What all virtio PCI devices have.
    pub common: VirtioCommon,
    /// `netdev=`; `None` is a NIC without a back end.
    pub netdev: Option<String>,
    /// `mac=`; `None` lets the machine choose one of 52:54:00:12:34:56 and on.
    pub mac: Option<[u8; 6]>,
    /// `failover=`: offer VIRTIO_NET_F_STANDBY; this is a standby.
    pub failover: bool,
    /// `failover-link-timeout=`: for how long the primary's link may be down, in ms; 0 for ever.
    pub failover_link_timeout_ms: u32,
    /// How the host's network follows the pair; only for a standby.
    pub steering: SteeringConfig,
    /// `mq=`: offer VIRTIO_NET_F_MQ when the back end has several queues.
    pub mq: bool,
    /// `host_mtu=`: offer VIRTIO_NET_F_MTU with this value.
    pub host_mtu: Option<u16>,
    /// `status=`: VIRTIO_NET_F_STATUS.
    pub status: bool,
    /// `ctrl_vq=`: VIRTIO_NET_F_CTRL_VQ.
    pub ctrl_vq: bool,
    /// `ctrl_rx=`: VIRTIO_NET_F_CTRL_RX.
    pub ctrl_rx: bool,
    /// `ctrl_rx_extra=`: VIRTIO_NET_F_CTRL_RX_EXTRA.
    pub ctrl_rx_extra: bool,
    /// `ctrl_vlan=`: VIRTIO_NET_F_CTRL_VLAN.
    pub ctrl_vlan: bool,
    /// `ctrl_mac_addr=`: VIRTIO_NET_F_CTRL_MAC_ADDR.
    pub ctrl_mac_addr: bool,
    /// `ctrl_guest_offloads=`: VIRTIO_NET_F_CTRL_GUEST_OFFLOADS.
    pub ctrl_guest_offloads: bool,
    /// `guest_announce=`: VIRTIO_NET_F_GUEST_ANNOUNCE.
    pub guest_announce: bool,
    /// `mrg_rxbuf=`: VIRTIO_NET_F_MRG_RXBUF.
    pub mrg_rxbuf: bool,
    /// `csum=`: VIRTIO_NET_F_CSUM.
    pub csum: bool,
    /// `guest_csum=`: VIRTIO_NET_F_GUEST_CSUM.
    pub guest_csum: bool,
    /// `guest_tso4=`: VIRTIO_NET_F_GUEST_TSO4.
    pub guest_tso4: bool,
    /// `guest_tso6=`: VIRTIO_NET_F_GUEST_TSO6.
    pub guest_tso6: bool,
    /// `guest_ecn=`: VIRTIO_NET_F_GUEST_ECN.
    pub guest_ecn: bool,
    /// `guest_ufo=`: VIRTIO_NET_F_GUEST_UFO.
    pub guest_ufo: bool,
    /// `host_tso4=`: VIRTIO_NET_F_HOST_TSO4.
    pub host_tso4: bool,
    /// `host_tso6=`: VIRTIO_NET_F_HOST_TSO6.
    pub host_tso6: bool,
    /// `host_ecn=`: VIRTIO_NET_F_HOST_ECN.
    pub host_ecn: bool,
    /// `host_ufo=`: VIRTIO_NET_F_HOST_UFO.
    pub host_ufo: bool,
    /// `rx_queue_size=`: descriptors, a power of two.
    pub rx_queue_size: u16,
    /// `tx_queue_size=`: descriptors, a power of two.
    pub tx_queue_size: u16,
    /// `speed=`: Mbit/s told to the guest; `None` is unknown.
    pub speed_mbps: Option<u32>,
    /// `duplex=`: full (true), half (false); `None` is unknown.
    pub full_duplex: Option<bool>,
}

/// An interface of the host that steering looks for: `auto`, `off` or a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SteeredInterface {
    /// It is found.
    #[default]
    Auto,
    /// It is left as it is.
    Off,
    /// This one.
    Named(String),
}

/// How the host's network follows a pair: the `failover-…` properties of its standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteeringConfig {
    /// `failover-steer=`: switch and NIC are steered.
    pub steer: bool,
    /// `failover-pf=`: the interface of the VF's physical function.
    pub pf: SteeredInterface,
    /// `failover-vf=`: the VF's number on it.
    pub vf: Option<u16>,
    /// `failover-vf-vlan=`: its VLAN, 0 for none.
    pub vf_vlan: Option<u16>,
    /// `failover-standby-port=`: the bridge's port towards the standby.
    pub standby_port: SteeredInterface,
    /// `failover-primary-port=`: the bridge's port towards the primary.
    pub primary_port: SteeredInterface,
    /// `failover-hook=`: a program that is told each step.
    pub hook: Option<PathBuf>,
    /// `failover-hook-timeout=`: how long it may take.
    pub hook_timeout_ms: u32,
}

/// All found, no hook.
impl Default for SteeringConfig {
    fn default() -> Self {
        Self {
            steer: true,
            pf: SteeredInterface::Auto,
            vf: None,
            vf_vlan: None,
            standby_port: SteeredInterface::Auto,
            primary_port: SteeredInterface::Auto,
            hook: None,
            hook_timeout_ms: 5000,
        }
    }
}

/// The host device behind a `vfio-pci`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VfioSource {
    /// `host=`.
    Host(HostPciAddr),
    /// `sysfsdev=`: the device's folder in sysfs.
    SysfsDev(PathBuf),
    /// Neither: `fd=` is enough.
    Fd,
}

/// `vfio-pci`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfioPciConfig {
    /// The host device.
    pub source: VfioSource,
    /// `iommufd=`: the id of an `iommufd` object to use instead of the group interface.
    pub iommufd: Option<String>,
    /// `fd=`: the device's open character device, to be bound to that object.
    pub fd: Option<FdRef>,
    /// `rombar=`: show the expansion ROM.
    pub rombar: bool,
    /// `x-no-mmap=`: trap all accesses to BARs.
    pub no_mmap: bool,
    /// `x-no-kvm-msi=`: deliver MSI by user space.
    pub no_kvm_msi: bool,
    /// `x-no-kvm-msix=`: deliver MSI-X by user space.
    pub no_kvm_msix: bool,
}

/// `virtio-rng-pci`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RngConfig {
    /// What all virtio PCI devices have.
    pub common: VirtioCommon,
    /// `rng=`: the id of an `rng-random` object; `None` is /dev/urandom.
    pub rng: Option<String>,
    /// `max-bytes=` in each period.
    pub max_bytes: Option<u64>,
    /// `period=`.
    pub period_ms: u32,
}

/// `virtio-blk-pci`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkConfig {
    /// What all virtio PCI devices have.
    pub common: VirtioCommon,
    /// `drive=`: the id of a drive or the name of a block node.
    pub drive: String,
    /// `serial=`: at most 20 characters.
    pub serial: Option<String>,
    /// `queue-size=`: descriptors, a power of two.
    pub queue_size: u16,
    /// `logical_block_size=`.
    pub logical_block_size_bytes: u32,
    /// `bootindex=`.
    pub bootindex: Option<i32>,
}

/// `isa-serial`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsaSerialConfig {
    /// `chardev=`.
    pub chardev: String,
    /// `index=`: 0 for COM1; `None` is the next free one.
    pub index: Option<u8>,
    /// `iobase=`; `None` follows the index.
    pub iobase: Option<u16>,
    /// `irq=`; `None` follows the index.
    pub irq: Option<u8>,
}
