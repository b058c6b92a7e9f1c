//! Where the primary of a pair is, and between which of these places it may move.

use thiserror::Error;

use crate::clock::Moment;
use crate::reason::Reason;

/// The path the guest's traffic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// The virtio-net device.
    Standby,
    /// The passed-through device.
    Primary,
}

/// Why the guest's traffic changed its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathWhy {
    /// To the primary: its driver is in and its link not known to be down.
    DriverReady,
    /// To the primary: its driver was in, and now its link is up.
    LinkUp,
    /// To the standby, for a request to unplug.
    Unplug(UnplugWhy),
    /// The driver left it, unasked.
    DriverGone,
    /// The device failed.
    DeviceFailed,
    /// The guest was reset.
    GuestRebooted,
    /// The guest removed it, unasked.
    GuestRemovedIt,
    /// The host took it away.
    PrimaryGone,
}

impl PathWhy {
    /// The word for programs.
    pub fn name(self) -> &'static str {
        match self {
            PathWhy::DriverReady => "driver-ready",
            PathWhy::LinkUp => "link-up",
            PathWhy::Unplug(why) => why.name(),
            PathWhy::DriverGone => "driver-gone",
            PathWhy::DeviceFailed => "device-failed",
            PathWhy::GuestRebooted => "guest-rebooted",
            PathWhy::GuestRemovedIt => "guest-removed-it",
            PathWhy::PrimaryGone => "primary-gone",
        }
    }
}

/// Why the primary is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenWhy {
    /// The standby has no primary.
    NoPrimary,
    /// The guest has not accepted `VIRTIO_NET_F_STANDBY`, or took it back.
    NotAccepted,
    /// The guest was reset and has not accepted anew.
    GuestRebooted,
}

/// Why the guest was asked to let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnplugWhy {
    /// An outgoing migration waits for it.
    Migration,
    /// An operator ordered the guest onto its standby.
    Operator,
    /// `device_del`: the primary is to be deleted once let go.
    Deletion,
    /// The guest negotiated anew, without STANDBY.
    NotAccepted,
    /// The device reported an error; it is plugged again once let go.
    DeviceFailed,
    /// Its link has been down for too long; it is plugged again once the link is up.
    LinkDown,
}

impl UnplugWhy {
    /// The word for programs.
    pub fn name(self) -> &'static str {
        match self {
            UnplugWhy::Migration => "migration",
            UnplugWhy::Operator => "operator",
            UnplugWhy::Deletion => "deletion",
            UnplugWhy::NotAccepted => "not-accepted",
            UnplugWhy::DeviceFailed => "device-failed",
            UnplugWhy::LinkDown => "link-down",
        }
    }

    /// The device cannot serve the guest as it is: there is no point in leaving it there.
    pub(crate) fn is_fault(self) -> bool {
        matches!(self, UnplugWhy::DeviceFailed | UnplugWhy::LinkDown)
    }
}

/// Why the primary stands beside its slot, its host resources kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedWhy {
    /// A migration is under way, out of here or into here.
    Migration,
    /// An operator's order; only another order brings it back.
    Operator,
    /// The guest removed it unasked; an order or a new negotiation brings it back.
    GuestRemoved,
    /// Its link is down; the link brings it back.
    LinkDown,
}

/// How far plugging has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlugStage {
    /// [`crate::Action::Plug`] is out: the host opens, maps and inserts the device.
    Opening {
        /// Which attempt, counted from 1.
        attempt: u32,
        /// When it began.
        began: Moment,
        /// When its slowness is told; none once told.
        deadline: Option<Moment>,
        /// What to ask of the guest as soon as the device is in.
        then: Option<UnplugWhy>,
    },
    /// The last attempt failed; the guest sees nothing.
    Backoff {
        /// Which attempt failed, counted from 1.
        attempt: u32,
        /// When to try again.
        retry_at: Moment,
        /// Why it failed.
        reason: Reason,
    },
    /// In the slot, the guest told, its driver not yet seen (or gone again).
    Offered {
        /// When this began.
        began: Moment,
        /// When the missing driver is told; none once told.
        deadline: Option<Moment>,
        /// A request to unplug that was taken back and that the guest may still act on.
        outstanding: Option<UnplugWhy>,
    },
}

/// The state of one pair: where its primary is. What the guest accepted and what migration forbids
/// are inputs, kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The guest sees the standby alone.
    Hidden(HiddenWhy),
    /// On the way in; the standby carries all.
    Plugging(PlugStage),
    /// The guest's driver is in.
    Active {
        /// A request to unplug that was taken back and that the guest may still act on: a late
        /// eject then leads to a new plug, never to a deletion nobody wants.
        outstanding: Option<UnplugWhy>,
    },
    /// The guest was asked to let go.
    Unplugging {
        /// What for.
        why: UnplugWhy,
        /// How often it was asked.
        attempts: u32,
        /// When it was first asked.
        began: Moment,
        /// When to ask again.
        resend_at: Moment,
        /// When to give up.
        deadline: Moment,
    },
    /// The guest let go; the host keeps the device.
    Parked(ParkedWhy),
    /// The guest runs elsewhere; the host may give the device to another.
    Released(ParkedWhy),
}

