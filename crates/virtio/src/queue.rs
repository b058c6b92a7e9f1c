//! A split virtqueue (virtio 1.2, section 2.7) on the device's side.
//!
//! virtio-queue's `Queue` keeps the addresses and the available side. The used side is ours: a frame in several
//! merged buffers must appear in the used ring at once, so the index is published apart from the elements, and
//! whether to interrupt is decided per batch, by the flag as well as by the event index.

use crate::chain::{Buffers, RingError, Table};
use crate::net::KernelRing;
use memory::GuestRam;
use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

const RING_HEADER_BYTES: u64 = 4;
const USED_ELEMENT_BYTES: u64 = 8;
const AVAIL_ELEMENT_BYTES: u64 = 2;
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// What a driver programs of a queue (virtio 1.2, section 4.1.4.3), and how far the device got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueSetup {
    /// Number of entries.
    pub size: u16,
    /// Whether the driver enabled it.
    pub enabled: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// The next entry of the available ring to be taken.
    pub next_available: u16,
    /// The next entry of the used ring to be filled.
    pub next_used: u16,
}

/// A running queue. One thread uses it.
#[derive(Debug)]
pub struct Virtqueue {
    ring: Queue,
    indirect: bool,
    /// Elements written behind the published index.
    staged: u16,
    /// The published index at the time of the last decision on an interrupt.
    decided: Wrapping<u16>,
}

impl Virtqueue {
    /// A queue over `setup`, which came from the driver or a stream, by the rules of the negotiated features.
    ///
    /// # Errors
    /// The rings are misaligned, not in RAM, or of a size that is none.
    pub(crate) fn new(
        setup: &QueueSetup,
        max_size: u16,
        features: u64,
        ram: &GuestRam,
    ) -> Result<Self, RingError> {
        use crate::features::ring;
        let mut queue = Queue::new(max_size).map_err(|_| RingError::Table(0))?;
        queue
            .try_set_size(setup.size)
            .map_err(|_| RingError::Table(setup.descriptors))?;
        queue
            .try_set_desc_table_address(GuestAddress(setup.descriptors))
            .map_err(|_| RingError::Table(setup.descriptors))?;
        queue
            .try_set_avail_ring_address(GuestAddress(setup.available))
            .map_err(|_| RingError::Table(setup.available))?;
        queue
            .try_set_used_ring_address(GuestAddress(setup.used))
            .map_err(|_| RingError::Table(setup.used))?;
        queue.set_event_idx(features & ring::EVENT_IDX != 0);
        queue.set_next_avail(setup.next_available);
        queue.set_next_used(setup.next_used);
        queue.set_ready(true);
        if setup.available == 0 || !queue.is_valid(ram) {
            return Err(RingError::Table(setup.descriptors));
        }
        Ok(Self {
            ring: queue,
            indirect: features & ring::INDIRECT_DESC != 0,
            staged: 0,
            decided: Wrapping(setup.next_used),
        })
    }

    /// How far the device got: what a saved state needs. Chains popped and not used count as taken.
    pub(crate) fn progress(&self) -> (u16, u16) {
        (self.ring.next_avail(), self.ring.next_used())
    }

