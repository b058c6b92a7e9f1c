//! What operators order: `failover-switch` and `device_del`.

use super::{Hold, Pair, Step};
use crate::clock::Moment;
use crate::event::{Action, Event};
use crate::state::{Illegal, ParkedWhy, Path, PlugStage, State, UnplugWhy};

impl Pair {
    pub(super) fn operator_switch(
        &mut self,
        now: Moment,
        path: Path,
        out: &mut Vec<Action>,
    ) -> Step {
        if self.primary.is_none() {
            return Err(Illegal::NoPrimary(self.standby.clone()));
        }
        if matches!(self.state, State::Released(_)) {
            return Err(self.misplaced(&Event::OperatorSwitch(path)));
        }
        match path {
            Path::Standby => self.keep_out(now, out),
            Path::Primary => self.let_in(now, out),
        }
    }

    /// Stop: whatever would bring the primary back does not, until [`Pair::let_in`].
    fn keep_out(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        match &mut self.state {
            State::Hidden(_) => {
                self.kept_out = true;
                Ok(())
            }
            State::Plugging(PlugStage::Opening { then, .. }) => {
                if *then != Some(UnplugWhy::Deletion) {
                    *then = Some(UnplugWhy::Operator);
                }
                self.break_off(out)
            }
            State::Plugging(PlugStage::Backoff { .. }) | State::Parked(_) => {
                self.go(now, State::Parked(ParkedWhy::Operator))
            }
            State::Plugging(PlugStage::Offered { .. }) | State::Active { .. } => {
                self.ask_unplug(now, self.owed_or(UnplugWhy::Operator), out)
            }
            State::Unplugging { why, .. } => {
                if *why != UnplugWhy::Deletion {
                    *why = UnplugWhy::Operator;
                }
                Ok(())
            }
            State::Released(_) => Ok(()),
        }
    }

    fn let_in(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        match &mut self.state {
            State::Hidden(_) if std::mem::take(&mut self.kept_out) => Ok(()),
            State::Hidden(_) => Err(Illegal::NotAccepted(self.standby.clone())),
            State::Plugging(PlugStage::Opening { then, .. }) => {
                if *then == Some(UnplugWhy::Operator) {
                    *then = None;
                }
                Ok(())
            }
            State::Plugging(PlugStage::Backoff { attempt, .. }) => {
                let attempt = attempt.saturating_add(1);
                self.link.overrule();
                self.retry(now, attempt, out)
            }
            State::Plugging(PlugStage::Offered { .. }) | State::Active { .. } => Ok(()),
            State::Unplugging { why, .. } => match (*why, self.hold) {
                (UnplugWhy::Operator | UnplugWhy::LinkDown, Hold::Free) => {
                    self.link.overrule();
                    self.take_back(now, out)
                }
                (UnplugWhy::Operator, _) => {
                    *why = UnplugWhy::Migration;
                    Ok(())
                }
                _ => Ok(()),
            },
            State::Parked(_) => {
                self.link.overrule();
                self.bring_in(now, out)
            }
            State::Released(_) => Ok(()),
        }
    }

    pub(super) fn deletion_asked(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        if self.primary.is_none() {
            return Err(Illegal::NoPrimary(self.standby.clone()));
        }
        if self.hold == Hold::Outgoing {
            return Err(Illegal::DeleteWhileMigrating);
        }
        match &mut self.state {
            State::Hidden(_)
            | State::Parked(_)
            | State::Released(_)
            | State::Plugging(PlugStage::Backoff { .. }) => self.delete(now, out),
            State::Plugging(PlugStage::Opening { then, .. }) => {
                *then = Some(UnplugWhy::Deletion);
                self.break_off(out)
            }
            State::Plugging(PlugStage::Offered { .. }) | State::Active { .. } => {
                self.ask_unplug(now, UnplugWhy::Deletion, out)
            }
            State::Unplugging {
                why,
                attempts,
                deadline,
                began,
                ..
            } => {
                *why = UnplugWhy::Deletion;
                *attempts = attempts.saturating_add(1);
                *began = now;
                *deadline = now.after_ms(self.timing.unplug_timeout_ms);
                let attempt = *attempts;
                out.push(Action::AskUnplug {
                    primary: self.primary_id()?,
                    attempt,
                });
                Ok(())
            }
        }
    }
}
