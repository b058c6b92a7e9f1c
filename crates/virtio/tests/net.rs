//! The network device, driven as a guest's driver drives it, on a wire of datagram sockets.

#![allow(clippy::unwrap_used)]

mod driver;

use driver::host::{Host, Line, SocketNic, Wires};
use driver::ring::{Buffer, DriverQueue};
use driver::{DRIVER_OK, Driver, FEATURES_OK, NEEDS_RESET, VERSION_1, until, wait_interrupt};
use memory::GuestRam;
use pci::PciDevice;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use virtio::features::{net, ring};
use virtio::{MacAddr, NetConfig, NetEvent, NetListener, Offloads, VirtioNet};
use vm_memory::{Bytes, GuestAddress};

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x6f, 0x55, 0xcc]);
const HEADER: usize = 12;
/// Four vectors come with one queue pair: receive, transmit, control, configuration.
const CONFIG_VECTOR: usize = 3;
const BUFFER_BYTES: u32 = 1536;

#[derive(Default)]
struct Events(Mutex<Vec<NetEvent>>);

impl Events {
    fn take(&self) -> Vec<NetEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl NetListener for Events {
    fn net_event(&self, event: NetEvent) {
        self.0.lock().unwrap().push(event);
    }
}

struct Bench {
    device: Arc<VirtioNet>,
    events: Arc<Events>,
    nic: Arc<SocketNic>,
    wires: Wires,
    host: Arc<Host>,
    ram: Arc<GuestRam>,
    driver: Driver,
}

fn ram() -> Arc<GuestRam> {
    let regions = [
        (GuestAddress(0), 32 << 20),
        (GuestAddress(1 << 32), 16 << 20),
    ];
    Arc::new(GuestRam::from_ranges(&regions).unwrap())
}

fn config() -> NetConfig {
    NetConfig {
        failover: true,
        mtu: Some(1500),
        ..NetConfig::new("virtio-net-pci 'net1'", MAC)
    }
}

fn bench_with(config: NetConfig, vnet_header: bool) -> Bench {
    let (nic, wires) = SocketNic::new(usize::from(config.queue_pairs), vnet_header);
    let (host, ram, events) = (Host::new(), ram(), Arc::new(Events::default()));
    let device = VirtioNet::new(
        config,
        Arc::clone(&nic) as Arc<_>,
        Arc::clone(&ram),
        Arc::clone(&host) as Arc<_>,
        Arc::clone(&events) as Arc<_>,
    )
    .unwrap();
    let driver = Driver::probe(Arc::clone(device.function()) as Arc<_>, &host, &ram);
    Bench {
        device,
        events,
        nic,
        wires,
        host,
        ram,
        driver,
    }
}

fn bench() -> Bench {
    bench_with(config(), true)
}

/// A driver that is up: queues of one pair and the control queue.
struct Up {
    rx: DriverQueue,
    tx: DriverQueue,
    control: DriverQueue,
    /// Receive buffers by head.
    buffers: std::collections::HashMap<u16, u64>,
    tx_buffer: u64,
    control_buffer: u64,
}

const USUAL: u64 = VERSION_1
    | ring::EVENT_IDX
    | ring::INDIRECT_DESC
    | net::MAC
    | net::STATUS
    | net::MRG_RXBUF
    | net::CSUM
    | net::GUEST_CSUM
    | net::GUEST_TSO4
    | net::GUEST_TSO6
    | net::HOST_TSO4
    | net::HOST_TSO6
    | net::CTRL_VQ
    | net::CTRL_RX
    | net::CTRL_RX_EXTRA
    | net::CTRL_VLAN
    | net::CTRL_MAC_ADDR
    | net::CTRL_GUEST_OFFLOADS
    | net::GUEST_ANNOUNCE
    | net::STANDBY;

fn bring_up(driver: &mut Driver, features: u64, msix: bool) -> Up {
    if msix {
        driver.enable_msix(4);
    } else {
        driver.msix_cap = 0;
    }
    assert!(driver.negotiate(features));
    if msix {
        driver.write_common(0x10, 2, CONFIG_VECTOR as u64);
        assert_eq!(driver.read_common(0x10, 2), CONFIG_VECTOR as u64);
    }
    let rx = driver.queue(0, 256);
    let tx = driver.queue(1, 256);
    let control = driver.queue(2, 64);
    let tx_buffer = driver.allocate(256 * 4096, 4096);
    let control_buffer = driver.allocate(0x1_0000, 4096);
    driver.driver_ok();
    assert_eq!(driver.status() & (DRIVER_OK | NEEDS_RESET), DRIVER_OK);
    Up {
        rx,
        tx,
        control,
        buffers: std::collections::HashMap::new(),
        tx_buffer,
        control_buffer,
    }
}

impl Up {
    fn post(&mut self, driver: &mut Driver, count: usize, bytes: u32) {
        for _ in 0..count {
            let address = driver.allocate(u64::from(bytes), 64);
            self.post_at(address, bytes);
        }
        driver.kick(&mut self.rx);
    }

