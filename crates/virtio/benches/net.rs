//! How fast frames pass between a wire of datagram sockets and a driver in the same process, beside what the
//! system calls alone cost. `cargo bench -p virtio`.

#![allow(clippy::unwrap_used)]

#[path = "../tests/net/bench.rs"]
mod bench;
#[path = "../tests/driver/mod.rs"]
mod driver;

use bench::{BUFFER_BYTES, HEADER, USUAL, bench, bring_up, config, device_on, frame};
use driver::ring::Buffer;
use driver::wait_interrupt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio::{IoBuffer, NetBackend, Offloads};
use vm_memory::{Bytes, GuestAddress};

const TIME: Duration = Duration::from_secs(2);

fn report(what: &str, frames: u64, bytes: usize, start: Instant) {
    let elapsed = start.elapsed().as_secs_f64();
    let rate = frames as f64 / elapsed;
    println!(
        "{what:40} {bytes:6} bytes  {:9.0} frames/s  {:8.2} Gbit/s  {:7.2} us/frame",
        rate,
        rate * bytes as f64 * 8.0 / 1e9,
        1e6 / rate
    );
}

/// CPU time the device's worker has used.
fn worker_time() -> Duration {
    let nanoseconds = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| name.trim() == "net-pair0")
        })
        .filter_map(|task| {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        })
        .sum();
    Duration::from_nanos(nanoseconds)
}

fn report_worker(frames: u64) {
    println!(
        "{:40} {:.2} us/frame of the worker's CPU",
        "",
        worker_time().as_secs_f64() * 1e6 / frames as f64
    );
}

fn bare(bytes: usize) {
    let (near, far) = UnixDatagram::pair().unwrap();
    let sent = frame(bytes, 1);
    let mut got = vec![0; 1 << 17];
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        far.send(&sent).unwrap();
        near.recv(&mut got).unwrap();
        count += 1;
    }
    report("system calls alone, both ends", count, bytes, start);
}

fn receive(bytes: usize) {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 250, BUFFER_BYTES);
    let wire = bench.wires[0].try_clone().unwrap();
    let sent = frame(bytes, 1);
    let sender = std::thread::spawn(move || {
        let start = Instant::now();
        let mut count = 0u64;
        while start.elapsed() < TIME {
            wire.send(&sent).unwrap();
            count += 1;
        }
        count
    });
    let (start, mut got) = (Instant::now(), 0);
    let mut interrupts = 0;
    while got == 0 || !sender.is_finished() || got < bench.device.counters().rx_frames {
        up.rx.want_interrupt();
        let mut any = false;
        while up.poll(&bench.ram, BUFFER_BYTES).is_some() {
            got += 1;
            any = true;
        }
        bench.driver.kick(&mut up.rx);
        if !any && !sender.is_finished() {
            wait_interrupt(&bench.host, 0);
            interrupts += 1;
        }
    }
    report("received", got, bytes, start);
    report_worker(got);
    println!(
        "{:40} {:.2} frames/interrupt",
        "",
        got as f64 / f64::from(interrupts.max(1))
    );
    sender.join().unwrap();
}

fn transmit(bytes: usize) {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    let sent = frame(bytes, 1);
    bench
        .ram
        .write_slice(&sent, GuestAddress(up.tx_buffer))
        .unwrap();
    let wire = bench.wires[0].try_clone().unwrap();
    let receiver = std::thread::spawn(move || {
        let mut got = vec![0; 1 << 17];
        let mut count = 0;
        while wire.recv(&mut got).unwrap() > HEADER + 14 {
            count += 1;
        }
        count
    });
    let chain = |len: usize| {
        [Buffer {
            address: up.tx_buffer,
            len: u32::try_from(len).unwrap(),
            writable: false,
        }]
    };
    let start = Instant::now();
    while start.elapsed() < TIME {
        while up.tx.room() > 0 {
            up.tx.add(&chain(sent.len()));
        }
        bench.driver.kick(&mut up.tx);
        while up.tx.used().is_some() {}
    }
    driver::until("room", || {
        up.tx.used();
        (up.tx.room() > 0).then_some(())
    });
    up.tx.add(&chain(HEADER + 14));
    bench.driver.kick(&mut up.tx);
    let got = receiver.join().unwrap();
    report("transmitted", got, bytes, start);
    report_worker(got);
}

fn echo(bytes: usize) {
    let mut bench = bench();
    let mut up = bring_up(&mut bench.driver, USUAL, true);
    up.post(&mut bench.driver, 250, BUFFER_BYTES);
    let sent = frame(bytes, 1);
    let mut back = vec![0; 1 << 17];
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        up.rx.want_interrupt();
        bench.wires[0].send(&sent).unwrap();
        wait_interrupt(&bench.host, 0);
        let got = up.receive(&bench.driver);
        while up.tx.used().is_some() {}
        up.send(&bench.driver, &got);
        bench.wires[0].recv(&mut back).unwrap();
        count += 1;
    }
    report("there and back, one at a time", count, bytes, start);
    report_worker(count);
}

/// A wire without system calls: what is left is the device's own work on the rings.
struct Free;

impl NetBackend for Free {
    fn vnet_header(&self) -> bool {
        true
    }

    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn recv(&self, _: u16, _: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn send(&self, _: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        Ok(Some(virtio::total_len(from)))
    }

    fn poll_fd(&self, _: u16) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn rings_alone() {
    let (_device, mut driver, _events) = device_on(config(), Arc::new(Free));
    let mut up = bring_up(&mut driver, USUAL, true);
    let chain = [
        Buffer {
            address: up.tx_buffer,
            len: 12,
            writable: false,
        },
        Buffer {
            address: up.tx_buffer + 4096,
            len: 1514,
            writable: false,
        },
    ];
    let (start, mut count, mut busy) = (Instant::now(), 0u64, Duration::ZERO);
    while start.elapsed() < TIME {
        while up.tx.room() > 1 {
            up.tx.add(&chain);
        }
        // Only the time in which the driver waits is the device's.
        let from = Instant::now();
        driver.kick(&mut up.tx);
        for _ in 0..128 {
            crate::driver::until("a buffer", || up.tx.used());
            count += 1;
        }
        busy += from.elapsed();
    }
    println!(
        "{:40} {:.3} us/frame, both sides' ring work",
        "transmitted to nowhere, 128 a kick",
        busy.as_secs_f64() * 1e6 / count as f64
    );
    report_worker(count);
}

fn main() {
    rings_alone();
    for bytes in [64, 1514, 60_000] {
        bare(bytes);
        receive(bytes);
        transmit(bytes);
    }
    echo(64);
}
