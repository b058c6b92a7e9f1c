//! The guest's network: drivers in and out, pairs, frames.

use super::{Delivery, Guest, News};
use crate::bus::GuestBus;
use crate::error::GuestError;
use crate::failover::{Candidate, Fate, Mac, Master};
use crate::pci::Bdf;
use crate::virtio::{NetDriver, features};
use std::time::Duration;

impl Guest {
    /// Gives a function its driver, if it is one for the network and has none; then the rules of failover apply.
    ///
    /// # Errors
    /// The bus.
    pub fn bind(
        &mut self,
        bus: &mut dyn GuestBus,
        bdf: Bdf,
        now: Duration,
    ) -> Result<(), GuestError> {
        let function = match self.tree.function(bdf) {
            Some(function) if function.is_virtio_net() && !self.nics.contains_key(&bdf) => function,
            _ => return Ok(()),
        };
        let probed = NetDriver::probe(
            bus,
            &mut self.ram,
            &mut self.words,
            self.tree.access(),
            function,
            &self.options.net,
        );
        let nic = match probed {
            Ok(nic) => nic,
            Err(GuestError::Bus(error)) => return Err(error.into()),
            Err(error) => {
                self.tell(now, News::Unusable(bdf, error.to_string()));
                return Ok(());
            }
        };
        let (mac, standby) = (nic.mac(), nic.has(features::STANDBY));
        self.nics.insert(bdf, nic);
        self.tell(now, News::Bound { bdf, mac, standby });
        if standby {
            self.masters.push(Master::new(bdf, mac));
            // What is there already may be the primary of the new master.
            let others: Vec<Bdf> = self.nics.keys().copied().collect();
            others.into_iter().for_each(|other| self.pair(other, now));
        } else {
            self.pair(bdf, now);
        }
        Ok(())
    }

    fn pair(&mut self, bdf: Bdf, now: Duration) {
        let Some(nic) = self.nics.get(&bdf) else {
            return;
        };
        // A standby, or a primary that has its pair, is nobody else's primary.
        let in_use = self.masters.iter().any(|m| m.primary == Some(bdf));
        if in_use || nic.has(features::STANDBY) {
            return;
        }
        let candidate = Candidate {
            bdf,
            mac: nic.mac(),
            ethernet: self.tree.function(bdf).is_some_and(|f| f.is_ethernet()),
            pci_parent: true,
        };
        let accepting = self.masters.iter_mut();
        let standby = accepting
            .filter_map(|master| master.register(&candidate).ok().map(|()| master.standby))
            .next();
        if let Some(standby) = standby {
            let primary = bdf;
            self.tell(now, News::Paired { standby, primary });
        }
    }

    /// Takes a function's driver off it.
    ///
    /// # Errors
    /// The bus.
    pub fn unbind(
        &mut self,
        bus: &mut dyn GuestBus,
        bdf: Bdf,
        now: Duration,
    ) -> Result<(), GuestError> {
        let Some(nic) = self.nics.remove(&bdf) else {
            return Ok(());
        };
        let mut unpaired = Vec::new();
        for master in &mut self.masters {
            let standby = master.standby;
            if master.unregister(bdf) {
                unpaired.push((standby, bdf));
            }
            if let Some(primary) = master.primary.filter(|_| standby == bdf) {
                unpaired.push((standby, primary));
            }
        }
        self.masters.retain(|master| master.standby != bdf);
        for (standby, primary) in unpaired {
            self.tell(now, News::Unpaired { standby, primary });
        }
        match nic.remove(bus, &mut self.ram, &mut self.words) {
            Ok(()) => self.tell(now, News::Unbound(bdf)),
            Err(GuestError::Bus(error)) => return Err(error.into()),
            Err(error) => self.tell(now, News::Unusable(bdf, error.to_string())),
        }
        Ok(())
    }

    pub(super) fn look_at_nics(
        &mut self,
        bus: &mut dyn GuestBus,
        now: Duration,
    ) -> Result<(), GuestError> {
        let all: Vec<Bdf> = self.nics.keys().copied().collect();
        for bdf in all {
            let Some(nic) = self.nics.get_mut(&bdf) else {
                continue;
            };
            let before = nic.link();
            let serviced = nic.service(bus);
            let after = nic.link();
            let announced = serviced.is_ok() && after.announce;
            let mut frames = Vec::new();
            frames.extend(std::iter::from_fn(|| nic.next_frame()));
            let acknowledged = if announced {
                nic.acknowledge_announce(bus)
                    .and_then(|_| nic.read_link(bus))
                    .map(drop)
            } else {
                Ok(())
            };
            for frame in frames {
                self.deliver(bdf, frame);
            }
            match serviced.map(drop).and(acknowledged) {
                Ok(()) => {}
                Err(GuestError::Bus(error)) => return Err(error.into()),
                Err(error) => self.tell(now, News::Unusable(bdf, error.to_string())),
            }
            if after.up != before.up {
                self.tell(now, News::Link(bdf, after.up));
            }
            if announced {
                self.tell(now, News::Announced(bdf));
            }
        }
        Ok(())
    }

    fn deliver(&mut self, over: Bdf, frame: Vec<u8>) {
        let mut to = self.nics.get(&over).map(NetDriver::mac).unwrap_or_default();
        for master in &mut self.masters {
            if master.standby == over || master.primary == Some(over) {
                if master.arrival(over) == Fate::ExactMatchOnly {
                    return;
                }
                to = master.mac;
                break;
            }
        }
        self.inbox.push_back(Delivery { to, over, frame });
    }

    /// The next frame that reached an interface.
    pub fn receive(&mut self) -> Option<Delivery> {
        self.inbox.pop_front()
    }

    /// The device that the interface with this address sends on: a pair's active one, or the only one.
    pub fn active(&self, mac: Mac) -> Option<Bdf> {
        let up = |bdf| self.nics.get(&bdf).is_some_and(|nic| nic.link().up);
        match self.masters.iter().find(|master| master.mac == mac) {
            Some(master) => master.active(up),
            None => {
                let own = self.nics.iter().filter(|(_, nic)| nic.mac() == mac);
                own.map(|(bdf, _)| *bdf).find(|&bdf| up(bdf))
            }
        }
    }

    /// Sends a frame on the interface with this address. Returns the device it went out on; `None` when no link is up
    /// or the device takes no more: then it is lost.
    ///
    /// # Errors
    /// The bus; the frame is too long; the device broke its rules.
    pub fn send(
        &mut self,
        bus: &mut dyn GuestBus,
        mac: Mac,
        frame: &[u8],
    ) -> Result<Option<Bdf>, GuestError> {
        let Some(active) = self.active(mac) else {
            return Ok(None);
        };
        match self.nics.get_mut(&active) {
            Some(nic) => Ok(nic.send(bus, frame)?.then_some(active)),
            None => Ok(None),
        }
    }
}