    fn post_at(&mut self, address: u64, bytes: u32) {
        let head = self.rx.add(&[Buffer {
            address,
            len: bytes,
            writable: true,
        }]);
        self.buffers.insert(head, address);
    }

    /// The next received frame with its header, of however many buffers; and gives the buffers back.
    fn poll(&mut self, ram: &GuestRam, bytes: u32) -> Option<Vec<u8>> {
        let (head, len) = self.rx.used()?;
        let mut frame = self.read(ram, head, len);
        let count = u16::from_le_bytes([frame[10], frame[11]]);
        let mut heads = vec![head];
        for _ in 1..count {
            let (head, len) = self.rx.used().expect("all buffers of a frame at once");
            frame.extend(self.read(ram, head, len));
            heads.push(head);
        }
        let free: Vec<u64> = heads
            .iter()
            .map(|head| self.buffers.remove(head).unwrap())
            .collect();
        for address in free {
            self.post_at(address, bytes);
        }
        Some(frame)
    }

    fn read(&self, ram: &GuestRam, head: u16, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        ram.read_slice(&mut bytes, GuestAddress(self.buffers[&head]))
            .unwrap();
        bytes
    }

    fn receive(&mut self, driver: &Driver) -> Vec<u8> {
        let frame = until("a frame", || self.poll(&driver.ram, BUFFER_BYTES));
        driver.kick(&mut self.rx);
        frame
    }

    /// Queues a frame (with header) for transmission in two buffers.
    fn send(&mut self, driver: &Driver, frame: &[u8]) {
        let slot = self.tx_buffer + 4096 * (self.tx.room() as u64 / 2);
        driver.ram.write_slice(frame, GuestAddress(slot)).unwrap();
        let buffer = |offset: usize, len: usize| Buffer {
            address: slot + offset as u64,
            len: u32::try_from(len).unwrap(),
            writable: false,
        };
        self.tx
            .add(&[buffer(0, HEADER), buffer(HEADER, frame.len() - HEADER)]);
        driver.kick(&mut self.tx);
    }

    fn command(&mut self, driver: &Driver, class: u8, code: u8, data: &[u8]) -> u8 {
        let at = self.control_buffer;
        driver
            .ram
            .write_slice(&[class, code], GuestAddress(at))
            .unwrap();
        driver.ram.write_slice(data, GuestAddress(at + 16)).unwrap();
        let answer = at + 0xfff0;
        driver.ram.write_obj(0xffu8, GuestAddress(answer)).unwrap();
        let mut chain = vec![Buffer {
            address: at,
            len: 2,
            writable: false,
        }];
        if !data.is_empty() {
            chain.push(Buffer {
                address: at + 16,
                len: u32::try_from(data.len()).unwrap(),
                writable: false,
            });
        }
        chain.push(Buffer {
            address: answer,
            len: 1,
            writable: true,
        });
        self.control.add(&chain);
        driver.kick(&mut self.control);
        until("an answer of the control queue", || self.control.used());
        driver.ram.read_obj(GuestAddress(answer)).unwrap()
    }
}

/// A frame with header, addressed to the device, filled from `seed`.
fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.extend(MAC.0);
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    let mut value = seed;
    frame.resize_with(HEADER + len, || {
        value = value.wrapping_mul(31).wrapping_add(7);
        value
    });
    frame
}

