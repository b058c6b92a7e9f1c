//! All pairs of a machine: who belongs to whom, and the gate an outgoing migration passes.

use crate::clock::{Moment, Timing};
use crate::event::{Action, Event, Notice};
use crate::pair::{Hold, Pair, WhenPaused};
use crate::pairing::{PairingError, PairingWarning, PrimarySpec, StandbySpec};
use crate::reason::{Reason, Refusal};
use crate::state::Illegal;

/// How far migration has come, as far as pairs are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// No migration.
    Idle,
    /// An outgoing migration waits for guests to let go (wait-unplug).
    Waiting,
    /// An outgoing migration proceeds; every primary stays out.
    Open,
    /// The guest left.
    Completed,
    /// A guest is awaited here.
    Incoming,
}

/// When a device is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// By the command line: a primary is hidden whatever the order of the devices.
    AtStart,
    /// By the monitor: a primary that comes before its standby is an ordinary device to the guest,
    /// and clients rely on seeing it (SPEC section 2, point 4).
    Hotplug,
}

/// What to do with a primary that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// Keep it out of the guest; an [`Action::Plug`] says when to plug it.
    Hide,
    /// Plug it like any device.
    PlugNow,
}

/// A device was added: what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// For a primary: where it goes now.
    pub placing: Placing,
    /// What to do, in this order.
    pub actions: Vec<Action>,
    /// What to tell the operator.
    pub warnings: Vec<PairingWarning>,
}

/// A primary that names a standby which does not exist, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dangling<'p> {
    /// Its id.
    pub primary: &'p str,
    /// The id that it names.
    pub standby: &'p str,
    /// It is an ordinary device to the guest.
    pub visible: bool,
    /// A migration would have to leave it behind.
    pub blocks_migration: bool,
}

/// A primary whose standby does not exist.
#[derive(Debug, Clone)]
struct Orphan {
    spec: PrimarySpec,
    id: String,
    visible: bool,
}

/// All pairs. Standbys are kept in the order of their creation.
#[derive(Debug, Clone)]
pub struct Pairs {
    pairs: Vec<(StandbySpec, Pair)>,
    orphans: Vec<Orphan>,
    gate: Gate,
    timing: Timing,
    guest_running: bool,
    when_paused: WhenPaused,
}

impl Pairs {
    /// No pairs yet, of a machine whose guest starts here.
    pub fn new(timing: Timing) -> Self {
        Self {
            pairs: Vec::new(),
            orphans: Vec::new(),
            gate: Gate::Idle,
            timing,
            guest_running: true,
            when_paused: WhenPaused::default(),
        }
    }

    /// No pairs yet, of a machine that awaits its guest by migration: nothing is plugged before
    /// [`Pairs::target_resumed`].
    pub fn incoming(timing: Timing) -> Self {
        Self {
            gate: Gate::Incoming,
            ..Self::new(timing)
        }
    }

