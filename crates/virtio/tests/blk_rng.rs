//! The block and the entropy device, driven as a guest's driver drives them.

#![allow(clippy::unwrap_used)]

mod driver;

use driver::host::Host;
use driver::ring::{Buffer, DriverQueue};
use driver::{Driver, NEEDS_RESET, VERSION_1, until, wait_interrupt};
use memory::GuestRam;
use pci::PciDevice;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use virtio::features::{blk, ring};
use virtio::{BlkConfig, RngConfig, RngLimit, VirtioBlk, VirtioRng};
use vm_memory::{Bytes, GuestAddress};

const SECTORS: u64 = 2048;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

fn ram() -> Arc<GuestRam> {
    Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap())
}

fn image() -> File {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..SECTORS * 512).map(|i| (i / 512) as u8).collect();
    file.write_all(&bytes).unwrap();
    file
}

struct Disk {
    device: Arc<VirtioBlk>,
    driver: Driver,
    host: Arc<Host>,
    queue: DriverQueue,
    memory: u64,
}

fn config(file: &File, read_only: bool) -> BlkConfig {
    BlkConfig {
        label: "virtio-blk-pci 'disk0'".to_owned(),
        file: file.try_clone().unwrap(),
        read_only,
        discard: true,
        serial: "a serial number that is too long".to_owned(),
        queue_size: 128,
        on_root_bus: true,
    }
}

fn disk(file: &File, read_only: bool, features: u64) -> Disk {
    let (host, ram) = (Host::new(), ram());
    let config = config(file, read_only);
    let device = VirtioBlk::new(config, Arc::clone(&ram), Arc::clone(&host) as Arc<_>).unwrap();
    let mut driver = Driver::probe(Arc::clone(device.function()) as Arc<_>, &host, &ram);
    driver.enable_msix(2);
    assert!(driver.negotiate(VERSION_1 | ring::EVENT_IDX | ring::INDIRECT_DESC | features));
    let queue = driver.queue(0, 128);
    let memory = driver.allocate(1 << 20, 4096);
    driver.driver_ok();
    Disk {
        device,
        driver,
        host,
        queue,
        memory,
    }
}

impl Disk {
    /// Does one request; its data lies in `pieces` buffers. Returns status and data.
    fn request(&mut self, kind: u32, sector: u64, data: &mut [u8], pieces: usize) -> u8 {
        let ram = Arc::clone(&self.driver.ram);
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        ram.write_slice(&header, GuestAddress(self.memory)).unwrap();
        let status = self.memory + 64;
        ram.write_obj(0xffu8, GuestAddress(status)).unwrap();
        let reads = matches!(kind, 0 | 8);
        let at = self.memory + 4096;
        ram.write_slice(data, GuestAddress(at)).unwrap();
        let mut chain = vec![Buffer {
            address: self.memory,
            len: 16,
            writable: false,
        }];
        if !data.is_empty() {
            let piece = data.len().div_ceil(pieces);
            for start in (0..data.len()).step_by(piece) {
                chain.push(Buffer {
                    address: at + start as u64,
                    len: u32::try_from(piece.min(data.len() - start)).unwrap(),
                    writable: reads,
                });
            }
        }
        chain.push(Buffer {
            address: status,
            len: 1,
            writable: true,
        });
        self.queue.want_interrupt();
        self.queue.add(&chain);
        self.driver.kick(&mut self.queue);
        wait_interrupt(&self.host, 0);
        let (_, written) = until("the request", || self.queue.used());
        assert!(written >= 1);
        if reads {
            ram.read_slice(data, GuestAddress(at)).unwrap();
        }
        ram.read_obj(GuestAddress(status)).unwrap()
    }
}

