//! The host's switch follows the pair: what the state machine wants steered, handed to crate `net`; and the announcements
//! that go with it.

use super::PairKeeper;
use crate::board::Board;
use crate::devices::host_spec;
use crate::primary_watch::SharedSteering;
use config::vm::DeviceKind;
use net::steer::{Report, Steering};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio::HostDevice;

pub(super) fn lock(steering: &SharedSteering) -> MutexGuard<'_, Steering> {
    steering.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs what steering did; a step that failed never stops anything.
pub(crate) fn report(what: &str, standby: &str, report: &Report) {
    for (step, error) in report.failures() {
        tracing::warn!(standby, %step, %error, "steering the host's switch to the {what}: a step failed");
    }
    for (step, outcome) in &report.steps {
        tracing::debug!(standby, %step, ?outcome, "steering the host's switch to the {what}");
    }
}

impl PairKeeper {
    /// The machine ends: the host's switch gets back what it had.
    pub(super) fn restore_steering(&self) {
        for (standby, steering) in &self.steering {
            let done = lock(steering).restore();
            report("way it was found", standby, &done);
        }
    }

    /// How the host's switch is steered for a standby, for `info network`.
    pub fn steering_of(&self, standby: &str) -> Option<String> {
        self.steering.get(standby).map(|s| lock(s).describe())
    }
}

impl Board {
    pub(super) fn steering(&mut self, standby: &str) -> Option<SharedSteering> {
        if !self.pairs.steering.contains_key(standby) {
            let mac = self.devices.net(standby)?.configured_mac().0;
            let tap = self.netdevs.interface_of(standby)?.to_owned();
            let primary = self
                .pairs
                .pairs
                .by_standby(standby)
                .and_then(|p| p.primary().map(str::to_owned));
            let host = primary
                .and_then(|id| self.pairs.primary(&id))
                .and_then(|p| match &p.config.kind {
                    DeviceKind::VfioPci(vfio) => {
                        HostDevice::find(&host_spec(vfio), Path::new("/sys")).ok()
                    }
                    _ => None,
                });
            match Steering::discover(&tap, host.as_ref().map(|h| h.name.as_str()), mac) {
                Ok(steering) => {
                    self.pairs
                        .steering
                        .insert(standby.to_owned(), Arc::new(Mutex::new(steering)));
                }
                Err(error) => {
                    tracing::warn!(standby, %error, "the host's switch cannot be steered");
                    return None;
                }
            }
        }
        self.pairs.steering.get(standby).cloned()
    }

    /// Makes the host's switch send to the standby.
    pub(crate) fn steer_to_standby(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            let done = lock(&steering).to_standby();
            report("standby", standby, &done);
        }
    }

    pub(super) fn steer_to_primary(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            let done = lock(&steering).to_primary();
            report("primary", standby, &done);
        }
    }

    pub(super) fn steer_away(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            let done = lock(&steering).guest_left();
            report("wire", standby, &done);
        }
    }

    /// Announces the guest by its standby: RARP by the host, and the guest's own announcement.
    pub(crate) fn announce(&mut self, standby: &str) {
        let Some(net) = self.devices.net(standby) else {
            return;
        };
        net.announce();
        let mac = net.configured_mac();
        let now = self.now();
        let parameters = self.outgoing.announce_parameters();
        self.netdevs.announce(standby, mac, now, parameters);
    }
}
