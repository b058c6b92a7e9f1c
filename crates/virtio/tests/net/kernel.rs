//! Queue pairs in the hands of another than the device: that they go over and come back whole. Here that other is a thread
//! that serves rings as vhost does; `net`'s tests do the same with the real one, where there is one.

use crate::bench::*;
use crate::driver::host::{SocketNic, Wires};
use crate::driver::ring::Buffer;
use crate::driver::{Driver, NEEDS_RESET, until, wait_interrupt};
use memory::GuestRam;
use pci::PciDevice;
use rustix::net::RecvFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use virtio::features::{net, ring};
use virtio::{IoBuffer, KernelPairs, KernelRing, NetBackend, NetConfig, Offloads, VirtioNet};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A ring as its server sees it.
struct Ring {
    ram: Arc<GuestRam>,
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    next_used: u16,
    call: Arc<Mutex<EventFd>>,
}

impl Ring {
    fn new(ram: &Arc<GuestRam>, ring: &KernelRing<'_>) -> Self {
        let next_used = ram
            .load(GuestAddress(ring.used + 2), Ordering::Acquire)
            .unwrap();
        Self {
            ram: Arc::clone(ram),
            size: ring.size,
            descriptors: ring.descriptors,
            available: ring.available,
            used: ring.used,
            next_available: ring.next_available,
            next_used,
            call: Arc::new(Mutex::new(ring.call.try_clone().unwrap())),
        }
    }

    /// The available chain `ahead` of the next one: head, and address and length of each buffer.
    fn chain(&self, ahead: u16) -> Option<(u16, Vec<(u64, usize)>)> {
        let index: u16 = self
            .ram
            .load(GuestAddress(self.available + 2), Ordering::Acquire)
            .unwrap();
        let at = self.next_available.wrapping_add(ahead);
        if index.wrapping_sub(self.next_available) <= ahead {
            return None;
        }
        let slot = self.available + 4 + 2 * u64::from(at % self.size);
        let head: u16 = self.ram.read_obj(GuestAddress(slot)).unwrap();
        let mut buffers = Vec::new();
        let mut index = head;
        loop {
            let mut entry = [0; 16];
            let at = self.descriptors + 16 * u64::from(index);
            self.ram.read_slice(&mut entry, GuestAddress(at)).unwrap();
            let address = u64::from_le_bytes(entry[..8].try_into().unwrap());
            let len = u32::from_le_bytes(entry[8..12].try_into().unwrap());
            buffers.push((address, len as usize));
            if entry[12] & 1 == 0 {
                return Some((head, buffers));
            }
            index = u16::from_le_bytes([entry[14], entry[15]]);
        }
    }

    fn give(&mut self, used: &[(u16, usize)]) {
        for (head, bytes) in used {
            let slot = self.used + 4 + 8 * u64::from(self.next_used % self.size);
            let element = u64::from(*head) | (*bytes as u64) << 32;
            self.ram.write_obj(element, GuestAddress(slot)).unwrap();
            self.next_used = self.next_used.wrapping_add(1);
            self.next_available = self.next_available.wrapping_add(1);
        }
        let index = GuestAddress(self.used + 2);
        self.ram
            .store(self.next_used, index, Ordering::Release)
            .unwrap();
        self.call.lock().unwrap().write(1).unwrap();
    }

