//! Block requests (virtio 1.2, section 5.2.6), one at a time, with the system calls that carry them out.

use crate::chain::{Buffers, RingError};
use crate::io_buffer::{
    IO_BUFFERS_MAX, IoBuffer, gather, preadv, pwritev, scatter, skip, total_len,
};
use crate::single::{Requests, Served};
use memory::GuestRam;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The unit of all positions.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Sectors in one segment of a discard or write-zeroes request: 1 GiB.
pub(super) const DISCARD_SECTORS_MAX: u32 = 1 << 21;
/// Segments in such a request.
pub(super) const SEGMENTS_MAX: u32 = 16;

const HEADER_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 16;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const STATUS_OK: u8 = 0;
const STATUS_IO_ERROR: u8 = 1;
const STATUS_UNSUPPORTED: u8 = 2;

/// A raw image.
pub(super) struct Disk {
    pub(super) label: String,
    pub(super) file: File,
    pub(super) sectors: u64,
    pub(super) read_only: bool,
    pub(super) discard: bool,
    pub(super) serial: [u8; 20],
}

enum Refusal {
    Unsupported,
    /// Outside of the disk, not whole sectors, or a write to a read-only disk: the driver's fault.
    Impossible,
    Host(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Host(error.into())
    }
}

impl Requests for Disk {
    fn serve<'m>(&self, ram: &'m GuestRam, buffers: &mut Buffers<'m>) -> Result<Served, RingError> {
        let mut header = [0; HEADER_BYTES];
        if gather(&buffers.readable, 0, &mut header) < HEADER_BYTES {
            return Err(RingError::Request("a block request without a header"));
        }
        skip(&mut buffers.readable, HEADER_BYTES);
        let room = total_len(&buffers.writable);
        let Some(data_room) = room.checked_sub(1) else {
            return Err(RingError::Request(
                "a block request without room for its status",
            ));
        };
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        let sector = u64::from_le_bytes(sector);
        let outcome = self.carry_out(kind, sector, buffers, data_room);
        let (status, written) = match outcome {
            Ok(written) => (STATUS_OK, written),
            Err(Refusal::Unsupported) => (STATUS_UNSUPPORTED, 0),
            Err(Refusal::Impossible) => {
                tracing::debug!(device = %self.label, kind, sector, "block request that cannot be carried out");
                (STATUS_IO_ERROR, 0)
            }
            Err(Refusal::Host(error)) => {
                tracing::warn!(device = %self.label, kind, sector, %error, "block request failed on the host");
                (STATUS_IO_ERROR, 0)
            }
        };
        buffers.mark_written(ram, written);
        // The status is the last byte, wherever the data ends.
        buffers.write(ram, data_room, &[status]);
        Ok(Served::Done(u32::try_from(written + 1).unwrap_or(u32::MAX)))
    }
}