#[test]
fn identity_and_capabilities() {
    let bench = bench();
    let driver = &bench.driver;
    assert_eq!(driver.config_read32(0), 0x1041_1af4);
    assert_eq!(driver.config_read32(8), 0x0200_0001);
    assert_eq!(driver.notify_multiplier, 4);
    for (kind, offset) in [(1, 0), (3, 0x1000), (4, 0x2000), (2, 0x3000)] {
        let structure = driver.structures[&kind];
        assert_eq!((structure.bar, structure.offset), (4, offset));
        assert_eq!(structure.length, 0x1000);
    }
    let decode = bench.device.function().decode();
    assert_eq!(decode.bars[4].unwrap().size, 0x4000);
    assert!(decode.bars[4].unwrap().prefetchable);
    assert_eq!(decode.bars[1].unwrap().size, 0x1000);
    assert_eq!(bench.host.doorbell_count(), 3);
    assert_eq!(driver.device_config(0, 6).to_le_bytes()[..6], MAC.0);
    assert_eq!(driver.device_config(6, 2), 1);
    assert_eq!(driver.device_config(8, 2), 1);
    assert_eq!(driver.device_config(10, 2), 1500);
    let offered = driver.offered();
    assert_eq!(offered & USUAL, USUAL);
    assert_eq!(offered & net::MQ, 0);
    assert_ne!(offered & net::MTU, 0);
    // The window in configuration space: the number of queues, by two bytes at 0x12 of region 4.
    let function = &driver.function;
    function.config_write(driver.window + 4, &[4]);
    driver.config_write32(driver.window + 8, 0x12);
    driver.config_write32(driver.window + 12, 2);
    assert_eq!(driver.config_read16(driver.window + 16), 3);
    function.bar_placed(4, None);
    assert_eq!(bench.host.doorbell_count(), 0);
}

#[test]
fn negotiation_refuses_what_was_not_offered() {
    let mut bench = bench();
    assert!(!bench.driver.negotiate(VERSION_1 | net::MQ));
    assert!(!bench.driver.negotiate(net::MAC));
    assert!(bench.events.take().is_empty() || !bench.device.standby_negotiated());
    bench.events.take();
    assert!(bench.driver.negotiate(VERSION_1 | net::MAC));
    assert_eq!(
        bench.events.take(),
        [
            NetEvent::Reset,
            NetEvent::FeaturesNegotiated { standby: false }
        ]
    );
    assert!(!bench.device.standby_negotiated());
    assert!(bench.driver.negotiate(USUAL));
    assert_eq!(
        bench.events.take(),
        [
            NetEvent::Reset,
            NetEvent::FeaturesNegotiated { standby: true }
        ]
    );
    assert!(bench.device.standby_negotiated());
    bench.driver.set_status(0);
    assert!(!bench.device.standby_negotiated());
    assert_eq!(bench.events.take(), [NetEvent::Reset]);
    // A driver that is up without having agreed on features is not served.
    bench.driver.set_status(DRIVER_OK);
    assert_eq!(bench.driver.status() & DRIVER_OK, 0);
}

#[test]
fn properties_out_of_range_are_refused() {
    for config in [
        NetConfig {
            rx_queue_size: 128,
            ..config()
        },
        NetConfig {
            tx_queue_size: 2048,
            ..config()
        },
        NetConfig {
            queue_pairs: 0,
            ..config()
        },
        NetConfig {
            queue_pairs: 2,
            ..config()
        },
    ] {
        let (nic, _wires) = SocketNic::new(1, true);
        let made = VirtioNet::new(config, nic, ram(), Host::new(), Arc::new(Events::default()));
        assert!(made.is_err());
    }
    let failing = NetConfig {
        rx_queue_size: 300,
        ..config()
    };
    let (nic, _wires) = SocketNic::new(1, true);
    let error = VirtioNet::new(
        failing,
        nic,
        ram(),
        Host::new(),
        Arc::new(Events::default()),
    )
    .err()
    .unwrap();
    assert_eq!(
        error.to_string(),
        "virtio-net-pci 'net1': Invalid rx_queue_size (= 300), must be a power of 2 between 256 and 1024."
    );
}

#[test]
fn frames_pass_both_ways() {
    for (features, vnet_header, doorbells) in [
        (USUAL, true, true),
        (USUAL & !ring::EVENT_IDX, true, false),
        (USUAL & !net::MRG_RXBUF, true, true),
        (
            USUAL
                & !net::CSUM
                & !net::GUEST_CSUM
                & !net::GUEST_TSO4
                & !net::GUEST_TSO6
                & !net::HOST_TSO4
                & !net::HOST_TSO6
                & !net::CTRL_GUEST_OFFLOADS,
            false,
            true,
        ),
    ] {
        let mut bench = bench_with(config(), vnet_header);
        bench.driver.use_doorbells = doorbells;
        let mut up = bring_up(&mut bench.driver, features, true);
        up.post(&mut bench.driver, 100, BUFFER_BYTES);
        let skip = if vnet_header { 0 } else { HEADER };
        for round in 0..300u16 {
            let seed = round as u8;
            let sent = frame(60 + usize::from(round) * 4, seed);
            bench.wires[0].send(&sent[skip..]).unwrap();
            up.rx.want_interrupt();
            let mut got = up.receive(&bench.driver);
            assert_eq!(got[10..12], [1, 0]);
            got[10] = 0;
            assert_eq!(got, sent);

            up.send(&bench.driver, &sent);
            let mut wire = vec![0; 4096];
            let count = bench.wires[0].recv(&mut wire).unwrap();
            assert_eq!(wire[..count], sent[skip..]);
            until("the buffer back", || up.tx.used());
        }
        let counters = bench.device.counters();
        assert_eq!((counters.rx_frames, counters.tx_frames), (300, 300));
        assert_eq!(counters.rx_bytes, counters.tx_bytes);
        assert_eq!((counters.rx_dropped, counters.tx_dropped), (0, 0));
    }
}