    /// Every pair, in the order in which the standbys were created.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Pair> {
        self.pairs.iter().map(|(_, pair)| pair)
    }

    /// The pair with this standby.
    pub fn by_standby(&self, id: &str) -> Option<&Pair> {
        self.iter().find(|p| p.standby() == id)
    }

    /// The pair with this primary.
    pub fn by_primary(&self, id: &str) -> Option<&Pair> {
        self.iter().find(|p| p.primary() == Some(id))
    }

    /// Whether a device with this id is a primary that the guest does not see and that `query-pci`
    /// leaves out: hidden, never plugged. A parked one may go on being listed.
    pub fn is_hidden(&self, primary: &str) -> bool {
        self.by_primary(primary)
            .is_some_and(|p| matches!(p.state(), crate::State::Hidden(_)))
            || self.orphans.iter().any(|o| o.id == primary && !o.visible)
    }

    /// How far migration has come.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// The waits that pairs use from their next wait on.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Changes the waits; those that have begun end as they were to end.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
        for (_, pair) in &mut self.pairs {
            pair.set_timing(timing);
        }
    }

    /// What migrations do from now on whose guest is paused.
    pub fn set_when_paused(&mut self, policy: WhenPaused) {
        self.when_paused = policy;
        for (_, pair) in &mut self.pairs {
            pair.set_when_paused(policy);
        }
    }

    /// Whether the vCPUs run: a stopped guest cannot answer. Its waits stand still, or end with that for
    /// a reason, as [`Pairs::set_when_paused`] says.
    pub fn set_guest_running(&mut self, now: Moment, running: bool) {
        self.guest_running = running;
        for (_, pair) in &mut self.pairs {
            pair.set_guest_running(now, running);
        }
    }

    /// When to call [`Pairs::tick`] next, if nothing else happens before.
    ///
    /// A query and not an action: an action could be lost or overtaken, this cannot.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.iter().filter_map(Pair::deadline).min()
    }

    fn hold(&self) -> Hold {
        match self.gate {
            Gate::Idle => Hold::Free,
            Gate::Waiting | Gate::Open => Hold::Outgoing,
            Gate::Completed => Hold::Completed,
            Gate::Incoming => Hold::Incoming,
        }
    }

    fn migrating(&self) -> bool {
        matches!(self.gate, Gate::Waiting | Gate::Open)
    }

    fn id_taken(&self, id: &str) -> bool {
        self.by_standby(id).is_some()
            || self.by_primary(id).is_some()
            || self.orphans.iter().any(|o| o.id == id)
    }

    /// Checks a primary without adding it: what [`Pairs::add_primary`] would refuse, it refuses.
    pub fn check_primary(&self, spec: &PrimarySpec) -> Result<(), PairingError> {
        let id = spec
            .id
            .as_deref()
            .filter(|id| !id.is_empty())
            .ok_or(PairingError::NoId)?;
        if self.migrating() {
            return Err(PairingError::Migrating);
        }
        let present = self
            .by_standby(&spec.standby)
            .and_then(Pair::primary)
            .or_else(|| self.orphan_of(&spec.standby).map(|o| o.id.as_str()));
        match present {
            Some(present) if present == id => return Err(PairingError::DuplicateId(id.to_owned())),
            Some(present) => {
                return Err(PairingError::SecondPrimary {
                    standby: spec.standby.clone(),
                    present: present.to_owned(),
                    given: id.to_owned(),
                });
            }
            None => {}
        }
        spec.check()?;
        if self.id_taken(id) {
            return Err(PairingError::DuplicateId(id.to_owned()));
        }
        if let Some((standby, _)) = self.pairs.iter().find(|(s, _)| s.id == spec.standby) {
            spec.check_with(id, standby)?;
        }
        Ok(())
    }

    fn orphan_of(&self, standby: &str) -> Option<&Orphan> {
        self.orphans.iter().find(|o| o.spec.standby == standby)
    }

    /// Adds a primary. On an error nothing changed.
    pub fn add_primary(
        &mut self,
        now: Moment,
        spec: PrimarySpec,
        when: When,
    ) -> Result<Added, PairingError> {
        self.check_primary(&spec)?;
        let id = spec.id.clone().ok_or(PairingError::NoId)?;
        let mut added = Added {
            placing: Placing::Hide,
            actions: Vec::new(),
            warnings: Vec::new(),
        };
        let Some((standby, pair)) = self.pairs.iter_mut().find(|(s, _)| s.id == spec.standby)
        else {
            let visible = when == When::Hotplug;
            if visible {
                added.placing = Placing::PlugNow;
                added.warnings.push(PairingWarning::NoStandby {
                    primary: id.clone(),
                    standby: spec.standby.clone(),
                });
            }
            self.orphans.push(Orphan { spec, id, visible });
            return Ok(added);
        };
        added.warnings.extend(spec.check_with(&id, standby)?);
        pair.add_primary(now, id, &mut added.actions)
            .map_err(internal)?;
        Ok(added)
    }

    /// Adds a standby; a primary that was waiting for it joins it. On an error nothing changed.
    pub fn add_standby(&mut self, now: Moment, spec: StandbySpec) -> Result<Added, PairingError> {
        if self.migrating() {
            return Err(PairingError::Migrating);
        }
        if self.id_taken(&spec.id) {
            return Err(PairingError::DuplicateId(spec.id.clone()));
        }
        let mut added = Added {
            placing: Placing::PlugNow,
            actions: Vec::new(),
            warnings: Vec::new(),
        };
        let mut pair = Pair::new(now, &spec, self.hold(), self.timing);
        pair.set_when_paused(self.when_paused);
        pair.set_guest_running(now, self.guest_running);
        if let Some(at) = self.orphans.iter().position(|o| o.spec.standby == spec.id)
            && let Some(orphan) = self.orphans.get(at)
        {
            added
                .warnings
                .extend(orphan.spec.check_with(&orphan.id, &spec)?);
            let id = orphan.id.clone();
            if orphan.visible {
                pair.adopt_visible(now, id).map_err(internal)?;
            } else {
                pair.add_primary(now, id, &mut added.actions)
                    .map_err(internal)?;
            }
            self.orphans.remove(at);
        }
        self.pairs.push((spec, pair));
        Ok(added)
    }

    /// The command line is read: primaries whose standby was not on it are ordinary devices to the guest from now on,
    /// as one that is hotplugged before its standby. Their ids, in order; they are to be put into their slots.
    pub fn show_unpaired(&mut self) -> Vec<String> {
        let hidden = self.orphans.iter_mut().filter(|o| !o.visible);
        hidden
            .map(|orphan| {
                orphan.visible = true;
                orphan.id.clone()
            })
            .collect()
    }

    /// Whether this is a primary without a standby, which is an ordinary device to the guest.
    pub fn is_unpaired(&self, primary: &str) -> bool {
        self.orphans.iter().any(|o| o.id == primary && o.visible)
    }

    /// What is left to say once the command line is read: primaries that name no standby.
    pub fn unpaired(&self) -> Vec<PairingWarning> {
        self.orphans
            .iter()
            .map(|o| PairingWarning::NoStandby {
                primary: o.id.clone(),
                standby: o.spec.standby.clone(),
            })
            .collect()
    }

    /// A standby was deleted. Refused while a primary belongs to it: that has to be deleted first.
    pub fn remove_standby(&mut self, id: &str) -> Result<(), PairingError> {
        if self.migrating() {
            return Err(PairingError::DeleteWhileMigrating);
        }
        let at = self
            .pairs
            .iter()
            .position(|(s, _)| s.id == id)
            .ok_or_else(|| PairingError::UnknownStandby(id.to_owned()))?;
        if let Some(primary) = self.pairs.get(at).and_then(|(_, p)| p.primary()) {
            let (standby, primary) = (id.to_owned(), primary.to_owned());
            return Err(PairingError::StandbyInUse { standby, primary });
        }
        self.pairs.remove(at);
        Ok(())
    }

    /// A primary without a standby was deleted. Returns whether there was one.
    pub fn remove_unpaired(&mut self, primary: &str) -> bool {
        let before = self.orphans.len();
        self.orphans.retain(|o| o.id != primary);
        self.orphans.len() != before
    }

    /// Something happened to the pair of this device (its standby's or its primary's id). On an
    /// error nothing changed.
    pub fn handle(
        &mut self,
        now: Moment,
        device: &str,
        event: &Event,
    ) -> Result<Vec<Action>, Illegal> {
        let at = self
            .pairs
            .iter()
            .position(|(_, p)| p.standby() == device || p.primary() == Some(device))
            .ok_or_else(|| Illegal::UnknownDevice(device.to_owned()))?;
        self.transact(now, |this, out| {
            let Some((_, pair)) = this.pairs.get_mut(at) else {
                return Ok(None);
            };
            pair.handle(now, event, out)
        })
    }

    /// The whole machine was reset, its vCPUs stopped meanwhile.
    pub fn machine_reset(&mut self, now: Moment) -> Result<Vec<Action>, Illegal> {
        self.transact(now, |this, out| {
            for (_, pair) in &mut this.pairs {
                pair.handle(now, &Event::MachineReset, out)?;
            }
            Ok(None)
        })
    }

    /// Lets the waits end that are due.
    pub fn tick(&mut self, now: Moment) -> Result<Vec<Action>, Illegal> {
        self.transact(now, |this, out| {
            let mut refused = None;
            for (_, pair) in &mut this.pairs {
                let refusal = pair.tick(now, out)?;
                refused = refused.or(refusal);
            }
            Ok(refused)
        })
    }

    /// Carries out `step`; then a refusal fails the migration and rolls every pair back, and a gate
    /// that nobody blocks any more opens. On an error nothing changed.
    fn transact(
        &mut self,
        now: Moment,
        step: impl FnOnce(&mut Self, &mut Vec<Action>) -> Result<Option<Refusal>, Illegal>,
    ) -> Result<Vec<Action>, Illegal> {
        let before = self.clone();
        let mut out = Vec::new();
        let done = step(self, &mut out).and_then(|refused| {
            match refused {
                Some(refusal) if self.migrating() => {
                    out.extend(self.refuse(refusal));
                    self.roll_back(now, &mut out)?;
                }
                _ if self.gate == Gate::Waiting && !self.iter().any(Pair::in_guest) => {
                    self.gate = Gate::Open;
                    out.push(Action::LetMigrationProceed);
                }
                _ => {}
            }
            Ok(())
        });
        match done {
            Ok(()) => Ok(out),
            Err(error) => {
                *self = before;
                Err(error)
            }
        }
    }

    /// Told to whoever listens, and to the migration.
    fn refuse(&self, refusal: Refusal) -> [Action; 2] {
        let standby = self.by_primary(&refusal.primary).map(Pair::standby);
        let named = self.dangling().find(|d| d.primary == refusal.primary);
        let standby = standby.or(named.map(|d| d.standby)).unwrap_or_default();
        let told = Notice::UnplugFailed {
            standby: standby.to_owned(),
            primary: refusal.primary.clone(),
            reason: refusal.reason.clone(),
            for_migration: true,
        };
        [Action::Emit(told), Action::RefuseMigration(refusal)]
    }

    fn roll_back(&mut self, now: Moment, out: &mut Vec<Action>) -> Result<(), Illegal> {
        self.gate = Gate::Idle;
        for (_, pair) in &mut self.pairs {
            pair.migration_ended(now, out)?;
        }
        Ok(())
    }

    /// An outgoing migration begins; its transport is connected. Asks every guest that has its
    /// primary to let go, last-created standby first. The actions end with
    /// [`Action::LetMigrationProceed`] if there is nothing to wait for (then there is no
    /// wait-unplug), or hold [`Action::RefuseMigration`] if it can be seen to fail; nothing was
    /// asked then.
    pub fn begin_migration(&mut self, now: Moment) -> Result<Vec<Action>, Illegal> {
        match self.gate {
            Gate::Idle => {}
            Gate::Waiting | Gate::Open => return Err(Illegal::MigrationInProgress),
            Gate::Completed => return Err(Illegal::AlreadyMigrated),
            Gate::Incoming => return Err(Illegal::GuestIsIncoming),
        }
        if let Some(refusal) = self.obstacle() {
            return Ok(self.refuse(refusal).into());
        }
        self.transact(now, |this, out| {
            this.gate = Gate::Waiting;
            for (_, pair) in this.pairs.iter_mut().rev() {
                pair.migration_starts(now, out)?;
            }
            Ok(None)
        })
    }

    /// What makes a migration impossible before anything is asked.
    fn obstacle(&self) -> Option<Refusal> {
        self.obstacles().next()
    }

    /// What would stop a migration that began now, before anything is asked: each primary, and why.
    pub fn obstacles(&self) -> impl Iterator<Item = Refusal> {
        let dangling = self.dangling().filter(|d| d.blocks_migration);
        let dangling = dangling.map(|d| Refusal {
            primary: d.primary.to_owned(),
            reason: Reason::NoStandby {
                standby: d.standby.to_owned(),
            },
        });
        let paused = !self.guest_running && self.when_paused == WhenPaused::Refuse;
        let waiting = self.iter().filter(move |p| paused && p.needs_guest());
        let waiting = waiting.map(|p| Refusal {
            primary: p.primary().unwrap_or_default().to_owned(),
            reason: Reason::GuestPaused,
        });
        dangling.chain(waiting)
    }

    /// Primaries that name a standby which does not exist.
    pub fn dangling(&self) -> impl Iterator<Item = Dangling<'_>> {
        self.orphans.iter().map(|orphan| Dangling {
            primary: &orphan.id,
            standby: &orphan.spec.standby,
            visible: orphan.visible,
            blocks_migration: orphan.visible && !orphan.spec.migratable,
        })
    }

    /// Whether the vCPUs may be stopped for the last pass: no primary is with its guest. The last
    /// guard; [`Action::LetMigrationProceed`] was given only when this held, and nothing is plugged
    /// since.
    pub fn may_switch_over(&self) -> Result<(), Refusal> {
        match self.iter().find(|p| p.in_guest()) {
            None => Ok(()),
            Some(pair) => Err(Refusal {
                primary: pair.primary().unwrap_or_default().to_owned(),
                reason: Reason::InUse,
            }),
        }
    }

    /// The outgoing migration was cancelled or failed: the guest runs here, its primaries come back.
    /// Doing this when no migration is under way does nothing.
    pub fn migration_ended(&mut self, now: Moment) -> Result<Vec<Action>, Illegal> {
        if !self.migrating() {
            return Ok(Vec::new());
        }
        self.transact(now, |this, out| this.roll_back(now, out).map(|()| None))
    }

    /// The guest runs on the target now.
    pub fn migration_completed(&mut self, now: Moment) -> Result<Vec<Action>, Illegal> {
        if self.gate != Gate::Open {
            return Err(Illegal::NoMigration);
        }
        self.transact(now, |this, out| {
            this.gate = Gate::Completed;
            for (_, pair) in &mut this.pairs {
                pair.migration_completed(now, out)?;
            }
            Ok(None)
        })
    }

    /// `cont` on the source after the migration completed: its primaries come back.
    pub fn source_continued(&mut self, now: Moment) -> Result<Vec<Action>, Illegal> {
        self.runs_here(now, Gate::Completed)
    }

    /// The target's vCPUs run: announce, then plug.
    pub fn target_resumed(&mut self, now: Moment) -> Result<Vec<Action>, Illegal> {
        self.runs_here(now, Gate::Incoming)
    }

    fn runs_here(&mut self, now: Moment, from: Gate) -> Result<Vec<Action>, Illegal> {
        if self.gate != from {
            return Err(Illegal::NoMigration);
        }
        self.transact(now, |this, out| {
            this.gate = Gate::Idle;
            for (_, pair) in &mut this.pairs {
                pair.guest_runs_here(now, out)?;
            }
            // What the outside needs first comes first: all frames on their way, then the plugs.
            out.sort_by_key(|a| matches!(a, Action::Plug { .. }));
            Ok(None)
        })
    }

    /// The incoming migration failed; another may follow.
    pub fn incoming_failed(&mut self, now: Moment) -> Result<(), Illegal> {
        if self.gate != Gate::Incoming {
            return Err(Illegal::NoMigration);
        }
        self.pairs
            .iter_mut()
            .try_for_each(|(_, pair)| pair.incoming_failed(now))
    }
}

/// The table forbade a move while a device was added: a mistake here, told as a refusal.
fn internal(error: Illegal) -> PairingError {
    match error {
        Illegal::AddWhileMigrating => PairingError::Migrating,
        other => PairingError::UnknownStandby(other.to_string()),
    }
}
