//! The addresses a guest says are its own, learned from what it sends.
//!
//! Only what claims an address counts: ARP (RFC 826) and the neighbour discovery messages that carry the sender's own
//! (RFC 4861). The source of an ordinary packet does not: a guest that forwards sends packets of others, and whoever
//! announced those addresses would take them from their owners. For the same reason a probe (RFC 5227, RFC 4862) counts
//! for nothing: it asks whether the address is free.
//!
//! What a guest sends is hostile: the table is bounded, what was said longest ago makes room, and nothing is kept for long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::announce::Mac;

/// The most addresses kept.
pub const ADDRESSES_MAX: usize = 64;
/// The most VLANs that are told.
pub const VLANS_MAX: usize = 64;
/// What was not said again for as long is forgotten: the address may be another's by now.
pub const KEPT_FOR: Duration = Duration::from_secs(600);

/// As many bytes of a frame, without virtio-net header, decide whether there is anything to learn.
pub(crate) const DECIDING_BYTES: usize = 18;
/// As many are enough to learn it: two tags less one, an IPv6 header, a message with its first option.
pub(crate) const LEARNING_BYTES: usize = 18 + 40 + 32;

const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const VLAN_WORDS: usize = 4096 / 64;

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The VLAN of its frames; `None`: untagged.
    pub vlan: Option<u16>,
    /// The address.
    pub ip: IpAddr,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    address: Address,
    at: Duration,
}

/// The addresses of one guest's NIC. Times are of any one clock.
#[derive(Debug)]
pub struct Addresses {
    mac: Mac,
    table: Mutex<Vec<Seen>>,
    /// One bit a VLAN on which it was heard.
    vlans: [AtomicU64; VLAN_WORDS],
}

/// What the beginning of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Nothing.
    Other,
    /// It may claim an address.
    Claim,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// VLAN, Ethertype and where the payload begins.
fn header(frame: &[u8]) -> Option<(Option<u16>, u16, usize)> {
    match word(frame, 12)? {
        ETHERTYPE_VLAN => {
            // Id 0 is a priority on an untagged frame; the last one is reserved.
            let id = word(frame, 14)? & 0x0fff;
            let vlan = (1..=4094).contains(&id).then_some(id);
            Some((vlan, word(frame, 16)?, 18))
        }
        ethertype => Some((None, ethertype, 14)),
    }
}

fn usable_v4(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    // Classes D and E, the network that is this one, and oneself are nobody's address on a link.
    !matches!(first, 0 | 127 | 224..)
}

fn usable_v6(ip: Ipv6Addr) -> bool {
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.to_ipv4_mapped().is_some())
}

fn arp(mac: Mac, body: &[u8]) -> Option<IpAddr> {
    const ETHERNET_AND_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let requests_and_replies = 1..=2;
    if array(body, 0)? != ETHERNET_AND_IPV4
        || !requests_and_replies.contains(&word(body, 6)?)
        || array(body, 8)? != mac
    {
        return None;
    }
    Some(Ipv4Addr::from(array::<4>(body, 14)?).into())
}

/// RFC 4861, sections 4.3 and 4.4.
fn neighbour(mac: Mac, packet: &[u8]) -> Option<IpAddr> {
    const ICMPV6: u8 = 58;
    const FROM_THIS_LINK: u8 = 255;
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];
    let [next, hops] = array(packet, 6)?;
    if packet.first()? >> 4 != 6 || next != ICMPV6 || hops != FROM_THIS_LINK {
        return None;
    }
    let source = Ipv6Addr::from(array::<16>(packet, 8)?);
    let message = packet.get(40..)?;
    match array(message, 0)? {
        [SOLICITATION, 0] => Some(source.into()),
        [ADVERTISEMENT, 0] => {
            // It may speak for another (a proxy): then it says so here.
            let option = array(message, 24);
            if option == Some(TARGET_LINK_ADDRESS) && array(message, 26) != Some(mac) {
                return None;
            }
            Some(Ipv6Addr::from(array::<16>(message, 8)?).into())
        }
        _ => None,
    }
}

