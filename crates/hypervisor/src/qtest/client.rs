//! What stands in for the processors: accesses of any length to memory and ports.

use super::doorbells::Doorbells;
use super::interrupts::{InterruptListener, Interrupts};
use crate::Bus;
use memory::GuestRam;
use pci::IntxLine;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// The guest's clock, which moves only when it is told to.
pub trait GuestClock: Send + Sync {
    /// Nanoseconds since the machine was made.
    fn now_ns(&self) -> u64;

    /// Moves the clock forward to `ns`; a moment that has passed leaves it where it is.
    fn advance_to_ns(&self, ns: u64);
}

/// The widest access that reaches a register, as on a 32-bit bus: wider ones are split.
const WIDEST: usize = 4;

/// The client's view of the machine. A [`Bus`] whose memory accesses may have any length and include RAM.
///
/// Outside of RAM an access is split into aligned pieces of at most four bytes. What nobody claims reads zero in memory
/// (as QEMU has it for a client; a vCPU finds all ones) and all ones at ports. A write that rings a doorbell has
/// signalled it when it returns.
pub struct Client {
    ram: Arc<GuestRam>,
    doorbells: Arc<Doorbells>,
    interrupts: Arc<Interrupts>,
    bus: Arc<dyn Bus>,
}

impl Client {
    pub(super) fn new(
        ram: Arc<GuestRam>,
        doorbells: Arc<Doorbells>,
        interrupts: Arc<Interrupts>,
        bus: Arc<dyn Bus>,
    ) -> Self {
        Self {
            ram,
            doorbells,
            interrupts,
            bus,
        }
    }

    /// The client's own share of the interrupt line `gsi` (0..24).
    pub fn irq_line(&self, gsi: u32) -> Arc<dyn IntxLine> {
        self.interrupts.line(gsi)
    }

    /// From now on `listener` hears of each interrupt, until it is dropped.
    pub fn watch_interrupts(&self, listener: &Arc<dyn InterruptListener>) {
        self.interrupts.watch(listener);
    }

    /// Whether `len` bytes from `address` on are RAM, all of them in one piece.
    pub fn is_ram(&self, address: u64, len: u64) -> bool {
        self.ram
            .find_region(GuestAddress(address))
            .is_some_and(|region| {
                let offset = address - region.start_addr().0;
                len <= region.len() - offset
            })
    }

    /// Length of the piece of `left` bytes at `address`, and whether it is RAM.
    fn piece(&self, address: u64, left: usize) -> (usize, bool) {
        if let Some(region) = self.ram.find_region(GuestAddress(address)) {
            let room = region.len() - (address - region.start_addr().0);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            return (left.min(room), true);
        }
        let aligned = 1 << address.trailing_zeros().min(WIDEST.ilog2());
        let fits = 1 << left.min(WIDEST).checked_ilog2().unwrap_or(0);
        // RAM begins at page boundaries: an aligned piece never reaches into it.
        (left.min(fits.min(aligned)), false)
    }
}

