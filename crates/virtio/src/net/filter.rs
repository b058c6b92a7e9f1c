//! Which received frames the driver wants (virtio 1.2, section 5.1.6.5).

use std::fmt;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether it is a group address: multicast or broadcast.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Addresses of both kinds that the table takes before it gives up and accepts all of a kind.
pub const MAC_TABLE_ENTRIES: usize = 64;

const VLAN_WORDS: usize = 4096 / 64;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];

/// The length of a frame's beginning that decides.
pub(crate) const DECIDING_BYTES: usize = 18;

/// The filter as the driver programmed it. Until it programs one everything is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RxFilter {
    /// The device's address.
    pub mac: MacAddr,
    /// Accept everything.
    pub promiscuous: bool,
    /// Accept all multicast.
    pub all_multicast: bool,
    /// Accept all unicast.
    pub all_unicast: bool,
    /// Accept no multicast.
    pub no_multicast: bool,
    /// Accept no unicast.
    pub no_unicast: bool,
    /// Accept no broadcast.
    pub no_broadcast: bool,
    /// More unicast addresses than fit.
    pub unicast_overflow: bool,
    /// More multicast addresses than fit.
    pub multicast_overflow: bool,
    /// Further unicast addresses.
    pub unicast: Vec<MacAddr>,
    /// Multicast addresses.
    pub multicast: Vec<MacAddr>,
    /// One bit a VLAN.
    pub(crate) vlans: [u64; VLAN_WORDS],
}

impl RxFilter {
    /// As at reset: promiscuous, every VLAN.
    #[must_use]
    pub fn open(mac: MacAddr) -> Self {
        Self {
            mac,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast_overflow: false,
            multicast_overflow: false,
            unicast: Vec::new(),
            multicast: Vec::new(),
            vlans: [u64::MAX; VLAN_WORDS],
        }
    }

    /// Accepts no VLAN (`false`) or all of them.
    pub(crate) fn set_all_vlans(&mut self, accepted: bool) {
        self.vlans = [if accepted { u64::MAX } else { 0 }; VLAN_WORDS];
    }

    /// Accepts a VLAN or not; `false` if there is no such VLAN.
    pub(crate) fn set_vlan(&mut self, id: u16, accepted: bool) -> bool {
        let Some(word) = self.vlans.get_mut(usize::from(id) / 64) else {
            return false;
        };
        let bit = 1 << (id % 64);
        if accepted {
            *word |= bit;
        } else {
            *word &= !bit;
        }
        true
    }

    /// The VLANs accepted, in ascending order.
    pub fn vlans(&self) -> impl Iterator<Item = u16> + '_ {
        (0..4096).filter(|id| self.accepts_vlan(*id))
    }

    fn accepts_vlan(&self, id: u16) -> bool {
        self.vlans
            .get(usize::from(id) / 64)
            .is_some_and(|word| word & (1 << (id % 64)) != 0)
    }

    /// Whether the driver wants the frame that begins with `frame` (its first 18 bytes suffice).
    #[must_use]
    pub fn accepts(&self, frame: &[u8]) -> bool {
        if self.promiscuous {
            return true;
        }
        let Some(destination) = frame.first_chunk::<6>().map(|bytes| MacAddr(*bytes)) else {
            return false;
        };
        if let Some([high, low]) = frame.get(14..16)
            && frame.get(12..14) == Some(&ETHERTYPE_VLAN)
        {
            let id = u16::from_be_bytes([*high, *low]) & 0xfff;
            // Id 0 is a priority on an untagged frame, not a VLAN.
            if id != 0 && !self.accepts_vlan(id) {
                return false;
            }
        }
        if destination == BROADCAST {
            !self.no_broadcast
        } else if destination.is_group() {
            !self.no_multicast
                && (self.all_multicast
                    || self.multicast_overflow
                    || self.multicast.contains(&destination))
        } else {
            !self.no_unicast
                && (self.all_unicast
                    || self.unicast_overflow
                    || destination == self.mac
                    || self.unicast.contains(&destination))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: MacAddr = MacAddr([0x52, 0x54, 0, 1, 2, 3]);

    fn frame(destination: MacAddr, vlan: Option<u16>) -> Vec<u8> {
        let mut frame = destination.0.to_vec();
        frame.extend([2, 0, 0, 0, 0, 9]);
        if let Some(vlan) = vlan {
            frame.extend(ETHERTYPE_VLAN);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend([8, 0]);
        frame
    }

    #[test]
    fn modes() {
        let other = MacAddr([2, 0, 0, 0, 0, 1]);
        let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        let mut filter = RxFilter::open(MINE);
        assert!(filter.accepts(&frame(other, None)));
        filter.promiscuous = false;
        assert!(filter.accepts(&frame(MINE, None)));
        assert!(filter.accepts(&frame(BROADCAST, None)));
        assert!(!filter.accepts(&frame(other, None)));
        assert!(!filter.accepts(&frame(group, None)));
        assert!(!filter.accepts(&[1, 2, 3]));
        filter.unicast.push(other);
        filter.multicast.push(group);
        assert!(filter.accepts(&frame(other, None)));
        assert!(filter.accepts(&frame(group, None)));
        filter.no_multicast = true;
        filter.no_unicast = true;
        filter.no_broadcast = true;
        for address in [MINE, other, group, BROADCAST] {
            assert!(!filter.accepts(&frame(address, None)));
        }
        filter.no_multicast = false;
        filter.multicast.clear();
        filter.multicast_overflow = true;
        assert!(filter.accepts(&frame(group, None)));
    }

    #[test]
    fn vlans() {
        let mut filter = RxFilter::open(MINE);
        filter.promiscuous = false;
        filter.set_all_vlans(false);
        assert!(!filter.set_vlan(4096, true));
        assert!(filter.set_vlan(4095, true));
        assert!(filter.accepts(&frame(MINE, Some(4095))));
        assert!(!filter.accepts(&frame(MINE, Some(4094))));
        assert!(filter.accepts(&frame(MINE, Some(0xe000))));
        assert_eq!(filter.vlans().collect::<Vec<_>>(), [4095]);
        filter.set_vlan(4095, false);
        assert!(!filter.accepts(&frame(MINE, Some(4095))));
    }
}
