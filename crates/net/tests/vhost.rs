//! The kernel's vhost-net between a driver's rings and a tap. What needs it is SKIPPED, loudly, where it is not.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is a failed test

#[path = "../../virtio/tests/net/bench.rs"]
mod bench;
#[path = "../../virtio/tests/driver/mod.rs"]
mod driver;
mod netns;

use bench::{BUFFER_BYTES, Events, HEADER, MAC, USUAL, Up, bring_up};
use driver::host::Host;
use driver::ring::Buffer;
use driver::{Driver, NEEDS_RESET, until, wait_interrupt};
use memory::{DirtyPages, GuestRange, PAGE_SIZE_BYTES, Ram, RamConfig, allocate};
use net::tap::{Script, Tap, TapConfig};
use netns::{eventually, in_namespace, sh};
use pci::PciDevice;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use virtio::{NetBackend, NetConfig, VirtioNet};
use vm_memory::{Bytes, GuestAddress};

const VHOST_NET: &str = "/dev/vhost-net";
/// For local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

fn open_vhost() -> Option<File> {
    let file = File::options().read(true).write(true).open(VHOST_NET);
    match file {
        Ok(file) => Some(file),
        Err(error) => {
            eprintln!("SKIPPED: {VHOST_NET} cannot be opened ({error}); 'modprobe vhost_net'");
            None
        }
    }
}

fn tap(name: &str, vnet_header: bool) -> Tap {
    sh(&format!("ip tuntap add dev {name} mode tap"));
    sh(&format!("ip link set {name} up"));
    let config = TapConfig {
        vnet_header,
        script: Script::No,
        downscript: Script::No,
        ..TapConfig::named(name)
    };
    Tap::open(config).unwrap()
}

fn ram() -> Arc<Ram> {
    // A hole, and a second range that begins at no multiple of what a byte or word of the log stands for.
    let layout =
        [(0, 32 << 20), ((1 << 32) + 3 * PAGE_SIZE_BYTES, 16 << 20)].map(|(start, size_bytes)| {
            GuestRange {
                start: GuestAddress(start),
                size_bytes,
            }
        });
    allocate(&RamConfig::anonymous(48 << 20), &layout).unwrap()
}

/// A driver on a tap that the kernel serves; a bridge; and the tap on its other side, which is the wire.
struct Rig {
    device: Arc<VirtioNet>,
    driver: Driver,
    ram: Arc<Ram>,
    wire: Tap,
}

fn rig(vnet_header: bool, passed: Vec<OwnedFd>) -> Rig {
    // Only the frames of the test.
    for file in ["all", "default"] {
        let file = format!("/proc/sys/net/ipv6/conf/{file}/disable_ipv6");
        std::fs::write(file, "1").unwrap();
    }
    sh("ip link add vhbr type bridge forward_delay 0 mcast_snooping 0");
    let wire = tap("vhwire", false);
    let mut near = tap("vhnear", vnet_header);
    sh("ip link set vhwire master vhbr");
    sh("ip link set vhnear master vhbr");
    sh("ip link set vhbr up");
    let ram = ram();
    near.set_vhost(passed, &ram).unwrap();
    let header = if vnet_header { "on" } else { "off" };
    assert_eq!(
        near.describe(),
        format!("ifname=vhnear,vnet_hdr={header},vhost=on")
    );
    let (device, driver) = device_on(Arc::new(near), &ram);
    Rig {
        device,
        driver,
        ram,
        wire,
    }
}

fn device_on(backend: Arc<dyn NetBackend>, ram: &Ram) -> (Arc<VirtioNet>, Driver) {
    let host = Host::new();
    let device = VirtioNet::new(
        NetConfig {
            failover: true,
            ..NetConfig::new("virtio-net-pci 'net1'", MAC)
        },
        backend,
        Arc::clone(ram.guest()),
        Arc::clone(&host) as Arc<_>,
        Arc::new(Events::default()) as Arc<_>,
    )
    .unwrap();
    let driver = Driver::probe(Arc::clone(device.function()) as Arc<_>, &host, ram.guest());
    (device, driver)
}

fn frame(to: [u8; 6], from: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend(ETHERTYPE);
    frame.extend(number.to_le_bytes());
    frame.resize(200, 0x5a);
    frame
}

/// The number of one of our frames.
fn number_of(frame: &[u8]) -> Option<u32> {
    let ours = frame.get(12..14) == Some(&ETHERTYPE);
    ours.then(|| u32::from_le_bytes(frame[14..18].try_into().unwrap()))
}

impl Rig {
    fn up(&mut self, features: u64, msix: bool) -> Up {
        let features = features & self.driver.offered();
        let mut up = bring_up(&mut self.driver, features, msix);
        up.post(&mut self.driver, 100, BUFFER_BYTES);
        up
    }

