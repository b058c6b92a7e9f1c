//! The kernel's VFIO calls: container, group and device files (Linux, `Documentation/driver-api/vfio.rst` and
//! `include/uapi/linux/vfio.h`); below it, in `iommufd.rs`, those of the other way to a function.
//!
//! All `unsafe` around `ioctl` is in these two files. Every structure that the kernel fills is of a fixed size that we give
//! it in `argsz`; what comes with variable length (capability chains) is read from a byte buffer with bounds checked.
#![allow(unsafe_code)]

mod iommufd;

pub(crate) use iommufd::{CdevFile, Ioas, IommuFile};

use crate::hardware::{Hardware, IrqInfo, IrqKind, RegionInfo};
use crate::window::HostWindow;
use std::ffi::{CString, c_int};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use vfio_bindings::bindings::vfio as sys;
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_GET_API_VERSION, sys::VFIO_TYPE.into(), sys::VFIO_BASE);
ioctl_io_nr!(
    VFIO_CHECK_EXTENSION,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 1
);
ioctl_io_nr!(VFIO_SET_IOMMU, sys::VFIO_TYPE.into(), sys::VFIO_BASE + 2);
ioctl_io_nr!(
    VFIO_GROUP_GET_STATUS,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 3
);
ioctl_io_nr!(
    VFIO_GROUP_SET_CONTAINER,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 4
);
ioctl_io_nr!(
    VFIO_GROUP_UNSET_CONTAINER,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 5
);
ioctl_io_nr!(
    VFIO_GROUP_GET_DEVICE_FD,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 6
);
ioctl_io_nr!(
    VFIO_DEVICE_GET_INFO,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 7
);
ioctl_io_nr!(
    VFIO_DEVICE_GET_REGION_INFO,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 8
);
ioctl_io_nr!(
    VFIO_DEVICE_GET_IRQ_INFO,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 9
);
ioctl_io_nr!(
    VFIO_DEVICE_SET_IRQS,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 10
);
ioctl_io_nr!(
    VFIO_DEVICE_RESET,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 11
);
ioctl_io_nr!(
    VFIO_IOMMU_GET_INFO,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 12
);
ioctl_io_nr!(
    VFIO_IOMMU_MAP_DMA,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 13
);
ioctl_io_nr!(
    VFIO_IOMMU_UNMAP_DMA,
    sys::VFIO_TYPE.into(),
    sys::VFIO_BASE + 14
);

/// What the kernel may ask us to hold for one answer; far above what it ever needs.
const MAX_ANSWER_BYTES: usize = 1 << 20;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The size of a structure as the kernel wants it in `argsz`.
const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// An I/O address space of the kernel's: a container, or an IOAS of an iommufd.
pub(crate) trait AddressSpace {
    /// What can be mapped in it.
    fn info(&self) -> io::Result<IommuInfo>;

    /// Lets the devices in it reach `size` bytes of this process at `host` under I/O address `iova`.
    ///
    /// # Safety
    /// The range `host..host + size` is mapped and stays so until [`unmap`](Self::unmap) or the end of the address space,
    /// and nothing in this process relies on its content not changing.
    unsafe fn map(&self, iova: u64, host: *mut u8, size: u64) -> io::Result<()>;

    /// Takes a range back; it consists of whole mappings.
    fn unmap(&self, iova: u64, size: u64) -> io::Result<()>;
}

/// `/dev/vfio/vfio`: an I/O address space.
#[derive(Debug)]
pub(crate) struct ContainerFile(File);

/// What the IOMMU of a container can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IommuInfo {
    /// The I/O addresses it can map; empty where the kernel does not say.
    pub(crate) ranges: Vec<RangeInclusive<u64>>,
    /// How many more mappings it takes, where the kernel says.
    pub(crate) mappings_left: Option<u32>,
}