impl Bus for Client {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        self.bus.port_read(port, data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        self.bus.port_write(port, data);
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0);
        let (mut address, mut rest) = (address, data);
        while !rest.is_empty() {
            let (len, ram) = self.piece(address, rest.len());
            let (now, later) = rest.split_at_mut(len);
            if !ram {
                self.bus.memory_read(address, now);
            } else if let Err(error) = self.ram.read_slice(now, GuestAddress(address)) {
                tracing::error!(address, %error, "guest RAM cannot be read");
            }
            let Some(next) = address.checked_add(len as u64) else {
                return;
            };
            (address, rest) = (next, later);
        }
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        let (mut address, mut rest) = (address, data);
        while !rest.is_empty() {
            let (len, ram) = self.piece(address, rest.len());
            let (now, later) = rest.split_at(len);
            if ram {
                if let Err(error) = self.ram.write_slice(now, GuestAddress(address)) {
                    tracing::error!(address, %error, "guest RAM cannot be written");
                }
            } else if !self.doorbells.ring(address, now) {
                self.bus.memory_write(address, now);
            }
            let Some(next) = address.checked_add(len as u64) else {
                return;
            };
            (address, rest) = (next, later);
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use std::sync::Mutex;

    /// A bus that writes down what reaches it and answers each byte with the low byte of its address.
    #[derive(Default)]
    pub(crate) struct Recorder(pub(crate) Mutex<Vec<String>>);

    impl Recorder {
        fn note(&self, what: String) {
            self.0.lock().unwrap().push(what);
        }

        pub(crate) fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Bus for Recorder {
        fn port_read(&self, port: u16, data: &mut [u8]) {
            self.note(format!("in {port:#x} {}", data.len()));
            if port != 0xffff {
                data.fill(0x12);
            }
        }

        fn port_write(&self, port: u16, data: &[u8]) {
            self.note(format!("out {port:#x} {data:02x?}"));
        }

        fn memory_read(&self, address: u64, data: &mut [u8]) {
            self.note(format!("read {address:#x} {}", data.len()));
            if address < 0xf000_0000 {
                for (at, byte) in (address..).zip(data) {
                    *byte = at.to_le_bytes()[0];
                }
            }
        }

        fn memory_write(&self, address: u64, data: &[u8]) {
            self.note(format!("write {address:#x} {data:02x?}"));
        }
    }

    /// A client with 64 KiB of RAM at 0 and a recorder behind it.
    pub(crate) fn client() -> (Arc<Client>, Arc<Recorder>, Arc<Doorbells>) {
        let config = memory::RamConfig::anonymous(1 << 16);
        let ram = memory::allocate(&config, &[memory::GuestRange::new(0, 1 << 16)]).unwrap();
        let ram = Arc::clone(ram.guest());
        let (bells, recorder) = (Arc::new(Doorbells::default()), Arc::<Recorder>::default());
        let interrupts = Interrupts::new(Arc::clone(&ram)).unwrap();
        let client = Client::new(ram, Arc::clone(&bells), interrupts, recorder.clone());
        (Arc::new(client), recorder, bells)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::client;
    use super::*;
    use pci::DoorbellWidth;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    #[test]
    fn an_access_across_the_end_of_ram_is_split_and_aligned() {
        let (client, bus, _) = client();
        client.memory_write(0xfffe, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(
            bus.take(),
            [
                "write 0x10000 [03, 04, 05, 06]",
                "write 0x10004 [07, 08]",
                "write 0x10006 [09]"
            ]
        );
        let mut data = [0; 4];
        client.memory_read(0xfffe, &mut data);
        assert_eq!(data, [1, 2, 0, 1]);
        assert_eq!(bus.take(), ["read 0x10000 2"]);
        assert!(client.is_ram(0xfff0, 16));
        assert!(!client.is_ram(0xfff0, 17));
    }

    #[test]
    fn what_nobody_claims_reads_zero_and_the_end_of_the_space_is_the_end() {
        let (client, bus, _) = client();
        let mut data = [0xaa; 8];
        client.memory_read(u64::MAX - 3, &mut data);
        assert_eq!(data, [0; 8]);
        client.memory_write(u64::MAX, &[1, 2]);
        assert_eq!(bus.take().len(), 2);
        let mut word = [0; 2];
        client.port_read(0xffff, &mut word);
        assert_eq!(word, [0xff; 2]);
    }

    #[test]
    fn a_doorbell_takes_the_write_that_rings_it() {
        let (client, bus, bells) = client();
        let fd = EventFd::new(EFD_NONBLOCK).unwrap();
        bells.add(0xe000_3000, DoorbellWidth::Word(1), &fd).unwrap();
        client.memory_write(0xe000_3000, &[1, 0]);
        assert_eq!(fd.read().unwrap(), 1);
        assert!(bus.take().is_empty());
        client.memory_write(0xe000_3000, &[2, 0]);
        assert!(fd.read().is_err());
        assert_eq!(bus.take(), ["write 0xe0003000 [02, 00]"]);
    }
}
