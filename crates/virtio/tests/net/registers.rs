//! Identity, registers, negotiation, the interrupt line.

use crate::bench::*;
use crate::driver::host::{Host, Line, SocketNic};
use crate::driver::{DRIVER_OK, Driver, VERSION_1, until};
use pci::PciDevice;
use std::sync::Arc;
use virtio::features::{net, ring};
use virtio::{NetConfig, NetEvent, VirtioNet};

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