#[test]
fn a_long_frame_fills_many_buffers_and_a_long_chain_is_one_frame() {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 128, BUFFER_BYTES);
    for len in [1524, 1525, 3059, 30_000, 65_550] {
        let sent = frame(len, 3);
        bench.wires[0].send(&sent).unwrap();
        let mut got = up.receive(&bench.driver);
        let buffers = (len + HEADER).div_ceil(BUFFER_BYTES as usize);
        assert_eq!(usize::from(u16::from_le_bytes([got[10], got[11]])), buffers);
        got[10] = 0;
        got[11] = 0;
        assert_eq!(got, sent);
    }
    // Sixteen pieces by an indirect table.
    let sent = frame(16 * 4096 - HEADER, 9);
    let at = bench.driver.allocate(16 * 4096, 4096);
    let table = bench.driver.allocate(16 * 16, 16);
    bench.ram.write_slice(&sent, GuestAddress(at)).unwrap();
    let chain: Vec<Buffer> = (0..16)
        .map(|i| Buffer {
            address: at + i * 4096,
            len: 4096,
            writable: false,
        })
        .collect();
    up.tx.add_indirect(table, &chain);
    bench.driver.kick(&mut up.tx);
    let mut wire = vec![0; 1 << 17];
    let count = bench.wires[0].recv(&mut wire).unwrap();
    assert!(wire[..count] == sent);
}

#[test]
fn few_and_small_buffers_still_carry_frames() {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    // Never enough for the longest frame: each one takes the way over the bounce buffer.
    up.post(&mut bench.driver, 10, 256);
    for len in [60, 1000, 2500] {
        let sent = frame(len, 5);
        bench.wires[0].send(&sent).unwrap();
        let mut got = until("a frame", || up.poll(&bench.ram, 256));
        bench.driver.kick(&mut up.rx);
        got[10] = 0;
        assert_eq!(got, sent);
    }
    // 4000 bytes wait until there is room.
    let sent = frame(4000, 6);
    bench.wires[0].send(&sent).unwrap();
    until("starvation", || {
        (bench.device.counters().rx_starved > 0).then_some(())
    });
    up.post(&mut bench.driver, 10, 256);
    let mut got = until("the frame that waited", || up.poll(&bench.ram, 256));
    got[10] = 0;
    assert_eq!(got, sent);
}

