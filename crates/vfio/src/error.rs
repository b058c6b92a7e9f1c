//! What can go wrong on the way to a passed-through function, each with its remedy.

use std::io;
use std::path::Path;

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

    /// The kernel's iommufd is not there.
    #[error(
        "iommufd={id}: {path} does not exist: load the kernel's iommufd (modprobe iommufd; it needs CONFIG_IOMMUFD, which many \
         distributions' kernels do not have), or leave iommufd= out to use the function's VFIO group"
    )]
    NoIommufd {
        /// The object's id.
        id: String,
        /// `/dev/iommu`.
        path: String,
    },

    /// The descriptor given as an iommufd is something else.
    #[error("iommufd={id}: its fd= is no open /dev/iommu")]
    NotIommufd {
        /// The object's id.
        id: String,
    },

    /// The kernel offers functions by their groups only.
    #[error(
        "{device} has no character device (no vfio-dev/vfio*/dev in its folder in sysfs), which iommufd= needs: run a kernel with \
         CONFIG_VFIO_DEVICE_CDEV (Linux 6.6 or newer), or leave iommufd= out to use its VFIO group"
    )]
    NoCdev {
        /// `0000:5e:00.2`.
        device: String,
    },

    /// The descriptor given as a function is something else.
    #[error("fd=: the descriptor is no open PCI function of VFIO (/dev/vfio/devices/vfioN)")]
    NotCdev,

    /// The descriptor given as a function is another one than the option names.
    #[error("fd=: the descriptor is {given}, not {named}: give either the right one or no host=")]
    OtherCdev {
        /// The function of the descriptor.
        given: String,
        /// The function that is named.
        named: String,
    },

    /// The IOMMU does not keep the interrupts of functions apart.
    #[error(
        "{device}: the host does not remap interrupts, so that a guest with this function could raise the host's: turn \
         interrupt remapping on (firmware, intremap=on), or accept that (echo 1 > \
         /sys/module/iommufd/parameters/allow_unsafe_interrupts)"
    )]
    UnsafeInterrupts {
        /// `0000:5e:00.2`.
        device: String,
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

/// Makes a [`VfioError::Kernel`] of a failed step.
pub(crate) fn failed(device: &str, what: &str) -> impl FnOnce(io::Error) -> VfioError + use<> {
    let (device, what) = (device.to_owned(), what.to_owned());
    move |source| VfioError::Kernel {
        device,
        what,
        source,
    }
}

/// Why a file of VFIO's cannot be opened.
pub(crate) fn open_error(source: io::Error, path: &Path) -> VfioError {
    let text = path.display().to_string();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => VfioError::NoVfio { path: text },
        errno => VfioError::Open {
            hint: match errno {
                Some(libc::EACCES | libc::EPERM) => {
                    format!(", run as root or give this user the file (chown $USER {text})")
                }
                _ => String::new(),
            },
            path: text,
            source,
        },
    }
}