/// A [`State`] without its particulars: what the table of transitions speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// See [`State::Hidden`].
    Hidden,
    /// See [`State::Plugging`].
    Plugging,
    /// See [`State::Active`].
    Active,
    /// See [`State::Unplugging`].
    Unplugging,
    /// See [`State::Parked`].
    Parked,
    /// See [`State::Released`].
    Released,
}

/// Every legal transition from one phase to another. Staying within a phase is always legal.
pub const TRANSITIONS: &[(Phase, &[Phase])] = &[
    // Accepted; visible from the start; accepted while a migration holds it.
    (
        Phase::Hidden,
        &[Phase::Plugging, Phase::Active, Phase::Parked],
    ),
    // Driver in; asked to go before it was; failed under a migration; no longer accepted.
    (
        Phase::Plugging,
        &[
            Phase::Active,
            Phase::Unplugging,
            Phase::Parked,
            Phase::Hidden,
        ],
    ),
    // Driver gone or late eject; asked to go; guest ejected unasked; guest reset.
    (
        Phase::Active,
        &[
            Phase::Plugging,
            Phase::Unplugging,
            Phase::Parked,
            Phase::Hidden,
        ],
    ),
    // Let go; taken back or refused (with and without the driver); deleted or guest reset.
    (
        Phase::Unplugging,
        &[Phase::Parked, Phase::Active, Phase::Plugging, Phase::Hidden],
    ),
    // Back again; migration done; no longer accepted.
    (
        Phase::Parked,
        &[Phase::Plugging, Phase::Released, Phase::Hidden],
    ),
    // The source continues: back again, or still parked by order; deleted.
    (
        Phase::Released,
        &[Phase::Plugging, Phase::Parked, Phase::Hidden],
    ),
];

impl Phase {
    /// Whether a pair may go from this phase to `to`.
    pub fn may_become(self, to: Phase) -> bool {
        self == to
            || TRANSITIONS
                .iter()
                .any(|(from, targets)| *from == self && targets.contains(&to))
    }
}

impl State {
    /// The phase this state belongs to.
    pub fn phase(&self) -> Phase {
        match self {
            State::Hidden(_) => Phase::Hidden,
            State::Plugging(_) => Phase::Plugging,
            State::Active { .. } => Phase::Active,
            State::Unplugging { .. } => Phase::Unplugging,
            State::Parked(_) => Phase::Parked,
            State::Released(_) => Phase::Released,
        }
    }

    /// Whether the guest sees the primary, or may do so at any moment (it is being inserted).
    /// Such a primary blocks a migration's switch-over.
    pub fn in_guest(&self) -> bool {
        match self {
            State::Plugging(stage) => !matches!(stage, PlugStage::Backoff { .. }),
            State::Active { .. } | State::Unplugging { .. } => true,
            State::Hidden(_) | State::Parked(_) | State::Released(_) => false,
        }
    }

    /// When [`crate::Pairs::tick`] has something to do, if nothing else happens before.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        match self {
            State::Plugging(PlugStage::Opening { deadline, .. })
            | State::Plugging(PlugStage::Offered { deadline, .. }) => *deadline,
            State::Plugging(PlugStage::Backoff { retry_at, .. }) => Some(*retry_at),
            State::Unplugging {
                resend_at,
                deadline,
                ..
            } => Some((*resend_at).min(*deadline)),
            _ => None,
        }
    }
}

/// An event that the pair's state does not allow. The pair is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Illegal {
    /// The event has no meaning in this phase.
    #[error("pair '{standby}': {event} has no place in phase {phase:?}")]
    Event {
        /// Id of the pair's standby.
        standby: String,
        /// Name of the event.
        event: &'static str,
        /// The phase it came in.
        phase: Phase,
    },
    /// The table of transitions forbids the move: a mistake in this crate.
    #[error("pair '{standby}': no way from {from:?} to {to:?}")]
    Transition {
        /// Id of the pair's standby.
        standby: String,
        /// The phase it is in.
        from: Phase,
        /// Where it was to go.
        to: Phase,
    },
    /// No pair or primary has this id.
    #[error("no failover pair has a device '{0}'")]
    UnknownDevice(String),
    /// The pair has no primary to do this with.
    #[error("standby '{0}' has no primary; add one with failover_pair_id={0}")]
    NoPrimary(String),
    /// An order to use the primary that the guest has not accepted.
    #[error(
        "the guest has not accepted the failover feature of '{0}'; its driver must negotiate STANDBY first"
    )]
    NotAccepted(String),
    /// A device cannot be added now.
    #[error("device_add not allowed while migrating")]
    AddWhileMigrating,
    /// A device cannot be deleted now.
    #[error("device_del not allowed while migrating")]
    DeleteWhileMigrating,
    /// A migration runs, or this side's guest left already.
    #[error("There's a migration process in progress")]
    MigrationInProgress,
    /// The guest has left by an earlier migration.
    #[error("Can't migrate the vm that was paused due to previous migration")]
    AlreadyMigrated,
    /// This side waits for a guest.
    #[error("Guest is waiting for an incoming migration")]
    GuestIsIncoming,
    /// An end of a migration that was not under way.
    #[error("no migration is in progress")]
    NoMigration,
}
