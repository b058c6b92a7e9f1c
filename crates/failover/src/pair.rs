//! One pair: a standby, at most one primary, and where that primary is.
//!
//! Three things are kept, each set by another party, so that none has to be guessed from another:
//! the [`State`] of the primary, the guest's [`Consent`], and the [`Hold`] that migration has on it.
//! One function, [`Pair::bring_in`], decides whether a primary may be plugged; nothing else emits
//! [`Action::Plug`] for one that was out.

use crate::clock::{Moment, Timing};
use crate::event::{Action, Event, Notice};
use crate::reason::{Reason, Refusal};
use crate::state::{HiddenWhy, Illegal, ParkedWhy, Path, Phase, PlugStage, State, UnplugWhy};

/// What the guest said about `VIRTIO_NET_F_STANDBY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Nothing yet, or no.
    None,
    /// Accepted; its driver is running.
    Given,
    /// Accepted before; its driver was reset since and has not said anything new. A primary that
    /// the guest already has stays.
    Lapsed,
    /// Never asked: the primary was hotplugged before the standby existed and is an ordinary device
    /// to the guest.
    NotAsked,
}

/// What migration forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    Free,
    /// An outgoing migration is under way: no plug.
    Outgoing,
    /// The guest left: no plug until the source continues.
    Completed,
    /// This is a target and the guest has not been resumed here: no plug.
    Incoming,
}

/// One pair. Made and driven by [`crate::Pairs`].
#[derive(Debug, Clone)]
pub struct Pair {
    standby: String,
    primary: Option<String>,
    consent: Consent,
    hold: Hold,
    path: Path,
    state: State,
    since: Moment,
    timing: Timing,
    guest_running: bool,
}

type Step = Result<(), Illegal>;

impl Pair {
    pub(crate) fn new(now: Moment, standby: String, hold: Hold, timing: Timing) -> Self {
        Self {
            standby,
            primary: None,
            consent: Consent::None,
            hold,
            path: Path::Standby,
            state: State::Hidden(HiddenWhy::NoPrimary),
            since: now,
            timing,
            guest_running: true,
        }
    }

    /// Id of the standby.
    pub fn standby(&self) -> &str {
        &self.standby
    }

    /// Id of the primary, if the pair has one.
    pub fn primary(&self) -> Option<&str> {
        self.primary.as_deref()
    }

    /// Where the primary is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When the phase was entered.
    pub fn since(&self) -> Moment {
        self.since
    }

    /// What the guest accepted.
    pub fn consent(&self) -> Consent {
        self.consent
    }

    /// What migration forbids.
    pub fn hold(&self) -> Hold {
        self.hold
    }

    /// The path the guest's traffic was last steered to.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Whether the guest sees the primary, so that a migration must wait for its unplug.
    pub fn in_guest(&self) -> bool {
        self.state.in_guest()
    }

    pub(crate) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    pub(crate) fn set_guest_running(&mut self, running: bool) {
        self.guest_running = running;
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.state.deadline()
    }

    /// Takes in what happened. On an error the pair is unchanged.
    pub(crate) fn handle(
        &mut self,
        now: Moment,
        event: &Event,
        out: &mut Vec<Action>,
    ) -> Result<Option<Refusal>, Illegal> {
        match event {
            Event::StandbyNegotiated => self.accepted(now, out)?,
            Event::StandbyRefused => self.not_accepted(now, out)?,
            Event::StandbyReset => self.standby_reset(now)?,
            Event::MachineReset => self.machine_reset(now, out)?,
            Event::PlugSucceeded => self.plug_succeeded(now, out)?,
            Event::PlugFailed(error) => self.plug_failed(now, error, out)?,
            Event::DriverIn => self.driver_in(now, out)?,
            Event::DriverOut => self.driver_out(now, out)?,
            Event::GuestLetGo => self.let_go(now, out)?,
            Event::UnplugRefused(why) => {
                if self.state.phase() != Phase::Unplugging {
                    return Err(self.misplaced(event));
                }
                return self.give_up(now, Reason::GuestRefused(why.clone()), out);
            }
            Event::DeviceFailed(error) => self.device_failed(now, error, out)?,
            Event::OperatorSwitch(path) => self.operator_switch(now, *path, out)?,
            Event::DeletionAsked => self.deletion_asked(now, out)?,
            Event::PrimaryGone => self.primary_gone(now, out)?,
        }
        Ok(None)
    }

