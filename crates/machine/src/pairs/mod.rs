//! Failover pairs: carries out what the state machine of crate `failover` decides, and tells it what happened.
//!
//! ```text
//!   slots, NICs, monitor, migration ──events──▶ failover::Pairs ──actions──▶ here ──▶ slots, host's switch, events
//! ```
//! Opening a primary is slow (its DMA mappings, its reset): it happens on a thread of its own beside the running
//! guest, which posts the result back.

mod actions;
mod joining;
mod link;
mod migrating;
mod opening;
mod plugging;
mod steering;
mod unplugging;

pub(crate) use opening::plug_error;
pub(crate) use steering::vlans_of;
pub(crate) use unplugging::SlotWatcher;

use crate::devices::{Body, Made, Place};
use crate::inspect::{PairCounters, device_of};
use crate::primary_watch::SharedSteering;
use config::vm::{DeviceConfig, DeviceKind};
use failover::{Action, Moment, Pairs, Timing};
use pci::PciDevice;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vfio::{Container, GivenCdev, VfioPci};

/// What the board keeps of a primary.
pub(crate) struct Primary {
    pub(crate) config: DeviceConfig,
    place: Place,
    /// The function's character device, where that was handed over.
    cdev: Option<Arc<GivenCdev>>,
    /// Open, whether it is in its slot or not.
    vfio: Option<Arc<VfioPci>>,
    /// A primary without hardware behind it.
    other: Option<Made>,
    in_slot: bool,
    /// Set to break off the thread that opens it.
    opening: Option<Arc<AtomicBool>>,
    /// Its NIC's link, where that is to be seen.
    link: Option<link::SeenLink>,
}

impl Primary {
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The function, if it is open.
    pub(crate) fn function(&self) -> Option<Arc<dyn PciDevice>> {
        let vfio = self.vfio.clone().map(|vfio| vfio as Arc<dyn PciDevice>);
        vfio.or_else(|| self.other.as_ref().map(|made| Arc::clone(&made.function)))
    }

    /// Whether its state can be migrated, should it be an ordinary device to the guest.
    pub(crate) fn migrates(&self) -> bool {
        migrates(&self.config)
    }
}

/// The pairs, and what belongs to them.
pub struct PairKeeper {
    pairs: Pairs,
    primaries: BTreeMap<String, Primary>,
    steering: BTreeMap<String, SharedSteering>,
    container: Option<Arc<Container>>,
    /// Set to break off the thread that populates memory.
    populating: Option<Arc<AtomicBool>>,
    /// Standbys that a migration brought accepted: told when the guest is this machine's, and its primaries are being
    /// plugged. A client that hears of one looks for its primary.
    arrived: Option<Vec<String>>,
    counters: BTreeMap<String, PairCounters>,
    /// Why what is carried out now is: told with each step of steering.
    because: &'static str,
}

impl PairKeeper {
    pub(crate) fn new(incoming: bool) -> Self {
        let mut pairs = if incoming {
            Pairs::incoming(Timing::default())
        } else {
            Pairs::new(Timing::default())
        };
        // Until the board says that it does.
        pairs.set_guest_running(Moment::default(), false);
        Self {
            pairs,
            primaries: BTreeMap::new(),
            steering: BTreeMap::new(),
            container: None,
            populating: None,
            arrived: None,
            counters: BTreeMap::new(),
            because: "the machine begins",
        }
    }

    /// The state machine, to be looked at.
    pub fn pairs(&self) -> &Pairs {
        &self.pairs
    }

    pub(crate) fn primaries(&self) -> impl Iterator<Item = (&String, &Primary)> {
        self.primaries.iter()
    }

    /// What happened to the pair of this standby so far.
    pub(crate) fn counters_of(&self, standby: &str) -> PairCounters {
        self.counters.get(standby).copied().unwrap_or_default()
    }

    /// The counters of the pair that a device belongs to, by either id.
    fn counters_mut(&mut self, device: &str) -> Option<&mut PairCounters> {
        let pair = self.pairs.by_standby(device);
        let pair = pair.or_else(|| self.pairs.by_primary(device))?;
        Some(self.counters.entry(pair.standby().to_owned()).or_default())
    }

    fn count(&mut self, action: &Action) {
        if let Some(counters) = device_of(action).and_then(|device| self.counters_mut(device)) {
            counters.note_action(action);
        }
    }

    /// A primary without hardware that is not in its slot, by its id or its netdev's.
    pub(crate) fn beside_its_slot(&self, name: &str) -> Option<(String, Body)> {
        let named = |primary: &Primary| match &primary.config.kind {
            DeviceKind::VirtioNet(net) => net.netdev.as_deref() == Some(name),
            _ => false,
        };
        let (id, primary) = self
            .primaries
            .iter()
            .find(|(id, primary)| *id == name || named(primary))?;
        Some((id.clone(), primary.other.as_ref()?.body.clone()))
    }

    pub(crate) fn primary(&self, id: &str) -> Option<&Primary> {
        self.primaries.get(id)
    }

    /// Whether the host's function of this primary is open.
    pub(crate) fn is_open(&self, id: &str) -> bool {
        self.primary(id).is_some_and(|p| p.vfio.is_some())
    }

    /// The character device that was handed over for this primary.
    pub(crate) fn cdev_of(&self, id: &str) -> Option<&GivenCdev> {
        self.primary(id)?.cdev.as_deref()
    }

    /// What primaries are mapped into, once there was one.
    pub(crate) fn container(&self) -> Option<&Arc<Container>> {
        self.container.as_ref()
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.pairs.next_deadline()
    }

    pub(crate) fn set_guest_running(&mut self, now: Moment, running: bool) {
        self.pairs.set_guest_running(now, running);
    }

    /// A standby was taken out of the machine; whether it was one.
    pub(crate) fn forget_standby(&mut self, id: &str) -> bool {
        self.end_steering(id);
        self.counters.remove(id);
        self.pairs.remove_standby(id).is_ok()
    }

    pub(crate) fn incoming_failed(&mut self, now: Moment) {
        if let Err(error) = self.pairs.incoming_failed(now) {
            tracing::debug!(%error, "failover");
        }
    }
}

fn migrates(primary: &DeviceConfig) -> bool {
    !matches!(primary.kind, DeviceKind::VfioPci(_))
}

impl Drop for PairKeeper {
    fn drop(&mut self) {
        for primary in self.primaries.values() {
            if let Some(opening) = &primary.opening {
                opening.store(true, Ordering::Relaxed);
            }
        }
        self.restore_steering();
    }
}
