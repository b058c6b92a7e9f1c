//! The way out: the guest is asked, and lets go, or does not; and devices that fail.

use super::{Consent, Hold, Pair, Step};
use crate::clock::Moment;
use crate::event::{Action, Event, Notice};
use crate::reason::{Reason, Refusal};
use crate::state::{
    HiddenWhy, Illegal, ParkedWhy, Path, PathWhy, Phase, PlugStage, State, UnplugWhy,
};

/// A device that served the guest for this long has not failed *again*.
const STEADY_MS: u64 = 60_000;

impl Pair {
    pub(super) fn ask_unplug(
        &mut self,
        now: Moment,
        why: UnplugWhy,
        out: &mut Vec<Action>,
    ) -> Step {
        let primary = self.primary_id()?;
        self.go(
            now,
            State::Unplugging {
                why,
                attempts: 1,
                began: now,
                resend_at: now.after_ms(self.timing.unplug_resend_ms.max(1)),
                deadline: now.after_ms(self.timing.unplug_timeout_ms),
            },
        )?;
        out.push(Action::AskUnplug {
            primary: primary.clone(),
            attempt: 1,
        });
        if self.hold == Hold::Outgoing {
            out.push(Action::Emit(Notice::UnplugPrimary { primary }));
        }
        Ok(())
    }

    pub(super) fn let_go(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let asked = match &self.state {
            State::Unplugging { .. } => true,
            State::Active { .. } | State::Plugging(PlugStage::Offered { .. }) => false,
            _ => return Err(self.misplaced(&Event::GuestLetGo)),
        };
        let why = self.unplug_why();
        self.leave_primary(why.map_or(PathWhy::GuestRemovedIt, PathWhy::Unplug), out);
        match why {
            Some(UnplugWhy::Deletion) => self.delete(now, out),
            Some(UnplugWhy::Operator) if asked => self.go(now, State::Parked(ParkedWhy::Operator)),
            Some(UnplugWhy::DeviceFailed) => {
                // Fresh hardware for the next attempt; and the host may be waiting for it.
                out.push(Action::Release {
                    primary: self.primary_id()?,
                });
                if self.hold != Hold::Free {
                    return self.bring_in(now, out);
                }
                let error = self.fault.clone().unwrap_or_default();
                self.plug_later(now, Reason::DeviceFailed(error))
            }
            Some(UnplugWhy::LinkDown) if self.hold == Hold::Free => {
                if self.link.is_down() {
                    return self.go(now, State::Parked(ParkedWhy::LinkDown));
                }
                self.plug_later(now, Reason::LinkDown { down_ms: 0 })
            }
            // A late eject of a request that was taken back included.
            Some(_) => self.bring_in(now, out),
            None => {
                self.tell_missing(Reason::GuestRemovedIt, out);
                self.go(now, State::Parked(ParkedWhy::GuestRemoved))
            }
        }
    }

    pub(super) fn unplug_refused(
        &mut self,
        now: Moment,
        event: &Event,
        reason: Reason,
        out: &mut Vec<Action>,
    ) -> Result<Option<Refusal>, Illegal> {
        if self.state.phase() != Phase::Unplugging {
            return Err(self.misplaced(event));
        }
        self.give_up(now, reason, out)
    }

    /// An unplug ends badly: a migration that waits for it is refused (and rolled back by the
    /// caller); otherwise the primary stays with the guest. One that cannot serve the guest goes on
    /// being asked for.
    pub(super) fn give_up(
        &mut self,
        now: Moment,
        reason: Reason,
        out: &mut Vec<Action>,
    ) -> Result<Option<Refusal>, Illegal> {
        let timeout_ms = self.timing.unplug_timeout_ms;
        let State::Unplugging { why, deadline, .. } = &mut self.state else {
            return Ok(None);
        };
        let was = *why;
        let outgoing = self.hold == Hold::Outgoing;
        // A migration that is refused is told by its refusal.
        if !outgoing || was == UnplugWhy::Deletion {
            out.push(Action::Emit(Notice::UnplugFailed {
                standby: self.standby.clone(),
                primary: self.primary.clone().unwrap_or_default(),
                reason: reason.clone(),
                for_migration: false,
            }));
        }
        if outgoing {
            // A device_del stays owed to its client, and a fault is none the less one; every other
            // purpose ends with the migration.
            if was != UnplugWhy::Deletion && !was.is_fault() {
                *why = UnplugWhy::Migration;
            }
            return Ok(Some(self.refusal(reason)));
        }
        if was.is_fault() {
            *deadline = now.after_ms(timeout_ms);
            return Ok(None);
        }
        self.take_back(now, out)?;
        Ok(None)
    }