#[test]
fn control_queue_filters_frames() {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 100, BUFFER_BYTES);
    assert_eq!(
        bench.events.take(),
        [NetEvent::FeaturesNegotiated { standby: true }]
    );
    assert_eq!(up.command(&bench.driver, 0, 0, &[0]), 0);
    assert_eq!(bench.events.take(), [NetEvent::RxFilterChanged]);
    assert!(!bench.device.rx_filter().promiscuous);
    let other = MacAddr([2, 0, 0, 0, 0, 7]);
    let mut table = vec![1, 0, 0, 0];
    table.extend(other.0);
    table.extend([0; 4]);
    let mut to_other = frame(100, 1);
    to_other[HEADER..HEADER + 6].copy_from_slice(&other.0);
    bench.wires[0].send(&to_other).unwrap();
    until("a filtered frame", || {
        (bench.device.counters().rx_filtered == 1).then_some(())
    });
    assert_eq!(up.command(&bench.driver, 1, 0, &table), 0);
    bench.wires[0].send(&to_other).unwrap();
    let mut got = up.receive(&bench.driver);
    got[10] = 0;
    assert_eq!(got, to_other);
    // VLAN 5 is not wanted, then it is.
    let mut tagged = frame(100, 2);
    tagged[HEADER + 12..HEADER + 16].copy_from_slice(&[0x81, 0, 0, 5]);
    bench.wires[0].send(&tagged).unwrap();
    until("a filtered tag", || {
        (bench.device.counters().rx_filtered == 2).then_some(())
    });
    assert_eq!(up.command(&bench.driver, 2, 0, &5u16.to_le_bytes()), 0);
    bench.wires[0].send(&tagged).unwrap();
    let mut got = up.receive(&bench.driver);
    got[10] = 0;
    assert_eq!(got, tagged);
    assert_eq!(up.command(&bench.driver, 2, 0, &4096u16.to_le_bytes()), 1);
    // A new address shows in the configuration.
    assert_eq!(up.command(&bench.driver, 1, 1, &other.0), 0);
    assert_eq!(bench.device.mac(), other);
    assert_eq!(bench.device.configured_mac(), MAC);
    assert_eq!(bench.driver.device_config(0, 6).to_le_bytes()[..6], other.0);
    // Offloads within what was negotiated.
    let csum = Offloads::CSUM.bits().to_le_bytes();
    assert_eq!(up.command(&bench.driver, 5, 0, &csum), 0);
    assert_eq!(
        bench.nic.offloads_set.lock().unwrap().last(),
        Some(&Offloads::CSUM)
    );
    assert_eq!(
        up.command(&bench.driver, 5, 0, &Offloads::UFO.bits().to_le_bytes()),
        1
    );
    // Nonsense is answered, not believed.
    for (class, code, data) in [
        (0, 9, &[1][..]),
        (0, 0, &[]),
        (1, 0, &[255, 255, 255, 255, 0]),
        (1, 1, &[1, 2]),
        (4, 0, &[2, 0]),
        (9, 9, &[]),
    ] {
        assert_eq!(up.command(&bench.driver, class, code, data), 1);
    }
    bench.driver.set_status(0);
    assert_eq!(bench.device.mac(), MAC);
    assert!(bench.device.rx_filter().promiscuous);
}

#[test]
fn announcement_and_link() {
    let mut bench = bench();
    assert!(!bench.device.announce());
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 100, BUFFER_BYTES);
    bench.events.take();
    let generation = bench.driver.read_common(0x15, 1);
    assert!(bench.device.announce());
    wait_interrupt(&bench.host, CONFIG_VECTOR);
    assert_ne!(bench.driver.read_common(0x15, 1), generation);
    assert_eq!(bench.driver.device_config(6, 2), 3);
    assert_eq!(up.command(&bench.driver, 3, 0, &[]), 0);
    assert_eq!(bench.driver.device_config(6, 2), 1);
    assert_eq!(bench.events.take(), [NetEvent::AnnounceAcked]);

    bench.device.set_link(false);
    wait_interrupt(&bench.host, CONFIG_VECTOR);
    assert_eq!(bench.driver.device_config(6, 2), 0);
    bench.wires[0].send(&frame(100, 1)).unwrap();
    until("a lost frame", || {
        (bench.device.counters().rx_dropped == 1).then_some(())
    });
    up.send(&bench.driver, &frame(100, 2));
    until("the buffer back", || up.tx.used());
    assert_eq!(bench.device.counters().tx_dropped, 1);
    bench.device.set_link(true);
    wait_interrupt(&bench.host, CONFIG_VECTOR);
    let sent = frame(100, 3);
    bench.wires[0].send(&sent).unwrap();
    let mut got = up.receive(&bench.driver);
    got[10] = 0;
    assert_eq!(got, sent);
}

#[test]
fn interrupts_are_sparse_and_none_is_missing() {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 200, BUFFER_BYTES);
    // The driver polls: with the event index it set last, one interrupt at most comes.
    for round in 0..50 {
        bench.wires[0].send(&frame(80, round)).unwrap();
        up.receive(&bench.driver);
    }
    until("the first interrupt", || {
        bench.host.interrupted(0).then_some(())
    });
    assert!(!bench.host.interrupted(0));
    // The driver sleeps until each interrupt.
    for round in 0..50 {
        up.rx.want_interrupt();
        assert!(up.poll(&bench.ram, BUFFER_BYTES).is_none());
        bench.wires[0].send(&frame(80, round)).unwrap();
        wait_interrupt(&bench.host, 0);
        assert!(up.poll(&bench.ram, BUFFER_BYTES).is_some());
    }
}

