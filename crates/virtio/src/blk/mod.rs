//! The block device (virtio 1.2, section 5.2) on a raw file or host block device.

mod request;

use crate::device::{DeviceKind, Run, VirtioDevice};
use crate::features::{blk, ring};
use crate::queue::Virtqueue;
use crate::signals::Signals;
use crate::single::SingleQueue;
use crate::transport::{PciConfig, VirtioError, VirtioPci};
use memory::GuestRam;
use pci::Platform;
use request::{DISCARD_SECTORS_MAX, Disk, SECTOR_BYTES, SEGMENTS_MAX};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::sync::Arc;

/// What a block device is asked to be.
#[derive(Debug)]
pub struct BlkConfig {
    /// For logs and errors: `virtio-blk-pci 'disk0'`.
    pub label: String,
    /// The raw image, opened for reading, and for writing unless `read_only`.
    pub file: File,
    /// The guest cannot write.
    pub read_only: bool,
    /// Holes may be punched where the guest says it needs no data.
    pub discard: bool,
    /// Serial number, 20 bytes of it are shown.
    pub serial: String,
    /// Entries of the queue: a power of two from 4 to 1024.
    pub queue_size: u16,
    /// It sits on the root complex's own bus, not behind a port.
    pub on_root_bus: bool,
}

/// `virtio-blk-pci`.
pub struct VirtioBlk {
    function: Arc<VirtioPci>,
    disk: Arc<Disk>,
}

impl VirtioBlk {
    /// Makes the device; its capacity is the file's size in whole sectors.
    ///
    /// # Errors
    /// The size of file or queue cannot be, or the host has no resources left.
    pub fn new(
        config: BlkConfig,
        ram: Arc<GuestRam>,
        platform: Arc<dyn Platform>,
    ) -> Result<Arc<Self>, VirtioError> {
        let label = config.label;
        let host = |source| VirtioError::Host {
            device: label.clone(),
            source,
        };
        if !config.queue_size.is_power_of_two() || !(4..=1024).contains(&config.queue_size) {
            return Err(VirtioError::Property {
                device: label,
                reason: format!(
                    "Invalid queue-size ({}), must be a power of 2 between 4 and 1024",
                    config.queue_size
                ),
            });
        }
        let bytes = (&config.file).seek(SeekFrom::End(0)).map_err(host)?;
        let mut serial = [0; 20];
        for (to, from) in serial.iter_mut().zip(config.serial.bytes()) {
            *to = from;
        }
        let disk = Arc::new(Disk {
            label: label.clone(),
            file: config.file,
            sectors: bytes / SECTOR_BYTES,
            read_only: config.read_only,
            discard: config.discard && !config.read_only,
            serial,
        });
        let device = Arc::new(BlkDevice {
            queue: SingleQueue::new("blk").map_err(host)?,
            disk: Arc::clone(&disk),
            queue_size: config.queue_size,
        });
        let config = PciConfig {
            label: label.clone(),
            vectors: None,
            on_root_bus: config.on_root_bus,
        };
        let function = VirtioPci::new(config, device, ram, platform)?;
        Ok(Arc::new(Self { function, disk }))
    }

    /// The function on the bus; also [`pause`](VirtioPci::pause) and [`resume`](VirtioPci::resume).
    pub fn function(&self) -> &Arc<VirtioPci> {
        &self.function
    }

    /// Size in bytes.
    pub fn capacity_bytes(&self) -> u64 {
        self.disk.sectors * SECTOR_BYTES
    }
}

/// A small disk in memory, for [`fuzz_queue`](crate::fuzz_queue).
pub(crate) fn fuzz_disk() -> io::Result<impl crate::single::Requests> {
    let file = rustix::fs::memfd_create("fuzzed disk", rustix::fs::MemfdFlags::CLOEXEC)?;
    let file = File::from(file);
    file.set_len(64 * SECTOR_BYTES)?;
    Ok(Disk {
        label: "fuzzed".to_owned(),
        file,
        sectors: 64,
        read_only: false,
        discard: true,
        serial: [b'x'; 20],
    })
}

struct BlkDevice {
    queue: SingleQueue,
    disk: Arc<Disk>,
    queue_size: u16,
}

impl BlkDevice {
    /// The configuration (virtio 1.2, section 5.2.4).
    fn registers(&self) -> [u8; 60] {
        let mut registers = [0; 60];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (register, byte) in registers.iter_mut().skip(offset).zip(bytes) {
                *register = *byte;
            }
        };
        put(0, &self.disk.sectors.to_le_bytes());
        let segments = u32::from(self.queue_size.saturating_sub(2).max(1));
        put(12, &segments.to_le_bytes());
        // The block size.
        put(20, &512u32.to_le_bytes());
        // One queue.
        put(34, &1u16.to_le_bytes());
        for offset in [36, 48] {
            put(offset, &DISCARD_SECTORS_MAX.to_le_bytes());
            put(offset + 4, &SEGMENTS_MAX.to_le_bytes());
        }
        put(44, &1u32.to_le_bytes());
        put(56, &[1]);
        registers
    }
}

impl VirtioDevice for BlkDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind {
            id: 2,
            class: 0x01_00_00,
        }
    }

    fn features(&self) -> u64 {
        let mut features =
            ring::INDIRECT_DESC | ring::EVENT_IDX | blk::SEG_MAX | blk::BLK_SIZE | blk::FLUSH;
        if self.disk.read_only {
            features |= blk::RO;
        } else {
            features |= blk::WRITE_ZEROES;
        }
        if self.disk.discard {
            features |= blk::DISCARD;
        }
        features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.queue_size]
    }

    fn attach(&self, signals: Arc<Signals>) {
        self.queue.attach(signals);
    }

    fn config_read(&self, offset: usize, data: &mut [u8]) {
        let registers = self.registers();
        for (byte, from) in data.iter_mut().zip(registers.iter().skip(offset)) {
            *byte = *from;
        }
    }

    fn negotiated(&self, _features: u64) {}

    fn start(&self, run: Run) -> io::Result<()> {
        self.queue.start(run, Arc::clone(&self.disk))
    }

    fn stop(&self) -> Vec<Option<Virtqueue>> {
        self.queue.stop()
    }

    fn reset(&self) {}

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&self, _features: u64, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}
