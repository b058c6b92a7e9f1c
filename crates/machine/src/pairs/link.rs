//! The NIC behind a primary: found (again), and its link looked at.

use super::PairKeeper;
use crate::board::Board;
use net::steer::{LinkOf, LinkWatch, Order, Vf};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

/// A link that is looked at.
pub(super) struct SeenLink {
    of: LinkOf,
    /// Ends with it.
    _watch: LinkWatch,
}

/// Whether the PF is the interface it was: after its driver was loaded anew, its name may be another one's.
fn is_still_there(vf: &Vf) -> bool {
    match socket(AddressFamily::INET, SocketType::DGRAM, None) {
        Ok(socket) => name_to_index(&socket, &vf.pf.name) == Ok(vf.pf.index),
        // Nothing can be said against it.
        Err(_) => true,
    }
}

impl PairKeeper {
    fn link_of(&self, standby: &str) -> Option<LinkOf> {
        let vf = self.steering.get(standby)?.view().vf?;
        Some(LinkOf {
            interface: vf.pf.index,
            vf: Some(vf.number),
        })
    }
}

impl Board {
    /// Before a primary is plugged, and once its pair is complete: a VF that was not there before, or that is another one
    /// now, is steered from here on, and its link looked at.
    pub(super) fn look_at_nic(&mut self, id: &str) {
        let pair = self.pairs.pairs.by_primary(id);
        let Some(standby) = pair.map(|pair| pair.standby().to_owned()) else {
            return;
        };
        let Some(steering) = self.steering(&standby) else {
            return;
        };
        if !steering.view().vf.as_ref().is_some_and(is_still_there) {
            let vf_address = self.address_of_primary(id);
            steering.order(Order::LookFor {
                primary: Some(id.to_owned()),
                vf_address,
            });
        }
        let of = self.pairs.link_of(&standby);
        let Some(primary) = self.pairs.primaries.get_mut(id) else {
            return;
        };
        if primary.link.as_ref().map(|link| link.of) == of {
            return;
        }
        primary.link = None;
        let Some(of) = of else {
            return;
        };
        let (control, name) = (self.control.clone(), id.to_owned());
        let told = move |up| {
            tracing::info!(primary = name, up, "the link");
            let name = name.clone();
            control.post(move |board| board.primary_link(&name, up));
        };
        match LinkWatch::start(of, told) {
            Ok(watch) => primary.link = Some(SeenLink { of, _watch: watch }),
            Err(error) => tracing::warn!(primary = id, %error, "its link cannot be looked at"),
        }
    }
}
