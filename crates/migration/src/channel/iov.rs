//! Scatter and gather straight from and to guest memory.
//!
//! std's `IoSlice` holds Rust references, which guest memory must never be seen through: vCPUs change it at any time.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use memory::HostSpan;

/// At most this many pieces go to the kernel at once (`IOV_MAX` on Linux).
const MAX_PIECES: usize = 1024;

/// One piece of memory to write from.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Piece<'a> {
    raw: libc::iovec,
    from: PhantomData<&'a ()>,
}

impl<'a> Piece<'a> {
    pub(crate) fn bytes(bytes: &'a [u8]) -> Self {
        Self::new(bytes.as_ptr().cast_mut(), bytes.len())
    }

    pub(crate) fn guest(span: HostSpan<'a>) -> Self {
        Self::new(span.as_ptr(), span.len_bytes())
    }

    fn new(start: *mut u8, len: usize) -> Self {
        Self {
            raw: libc::iovec {
                iov_base: start.cast(),
                iov_len: len,
            },
            from: PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.raw.iov_len
    }
}

/// Drops the first `bytes` bytes of `pieces`, which the kernel has taken.
pub(crate) fn advance<'a, 'b>(
    mut pieces: &'b mut [Piece<'a>],
    mut bytes: usize,
) -> &'b mut [Piece<'a>] {
    while let Some(first) = pieces.first_mut() {
        let len = first.len();
        if bytes < len {
            *first = Piece::new(
                first.raw.iov_base.cast::<u8>().wrapping_add(bytes),
                len - bytes,
            );
            return pieces;
        }
        bytes -= len;
        pieces = pieces.split_first_mut().map_or(&mut [], |(_, rest)| rest);
    }
    pieces
}

fn done(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `writev`, or `sendmsg` without SIGPIPE for a socket.
#[allow(unsafe_code)]
pub(crate) fn write(fd: BorrowedFd<'_>, socket: bool, pieces: &[Piece<'_>]) -> io::Result<usize> {
    let count = pieces.len().min(MAX_PIECES);
    let start = pieces.as_ptr().cast::<libc::iovec>().cast_mut();
    if socket {
        // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = start;
        message.msg_iovlen = count;
        // SAFETY: `message` names `count` iovecs (Piece is transparent over iovec), each of memory that outlives the call by
        // its lifetime parameter: bytes borrowed for it, or a span of a live mapping. The kernel only reads them.
        return done(unsafe {
            libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
        });
    }
    let count = libc::c_int::try_from(count).unwrap_or(0);
    // SAFETY: as above.
    done(unsafe { libc::writev(fd.as_raw_fd(), start, count) })
}

/// Reads at most the length of `span` into it; `skip` bytes of it are filled already.
#[allow(unsafe_code)]
pub(crate) fn read_guest(fd: BorrowedFd<'_>, span: HostSpan<'_>, skip: usize) -> io::Result<usize> {
    let Some(left) = span.len_bytes().checked_sub(skip) else {
        return Ok(0);
    };
    // SAFETY: `skip` and `left` stay within the span, which is a live writable mapping; no Rust reference to it exists.
    done(unsafe { libc::read(fd.as_raw_fd(), span.as_ptr().add(skip).cast(), left) })
}