#[test]
fn intx_raises_the_line_until_isr_is_read() {
    let mut bench = bench();
    let line = Arc::new(Line::default());
    bench
        .device
        .function()
        .connect_intx(Arc::clone(&line) as Arc<_>);
    let mut up = bring_up(&mut bench.driver, USUAL & !ring::EVENT_IDX, false);
    up.post(&mut bench.driver, 100, BUFFER_BYTES);
    bench.wires[0].send(&frame(80, 1)).unwrap();
    until("the line", || line.high().then_some(()));
    let isr = |driver: &Driver| {
        let mut byte = [0];
        driver.function.bar_read(4, 0x1000, &mut byte);
        byte[0]
    };
    assert_eq!(isr(&bench.driver), 1);
    assert!(!line.high());
    assert_eq!(isr(&bench.driver), 0);
    bench.device.set_link(false);
    assert!(line.high());
    // INTx disable takes the line down, not the cause.
    bench
        .driver
        .function
        .config_write(4, &0x406u16.to_le_bytes());
    assert!(!line.high());
    bench.driver.function.config_write(4, &6u16.to_le_bytes());
    assert!(line.high());
    assert_eq!(isr(&bench.driver), 2);
    assert!(!line.high());
}

#[test]
fn reset_and_bus_mastering_stop_the_workers() {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 100, BUFFER_BYTES);
    bench.wires[0].send(&frame(80, 1)).unwrap();
    up.receive(&bench.driver);
    let used_idx = |ram: &GuestRam, up: &Up| -> u16 {
        ram.load(GuestAddress(up.rx.used + 2), Ordering::Acquire)
            .unwrap()
    };
    // Bus mastering off: nothing is written, and it goes on where it stopped.
    bench.driver.function.config_write(4, &2u16.to_le_bytes());
    assert!(!bench.device.function().running());
    let before = used_idx(&bench.ram, &up);
    bench.wires[0].send(&frame(80, 2)).unwrap();
    assert_eq!(used_idx(&bench.ram, &up), before);
    bench.driver.function.config_write(4, &6u16.to_le_bytes());
    let got = up.receive(&bench.driver);
    assert_eq!(got[HEADER..], frame(80, 2)[HEADER..]);
    bench.driver.set_status(0);
    assert_eq!(bench.driver.status(), 0);
    assert!(!bench.device.function().running());
    let before = used_idx(&bench.ram, &up);
    bench.wires[0].send(&frame(80, 3)).unwrap();
    assert_eq!(used_idx(&bench.ram, &up), before);
    // It comes up again, and so it does after the machine's reset.
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 100, BUFFER_BYTES);
    assert_eq!(up.receive(&bench.driver)[HEADER..], frame(80, 3)[HEADER..]);
    bench.device.function().reset();
    assert!(!bench.device.function().running());
    assert!(!bench.device.function().decode().memory_enabled);
    assert_eq!(bench.driver.status(), 0);
}

#[test]
fn a_broken_ring_breaks_the_device_until_reset() {
    type Spoil = fn(&mut Up);
    let cases: [(&str, Spoil); 6] = [
        ("a buffer outside of RAM", |up| {
            up.tx.write_desc(0, 3 << 30, 100, 0, 0);
            up.tx.publish(0);
        }),
        ("a loop", |up| {
            up.tx.write_desc(0, 0x1000, 100, 1, 1);
            up.tx.write_desc(1, 0x1000, 100, 1, 0);
            up.tx.publish(0);
        }),
        ("a head beyond the table", |up| up.tx.publish(256)),
        ("an index far ahead", |up| {
            let at = GuestAddress(up.tx.avail + 2);
            up.tx.ram.store(5000u16, at, Ordering::Release).unwrap();
        }),
        ("an indirect table in an indirect table", |up| {
            up.tx.write_desc(0, 0x2000, 16, 4, 0);
            up.tx.write_entry(0x2000, 0, 0x2000, 16, 4, 0);
            up.tx.publish(0);
        }),
        ("a writable transmit buffer", |up| {
            up.tx.write_desc(0, 0x1000, 100, 2, 0);
            up.tx.publish(0);
        }),
    ];
    for (what, spoil) in cases {
        let mut bench = bench();
        let mut up = bring_up(&mut bench.driver, USUAL, true);
        up.post(&mut bench.driver, 100, BUFFER_BYTES);
        spoil(&mut up);
        bench.driver.notify(&up.tx);
        wait_interrupt(&bench.host, CONFIG_VECTOR);
        assert_eq!(bench.driver.status() & NEEDS_RESET, NEEDS_RESET, "{what}");
        bench.driver.set_status(0);
        assert_eq!(bench.driver.status(), 0);
        let mut up = bring_up(&mut bench.driver, USUAL, true);
        up.post(&mut bench.driver, 100, BUFFER_BYTES);
        bench.wires[0].send(&frame(80, 1)).unwrap();
        up.receive(&bench.driver);
    }
}