    fn to_guest(&self, number: u32) {
        self.wire.send_frame(&frame(MAC.0, PEER, number)).unwrap();
    }

    fn at_guest(&self, up: &mut Up) -> u32 {
        loop {
            let got = up.receive(&self.driver);
            if let Some(number) = number_of(&got[HEADER..]) {
                assert_eq!(got[HEADER..], frame(MAC.0, PEER, number));
                return number;
            }
        }
    }

    fn leave_guest(&self, up: &mut Up, number: u32) {
        let mut sent = vec![0; HEADER];
        sent.extend(frame(PEER, MAC.0, number));
        up.send(&self.driver, &sent);
        until("the frame's buffers", || up.tx.used());
    }

    fn at_wire(&self) -> u32 {
        let mut buffer = vec![0u8; 2048];
        eventually("a frame on the wire", || {
            let n = rustix::io::read(self.wire.queue(0)?, &mut buffer).ok()?;
            let number = number_of(buffer.get(..n)?)?;
            assert_eq!(buffer[..n], frame(PEER, MAC.0, number));
            Some(number)
        })
    }

    fn exchange(&self, up: &mut Up, number: u32) {
        self.leave_guest(up, number);
        assert_eq!(self.at_wire(), number);
        self.to_guest(number);
        assert_eq!(self.at_guest(up), number);
    }

    /// Frames that this process moved.
    fn moved_here(&self) -> u64 {
        let counters = self.device.counters();
        counters.rx_frames + counters.tx_frames
    }
}

#[test]
fn frames_pass_the_kernel_and_the_rings_come_back() {
    if open_vhost().is_none() {
        return;
    }
    for (vnet_header, msix) in [(true, true), (true, false), (false, true)] {
        in_namespace(move || {
            let mut rig = rig(vnet_header, Vec::new());
            let mut up = rig.up(USUAL, msix);
            for number in 0..1000 {
                rig.exchange(&mut up, number);
            }
            if msix {
                wait_interrupt(&rig.driver.host, 0);
                wait_interrupt(&rig.driver.host, 1);
            }
            assert_eq!(rig.moved_here(), 0, "the kernel did not do it");
            // The link down loses frames, and up again none is old.
            rig.device.set_link(false);
            rig.to_guest(1);
            until("a frame that is lost", || {
                (rig.device.counters().rx_dropped > 0).then_some(())
            });
            rig.device.set_link(true);
            rig.exchange(&mut up, 2);
            for number in 10..20 {
                rig.device.function().pause();
                rig.to_guest(number);
                rig.device.function().resume();
                assert_eq!(rig.at_guest(&mut up), number);
                rig.exchange(&mut up, number + 100);
            }
            rig.driver.set_status(0);
            let mut up = rig.up(USUAL, msix);
            rig.exchange(&mut up, 3);
            // Without the event index and the merging of buffers.
            rig.driver.set_status(0);
            let mut up = rig.up(driver::VERSION_1, msix);
            rig.exchange(&mut up, 4);
            assert_eq!(rig.driver.status() & NEEDS_RESET, 0);
        });
    }
}

#[test]
fn state_moves_between_kernel_and_user_space() {
    if open_vhost().is_none() {
        return;
    }
    in_namespace(|| {
        let mut rig = rig(true, Vec::new());
        let mut up = rig.up(USUAL, true);
        let mut moves = 0;
        for number in 0..2000 {
            // Some are on their way while it moves.
            rig.to_guest(number);
            if number % 100 == 50 {
                rig.device.function().pause();
                let state = rig.device.function().save().unwrap();
                // The target has a tap of its own at the same place of the bridge.
                let name = format!("vhto{moves}");
                let mut to = tap(&name, true);
                sh(&format!("ip link set {name} master vhbr"));
                if moves % 2 == 1 {
                    to.set_vhost(Vec::new(), &rig.ram).unwrap();
                }
                let host = Arc::clone(&rig.driver.host);
                let next = VirtioNet::new(
                    NetConfig {
                        failover: true,
                        ..NetConfig::new("virtio-net-pci 'net1'", MAC)
                    },
                    Arc::new(to),
                    Arc::clone(rig.ram.guest()),
                    host as Arc<_>,
                    Arc::new(Events::default()) as Arc<_>,
                )
                .unwrap();
                let version = rig.device.function().state_version();
                next.function().restore(version, &state).unwrap();
                rig.device.function().detached();
                rig.driver.function = Arc::clone(next.function()) as Arc<_>;
                rig.driver.use_doorbells = false;
                next.function().resume();
                rig.device = next;
                moves += 1;
                // What came before the move is at the guest or lost with the old tap; what comes once the bridge has
                // learned of the new one is not.
                rig.leave_guest(&mut up, 1_000_000 + number);
                assert_eq!(rig.at_wire(), 1_000_000 + number);
                rig.to_guest(1_000_000 + number);
                while rig.at_guest(&mut up) != 1_000_000 + number {}
            } else {
                assert_eq!(rig.at_guest(&mut up), number);
            }
            rig.leave_guest(&mut up, number);
            assert_eq!(rig.at_wire(), number);
        }
        assert_eq!(moves, 20);
    });
}

