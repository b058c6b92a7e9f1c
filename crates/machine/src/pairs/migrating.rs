//! What concerns all pairs at once: migrations and the machine's reset, and what standbys tell.

use super::PairKeeper;
use super::steering::because;
use crate::board::Board;
use crate::event::MachineEvent;
use failover::{Action, Event, Illegal, Moment, WhenPaused};
use migration::{Parameters, PausedPolicy};

impl PairKeeper {
    /// The migration's parameters changed: those that are the pairs' count from their next wait on.
    pub(crate) fn take_parameters(&mut self, parameters: &Parameters) {
        let mut timing = self.pairs.timing();
        timing.unplug_timeout_ms = parameters.failover_unplug_timeout_ms;
        self.pairs.set_timing(timing);
        self.pairs
            .set_when_paused(match parameters.failover_when_paused {
                PausedPolicy::Refuse => WhenPaused::Refuse,
                PausedPolicy::Wait => WhenPaused::Wait,
            });
    }
}

impl Board {
    /// A NIC has something to tell.
    pub(crate) fn net_event(&mut self, id: &str, event: virtio::NetEvent) {
        let standby = self.pairs.pairs.by_standby(id).is_some();
        match event {
            virtio::NetEvent::FeaturesNegotiated { standby: accepted } if standby => {
                self.feed(
                    id,
                    if accepted {
                        &Event::StandbyNegotiated
                    } else {
                        &Event::StandbyRefused
                    },
                );
            }
            virtio::NetEvent::Reset if standby => self.feed(id, &Event::StandbyReset),
            virtio::NetEvent::FeaturesNegotiated { .. } | virtio::NetEvent::Reset => {}
            virtio::NetEvent::RxFilterChanged => {
                self.note_vlans(id);
                self.rx_filter_changed(id);
            }
            virtio::NetEvent::AnnounceAcked => {
                tracing::debug!(nic = id, "the guest has announced itself")
            }
        }
    }

    pub(crate) fn pairs_tick(&mut self, now: Moment) {
        let outcome = self.pairs.pairs.tick(now);
        self.apply("a time limit has passed", outcome);
    }

    /// The machine is being reset, its devices not yet: primaries are taken out, so that a guest that finds them reset does
    /// not find its primary. What is left to do once it was told.
    pub(crate) fn withdraw_for_reset(&mut self) -> Vec<Action> {
        let now = self.now();
        match self.pairs.pairs.machine_reset(now) {
            Ok(actions) => {
                let first = |action: &Action| matches!(action, Action::Withdraw { .. });
                let (withdrawals, rest) = actions.into_iter().partition(first);
                self.perform(withdrawals);
                rest
            }
            Err(error) => {
                tracing::warn!(%error, "failover");
                Vec::new()
            }
        }
    }

    /// The machine was reset, and that was told.
    pub(crate) fn after_reset(&mut self, rest: Vec<Action>) {
        self.perform_because(because(&Event::MachineReset), rest);
    }

    pub(crate) fn source_continued(&mut self) {
        let now = self.now();
        let outcome = self.pairs.pairs.source_continued(now);
        self.apply("the guest goes on here", outcome);
    }

    /// A migration begins: asks for every primary. Whether there is anything to wait for.
    pub(crate) fn begin_unplug(&mut self) -> Result<(), Illegal> {
        let now = self.now();
        let actions = self.pairs.pairs.begin_migration(now)?;
        self.perform_because("a migration begins", actions);
        Ok(())
    }

    pub(crate) fn migration_ended(&mut self, completed: bool) {
        let now = self.now();
        if completed {
            let outcome = self.pairs.pairs.migration_completed(now);
            self.apply("the guest has moved to another host", outcome);
        } else {
            let outcome = self.pairs.pairs.migration_ended(now);
            self.apply("the migration was cancelled or failed", outcome);
        }
    }

    /// The devices' state is loaded: standbys that were accepted say so, in the order of their creation, and the host's
    /// switch sends to them.
    pub(crate) fn standbys_restored(&mut self) {
        let standbys: Vec<String> = self
            .pairs
            .pairs
            .iter()
            .map(|p| p.standby().to_owned())
            .collect();
        self.pairs.arrived = Some(Vec::new());
        self.pairs.because = "the guest comes from another host";
        for standby in standbys {
            if self
                .devices
                .net(&standby)
                .is_some_and(|net| net.standby_negotiated())
            {
                self.feed(&standby, &Event::StandbyNegotiated);
            }
            self.note_vlans(&standby);
            self.steer_to_standby(&standby);
        }
    }

    /// The guest is this machine's: what it accepted on the source is told.
    pub(crate) fn tell_arrived(&mut self) {
        for id in self.pairs.arrived.take().unwrap_or_default() {
            self.emit(MachineEvent::FailoverNegotiated { id });
        }
    }

    pub(crate) fn target_resumed(&mut self) {
        let now = self.now();
        let outcome = self.pairs.pairs.target_resumed(now);
        self.apply("the guest has come from another host", outcome);
    }
}
