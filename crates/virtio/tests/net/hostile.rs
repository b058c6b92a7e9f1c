//! A driver that breaks its rings.

use crate::bench::*;
use crate::driver::{NEEDS_RESET, wait_interrupt};
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

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
