//! The guest is announced: at each change of the path, on the target of a migration, and by order.

#![allow(clippy::unwrap_used)]

mod pair;

use guest_model::HostEnd;
use machine::inspect::{AnnounceOrder, Inspect, Path as Way};
use net::announce::{gratuitous_arp, neighbour_advertisement, rarp};
use pair::{Host, MAC, Wanted};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

const PLAIN: [u8; 6] = [0x52, 0x54, 0, 0x22, 0x22, 0x22];
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

fn frames(end: &HostEnd) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| end.receive().unwrap()).collect()
}

/// Rounds of announcements, by their first frame.
fn rounds(frames: &[Vec<u8>], mac: [u8; 6]) -> usize {
    frames.iter().filter(|f| **f == rarp(mac, None)).count()
}

fn host(folder: &Path) -> Host {
    Host::on_primary(folder, &Wanted::default())
}

/// What the guest says on its standby, as a guest does that is on it.
fn say(host: &mut Host, frame: &[u8]) {
    let guest = host.guest.as_mut().unwrap();
    let standby = guest.masters()[0].standby;
    let nic = guest.nic_mut(standby).unwrap();
    assert!(nic.send(&mut host.bus, frame).unwrap());
    host.step_until("the frame", |host| {
        frames(&host.ends[0]).iter().any(|f| f == frame)
    });
}

fn steering(host: &Host) -> String {
    let nics = host.control.ask(|board| Inspect::nics(board)).unwrap();
    nics.iter().find_map(|nic| nic.steering.clone()).unwrap()
}

/// Lets all rounds pass that may come (the defaults take 800 ms); what came at the host's ends meanwhile. Few frames wait at
/// one, so that they are fetched as they come.
fn pass(host: &mut Host) -> [Vec<Vec<u8>>; 3] {
    let mut all = [const { Vec::new() }; 3];
    for _ in 0..100 {
        for (all, end) in all.iter_mut().zip(&host.ends) {
            all.extend(frames(end));
        }
        host.step();
    }
    all
}

fn count(frames: &[Vec<Vec<u8>>; 3]) -> [usize; 3] {
    frames.each_ref().map(Vec::len)
}

#[test]
fn at_a_flip_with_its_vlans_and_what_it_said_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path());
    assert!(steering(&host).contains("announces no addresses: none was heard"));
    say(&mut host, &gratuitous_arp(MAC, V4, None));
    say(&mut host, &neighbour_advertisement(MAC, V6, Some(7)));
    let guest = host.guest.as_mut().unwrap();
    let standby = guest.masters()[0].standby;
    let nic = guest.nic_mut(standby).unwrap();
    assert!(nic.set_vlan(&mut host.bus, 42, true).unwrap());
    let [silence, ..] = pass(&mut host);
    let text = steering(&host);
    assert!(
        text.contains("announces 192.0.2.7 and 2001:db8::7 on VLAN 7"),
        "{text}"
    );
    assert_eq!(rounds(&silence, MAC), 0, "nothing flipped");

    assert!(host.order(Way::Standby));
    host.step_until("the standby", |host| host.way() == Way::Standby);
    let [all, _, plain] = pass(&mut host);
    let one_round = [
        rarp(MAC, None),
        rarp(MAC, Some(7)),
        rarp(MAC, Some(42)),
        gratuitous_arp(MAC, V4, None),
        neighbour_advertisement(MAC, V6, Some(7)),
    ];
    assert_eq!(all[..5], one_round);
    // Closed and ejected both begin anew; each run that is not cut short has five rounds.
    let rounds = rounds(&all, MAC);
    assert!((5..=6).contains(&rounds), "{rounds}");
    assert_eq!(all.len(), rounds * one_round.len());
    assert!(plain.is_empty(), "not the pair's");

    // Ten minutes later it may be another's address.
    host.clock.advance(Duration::from_secs(600));
    assert!(steering(&host).contains("announces no addresses"));
}

#[test]
fn on_the_target_before_it_has_spoken_there_and_every_nic() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = host(&folder.path().join("source"));
    say(&mut source, &gratuitous_arp(MAC, V4, None));
    let incoming = Wanted {
        incoming: true,
        ..Wanted::default()
    };
    let mut target = source.start_beside(&folder.path().join("target"), &incoming);
    source.migrate(&mut target, &folder.path().join("move"));
    let [standby, _, plain] = pass(&mut target);
    let text = steering(&target);
    assert!(text.contains("announces 192.0.2.7"), "{text}");
    assert_eq!(
        standby[..2],
        [rarp(MAC, None), gratuitous_arp(MAC, V4, None)]
    );
    assert_eq!(rounds(&standby, MAC), 5);
    assert_eq!(plain, vec![rarp(PLAIN, None); 5]);
}

#[test]
fn by_order_as_often_as_ordered_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path());
    pass(&mut host);
    let order = |rounds, interfaces: Option<&str>, id: Option<&str>| AnnounceOrder {
        initial_ms: 100,
        max_ms: 1000,
        rounds,
        step_ms: 100,
        interfaces: interfaces.map(|name| vec![name.to_owned()]),
        id: id.map(str::to_owned),
    };
    let announce = |host: &Host, order: AnnounceOrder| {
        let ordered = host.control.ask(move |board| board.announce_self(&order));
        ordered.unwrap();
    };
    // All NICs, each on its own network; the first round at once.
    announce(&host, order(3, None, None));
    let at_once = host.ends.each_ref().map(frames);
    assert_eq!(count(&at_once), [1, 1, 1]);
    assert_eq!(count(&pass(&mut host)), [2, 2, 2]);
    // One NIC; two orders of different names side by side.
    announce(&host, order(2, Some("plain0"), Some("a")));
    announce(&host, order(2, Some("plain0"), Some("b")));
    let [standby, primary, plain] = pass(&mut host);
    assert_eq!(plain, vec![rarp(PLAIN, None); 4]);
    assert!(standby.is_empty() && primary.is_empty());
    // The second of a name takes the first one's place, and one without rounds ends it.
    announce(&host, order(50, None, Some("a")));
    announce(&host, order(2, Some("standby0"), Some("a")));
    assert_eq!(count(&pass(&mut host)), [3, 1, 1]);
    announce(&host, order(50, None, Some("a")));
    announce(&host, order(0, None, Some("a")));
    assert_eq!(count(&pass(&mut host)), [1, 1, 1]);
    announce(&host, order(5, Some("nobody"), None));
    assert_eq!(count(&pass(&mut host)), [0, 0, 0]);
}
