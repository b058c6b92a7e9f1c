//! Announcing a guest: frames that tell every switch on the way where the guest's address is now.
//!
//! The guest cannot do it: net_failover says nothing when the path changes, and virtio-net's own
//! announcement concerns a device that holds no address. RARP needs the MAC only; where the guest's
//! addresses are known ([`crate::addresses`]), gratuitous ARP and unsolicited neighbour advertisements
//! refresh its neighbours too.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::addresses::Address;

/// A MAC address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// The least length of an Ethernet frame without its checksum.
const FRAME_MIN_BYTES: usize = 60;

const ETHERTYPE_RARP: u16 = 0x8035;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;

const ARP_REQUEST: u16 = 1;
const RARP_REQUEST: u16 = 3;

fn ethernet(to: Mac, from: Mac, vlan: Option<u16>, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(to);
    frame.extend(from);
    if let Some(id) = vlan {
        frame.extend(ETHERTYPE_VLAN.to_be_bytes());
        frame.extend((id & 0x0fff).to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() < FRAME_MIN_BYTES {
        frame.resize(FRAME_MIN_BYTES, 0);
    }
    frame
}

/// The body that ARP (RFC 826) and RARP (RFC 903) share, for Ethernet and IPv4.
fn arp_body(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut body = Vec::with_capacity(28);
    body.extend(1u16.to_be_bytes()); // hardware: Ethernet
    body.extend(ETHERTYPE_IPV4.to_be_bytes());
    body.extend([6, 4]); // lengths of the addresses
    body.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        body.extend(mac);
        body.extend(ip.octets());
    }
    body
}

/// A broadcast RARP request (RFC 903) from `mac` about itself: switches learn, nobody answers.
pub fn rarp(mac: Mac, vlan: Option<u16>) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, vlan, ETHERTYPE_RARP);
    let own = (mac, Ipv4Addr::UNSPECIFIED);
    frame.extend(arp_body(RARP_REQUEST, own, own));
    padded(frame)
}

/// A gratuitous ARP request (RFC 5227, "announcement"): switches learn, neighbours refresh.
pub fn gratuitous_arp(mac: Mac, ip: Ipv4Addr, vlan: Option<u16>) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, vlan, ETHERTYPE_ARP);
    frame.extend(arp_body(ARP_REQUEST, (mac, ip), ([0; 6], ip)));
    padded(frame)
}

/// An unsolicited neighbour advertisement (RFC 4861, section 7.2.6) to all nodes, overriding.
pub fn neighbour_advertisement(mac: Mac, ip: Ipv6Addr, vlan: Option<u16>) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    const FLAG_OVERRIDE: u8 = 0x20;

    let mut message = vec![136, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]); // option: target link-layer address, of 8 bytes
    message.extend(mac);
    let checksum = icmpv6_checksum(ip, ALL_NODES, &message);
    for (to, from) in message.iter_mut().skip(2).zip(checksum.to_be_bytes()) {
        *to = from;
    }

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, vlan, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(
        u16::try_from(message.len())
            .unwrap_or_default()
            .to_be_bytes(),
    );
    frame.extend([ICMPV6, 255]); // hop limit 255: from this link
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    padded(frame)
}

/// All that announces a guest, in order: RARP untagged and on each of its VLANs, then each of its addresses on the VLAN
/// where it is.
pub fn announcements(mac: Mac, vlans: &[u16], addresses: &[Address]) -> Vec<Vec<u8>> {
    let tagged = vlans
        .iter()
        .copied()
        .chain(addresses.iter().filter_map(|a| a.vlan));
    let links: BTreeSet<Option<u16>> = [None].into_iter().chain(tagged.map(Some)).collect();
    let mut frames: Vec<_> = links.into_iter().map(|vlan| rarp(mac, vlan)).collect();
    frames.extend(addresses.iter().map(|Address { vlan, ip }| match ip {
        IpAddr::V4(ip) => gratuitous_arp(mac, *ip, *vlan),
        IpAddr::V6(ip) => neighbour_advertisement(mac, *ip, *vlan),
    }));
    frames
}

/// The checksum of RFC 4443, section 2.3, over the pseudo-header and the message.
fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut words: Vec<u8> = Vec::with_capacity(40 + message.len());
    words.extend(from.octets());
    words.extend(to.octets());
    words.extend(
        u32::try_from(message.len())
            .unwrap_or_default()
            .to_be_bytes(),
    );
    words.extend([0, 0, 0, 58]);
    words.extend(message);
    let mut sum = 0u32;
    for pair in words.chunks(2) {
        let high = pair.first().copied().unwrap_or_default();
        let low = pair.get(1).copied().unwrap_or_default();
        sum = sum.wrapping_add(u32::from(u16::from_be_bytes([high, low])));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// How often and when to announce: `announce-initial`, `-step`, `-max` and `-rounds` of QMP's
/// migration parameters, their defaults included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceParameters {
    /// The wait between the first and the second announcement.
    pub initial_ms: u64,
    /// The longest wait.
    pub max_ms: u64,
    /// How many announcements.
    pub rounds: u64,
    /// By how much the wait grows each time.
    pub step_ms: u64,
}

impl Default for AnnounceParameters {
    fn default() -> Self {
        Self {
            initial_ms: 50,
            max_ms: 550,
            rounds: 5,
            step_ms: 100,
        }
    }
}

