//! What can go wrong on the way to a passed-through function, each with its remedy.

use std::io;

/// A function of the host cannot be had. Each message is one line that says what is in the way and what to do.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// Not an address.
    #[error("'{0}' is not a PCI address of the form [DDDD:]BB:DD.F, such as 0000:5e:00.2")]
    BadAddress(String),

    /// There is no such function.
    #[error(
        "no PCI device {device} on this host: {path} does not exist (lspci -D lists what is there)"
    )]
    NotFound {
        /// As the user named it.
        device: String,
        /// Where it was looked for.
        path: String,
    },

    /// The folder is in sysfs, but is no PCI function.
    #[error("{path} is not a PCI device: {reason}")]
    NotPci {
        /// The folder.
        path: String,
        /// What is missing.
        reason: String,
    },

    /// Another driver has it.
    #[error(
        "{device} is bound to {driver}; bind it to vfio-pci: echo vfio-pci > {sysfs}/driver_override; \
         echo {device} > {sysfs}/driver/unbind; echo {device} > /sys/bus/pci/drivers_probe"
    )]
    OtherDriver {
        /// `0000:5e:00.2`.
        device: String,
        /// Its driver.
        driver: String,
        /// Its folder.
        sysfs: String,
    },

    /// No driver has it.
    #[error(
        "{device} has no driver; bind it to vfio-pci: modprobe vfio-pci; echo vfio-pci > {sysfs}/driver_override; \
         echo {device} > /sys/bus/pci/drivers_probe"
    )]
    NoDriver {
        /// `0000:5e:00.2`.
        device: String,
        /// Its folder.
        sysfs: String,
    },

    /// The host isolates it in no IOMMU group.
    #[error(
        "{device} is in no IOMMU group: turn the IOMMU on in the firmware (VT-d, AMD-Vi) and on the kernel's command \
         line (intel_iommu=on)"
    )]
    NoGroup {
        /// `0000:5e:00.2`.
        device: String,
    },

    /// Other functions of its group are in use by host drivers.
    #[error(
        "{device}: its IOMMU group {group} is not viable: {others}; bind each of them to vfio-pci, or leave it without \
         a driver"
    )]
    NotViable {
        /// `0000:5e:00.2`.
        device: String,
        /// The group's number.
        group: u32,
        /// The offenders: `0000:5e:00.3 is bound to ixgbe`.
        others: String,
    },

    /// Somebody else has the group open.
    #[error("{device}: its IOMMU group {group} (/dev/vfio/{group}) is in use by {holder}")]
    Busy {
        /// `0000:5e:00.2`.
        device: String,
        /// The group's number.
        group: u32,
        /// `process 4711 (qemu-system-x86)`, or `another process`.
        holder: String,
    },

    /// This machine has it already.
    #[error("{device} is already in use by '{holder}' of this machine")]
    UsedHere {
        /// `0000:5e:00.2`.
        device: String,
        /// The id of the device that has it.
        holder: String,
    },

    /// The kernel's VFIO is not there.
    #[error(
        "{path} does not exist: load the kernel's VFIO (modprobe vfio-pci), and give it to this container if it is one"
    )]
    NoVfio {
        /// `/dev/vfio/vfio` or `/dev/vfio/N`.
        path: String,
    },

    /// Opening a VFIO file was refused.
    #[error("cannot open {path}: {source}{hint}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
        /// What to do, beginning with a comma, or nothing.
        hint: String,
    },

    /// The kernel's VFIO is another one than we know.
    #[error(
        "the kernel's VFIO has {0}; this program needs API version 0 with a type 1v2 IOMMU (modprobe vfio_iommu_type1)"
    )]
    Unsupported(String),

    /// One of the kernel's calls failed in a way that has no case of its own.
    #[error("{device}: cannot {what}: {source}")]
    Kernel {
        /// Which device, or `VFIO container`.
        device: String,
        /// The step: `reset the function`.
        what: String,
        /// Why.
        source: io::Error,
    },

    /// The process may not lock that much memory.
    #[error(
        "{device}: the guest's {needed_mib} MiB of memory must be locked for DMA, but this process may lock {limit_kib} \
         KiB only: raise RLIMIT_MEMLOCK (ulimit -l unlimited, or LimitMEMLOCK=infinity in its systemd unit)"
    )]
    MemoryLockLimit {
        /// Which device.
        device: String,
        /// Guest memory, in MiB.
        needed_mib: u64,
        /// The limit, in KiB.
        limit_kib: u64,
    },

    /// The IOMMU cannot address a range of guest memory.
    #[error(
        "{device}: guest memory {start:#x}..{end:#x} is outside of what the host's IOMMU can map ({ranges}): give the guest less memory"
    )]
    OutOfAperture {
        /// Which device.
        device: String,
        /// First address.
        start: u64,
        /// The address behind the last one.
        end: u64,
        /// The usable ranges.
        ranges: String,
    },

    /// Mapping guest memory failed.
    #[error("{device}: cannot map guest memory {start:#x}..{end:#x} for DMA: {source}")]
    Map {
        /// Which device.
        device: String,
        /// First address.
        start: u64,
        /// The address behind the last one.
        end: u64,
        /// Why.
        source: io::Error,
    },

    /// The progress hook said stop.
    #[error("{device}: opening was cancelled")]
    Cancelled {
        /// Which device.
        device: String,
    },

    /// It is a kind of function that cannot be passed through.
    #[error("{device} cannot be passed through: {reason}")]
    NotPassable {
        /// Which device.
        device: String,
        /// One clear sentence.
        reason: String,
    },
}
