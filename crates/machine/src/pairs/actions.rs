//! What happened goes into the state machine; what it decides is carried out, in its order.

use super::steering::because;
use crate::board::Board;
use crate::event::MachineEvent;
use failover::{Action, Event, Illegal, Moment, Notice};
use migration::Kept;

impl Board {
    pub(super) fn now(&self) -> Moment {
        self.control.now()
    }

    pub(super) fn feed(&mut self, device: &str, event: &Event) {
        let now = self.now();
        tracing::debug!(device, event = event.name(), "failover");
        if let Some(counters) = self.pairs.counters_mut(device) {
            counters.note_event(event);
        }
        match self.pairs.pairs.handle(now, device, event) {
            Ok(actions) => self.perform_because(because(event), actions),
            Err(Illegal::UnknownDevice(_)) => {}
            Err(error) => tracing::warn!(device, %error, "failover"),
        }
    }

    /// What an operator orders: refused where the pair's state does not allow it.
    pub(crate) fn order(&mut self, device: &str, event: &Event) -> Result<(), Illegal> {
        let now = self.now();
        let actions = self.pairs.pairs.handle(now, device, event)?;
        self.perform_because(because(event), actions);
        Ok(())
    }

    /// Carries actions out that follow from one another: with the same reason, unless one feeds in an event of its own.
    pub(super) fn perform_because(&mut self, why: &'static str, actions: Vec<Action>) {
        let before = std::mem::replace(&mut self.pairs.because, why);
        self.perform(actions);
        self.pairs.because = before;
    }

    pub(super) fn apply(&mut self, why: &'static str, outcome: Result<Vec<Action>, Illegal>) {
        match outcome {
            Ok(actions) => self.perform_because(why, actions),
            Err(Illegal::NoMigration) => {}
            Err(error) => tracing::warn!(%error, "failover"),
        }
    }

    /// Carries actions out in their order.
    pub(crate) fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            tracing::debug!(?action, "failover");
            self.pairs.count(&action);
            match action {
                Action::Plug { primary, .. } => self.begin_plug(&primary),
                Action::BreakOffPlug { primary } => self.break_off_plug(&primary),
                Action::Withdraw { primary } => self.take_out(&primary),
                Action::AskUnplug { primary, attempt } => self.ask_unplug(&primary, attempt),
                Action::CancelUnplugAsk { primary } => self.cancel_unplug_ask(&primary),
                Action::SteerToStandby { standby } => self.steer_to_standby(&standby),
                Action::SteerToPrimary { standby } => self.steer_to_primary(&standby),
                Action::SteerAway { standby } => self.steer_away(&standby),
                Action::Announce { standby } => self.announce(&standby),
                Action::Delete { primary } => self.forget_primary(&primary, true),
                Action::Release { primary } => self.release_primary(&primary),
                Action::Emit(notice) => self.notice(notice),
                Action::UnplugMoot { primary, reason } => {
                    tracing::info!(
                        primary,
                        reason = reason.name(),
                        "no unplug needed: {reason}"
                    );
                    self.outgoing.unplug_moot(reason.name());
                }
                Action::LetMigrationProceed => self.outgoing.all_unplugged(),
                Action::RefuseMigration(refusal) => {
                    let name = Some(refusal.reason.name());
                    let why = refusal.to_string();
                    self.outgoing.unplugged(Err(Kept { name, why }));
                }
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        if let Some(lines) = notice.warning_lines() {
            let mut lines = lines.into_iter();
            if let Some(warning) = lines.next() {
                tracing::warn!("{warning}");
            }
            for line in lines {
                tracing::warn!(target: "hint", "{line}");
            }
            return;
        }
        let event = match notice {
            Notice::FailoverNegotiated { standby } => match &mut self.pairs.arrived {
                Some(arrived) => return arrived.push(standby),
                None => MachineEvent::FailoverNegotiated { id: standby },
            },
            Notice::UnplugPrimary { primary } => MachineEvent::UnplugPrimary { id: primary },
            Notice::PathChanged { standby, path, why } => {
                let reason = why.name();
                tracing::info!(
                    standby,
                    ?path,
                    reason,
                    "the guest's traffic changes its path"
                );
                MachineEvent::FailoverPathChanged {
                    id: standby,
                    path: match path {
                        failover::Path::Standby => "standby".into(),
                        failover::Path::Primary => "primary".into(),
                    },
                    reason,
                }
            }
            Notice::PrimaryMissing {
                standby,
                primary,
                reason,
            } => {
                let (name, message) = (reason.name(), reason.to_string());
                let retry_ms = reason.retry_ms();
                // Of a standby that never had one the warning was given.
                match &primary {
                    Some(primary) => tracing::warn!(
                        primary,
                        reason = name,
                        "the primary is not with its guest: {message}"
                    ),
                    None => tracing::info!(standby, reason = name, "{message}"),
                }
                MachineEvent::FailoverPrimaryMissing {
                    standby,
                    id: primary,
                    reason: name,
                    message,
                    retry_ms,
                }
            }
            Notice::UnplugFailed {
                standby,
                primary,
                reason,
                for_migration,
            } => {
                let (name, message) = (reason.name(), reason.to_string());
                tracing::warn!(
                    primary,
                    reason = name,
                    "the primary could not be unplugged: {message}"
                );
                self.emit(MachineEvent::FailoverUnplugFailed {
                    standby,
                    id: primary.clone(),
                    reason: name,
                    message,
                });
                if for_migration {
                    return;
                }
                let path = format!("/machine/peripheral/{primary}");
                MachineEvent::UnplugGuestError { id: primary, path }
            }
            Notice::PrimaryNotFound { .. } => return,
        };
        self.emit(event);
    }
}
