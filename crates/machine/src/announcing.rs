//! Announcing: frames by which the host's network learns where a guest's NIC is now, in rounds with a growing wait.
//!
//! ```text
//!   path of a pair changed ─┐                        ┌─▶ host: RARP on each link, ARP and advertisements for what was learned
//!   guest has arrived ──────┼─▶ a run, by its cause ─┤        through the NIC's netdev
//!   announce-self ──────────┘    (a new one ends     └─▶ guest: asked to announce itself, where its driver can
//!                                 the one before)
//! ```
//! Each round looks up afresh which NICs there are and what is known of them: a guest speaks soon after it has moved, and is
//! heard.

use crate::board::Board;
use crate::pairs::vlans_of;
use failover::Moment;
use minicbor::{Decode, Encode};
use net::addresses::{ADDRESSES_MAX, Address, VLANS_MAX};
use net::announce::{AnnounceParameters, AnnounceSchedule, announcements};
use std::net::IpAddr;
use std::time::Duration;

/// Why NICs are announced. A run of one cause takes the place of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The path of the pair of this standby changed.
    Pair(String),
    /// The guest has come by a migration.
    Arrival,
    /// `announce-self`, of this id.
    Order(String),
}

/// Which NICs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// All.
    All,
    /// All but standbys, which have runs of their own.
    Unpaired,
    /// Those of these ids.
    Named(Vec<String>),
}

struct Run {
    cause: Cause,
    which: Which,
    schedule: AnnounceSchedule,
}

/// What is being announced.
#[derive(Default)]
pub(crate) struct Announcing {
    runs: Vec<Run>,
}

impl Announcing {
    /// Begins a run, in the place of one of the same cause; without rounds that one ends, and no other begins.
    fn begin(&mut self, cause: Cause, which: Which, now: Moment, parameters: AnnounceParameters) {
        self.runs.retain(|run| run.cause != cause);
        let schedule = AnnounceSchedule::starting(Duration::from_millis(now.as_ms()), parameters);
        if schedule.next_at().is_some() {
            self.runs.push(Run {
                cause,
                which,
                schedule,
            });
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        let due = self.runs.iter().filter_map(|run| run.schedule.next_at());
        let due = due.min()?.as_millis();
        Some(Moment::from_ms(u64::try_from(due).unwrap_or(u64::MAX)))
    }

    /// Whom to announce now.
    fn due(&mut self, now: Moment) -> Vec<Which> {
        let now = Duration::from_millis(now.as_ms());
        let due = self
            .runs
            .iter_mut()
            .filter_map(|run| run.schedule.due(now).then(|| run.which.clone()))
            .collect();
        self.runs.retain(|run| run.schedule.next_at().is_some());
        due
    }
}

/// What was learned of a standby, as it goes with a migration: the guest is announced on the target before it has spoken
/// there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct LearnedState {
    #[n(0)]
    nic: String,
    #[n(1)]
    addresses: Vec<AddressState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct AddressState {
    #[n(0)]
    vlan: Option<u16>,
    /// 4 or 16 bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    ip: Vec<u8>,
    /// Since the guest claimed it.
    #[n(2)]
    age_ms: u64,
}

impl AddressState {
    fn address(&self) -> Option<Address> {
        let ip = match self.ip.as_slice() {
            [a, b, c, d] => IpAddr::from([*a, *b, *c, *d]),
            bytes => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        };
        let vlan = self.vlan;
        Some(Address { vlan, ip })
    }
}

impl Board {
    /// Announces the guest of a pair, from now on.
    pub(crate) fn announce(&mut self, standby: &str) {
        let which = Which::Named(vec![standby.to_owned()]);
        let parameters = self.outgoing.announce_parameters();
        self.begin_announcing(Cause::Pair(standby.to_owned()), which, parameters);
    }

    /// Announces the NICs of a guest that has come by a migration; its pairs are announced by themselves.
    pub(crate) fn announce_arrival(&mut self) {
        let parameters = self.outgoing.announce_parameters();
        self.begin_announcing(Cause::Arrival, Which::Unpaired, parameters);
    }

    pub(crate) fn begin_announcing(
        &mut self,
        cause: Cause,
        which: Which,
        parameters: AnnounceParameters,
    ) {
        let now = self.control.now();
        self.announcing.begin(cause, which, now, parameters);
        self.announce_due(now);
    }

    /// Sends what is due.
    pub(crate) fn announce_due(&mut self, now: Moment) {
        for which in self.announcing.due(now) {
            let keys: Vec<String> = self
                .devices
                .iter()
                .map(|device| device.key.clone())
                .filter(|key| match &which {
                    Which::All => true,
                    Which::Unpaired => self.pairs.pairs().by_standby(key).is_none(),
                    Which::Named(names) => names.contains(key),
                })
                .collect();
            for key in keys {
                self.announce_nic(&key, now);
            }
        }
    }