fn segment(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn reads_writes_flushes_and_discards() {
    let file = image();
    let mut disk = disk(
        &file,
        false,
        blk::FLUSH | blk::SEG_MAX | blk::DISCARD | blk::WRITE_ZEROES,
    );
    assert_eq!(disk.device.capacity_bytes(), SECTORS * 512);
    assert_eq!(disk.driver.config_read32(0), 0x1042_1af4);
    assert_eq!(disk.driver.device_config(0, 8), SECTORS);
    assert_eq!(disk.driver.device_config(12, 4), 126);
    for pieces in [1, 3, 100] {
        let mut data = vec![0; 64 * 512];
        assert_eq!(disk.request(0, 100, &mut data, pieces), OK);
        assert!(
            data.iter()
                .enumerate()
                .all(|(i, b)| *b == (100 + i / 512) as u8)
        );
        let mut data: Vec<u8> = (0..8 * 512u32)
            .map(|i| (i * 7 + pieces as u32) as u8)
            .collect();
        assert_eq!(disk.request(1, 700, &mut data, pieces), OK);
        assert_eq!(disk.request(4, 0, &mut [], 1), OK);
        let mut seen = vec![0; data.len()];
        file.read_exact_at(&mut seen, 700 * 512).unwrap();
        assert_eq!(seen, data);
    }
    let mut serial = vec![0xff; 20];
    assert_eq!(disk.request(8, 0, &mut serial, 1), OK);
    assert_eq!(serial, b"a serial number that");
    assert_eq!(disk.request(11, 0, &mut segment(700, 8, 0), 1), OK);
    assert_eq!(disk.request(13, 0, &mut segment(100, 16, 1), 1), OK);
    assert_eq!(disk.request(13, 0, &mut segment(300, 16, 0), 1), OK);
    for sector in [700, 100, 300] {
        let mut data = vec![0xff; 512 * 8];
        assert_eq!(disk.request(0, sector, &mut data, 1), OK);
        assert!(data.iter().all(|b| *b == 0), "sector {sector}");
    }
    // The end of the disk.
    let mut data = vec![0; 1024];
    assert_eq!(disk.request(0, SECTORS - 2, &mut data, 1), OK);
    for (sector, bytes) in [
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (0, 511),
    ] {
        let mut data = vec![0; bytes];
        assert_eq!(disk.request(0, sector, &mut data, 1), IO_ERROR);
        assert_eq!(disk.request(1, sector, &mut data, 1), IO_ERROR);
    }
    assert_eq!(
        disk.request(11, 0, &mut segment(SECTORS, 1, 0), 1),
        IO_ERROR
    );
    assert_eq!(disk.request(11, 0, &mut segment(0, 0, 0), 1), IO_ERROR);
    assert_eq!(disk.request(99, 0, &mut [], 1), UNSUPPORTED);
    assert_eq!(disk.driver.status() & NEEDS_RESET, 0);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let file = image();
    let mut disk = disk(&file, true, blk::RO | blk::FLUSH);
    assert_eq!(
        disk.driver.offered() & (blk::DISCARD | blk::WRITE_ZEROES),
        0
    );
    assert_eq!(disk.request(1, 0, &mut [1; 512], 1), IO_ERROR);
    assert_eq!(disk.request(13, 0, &mut segment(0, 8, 0), 1), IO_ERROR);
    assert_eq!(disk.request(11, 0, &mut segment(8, 8, 0), 1), UNSUPPORTED);
    let mut contents = Vec::new();
    (&file).seek(SeekFrom::Start(0)).unwrap();
    (&file).read_to_end(&mut contents).unwrap();
    assert!(
        contents
            .iter()
            .enumerate()
            .all(|(i, b)| *b == (i / 512) as u8)
    );
}

#[test]
fn a_request_without_header_or_status_breaks_the_device() {
    let file = image();
    for writable in [true, false] {
        let mut disk = disk(&file, false, 0);
        disk.queue.add(&[Buffer {
            address: disk.memory,
            len: 16,
            writable,
        }]);
        disk.driver.kick(&mut disk.queue);
        until("the demand for a reset", || {
            (disk.driver.status() & NEEDS_RESET != 0).then_some(())
        });
    }
}

#[test]
fn requests_wait_while_paused_and_move() {
    let file = image();
    let mut disk = disk(&file, false, 0);
    disk.device.function().pause();
    let state = disk.device.function().save().unwrap();
    let target = VirtioBlk::new(
        config(&file, false),
        Arc::clone(&disk.driver.ram),
        Arc::clone(&disk.host) as Arc<_>,
    )
    .unwrap();
    disk.device.function().bar_placed(4, None);
    target.function().restore(1, &state).unwrap();
    target.function().bar_placed(4, Some(driver::BAR4_AT));
    disk.driver.function = Arc::clone(target.function()) as Arc<_>;
    // The kick of this one comes while nobody serves.
    let header = GuestAddress(disk.memory);
    disk.driver.ram.write_slice(&[0; 16], header).unwrap();
    let buffer = |offset, len, writable| Buffer {
        address: disk.memory + offset,
        len,
        writable,
    };
    let chain = [
        buffer(0, 16, false),
        buffer(512, 512, true),
        buffer(64, 1, true),
    ];
    disk.queue.add(&chain);
    disk.driver.kick(&mut disk.queue);
    assert!(disk.queue.used().is_none());
    target.function().resume();
    let (_, written) = until("the request", || disk.queue.used());
    assert_eq!(written, 513);
}

#[test]
fn entropy_comes_and_is_rationed() {
    for limit in [
        None,
        Some(RngLimit {
            max_bytes: 100,
            period_ms: 20,
        }),
    ] {
        let (host, ram) = (Host::new(), ram());
        let config = RngConfig {
            label: "virtio-rng-pci 'rng0'".to_owned(),
            source: File::open("/dev/urandom").unwrap(),
            limit,
            on_root_bus: false,
        };
        let device = VirtioRng::new(config, Arc::clone(&ram), Arc::clone(&host) as Arc<_>).unwrap();
        let mut driver = Driver::probe(Arc::clone(device.function()) as Arc<_>, &host, &ram);
        assert_eq!(driver.config_read32(0), 0x1044_1af4);
        driver.enable_msix(2);
        assert!(driver.negotiate(VERSION_1 | ring::EVENT_IDX));
        let mut queue = driver.queue(0, 8);
        let at = driver.allocate(4096, 4096);
        driver.driver_ok();
        let mut total = 0;
        while total < 512 {
            queue.want_interrupt();
            queue.add(&[Buffer {
                address: at,
                len: 64,
                writable: true,
            }]);
            driver.kick(&mut queue);
            wait_interrupt(&host, 0);
            let (_, written) = until("entropy", || queue.used());
            assert!((1..=64).contains(&written));
            total += written;
        }
        let mut bytes = vec![0; 64];
        ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        assert!(bytes.iter().any(|b| *b != 0));
        device.function().reset();
    }
}