#[test]
fn a_queue_outside_of_ram_is_refused() {
    let mut bench = bench();
    bench.driver.enable_msix(4);
    assert!(bench.driver.negotiate(USUAL));
    bench.driver.queue(0, 256);
    bench.driver.queue(1, 256);
    bench.driver.write_common(0x16, 2, 2);
    bench.driver.write_common(0x20, 4, 0xffff_fff0);
    bench.driver.write_common(0x24, 4, 0xffff_ffff);
    bench.driver.write_common(0x1c, 2, 1);
    bench.driver.driver_ok();
    assert_eq!(bench.driver.status() & NEEDS_RESET, NEEDS_RESET);
    assert!(!bench.device.function().running());
}

#[test]
fn queue_pairs_are_switched_by_the_driver() {
    let mut bench = bench_with(
        NetConfig {
            queue_pairs: 2,
            ..config()
        },
        true,
    );
    let driver = &mut bench.driver;
    assert_ne!(driver.offered() & net::MQ, 0);
    assert_eq!(driver.device_config(8, 2), 2);
    driver.enable_msix(6);
    assert!(driver.negotiate(USUAL | net::MQ));
    let rx = driver.queue(0, 256);
    let tx = driver.queue(1, 256);
    let rx1 = driver.queue(2, 256);
    let tx1 = driver.queue(3, 256);
    let control = driver.queue(4, 64);
    let mut up = Up {
        rx,
        tx,
        control,
        buffers: std::collections::HashMap::new(),
        tx_buffer: driver.allocate(256 * 4096, 4096),
        control_buffer: driver.allocate(0x1_0000, 4096),
    };
    let mut second = Up {
        rx: rx1,
        tx: tx1,
        control: DriverQueue::new(
            Arc::clone(&bench.ram),
            9,
            2,
            [0x8000, 0x9000, 0xa000],
            false,
            0,
        ),
        buffers: std::collections::HashMap::new(),
        tx_buffer: driver.allocate(256 * 4096, 4096),
        control_buffer: 0,
    };
    driver.driver_ok();
    up.post(driver, 100, BUFFER_BYTES);
    second.post(driver, 100, BUFFER_BYTES);
    assert_eq!(bench.nic.enabled.lock().unwrap()[&1], false);
    assert_eq!(bench.device.queue_pairs(), (2, 1));
    assert_eq!(up.command(&bench.driver, 4, 0, &3u16.to_le_bytes()), 1);
    assert_eq!(up.command(&bench.driver, 4, 0, &2u16.to_le_bytes()), 0);
    assert_eq!(bench.nic.enabled.lock().unwrap()[&1], true);
    assert_eq!(bench.device.queue_pairs(), (2, 2));
    let sent = frame(500, 4);
    bench.wires[1].send(&sent).unwrap();
    assert_eq!(second.receive(&bench.driver)[HEADER..], sent[HEADER..]);
    second.send(&bench.driver, &sent);
    let mut wire = vec![0; 4096];
    let count = bench.wires[1].recv(&mut wire).unwrap();
    assert_eq!(wire[..count], sent);
}

