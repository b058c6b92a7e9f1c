//! The host's network follows a pair: the whole machine on a real tap and a real bridge, in a network namespace of the test's
//! own. There is no NIC with VFs: a veth stands for the PF, and what the kernel refuses there is told.

#![allow(clippy::unwrap_used)]

mod pair;

use machine::MachineEvent;
use machine::inspect::{Inspect, Path as Way};
use net::announce::{gratuitous_arp, rarp};
use net::tap::{Script, Tap, TapConfig, VNET_HEADER_BYTES};
use pair::netns::{eventually, in_namespace, sh};
use pair::{Host, MAC, Wanted};
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;

const MAC_TEXT: &str = "52:54:00:11:11:11";

/// The bridge's entry for the guest: its port, and whether it is held there.
fn entry() -> Option<(String, bool)> {
    let table = sh("bridge fdb show br br0");
    let line = table
        .lines()
        .find(|line| line.starts_with(MAC_TEXT) && line.contains("master br0"))?;
    let port = line.split_whitespace().nth(2)?;
    Some((port.to_owned(), line.contains("sticky")))
}

/// Whether the PF is asked for the guest's frames.
fn pf_is_asked() -> bool {
    sh("bridge fdb show dev pf0").contains(&format!("{MAC_TEXT} self permanent"))
}

#[test]
fn each_step_is_done_and_taken_back() {
    in_namespace(|| {
        sh("ip link add br0 type bridge");
        sh("ip link add pf0 type veth peer name wire0");
        for tap in ["tap0", "other0"] {
            sh(&format!("ip tuntap add dev {tap} mode tap"));
        }
        for port in ["tap0", "other0", "pf0"] {
            sh(&format!("ip link set {port} master br0 up"));
        }
        sh("ip link set wire0 up");
        sh("ip link set br0 up");
        // Another guest of this host.
        let other = Tap::open(TapConfig {
            script: Script::No,
            ..TapConfig::named("other0")
        })
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            tap: Some("tap0"),
            standby: ",failover-pf=pf0,failover-vf=0,failover-vf-vlan=7",
            ..Wanted::default()
        };
        let mut host = Host::start(folder.path(), &wanted);
        eventually("the bridge forwards", || {
            (sh("bridge link").matches("state forwarding").count() == 3).then_some(())
        });
        host.boot_to_primary();

        // A held one.
        let at = |port: &str| Some((port.to_owned(), true));
        assert_eq!(entry(), at("pf0"));
        assert!(!pf_is_asked());
        let queue = other.queue(0).unwrap().try_clone_to_owned().unwrap();
        let mut queue = File::from(queue);
        let mut hears = |what: &str, frame: &[u8]| {
            let mut buffer = [0_u8; 2048];
            eventually(what, || {
                let n = queue.read(&mut buffer).ok()?;
                (&buffer[VNET_HEADER_BYTES as usize..n] == frame).then_some(())
            });
        };
        // Until its new link is up it sends over its standby, and takes nothing there.
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(192, 0, 2, 7), None);
        let guest = host.guest.as_mut().unwrap();
        let standby = guest.masters()[0].standby;
        let nic = guest.nic_mut(standby).unwrap();
        assert!(nic.send(&mut host.bus, &frame).unwrap());
        hears("what the guest sends", &frame);
        assert_eq!(entry(), at("pf0"));
        assert!(host.order(Way::Standby));
        assert_eq!(entry(), at("tap0"), "asked: to both");
        assert!(pf_is_asked());
        host.step_until("the standby", |host| host.way() == Way::Standby);
        assert_eq!(entry(), at("tap0"));
        // Every guest of this host, and every switch beyond, hears where it is now.
        hears("the announcement", &rarp(MAC, None));
        host.step_until("the order", |host| host.order(Way::Primary));
        host.step_until("the primary", |host| host.way() == Way::Primary);
        assert_eq!(entry(), at("pf0"));
        assert!(!pf_is_asked());

        // A veth has no VFs: told once a step, and nothing else came of it.
        let failed: Vec<String> = host
            .events
            .try_iter()
            .filter_map(|event| match event {
                MachineEvent::FailoverSteeringFailed { step, .. } => Some(step),
                _ => None,
            })
            .collect();
        let vf = "ip link set dev pf0 vf 0";
        let expected = [
            format!("{vf} vlan 7"),
            format!("{vf} mac {MAC_TEXT}"),
            format!("{vf} mac 00:00:00:00:00:00"),
        ];
        assert_eq!(failed, expected);

        // Seen in this namespace, whose /sys shows another one.
        let warned = |host: &Host| {
            let pairs = host.control.ask(|board| Inspect::pairs(board)).unwrap();
            let mut warnings = pairs.iter().flat_map(|pair| &pair.warnings);
            warnings.any(|warning| warning.name == "mtu-mismatch")
        };
        assert!(!warned(&host));
        sh("ip link set pf0 mtu 9000");
        assert!(warned(&host));

        host.quit();
        assert_eq!(entry(), None);
        assert!(!sh("bridge fdb show").contains(MAC_TEXT));
    });
}
