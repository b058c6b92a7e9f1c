//! An entry for fuzzing: a driver that writes whatever it likes into its rings.

use crate::blk::fuzz_disk;
use crate::chain::Buffers;
use crate::features::{net as f, ring};
use crate::io_buffer::IoBuffer;
use crate::net::fuzz_pair;
use crate::net::{NetBackend, Offloads};
use crate::queue::{QueueSetup, Virtqueue};
use crate::signals::Signals;
use crate::single::Requests;
use memory::GuestRam;
use pci::{MsiMessage, MsiVector, Msix, MsixPlace};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const RAM_BYTES: usize = 0x1_0000;
const SIZE: u16 = 16;
/// Where each queue's rings are: descriptors, available, used, one page a queue.
const QUEUE_STRIDE: u64 = 0x1000;

mod function;

pub use function::{fuzz_function, fuzz_function_seeds};

struct Silent(EventFd);

impl MsiVector for Silent {
    fn program(&self, _: Option<MsiMessage>) -> io::Result<()> {
        Ok(())
    }

    fn trigger(&self) -> &EventFd {
        &self.0
    }

    fn pending(&self) -> bool {
        false
    }
}

/// Takes every frame and gives frames of ever other lengths.
struct Noise {
    vnet_header: bool,
    left: AtomicUsize,
}

impl NetBackend for Noise {
    fn vnet_header(&self) -> bool {
        self.vnet_header
    }

    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn recv(&self, _: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Ok(None);
        }
        self.left.store(left - 1, Ordering::Relaxed);
        let bytes = vec![0xa5; left * 997 % 20_000];
        Ok(Some(crate::io_buffer::scatter(into, 0, &bytes)))
    }

    fn send(&self, _: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        let mut sink = vec![0; 0x1_0000];
        Ok(Some(crate::io_buffer::gather(from, 0, &mut sink)))
    }

    fn poll_fd(&self, _: u16) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Lets a network device's queues and a disk's queue run on rings made of `data`.
///
/// Byte 0 chooses the features, the rest fills guest RAM from address 0 on: at 0x0000, 0x1000 and 0x2000 the
/// descriptor tables of the receive, transmit and control queue with 16 entries each, their available rings at +0x200,
/// their used rings at +0x400; the disk's are those of the receive queue. It must return, whatever `data` is.
pub fn fuzz_queue(data: &[u8]) {
    let Some((choice, contents)) = data.split_first() else {
        return;
    };
    let Ok(ram) = GuestRam::from_ranges(&[
        (GuestAddress(0), RAM_BYTES / 2),
        (GuestAddress(RAM_BYTES as u64 / 2), RAM_BYTES / 4),
    ]) else {
        return;
    };
    let length = contents.len().min(RAM_BYTES * 3 / 4);
    if let Some(contents) = contents.get(..length)
        && ram.write_slice(contents, GuestAddress(0)).is_err()
    {
        return;
    }
    let mut features = ring::VERSION_1
        | f::CTRL_VQ
        | f::CTRL_RX
        | f::CTRL_RX_EXTRA
        | f::CTRL_VLAN
        | f::CTRL_MAC_ADDR
        | f::CTRL_GUEST_OFFLOADS
        | f::GUEST_ANNOUNCE
        | f::MQ;
    for (bit, feature) in [
        ring::EVENT_IDX,
        ring::INDIRECT_DESC,
        f::MRG_RXBUF,
        f::GUEST_TSO4,
    ]
    .into_iter()
    .enumerate()
    {
        if choice & (1 << bit) != 0 {
            features |= feature;
        }
    }
    let Some(signals) = signals() else { return };
    let ram = Arc::new(ram);
    let queue = |index: u64| {
        let setup = QueueSetup {
            size: SIZE,
            enabled: true,
            descriptors: index * QUEUE_STRIDE,
            available: index * QUEUE_STRIDE + 0x200,
            used: index * QUEUE_STRIDE + 0x400,
            ..QueueSetup::default()
        };
        Virtqueue::new(&setup, SIZE, features, &ram).ok()
    };
    if choice & 0x80 != 0 {
        if let (Some(queue), Ok(disk)) = (queue(0), fuzz_disk()) {
            serve(queue, &ram, &disk);
        }
        return;
    }
    let backend = Noise {
        vnet_header: choice & 0x40 != 0,
        left: AtomicUsize::new(40),
    };
    let queues = [queue(0), queue(1), queue(2)];
    fuzz_pair(Arc::new(backend), &signals, &ram, features, queues);
}

