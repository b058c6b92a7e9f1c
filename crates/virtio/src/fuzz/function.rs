//! An entry for fuzzing: a whole function, restored from any bytes, then driven by any register accesses.

use super::{Noise, Silent};
use crate::blk::{BlkConfig, VirtioBlk};
use crate::net::{MacAddr, NetConfig, NetEvent, VirtioNet};
use crate::rng::{RngConfig, VirtioRng};
use crate::transport::VirtioPci;
use memory::GuestRam;
use pci::{BarMapping, DoorbellWidth, IntxLine, MsiVector, PciDevice, Platform};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const RAM_BYTES: usize = 0x1_0000;

/// Gives vectors; doorbells there are none, so that notifications come as writes.
struct Bare;

impl Platform for Bare {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        (0..count)
            .map(|_| Ok(Arc::new(Silent(crate::worker::eventfd()?)) as Arc<dyn MsiVector>))
            .collect()
    }

    fn add_doorbell(&self, _: u64, _: DoorbellWidth, _: &EventFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_doorbell(&self, _: u64, _: DoorbellWidth, _: &EventFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn map_bar(&self, _: u64, _: *mut u8, _: u64) -> io::Result<Box<dyn BarMapping>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn vfio_file(&self, _: BorrowedFd<'_>, _: bool) -> io::Result<()> {
        Ok(())
    }
}

struct Line;

impl IntxLine for Line {
    fn set(&self, _: bool) {}

    fn drive_by(&self, _: Option<(&EventFd, &EventFd)>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// One of the devices; which of them holds the function alive as long as this.
struct Made {
    function: Arc<VirtioPci>,
    _device: Box<dyn std::any::Any>,
}

fn make(choice: u8, ram: &Arc<GuestRam>) -> Option<Made> {
    let platform: Arc<dyn Platform> = Arc::new(Bare);
    let ram = Arc::clone(ram);
    Some(match choice % 3 {
        0 => {
            let backend = Noise {
                vnet_header: choice & 4 == 0,
                left: AtomicUsize::new(10),
            };
            let mut config = NetConfig::new("fuzzed", MacAddr([0x52, 0x54, 0, 1, 2, 3]));
            config.failover = true;
            let listener = Arc::new(|_: NetEvent| {});
            let net = VirtioNet::new(config, Arc::new(backend), ram, platform, listener).ok()?;
            Made {
                function: Arc::clone(net.function()),
                _device: Box::new(net),
            }
        }
        1 => {
            let file = rustix::fs::memfd_create("fuzzed disk", rustix::fs::MemfdFlags::CLOEXEC);
            let file = File::from(file.ok()?);
            file.set_len(0x8000).ok()?;
            let config = BlkConfig {
                label: "fuzzed".to_owned(),
                file,
                read_only: choice & 4 != 0,
                discard: true,
                serial: "serial".to_owned(),
                queue_size: 128,
                on_root_bus: choice & 8 != 0,
            };
            let blk = VirtioBlk::new(config, ram, platform).ok()?;
            Made {
                function: Arc::clone(blk.function()),
                _device: Box::new(blk),
            }
        }
        _ => {
            let config = RngConfig {
                label: "fuzzed".to_owned(),
                source: File::open("/dev/zero").ok()?,
                limit: None,
                on_root_bus: false,
            };
            let rng = VirtioRng::new(config, ram, platform).ok()?;
            Made {
                function: Arc::clone(rng.function()),
                _device: Box::new(rng),
            }
        }
    })
}

/// Byte 0 chooses the device; two bytes of length and as many of saved state follow, which the device restores if there are
/// any; then accesses, each a kind, two bytes of offset, a length and as many bytes.
pub fn fuzz_function(data: &[u8]) {
    let Some((&[choice, low, high], rest)) = data.split_first_chunk() else {
        return;
    };
    let ranges = [(GuestAddress(0), RAM_BYTES)];
    let Ok(ram) = GuestRam::from_ranges(&ranges).map(Arc::new) else {
        return;
    };
    let Some(made) = make(choice, &ram) else {
        return;
    };
    let function = made.function.as_ref();
    function.connect_intx(Arc::new(Line));
    let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let (state, mut accesses) = rest.split_at_checked(length).unwrap_or((rest, &[]));
    if !state.is_empty() {
        let _ = function.restore(1, state);
        function.resume();
    }
    while let Some((&[kind, low, high, length], rest)) = accesses.split_first_chunk() {
        let length = usize::from(length % 9).min(rest.len());
        let (bytes, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        accesses = rest;
        access(function, &ram, kind, u16::from_le_bytes([low, high]), bytes);
    }
    // What a device says of itself, it takes back. A promise that is broken ends a fuzz target.
    let taken = function
        .save()
        .map(|saved| function.restore(1, &saved).map_err(|e| e.to_string()));
    assert!(matches!(taken, Ok(Ok(()))), "{taken:?}");
}

fn access(function: &VirtioPci, ram: &GuestRam, kind: u8, offset: u16, bytes: &[u8]) {
    let mut back = bytes.to_vec();
    let sized = matches!(bytes.len(), 1 | 2 | 4 | 8);
    match kind % 8 {
        // The bus hands over no other accesses than these.
        0 if matches!(bytes.len(), 1 | 2 | 4) => {
            let offset = offset & 0xfff;
            if usize::from(offset % 4) + bytes.len() <= 4 {
                function.config_write(offset, bytes);
                function.config_read(offset, &mut back);
            }
        }
        1 | 2 if sized => {
            let bar = if kind % 8 == 1 { 4 } else { 1 };
            let size = function.decode().bars.get(bar).copied().flatten();
            let at = u64::from(offset);
            if size.is_some_and(|region| at + bytes.len() as u64 <= region.size) {
                function.bar_write(bar, at, bytes);
                function.bar_read(bar, at, &mut back);
            }
        }
        3 => function.pause(),
        4 => function.resume(),
        5 => function.reset(),
        6 => {
            // The end of RAM is refused.
            let _ = ram.write_slice(bytes, GuestAddress(offset.into()));
        }
        _ => {
            function.detached();
            function.connect_intx(Arc::new(Line));
        }
    }
}

/// Each device as it saves itself, and drivers that bring it up.
pub fn fuzz_function_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let ranges = [(GuestAddress(0), RAM_BYTES)];
    let Ok(ram) = GuestRam::from_ranges(&ranges).map(Arc::new) else {
        return seeds;
    };
    for choice in [0u8, 1, 2, 4] {
        let mut accesses = Vec::new();
        let mut access = |kind: u8, offset: u16, bytes: &[u8]| {
            accesses.push(kind);
            accesses.extend(offset.to_le_bytes());
            accesses.push(u8::try_from(bytes.len()).unwrap_or(0));
            accesses.extend(bytes);
        };
        access(0, 4, &[6, 0]);
        // Acknowledge, driver, the features VERSION_1 and none below, features ok (virtio 1.2, sections 3.1.1 and 4.1.4.3).
        access(1, 0x14, &[1]);
        access(1, 0x14, &[3]);
        access(1, 0x08, &[1, 0, 0, 0]);
        access(1, 0x0c, &[1, 0, 0, 0]);
        access(1, 0x14, &[0xb]);
        for queue in 0..2u8 {
            access(1, 0x16, &[queue, 0]);
            access(1, 0x18, &[16, 0]);
            access(1, 0x20, &[0, 0x10 * queue, 0, 0]);
            access(1, 0x28, &[0, 0x10 * queue + 2, 0, 0]);
            access(1, 0x30, &[0, 0x10 * queue + 4, 0, 0]);
            access(1, 0x1c, &[1, 0]);
        }
        access(1, 0x14, &[0xf]);
        access(6, 0x200, &[0, 0, 1, 0]);
        access(1, 0x3000, &[0, 0]);
        access(3, 0, &[]);
        access(4, 0, &[]);
        let mut seed = vec![choice, 0, 0];
        seed.extend(&accesses);
        seeds.push(seed);
        let saved = make(choice, &ram).and_then(|made| made.function.save().ok());
        if let Some(saved) = saved {
            let length = u16::try_from(saved.len()).unwrap_or(0);
            let mut seed = vec![choice];
            seed.extend(length.to_le_bytes());
            seed.extend(saved);
            seed.extend(&accesses);
            seeds.push(seed);
        }
    }
    seeds
}