#[test]
fn state_moves_in_the_middle_of_traffic() {
    for msix in [true, false] {
        let mut bench = bench();
        let mut up = bring_up(&mut bench.driver, USUAL, msix);
        up.post(&mut bench.driver, 120, BUFFER_BYTES);
        assert_eq!(up.command(&bench.driver, 0, 0, &[0]), 0);
        assert_eq!(up.command(&bench.driver, 2, 0, &7u16.to_le_bytes()), 0);
        assert!(bench.device.announce());
        let wire = bench.wires[0].try_clone().unwrap();
        const FRAMES: u32 = 600;
        let sender = std::thread::spawn(move || {
            for number in 0..FRAMES {
                let mut sent = frame(200 + (number as usize * 37) % 9000, 1);
                sent[HEADER + 14..HEADER + 18].copy_from_slice(&number.to_le_bytes());
                wire.send(&sent).unwrap();
            }
        });
        let number_of =
            |frame: &[u8]| u32::from_le_bytes(frame[HEADER + 14..HEADER + 18].try_into().unwrap());
        let mut expected = 0u32;
        let mut sent = 0u32;
        let mut moves = 0;
        let mut out = vec![0; 1 << 17];
        let mut device = Arc::clone(&bench.device);
        while expected < FRAMES {
            let got = up.receive(&bench.driver);
            assert_eq!(
                number_of(&got),
                expected,
                "lost or doubled, after {moves} moves"
            );
            expected += 1;
            // The other way as well: what was sent before a move arrives, once.
            while up.tx.used().is_some() {}
            let mut mine = frame(300, 8);
            mine[HEADER + 14..HEADER + 18].copy_from_slice(&sent.to_le_bytes());
            up.send(&bench.driver, &mine);
            if expected % 50 == 25 {
                device.function().pause();
                let state = device.function().save().unwrap();
                let version = device.function().state_version();
                let target = VirtioNet::new(
                    config(),
                    Arc::clone(&bench.nic) as Arc<_>,
                    Arc::clone(&bench.ram),
                    Arc::clone(&bench.host) as Arc<_>,
                    Arc::new(Events::default()),
                )
                .unwrap();
                // The source's doorbells go with it.
                device.function().bar_placed(4, None);
                target.function().restore(version, &state).unwrap();
                assert!(!target.function().running());
                assert!(target.standby_negotiated());
                assert_eq!(target.rx_filter(), device.rx_filter());
                let decode = target.function().decode();
                assert_eq!(decode, device.function().decode());
                target
                    .function()
                    .bar_placed(4, Some(decode.bars[4].unwrap().base));
                // Exactly what was saved is saved again.
                assert_eq!(target.function().save().unwrap(), state);
                device = target;
                bench.driver.function = Arc::clone(device.function()) as Arc<_>;
                assert_eq!(
                    bench.driver.status() & (DRIVER_OK | FEATURES_OK),
                    DRIVER_OK | FEATURES_OK
                );
                assert_eq!(bench.driver.device_config(6, 2), 3);
                device.function().resume();
                assert!(device.function().running());
                moves += 1;
            }
            let count = bench.wires[0].recv(&mut out).unwrap();
            assert_eq!(number_of(&out[..count]), sent);
            sent += 1;
        }
        sender.join().unwrap();
        assert!(moves >= 10);
        bench.wires[0].set_nonblocking(true).unwrap();
        assert!(
            bench.wires[0].recv(&mut out).is_err(),
            "a frame was sent twice"
        );
        assert!(up.poll(&bench.ram, BUFFER_BYTES).is_none());
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let mut bench = bench();
    let _up = bring_up(&mut bench.driver, USUAL, true);
    let state = bench.device.function().save().unwrap();
    assert!(
        bench.device.function().running(),
        "saving alone stops nothing"
    );
    let without = bench_with(
        NetConfig {
            failover: false,
            ..config()
        },
        true,
    );
    let error = without.device.function().restore(1, &state).unwrap_err();
    let offered = without.device.function().offered_features();
    assert_eq!(
        error.to_string(),
        format!(
            "virtio-net-pci 'net1': Features {USUAL:#x} unsupported. Allowed features: {offered:#x}"
        )
    );
    assert!(without.device.function().restore(2, &state).is_err());
    assert!(
        without
            .device
            .function()
            .restore(1, &state[..state.len() / 2])
            .is_err()
    );
    assert!(without.device.function().restore(1, &[]).is_err());
    let more_vectors = bench_with(
        NetConfig {
            vectors: Some(9),
            ..config()
        },
        true,
    );
    assert!(more_vectors.device.function().restore(1, &state).is_err());
    // A state with any byte changed is taken or refused, and the device lives on either way.
    for at in 0..state.len() {
        let mut spoiled = state.clone();
        spoiled[at] ^= 0x55;
        let target = &bench.device;
        let _ = target.function().restore(1, &spoiled);
        target.function().resume();
    }
    bench.device.function().reset();
    bench.device.function().resume();
}

#[test]
fn detached_and_put_back() {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 100, BUFFER_BYTES);
    bench.events.take();
    bench.device.function().bar_placed(4, None);
    bench.device.function().detached();
    assert_eq!(bench.host.doorbell_count(), 0);
    assert!(!bench.device.function().running());
    assert_eq!(bench.events.take(), [NetEvent::Reset]);
    bench.driver = Driver::probe(
        Arc::clone(bench.device.function()) as Arc<_>,
        &bench.host,
        &bench.ram,
    );
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 100, BUFFER_BYTES);
    bench.wires[0].send(&frame(80, 1)).unwrap();
    up.receive(&bench.driver);
}