    fn receive(&mut self, wire: &UnixDatagram) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        let Ok((_, bytes)) = rustix::net::recv(wire, &mut [0u8; 1][..], flags) else {
            return false;
        };
        let (mut room, mut chains) = (0, Vec::new());
        while room < bytes {
            let Some(chain) = self.chain(u16::try_from(chains.len()).unwrap()) else {
                return false;
            };
            room += chain.1.iter().map(|(_, len)| len).sum::<usize>();
            chains.push(chain);
        }
        let mut frame = vec![0; bytes];
        assert_eq!(wire.recv(&mut frame).unwrap(), bytes);
        frame[10..12].copy_from_slice(&u16::try_from(chains.len()).unwrap().to_le_bytes());
        let mut rest = frame.as_slice();
        let mut used = Vec::new();
        for (head, buffers) in chains {
            let before = rest.len();
            for (address, len) in buffers {
                let (here, after) = rest.split_at(len.min(rest.len()));
                self.ram.write_slice(here, GuestAddress(address)).unwrap();
                rest = after;
            }
            used.push((head, before - rest.len()));
        }
        self.give(&used);
        true
    }

    fn transmit(&mut self, wire: &UnixDatagram) -> bool {
        let Some((head, buffers)) = self.chain(0) else {
            return false;
        };
        let mut frame = Vec::new();
        for (address, len) in buffers {
            let at = frame.len();
            frame.resize(at + len, 0);
            self.ram
                .read_slice(&mut frame[at..], GuestAddress(address))
                .unwrap();
        }
        if wire.send(&frame).is_err() {
            return false;
        }
        self.give(&[(head, 0)]);
        true
    }
}

struct Serving {
    stop: Arc<AtomicBool>,
    calls: [Arc<Mutex<EventFd>>; 2],
    thread: JoinHandle<[u16; 2]>,
}

/// The server of rings, and the NIC it serves.
struct Kernel {
    ram: Mutex<Option<Arc<GuestRam>>>,
    nic: Arc<SocketNic>,
    serving: Mutex<Option<Serving>>,
    failure: EventFd,
    starts: AtomicU32,
    refuses: AtomicBool,
    understands: u64,
}

impl KernelPairs for Kernel {
    fn ring_features(&self) -> u64 {
        self.understands
    }

    fn start(&self, pair: u16, features: u64, rings: [KernelRing<'_>; 2]) -> io::Result<()> {
        assert_ne!(features & ring::VERSION_1, 0);
        if self.refuses.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let _ = self.failure.read();
        let ram = self.ram.lock().unwrap().clone().unwrap();
        let [mut rx, mut tx] = rings.map(|ring| Ring::new(&ram, &ring));
        let calls = [Arc::clone(&rx.call), Arc::clone(&tx.call)];
        let wire = self.nic.near[usize::from(pair)].try_clone().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if !(rx.receive(&wire) | tx.transmit(&wire)) {
                    std::thread::yield_now();
                }
            }
            [rx.next_available, tx.next_available]
        });
        let serving = Serving {
            stop,
            calls,
            thread,
        };
        assert!(self.serving.lock().unwrap().replace(serving).is_none());
        self.starts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn set_call(&self, _: u16, ring: usize, call: &EventFd) -> io::Result<()> {
        let serving = self.serving.lock().unwrap();
        *serving.as_ref().unwrap().calls[ring].lock().unwrap() = call.try_clone()?;
        Ok(())
    }

    fn stop(&self, _: u16) -> [Option<u16>; 2] {
        let serving = self.serving.lock().unwrap().take().unwrap();
        serving.stop.store(true, Ordering::SeqCst);
        let [rx, tx] = serving.thread.join().unwrap();
        // The transmit ring says it itself.
        assert_ne!((rx, tx), (0xffff, 0xffff));
        [Some(rx), None]
    }

    fn failure_fd(&self, _: u16) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open as long as `self` is.
        #[allow(unsafe_code)]
        Some(unsafe { BorrowedFd::borrow_raw(self.failure.as_raw_fd()) })
    }
}

impl NetBackend for Kernel {
    fn vnet_header(&self) -> bool {
        true
    }

    fn offloads(&self) -> Offloads {
        self.nic.offloads()
    }

    fn recv(&self, pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        assert!(!self.serves(), "the frames are another's");
        self.nic.recv(pair, into)
    }

    fn send(&self, pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        assert!(!self.serves(), "the frames are another's");
        self.nic.send(pair, from)
    }

