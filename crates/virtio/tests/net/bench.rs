//! A device on a wire, and a driver that is up.

#![allow(dead_code)]

use crate::driver::host::{Host, SocketNic, Wires};
use crate::driver::ring::{Buffer, DriverQueue};
use crate::driver::{DRIVER_OK, Driver, NEEDS_RESET, VERSION_1, until};
use memory::GuestRam;
use std::sync::{Arc, Mutex};
use virtio::features::{net, ring};
use virtio::{MacAddr, NetBackend, NetConfig, NetEvent, NetListener, VirtioNet};
use vm_memory::{Bytes, GuestAddress};

pub(crate) const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x6f, 0x55, 0xcc]);
pub(crate) const HEADER: usize = 12;
/// Four vectors come with one queue pair: receive, transmit, control, configuration.
pub(crate) const CONFIG_VECTOR: usize = 3;
pub(crate) const BUFFER_BYTES: u32 = 1536;

#[derive(Default)]
pub(crate) struct Events(pub(crate) Mutex<Vec<NetEvent>>);

impl Events {
    pub(crate) fn take(&self) -> Vec<NetEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl NetListener for Events {
    fn net_event(&self, event: NetEvent) {
        self.0.lock().unwrap().push(event);
    }
}

pub(crate) struct Bench {
    pub(crate) device: Arc<VirtioNet>,
    pub(crate) events: Arc<Events>,
    pub(crate) nic: Arc<SocketNic>,
    pub(crate) wires: Wires,
    pub(crate) host: Arc<Host>,
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) driver: Driver,
}

pub(crate) fn ram() -> Arc<GuestRam> {
    let regions = [
        (GuestAddress(0), 32 << 20),
        (GuestAddress(1 << 32), 16 << 20),
    ];
    Arc::new(GuestRam::from_ranges(&regions).unwrap())
}

pub(crate) fn config() -> NetConfig {
    NetConfig {
        failover: true,
        mtu: Some(1500),
        ..NetConfig::new("virtio-net-pci 'net1'", MAC)
    }
}

pub(crate) fn bench_with(config: NetConfig, vnet_header: bool) -> Bench {
    let (nic, wires) = SocketNic::new(usize::from(config.queue_pairs), vnet_header);
    let backend = Arc::clone(&nic) as Arc<dyn NetBackend>;
    let (device, driver, events) = device_on(config, backend);
    Bench {
        device,
        events,
        nic,
        wires,
        host: Arc::clone(&driver.host),
        ram: Arc::clone(&driver.ram),
        driver,
    }
}

pub(crate) fn device_on(
    config: NetConfig,
    backend: Arc<dyn NetBackend>,
) -> (Arc<VirtioNet>, Driver, Arc<Events>) {
    let (host, ram, events) = (Host::new(), ram(), Arc::new(Events::default()));
    let device = VirtioNet::new(
        config,
        backend,
        Arc::clone(&ram),
        Arc::clone(&host) as Arc<_>,
        Arc::clone(&events) as Arc<_>,
    )
    .unwrap();
    let driver = Driver::probe(Arc::clone(device.function()) as Arc<_>, &host, &ram);
    (device, driver, events)
}

pub(crate) fn bench() -> Bench {
    bench_with(config(), true)
}

/// A driver that is up: queues of one pair and the control queue.
pub(crate) struct Up {
    pub(crate) rx: DriverQueue,
    pub(crate) tx: DriverQueue,
    pub(crate) control: DriverQueue,
    /// Receive buffers by head.
    pub(crate) buffers: std::collections::HashMap<u16, u64>,
    pub(crate) tx_buffer: u64,
    pub(crate) control_buffer: u64,
}

pub(crate) const USUAL: u64 = VERSION_1
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

pub(crate) fn bring_up(driver: &mut Driver, features: u64, msix: bool) -> Up {
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
    pub(crate) fn post(&mut self, driver: &mut Driver, count: usize, bytes: u32) {
        for _ in 0..count {
            let address = driver.allocate(u64::from(bytes), 64);
            self.post_at(address, bytes);
        }
        driver.kick(&mut self.rx);
    }

    pub(crate) fn post_at(&mut self, address: u64, bytes: u32) {
        let head = self.rx.add(&[Buffer {
            address,
            len: bytes,
            writable: true,
        }]);
        self.buffers.insert(head, address);
    }

    /// The next received frame with its header, of however many buffers; and gives the buffers back.
    pub(crate) fn poll(&mut self, ram: &GuestRam, bytes: u32) -> Option<Vec<u8>> {
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

    pub(crate) fn read(&self, ram: &GuestRam, head: u16, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        ram.read_slice(&mut bytes, GuestAddress(self.buffers[&head]))
            .unwrap();
        bytes
    }

    pub(crate) fn receive(&mut self, driver: &Driver) -> Vec<u8> {
        let frame = until("a frame", || self.poll(&driver.ram, BUFFER_BYTES));
        driver.kick(&mut self.rx);
        frame
    }

    /// Queues a frame (with header) for transmission in two buffers.
    pub(crate) fn send(&mut self, driver: &Driver, frame: &[u8]) {
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

    pub(crate) fn command(&mut self, driver: &Driver, class: u8, code: u8, data: &[u8]) -> u8 {
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
pub(crate) fn frame(len: usize, seed: u8) -> Vec<u8> {
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