#[test]
fn what_the_kernel_writes_is_logged_while_it_is_wanted() {
    if open_vhost().is_none() {
        return;
    }
    in_namespace(|| {
        let mut rig = rig(true, Vec::new());
        // Buffers above the hole, and rings below.
        let features = USUAL & rig.driver.offered();
        let mut up = bring_up(&mut rig.driver, features, true);
        let high = (1 << 32) + 3 * PAGE_SIZE_BYTES;
        for buffer in 0..64 {
            up.post_at(high + buffer * PAGE_SIZE_BYTES, BUFFER_BYTES);
        }
        rig.driver.kick(&mut up.rx);
        rig.exchange(&mut up, 1);
        // Not by way of the regions' bitmaps: there are what this test's driver writes, too.
        let take = |rig: &Rig| {
            let mut pages = BTreeSet::new();
            rig.ram.kernel_log().take(|page| {
                pages.insert(page);
            });
            pages
        };
        rig.exchange(&mut up, 2);
        assert!(take(&rig).is_empty(), "logged before it was wanted");
        // In the middle of it, and across a pause.
        rig.ram.kernel_log().start().unwrap();
        for round in 0..3 {
            let mut wanted = BTreeSet::from([up.rx.used / PAGE_SIZE_BYTES]);
            for number in 0..3 {
                let memory = rig.ram.guest();
                let index: u16 = memory.read_obj(GuestAddress(up.rx.used + 2)).unwrap();
                let slot = up.rx.avail + 4 + 2 * u64::from(index % up.rx.size);
                let head: u16 = memory.read_obj(GuestAddress(slot)).unwrap();
                wanted.insert(up.buffers[&head] / PAGE_SIZE_BYTES);
                rig.to_guest(number);
                assert_eq!(rig.at_guest(&mut up), number);
            }
            // The kernel notes a page after it wrote it.
            let mut seen = BTreeSet::new();
            until("the log", || {
                seen.extend(take(&rig));
                wanted.is_subset(&seen).then_some(())
            });
            assert!(wanted.iter().any(|page| *page >= high / PAGE_SIZE_BYTES));
            assert!(seen.len() < 20, "round {round}: {seen:x?} for {wanted:x?}");
            rig.device.function().pause();
            rig.device.function().resume();
        }
        let mut dirty = DirtyPages::clean(&rig.ram);
        rig.ram.take_device_dirty(&mut dirty);
        rig.ram.kernel_log().stop();
        rig.to_guest(4);
        assert_eq!(rig.at_guest(&mut up), 4);
        assert!(take(&rig).is_empty(), "logged after it was wanted");
        assert_eq!(rig.moved_here(), 0);
    });
}

#[test]
fn a_ring_that_the_kernel_cannot_serve_is_the_devices_again() {
    let Some(passed) = open_vhost() else {
        return;
    };
    in_namespace(|| {
        let mut rig = rig(true, vec![passed.into()]);
        let mut up = rig.up(USUAL, true);
        rig.exchange(&mut up, 1);
        // In the hole, where there is no RAM.
        up.tx.add(&[Buffer {
            address: 0x8000_0000,
            len: 100,
            writable: false,
        }]);
        rig.driver.notify(&up.tx);
        until("a demand for a reset", || {
            (rig.driver.status() & NEEDS_RESET != 0).then_some(())
        });
        rig.driver.set_status(0);
        let mut up = rig.up(USUAL, true);
        rig.exchange(&mut up, 2);
        assert_eq!(rig.moved_here(), 0);
    });
}

#[test]
fn what_is_no_vhost_net_is_one_clear_error() {
    in_namespace(|| {
        let mut near = tap("vhnear", true);
        let ram = ram();
        let null = File::options().read(true).write(true).open("/dev/null");
        let error = near.set_vhost(vec![null.unwrap().into()], &ram);
        let text = error.unwrap_err().to_string();
        let start = "vhost-net requested but could not be initialized: descriptor ";
        assert!(text.starts_with(start), "{text}");
        let end = ": vhost_set_owner failed: Inappropriate ioctl for device";
        assert!(text.ends_with(end), "{text}");
        if std::path::Path::new(VHOST_NET).exists() {
            return;
        }
        let error = near.set_vhost(Vec::new(), &ram).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tap: open vhost char device failed: No such file or directory; load the driver with 'modprobe vhost_net' \
             and check the permissions of /dev/vhost-net, or leave vhost=on out"
        );
    });
}
