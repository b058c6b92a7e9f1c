//! The driver's side of a split virtqueue.

use memory::GuestRam;
use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use vm_memory::{Bytes, GuestAddress};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// One buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) writable: bool,
}

pub(crate) struct DriverQueue {
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) index: u16,
    pub(crate) size: u16,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    pub(crate) notify_offset: u64,
    event_idx: bool,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    avail_idx: Wrapping<u16>,
    kicked_at: Wrapping<u16>,
    seen: Wrapping<u16>,
}

impl DriverQueue {
    pub(crate) fn new(
        ram: Arc<GuestRam>,
        index: u16,
        size: u16,
        [desc, avail, used]: [u64; 3],
        event_idx: bool,
        notify_offset: u64,
    ) -> Self {
        let n = usize::from(size);
        ram.write_slice(&vec![0; 16 * n], GuestAddress(desc))
            .unwrap();
        ram.write_slice(&vec![0; 6 + 2 * n], GuestAddress(avail))
            .unwrap();
        ram.write_slice(&vec![0; 6 + 8 * n], GuestAddress(used))
            .unwrap();
        Self {
            ram,
            index,
            size,
            desc,
            avail,
            used,
            notify_offset,
            event_idx,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); n],
            avail_idx: Wrapping(0),
            kicked_at: Wrapping(0),
            seen: Wrapping(0),
        }
    }

    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn write_desc(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.write_entry(self.desc, index, address, len, flags, next);
    }

    pub(crate) fn write_entry(
        &self,
        table: u64,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&address.to_le_bytes());
        entry[8..12].copy_from_slice(&len.to_le_bytes());
        entry[12..14].copy_from_slice(&flags.to_le_bytes());
        entry[14..].copy_from_slice(&next.to_le_bytes());
        self.ram
            .write_slice(&entry, GuestAddress(table + 16 * u64::from(index)))
            .unwrap();
    }

    /// Makes a chain available; returns its head.
    pub(crate) fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let slots: Vec<u16> = buffers.iter().map(|_| self.free.pop().unwrap()).collect();
        for (i, buffer) in buffers.iter().enumerate() {
            let mut flags = if buffer.writable { WRITE } else { 0 };
            let next = slots.get(i + 1).copied();
            if next.is_some() {
                flags |= NEXT;
            }
            self.write_desc(
                slots[i],
                buffer.address,
                buffer.len,
                flags,
                next.unwrap_or(0),
            );
        }
        let head = slots[0];
        self.chains[usize::from(head)] = slots;
        self.publish(head);
        head
    }

    /// Makes a chain available by an indirect table at `table`.
    pub(crate) fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        for (i, buffer) in (0u16..).zip(buffers) {
            let last = usize::from(i) + 1 == buffers.len();
            let mut flags = if buffer.writable { WRITE } else { 0 };
            if !last {
                flags |= NEXT;
            }
            self.write_entry(table, i, buffer.address, buffer.len, flags, i + 1);
        }
        let head = self.free.pop().unwrap();
        let len = u32::try_from(buffers.len() * 16).unwrap();
        self.write_desc(head, table, len, INDIRECT, 0);
        self.chains[usize::from(head)] = vec![head];
        self.publish(head);
        head
    }

    pub(crate) fn publish(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx.0 % self.size);
        self.ram
            .write_obj(head, GuestAddress(self.avail + 4 + 2 * slot))
            .unwrap();
        self.avail_idx += 1;
        self.ram
            .store(
                self.avail_idx.0,
                GuestAddress(self.avail + 2),
                Ordering::Release,
            )
            .unwrap();
    }

    pub(crate) fn needs_kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let old = self.kicked_at;
        self.kicked_at = self.avail_idx;
        if self.event_idx {
            let event: u16 = self
                .ram
                .load(
                    GuestAddress(self.used + 4 + 8 * u64::from(self.size)),
                    Ordering::Relaxed,
                )
                .unwrap();
            self.avail_idx - Wrapping(event) - Wrapping(1) < self.avail_idx - old
        } else {
            let flags: u16 = self
                .ram
                .load(GuestAddress(self.used), Ordering::Relaxed)
                .unwrap();
            flags & 1 == 0
        }
    }

    /// The next used element: head and length.
    pub(crate) fn used(&mut self) -> Option<(u16, u32)> {
        let idx: u16 = self
            .ram
            .load(GuestAddress(self.used + 2), Ordering::Acquire)
            .unwrap();
        if self.seen.0 == idx {
            return None;
        }
        let slot = u64::from(self.seen.0 % self.size);
        let element: u64 = self
            .ram
            .read_obj(GuestAddress(self.used + 4 + 8 * slot))
            .unwrap();
        self.seen += 1;
        let head = u16::try_from(element & 0xffff_ffff).unwrap();
        let slots = std::mem::take(&mut self.chains[usize::from(head)]);
        assert!(!slots.is_empty(), "a chain was used that is not available");
        self.free.extend(slots);
        Some((head, u32::try_from(element >> 32).unwrap()))
    }

    /// Asks for an interrupt at the next used element.
    pub(crate) fn want_interrupt(&self) {
        if self.event_idx {
            self.ram
                .store(
                    self.seen.0,
                    GuestAddress(self.avail + 4 + 2 * u64::from(self.size)),
                    Ordering::Relaxed,
                )
                .unwrap();
        } else {
            self.ram
                .store(0u16, GuestAddress(self.avail), Ordering::Relaxed)
                .unwrap();
        }
        fence(Ordering::SeqCst);
    }

    /// Without event index: asks for silence.
    pub(crate) fn no_interrupt(&self) {
        self.ram
            .store(1u16, GuestAddress(self.avail), Ordering::Relaxed)
            .unwrap();
    }
}
