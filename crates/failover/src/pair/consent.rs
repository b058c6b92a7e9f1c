//! What the guest says about the feature, and what its resets say for it.

use super::{Consent, Hold, Pair, Step};
use crate::clock::Moment;
use crate::event::{Action, Notice};
use crate::reason::Reason;
use crate::state::{HiddenWhy, ParkedWhy, PathWhy, PlugStage, State, UnplugWhy};

impl Pair {
    pub(super) fn accepted(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        if self.consent == Consent::Given {
            return Ok(()); // the same negotiation, told twice
        }
        self.consent = Consent::Given;
        out.push(Action::Emit(Notice::FailoverNegotiated {
            standby: self.standby.clone(),
        }));
        if self.primary.is_none() {
            out.push(Action::Emit(Notice::PrimaryNotFound {
                standby: self.standby.clone(),
            }));
            // On a target it is told once the guest runs there.
            if self.hold != Hold::Incoming {
                self.tell_missing(Reason::NoPrimary, out);
            }
        }
        match self.state {
            State::Hidden(_) | State::Parked(ParkedWhy::GuestRemoved) => self.bring_in(now, out),
            State::Unplugging {
                why: UnplugWhy::NotAccepted,
                ..
            } if self.hold == Hold::Free => self.take_back(now, out),
            _ => Ok(()),
        }
    }

    pub(super) fn not_accepted(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        if self.consent == Consent::NotAsked {
            return Ok(()); // an ordinary device to this guest, as it was before the standby came
        }
        self.consent = Consent::None;
        match &self.state {
            State::Plugging(PlugStage::Opening { .. }) => self.break_off(out),
            State::Plugging(PlugStage::Backoff { .. }) => self.hide(now, HiddenWhy::NotAccepted),
            State::Plugging(PlugStage::Offered { .. }) | State::Active { .. }
                if self.hold == Hold::Free =>
            {
                self.ask_unplug(now, UnplugWhy::NotAccepted, out)
            }
            State::Parked(why) if *why != ParkedWhy::Operator => {
                self.hide(now, HiddenWhy::NotAccepted)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn standby_reset(&mut self, now: Moment) -> Step {
        if self.consent != Consent::Given {
            return Ok(());
        }
        match &self.state {
            State::Hidden(_) => self.consent = Consent::None,
            State::Plugging(PlugStage::Backoff { .. }) => {
                self.consent = Consent::None;
                self.hide(now, HiddenWhy::NotAccepted)?;
            }
            _ => self.consent = Consent::Lapsed,
        }
        Ok(())
    }

    pub(super) fn machine_reset(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        self.consent = Consent::None;
        match &self.state {
            State::Plugging(PlugStage::Opening { .. }) => return self.break_off(out),
            State::Plugging(PlugStage::Backoff { .. }) => {
                return self.hide(now, HiddenWhy::GuestRebooted);
            }
            State::Parked(why) if *why != ParkedWhy::Operator => {
                return self.hide(now, HiddenWhy::GuestRebooted);
            }
            State::Plugging(PlugStage::Offered { .. })
            | State::Active { .. }
            | State::Unplugging { .. } => {}
            _ => return Ok(()),
        }
        let why = self.unplug_why();
        let asked = matches!(self.state, State::Unplugging { .. });
        let primary = self.primary_id()?;
        out.push(Action::Withdraw {
            primary: primary.clone(),
        });
        self.leave_primary(PathWhy::GuestRebooted, out);
        if asked && self.hold == Hold::Outgoing {
            out.push(Action::UnplugMoot {
                primary: primary.clone(),
                reason: Reason::GuestRebooted,
            });
        }
        match why {
            Some(UnplugWhy::Deletion) => self.delete(now, out),
            Some(UnplugWhy::Operator) if asked => self.go(now, State::Parked(ParkedWhy::Operator)),
            Some(UnplugWhy::DeviceFailed) if asked => {
                out.push(Action::Release { primary });
                self.hide(now, HiddenWhy::GuestRebooted)
            }
            _ => self.hide(now, HiddenWhy::GuestRebooted),
        }
    }
}
