//! What goes into a pair and what comes out of it.

use crate::reason::{PlugError, Reason, Refusal};
use crate::state::{Path, PathWhy};

/// What happened to one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest's driver set FEATURES_OK with `VIRTIO_NET_F_STANDBY`; or a restored standby
    /// holds the bit (on the target, while its state is loaded).
    StandbyNegotiated,
    /// The guest's driver set FEATURES_OK without `VIRTIO_NET_F_STANDBY`.
    StandbyRefused,
    /// The guest's driver reset the standby; it has not said what it will accept next.
    StandbyReset,
    /// The whole machine was reset: nothing in the guest holds any device. The vCPUs have not
    /// run since.
    MachineReset,
    /// [`Action::Plug`] was carried out: the device is in its slot and the guest is told.
    PlugSucceeded,
    /// [`Action::Plug`] failed; the slot is empty.
    PlugFailed(PlugError),
    /// [`Action::Plug`] was broken off, as [`Action::BreakOffPlug`] wanted; the slot is empty.
    PlugBrokenOff,
    /// The guest's driver took the primary: it enabled bus mastering. A machine that cannot see
    /// this sends it right after [`Event::PlugSucceeded`].
    DriverIn,
    /// The guest's driver let go while the device stays in its slot: bus mastering cleared.
    DriverOut,
    /// The guest let go of the slot: ACPI eject, or slot power off.
    GuestLetGo,
    /// The guest answered a request to unplug with no.
    UnplugRefused(String),
    /// [`Action::AskUnplug`] could not be carried out.
    UnplugNotAsked(String),
    /// The device reported an error it does not recover from, or the host wants it back.
    DeviceFailed(String),
    /// The host sees that the primary's link is down. May be told again.
    LinkDown,
    /// The host sees that the primary's link is up. May be told again.
    LinkUp,
    /// An operator wants the guest's traffic on this path.
    OperatorSwitch(Path),
    /// `device_del` of the primary.
    DeletionAsked,
    /// The host took the primary away already; it exists no more.
    PrimaryGone,
}

impl Event {
    /// The event's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Event::StandbyNegotiated => "StandbyNegotiated",
            Event::StandbyRefused => "StandbyRefused",
            Event::StandbyReset => "StandbyReset",
            Event::MachineReset => "MachineReset",
            Event::PlugSucceeded => "PlugSucceeded",
            Event::PlugFailed(_) => "PlugFailed",
            Event::PlugBrokenOff => "PlugBrokenOff",
            Event::DriverIn => "DriverIn",
            Event::DriverOut => "DriverOut",
            Event::GuestLetGo => "GuestLetGo",
            Event::UnplugRefused(_) => "UnplugRefused",
            Event::UnplugNotAsked(_) => "UnplugNotAsked",
            Event::DeviceFailed(_) => "DeviceFailed",
            Event::LinkDown => "LinkDown",
            Event::LinkUp => "LinkUp",
            Event::OperatorSwitch(_) => "OperatorSwitch",
            Event::DeletionAsked => "DeletionAsked",
            Event::PrimaryGone => "PrimaryGone",
        }
    }
}