/// The moments at which to announce, the first at once: with the defaults 0, 50, 200, 450 and 800 ms
/// after the start. The clock is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceSchedule {
    parameters: AnnounceParameters,
    round: u64,
    next: Duration,
}

impl AnnounceSchedule {
    /// A schedule that starts at `now` on the caller's clock.
    pub fn starting(now: Duration, parameters: AnnounceParameters) -> Self {
        Self {
            parameters,
            round: 0,
            next: now,
        }
    }

    /// When the next announcement is due; `None` once all are done.
    pub fn next_at(&self) -> Option<Duration> {
        (self.round < self.parameters.rounds).then_some(self.next)
    }

    /// Whether an announcement is due at `now`; if so the schedule moves on. Announcements that were
    /// missed are not made up for: one now says all that they would have.
    pub fn due(&mut self, now: Duration) -> bool {
        let Some(at) = self.next_at() else {
            return false;
        };
        if now < at {
            return false;
        }
        let p = self.parameters;
        let wait_ms = p
            .step_ms
            .saturating_mul(self.round)
            .saturating_add(p.initial_ms)
            .min(p.max_ms);
        self.round += 1;
        let wait = Duration::from_millis(wait_ms);
        self.next = at.max(now).checked_add(wait).unwrap_or(Duration::MAX);
        true
    }
}

/// The moments themselves, for a caller that keeps time by another way.
impl Iterator for AnnounceSchedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = self.next_at()?;
        self.due(at);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x52, 0x54, 0, 0x6f, 0x55, 0xcc];

    fn ms(schedule: AnnounceSchedule) -> Vec<u128> {
        schedule.map(|d| d.as_millis()).collect()
    }

    #[test]
    fn the_default_schedule_is_the_one_switches_are_used_to() {
        let start = Duration::from_millis(7);
        let schedule = AnnounceSchedule::starting(start, AnnounceParameters::default());
        assert_eq!(ms(schedule), [7, 57, 207, 457, 807]);
    }

    #[test]
    fn the_wait_is_bounded_and_overflow_is_not_an_end_of_the_world() {
        let p = AnnounceParameters {
            initial_ms: 500,
            max_ms: 550,
            rounds: 4,
            step_ms: u64::MAX,
        };
        let schedule = AnnounceSchedule::starting(Duration::ZERO, p);
        assert_eq!(ms(schedule), [0, 500, 1050, 1600]);
        let mut late = AnnounceSchedule::starting(Duration::MAX, p);
        assert!(late.due(Duration::MAX));
        assert_eq!(late.next_at(), Some(Duration::MAX));
    }

    #[test]
    fn missed_rounds_are_not_sent_in_a_burst() {
        let p = AnnounceParameters::default();
        let mut schedule = AnnounceSchedule::starting(Duration::ZERO, p);
        assert!(schedule.due(Duration::ZERO));
        assert!(!schedule.due(Duration::from_millis(49)));
        assert!(schedule.due(Duration::from_millis(1_000)));
        assert_eq!(schedule.next_at(), Some(Duration::from_millis(1_150)));
    }

    #[test]
    fn rarp_is_what_rfc_903_says() {
        let frame = rarp(MAC, None);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[6..12], MAC);
        assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!((&frame[22..28], &frame[32..38]), (&MAC[..], &MAC[..]));
        let tagged = rarp(MAC, Some(0x123));
        assert_eq!(tagged[12..18], [0x81, 0, 0x01, 0x23, 0x80, 0x35]);
    }

    #[test]
    fn a_guest_is_announced_on_each_of_its_links() {
        let v4 = Ipv4Addr::new(10, 9, 0, 2);
        let v6 = "2001:db8::2".parse().expect("an address");
        let on = |vlan, ip| Address { vlan, ip };
        let addresses = [on(None, IpAddr::V4(v4)), on(Some(9), IpAddr::V6(v6))];
        let expected = [
            rarp(MAC, None),
            rarp(MAC, Some(7)),
            rarp(MAC, Some(9)),
            gratuitous_arp(MAC, v4, None),
            neighbour_advertisement(MAC, v6, Some(9)),
        ];
        assert_eq!(announcements(MAC, &[7], &addresses), expected);
        assert_eq!(announcements(MAC, &[], &[]), [rarp(MAC, None)]);
    }

    #[test]
    fn gratuitous_arp_asks_for_its_own_address() {
        let ip = Ipv4Addr::new(10, 9, 0, 2);
        let frame = gratuitous_arp(MAC, ip, None);
        assert_eq!(frame[12..14], [8, 6]);
        assert_eq!(
            (&frame[28..32], &frame[38..42]),
            (&[10, 9, 0, 2][..], &[10, 9, 0, 2][..])
        );
    }

    #[test]
    fn an_advertisement_has_a_checksum_that_adds_up() {
        let ip = "fe80::5054:ff:fe6f:55cc".parse().expect("an address");
        let frame = neighbour_advertisement(MAC, ip, None);
        let message = &frame[54..];
        assert_eq!(message.len(), 32);
        // Over a message that holds its checksum the sum is zero.
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        assert_eq!(icmpv6_checksum(ip, all_nodes, message), 0);
        assert_ne!(&message[2..4], &[0, 0]);
    }
}
