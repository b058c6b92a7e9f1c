//! Frames, filters, announcements, interrupts.

use crate::bench::*;
use crate::driver::ring::{Buffer, DriverQueue};
use crate::driver::{until, wait_interrupt};
use std::collections::HashMap;
use std::sync::Arc;
use virtio::features::{net, ring};
use virtio::{MacAddr, NetConfig, NetEvent, Offloads};
use vm_memory::{Bytes, GuestAddress};

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
        buffers: HashMap::new(),
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
        buffers: HashMap::new(),
        tx_buffer: driver.allocate(256 * 4096, 4096),
        control_buffer: 0,
    };
    driver.driver_ok();
    up.post(driver, 100, BUFFER_BYTES);
    second.post(driver, 100, BUFFER_BYTES);
    assert!(!bench.nic.enabled.lock().unwrap()[&1]);
    assert_eq!(bench.device.queue_pairs(), (2, 1));
    assert_eq!(up.command(&bench.driver, 4, 0, &3u16.to_le_bytes()), 1);
    assert_eq!(up.command(&bench.driver, 4, 0, &2u16.to_le_bytes()), 0);
    assert!(bench.nic.enabled.lock().unwrap()[&1]);
    assert_eq!(bench.device.queue_pairs(), (2, 2));
    let sent = frame(500, 4);
    bench.wires[1].send(&sent).unwrap();
    assert_eq!(second.receive(&bench.driver)[HEADER..], sent[HEADER..]);
    second.send(&bench.driver, &sent);
    let mut wire = vec![0; 4096];
    let count = bench.wires[1].recv(&mut wire).unwrap();
    assert_eq!(wire[..count], sent);
}