impl Disk {
    /// Returns how many bytes of the driver's buffers were written, beside the status.
    fn carry_out(
        &self,
        kind: u32,
        sector: u64,
        buffers: &Buffers<'_>,
        data_room: usize,
    ) -> Result<usize, Refusal> {
        match kind {
            READ => {
                let offset = self.place(sector, data_room)?;
                let mut target = buffers.writable.clone();
                cut(&mut target, data_room);
                self.transfer(target, offset, preadv)?;
                Ok(data_room)
            }
            WRITE => {
                self.check_writable()?;
                let source = buffers.readable.clone();
                let offset = self.place(sector, total_len(&source))?;
                self.transfer(source, offset, pwritev)?;
                Ok(0)
            }
            FLUSH => {
                if !self.read_only {
                    self.file.sync_data()?;
                }
                Ok(0)
            }
            GET_ID => {
                let mut target = buffers.writable.clone();
                cut(&mut target, data_room);
                Ok(scatter(&target, 0, &self.serial))
            }
            DISCARD if self.discard => self.each_segment(buffers, |offset, bytes, _| {
                Ok(fallocate(
                    &self.file,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    offset,
                    bytes,
                )?)
            }),
            WRITE_ZEROES => {
                self.check_writable()?;
                self.each_segment(buffers, |offset, bytes, unmap| {
                    self.zero(offset, bytes, unmap)
                })
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        if self.read_only {
            return Err(Refusal::Impossible);
        }
        Ok(())
    }

    /// The offset in bytes of `bytes` bytes from `sector` on, if all of them are on the disk.
    fn place(&self, sector: u64, bytes: usize) -> Result<u64, Refusal> {
        let bytes = bytes as u64;
        if !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(Refusal::Impossible);
        }
        let end = sector
            .checked_add(bytes / SECTOR_BYTES)
            .ok_or(Refusal::Impossible)?;
        if end > self.sectors {
            return Err(Refusal::Impossible);
        }
        Ok(sector * SECTOR_BYTES)
    }

    fn transfer(
        &self,
        mut spans: Vec<IoBuffer<'_>>,
        mut offset: u64,
        call: fn(BorrowedFd<'_>, &[IoBuffer<'_>], u64) -> io::Result<usize>,
    ) -> Result<(), Refusal> {
        let mut left = spans.as_mut_slice();
        loop {
            let empty = left.iter().take_while(|span| span.is_empty()).count();
            left = left.get_mut(empty..).unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
            let now = left.get(..left.len().min(IO_BUFFERS_MAX)).unwrap_or(&[]);
            let done = match call(self.file.as_fd(), now, offset) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(done) => done,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) => return Err(e.into()),
            };
            skip(left, done);
            offset += done as u64;
        }
    }

    fn each_segment(
        &self,
        buffers: &Buffers<'_>,
        mut act: impl FnMut(u64, u64, bool) -> Result<(), Refusal>,
    ) -> Result<usize, Refusal> {
        let length = total_len(&buffers.readable);
        if length == 0
            || !length.is_multiple_of(SEGMENT_BYTES)
            || length > SEGMENT_BYTES * SEGMENTS_MAX as usize
        {
            return Err(Refusal::Impossible);
        }
        for at in (0..length).step_by(SEGMENT_BYTES) {
            let mut segment = [0; SEGMENT_BYTES];
            gather(&buffers.readable, at, &mut segment);
            let [s @ .., c0, c1, c2, c3, f0, f1, f2, f3] = segment;
            let count = u32::from_le_bytes([c0, c1, c2, c3]);
            let flags = u32::from_le_bytes([f0, f1, f2, f3]);
            if count == 0 || count > DISCARD_SECTORS_MAX {
                return Err(Refusal::Impossible);
            }
            if flags > 1 {
                return Err(Refusal::Unsupported);
            }
            let bytes = u64::from(count) * SECTOR_BYTES;
            let length = usize::try_from(bytes).map_err(|_| Refusal::Impossible)?;
            act(
                self.place(u64::from_le_bytes(s), length)?,
                bytes,
                flags == 1,
            )?;
        }
        Ok(0)
    }

    fn zero(&self, offset: u64, bytes: u64, unmap: bool) -> Result<(), Refusal> {
        let way = if unmap && self.discard {
            FallocateFlags::PUNCH_HOLE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        match fallocate(&self.file, way | FallocateFlags::KEEP_SIZE, offset, bytes) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let mut zeroes = vec![0; 64 * 1024];
        let mut at = offset;
        let end = offset + bytes;
        while at < end {
            let count = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(zeroes.len());
            let mut span = IoBuffer::of_bytes(&mut zeroes);
            span.truncate(count);
            self.transfer(vec![span], at, pwritev)?;
            at += count as u64;
        }
        Ok(())
    }
}

/// Keeps the first `bytes` bytes of `spans`.
fn cut(spans: &mut Vec<IoBuffer<'_>>, mut bytes: usize) {
    for span in spans.iter_mut() {
        span.truncate(bytes);
        bytes -= span.len();
    }
    spans.retain(|span| !span.is_empty());
}