impl Addresses {
    /// Of a guest's NIC with this address; none yet.
    pub fn new(mac: Mac) -> Self {
        Self {
            mac,
            table: Mutex::default(),
            vlans: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    fn table(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the beginning of a frame that the guest sends. Notes its VLAN.
    pub(crate) fn sort(&self, beginning: &[u8]) -> Sort {
        if array(beginning, 6) != Some(self.mac) {
            return Sort::Other;
        }
        let Some((vlan, ethertype, _)) = header(beginning) else {
            return Sort::Other;
        };
        if let Some(id) = vlan
            && let Some(word) = self.vlans.get(usize::from(id) / 64)
        {
            let bit = 1 << (id % 64);
            // A write by every frame would make the workers' processors take the line from one another.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        match ethertype {
            ETHERTYPE_ARP | ETHERTYPE_IPV6 => Sort::Claim,
            _ => Sort::Other,
        }
    }

    /// Learns from a frame that the guest has sent; `now` is asked for if there is something to learn.
    pub fn note(&self, frame: &[u8], now: impl FnOnce() -> Duration) {
        if self.sort(frame) == Sort::Other {
            return;
        }
        let Some((vlan, ethertype, at)) = header(frame) else {
            return;
        };
        let payload = frame.get(at..).unwrap_or_default();
        let ip = match ethertype {
            ETHERTYPE_ARP => arp(self.mac, payload),
            _ => neighbour(self.mac, payload),
        };
        if let Some(ip) = ip {
            self.put(Address { vlan, ip }, now());
        }
    }

    /// Adds an address that was claimed at `at`; the one claimed longest ago makes room.
    pub fn put(&self, address: Address, at: Duration) {
        let usable = match address.ip {
            IpAddr::V4(ip) => usable_v4(ip),
            IpAddr::V6(ip) => usable_v6(ip),
        };
        if !usable || address.vlan.is_some_and(|id| !(1..=4094).contains(&id)) {
            return;
        }
        let mut table = self.table();
        if let Some(seen) = table.iter_mut().find(|seen| seen.address == address) {
            seen.at = seen.at.max(at);
            return;
        }
        let seen = Seen { address, at };
        if table.len() < ADDRESSES_MAX {
            table.push(seen);
        } else if let Some(oldest) = table.iter_mut().min_by_key(|seen| seen.at) {
            *oldest = seen;
        }
    }

    /// The addresses at `now`, in order, each with the time since it was claimed; what is too old is forgotten.
    pub fn current(&self, now: Duration) -> Vec<(Address, Duration)> {
        let mut table = self.table();
        table.retain(|seen| now.saturating_sub(seen.at) < KEPT_FOR);
        let mut all: Vec<_> = table
            .iter()
            .map(|seen| (seen.address, now.saturating_sub(seen.at)))
            .collect();
        drop(table);
        all.sort_unstable();
        all
    }

    /// The VLANs on which the guest was heard, at most [`VLANS_MAX`] of them.
    pub fn vlans(&self) -> Vec<u16> {
        let heard = |id: &u16| {
            let word = self.vlans.get(usize::from(*id) / 64);
            word.is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (id % 64)) != 0)
        };
        (1..=4094).filter(heard).take(VLANS_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::{gratuitous_arp, neighbour_advertisement, rarp};

    const MAC: Mac = [0x52, 0x54, 0, 0x6f, 0x55, 0xcc];
    const OTHER: Mac = [0x52, 0x54, 0, 0, 0, 1];
    const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn learned(frames: &[Vec<u8>]) -> Vec<Address> {
        let addresses = Addresses::new(MAC);
        for frame in frames {
            addresses.note(frame, || seconds(1));
        }
        let current = addresses.current(seconds(2));
        current.into_iter().map(|(address, _)| address).collect()
    }

    fn at(vlan: Option<u16>, ip: impl Into<IpAddr>) -> Address {
        let ip = ip.into();
        Address { vlan, ip }
    }

    /// A solicitation for another's address, from `source`.
    fn solicitation(source: Ipv6Addr) -> Vec<u8> {
        let mut frame = neighbour_advertisement(MAC, source, None);
        frame[54] = 135;
        frame
    }

    #[test]
    fn what_claims_an_address_is_learned_with_its_vlan() {
        let frames = [
            gratuitous_arp(MAC, V4, None),
            gratuitous_arp(MAC, V4, Some(7)),
            neighbour_advertisement(MAC, V6, Some(7)),
            solicitation("fe80::7".parse().unwrap()),
        ];
        let expected = [
            at(None, V4),
            at(None, "fe80::7".parse::<Ipv6Addr>().unwrap()),
            at(Some(7), V4),
            at(Some(7), V6),
        ];
        assert_eq!(learned(&frames), expected);
    }

    #[test]
    fn what_claims_none_or_anothers_is_not() {
        let mut of_another_sender = gratuitous_arp(MAC, V4, None);
        of_another_sender[22..28].copy_from_slice(&OTHER);
        let mut proxied = neighbour_advertisement(MAC, V6, None);
        proxied[80..86].copy_from_slice(&OTHER);
        let mut routed = neighbour_advertisement(MAC, V6, None);
        routed[21] = 254;
        let mut udp = neighbour_advertisement(MAC, V6, None);
        udp[20] = 17;
        let frames = [
            rarp(MAC, None),
            gratuitous_arp(OTHER, V4, None),
            gratuitous_arp(MAC, Ipv4Addr::UNSPECIFIED, None),
            gratuitous_arp(MAC, Ipv4Addr::BROADCAST, None),
            gratuitous_arp(MAC, Ipv4Addr::LOCALHOST, None),
            of_another_sender,
            solicitation(Ipv6Addr::UNSPECIFIED),
            neighbour_advertisement(MAC, "ff02::1".parse().unwrap(), None),
            proxied,
            routed,
            udp,
        ];
        assert_eq!(learned(&frames), []);
    }

    #[test]
    fn no_prefix_and_no_damage_of_a_frame_is_more_than_ignored() {
        let addresses = Addresses::new(MAC);
        let frames = [
            gratuitous_arp(MAC, V4, Some(7)),
            neighbour_advertisement(MAC, V6, Some(7)),
        ];
        for frame in &frames {
            for length in 0..frame.len() {
                addresses.note(&frame[..length], || seconds(1));
                for bit in 0..8 {
                    let mut damaged = frame.clone();
                    damaged[length] ^= 1 << bit;
                    addresses.note(&damaged, || seconds(1));
                }
            }
        }
        assert!(addresses.current(seconds(1)).len() <= ADDRESSES_MAX);
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_makes_room() {
        let addresses = Addresses::new(MAC);
        let ip = |n: u64| {
            let [.., a, b] = n.to_be_bytes();
            Ipv4Addr::new(10, 0, a, b)
        };
        for n in 0..1000 {
            addresses.note(&gratuitous_arp(MAC, ip(n), None), || seconds(n / 10));
        }
        // Said again: young again.
        addresses.note(&gratuitous_arp(MAC, ip(940), None), || seconds(100));
        addresses.note(&gratuitous_arp(MAC, ip(2000), None), || seconds(100));
        let current = addresses.current(seconds(100));
        assert_eq!(current.len(), ADDRESSES_MAX);
        let has = |n| current.iter().any(|(a, _)| a.ip == IpAddr::from(ip(n)));
        assert!(has(940) && has(999) && has(2000) && !has(1) && !has(936));
    }

    #[test]
    fn what_is_not_said_again_is_forgotten() {
        let addresses = Addresses::new(MAC);
        addresses.put(at(None, V4), seconds(10));
        addresses.put(at(None, V6), seconds(20));
        let later = seconds(10) + KEPT_FOR;
        let kept = [(at(None, V6), later - seconds(20))];
        assert_eq!(addresses.current(later), kept);
        assert_eq!(addresses.current(later + seconds(10)), []);
        // A clock that went back is no reason to forget.
        addresses.put(at(None, V4), seconds(50));
        assert_eq!(addresses.current(seconds(1)).len(), 1);
    }

    #[test]
    fn vlans_are_heard_in_any_frame_of_the_guests_and_bounded() {
        let addresses = Addresses::new(MAC);
        let mut ip_packet = gratuitous_arp(MAC, V4, Some(42));
        ip_packet[16..18].copy_from_slice(&[8, 0]);
        for frame in [
            ip_packet,
            rarp(MAC, Some(4094)),
            rarp(OTHER, Some(9)),
            rarp(MAC, Some(0)),
        ] {
            assert_eq!(addresses.sort(&frame), Sort::Other);
        }
        assert_eq!(addresses.vlans(), [42, 4094]);
        for id in 0..4096 {
            addresses.sort(&rarp(MAC, Some(id)));
        }
        assert_eq!(addresses.vlans().len(), VLANS_MAX);
    }
}
