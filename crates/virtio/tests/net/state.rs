//! Reset, and a state that moves to another device.

use crate::bench::*;
use crate::driver::{DRIVER_OK, FEATURES_OK, until, wait_interrupt};
use memory::GuestRam;
use pci::PciDevice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio::{NetConfig, VirtioNet};
use vm_memory::{Bytes, GuestAddress};

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
fn what_the_device_writes_is_marked_dirty() {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    for buffer_bytes in [BUFFER_BYTES, 256] {
        let mut bench = bench();
        let mut up = bring_up(&mut bench.driver, USUAL, true);
        bench.driver.free = bench.driver.free.next_multiple_of(4096);
        let first = bench.driver.free;
        // Enough for the window of the longest frame, or never enough: both ways into guest memory.
        let count = if buffer_bytes == BUFFER_BYTES {
            100
        } else {
            40
        };
        up.post(&mut bench.driver, count, buffer_bytes);
        let region = bench.ram.find_region(GuestAddress(0)).unwrap();
        let dirty = |at: u64| region.bitmap().dirty_at(usize::try_from(at).unwrap());
        let mapping: &vm_memory::MmapRegion<memory::RamBitmap> = region;
        mapping.bitmap().reset();
        bench.wires[0].send(&frame(8200, 1)).unwrap();
        until("a used buffer", || {
            let idx: u16 = bench
                .ram
                .load(GuestAddress(up.rx.used + 2), Ordering::Acquire)
                .unwrap();
            (idx != 0).then_some(())
        });
        assert!(dirty(up.rx.used));
        let end = first + 8212 - 1;
        assert!((first..=end).step_by(4096).chain([end]).all(dirty));
        assert!(!dirty(end + 4096));
        assert!(!dirty(up.tx.desc) || up.tx.desc / 4096 == up.rx.used / 4096);
    }
}

#[test]
fn an_interrupt_lost_on_the_way_is_repeated() {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 100, BUFFER_BYTES);
    up.rx.want_interrupt();
    bench.wires[0].send(&frame(80, 1)).unwrap();
    wait_interrupt(&bench.host, 0);
    bench.device.function().pause();
    let state = bench.device.function().save().unwrap();
    let (target, driver, _events) = device_on(config(), Arc::clone(&bench.nic) as Arc<_>);
    // The same RAM on both sides is not needed for this: the target's rings are empty, and valid.
    target.function().restore(1, &state).unwrap();
    target.function().resume();
    for vector in 0..3 {
        wait_interrupt(&driver.host, vector);
    }
    target.function().pause();
    target.function().resume();
    assert!(!driver.host.interrupted(0));
}