    fn announce_nic(&self, key: &str, now: Moment) {
        let Some(nic) = self.devices.net(key) else {
            return;
        };
        // A driver that announces takes the guest's lock on its NICs, which the removal of the primary needs.
        let leaving = |pair: &failover::Pair| pair.state().phase() == failover::Phase::Unplugging;
        if !self.pairs.pairs().by_standby(key).is_some_and(leaving) {
            nic.announce();
        }
        let Some(netdev) = self.netdevs.backend_of(key) else {
            return;
        };
        let learned = self.netdevs.addresses_of(key);
        let now = Duration::from_millis(now.as_ms());
        let addresses: Vec<Address> = learned
            .map(|learned| learned.current(now).into_iter().map(|(a, _)| a).collect())
            .unwrap_or_default();
        let mut vlans = vlans_of(&nic.rx_filter());
        if let Some(learned) = learned.filter(|_| vlans.is_empty()) {
            vlans = learned.vlans();
        }
        if vlans.len() > VLANS_MAX {
            tracing::debug!(
                nic = key,
                vlans = vlans.len(),
                "more VLANs than are announced"
            );
            vlans.truncate(VLANS_MAX);
        }
        let frames = announcements(nic.configured_mac().0, &vlans, &addresses);
        for frame in &frames {
            if let Err(error) = netdev.announce(frame) {
                tracing::warn!(nic = key, netdev = netdev.describe(), %error, "the guest could not be announced");
                return;
            }
        }
        tracing::debug!(nic = key, frames = frames.len(), "announced");
    }

    /// For a person: what of a standby's guest is announced beside its MAC address.
    pub(crate) fn announced_of(&self, standby: &str) -> Option<String> {
        let learned = self.netdevs.addresses_of(standby)?;
        let now = Duration::from_millis(self.control.now().as_ms());
        let current = learned.current(now);
        let names = current.iter().map(|(address, _)| match address.vlan {
            Some(vlan) => format!("{} on VLAN {vlan}", address.ip),
            None => address.ip.to_string(),
        });
        let names: Vec<String> = names.collect();
        let kernel = self
            .netdevs
            .backend_of(standby)
            .is_some_and(|netdev| netdev.kernel().is_some());
        Some(match (names.is_empty(), kernel) {
            (false, _) => format!("announces {}", names.join(" and ")),
            (true, false) => "announces no addresses: none was heard".to_owned(),
            (true, true) => "announces no addresses: vhost-net's frames are not seen".to_owned(),
        })
    }

    /// What was learned, for a migration.
    pub(crate) fn learned(&self) -> Vec<LearnedState> {
        let now = Duration::from_millis(self.control.now().as_ms());
        let ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.pairs
            .pairs()
            .iter()
            .filter_map(|pair| {
                let current = self.netdevs.addresses_of(pair.standby())?.current(now);
                let addresses = current.into_iter().map(|(address, age)| AddressState {
                    vlan: address.vlan,
                    ip: match address.ip {
                        IpAddr::V4(ip) => ip.octets().to_vec(),
                        IpAddr::V6(ip) => ip.octets().to_vec(),
                    },
                    age_ms: ms(age),
                });
                Some(LearnedState {
                    nic: pair.standby().to_owned(),
                    addresses: addresses.collect(),
                })
            })
            .filter(|state| !state.addresses.is_empty())
            .collect()
    }

    /// Takes over what a source has learned. Hostile input: what is no address of a standby here is passed over.
    pub(crate) fn relearn(&self, states: &[LearnedState]) {
        let now = Duration::from_millis(self.control.now().as_ms());
        for state in states {
            let Some(learned) = self.netdevs.addresses_of(&state.nic) else {
                continue;
            };
            for saved in state.addresses.iter().take(ADDRESSES_MAX) {
                let age = Duration::from_millis(saved.age_ms);
                // One that is older than this host's clock is taken for as old as that.
                if let Some(address) = saved.address().filter(|_| age < net::addresses::KEPT_FOR) {
                    learned.put(address, now.saturating_sub(age));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(at: u64) -> Moment {
        Moment::from_ms(at)
    }

    fn rounds(rounds: u64) -> AnnounceParameters {
        AnnounceParameters {
            rounds,
            ..AnnounceParameters::default()
        }
    }

    #[test]
    fn an_order_replaces_the_one_of_its_id_and_leaves_the_others() {
        let order = |id: &str| Cause::Order(id.into());
        let mut announcing = Announcing::default();
        announcing.begin(order(""), Which::All, ms(0), rounds(3));
        announcing.begin(order("x"), Which::Unpaired, ms(10), rounds(2));
        assert_eq!(announcing.due(ms(10)), [Which::All, Which::Unpaired]);
        // Again from its first round, for other NICs.
        let named = Which::Named(vec!["n".into()]);
        announcing.begin(order(""), named.clone(), ms(20), rounds(1));
        assert_eq!(announcing.next_deadline(), Some(ms(20)));
        assert_eq!(announcing.due(ms(20)), [named]);
        assert_eq!(announcing.next_deadline(), Some(ms(60)));
        // No rounds: ended.
        announcing.begin(order("x"), Which::All, ms(30), rounds(0));
        assert_eq!(announcing.next_deadline(), None);
    }
}