impl ContainerFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path)?))
    }

    /// The kernel's API version and whether it has type 1v2 IOMMUs.
    pub(crate) fn abilities(&self) -> io::Result<(u32, bool)> {
        // SAFETY: the call takes no argument.
        let version = check(unsafe { ioctl(&self.0, VFIO_GET_API_VERSION()) })?;
        // SAFETY: the argument is a number.
        let type1v2 = check(unsafe {
            ioctl_with_val(
                &self.0,
                VFIO_CHECK_EXTENSION(),
                sys::VFIO_TYPE1v2_IOMMU.into(),
            )
        })?;
        Ok((version.unsigned_abs(), type1v2 != 0))
    }

    /// Makes it a type 1v2 IOMMU. Pre: a group is in it.
    pub(crate) fn set_type1v2(&self) -> io::Result<()> {
        // SAFETY: the argument is a number.
        check(unsafe { ioctl_with_val(&self.0, VFIO_SET_IOMMU(), sys::VFIO_TYPE1v2_IOMMU.into()) })
            .map(drop)
    }
}

impl AddressSpace for ContainerFile {
    fn info(&self) -> io::Result<IommuInfo> {
        let bytes = answer(size_of::<sys::vfio_iommu_type1_info>(), 0, |buffer| {
            // SAFETY: the buffer is at least as long as its `argsz` says, and the kernel writes no more than that.
            check(unsafe { ioctl_with_ptr(&self.0, VFIO_IOMMU_GET_INFO(), buffer.as_mut_ptr()) })
        })?;
        let word = |offset: usize| u32_at(&bytes, offset).unwrap_or(0);
        let mut info = IommuInfo::default();
        if word(4) & sys::VFIO_IOMMU_INFO_CAPS == 0 {
            return Ok(info);
        }
        for (id, at) in capability_chain(&bytes, word(16)) {
            match id {
                sys::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                    let count = u32_at(&bytes, at + 8).unwrap_or(0) as usize;
                    info.ranges = (0..count)
                        .map_while(|i| {
                            let entry = at.checked_add(16)?.checked_add(i.checked_mul(16)?)?;
                            Some(u64_at(&bytes, entry)?..=u64_at(&bytes, entry + 8)?)
                        })
                        .collect();
                }
                sys::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                    info.mappings_left = u32_at(&bytes, at + 8);
                }
                _ => {}
            }
        }
        Ok(info)
    }

    unsafe fn map(&self, iova: u64, host: *mut u8, size: u64) -> io::Result<()> {
        let request = sys::vfio_iommu_type1_dma_map {
            argsz: argsz::<sys::vfio_iommu_type1_dma_map>(),
            flags: sys::VFIO_DMA_MAP_FLAG_READ | sys::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: host as u64,
            iova,
            size,
        };
        // SAFETY: the structure is whole; what it allows the devices is the caller's promise.
        check(unsafe { ioctl_with_ref(&self.0, VFIO_IOMMU_MAP_DMA(), &request) }).map(drop)
    }

    fn unmap(&self, iova: u64, size: u64) -> io::Result<()> {
        let mut request = sys::vfio_iommu_type1_dma_unmap {
            argsz: argsz::<sys::vfio_iommu_type1_dma_unmap>(),
            flags: 0,
            iova,
            size,
            ..Default::default()
        };
        // SAFETY: the structure is whole and the kernel writes to it alone.
        check(unsafe { ioctl_with_mut_ref(&self.0, VFIO_IOMMU_UNMAP_DMA(), &mut request) })
            .map(drop)
    }
}

/// `/dev/vfio/N`: an IOMMU group.
#[derive(Debug)]
pub(crate) struct GroupFile(File);

