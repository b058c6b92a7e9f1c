//! A split virtqueue, the driver's side (virtio 1.2, 2.7).

use crate::bus::{BusError, BusWords, GuestBus};
use crate::error::GuestError;
use crate::ram::{Block, GuestRam};
use std::collections::BTreeMap;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A piece of memory that a descriptor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub bytes: u32,
    /// Whether the device writes it.
    pub device_writes: bool,
}

impl Segment {
    /// For the device to read.
    pub const fn readable(address: u64, bytes: u32) -> Self {
        Self {
            address,
            bytes,
            device_writes: false,
        }
    }

    /// For the device to write.
    pub const fn writable(address: u64, bytes: u32) -> Self {
        Self {
            address,
            bytes,
            device_writes: true,
        }
    }
}

/// A chain that the device has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What [`SplitRing::add`] was given.
    pub token: u64,
    /// Bytes that the device says it wrote.
    pub written: u32,
}

/// One queue: descriptors and both rings in one piece of RAM.
#[derive(Debug, Clone)]
pub struct SplitRing {
    queue: u16,
    size: u16,
    block: Block,
    doorbell: u64,
    /// Entries made available so far.
    offered: u16,
    /// Used entries taken so far.
    taken: u16,
    free: Vec<u16>,
    /// Token and descriptors of each chain, by its head.
    in_flight: BTreeMap<u16, (u64, Vec<u16>)>,
}

impl SplitRing {
    /// Memory for a queue of `size` entries, a power of two.
    ///
    /// # Errors
    /// No RAM is left; the bus.
    pub fn new(
        bus: &mut dyn GuestBus,
        ram: &mut GuestRam,
        queue: u16,
        size: u16,
    ) -> Result<Self, GuestError> {
        let block = ram.take(bus, Self::layout(0, size)[2] + 6 + 8 * u64::from(size))?;
        Ok(Self {
            queue,
            size,
            block,
            doorbell: 0,
            offered: 0,
            taken: 0,
            free: (0..size).rev().collect(),
            in_flight: BTreeMap::new(),
        })
    }

    fn layout(base: u64, size: u16) -> [u64; 3] {
        let size = u64::from(size);
        let available = base + 16 * size;
        let used = (available + 6 + 2 * size).next_multiple_of(4096);
        [base, available, used]
    }

    /// Addresses of descriptors, available ring and used ring.
    pub fn rings(&self) -> [u64; 3] {
        Self::layout(self.block.address, self.size)
    }

    /// Number of the queue.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Descriptors that are not in use.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Chains the device has not used yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sets the address to notify at, from [`VirtioPci::enable_queue`](super::VirtioPci::enable_queue).
    pub fn set_doorbell(&mut self, address: u64) {
        self.doorbell = address;
    }

    /// Makes a chain available. `token` comes back with its completion. `false` when there are too few descriptors.
    ///
    /// # Errors
    /// The bus.
    pub fn add(
        &mut self,
        bus: &mut dyn GuestBus,
        segments: &[Segment],
        token: u64,
    ) -> Result<bool, BusError> {
        if segments.is_empty() || segments.len() > self.free.len() {
            return Ok(false);
        }
        let [descriptors, available, _] = self.rings();
        let chosen = self.free.split_off(self.free.len() - segments.len());
        for (at, segment) in segments.iter().enumerate() {
            let next = chosen.get(at + 1);
            let mut flags = if segment.device_writes { WRITE } else { 0 };
            flags |= if next.is_some() { NEXT } else { 0 };
            let mut raw = [0; 16];
            raw[..8].copy_from_slice(&segment.address.to_le_bytes());
            raw[8..12].copy_from_slice(&segment.bytes.to_le_bytes());
            raw[12..14].copy_from_slice(&flags.to_le_bytes());
            raw[14..].copy_from_slice(&next.copied().unwrap_or(0).to_le_bytes());
            bus.memory_write(descriptors + 16 * u64::from(chosen[at]), &raw)?;
        }
        let head = chosen[0];
        let slot = u64::from(self.offered % self.size);
        bus.write16(available + 4 + 2 * slot, head)?;
        self.offered = self.offered.wrapping_add(1);
        bus.write16(available + 2, self.offered)?;
        self.in_flight.insert(head, (token, chosen));
        Ok(true)
    }

    /// Tells the device that there is something in the queue.
    ///
    /// # Errors
    /// The bus.
    pub fn kick(&self, bus: &mut dyn GuestBus) -> Result<(), BusError> {
        bus.write16(self.doorbell, self.queue)
    }

