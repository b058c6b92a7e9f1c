//! The network device's saved state.

use super::backend::Offloads;
use super::filter::{MAC_TABLE_ENTRIES, MacAddr, RxFilter};
use super::shared::{LONGEST_BYTES, Rules};
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

#[derive(Debug, Encode, Decode)]
pub(super) struct NetSaved {
    #[n(0)]
    mac: ByteArray<6>,
    #[n(1)]
    promiscuous: bool,
    #[n(2)]
    all_multicast: bool,
    #[n(3)]
    all_unicast: bool,
    #[n(4)]
    no_multicast: bool,
    #[n(5)]
    no_unicast: bool,
    #[n(6)]
    no_broadcast: bool,
    #[n(7)]
    unicast_overflow: bool,
    #[n(8)]
    multicast_overflow: bool,
    #[n(9)]
    unicast: Vec<ByteArray<6>>,
    #[n(10)]
    multicast: Vec<ByteArray<6>>,
    #[n(11)]
    vlans: Vec<u64>,
    #[n(12)]
    link_up: bool,
    #[n(13)]
    announce: bool,
    #[n(14)]
    active_pairs: u16,
    #[n(15)]
    offloads: u64,
    /// By pair: a frame that waits for buffers, with header; empty if none.
    #[n(16)]
    waiting: Vec<ByteVec>,
}

/// What a saved state says, checked.
pub(super) struct Restored {
    pub(super) rules: Rules,
    pub(super) announce: bool,
    pub(super) waiting: Vec<Vec<u8>>,
}

fn pack(addresses: &[MacAddr]) -> Vec<ByteArray<6>> {
    addresses.iter().map(|mac| ByteArray::from(mac.0)).collect()
}

fn unpack(addresses: &[ByteArray<6>]) -> Vec<MacAddr> {
    addresses.iter().map(|mac| MacAddr(**mac)).collect()
}

impl NetSaved {
    pub(super) fn of(rules: &Rules, announce: bool, waiting: &[Vec<u8>]) -> Self {
        let filter = &rules.filter;
        Self {
            mac: ByteArray::from(filter.mac.0),
            promiscuous: filter.promiscuous,
            all_multicast: filter.all_multicast,
            all_unicast: filter.all_unicast,
            no_multicast: filter.no_multicast,
            no_unicast: filter.no_unicast,
            no_broadcast: filter.no_broadcast,
            unicast_overflow: filter.unicast_overflow,
            multicast_overflow: filter.multicast_overflow,
            unicast: pack(&filter.unicast),
            multicast: pack(&filter.multicast),
            vlans: filter.vlans.to_vec(),
            link_up: rules.link_up,
            announce,
            active_pairs: rules.active_pairs,
            offloads: rules.offloads.bits(),
            waiting: waiting
                .iter()
                .map(|frame| ByteVec::from(frame.clone()))
                .collect(),
        }
    }

    pub(super) fn check(self, pairs: u16, features: u64) -> Result<Restored, String> {
        let mac = MacAddr(*self.mac);
        let mut filter = RxFilter::open(mac);
        filter.promiscuous = self.promiscuous;
        filter.all_multicast = self.all_multicast;
        filter.all_unicast = self.all_unicast;
        filter.no_multicast = self.no_multicast;
        filter.no_unicast = self.no_unicast;
        filter.no_broadcast = self.no_broadcast;
        filter.unicast_overflow = self.unicast_overflow;
        filter.multicast_overflow = self.multicast_overflow;
        filter.unicast = unpack(&self.unicast);
        filter.multicast = unpack(&self.multicast);
        if filter.unicast.len() + filter.multicast.len() > MAC_TABLE_ENTRIES {
            return Err("the saved MAC table is longer than one can be".to_owned());
        }
        filter.vlans = self
            .vlans
            .try_into()
            .map_err(|_| "the saved VLAN table has a wrong length")?;
        if self.active_pairs == 0 || self.active_pairs > pairs {
            return Err(format!(
                "{} queue pairs were in use, there are {pairs} here",
                self.active_pairs
            ));
        }
        let accepted = Offloads::from_bits_truncate(features);
        let offloads = Offloads::from_bits(self.offloads)
            .filter(|offloads| accepted.contains(*offloads))
            .ok_or("offloads were in use that were not negotiated")?;
        if self.waiting.len() > usize::from(pairs)
            || self.waiting.iter().any(|frame| frame.len() > LONGEST_BYTES)
        {
            return Err("a saved frame is longer than one can be".to_owned());
        }
        Ok(Restored {
            rules: Rules {
                filter,
                link_up: self.link_up,
                active_pairs: self.active_pairs,
                offloads,
            },
            announce: self.announce,
            waiting: self.waiting.into_iter().map(Vec::from).collect(),
        })
    }
}
