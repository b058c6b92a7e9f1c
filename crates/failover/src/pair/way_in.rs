//! The way in: plugged, offered, taken by the guest's driver; and again after each failure.

use super::{Consent, Hold, Pair, Step};
use crate::clock::Moment;
use crate::event::{Action, Event};
use crate::reason::{PlugError, Reason};
use crate::state::{HiddenWhy, ParkedWhy, Path, PathWhy, PlugStage, State, UnplugWhy};

impl Pair {
    /// Plugs the primary if the guest accepts it, migration allows it, no operator forbade it and its
    /// link is not down; otherwise puts the pair where it waits for that. Precondition: the guest does
    /// not have the primary.
    pub(super) fn bring_in(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        if self.primary.is_none() {
            return self.hide(now, HiddenWhy::NoPrimary);
        }
        if self.consent == Consent::None {
            return self.hide(now, HiddenWhy::NotAccepted);
        }
        if std::mem::take(&mut self.kept_out) {
            return self.go(now, State::Parked(ParkedWhy::Operator));
        }
        match self.hold {
            Hold::Free => self.retry(now, 1, out),
            Hold::Outgoing | Hold::Incoming => self.go(now, State::Parked(ParkedWhy::Migration)),
            Hold::Completed => Ok(()),
        }
    }

    /// Plugs, unless the link is down: a primary that cannot carry traffic would take the guest's
    /// frames all the same.
    pub(super) fn retry(&mut self, now: Moment, attempt: u32, out: &mut Vec<Action>) -> Step {
        if let Some(down_ms) = self.link.down_ms(now) {
            self.tell_missing(Reason::LinkDown { down_ms }, out);
            return self.go(now, State::Parked(ParkedWhy::LinkDown));
        }
        let primary = self.primary_id()?;
        let deadline = Some(now.after_ms(self.timing.plug_timeout_ms));
        self.go(
            now,
            State::Plugging(PlugStage::Opening {
                attempt,
                began: now,
                deadline,
                then: None,
            }),
        )?;
        out.push(Action::Plug { primary, attempt });
        Ok(())
    }

    /// Plugs after a wait that grows with the number of failures in a row.
    pub(super) fn plug_later(&mut self, now: Moment, reason: Reason) -> Step {
        let retry_at = now.after_ms(self.timing.backoff_ms(self.faults.max(1)));
        self.go(
            now,
            State::Plugging(PlugStage::Backoff {
                attempt: 0,
                retry_at,
                reason,
            }),
        )
    }

    /// The plug under way is not wanted any more.
    pub(super) fn break_off(&mut self, out: &mut Vec<Action>) -> Step {
        out.push(Action::BreakOffPlug {
            primary: self.primary_id()?,
        });
        Ok(())
    }

    pub(super) fn plug_succeeded(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let State::Plugging(PlugStage::Opening { then, .. }) = &self.state else {
            return Err(self.misplaced(&Event::PlugSucceeded));
        };
        let then = *then;
        self.go(now, self.offered(now, None))?;
        match then {
            Some(why) => self.ask_unplug(now, why, out),
            None if self.hold != Hold::Free => self.ask_unplug(now, UnplugWhy::Migration, out),
            None if self.consent == Consent::None => {
                self.ask_unplug(now, UnplugWhy::NotAccepted, out)
            }
            None => Ok(()),
        }
    }

    /// Whether a primary that has just been opened is to go into its slot; if not, the plug counts as
    /// broken off.
    pub fn still_wants_plug(&self) -> bool {
        let opening = matches!(
            self.state,
            State::Plugging(PlugStage::Opening { then: None, .. })
        );
        opening && self.hold == Hold::Free && self.consent != Consent::None
    }

    pub(super) fn plug_failed(
        &mut self,
        now: Moment,
        error: &PlugError,
        out: &mut Vec<Action>,
    ) -> Step {
        let State::Plugging(PlugStage::Opening { attempt, .. }) = &self.state else {
            return Err(self.misplaced(&Event::PlugFailed(error.clone())));
        };
        let attempt = *attempt;
        self.steer_to_standby(out);
        if self.no_longer_wanted(now, out)? {
            return Ok(());
        }
        let retry_ms = self.timing.backoff_ms(attempt);
        let reason = Reason::PlugFailed {
            attempt,
            retry_ms,
            error: error.clone(),
        };
        self.tell_missing(reason.clone(), out);
        let retry_at = now.after_ms(retry_ms);
        self.go(
            now,
            State::Plugging(PlugStage::Backoff {
                attempt,
                retry_at,
                reason,
            }),
        )
    }

    pub(super) fn plug_broken_off(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let State::Plugging(PlugStage::Opening { attempt, .. }) = &self.state else {
            return Err(self.misplaced(&Event::PlugBrokenOff));
        };
        let attempt = *attempt;
        self.steer_to_standby(out);
        if self.no_longer_wanted(now, out)? {
            return Ok(());
        }
        // What forbade it is over already.
        self.retry(now, attempt, out)
    }

    /// The plug came to nothing: puts the pair where it belongs if the primary is not wanted any more,
    /// and says whether that is so.
    fn no_longer_wanted(
        &mut self,
        now: Moment,
        out: &mut Vec<Action>,
    ) -> Result<bool, crate::Illegal> {
        let State::Plugging(PlugStage::Opening { then, .. }) = &self.state else {
            return Ok(false);
        };
        match then {
            Some(UnplugWhy::Deletion) => self.delete(now, out)?,
            Some(UnplugWhy::Operator) => self.go(now, State::Parked(ParkedWhy::Operator))?,
            _ if self.consent == Consent::None => self.hide(now, HiddenWhy::NotAccepted)?,
            _ if self.hold != Hold::Free => self.go(now, State::Parked(ParkedWhy::Migration))?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn driver_in(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        match &self.state {
            State::Plugging(PlugStage::Offered { outstanding, .. }) => {
                let outstanding = *outstanding;
                self.go(now, State::Active { outstanding })?;
            }
            State::Active { .. } | State::Unplugging { .. } => {}
            _ => return Err(self.misplaced(&Event::DriverIn)),
        }
        self.use_primary(PathWhy::DriverReady, out);
        Ok(())
    }

    /// The driver is in: traffic goes to the primary, once it can carry it.
    pub(super) fn use_primary(&mut self, why: PathWhy, out: &mut Vec<Action>) {
        if self.path == Path::Primary || self.link.is_down() {
            return;
        }
        self.path = Path::Primary;
        out.push(Action::SteerToPrimary {
            standby: self.standby.clone(),
        });
        self.tell_path(why, out);
    }

    pub(super) fn driver_out(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let why = self.unplug_why();
        match &self.state {
            State::Active { outstanding } => {
                let outstanding = *outstanding;
                self.go(now, self.offered(now, outstanding))?;
            }
            State::Unplugging { .. } | State::Plugging(PlugStage::Offered { .. }) => {}
            _ => return Err(self.misplaced(&Event::DriverOut)),
        }
        if self.path == Path::Primary {
            self.leave_primary(why.map_or(PathWhy::DriverGone, PathWhy::Unplug), out);
        }
        Ok(())
    }

    pub(super) fn offered(&self, now: Moment, outstanding: Option<UnplugWhy>) -> State {
        let deadline = Some(now.after_ms(self.timing.driver_timeout_ms));
        State::Plugging(PlugStage::Offered {
            began: now,
            deadline,
            outstanding,
        })
    }
}
