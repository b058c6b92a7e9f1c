//! Spans of guest RAM (or of memory of our own) that one system call reads or fills.
//!
//! A guest may write its memory at any time, so no Rust slice may be made of it. An [`IoBuffer`] is what a host
//! backend gets instead: it can be handed to the kernel, copied from and copied to, and never borrowed as bytes.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What one system call takes at most (`IOV_MAX`).
pub const IO_BUFFERS_MAX: usize = 1024;

/// A span of memory that stays mapped for `'m` and that others may change at any time.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct IoBuffer<'m> {
    span: libc::iovec,
    owner: PhantomData<&'m [u8]>,
}

impl<'m> IoBuffer<'m> {
    /// A span of guest RAM.
    #[allow(unsafe_code)]
    pub(crate) fn of_slice<B: vm_memory::bitmap::BitmapSlice>(
        slice: &vm_memory::VolatileSlice<'m, B>,
    ) -> Self {
        Self {
            span: libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            },
            owner: PhantomData,
        }
    }

    /// A span of our own memory, exclusively borrowed for as long as the buffer lives.
    pub fn of_bytes(bytes: &'m mut [u8]) -> Self {
        Self {
            span: libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            },
            owner: PhantomData,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.span.iov_len
    }

    /// Whether it is of no length.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the first `count` bytes, or all there are.
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len());
        self.span.iov_base = self.span.iov_base.cast::<u8>().wrapping_add(count).cast();
        self.span.iov_len -= count;
    }

    /// Keeps the first `count` bytes, or all there are.
    pub fn truncate(&mut self, count: usize) {
        self.span.iov_len = self.span.iov_len.min(count);
    }

    /// Copies to `to` as many bytes as both have; returns how many.
    #[allow(unsafe_code)]
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let count = self.len().min(to.len());
        // SAFETY: the constructors guarantee `len()` readable bytes for 'm; `to` is ours alone. Guest RAM may change
        // meanwhile: the bytes are then whichever the copy met, which is all a device may expect.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.span.iov_base.cast::<u8>().cast_const(),
                to.as_mut_ptr(),
                count,
            );
        }
        count
    }

    /// Copies from `from` as many bytes as both have; returns how many.
    #[allow(unsafe_code)]
    pub fn copy_from(&self, from: &[u8]) -> usize {
        let count = self.len().min(from.len());
        // SAFETY: the constructors guarantee `len()` writable bytes for 'm, of which nobody holds a Rust reference.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.span.iov_base.cast::<u8>(), count);
        }
        count
    }
}

impl std::fmt::Debug for IoBuffer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuffer({} bytes)", self.len())
    }
}

