//! The kernel's calls for functions without a group: an I/O address space of `/dev/iommu`, and the character device of
//! a function that is bound to it (Linux, `Documentation/userspace-api/iommufd.rst`; `include/uapi/linux/iommufd.h`).
//!
//! Address spaces are made, filled and given up by the crate `iommufd-ioctls`, which keeps the errno of each call. Two
//! things it lacks are here: which I/O addresses can be mapped, and the three calls on a function's file.

use super::{AddressSpace, DeviceFile, IommuInfo, argsz, check, open};
use iommufd_bindings as iommu;
use iommufd_ioctls::{IommuFd, IommufdError, IommufdIoas};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use vfio_bindings::bindings::vfio as sys;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(
    VFIO_DEVICE_BIND_IOMMUFD,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 18
);
ioctl_io_nr!(
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 19
);
ioctl_io_nr!(
    IOMMU_IOAS_IOVA_RANGES,
    iommu::IOMMUFD_TYPE as u32,
    iommu::IOMMUFD_CMD_IOAS_IOVA_RANGES
);

/// How many ranges of I/O addresses are asked for at most; a host's IOMMU has a handful.
const MAX_RANGES: usize = 4096;

/// `/dev/iommu`.
#[derive(Clone)]
pub(crate) struct IommuFile(Arc<IommuFd>);

impl IommuFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::over(open(path)?.into()))
    }

    /// One that is open already.
    pub(crate) fn over(fd: OwnedFd) -> Self {
        Self(Arc::new(IommuFd::new_from_fd(File::from(fd))))
    }

    /// Whether it is what it is said to be: nothing else knows the call, and it changes nothing, since no object has the
    /// number 0.
    pub(crate) fn is_iommufd(&self) -> bool {
        let asked = self.0.destroy_iommu_object(0).map_err(io_error);
        !matches!(asked, Err(error) if error.raw_os_error() == Some(libc::ENOTTY))
    }

    /// A fresh I/O address space, empty.
    pub(crate) fn address_space(&self) -> io::Result<Ioas> {
        let ioas = IommufdIoas::new(Arc::clone(&self.0)).map_err(io_error)?;
        Ok(Ioas {
            file: self.clone(),
            ioas,
        })
    }
}

/// An I/O address space of an iommufd. The kernel gives it up when this is dropped, if no function is left in it.
pub(crate) struct Ioas {
    file: IommuFile,
    ioas: IommufdIoas,
}

impl Ioas {
    /// The ranges the kernel allows, at most `room` of them, and how many there are.
    fn ranges(&self, room: usize) -> io::Result<(Vec<iommu::iommu_iova_range>, usize)> {
        let mut ranges = vec![iommu::iommu_iova_range::default(); room];
        let mut request = iommu::iommu_ioas_iova_ranges {
            size: argsz::<iommu::iommu_ioas_iova_ranges>(),
            ioas_id: self.ioas.id(),
            num_iovas: u32::try_from(room).map_err(|_| io::ErrorKind::InvalidInput)?,
            allowed_iovas: ranges.as_mut_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: the structure is whole; the kernel writes to it and to the `num_iovas` ranges it points to alone.
        let asked = check(unsafe {
            ioctl_with_mut_ref(&*self.file.0, IOMMU_IOAS_IOVA_RANGES(), &mut request)
        });
        let there = request.num_iovas as usize;
        match asked {
            Err(error) if error.raw_os_error() != Some(libc::EMSGSIZE) => return Err(error),
            _ => ranges.truncate(there),
        }
        Ok((ranges, there))
    }
}

impl AddressSpace for Ioas {
    fn info(&self) -> io::Result<IommuInfo> {
        let mut room = 16;
        loop {
            let (ranges, there) = self.ranges(room)?;
            if there <= room {
                let ranges = ranges.iter().map(|range| range.start..=range.last);
                return Ok(IommuInfo {
                    ranges: ranges.collect(),
                    mappings_left: None,
                });
            }
            if there > MAX_RANGES {
                return Err(io::Error::other(format!(
                    "{there} ranges of I/O addresses are too many"
                )));
            }
            room = there;
        }
    }

    unsafe fn map(&self, iova: u64, host: *mut u8, size: u64) -> io::Result<()> {
        let request = iommu::iommu_ioas_map {
            size: argsz::<iommu::iommu_ioas_map>(),
            flags: iommu::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
                | iommu::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE
                | iommu::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE,
            ioas_id: self.ioas.id(),
            user_va: host as u64,
            length: size,
            iova,
            ..Default::default()
        };
        // The crate calls it safe; what it allows the devices is our caller's promise.
        self.file.0.map_iommu_ioas(&request).map_err(io_error)
    }

    fn unmap(&self, iova: u64, size: u64) -> io::Result<()> {
        self.ioas.unmap(iova, size).map_err(io_error)
    }
}

/// `/dev/vfio/devices/vfioN`: a function that is not bound yet.
#[derive(Debug)]
pub(crate) struct CdevFile(File);

impl CdevFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path)?))
    }

    /// One that is open already.
    pub(crate) fn over(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// Another hold on the same open file.
    pub(crate) fn hold(&self) -> io::Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }

    /// Binds it for as long as the file is open. The kernel resets the function by function reset, if it can, before it
    /// answers.
    pub(crate) fn bind(self, to: &IommuFile) -> io::Result<DeviceFile> {
        let mut request = sys::vfio_device_bind_iommufd {
            argsz: argsz::<sys::vfio_device_bind_iommufd>(),
            iommufd: to.0.as_raw_fd(),
            ..Default::default()
        };
        // SAFETY: the structure is whole and the kernel writes to it alone.
        check(unsafe { ioctl_with_mut_ref(&self.0, VFIO_DEVICE_BIND_IOMMUFD(), &mut request) })?;
        DeviceFile::new(self.0)
    }
}

impl AsFd for CdevFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl DeviceFile {
    /// Puts the function into an address space of the iommufd it is bound to; it leaves when its file is closed.
    pub(crate) fn attach(&self, space: &Ioas) -> io::Result<()> {
        let mut request = sys::vfio_device_attach_iommufd_pt {
            argsz: argsz::<sys::vfio_device_attach_iommufd_pt>(),
            pt_id: space.ioas.id(),
            ..Default::default()
        };
        // SAFETY: the structure is whole and the kernel writes to it alone.
        check(unsafe {
            ioctl_with_mut_ref(&self.file, VFIO_DEVICE_ATTACH_IOMMUFD_PT(), &mut request)
        })
        .map(drop)
    }
}

/// The errno of a failed call.
fn io_error(error: IommufdError) -> io::Error {
    match error {
        IommufdError::IommuDestroy(errno)
        | IommufdError::IommuIoasAlloc(errno)
        | IommufdError::IommuIoasMap(errno)
        | IommufdError::IommuIoasUnmap(errno) => io::Error::from_raw_os_error(errno.errno()),
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_iommufd_is_told_apart() {
        let null = IommuFile::open(Path::new("/dev/null")).unwrap();
        assert!(!null.is_iommufd());
        // The call's own errno arrives.
        let error = null.address_space().err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn what_is_no_function_cannot_be_bound() {
        let cdev = CdevFile::open(Path::new("/dev/null")).unwrap();
        let iommu = IommuFile::open(Path::new("/dev/null")).unwrap();
        let error = cdev.bind(&iommu).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
