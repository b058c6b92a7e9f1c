//! A function as VFIO describes it: regions, interrupts, and the calls on it.
//!
//! [`Hardware`] is what the rest of the crate asks of the kernel; `kernel.rs` answers with a VFIO device file, the
//! unit tests with a function made of arrays.

use crate::window::HostWindow;
use std::io;
use std::os::fd::BorrowedFd;
use vfio_bindings::bindings::vfio as sys;

/// One of a function's regions: a BAR, the expansion ROM or configuration space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RegionInfo {
    /// `VFIO_REGION_INFO_FLAG_*`.
    pub(crate) flags: u32,
    /// Size in bytes; 0 where it is not implemented.
    pub(crate) size: u64,
    /// Where it begins in the device file.
    pub(crate) file_offset: u64,
    /// The ranges that can be mapped, where not the whole can: offset and size in bytes.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
    /// The pages of the MSI-X table may be mapped as well.
    pub(crate) msix_mappable: bool,
}

impl RegionInfo {
    /// The kernel lets it be mapped, wholly or in parts.
    pub(crate) fn can_map(&self) -> bool {
        self.flags & sys::VFIO_REGION_INFO_FLAG_MMAP != 0
    }

    /// The kernel lets it be written.
    pub(crate) fn can_write(&self) -> bool {
        self.flags & sys::VFIO_REGION_INFO_FLAG_WRITE != 0
    }
}

/// One of a function's interrupt kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct IrqInfo {
    /// `VFIO_IRQ_INFO_*`.
    pub(crate) flags: u32,
    /// How many of its kind there are; 0 where there is none.
    pub(crate) count: u32,
}

/// Which kind of interrupt a call concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(crate) enum IrqKind {
    /// The pin.
    Intx = sys::VFIO_PCI_INTX_IRQ_INDEX,
    /// Message-signalled interrupts of the MSI capability.
    Msi = sys::VFIO_PCI_MSI_IRQ_INDEX,
    /// Those of the MSI-X capability.
    Msix = sys::VFIO_PCI_MSIX_IRQ_INDEX,
    /// The function reported an uncorrectable error.
    Error = sys::VFIO_PCI_ERR_IRQ_INDEX,
    /// The host asks for the function back.
    Request = sys::VFIO_PCI_REQ_IRQ_INDEX,
}

/// The calls on a function. Accesses are to byte offsets within a region.
pub(crate) trait Hardware: Send + Sync {
    /// Describes region `index`.
    fn region(&self, index: u32) -> io::Result<RegionInfo>;

    /// Describes the interrupts of a kind; a kind the kernel does not know has count 0.
    fn irq(&self, kind: IrqKind) -> io::Result<IrqInfo>;

    /// `VFIO_DEVICE_RESET` works on it.
    fn can_reset(&self) -> bool;

    /// Reads from a region; a short read is an error.
    fn read(&self, region: &RegionInfo, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes to a region; a short write is an error.
    fn write(&self, region: &RegionInfo, offset: u64, data: &[u8]) -> io::Result<()>;

    /// From now on interrupt `i` of the kind signals the `i`th eventfd. No eventfds switch the kind off.
    ///
    /// Answers with the number of interrupts the host could give, where that is fewer: then none is switched on.
    fn set_triggers(&self, kind: IrqKind, fds: &[BorrowedFd<'_>]) -> io::Result<Option<usize>>;

    /// From now on a signal of the eventfd unmasks the pin's interrupt.
    fn set_unmask(&self, fd: Option<BorrowedFd<'_>>) -> io::Result<()>;

    /// Unmasks the pin's interrupt.
    fn unmask(&self) -> io::Result<()>;

    /// Resets the function.
    fn reset(&self) -> io::Result<()>;

    /// Maps a part of a region.
    fn map(&self, region: &RegionInfo, offset: u64, size: u64) -> io::Result<HostWindow>;
}