fn signals() -> Option<Signals> {
    let vector: Arc<dyn MsiVector> = Arc::new(Silent(crate::worker::eventfd().ok()?));
    let place = MsixPlace {
        bar: 1,
        table_offset: 0,
        pba_offset: 0x800,
    };
    let msix = Msix::new(vec![vector], place).ok()?;
    Some(Signals::new("fuzzed".to_owned(), msix, 3))
}

fn serve(mut queue: Virtqueue, ram: &GuestRam, requests: &impl Requests) {
    let mut buffers = Buffers::default();
    for _ in 0..4 * SIZE {
        let Ok(Some(head)) = queue.pop(ram) else {
            return;
        };
        buffers.clear();
        if queue.resolve(ram, head, &mut buffers).is_err()
            || requests.serve(ram, &mut buffers).is_err()
            || queue.stage_used(ram, head, 0).is_err()
            || queue.publish(ram).is_err()
            || queue.wants_interrupt(ram).is_err()
        {
            return;
        }
    }
}

/// Rings a driver might make: one buffer to receive into, one frame to send, one command; with and without indirection.
pub fn fuzz_queue_seeds() -> Vec<Vec<u8>> {
    let descriptor = |address: u64, length: u32, flags: u16, next: u16| {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        bytes
    };
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let (frame, command, table) = (0x2800, 0x2900, 0x2a00);
    let chains = [
        // Received into; also a read of the disk's first sector, whose header is zero.
        vec![
            descriptor(frame, 16, NEXT, 1),
            descriptor(0x8000, 0x800, NEXT | WRITE, 2),
            descriptor(0x8800, 1, WRITE, 0),
        ],
        vec![descriptor(frame, 12, NEXT, 1), descriptor(frame, 60, 0, 0)],
        vec![
            descriptor(command, 2, NEXT, 1),
            descriptor(command + 2, 6, NEXT, 2),
            descriptor(0x2980, 1, WRITE, 0),
        ],
    ];
    let image = |choice: u8, indirect: bool| {
        let mut ram = vec![0; 0x2c00];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = ram.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        for (index, chain) in chains.iter().enumerate() {
            let base = index * 0x1000;
            if indirect {
                let at = table + 0x80 * index;
                put(at, &chain.concat());
                let length = u32::try_from(chain.len() * 16).unwrap_or(0);
                put(base, &descriptor(at as u64, length, INDIRECT, 0));
            } else {
                put(base, &chain.concat());
            }
            put(base + 0x202, &1u16.to_le_bytes());
        }
        // Set the MAC address.
        put(0x2900, &[1, 1, 0x52, 0x54, 0, 1, 2, 3]);
        let mut seed = vec![choice];
        seed.extend(ram);
        seed
    };
    vec![
        image(0, false),
        image(0x4f, false),
        image(0x42, true),
        image(0x80, false),
        image(0x82, true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Descriptors that often mean something.
    fn descriptor() -> impl Strategy<Value = [u8; 16]> {
        let address = prop_oneof![0u64..0x1_0000, Just(u64::MAX - 8), any::<u64>()];
        let len = prop_oneof![0u32..0x400, 16u32..17, any::<u32>()];
        (address, len, 0u16..8, 0u16..18).prop_map(|(address, len, flags, next)| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&address.to_le_bytes());
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&next.to_le_bytes());
            bytes
        })
    }

    fn rings() -> impl Strategy<Value = Vec<u8>> {
        let queue = (
            prop::collection::vec(descriptor(), 16),
            prop::collection::vec(0u16..17, 16),
            0u16..20,
        );
        (
            any::<u8>(),
            prop::collection::vec(queue, 3),
            any::<[u8; 64]>(),
        )
            .prop_map(|(choice, queues, filling)| {
                let mut ram: Vec<u8> = filling.iter().copied().cycle().take(0x6000).collect();
                for (index, (descriptors, heads, count)) in queues.into_iter().enumerate() {
                    let base = index * 0x1000;
                    let table = descriptors.concat();
                    ram[base..base + table.len()].copy_from_slice(&table);
                    let at = base + 0x200;
                    ram[at + 2..at + 4].copy_from_slice(&count.to_le_bytes());
                    for (slot, head) in heads.into_iter().enumerate() {
                        let at = at + 4 + 2 * slot;
                        ram[at..at + 2].copy_from_slice(&head.to_le_bytes());
                    }
                }
                let mut data = vec![choice];
                data.extend(ram);
                data
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn hostile_rings_end(data in rings()) {
            fuzz_queue(&data);
        }

        #[test]
        fn noise_ends(data in prop::collection::vec(any::<u8>(), 0..0x3000)) {
            fuzz_queue(&data);
        }
    }
}
