//! A driver's side: drives a virtio function through `PciDevice` as Linux does, on real guest RAM.

#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod host;
pub(crate) mod ring;

use host::Host;
use memory::GuestRam;
use pci::PciDevice;
use ring::DriverQueue;
use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 0x40;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const BAR4_AT: u64 = 0xc0_0000_0000;

/// How long something may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Structure {
    pub(crate) bar: usize,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A function with its driver.
pub(crate) struct Driver {
    pub(crate) function: Arc<dyn PciDevice>,
    pub(crate) host: Arc<Host>,
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) structures: HashMap<u8, Structure>,
    pub(crate) notify_multiplier: u64,
    pub(crate) window: u16,
    pub(crate) msix_cap: u16,
    pub(crate) features: u64,
    /// Guest-physical address where the next queue's memory begins.
    pub(crate) free: u64,
    /// Ring doorbells rather than write to the region.
    pub(crate) use_doorbells: bool,
}

impl Driver {
    /// Finds the structures, switches memory and bus mastering on, maps vector n to queue n and the last to the
    /// configuration.
    pub(crate) fn probe(
        function: Arc<dyn PciDevice>,
        host: &Arc<Host>,
        ram: &Arc<GuestRam>,
    ) -> Self {
        let mut driver = Self {
            function,
            host: Arc::clone(host),
            ram: Arc::clone(ram),
            structures: HashMap::new(),
            notify_multiplier: 0,
            window: 0,
            msix_cap: 0,
            features: 0,
            free: 0x10_0000,
            use_doorbells: true,
        };
        driver.walk();
        // BAR 4 at a place above 4 GiB, memory and bus mastering on.
        driver.config_write32(0x20, BAR4_AT as u32);
        driver.config_write32(0x24, (BAR4_AT >> 32) as u32);
        driver.function.config_write(4, &6u16.to_le_bytes());
        let decode = driver.function.decode();
        assert!(decode.bus_master && decode.memory_enabled);
        assert_eq!(decode.bars[4].unwrap().base, BAR4_AT);
        driver.function.bar_placed(4, Some(BAR4_AT));
        driver
    }

    fn walk(&mut self) {
        let mut at = u16::from(self.config_read8(0x34));
        let mut seen = 0;
        while at != 0 {
            seen += 1;
            assert!(seen < 48, "the capabilities form a circle");
            match self.config_read8(at) {
                9 => {
                    let kind = self.config_read8(at + 3);
                    let structure = Structure {
                        bar: usize::from(self.config_read8(at + 4)),
                        offset: u64::from(self.config_read32(at + 8)),
                        length: u64::from(self.config_read32(at + 12)),
                    };
                    if kind == 2 {
                        self.notify_multiplier = u64::from(self.config_read32(at + 16));
                    }
                    if kind == 5 {
                        self.window = at;
                    } else {
                        self.structures.insert(kind, structure);
                    }
                }
                0x11 => self.msix_cap = at,
                _ => {}
            }
            at = u16::from(self.config_read8(at + 1));
        }
    }

    pub(crate) fn config_read8(&self, offset: u16) -> u8 {
        let mut data = [0];
        self.function.config_read(offset, &mut data);
        data[0]
    }

