//! What a function needs from the hypervisor below it.

use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// A message-signalled interrupt: where to write what (PCI Express Base 6.0, 6.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsiMessage {
    /// Address of the memory write.
    pub address: u64,
    /// Its data.
    pub data: u32,
}

/// One interrupt vector of a function. A write to its eventfd by anyone (a device thread, the kernel's VFIO)
/// delivers the programmed message.
pub trait MsiVector: Send + Sync {
    /// Sets the message, or masks the vector with `None`. A signal that arrives while it is masked stays in
    /// the eventfd's count and is delivered when a message is set again. Masking does not wait: a signal that
    /// comes with it may still be delivered.
    ///
    /// # Errors
    /// The hypervisor refused the route.
    fn program(&self, message: Option<MsiMessage>) -> io::Result<()>;

    /// The eventfd whose signal is an interrupt.
    fn trigger(&self) -> &EventFd;

    /// Delivers the interrupt, as a write to [`trigger`](Self::trigger) does.
    fn signal(&self) {
        // The count of an eventfd saturates at 2^64-2 signals that nobody consumed; one more says no more.
        let _ = self.trigger().write(1);
    }

    /// Whether a signal came while the vector was masked.
    fn pending(&self) -> bool;
}

/// An interrupt line of the chipset, level-triggered and shared.
pub trait IntxLine: Send + Sync {
    /// Raises or lowers this function's share of the line; the line is high while any share is.
    fn set(&self, asserted: bool);

    /// Lets the kernel drive the line: a signal of `trigger` raises it, and when the guest has acknowledged
    /// the interrupt the line is lowered and `resample` is signalled. `None` takes it back.
    ///
    /// # Errors
    /// The hypervisor has no such facility or refused it.
    fn drive_by(&self, fds: Option<(&EventFd, &EventFd)>) -> io::Result<()>;
}

/// How wide a write rings a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellWidth {
    /// Any width.
    Any,
    /// Two bytes with this value.
    Word(u16),
    /// Four bytes with this value.
    Dword(u32),
}

/// Host memory shown to the guest at a fixed place. Dropping it takes the mapping away.
pub trait BarMapping: Send + Sync {}

/// The hypervisor as a function sees it.
pub trait Platform: Send + Sync {
    /// `count` vectors, all masked.
    ///
    /// # Errors
    /// No routes or file descriptors are left.
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>>;

    /// From now on a guest's write of `width` at guest-physical `address` signals `fd` and does nothing else.
    ///
    /// # Errors
    /// The place is taken, or no doorbells are left; the function then sees the writes themselves.
    fn add_doorbell(&self, address: u64, width: DoorbellWidth, fd: &EventFd) -> io::Result<()>;

    /// Takes back what [`add_doorbell`](Self::add_doorbell) with the same arguments gave.
    ///
    /// # Errors
    /// There is none such.
    fn remove_doorbell(&self, address: u64, width: DoorbellWidth, fd: &EventFd) -> io::Result<()>;

    /// Shows `size` bytes of host memory at `host` to the guest at guest-physical `address`.
    /// All three are multiples of the page size.
    ///
    /// The caller keeps the host mapping alive until the returned value is dropped.
    ///
    /// # Errors
    /// No memory slots are left, or the range overlaps another.
    fn map_bar(&self, address: u64, host: *mut u8, size: u64) -> io::Result<Box<dyn BarMapping>>;

    /// The virtual machine's file descriptor, for kernel facilities that must know it (VFIO's KVM device), where
    /// there is one: registers (`true`) or forgets a VFIO group or device file.
    ///
    /// # Errors
    /// The kernel refused it.
    fn vfio_file(&self, fd: std::os::fd::BorrowedFd<'_>, register: bool) -> io::Result<()>;
}