    fn poll_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        Some(self.nic.near[usize::from(pair)].as_fd())
    }

    fn kernel(&self) -> Option<&dyn KernelPairs> {
        Some(self)
    }
}

impl Kernel {
    fn new() -> (Self, Wires) {
        let (nic, wires) = SocketNic::new(1, true);
        let kernel = Self {
            ram: Mutex::default(),
            nic,
            serving: Mutex::default(),
            failure: EventFd::new(EFD_NONBLOCK).unwrap(),
            starts: AtomicU32::new(0),
            refuses: AtomicBool::new(false),
            understands: u64::MAX,
        };
        (kernel, wires)
    }

    fn serves(&self) -> bool {
        self.serving.lock().unwrap().is_some()
    }
}

struct Rig {
    kernel: Arc<Kernel>,
    device: Arc<VirtioNet>,
    driver: Driver,
    wire: UnixDatagram,
}

fn rig() -> Rig {
    let (kernel, mut wires) = Kernel::new();
    let kernel = Arc::new(kernel);
    let (device, driver, _) = device_on(config(), Arc::clone(&kernel) as Arc<_>);
    *kernel.ram.lock().unwrap() = Some(Arc::clone(&driver.ram));
    Rig {
        kernel,
        device,
        driver,
        wire: wires.remove(0),
    }
}

impl Rig {
    fn until_served(&self, by_kernel: bool) {
        until("the other serves", || {
            (self.kernel.serves() == by_kernel).then_some(())
        });
    }

    /// A frame each way.
    fn exchange(&mut self, up: &mut Up, seed: u8) {
        self.wire.send(&frame(100, seed)).unwrap();
        assert_eq!(
            up.receive(&self.driver)[HEADER..],
            frame(100, seed)[HEADER..]
        );
        up.send(&self.driver, &frame(90, seed));
        let mut out = vec![0; 1 << 17];
        let len = self.wire.recv(&mut out).unwrap();
        assert_eq!(out[HEADER..len], frame(90, seed)[HEADER..]);
        until("the frame's buffers", || up.tx.used());
    }
}

#[test]
fn rings_go_over_and_come_back() {
    for msix in [true, false] {
        let mut rig = rig();
        let mut up = bring_up(&mut rig.driver, USUAL, msix);
        up.post(&mut rig.driver, 100, BUFFER_BYTES);
        rig.until_served(true);
        rig.exchange(&mut up, 1);
        if msix {
            wait_interrupt(&rig.driver.host, 0);
            wait_interrupt(&rig.driver.host, 1);
        } else {
            // Over the worker to the line.
            until("an interrupt", || {
                let mut isr = [0];
                let place = rig.driver.structures[&3];
                let function = &rig.driver.function;
                function.bar_read(place.bar, place.offset, &mut isr);
                (isr[0] & 1 != 0).then_some(())
            });
        }
        assert_eq!(rig.device.counters().rx_frames, 0);
        // The control queue is the device's all the same.
        assert_eq!(up.command(&rig.driver, 0, 0, &[0]), 0);
        rig.exchange(&mut up, 2);
        // Link down: frames are lost, by the device.
        rig.device.set_link(false);
        rig.until_served(false);
        rig.wire.send(&frame(100, 9)).unwrap();
        until("a frame that is lost", || {
            (rig.device.counters().rx_dropped == 1).then_some(())
        });
        rig.device.set_link(true);
        rig.until_served(true);
        rig.exchange(&mut up, 3);
        // A pause takes the rings, and what comes meanwhile waits on the wire.
        rig.device.function().pause();
        assert!(!rig.kernel.serves());
        rig.wire.send(&frame(100, 4)).unwrap();
        rig.device.function().resume();
        assert_eq!(up.receive(&rig.driver)[HEADER..], frame(100, 4)[HEADER..]);
        rig.until_served(true);
        // A reset too, and the driver that comes up again finds all as new.
        rig.driver.set_status(0);
        assert!(!rig.kernel.serves());
        let mut up = bring_up(&mut rig.driver, USUAL, msix);
        up.post(&mut rig.driver, 100, BUFFER_BYTES);
        rig.until_served(true);
        rig.exchange(&mut up, 5);
        assert_eq!(rig.driver.status() & NEEDS_RESET, 0);
    }
}