    /// Takes a request to unplug back: the guest has the primary still, with or without its driver.
    pub(super) fn take_back(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let State::Unplugging { why, .. } = &self.state else {
            return Ok(());
        };
        let outstanding = Some(*why);
        // A deletion is never taken back: device_del's client may still see it done.
        if outstanding != Some(UnplugWhy::Deletion) {
            out.push(Action::CancelUnplugAsk {
                primary: self.primary_id()?,
            });
        }
        match self.path {
            Path::Primary => self.go(now, State::Active { outstanding }),
            Path::Standby => self.go(now, self.offered(now, outstanding)),
        }
    }

    pub(super) fn device_failed(
        &mut self,
        now: Moment,
        error: &str,
        out: &mut Vec<Action>,
    ) -> Step {
        match &self.state {
            State::Active { .. }
            | State::Unplugging { .. }
            | State::Plugging(PlugStage::Offered { .. }) => {}
            // Nobody is being put out of it by this; but the host may be waiting for it, and hardware that failed is to be
            // opened afresh.
            State::Hidden(_) | State::Parked(_) | State::Plugging(PlugStage::Backoff { .. }) => {
                out.push(Action::Release {
                    primary: self.primary_id()?,
                });
                return Ok(());
            }
            // Told again, or reset before it is in; released already.
            State::Plugging(PlugStage::Opening { .. }) | State::Released(_) => {
                return Err(self.misplaced(&Event::DeviceFailed(String::new())));
            }
        }
        self.count_fault(now);
        self.fault = Some(error.to_owned());
        self.leave_primary(PathWhy::DeviceFailed, out);
        self.tell_missing(Reason::DeviceFailed(error.to_owned()), out);
        let free = self.hold == Hold::Free;
        match &mut self.state {
            State::Unplugging { why, .. } => {
                if free && *why != UnplugWhy::Deletion && *why != UnplugWhy::Operator {
                    *why = UnplugWhy::DeviceFailed;
                }
                Ok(())
            }
            _ => self.ask_unplug(now, self.owed_or(UnplugWhy::DeviceFailed), out),
        }
    }

    /// One more failure of the device, or the first of a new row.
    pub(super) fn count_fault(&mut self, now: Moment) {
        let steady =
            matches!(self.state, State::Active { .. }) && now.ms_since(self.since) >= STEADY_MS;
        self.faults = if steady {
            1
        } else {
            self.faults.saturating_add(1)
        };
    }

    /// The purpose of a new request to unplug: a deletion that the guest still owes goes first.
    pub(super) fn owed_or(&self, why: UnplugWhy) -> UnplugWhy {
        match self.unplug_why() {
            Some(UnplugWhy::Deletion) => UnplugWhy::Deletion,
            _ => why,
        }
    }

    pub(super) fn primary_gone(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        if self.primary.is_none() {
            return Err(Illegal::NoPrimary(self.standby.clone()));
        }
        self.leave_primary(PathWhy::PrimaryGone, out);
        self.forget_primary(now)
    }

    pub(super) fn delete(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        out.push(Action::Delete {
            primary: self.primary_id()?,
        });
        self.forget_primary(now)
    }

    fn forget_primary(&mut self, now: Moment) -> Step {
        self.primary = None;
        self.link.overrule();
        self.faults = 0;
        self.kept_out = false;
        if self.consent == Consent::NotAsked {
            self.consent = Consent::None;
        }
        self.hide(now, HiddenWhy::NoPrimary)
    }
}