    /// The ring as the kernel gets it; `None` if a part of it is not in one piece in this process.
    pub(crate) fn for_kernel<'a>(
        &self,
        ram: &GuestRam,
        kick: &'a EventFd,
        call: &'a EventFd,
    ) -> Option<KernelRing<'a>> {
        let entries = usize::from(self.ring.size());
        // With the two event indices at the end of the rings. The kernel takes the addresses of their beginnings in this
        // process and checks no more than that it is one of this process.
        for (address, bytes) in [
            (self.ring.desc_table(), 16 * entries),
            (self.ring.avail_ring(), 6 + 2 * entries),
            (self.ring.used_ring(), 6 + 8 * entries),
        ] {
            ram.get_slice(GuestAddress(address), bytes).ok()?;
        }
        Some(KernelRing {
            size: self.ring.size(),
            descriptors: self.ring.desc_table(),
            available: self.ring.avail_ring(),
            used: self.ring.used_ring(),
            next_available: self.ring.next_avail(),
            kick,
            call,
        })
    }

    /// Another served the queue meanwhile, up to `next_available`, and left no chain half done. `None`: where it
    /// got is what the used ring says.
    pub(crate) fn reached(&mut self, ram: &GuestRam, next_available: Option<u16>) {
        let used = GuestAddress(self.ring.used_ring()).checked_add(2);
        let index = used.and_then(|used| ram.load::<u16>(used, Ordering::Acquire).ok());
        // The ring was checked to be in RAM. What a driver wrote there harms nobody but itself.
        let next_used = index.map_or(self.ring.next_used(), u16::from_le);
        self.ring.set_next_used(next_used);
        self.ring
            .set_next_avail(next_available.unwrap_or(next_used));
        self.staged = 0;
        self.decided = Wrapping(next_used);
    }

    /// Number of entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The head of the next available chain.
    ///
    /// # Errors
    /// The driver's index is not possible, or the ring is not in RAM.
    pub(crate) fn pop(&mut self, ram: &GuestRam) -> Result<Option<u16>, RingError> {
        let avail = self.ring.avail_ring();
        let mut heads = self.ring.iter(ram).map_err(|e| match e {
            virtio_queue::Error::InvalidAvailRingIndex => RingError::AvailIndex,
            _ => RingError::Table(avail),
        })?;
        // The ring is known to be in RAM, so an iterator that ends has met the driver's index.
        match heads.next().map(|chain| chain.head_index()) {
            Some(head) if head >= self.ring.size() => Err(RingError::Index(head)),
            head => Ok(head),
        }
    }

    /// Takes back the last `count` pops.
    pub(crate) fn unpop(&mut self, count: u16) {
        let next = Wrapping(self.ring.next_avail()) - Wrapping(count);
        self.ring.set_next_avail(next.0);
    }

    /// Appends the chain at `head` to `buffers`; returns the number of writable bytes.
    pub(crate) fn resolve<'m>(
        &self,
        ram: &'m GuestRam,
        head: u16,
        buffers: &mut Buffers<'m>,
    ) -> Result<u32, RingError> {
        let table = Table {
            address: GuestAddress(self.ring.desc_table()),
            size: self.ring.size(),
            indirect: self.indirect,
        };
        buffers.append(ram, table, head)
    }

    /// Writes a used element that the driver does not see yet.
    pub(crate) fn stage_used(
        &mut self,
        ram: &GuestRam,
        head: u16,
        written_bytes: u32,
    ) -> Result<(), RingError> {
        let used = self.ring.used_ring();
        let slot =
            (Wrapping(self.ring.next_used()) + Wrapping(self.staged)).0 % self.ring.size().max(1);
        let address = GuestAddress(used)
            .checked_add(RING_HEADER_BYTES + u64::from(slot) * USED_ELEMENT_BYTES)
            .ok_or(RingError::Table(used))?;
        // The element: 32 bits of head, 32 bits of length.
        let element = u64::from(head) | u64::from(written_bytes) << 32;
        ram.write_obj(element.to_le(), address)
            .map_err(|_| RingError::Table(used))?;
        self.staged = self.staged.wrapping_add(1);
        Ok(())
    }

    /// Shows the staged elements to the driver, all at once.
    pub(crate) fn publish(&mut self, ram: &GuestRam) -> Result<(), RingError> {
        if self.staged == 0 {
            return Ok(());
        }
        let next = Wrapping(self.ring.next_used()) + Wrapping(self.staged);
        self.staged = 0;
        self.ring.set_next_used(next.0);
        let used = self.ring.used_ring();
        let address = GuestAddress(used)
            .checked_add(2)
            .ok_or(RingError::Table(used))?;
        ram.store(next.0.to_le(), address, Ordering::Release)
            .map_err(|_| RingError::Table(used))
    }

    /// Whether the driver wants to be interrupted for what was published since this was last asked
    /// (virtio 1.2, section 2.7.7).
    pub(crate) fn wants_interrupt(&mut self, ram: &GuestRam) -> Result<bool, RingError> {
        let next = Wrapping(self.ring.next_used());
        let added = next - self.decided;
        if added.0 == 0 {
            return Ok(false);
        }
        self.decided = next;
        // The index must be out before the driver's wish is read: it writes its wish and then reads the index.
        fence(Ordering::SeqCst);
        let available = self.ring.avail_ring();
        let offset = if self.ring.event_idx_enabled() {
            RING_HEADER_BYTES + u64::from(self.ring.size()) * AVAIL_ELEMENT_BYTES
        } else {
            0
        };
        let address = GuestAddress(available)
            .checked_add(offset)
            .ok_or(RingError::Table(available))?;
        let wish = ram
            .load::<u16>(address, Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(|_| RingError::Table(available))?;
        Ok(if self.ring.event_idx_enabled() {
            next - Wrapping(wish) - Wrapping(1) < added
        } else {
            wish & AVAIL_F_NO_INTERRUPT == 0
        })
    }

    /// Asks the driver not to notify, as far as the ring's format can say so.
    pub(crate) fn disable_notification(&mut self, ram: &GuestRam) -> Result<(), RingError> {
        let used = self.ring.used_ring();
        self.ring
            .disable_notification(ram)
            .map_err(|_| RingError::Table(used))
    }

    /// Asks the driver to notify of the next buffer; `true` if there is one already.
    pub(crate) fn enable_notification(&mut self, ram: &GuestRam) -> Result<bool, RingError> {
        let used = self.ring.used_ring();
        self.ring
            .enable_notification(ram)
            .map_err(|_| RingError::Table(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::ring;
    use proptest::prelude::*;

    const DESC: u64 = 0x1000;
    const AVAIL: u64 = 0x2000;
    const USED: u64 = 0x3000;

    fn ram() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap()
    }

    fn queue(ram: &GuestRam, size: u16, at: u16, features: u64) -> Virtqueue {
        let setup = QueueSetup {
            size,
            enabled: true,
            descriptors: DESC,
            available: AVAIL,
            used: USED,
            next_available: at,
            next_used: at,
        };
        ram.write_obj(at, GuestAddress(AVAIL + 2)).unwrap();
        Virtqueue::new(&setup, 256, features, ram).unwrap()
    }

    proptest! {
        /// Whatever the batches and wherever the indices wrap: an interrupt is wanted exactly if an element with the
        /// index the driver named is among the new ones, and no element is seen before it is published.
        #[test]
        fn interrupts_follow_the_event_index(
            at in any::<u16>(),
            batches in prop::collection::vec((1u16..8, 0u16..16), 1..20),
        ) {
            let ram = ram();
            let mut queue = queue(&ram, 16, at, ring::EVENT_IDX);
            let event = GuestAddress(AVAIL + 4 + 2 * 16);
            let mut published = Wrapping(at);
            for (count, ahead) in batches {
                let wish = published + Wrapping(ahead);
                ram.write_obj(wish.0, event).unwrap();
                for i in 0..count {
                    let slot = u64::from((published + Wrapping(i)).0 % 16);
                    queue.stage_used(&ram, i, u32::from(i) + 100).unwrap();
                    let element: u64 = ram.read_obj(GuestAddress(USED + 4 + 8 * slot)).unwrap();
                    prop_assert_eq!(element, u64::from(i) | (u64::from(i) + 100) << 32);
                    let index: u16 = ram.read_obj(GuestAddress(USED + 2)).unwrap();
                    prop_assert!(index == published.0 || published.0 == at);
                }
                queue.publish(&ram).unwrap();
                published += Wrapping(count);
                let index: u16 = ram.read_obj(GuestAddress(USED + 2)).unwrap();
                prop_assert_eq!(index, published.0);
                prop_assert_eq!(queue.wants_interrupt(&ram).unwrap(), ahead < count);
                prop_assert!(!queue.wants_interrupt(&ram).unwrap());
            }
        }

        /// Pops follow the available ring across the wrap, and what is put back comes again.
        #[test]
        fn pops_and_unpops(at in any::<u16>(), heads in prop::collection::vec(0u16..16, 1..16), back in 0u16..16) {
            let ram = ram();
            let mut queue = queue(&ram, 16, at, 0);
            for (i, head) in (0u16..).zip(&heads) {
                let slot = u64::from(at.wrapping_add(i) % 16);
                ram.write_obj(*head, GuestAddress(AVAIL + 4 + 2 * slot)).unwrap();
            }
            let count = u16::try_from(heads.len()).unwrap();
            ram.write_obj(at.wrapping_add(count), GuestAddress(AVAIL + 2)).unwrap();
            let take = |queue: &mut Virtqueue| -> Vec<u16> {
                std::iter::from_fn(|| queue.pop(&ram).unwrap()).collect()
            };
            prop_assert_eq!(take(&mut queue), &heads[..]);
            let back = back.min(count);
            queue.unpop(back);
            prop_assert_eq!(take(&mut queue), &heads[usize::from(count - back)..]);
            ram.write_obj(at.wrapping_add(count).wrapping_add(17), GuestAddress(AVAIL + 2)).unwrap();
            prop_assert_eq!(queue.pop(&ram), Err(RingError::AvailIndex));
        }
    }

    #[test]
    fn without_event_index_the_flags_decide() {
        let ram = ram();
        let mut queue = queue(&ram, 16, 0, 0);
        for (flag, wanted) in [(0u16, true), (1, false)] {
            ram.write_obj(flag, GuestAddress(AVAIL)).unwrap();
            queue.stage_used(&ram, 0, 0).unwrap();
            queue.publish(&ram).unwrap();
            assert_eq!(queue.wants_interrupt(&ram).unwrap(), wanted);
        }
        let flags = || ram.read_obj::<u16>(GuestAddress(USED)).unwrap();
        queue.disable_notification(&ram).unwrap();
        assert_eq!(flags(), 1);
        assert!(!queue.enable_notification(&ram).unwrap());
        assert_eq!(flags(), 0);
        ram.write_obj(1u16, GuestAddress(AVAIL + 2)).unwrap();
        assert!(queue.enable_notification(&ram).unwrap());
    }

    #[test]
    fn impossible_rings_are_refused() {
        let ram = ram();
        let good = QueueSetup {
            size: 16,
            enabled: true,
            descriptors: DESC,
            available: AVAIL,
            used: USED,
            next_available: 0,
            next_used: 0,
        };
        let refused = |setup: QueueSetup| Virtqueue::new(&setup, 256, 0, &ram).is_err();
        assert!(!refused(good));
        assert!(refused(QueueSetup { size: 0, ..good }));
        assert!(refused(QueueSetup { size: 15, ..good }));
        assert!(refused(QueueSetup { size: 512, ..good }));
        assert!(refused(QueueSetup {
            descriptors: DESC + 8,
            ..good
        }));
        assert!(refused(QueueSetup {
            available: AVAIL + 1,
            ..good
        }));
        assert!(refused(QueueSetup {
            available: 0,
            ..good
        }));
        assert!(refused(QueueSetup {
            used: USED + 2,
            ..good
        }));
        assert!(refused(QueueSetup {
            used: 0xfff0,
            ..good
        }));
        assert!(refused(QueueSetup {
            descriptors: u64::MAX - 15,
            ..good
        }));
    }
}