#[test]
fn state_moves_between_kernel_and_user_space_in_the_middle_of_traffic() {
    const FRAMES: u32 = 600;
    let mut rig = rig();
    let mut up = bring_up(&mut rig.driver, USUAL, true);
    up.post(&mut rig.driver, 120, BUFFER_BYTES);
    rig.until_served(true);
    let wire = rig.wire.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for number in 0..FRAMES {
            let mut sent = frame(200 + (number as usize * 37) % 9000, 1);
            sent[HEADER + 14..HEADER + 18].copy_from_slice(&number.to_le_bytes());
            wire.send(&sent).unwrap();
        }
    });
    let number_of =
        |frame: &[u8]| u32::from_le_bytes(frame[HEADER + 14..HEADER + 18].try_into().unwrap());
    let mut out = vec![0; 1 << 17];
    let mut device = Arc::clone(&rig.device);
    for expected in 0..FRAMES {
        let got = up.receive(&rig.driver);
        assert_eq!(number_of(&got), expected, "lost or doubled");
        let mut sent = frame(300, 5);
        sent[HEADER + 14..HEADER + 18].copy_from_slice(&expected.to_le_bytes());
        up.send(&rig.driver, &sent);
        let len = rig.wire.recv(&mut out).unwrap();
        assert_eq!(number_of(&out[..len]), expected);
        until("the frame's buffers", || up.tx.used());
        if expected % 40 == 20 {
            // To a device whose frames never pass the kernel, and back.
            let in_kernel = (expected / 40) % 2 == 1;
            device.function().pause();
            assert!(!rig.kernel.serves());
            let state = device.function().save().unwrap();
            let backend: Arc<dyn NetBackend> = if in_kernel {
                Arc::clone(&rig.kernel) as _
            } else {
                Arc::clone(&rig.kernel.nic) as _
            };
            let next = VirtioNet::new(
                config(),
                backend,
                Arc::clone(&rig.driver.ram),
                Arc::clone(&rig.driver.host) as Arc<_>,
                Arc::new(Events::default()) as Arc<_>,
            )
            .unwrap();
            let version = device.function().state_version();
            next.function().restore(version, &state).unwrap();
            device.function().detached();
            rig.driver.function = Arc::clone(next.function()) as Arc<_>;
            rig.driver.use_doorbells = false;
            next.function().resume();
            device = next;
        }
    }
    sender.join().unwrap();
    assert!(rig.kernel.starts.load(Ordering::SeqCst) >= 7);
}

#[test]
fn a_kernel_that_fails_is_taken_over_from() {
    let mut rig = rig();
    let mut up = bring_up(&mut rig.driver, USUAL, true);
    up.post(&mut rig.driver, 100, BUFFER_BYTES);
    rig.until_served(true);
    rig.exchange(&mut up, 1);
    rig.kernel.failure.write(1).unwrap();
    rig.until_served(false);
    rig.exchange(&mut up, 2);
    // It is not tried again because the link changes, but when the driver comes up anew.
    rig.device.set_link(false);
    rig.device.set_link(true);
    rig.exchange(&mut up, 3);
    assert_eq!(rig.kernel.starts.load(Ordering::SeqCst), 1);
    rig.driver.set_status(0);
    let mut up = bring_up(&mut rig.driver, USUAL, true);
    up.post(&mut rig.driver, 100, BUFFER_BYTES);
    rig.until_served(true);
    rig.exchange(&mut up, 4);
    // One that refuses to start is done without.
    rig.driver.set_status(0);
    rig.kernel.refuses.store(true, Ordering::SeqCst);
    let mut up = bring_up(&mut rig.driver, USUAL, true);
    up.post(&mut rig.driver, 100, BUFFER_BYTES);
    rig.exchange(&mut up, 5);
    assert!(!rig.kernel.serves());
    assert_eq!(rig.driver.status() & NEEDS_RESET, 0);
}