    /// Lets the waits end that are due at `now`.
    pub(crate) fn tick(
        &mut self,
        now: Moment,
        out: &mut Vec<Action>,
    ) -> Result<Option<Refusal>, Illegal> {
        let timing = self.timing;
        let outgoing = self.hold == Hold::Outgoing;
        match &mut self.state {
            State::Plugging(PlugStage::Backoff {
                attempt, retry_at, ..
            }) if now >= *retry_at => {
                let attempt = attempt.saturating_add(1);
                self.plug(now, attempt, out)?;
            }
            State::Plugging(PlugStage::Opening {
                began, deadline, ..
            }) if deadline.is_some_and(|d| now >= d) => {
                *deadline = None;
                let reason = Reason::HostStillPlugging {
                    waited_ms: now.ms_since(*began),
                };
                if outgoing {
                    return Ok(Some(self.refusal(reason)));
                }
                self.tell_missing(reason, out);
            }
            State::Plugging(PlugStage::Offered {
                began, deadline, ..
            }) if deadline.is_some_and(|d| now >= d) => {
                *deadline = None;
                let reason = Reason::GuestHasNoDriver {
                    waited_ms: now.ms_since(*began),
                };
                self.tell_missing(reason, out);
            }
            State::Unplugging {
                attempts,
                began,
                deadline,
                ..
            } if now >= *deadline => {
                let reason = if self.guest_running {
                    Reason::GuestIgnored {
                        waited_ms: now.ms_since(*began),
                        attempts: *attempts,
                    }
                } else {
                    Reason::GuestPaused
                };
                return self.give_up(now, reason, out);
            }
            State::Unplugging {
                attempts,
                resend_at,
                ..
            } if now >= *resend_at => {
                *attempts = attempts.saturating_add(1);
                *resend_at = now.after_ms(timing.unplug_resend_ms.max(1));
                let attempt = *attempts;
                out.push(Action::AskUnplug {
                    primary: self.primary_id()?,
                    attempt,
                });
            }
            _ => {}
        }
        Ok(None)
    }

    pub(crate) fn add_primary(&mut self, now: Moment, id: String, out: &mut Vec<Action>) -> Step {
        self.primary = Some(id);
        self.bring_in(now, out)
    }

    /// The standby appears while its primary is in the guest already, as an ordinary device.
    pub(crate) fn adopt_visible(&mut self, now: Moment, id: String) -> Step {
        self.primary = Some(id);
        self.consent = Consent::NotAsked;
        self.path = Path::Primary;
        self.go(now, State::Active { outstanding: None })
    }

    // What the guest says about the feature.

