//! Walking a chain of descriptors (virtio 1.2, section 2.7.5).
//!
//! The walk is our own rather than virtio-queue's iterator because that one ends without a word where a chain is
//! broken: a device could not tell a hostile driver's chain from a short one.

use crate::io_buffer::IoBuffer;
use memory::GuestRam;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

/// The longest chain taken. Linux builds indirect tables longer than the queue; other device models stop here as well.
pub const CHAIN_MAX: usize = 1024;

const DESCRIPTOR_BYTES: u32 = 16;

/// What a driver did wrong with a ring. The device is broken until it is reset (virtio 1.2, section 2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A ring or a table lies outside RAM.
    #[error("a ring or a descriptor table at {0:#x} is not in RAM")]
    Table(u64),
    /// The available index ran ahead of the ring.
    #[error("the available index is more than the queue's size ahead")]
    AvailIndex,
    /// A head or a next field beyond the table.
    #[error("descriptor {0} is beyond the table")]
    Index(u16),
    /// The chain does not end.
    #[error("a descriptor chain is looped or longer than {CHAIN_MAX}")]
    Looped,
    /// An indirect descriptor that may not be one, or whose table has no proper size.
    #[error("an indirect descriptor is not valid here")]
    Indirect,
    /// A buffer outside RAM.
    #[error("a buffer at {0:#x} is not in RAM")]
    Buffer(u64),
    /// A buffer of no length.
    #[error("a buffer of no length")]
    EmptyBuffer,
    /// A readable descriptor after a writable one.
    #[error("descriptors in a wrong order")]
    Order,
    /// More than 4 GiB in one chain.
    #[error("a descriptor chain of more than 4 GiB")]
    TooLong,
    /// The request makes no sense to the device type.
    #[error("{0}")]
    Request(&'static str),
}

/// Where a queue's descriptors are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    pub(crate) address: GuestAddress,
    pub(crate) size: u16,
    pub(crate) indirect: bool,
}

/// Calls `each` with every buffer of the chain that starts at `head`: its address, length and whether the device writes it.
fn walk(
    ram: &GuestRam,
    table: Table,
    head: u16,
    mut each: impl FnMut(GuestAddress, u32, bool) -> Result<(), RingError>,
) -> Result<(), RingError> {
    let mut at = table.address;
    let mut size = table.size;
    let mut indirect = false;
    let mut index = head;
    let mut left = CHAIN_MAX.min(usize::from(table.size));
    let mut total: u32 = 0;
    let mut seen_writable = false;
    loop {
        if index >= size {
            return Err(RingError::Index(index));
        }
        left = left.checked_sub(1).ok_or(RingError::Looped)?;
        let entry = at
            .checked_add(u64::from(index) * u64::from(DESCRIPTOR_BYTES))
            .ok_or(RingError::Table(at.raw_value()))?;
        let descriptor: Descriptor = ram
            .read_obj(entry)
            .map_err(|_| RingError::Table(entry.raw_value()))?;
        if descriptor.refers_to_indirect_table() {
            let len = descriptor.len();
            if indirect
                || !table.indirect
                || descriptor.has_next()
                || len == 0
                || !len.is_multiple_of(DESCRIPTOR_BYTES)
            {
                return Err(RingError::Indirect);
            }
            size = u16::try_from(len / DESCRIPTOR_BYTES).map_err(|_| RingError::Indirect)?;
            at = descriptor.addr();
            indirect = true;
            index = 0;
            left = CHAIN_MAX.min(usize::from(size));
            continue;
        }
        let writable = descriptor.is_write_only();
        if descriptor.len() == 0 {
            return Err(RingError::EmptyBuffer);
        }
        if seen_writable && !writable {
            return Err(RingError::Order);
        }
        seen_writable = writable;
        total = total
            .checked_add(descriptor.len())
            .ok_or(RingError::TooLong)?;
        each(descriptor.addr(), descriptor.len(), writable)?;
        if !descriptor.has_next() {
            return Ok(());
        }
        index = descriptor.next();
    }
}

/// The buffers of one or more chains, by direction. Made once and filled again and again.
#[derive(Debug, Default)]
pub(crate) struct Buffers<'m> {
    /// What the device reads.
    pub(crate) readable: Vec<IoBuffer<'m>>,
    /// What the device writes.
    pub(crate) writable: Vec<IoBuffer<'m>>,
    /// Where each of `writable` is in guest-physical memory.
    pub(crate) writable_at: Vec<GuestAddress>,
}

impl<'m> Buffers<'m> {
    pub(crate) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
        self.writable_at.clear();
    }

    /// Appends the chain that starts at `head`; returns the number of writable bytes in it.
    pub(crate) fn append(
        &mut self,
        ram: &'m GuestRam,
        table: Table,
        head: u16,
    ) -> Result<u32, RingError> {
        let mut writable_bytes = 0;
        walk(ram, table, head, |address, len, writable| {
            let mut at = address;
            for slice in ram.get_slices(address, len as usize) {
                let slice = slice.map_err(|_| RingError::Buffer(address.raw_value()))?;
                if writable {
                    self.writable.push(IoBuffer::of_slice(&slice));
                    self.writable_at.push(at);
                } else {
                    self.readable.push(IoBuffer::of_slice(&slice));
                }
                at = at.unchecked_add(slice.len() as u64);
            }
            if writable {
                writable_bytes += len;
            }
            Ok(())
        })?;
        Ok(writable_bytes)
    }

    /// Marks the first `count` written bytes of `writable` dirty.
    pub(crate) fn mark_written(&self, ram: &GuestRam, count: usize) {
        mark_written(ram, &self.writable, &self.writable_at, count);
    }

    /// Copies `bytes` into the writable part from offset `skip` on, and marks them.
    pub(crate) fn write(&self, ram: &GuestRam, skip: usize, bytes: &[u8]) -> usize {
        let done = crate::io_buffer::scatter(&self.writable, skip, bytes);
        self.mark_written(ram, skip.saturating_add(done));
        done
    }
}

/// Marks the first `count` bytes of `buffers`, which lie at the addresses `at`, as written: what the kernel or a copy
/// put there went past vm-memory's own accounting.
pub(crate) fn mark_written(
    ram: &GuestRam,
    buffers: &[IoBuffer<'_>],
    at: &[GuestAddress],
    mut count: usize,
) {
    use vm_memory::GuestMemoryRegion;
    use vm_memory::bitmap::Bitmap;
    for (buffer, address) in buffers.iter().zip(at) {
        if count == 0 {
            break;
        }
        let here = count.min(buffer.len());
        if let Some((region, offset)) = ram.to_region_addr(*address)
            && let Ok(offset) = usize::try_from(offset.raw_value())
        {
            region.bitmap().mark_dirty(offset, here);
        }
        count -= here;
    }
}