impl GroupFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path)?))
    }

    /// All of its functions belong to VFIO or to nobody.
    pub(crate) fn is_viable(&self) -> io::Result<bool> {
        let mut status = sys::vfio_group_status {
            argsz: argsz::<sys::vfio_group_status>(),
            flags: 0,
        };
        // SAFETY: the structure is whole and the kernel writes to it alone.
        check(unsafe { ioctl_with_mut_ref(&self.0, VFIO_GROUP_GET_STATUS(), &mut status) })?;
        Ok(status.flags & sys::VFIO_GROUP_FLAGS_VIABLE != 0)
    }

    pub(crate) fn join(&self, container: &ContainerFile) -> io::Result<()> {
        let fd: c_int = container.0.as_raw_fd();
        // SAFETY: the kernel reads one int.
        check(unsafe { ioctl_with_ref(&self.0, VFIO_GROUP_SET_CONTAINER(), &fd) }).map(drop)
    }

    pub(crate) fn leave(&self) -> io::Result<()> {
        // SAFETY: the call takes no argument.
        check(unsafe { ioctl(&self.0, VFIO_GROUP_UNSET_CONTAINER()) }).map(drop)
    }

    /// Opens the function of this name. The kernel resets it by function reset, if it can, before it answers.
    pub(crate) fn device(&self, name: &str) -> io::Result<DeviceFile> {
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel reads a string that ends with zero.
        let fd =
            check(unsafe { ioctl_with_ptr(&self.0, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) })?;
        // SAFETY: the kernel made this descriptor for us just now.
        DeviceFile::new(unsafe { File::from_raw_fd(fd) })
    }
}

impl AsFd for GroupFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An opened function.
#[derive(Debug)]
pub(crate) struct DeviceFile {
    file: File,
    flags: u32,
}

impl DeviceFile {
    fn new(file: File) -> io::Result<Self> {
        let mut info = sys::vfio_device_info {
            argsz: argsz::<sys::vfio_device_info>(),
            ..Default::default()
        };
        // SAFETY: the structure is whole and the kernel writes to it alone.
        check(unsafe { ioctl_with_mut_ref(&file, VFIO_DEVICE_GET_INFO(), &mut info) })?;
        if info.flags & sys::VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(io::Error::other("the kernel says it is not a PCI device"));
        }
        Ok(Self {
            file,
            flags: info.flags,
        })
    }

    /// `VFIO_DEVICE_SET_IRQS` with these eventfds behind the header.
    fn set_irqs(&self, flags: u32, kind: IrqKind, count: u32, fds: &[c_int]) -> io::Result<c_int> {
        let words = size_of::<sys::vfio_irq_set>() / 4;
        let mut request: Vec<u32> = Vec::with_capacity(words + fds.len());
        let length =
            u32::try_from((words + fds.len()) * 4).map_err(|_| io::ErrorKind::InvalidInput)?;
        request.extend([length, flags, kind as u32, 0, count]);
        request.extend(fds.iter().map(|fd| fd.cast_unsigned()));
        // SAFETY: the request is as long as its first word says and the kernel only reads it.
        check(unsafe { ioctl_with_ptr(&self.file, VFIO_DEVICE_SET_IRQS(), request.as_ptr()) })
    }
}

impl Hardware for DeviceFile {
    fn region(&self, index: u32) -> io::Result<RegionInfo> {
        let bytes = answer(size_of::<sys::vfio_region_info>(), index, |buffer| {
            // SAFETY: the buffer is at least as long as its `argsz` says, and the kernel writes no more than that.
            check(unsafe {
                ioctl_with_ptr(
                    &self.file,
                    VFIO_DEVICE_GET_REGION_INFO(),
                    buffer.as_mut_ptr(),
                )
            })
        })?;
        Ok(parse_region(&bytes))
    }

    fn irq(&self, kind: IrqKind) -> io::Result<IrqInfo> {
        let mut info = sys::vfio_irq_info {
            argsz: argsz::<sys::vfio_irq_info>(),
            flags: 0,
            index: kind as u32,
            count: 0,
        };
        // SAFETY: the structure is whole and the kernel writes to it alone.
        match check(unsafe {
            ioctl_with_mut_ref(&self.file, VFIO_DEVICE_GET_IRQ_INFO(), &mut info)
        }) {
            Ok(_) => Ok(IrqInfo {
                flags: info.flags,
                count: info.count,
            }),
            // Kinds that this function or this kernel does not have.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(IrqInfo::default()),
            Err(error) => Err(error),
        }
    }

    fn can_reset(&self) -> bool {
        self.flags & sys::VFIO_DEVICE_FLAGS_RESET != 0
    }

    fn read(&self, region: &RegionInfo, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = place(region, offset, data.len())?;
        self.file.read_exact_at(data, at)
    }