    fn accepted(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
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

    fn not_accepted(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        if self.consent == Consent::NotAsked {
            return Ok(()); // an ordinary device to this guest, as it was before the standby came
        }
        self.consent = Consent::None;
        match &self.state {
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

    fn standby_reset(&mut self, now: Moment) -> Step {
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

    fn machine_reset(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        self.consent = Consent::None;
        let (deletion, operator) = match &self.state {
            State::Plugging(PlugStage::Backoff { .. }) => {
                return self.hide(now, HiddenWhy::GuestRebooted);
            }
            State::Parked(why) if *why != ParkedWhy::Operator => {
                return self.hide(now, HiddenWhy::GuestRebooted);
            }
            State::Plugging(PlugStage::Offered { outstanding, .. })
            | State::Active { outstanding } => (*outstanding == Some(UnplugWhy::Deletion), false),
            State::Unplugging { why, .. } => {
                (*why == UnplugWhy::Deletion, *why == UnplugWhy::Operator)
            }
            _ => return Ok(()),
        };
        out.push(Action::Withdraw {
            primary: self.primary_id()?,
        });
        self.leave_primary(out);
        if deletion {
            self.delete(now, out)
        } else if operator {
            self.go(now, State::Parked(ParkedWhy::Operator))
        } else {
            self.hide(now, HiddenWhy::GuestRebooted)
        }
    }

    // The way in.

    /// Plugs the primary if the guest accepts it and migration allows it; otherwise puts the pair
    /// where it waits for that. Precondition: the guest does not have the primary.
    fn bring_in(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        if self.primary.is_none() {
            return self.hide(now, HiddenWhy::NoPrimary);
        }
        if self.consent == Consent::None {
            return self.hide(now, HiddenWhy::NotAccepted);
        }
        match self.hold {
            Hold::Free => self.plug(now, 1, out),
            Hold::Outgoing | Hold::Incoming => self.go(now, State::Parked(ParkedWhy::Migration)),
            Hold::Completed => Ok(()),
        }
    }

    fn plug(&mut self, now: Moment, attempt: u32, out: &mut Vec<Action>) -> Step {
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

    fn plug_succeeded(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
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

    fn plug_failed(&mut self, now: Moment, error: &str, out: &mut Vec<Action>) -> Step {
        let State::Plugging(PlugStage::Opening { attempt, then, .. }) = &self.state else {
            return Err(self.misplaced(&Event::PlugFailed(String::new())));
        };
        let (attempt, then) = (*attempt, *then);
        // The VF's MAC may have been set for the plug: the frames must not go there.
        out.push(Action::SteerToStandby {
            standby: self.standby.clone(),
        });
        match then {
            Some(UnplugWhy::Deletion) => return self.delete(now, out),
            Some(UnplugWhy::Operator) => return self.go(now, State::Parked(ParkedWhy::Operator)),
            _ if self.consent == Consent::None => return self.hide(now, HiddenWhy::NotAccepted),
            _ if self.hold != Hold::Free => {
                return self.go(now, State::Parked(ParkedWhy::Migration));
            }
            _ => {}
        }
        let retry_ms = self.timing.backoff_ms(attempt);
        let reason = Reason::PlugFailed {
            attempt,
            retry_ms,
            error: error.to_owned(),
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

    fn driver_in(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        match &self.state {
            State::Plugging(PlugStage::Offered { outstanding, .. }) => {
                let outstanding = *outstanding;
                self.go(now, State::Active { outstanding })?;
            }
            State::Active { .. } | State::Unplugging { .. } => {}
            _ => return Err(self.misplaced(&Event::DriverIn)),
        }
        if self.path != Path::Primary {
            self.path = Path::Primary;
            out.push(Action::SteerToPrimary {
                standby: self.standby.clone(),
            });
            self.tell_path(out);
        }
        Ok(())
    }

    fn driver_out(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        match &self.state {
            State::Active { outstanding } => {
                let outstanding = *outstanding;
                self.go(now, self.offered(now, outstanding))?;
            }
            State::Unplugging { .. } | State::Plugging(PlugStage::Offered { .. }) => {}
            _ => return Err(self.misplaced(&Event::DriverOut)),
        }
        if self.path == Path::Primary {
            self.leave_primary(out);
        }
        Ok(())
    }

    // The way out.

    fn ask_unplug(&mut self, now: Moment, why: UnplugWhy, out: &mut Vec<Action>) -> Step {
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

    fn let_go(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let (why, asked) = match &self.state {
            State::Unplugging { why, .. } => (Some(*why), true),
            State::Active { outstanding }
            | State::Plugging(PlugStage::Offered { outstanding, .. }) => (*outstanding, false),
            _ => return Err(self.misplaced(&Event::GuestLetGo)),
        };
        self.leave_primary(out);
        match why {
            Some(UnplugWhy::Deletion) => self.delete(now, out),
            Some(UnplugWhy::Operator) if asked => self.go(now, State::Parked(ParkedWhy::Operator)),
            Some(UnplugWhy::DeviceFailed) if asked && self.hold == Hold::Free => {
                let retry_ms = self.timing.backoff_ms(1);
                let reason = Reason::DeviceFailed(format!("next try in {retry_ms} ms"));
                let retry_at = now.after_ms(retry_ms);
                self.go(
                    now,
                    State::Plugging(PlugStage::Backoff {
                        attempt: 0,
                        retry_at,
                        reason,
                    }),
                )
            }
            // A late eject of a request that was taken back included.
            Some(_) => self.bring_in(now, out),
            None => {
                self.tell_missing(Reason::GuestRemovedIt, out);
                self.go(now, State::Parked(ParkedWhy::GuestRemoved))
            }
        }
    }

    /// An unplug ends badly: a migration that waits for it is refused (and rolled back by the
    /// caller); otherwise the primary stays with the guest.
    fn give_up(
        &mut self,
        now: Moment,
        reason: Reason,
        out: &mut Vec<Action>,
    ) -> Result<Option<Refusal>, Illegal> {
        let State::Unplugging { why, .. } = &mut self.state else {
            return Ok(None);
        };
        let was = *why;
        if was != UnplugWhy::Migration {
            let primary = self.primary.clone().unwrap_or_default();
            out.push(Action::Emit(Notice::UnplugFailed {
                primary,
                reason: reason.clone(),
            }));
        }
        if self.hold == Hold::Outgoing {
            // A device_del stays owed to its client; every other purpose ends with the migration.
            if was != UnplugWhy::Deletion {
                *why = UnplugWhy::Migration;
            }
            return Ok(Some(self.refusal(reason)));
        }
        self.take_back(now, out)?;
        Ok(None)
    }

    /// Takes a request to unplug back: the guest has the primary still, with or without its driver.
    fn take_back(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
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

    fn device_failed(&mut self, now: Moment, error: &str, out: &mut Vec<Action>) -> Step {
        if !matches!(
            self.state,
            State::Active { .. }
                | State::Unplugging { .. }
                | State::Plugging(PlugStage::Offered { .. })
        ) {
            return Err(self.misplaced(&Event::DeviceFailed(String::new())));
        }
        self.leave_primary(out);
        self.tell_missing(Reason::DeviceFailed(error.to_owned()), out);
        match self.state.phase() {
            Phase::Unplugging => Ok(()),
            _ => self.ask_unplug(now, self.owed_or(UnplugWhy::DeviceFailed), out),
        }
    }

    fn operator_switch(&mut self, now: Moment, path: Path, out: &mut Vec<Action>) -> Step {
        if self.primary.is_none() {
            return Err(Illegal::NoPrimary(self.standby.clone()));
        }
        match (path, &mut self.state) {
            (Path::Standby, State::Plugging(PlugStage::Opening { then, .. })) => {
                if *then != Some(UnplugWhy::Deletion) {
                    *then = Some(UnplugWhy::Operator);
                }
                Ok(())
            }
            (Path::Standby, State::Plugging(PlugStage::Backoff { .. }) | State::Parked(_)) => {
                self.go(now, State::Parked(ParkedWhy::Operator))
            }
            (Path::Standby, State::Plugging(PlugStage::Offered { .. }) | State::Active { .. }) => {
                self.ask_unplug(now, self.owed_or(UnplugWhy::Operator), out)
            }
            (Path::Standby, State::Unplugging { why, .. }) => {
                if *why != UnplugWhy::Deletion {
                    *why = UnplugWhy::Operator;
                }
                Ok(())
            }
            (Path::Standby, State::Hidden(_)) => Ok(()),
            (Path::Standby | Path::Primary, State::Released(_)) => {
                Err(self.misplaced(&Event::OperatorSwitch(path)))
            }
            (Path::Primary, State::Plugging(PlugStage::Opening { then, .. })) => {
                if *then == Some(UnplugWhy::Operator) {
                    *then = None;
                }
                Ok(())
            }
            (Path::Primary, State::Plugging(PlugStage::Backoff { attempt, .. })) => {
                let attempt = attempt.saturating_add(1);
                self.plug(now, attempt, out)
            }
            (Path::Primary, State::Plugging(PlugStage::Offered { .. }) | State::Active { .. }) => {
                Ok(())
            }
            (Path::Primary, State::Unplugging { why, .. }) => {
                match (*why, self.hold) {
                    (UnplugWhy::Operator, Hold::Free) => self.take_back(now, out)?,
                    (UnplugWhy::Operator, _) => *why = UnplugWhy::Migration,
                    _ => {}
                }
                Ok(())
            }
            (Path::Primary, State::Parked(_)) => self.bring_in(now, out),
            (Path::Primary, State::Hidden(_)) => Err(Illegal::NotAccepted(self.standby.clone())),
        }
    }

    fn deletion_asked(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
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
                Ok(())
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

    fn primary_gone(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        if self.primary.is_none() {
            return Err(Illegal::NoPrimary(self.standby.clone()));
        }
        self.leave_primary(out);
        self.forget_primary(now)
    }

    fn delete(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        out.push(Action::Delete {
            primary: self.primary_id()?,
        });
        self.forget_primary(now)
    }

    fn forget_primary(&mut self, now: Moment) -> Step {
        self.primary = None;
        if self.consent == Consent::NotAsked {
            self.consent = Consent::None;
        }
        self.hide(now, HiddenWhy::NoPrimary)
    }

    // Migration. The caller (`Pairs`) applies these to all pairs together.

    pub(crate) fn migration_starts(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        self.hold = Hold::Outgoing;
        let unplug_timeout_ms = self.timing.unplug_timeout_ms;
        match &mut self.state {
            State::Plugging(PlugStage::Backoff { .. }) => {
                self.go(now, State::Parked(ParkedWhy::Migration))
            }
            State::Plugging(PlugStage::Opening { deadline, .. }) => {
                *deadline = Some(now.after_ms(unplug_timeout_ms));
                Ok(())
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
        match &self.state {
            State::Unplugging {
                why: UnplugWhy::Migration,
                ..
            } => self.take_back(now, out),
            State::Unplugging {
                why: UnplugWhy::NotAccepted,
                ..
            } if self.consent != Consent::None => self.take_back(now, out),
            State::Unplugging { deadline, .. } if now >= *deadline => self.take_back(now, out),
            State::Hidden(_) if self.consent == Consent::None => Ok(()),
            State::Hidden(_) | State::Parked(ParkedWhy::Migration) => self.bring_in(now, out),
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
        self.hold = Hold::Free;
        out.push(Action::SteerToStandby {
            standby: self.standby.clone(),
        });
        out.push(Action::Announce {
            standby: self.standby.clone(),
        });
        match &self.state {
            State::Released(ParkedWhy::Operator) => {
                self.go(now, State::Parked(ParkedWhy::Operator))
            }
            State::Released(_) | State::Parked(ParkedWhy::Migration) => self.bring_in(now, out),
            State::Hidden(_) if self.consent != Consent::None => self.bring_in(now, out),
            _ => Ok(()),
        }
    }

    /// The incoming migration failed; another may come.
    pub(crate) fn incoming_failed(&mut self, now: Moment) -> Step {
        self.consent = Consent::None;
        self.hide(now, HiddenWhy::NotAccepted)
    }

    // Small things.

    /// The purpose of a new request to unplug: a deletion that the guest still owes goes first.
    fn owed_or(&self, why: UnplugWhy) -> UnplugWhy {
        match &self.state {
            State::Active {
                outstanding: Some(UnplugWhy::Deletion),
            }
            | State::Plugging(PlugStage::Offered {
                outstanding: Some(UnplugWhy::Deletion),
                ..
            }) => UnplugWhy::Deletion,
            _ => why,
        }
    }

    fn offered(&self, now: Moment, outstanding: Option<UnplugWhy>) -> State {
        let deadline = Some(now.after_ms(self.timing.driver_timeout_ms));
        State::Plugging(PlugStage::Offered {
            began: now,
            deadline,
            outstanding,
        })
    }

    fn hide(&mut self, now: Moment, why: HiddenWhy) -> Step {
        let why = if self.primary.is_none() {
            HiddenWhy::NoPrimary
        } else {
            why
        };
        self.go(now, State::Hidden(why))
    }

    /// Steers to the standby even when the path is said to be there already: the VF's MAC may have
    /// been set for a driver that never came.
    fn leave_primary(&mut self, out: &mut Vec<Action>) {
        out.push(Action::SteerToStandby {
            standby: self.standby.clone(),
        });
        out.push(Action::Announce {
            standby: self.standby.clone(),
        });
        if self.path != Path::Standby {
            self.path = Path::Standby;
            self.tell_path(out);
        }
    }

    fn tell_path(&self, out: &mut Vec<Action>) {
        let (standby, path) = (self.standby.clone(), self.path);
        out.push(Action::Emit(Notice::PathChanged { standby, path }));
    }

    fn tell_missing(&self, reason: Reason, out: &mut Vec<Action>) {
        if let Some(primary) = self.primary.clone() {
            out.push(Action::Emit(Notice::PrimaryMissing { primary, reason }));
        }
    }

    fn refusal(&self, reason: Reason) -> Refusal {
        Refusal {
            primary: self.primary.clone().unwrap_or_default(),
            reason,
        }
    }

    fn primary_id(&self) -> Result<String, Illegal> {
        self.primary
            .clone()
            .ok_or_else(|| Illegal::NoPrimary(self.standby.clone()))
    }

    fn misplaced(&self, event: &Event) -> Illegal {
        Illegal::Event {
            standby: self.standby.clone(),
            event: event.name(),
            phase: self.state.phase(),
        }
    }

    fn go(&mut self, now: Moment, to: State) -> Step {
        let (from, target) = (self.state.phase(), to.phase());
        if !from.may_become(target) {
            return Err(Illegal::Transition {
                standby: self.standby.clone(),
                from,
                to: target,
            });
        }
        if from != target {
            self.since = now;
        }
        self.state = to;
        Ok(())
    }
}