    /// The next chain that the device has used.
    ///
    /// # Errors
    /// The device used what was never made available; the bus.
    pub fn take_used(&mut self, bus: &mut dyn GuestBus) -> Result<Option<Completion>, GuestError> {
        let [_, _, used] = self.rings();
        let index = bus.read16(used + 2)?;
        if index == self.taken {
            return Ok(None);
        }
        let slot = u64::from(self.taken % self.size);
        let entry = bus.read64(used + 4 + 8 * slot)?;
        let (head, written) = (entry as u32, (entry >> 32) as u32);
        let known = u16::try_from(head)
            .ok()
            .and_then(|head| self.in_flight.remove(&head));
        let Some((token, descriptors)) = known else {
            let what = format!(
                "queue {} used chain {head}, which nobody offered",
                self.queue
            );
            return Err(GuestError::Broken(what));
        };
        self.taken = self.taken.wrapping_add(1);
        self.free.extend(descriptors);
        Ok(Some(Completion { token, written }))
    }

    /// Gives the memory back; the device must have been reset.
    pub fn free(self, ram: &mut GuestRam) {
        ram.give_back(self.block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryBus;

    const SIZE: u16 = 4;

    fn ring() -> (MemoryBus, SplitRing) {
        let mut bus = MemoryBus::new(1 << 16);
        let mut ram = GuestRam::new(0x1000, 0x8000);
        let ring = SplitRing::new(&mut bus, &mut ram, 3, SIZE).unwrap();
        (bus, ring)
    }

    /// Uses the chain with this head, as a device does.
    fn use_chain(bus: &mut MemoryBus, ring: &SplitRing, head: u32, written: u32) {
        let [_, _, used] = ring.rings();
        let index = bus.word(used + 2);
        let entry = used + 4 + 8 * u64::from(index % SIZE);
        bus.put(entry, &head.to_le_bytes());
        bus.put(entry + 4, &written.to_le_bytes());
        bus.put(used + 2, &index.wrapping_add(1).to_le_bytes());
    }

    #[test]
    fn a_chain_is_laid_out_and_comes_back_with_its_token() {
        let (mut bus, mut ring) = ring();
        let segments = [
            Segment::readable(0xa000, 16),
            Segment::writable(0xb000, 2048),
        ];
        assert!(ring.add(&mut bus, &segments, 77).unwrap());
        let [descriptors, available, _] = ring.rings();
        assert_eq!(bus.word(available + 2), 1);
        let first = descriptors + 16 * u64::from(bus.word(available + 4));
        assert_eq!(bus.read64(first).unwrap(), 0xa000);
        assert_eq!(bus.read32(first + 8).unwrap(), 16);
        assert_eq!(bus.word(first + 12), NEXT);
        let second = descriptors + 16 * u64::from(bus.word(first + 14));
        assert_eq!(bus.read64(second).unwrap(), 0xb000);
        assert_eq!(bus.word(second + 12), WRITE);

        assert_eq!((ring.room(), ring.in_flight()), (2, 1));
        assert_eq!(ring.take_used(&mut bus).unwrap(), None);
        let head = bus.word(available + 4).into();
        use_chain(&mut bus, &ring, head, 60);
        let done = Completion {
            token: 77,
            written: 60,
        };
        assert_eq!(ring.take_used(&mut bus).unwrap(), Some(done));
        assert_eq!((ring.room(), ring.in_flight()), (4, 0));
    }

    #[test]
    fn a_full_ring_takes_no_more_and_its_indices_go_round() {
        let (mut bus, mut ring) = ring();
        let one = [Segment::readable(0xa000, 1)];
        let [_, available, _] = ring.rings();
        let rounds = u64::from(u16::MAX) + 10;
        for token in 0..rounds {
            assert!(ring.add(&mut bus, &one, token).unwrap());
            let slot = (token % u64::from(SIZE)) * 2;
            let head = bus.word(available + 4 + slot).into();
            use_chain(&mut bus, &ring, head, 0);
            let done = ring.take_used(&mut bus).unwrap();
            assert_eq!(done.map(|done| done.token), Some(token));
        }
        assert_eq!(u64::from(bus.word(available + 2)), rounds % 0x1_0000);
        let too_long = [one[0]; SIZE as usize + 1];
        assert!(!ring.add(&mut bus, &too_long, 0).unwrap());
        (0..SIZE).for_each(|_| assert!(ring.add(&mut bus, &one, 0).unwrap()));
        assert!(!ring.add(&mut bus, &one, 0).unwrap());
    }

    #[test]
    fn a_device_that_uses_what_nobody_offered_is_found_out() {
        for head in [1, 0x1_0000, u32::MAX] {
            let (mut bus, mut ring) = ring();
            ring.add(&mut bus, &[Segment::writable(0xa000, 8)], 0)
                .unwrap();
            use_chain(&mut bus, &ring, head, 0);
            let error = ring.take_used(&mut bus).unwrap_err();
            assert!(matches!(error, GuestError::Broken(_)), "{error}");
        }
    }
}