#[test]
fn interrupts_follow_the_vector() {
    let mut rig = rig();
    let mut up = bring_up(&mut rig.driver, USUAL, true);
    up.post(&mut rig.driver, 100, BUFFER_BYTES);
    rig.until_served(true);
    rig.driver.write_common(0x16, 2, 0);
    rig.driver.write_common(0x1a, 2, 2);
    // The change itself interrupts, by the new vector: from then on the kernel uses it.
    wait_interrupt(&rig.driver.host, 2);
    while rig.driver.host.interrupted(0) {}
    rig.exchange(&mut up, 1);
    wait_interrupt(&rig.driver.host, 2);
    assert!(!rig.driver.host.interrupted(0));
}

#[test]
fn what_the_kernel_does_not_understand_is_not_offered() {
    let (mut kernel, _wires) = Kernel::new();
    kernel.understands = ring::VERSION_1 | net::MRG_RXBUF;
    let (_device, driver, _) = device_on(config(), Arc::new(kernel));
    let offered = driver.offered();
    assert_eq!(offered & (ring::EVENT_IDX | ring::INDIRECT_DESC), 0);
    assert_ne!(offered & net::MRG_RXBUF, 0);
    let user_space = bench().driver.offered();
    let missing = ring::EVENT_IDX | ring::INDIRECT_DESC;
    assert_eq!(
        offered | missing,
        user_space & !net::MTU | offered & net::MTU
    );
}

/// The kernel would write beyond the first region's end, into whatever this process has there.
#[test]
fn a_ring_over_the_end_of_a_region_stays_here() {
    let (kernel, mut wires) = Kernel::new();
    let kernel = Arc::new(kernel);
    let half = 16 << 20;
    let regions = [(GuestAddress(0), half), (GuestAddress(half as u64), half)];
    let ram = Arc::new(GuestRam::from_ranges(&regions).unwrap());
    *kernel.ram.lock().unwrap() = Some(Arc::clone(&ram));
    let host = crate::driver::host::Host::new();
    let device = VirtioNet::new(
        NetConfig::new("virtio-net-pci 'net1'", MAC),
        Arc::clone(&kernel) as Arc<_>,
        Arc::clone(&ram),
        Arc::clone(&host) as Arc<_>,
        Arc::new(Events::default()) as Arc<_>,
    )
    .unwrap();
    let mut driver = Driver::probe(Arc::clone(device.function()) as Arc<_>, &host, &ram);
    driver.enable_msix(4);
    assert!(driver.negotiate(virtio::features::ring::VERSION_1 | net::MRG_RXBUF));
    // The descriptor table of the receive queue begins 64 bytes before the second region.
    driver.free = half as u64 - 64;
    let rx = driver.queue(0, 256);
    assert_eq!(rx.desc, half as u64 - 64);
    let mut tx = driver.queue(1, 256);
    driver.driver_ok();
    let slot = driver.allocate(4096, 64);
    let sent = frame(90, 1);
    ram.write_slice(&sent, GuestAddress(slot)).unwrap();
    tx.add(&[Buffer {
        address: slot,
        len: u32::try_from(sent.len()).unwrap(),
        writable: false,
    }]);
    driver.notify(&tx);
    let mut out = vec![0; 4096];
    let len = wires.remove(0).recv(&mut out).unwrap();
    assert_eq!(out[HEADER..len], sent[HEADER..]);
    assert_eq!(kernel.starts.load(Ordering::SeqCst), 0);
    assert_eq!(driver.status() & NEEDS_RESET, 0);
}