/// The number of bytes in all of `buffers`.
#[must_use]
pub fn total_len(buffers: &[IoBuffer<'_>]) -> usize {
    buffers
        .iter()
        .fold(0, |sum, buffer| sum.saturating_add(buffer.len()))
}

/// Copies bytes from offset `skip` of `buffers` on into `to`; returns how many there were.
pub fn gather(buffers: &[IoBuffer<'_>], mut skip: usize, to: &mut [u8]) -> usize {
    let mut done = 0;
    for buffer in buffers {
        if skip >= buffer.len() {
            skip -= buffer.len();
            continue;
        }
        let mut rest = *buffer;
        rest.advance(skip);
        skip = 0;
        let Some(room) = to.get_mut(done..).filter(|room| !room.is_empty()) else {
            break;
        };
        done += rest.copy_to(room);
    }
    done
}

/// Copies `from` into `buffers` from offset `skip` on; returns how many bytes found room.
pub fn scatter(buffers: &[IoBuffer<'_>], mut skip: usize, from: &[u8]) -> usize {
    let mut done = 0;
    for buffer in buffers {
        if skip >= buffer.len() {
            skip -= buffer.len();
            continue;
        }
        let mut rest = *buffer;
        rest.advance(skip);
        skip = 0;
        let Some(left) = from.get(done..).filter(|left| !left.is_empty()) else {
            break;
        };
        done += rest.copy_from(left);
    }
    done
}

/// Drops the first `count` bytes of `buffers`; spans of no length may remain.
pub fn skip(buffers: &mut [IoBuffer<'_>], mut count: usize) {
    for buffer in buffers {
        if count == 0 {
            break;
        }
        let here = count.min(buffer.len());
        buffer.advance(here);
        count -= here;
    }
}

fn spans(buffers: &[IoBuffer<'_>]) -> (*const libc::iovec, libc::c_int) {
    let count = buffers.len().min(IO_BUFFERS_MAX);
    (
        buffers.as_ptr().cast(),
        libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX),
    )
}

fn outcome(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `readv(2)`: fills `into` from `fd`. Buffers beyond [`IO_BUFFERS_MAX`] are left out.
///
/// # Errors
/// Those of the system call, `WouldBlock` among them.
#[allow(unsafe_code)]
pub fn readv(fd: BorrowedFd<'_>, into: &[IoBuffer<'_>]) -> io::Result<usize> {
    let (spans, count) = spans(into);
    // SAFETY: `IoBuffer` is transparent over iovec, and each names memory that is mapped and writable.
    outcome(unsafe { libc::readv(fd.as_raw_fd(), spans, count) })
}

/// `writev(2)`: writes `from` to `fd`. Buffers beyond [`IO_BUFFERS_MAX`] are left out.
///
/// # Errors
/// Those of the system call, `WouldBlock` among them.
#[allow(unsafe_code)]
pub fn writev(fd: BorrowedFd<'_>, from: &[IoBuffer<'_>]) -> io::Result<usize> {
    let (spans, count) = spans(from);
    // SAFETY: `IoBuffer` is transparent over iovec, and each names memory that is mapped and readable.
    outcome(unsafe { libc::writev(fd.as_raw_fd(), spans, count) })
}

/// `preadv(2)` at `offset_bytes`; see [`readv`].
///
/// # Errors
/// Those of the system call.
#[allow(unsafe_code)]
pub fn preadv(fd: BorrowedFd<'_>, into: &[IoBuffer<'_>], offset_bytes: u64) -> io::Result<usize> {
    let (spans, count) = spans(into);
    let offset = file_offset(offset_bytes)?;
    // SAFETY: as in `readv`.
    outcome(unsafe { libc::preadv(fd.as_raw_fd(), spans, count, offset) })
}

/// `pwritev(2)` at `offset_bytes`; see [`writev`].
///
/// # Errors
/// Those of the system call.
#[allow(unsafe_code)]
pub fn pwritev(fd: BorrowedFd<'_>, from: &[IoBuffer<'_>], offset_bytes: u64) -> io::Result<usize> {
    let (spans, count) = spans(from);
    let offset = file_offset(offset_bytes)?;
    // SAFETY: as in `writev`.
    outcome(unsafe { libc::pwritev(fd.as_raw_fd(), spans, count, offset) })
}

fn file_offset(offset_bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset_bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gather_scatter_and_skip_cross_buffers() {
        let (mut a, mut b, mut c) = ([0u8; 3], [0u8; 1], [0u8; 4]);
        let mut buffers = [
            IoBuffer::of_bytes(&mut a),
            IoBuffer::of_bytes(&mut b),
            IoBuffer::of_bytes(&mut c),
        ];
        assert_eq!(scatter(&buffers, 2, &[1, 2, 3, 4]), 4);
        assert_eq!(scatter(&buffers, 7, &[9, 9]), 1);
        let mut out = [0xff; 10];
        assert_eq!(gather(&buffers, 1, &mut out), 7);
        assert_eq!(out, [0, 1, 2, 3, 4, 0, 9, 0xff, 0xff, 0xff]);
        skip(&mut buffers, 4);
        assert_eq!(total_len(&buffers), 4);
        assert_eq!(gather(&buffers, 0, &mut out), 4);
        assert_eq!(out[..4], [3, 4, 0, 9]);
        skip(&mut buffers, 100);
        assert_eq!(total_len(&buffers), 0);
    }
}