    fn write(&self, region: &RegionInfo, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = place(region, offset, data.len())?;
        if !region.can_write() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.file.write_all_at(data, at)
    }

    fn set_triggers(&self, kind: IrqKind, fds: &[BorrowedFd<'_>]) -> io::Result<Option<usize>> {
        let action = sys::VFIO_IRQ_SET_ACTION_TRIGGER;
        if fds.is_empty() {
            self.set_irqs(sys::VFIO_IRQ_SET_DATA_NONE | action, kind, 0, &[])?;
            return Ok(None);
        }
        let raw: Vec<c_int> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let count = u32::try_from(raw.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let available =
            self.set_irqs(sys::VFIO_IRQ_SET_DATA_EVENTFD | action, kind, count, &raw)?;
        Ok((available > 0).then_some(available.unsigned_abs() as usize))
    }

    fn set_unmask(&self, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let raw = fd.map_or(-1, |fd| fd.as_raw_fd());
        let flags = sys::VFIO_IRQ_SET_DATA_EVENTFD | sys::VFIO_IRQ_SET_ACTION_UNMASK;
        self.set_irqs(flags, IrqKind::Intx, 1, &[raw]).map(drop)
    }

    fn unmask(&self) -> io::Result<()> {
        let flags = sys::VFIO_IRQ_SET_DATA_NONE | sys::VFIO_IRQ_SET_ACTION_UNMASK;
        self.set_irqs(flags, IrqKind::Intx, 1, &[]).map(drop)
    }

    fn reset(&self) -> io::Result<()> {
        // SAFETY: the call takes no argument.
        check(unsafe { ioctl(&self.file, VFIO_DEVICE_RESET()) }).map(drop)
    }

    fn map(&self, region: &RegionInfo, offset: u64, size: u64) -> io::Result<HostWindow> {
        let length = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        let at = place(region, offset, length)?;
        HostWindow::of_file(&self.file, at, size, region.can_write())
    }
}

/// Where in the device file an access to a region goes.
fn place(region: &RegionInfo, offset: u64, length: usize) -> io::Result<u64> {
    let end = offset.checked_add(length as u64);
    if end.is_none_or(|end| end > region.size) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    region
        .file_offset
        .checked_add(offset)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Makes a call that answers with a structure of `size` bytes and, behind it, capabilities: the first try learns from
/// `argsz` how long the whole is, the second gets it. The structure's third word is `index` on the way in.
fn answer(
    size: usize,
    index: u32,
    mut call: impl FnMut(&mut [u64]) -> io::Result<c_int>,
) -> io::Result<Vec<u8>> {
    let mut length = size;
    loop {
        // 64-bit units, because the kernel's structures are aligned so.
        let mut buffer = vec![0u64; length.div_ceil(8)];
        let asked = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        if let Some(first) = buffer.first_mut() {
            *first = u64::from(asked);
        }
        if let Some(second) = buffer.get_mut(1) {
            *second = u64::from(index);
        }
        call(&mut buffer)?;
        let bytes: Vec<u8> = buffer
            .iter()
            .flat_map(|unit| unit.to_ne_bytes())
            .take(length)
            .collect();
        let wanted = u32_at(&bytes, 0).unwrap_or(0) as usize;
        if wanted <= length {
            return Ok(bytes);
        }
        if wanted > MAX_ANSWER_BYTES {
            return Err(io::Error::other(format!(
                "the kernel's answer of {wanted} bytes is too long"
            )));
        }
        length = wanted;
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// The capabilities of an answer: id and offset of each.
fn capability_chain(bytes: &[u8], first: u32) -> Vec<(u32, usize)> {
    let mut found = Vec::new();
    let mut at = first as usize;
    // A chain longer than the buffer has room for has a loop in it.
    while at != 0 && found.len() <= bytes.len() / 8 {
        let (Some(id), Some(next)) = (u32_at(bytes, at), u32_at(bytes, at.saturating_add(4)))
        else {
            break;
        };
        found.push((id & 0xffff, at));
        at = next as usize;
    }
    found
}

fn parse_region(bytes: &[u8]) -> RegionInfo {
    let word = |offset: usize| u32_at(bytes, offset).unwrap_or(0);
    let mut region = RegionInfo {
        flags: word(4),
        size: u64_at(bytes, 16).unwrap_or(0),
        file_offset: u64_at(bytes, 24).unwrap_or(0),
        sparse: None,
        msix_mappable: false,
    };
    if region.flags & sys::VFIO_REGION_INFO_FLAG_CAPS == 0 {
        return region;
    }
    for (id, at) in capability_chain(bytes, word(12)) {
        match id {
            sys::VFIO_REGION_INFO_CAP_SPARSE_MMAP => {
                let count = u32_at(bytes, at + 8).unwrap_or(0) as usize;
                let areas = (0..count).map_while(|i| {
                    let entry = at.checked_add(16)?.checked_add(i.checked_mul(16)?)?;
                    Some((u64_at(bytes, entry)?, u64_at(bytes, entry + 8)?))
                });
                region.sparse = Some(areas.collect());
            }
            sys::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE => region.msix_mappable = true,
            _ => {}
        }
    }
    region
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as the kernel lays it out: header, then capabilities.
    fn region_answer(caps: &[&[u32]]) -> Vec<u8> {
        let mut words: Vec<u32> = vec![0, 0xf, 0, 0, 0x8000, 0, 0x10, 0x100];
        if !caps.is_empty() {
            words[3] = 32;
        }
        for (index, cap) in caps.iter().enumerate() {
            let next = (words.len() + cap.len()) as u32 * 4;
            words.push(cap[0]);
            words.push(if index + 1 < caps.len() { next } else { 0 });
            words.extend(&cap[2..]);
        }
        words[0] = words.len() as u32 * 4;
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn a_region_and_its_capabilities_are_read() {
        let sparse = [1, 0, 2, 0, 0x1000, 0, 0x2000, 0, 0x6000, 0, 0x1000, 0];
        let region = parse_region(&region_answer(&[&[3, 0], &sparse]));
        assert_eq!(region.size, 0x8000);
        assert_eq!(region.file_offset, 0x100_0000_0010);
        assert!(region.can_map() && region.can_write() && region.msix_mappable);
        assert_eq!(
            region.sparse,
            Some(vec![(0x1000, 0x2000), (0x6000, 0x1000)])
        );
    }

    #[test]
    fn a_chain_that_loops_or_leaves_the_buffer_ends() {
        let mut bytes = region_answer(&[&[3, 0]]);
        bytes[36..40].copy_from_slice(&32u32.to_ne_bytes());
        assert!(parse_region(&bytes).msix_mappable);
        bytes[36..40].copy_from_slice(&0xffff_fff0u32.to_ne_bytes());
        assert!(parse_region(&bytes).msix_mappable);
        // A count that promises more areas than the buffer holds.
        let region = parse_region(&region_answer(&[&[
            1,
            0,
            u32::MAX,
            0,
            0x1000,
            0,
            0x2000,
            0,
        ]]));
        assert_eq!(region.sparse, Some(vec![(0x1000, 0x2000)]));
    }

    #[test]
    fn an_answer_is_asked_for_again_at_its_full_length() {
        let mut lengths = Vec::new();
        let bytes = answer(32, 5, |buffer| {
            lengths.push(buffer[0]);
            assert_eq!(buffer[1], 5);
            buffer[0] = 64;
            Ok(0)
        });
        assert_eq!((lengths, bytes.unwrap().len()), (vec![32, 64], 64));
        assert!(
            answer(32, 0, |buffer| {
                buffer[0] = u64::from(u32::MAX);
                Ok(0)
            })
            .is_err()
        );
    }

    #[test]
    fn no_access_leaves_its_region() {
        let region = RegionInfo {
            size: 0x100,
            file_offset: 0x1000,
            ..RegionInfo::default()
        };
        assert_eq!(place(&region, 0xfc, 4).unwrap(), 0x10fc);
        assert!(place(&region, 0xfd, 4).is_err());
        assert!(place(&region, u64::MAX, 4).is_err());
    }
}