    pub(crate) fn config_read16(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.function.config_read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    pub(crate) fn config_read32(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.function.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn config_write32(&self, offset: u16, value: u32) {
        self.function.config_write(offset, &value.to_le_bytes());
    }

    pub(crate) fn enable_msix(&self, vectors: u16) {
        for vector in 0..u64::from(vectors) {
            let entry = vector * 16;
            let write = |offset, value: u32| {
                self.function
                    .bar_write(1, entry + offset, &value.to_le_bytes());
            };
            write(0, 0xfee0_0000);
            write(4, 0);
            write(8, 0x40 + u32::try_from(vector).unwrap());
            write(12, 0);
        }
        self.function
            .config_write(self.msix_cap + 2, &0x8000u16.to_le_bytes());
    }

    fn common(&self) -> Structure {
        self.structures[&1]
    }

    pub(crate) fn read_common(&self, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        let common = self.common();
        self.function
            .bar_read(common.bar, common.offset + offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }

    pub(crate) fn write_common(&self, offset: u64, len: usize, value: u64) {
        let common = self.common();
        self.function.bar_write(
            common.bar,
            common.offset + offset,
            &value.to_le_bytes()[..len],
        );
    }

    pub(crate) fn status(&self) -> u8 {
        u8::try_from(self.read_common(0x14, 1)).unwrap()
    }

    pub(crate) fn set_status(&self, status: u8) {
        self.write_common(0x14, 1, u64::from(status));
    }

    pub(crate) fn offered(&self) -> u64 {
        self.write_common(0, 4, 0);
        let low = self.read_common(4, 4);
        self.write_common(0, 4, 1);
        low | self.read_common(4, 4) << 32
    }

    /// Negotiates; whether the device agreed.
    pub(crate) fn negotiate(&mut self, features: u64) -> bool {
        self.set_status(0);
        assert_eq!(self.status(), 0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        self.write_common(8, 4, 0);
        self.write_common(12, 4, features & 0xffff_ffff);
        self.write_common(8, 4, 1);
        self.write_common(12, 4, features >> 32);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.features = features;
        self.status() & FEATURES_OK != 0
    }

    pub(crate) fn driver_ok(&self) {
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Memory that nobody else uses.
    pub(crate) fn allocate(&mut self, bytes: u64, align: u64) -> u64 {
        let at = self.free.next_multiple_of(align);
        self.free = at + bytes;
        at
    }

    /// Sets a queue up and enables it.
    pub(crate) fn queue(&mut self, index: u16, size: u16) -> DriverQueue {
        self.write_common(0x16, 2, u64::from(index));
        assert!(self.read_common(0x18, 2) >= u64::from(size));
        self.write_common(0x18, 2, u64::from(size));
        assert_eq!(self.read_common(0x18, 2), u64::from(size));
        let n = u64::from(size);
        let desc = self.allocate(16 * n, 16);
        let avail = self.allocate(6 + 2 * n, 2);
        let used = self.allocate(6 + 8 * n, 4);
        for (at, value) in [(0x20, desc), (0x28, avail), (0x30, used)] {
            self.write_common(at, 4, value & 0xffff_ffff);
            self.write_common(at + 4, 4, value >> 32);
        }
        if self.msix_cap != 0 {
            self.write_common(0x1a, 2, u64::from(index));
            assert_eq!(self.read_common(0x1a, 2), u64::from(index));
        }
        self.write_common(0x1c, 2, 1);
        let notify_off = self.read_common(0x1e, 2);
        let notify = self.structures[&2];
        let address = notify.offset + notify_off * self.notify_multiplier;
        DriverQueue::new(
            Arc::clone(&self.ram),
            index,
            size,
            [desc, avail, used],
            self.features & (1 << 29) != 0,
            address,
        )
    }

    /// Notifies, if the device wants to be.
    pub(crate) fn kick(&self, queue: &mut DriverQueue) {
        if queue.needs_kick() {
            self.notify(queue);
        }
    }

    pub(crate) fn notify(&self, queue: &DriverQueue) {
        let address = queue.notify_offset;
        if self.use_doorbells && self.host.ring_doorbell(BAR4_AT + address) {
            return;
        }
        let bar = self.structures[&2].bar;
        self.function
            .bar_write(bar, address, &queue.index.to_le_bytes());
    }

    pub(crate) fn device_config(&self, offset: u64, len: usize) -> u64 {
        let structure = self.structures[&4];
        let mut data = [0; 8];
        self.function
            .bar_read(structure.bar, structure.offset + offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }
}

/// Waits until `what` gives something.
pub(crate) fn until<T>(reason: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = what() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "never happened: {reason}");
        std::thread::yield_now();
    }
}

/// Waits for an interrupt of a vector, and consumes it.
pub(crate) fn wait_interrupt(host: &Host, vector: usize) {
    let fd = host.vector(vector);
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    #[allow(unsafe_code)]
    let ready = unsafe { libc::poll(&raw mut poll, 1, 60_000) };
    assert_eq!(ready, 1, "no interrupt of vector {vector}");
    fd.read().unwrap();
}
