//! One pair: a standby, at most one primary, and where that primary is.
//!
//! Three things are kept, each set by another party, so that none has to be guessed from another:
//! the [`State`] of the primary, the guest's [`Consent`], and the [`Hold`] that migration has on it.
//! One function, `bring_in`, decides whether a primary may be plugged; nothing else emits
//! [`Action::Plug`] for one that was out.
//!
//! Here is what all parts use; each part has a file: what the guest says (`consent`), the way in and
//! the way out, orders, migration, the link, and what a paused guest's waits do.

mod consent;
mod link;
mod migration;
mod orders;
mod pause;
mod situation;
mod way_in;
mod way_out;

use crate::clock::{Moment, Timing};
use crate::event::{Action, Event, Notice};
use crate::pairing::StandbySpec;
use crate::reason::{Reason, Refusal};
use crate::state::{HiddenWhy, Illegal, Path, PathWhy, PlugStage, State, UnplugWhy};
use link::Link;
use pause::Pause;
pub use pause::WhenPaused;
pub use situation::Situation;

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
    pause: Pause,
    link: Link,
    /// An operator said stop before there was anything to stop.
    kept_out: bool,
    /// How often in a row the device failed, or its link, and what was said last.
    faults: u32,
    fault: Option<String>,
}

type Step = Result<(), Illegal>;

impl Pair {
    pub(crate) fn new(now: Moment, standby: &StandbySpec, hold: Hold, timing: Timing) -> Self {
        Self {
            standby: standby.id.clone(),
            primary: None,
            consent: Consent::None,
            hold,
            path: Path::Standby,
            state: State::Hidden(HiddenWhy::NoPrimary),
            since: now,
            timing,
            pause: Pause::default(),
            link: Link::new(standby.link_timeout_ms),
            kept_out: false,
            faults: 0,
            fault: None,
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

    /// Whether only the guest can get the primary out.
    pub fn needs_guest(&self) -> bool {
        self.in_guest() && !matches!(self.state, State::Plugging(PlugStage::Opening { .. }))
    }

    pub(crate) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// When [`Pair::tick`] has something to do, if nothing else happens before.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let state = self.state.deadline().filter(|_| !self.is_frozen());
        [state, self.link_deadline()].into_iter().flatten().min()
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
            Event::PlugBrokenOff => self.plug_broken_off(now, out)?,
            Event::DriverIn => self.driver_in(now, out)?,
            Event::DriverOut => self.driver_out(now, out)?,
            Event::GuestLetGo => self.let_go(now, out)?,
            Event::UnplugRefused(why) => {
                return self.unplug_refused(now, event, Reason::GuestRefused(why.clone()), out);
            }
            Event::UnplugNotAsked(why) => {
                return self.unplug_refused(now, event, Reason::CannotAsk(why.clone()), out);
            }
            Event::DeviceFailed(error) => self.device_failed(now, error, out)?,
            Event::LinkDown => self.link_down(now),
            Event::LinkUp => self.link_up(now, out)?,
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
        if self.link_deadline().is_some_and(|at| now >= at) {
            self.link_too_long_down(now, out)?;
            return Ok(None);
        }
        if self.is_frozen() {
            return Ok(None);
        }
        let timing = self.timing;
        let outgoing = self.hold == Hold::Outgoing;
        match &mut self.state {
            State::Plugging(PlugStage::Backoff {
                attempt, retry_at, ..
            }) if now >= *retry_at => {
                let attempt = attempt.saturating_add(1);
                self.retry(now, attempt, out)?;
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
                let reason = if self.pause.guest_runs() {
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

    // Small things.

    fn hide(&mut self, now: Moment, why: HiddenWhy) -> Step {
        let why = if self.primary.is_none() {
            HiddenWhy::NoPrimary
        } else {
            why
        };
        self.go(now, State::Hidden(why))
    }

    fn steer_to_standby(&self, out: &mut Vec<Action>) {
        out.push(Action::SteerToStandby {
            standby: self.standby.clone(),
        });
    }

    /// Steers to the standby even when the path is said to be there already: the VF's MAC may have
    /// been set for a driver that never came.
    fn leave_primary(&mut self, why: PathWhy, out: &mut Vec<Action>) {
        self.steer_to_standby(out);
        out.push(Action::Announce {
            standby: self.standby.clone(),
        });
        if self.path != Path::Standby {
            self.path = Path::Standby;
            self.tell_path(why, out);
        }
    }

    fn tell_path(&self, why: PathWhy, out: &mut Vec<Action>) {
        let (standby, path) = (self.standby.clone(), self.path);
        out.push(Action::Emit(Notice::PathChanged { standby, path, why }));
    }

    fn tell_missing(&self, reason: Reason, out: &mut Vec<Action>) {
        out.push(Action::Emit(Notice::PrimaryMissing {
            standby: self.standby.clone(),
            primary: self.primary.clone(),
            reason,
        }));
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

    /// What a request to unplug is for, the present one or one that was taken back and may be followed all the same.
    pub fn unplug_why(&self) -> Option<UnplugWhy> {
        match &self.state {
            State::Unplugging { why, .. } => Some(*why),
            State::Active { outstanding }
            | State::Plugging(PlugStage::Offered { outstanding, .. }) => *outstanding,
            _ => None,
        }
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
