//! The rules by which Linux pairs a standby with a primary, and chooses between them (its `net_failover` and
//! `failover` modules). Pure.

use crate::pci::Bdf;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What the rules look at in a network device that has just registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The function behind it.
    pub bdf: Bdf,
    /// Its permanent address.
    pub mac: Mac,
    /// Whether it is Ethernet.
    pub ethernet: bool,
    /// Whether its parent is a PCI function.
    pub pci_parent: bool,
}

/// Why a device is no primary for a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// Its permanent address is another.
    Address,
    /// It is not Ethernet.
    NotEthernet,
    /// It is no PCI function.
    NotPci,
    /// There is a primary already.
    Taken,
}

/// The failover interface over a standby that has accepted STANDBY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// The standby.
    pub standby: Bdf,
    /// The address of all three.
    pub mac: Mac,
    /// The primary, while it is registered.
    pub primary: Option<Bdf>,
    /// Frames that came over the standby while a primary was registered: no one got them.
    pub dropped_on_standby: u64,
}

/// What comes of a frame that arrives on one of a master's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The master gets it.
    Delivered,
    /// Only a listener on that very device would get it.
    ExactMatchOnly,
}

impl Master {
    /// A master over its standby alone.
    pub fn new(standby: Bdf, mac: Mac) -> Self {
        Self {
            standby,
            mac,
            primary: None,
            dropped_on_standby: 0,
        }
    }

    /// A device has registered: it becomes the primary if the rules allow it.
    ///
    /// # Errors
    /// Why it does not.
    pub fn register(&mut self, candidate: &Candidate) -> Result<(), Mismatch> {
        if !candidate.ethernet {
            return Err(Mismatch::NotEthernet);
        }
        if candidate.mac != self.mac {
            return Err(Mismatch::Address);
        }
        if !candidate.pci_parent {
            return Err(Mismatch::NotPci);
        }
        if self.primary.is_some_and(|taken| taken != candidate.bdf) {
            return Err(Mismatch::Taken);
        }
        self.primary = Some(candidate.bdf);
        Ok(())
    }

    /// A device has left; whether it was the primary.
    pub fn unregister(&mut self, bdf: Bdf) -> bool {
        let was = self.primary == Some(bdf);
        if was {
            self.primary = None;
        }
        was
    }

    /// The device to send on: the primary while its link is up, else the standby.
    pub fn active(&self, link_up: impl Fn(Bdf) -> bool) -> Option<Bdf> {
        self.primary
            .into_iter()
            .chain([self.standby])
            .find(|&device| link_up(device))
    }

    /// A frame arrived on one of the devices.
    pub fn arrival(&mut self, on: Bdf) -> Fate {
        if self.primary.is_some() && on == self.standby {
            self.dropped_on_standby += 1;
            Fate::ExactMatchOnly
        } else {
            Fate::Delivered
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDBY: Bdf = Bdf::new(1, 0, 0);
    const PRIMARY: Bdf = Bdf::new(2, 0, 0);

    fn candidate() -> Candidate {
        Candidate {
            bdf: PRIMARY,
            mac: [2; 6],
            ethernet: true,
            pci_parent: true,
        }
    }

    #[test]
    fn only_an_ethernet_pci_function_with_the_address_becomes_primary() {
        let mut master = Master::new(STANDBY, [2; 6]);
        let no = |change: fn(&mut Candidate)| {
            let mut candidate = candidate();
            change(&mut candidate);
            candidate
        };
        for (candidate, why) in [
            (no(|c| c.mac[5] = 3), Mismatch::Address),
            (no(|c| c.ethernet = false), Mismatch::NotEthernet),
            (no(|c| c.pci_parent = false), Mismatch::NotPci),
        ] {
            assert_eq!(master.register(&candidate), Err(why));
        }
        assert_eq!(master.register(&candidate()), Ok(()));
        let other = no(|c| c.bdf = Bdf::new(3, 0, 0));
        assert_eq!(master.register(&other), Err(Mismatch::Taken));
    }

    #[test]
    fn the_primary_is_preferred_while_its_link_is_up() {
        let mut master = Master::new(STANDBY, [2; 6]);
        assert_eq!(master.active(|_| true), Some(STANDBY));
        master.register(&candidate()).unwrap();
        assert_eq!(master.active(|_| true), Some(PRIMARY));
        assert_eq!(master.active(|bdf| bdf != PRIMARY), Some(STANDBY));
        assert_eq!(master.active(|_| false), None);
    }

    #[test]
    fn the_standby_receives_for_the_master_only_while_it_is_alone() {
        let mut master = Master::new(STANDBY, [2; 6]);
        assert_eq!(master.arrival(STANDBY), Fate::Delivered);
        master.register(&candidate()).unwrap();
        // Even with the primary's link down: it is registered.
        assert_eq!(master.arrival(STANDBY), Fate::ExactMatchOnly);
        assert_eq!(master.arrival(PRIMARY), Fate::Delivered);
        assert!(master.unregister(PRIMARY) && !master.unregister(PRIMARY));
        assert_eq!(master.arrival(STANDBY), Fate::Delivered);
        assert_eq!(master.dropped_on_standby, 1);
    }
}
