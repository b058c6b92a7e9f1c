//! Steering a real bridge, in a network namespace of each test's own. A VF needs a NIC with SR-IOV:
//! here an interface without VFs stands in for the PF, so that setting the VF's address fails, and
//! what is done then can be seen. The address itself is tried in the lab.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is a failed test

mod netns;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use net::announce::rarp;
use net::steer::{Outcome, Report, Steering, Wanted};
use net::tap::{Script, Tap, TapConfig, VNET_HEADER_BYTES};
use netns::{eventually, in_namespace, sh};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x6f, 0x55, 0xcc];
const MAC_TEXT: &str = "52:54:00:6f:55:cc";
const WHY: &str = "a test";
const VF: &str = "0000:01:10.0";

/// The kernel has a queue of incoming frames for each processor: what one thread sends stays in its order only on one.
fn stay_on_one_processor() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here).unwrap();
}

/// A host: bridge br0 with the tap tap0 and the PF pf0, whose other end is wire0.
fn host() -> Tap {
    stay_on_one_processor();
    sh("ip link add br0 type bridge");
    sh("ip link add pf0 type veth peer name wire0");
    sh("ip tuntap add dev tap0 mode tap");
    for port in ["tap0", "pf0"] {
        sh(&format!("ip link set {port} master br0 up"));
    }
    sh("ip link set wire0 up");
    sh("ip link set br0 up");
    let config = TapConfig {
        script: Script::No,
        ..TapConfig::named("tap0")
    };
    let tap = Tap::open(config).unwrap();
    eventually("the bridge forwards", || {
        (sh("bridge link").matches("state forwarding").count() == 2).then_some(())
    });
    tap
}

/// What sysfs shows of a PF with one VF.
fn sysfs(root: &Path, pf_interface: &str) {
    let pf = root.join("devices/pci0000:00/0000:01:00.0");
    let vf = root.join("devices/pci0000:00").join(VF);
    fs::create_dir_all(pf.join("net").join(pf_interface)).unwrap();
    fs::create_dir_all(&vf).unwrap();
    symlink("../0000:01:00.0", vf.join("physfn")).unwrap();
    symlink(format!("../{VF}"), pf.join("virtfn3")).unwrap();
    let bus = root.join("bus/pci/devices");
    fs::create_dir_all(&bus).unwrap();
    symlink(&vf, bus.join(VF)).unwrap();
}

/// The port at which the bridge has the guest's address.
fn port_of_guest() -> Option<String> {
    let table = sh("bridge fdb show br br0");
    let line = table
        .lines()
        .find(|l| l.starts_with(MAC_TEXT) && l.contains("master br0"))?;
    line.split_whitespace().nth(2).map(str::to_owned)
}

fn texts(report: &Report) -> Vec<String> {
    report
        .steps
        .iter()
        .map(|(step, outcome)| {
            let end = match outcome {
                Outcome::Done => "done",
                Outcome::Already => "already",
                Outcome::Failed(_) => "failed",
            };
            format!("{step}: {end}")
        })
        .collect()
}

/// A frame from the wire for the guest: the kernel's packet socket on wire0.
fn send_on_wire(frame: &[u8]) {
    let index: u32 = sh("ip -o link show wire0")
        .split(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    packet::send(index, frame);
}

mod packet {
    #![allow(unsafe_code)]

    use std::mem;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    pub(crate) fn send(index: u32, frame: &[u8]) {
        // SAFETY: a new descriptor, owned by nobody else.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all zeroes are a valid sockaddr_ll.
        let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
        to.sll_family = u16::try_from(libc::AF_PACKET).expect("small");
        to.sll_ifindex = i32::try_from(index).expect("small");
        let length = u32::try_from(mem::size_of_val(&to)).expect("small");
        // SAFETY: the frame and the address are valid for their lengths during the call.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                length,
            )
        };
        assert_eq!(usize::try_from(sent).ok(), Some(frame.len()));
    }
}

/// The guest's frame that came in by the tap, if one did; other traffic is passed over.
fn received(tap: &Tap) -> Option<Vec<u8>> {
    let mut buffer = vec![0u8; 2048];
    while let Ok(n) = rustix::io::read(tap.queue(0).unwrap(), &mut buffer) {
        let frame = &buffer[VNET_HEADER_BYTES as usize..n];
        if frame.starts_with(&MAC) {
            return Some(frame.to_vec());
        }
    }
    None
}

