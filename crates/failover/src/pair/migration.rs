//! What migration does to a pair. The caller ([`crate::Pairs`]) applies these to all pairs together.

use super::{Consent, Hold, Pair, Step};
use crate::clock::Moment;
use crate::event::Action;
use crate::reason::Reason;
use crate::state::{HiddenWhy, ParkedWhy, PlugStage, State, UnplugWhy};

impl Pair {
    pub(crate) fn migration_starts(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        self.hold = Hold::Outgoing;
        let unplug_timeout_ms = self.timing.unplug_timeout_ms;
        match &mut self.state {
            State::Plugging(PlugStage::Backoff { .. }) => {
                self.go(now, State::Parked(ParkedWhy::Migration))
            }
            State::Plugging(PlugStage::Opening { deadline, .. }) => {
                *deadline = Some(now.after_ms(unplug_timeout_ms));
                self.break_off(out)
            }
            State::Plugging(PlugStage::Offered { .. }) | State::Active { .. } => {
                self.ask_unplug(now, self.owed_or(UnplugWhy::Migration), out)
            }
            // Asked already, for another purpose: that purpose stays, the wait begins anew.
            State::Unplugging { why, .. } => {
                let why = *why;
                self.ask_unplug(now, why, out)
            }
            State::Hidden(_) | State::Parked(_) | State::Released(_) => Ok(()),
        }
    }

    /// The outgoing migration was cancelled, or it failed, or this pair refused it.
    pub(crate) fn migration_ended(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        self.hold = Hold::Free;
        let timeout_ms = self.timing.unplug_timeout_ms;
        match &mut self.state {
            State::Unplugging {
                why: UnplugWhy::Migration,
                ..
            } => self.take_back(now, out),
            State::Unplugging {
                why: UnplugWhy::NotAccepted,
                ..
            } if self.consent != Consent::None => self.take_back(now, out),
            State::Unplugging { why, deadline, .. } if why.is_fault() => {
                *deadline = now.after_ms(timeout_ms);
                Ok(())
            }
            State::Unplugging { deadline, .. } if now >= *deadline => self.take_back(now, out),
            State::Hidden(_) if self.consent == Consent::None => Ok(()),
            State::Hidden(_) | State::Parked(ParkedWhy::Migration | ParkedWhy::LinkDown) => {
                self.bring_in(now, out)
            }
            _ => Ok(()),
        }
    }

    /// The guest runs on the target. Precondition: not [`Pair::in_guest`].
    pub(crate) fn migration_completed(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        self.hold = Hold::Completed;
        out.push(Action::SteerAway {
            standby: self.standby.clone(),
        });
        if let State::Parked(why) = self.state {
            self.go(now, State::Released(why))?;
            out.push(Action::Release {
                primary: self.primary_id()?,
            });
        }
        Ok(())
    }

    /// The guest runs here: the source continues after all, or the target resumed.
    pub(crate) fn guest_runs_here(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let arrived = self.hold == Hold::Incoming;
        self.hold = Hold::Free;
        self.steer_to_standby(out);
        out.push(Action::Announce {
            standby: self.standby.clone(),
        });
        if arrived && self.primary.is_none() && self.consent != Consent::None {
            self.tell_missing(Reason::NoPrimary, out);
        }
        match &self.state {
            State::Released(ParkedWhy::Operator) => {
                self.go(now, State::Parked(ParkedWhy::Operator))
            }
            State::Released(_) | State::Parked(ParkedWhy::Migration | ParkedWhy::LinkDown) => {
                self.bring_in(now, out)
            }
            State::Hidden(_) if self.consent != Consent::None => self.bring_in(now, out),
            _ => Ok(()),
        }
    }

    /// The incoming migration failed; another may come.
    pub(crate) fn incoming_failed(&mut self, now: Moment) -> Step {
        self.consent = Consent::None;
        self.hide(now, HiddenWhy::NotAccepted)
    }
}