/// What the control thread is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open and map the primary if that is not done yet, reset it, put it into its slot and tell the
    /// guest. The VF's administrative MAC must be set before the guest's driver probes: at the
    /// latest when the guest enables memory decoding. Answer with [`Event::PlugSucceeded`],
    /// [`Event::PlugFailed`] or [`Event::PlugBrokenOff`], exactly one of them.
    Plug {
        /// Id of the primary.
        primary: String,
        /// Counted from 1 for each way in.
        attempt: u32,
    },
    /// The plug under way is not wanted any more: break it off if that is still possible. It is
    /// answered all the same, as [`Action::Plug`] says.
    BreakOffPlug {
        /// Id of the primary.
        primary: String,
    },
    /// Take the primary out of its slot without asking: the guest was reset.
    Withdraw {
        /// Id of the primary.
        primary: String,
    },
    /// Ask the guest to let go. `attempt` > 1 repeats a request that may have been lost: raise the
    /// ACPI notification again; a native slot presses its attention button again only while its
    /// power indicator does not blink (a second press would take the first one back).
    AskUnplug {
        /// Id of the primary.
        primary: String,
        /// Counted from 1.
        attempt: u32,
    },
    /// Take the request back where the slot can (the guest may act on it all the same).
    CancelUnplugAsk {
        /// Id of the primary.
        primary: String,
    },
    /// Make the host's switch send the guest's frames to the standby's tap, and take the MAC off
    /// the VF. Doing it twice does no harm.
    SteerToStandby {
        /// Id of the standby.
        standby: String,
    },
    /// Make the host's switch send the guest's frames to the primary.
    SteerToPrimary {
        /// Id of the standby.
        standby: String,
    },
    /// The guest runs on another host: take its address out of this host's switch.
    SteerAway {
        /// Id of the standby.
        standby: String,
    },
    /// Announce the guest's addresses towards the host through the standby's backend.
    Announce {
        /// Id of the standby.
        standby: String,
    },
    /// The guest has let go for good: delete the primary and tell (`DEVICE_DELETED`).
    Delete {
        /// Id of the primary.
        primary: String,
    },
    /// The host's resources of the primary are to be closed: the guest runs elsewhere, or the device
    /// failed, or the host wants it back. A later [`Action::Plug`] opens it afresh.
    Release {
        /// Id of the primary.
        primary: String,
    },
    /// Tell the monitor.
    Emit(Notice),
    /// No primary is in the guest: the outgoing migration may leave wait-unplug.
    LetMigrationProceed,
    /// A wait of the outgoing migration ended otherwise than by the guest's eject, and well.
    UnplugMoot {
        /// Id of the primary.
        primary: String,
        /// How.
        reason: Reason,
    },
    /// The outgoing migration must end with this. The roll-back of the pairs follows in the same
    /// list of actions.
    RefuseMigration(Refusal),
}

/// What the monitor's clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// QMP `FAILOVER_NEGOTIATED`.
    FailoverNegotiated {
        /// Id of the standby (`device-id`).
        standby: String,
    },
    /// QMP `UNPLUG_PRIMARY`.
    UnplugPrimary {
        /// Id of the primary (`device-id`).
        primary: String,
    },
    /// A warning for the log: the guest accepted, and there is no primary. Its two lines are
    /// [`Notice::warning_lines`].
    PrimaryNotFound {
        /// Id of the standby.
        standby: String,
    },
    /// The guest's traffic goes another way from now on.
    PathChanged {
        /// Id of the standby.
        standby: String,
        /// The path from now on.
        path: Path,
        /// Why.
        why: PathWhy,
    },
    /// The primary is not where it should be; told again whenever the reason changes.
    PrimaryMissing {
        /// Id of the standby.
        standby: String,
        /// Id of the primary, if the pair has one.
        primary: Option<String>,
        /// Why.
        reason: Reason,
    },
    /// An unplug came to nothing; the primary stays with the guest.
    UnplugFailed {
        /// Id of the standby.
        standby: String,
        /// Id of the primary.
        primary: String,
        /// Why.
        reason: Reason,
        /// A migration waited for it; QEMU has no event for that.
        for_migration: bool,
    },
}

impl Notice {
    /// The lines that go to stderr (QEMU's wording, without its `warning: `), if this is a warning
    /// that has no event.
    pub fn warning_lines(&self) -> Option<[String; 2]> {
        match self {
            Notice::PrimaryNotFound { standby } => Some([
                "Primary device not found".to_owned(),
                format!(
                    "Virtio-net failover will not work. Make sure primary device has parameter \
                     failover_pair_id={standby}"
                ),
            ]),
            _ => None,
        }
    }
}