#[test]
fn a_stale_entry_black_holes_the_guest_until_it_is_steered_to_its_standby() {
    in_namespace(|| {
        let tap = host();
        let mut to_guest = vec![0u8; 60];
        to_guest[..6].copy_from_slice(&MAC);
        to_guest[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        // The guest spoke through its VF: the bridge learned it on the PF's side.
        send_on_wire(&rarp(MAC, None));
        eventually("the bridge learns", || {
            port_of_guest().filter(|p| p == "pf0")
        });
        send_on_wire(&to_guest);
        // In order through one bridge: had it come, it would be before this broadcast.
        let marker = rarp([2, 0, 0, 0, 0, 9], None);
        send_on_wire(&marker);
        let mut buffer = vec![0u8; 2048];
        eventually("the marker", || {
            let n = rustix::io::read(tap.queue(0).unwrap(), &mut buffer).ok()?;
            let frame = &buffer[VNET_HEADER_BYTES as usize..n];
            assert!(
                !frame.starts_with(&MAC),
                "no black hole: the test shows nothing"
            );
            (frame == marker).then_some(())
        });

        let mut steering = Steering::discover(Wanted::pair("tap0", None, MAC)).unwrap();
        let report = steering.to_standby(WHY);

        let step = format!("bridge fdb replace {MAC_TEXT} dev tap0 master dynamic sticky: done");
        assert_eq!(texts(&report), [step]);
        assert_eq!(port_of_guest().as_deref(), Some("tap0"));
        // A NIC that loops the host's announcement back teaches the bridge nothing.
        send_on_wire(&rarp(MAC, None));
        send_on_wire(&to_guest);
        assert_eq!(eventually("the frame", || received(&tap)), to_guest);
        assert_eq!(port_of_guest().as_deref(), Some("tap0"));

        // Twice does no harm; back and away leave nothing.
        assert!(steering.to_standby(WHY).is_clean());
        assert!(steering.to_primary(WHY).is_clean());
        assert_eq!(port_of_guest(), None);
        assert!(steering.guest_left(WHY).is_clean());
        assert!(steering.restore(WHY).is_clean());
    });
}

#[test]
fn a_vf_is_found_by_its_pf_and_what_its_nic_refuses_is_told_and_made_up_for() {
    in_namespace(|| {
        let _tap = host();
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "pf0");

        let mut steering =
            Steering::discover_in(dir.path(), Wanted::pair("tap0", Some(VF), MAC)).unwrap();

        let around = steering.surroundings();
        let vf = around.vf.as_ref().unwrap();
        assert_eq!(
            (vf.pf.name.as_str(), vf.number, vf.mac_found),
            ("pf0", 3, None)
        );
        assert_eq!(around.uplink.as_ref().unwrap().name, "pf0");
        assert_eq!(
            steering.describe(),
            "bridge port tap0 of br0; VF 3 of pf0; uplink pf0"
        );

        let report = steering.to_standby(WHY);
        assert_eq!(
            texts(&report),
            [
                format!("bridge fdb replace {MAC_TEXT} dev tap0 master dynamic sticky: done"),
                format!("bridge fdb add {MAC_TEXT} dev pf0 self: done"),
                "ip link set dev pf0 vf 3 mac 00:00:00:00:00:00: failed".to_owned(),
            ]
        );
        assert_eq!(port_of_guest().as_deref(), Some("tap0"));
        let own = || sh("bridge fdb show dev pf0").contains(&format!("{MAC_TEXT} self permanent"));
        assert!(own());

        let back = steering.to_primary(WHY);
        assert_eq!(back.failures().count(), 1);
        assert!(!own());
        assert_eq!(port_of_guest().as_deref(), Some("pf0"));

        steering.restore(WHY);
        assert_eq!(port_of_guest(), None);
        assert!(!sh("bridge fdb show").contains(MAC_TEXT));

        // As a program that is killed: the kernel closes what it had open.
        steering.to_standby(WHY);
        assert!(own());
        drop(steering);
        assert!(!own());
    });
}

/// A tap that nobody holds open is a port that the bridge does not use: it takes no entry.
#[test]
fn an_entry_that_cannot_be_moved_is_at_least_forgotten() {
    in_namespace(|| {
        let tap = host();
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "pf0");
        let mut steering =
            Steering::discover_in(dir.path(), Wanted::pair("tap0", Some(VF), MAC)).unwrap();
        send_on_wire(&rarp(MAC, None));
        eventually("the bridge learns", || {
            port_of_guest().filter(|p| p == "pf0")
        });
        drop(tap);
        eventually("the port goes down", || {
            let ports = sh("bridge link show dev tap0");
            ports.contains("state disabled").then_some(())
        });

        let report = steering.to_standby(WHY);

        assert_eq!(
            texts(&report)[..2],
            [
                format!("bridge fdb replace {MAC_TEXT} dev tap0 master dynamic sticky: failed"),
                format!("bridge fdb del {MAC_TEXT} dev pf0 master: done"),
            ]
        );
        assert_eq!(port_of_guest(), None);
    });
}

#[test]
fn what_is_not_there_is_a_reason_and_no_error() {
    in_namespace(|| {
        sh("ip tuntap add dev tap0 mode tap");
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "elsewhere");
        let discover =
            |tap, vf| Steering::discover_in(dir.path(), Wanted::pair(tap, vf, MAC)).unwrap();

        let mut alone = discover("tap0", Some(VF));
        assert_eq!(
            alone.describe(),
            "no bridge ('tap0' is on no bridge); no VF (the PF 0000:01:00.0 of 0000:01:10.0 has no \
             interface in this network namespace)"
        );
        assert!(alone.to_standby(WHY).steps.is_empty() && alone.to_primary(WHY).steps.is_empty());
        sh("ip link add lower0 type veth peer name far0");
        sh("ip link add link lower0 name mvt0 type macvtap mode bridge");
        let macvtap = discover("mvt0", None).describe();
        assert!(
            macvtap.contains(
                "'mvt0' is a macvtap, which is on no bridge: failover-hook= can steer it"
            ),
            "{macvtap}"
        );
        let no_tap = discover("tap9", None);
        assert!(
            no_tap
                .describe()
                .contains("no interface 'tap9' in this network namespace")
        );
        let no_vf = discover("tap0", Some("0000:02:00.0"));
        assert!(
            no_vf
                .describe()
                .contains("0000:02:00.0 is no virtual function")
        );
        let nonsense = discover("tap0", Some("../../etc"));
        assert!(nonsense.describe().contains("is no PCI address"));
    });
}
