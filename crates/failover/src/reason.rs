//! Why something ended badly: typed, each with a word for programs and one line for a person.

use thiserror::Error;

/// Why an unplug, a plug or a migration did not do what was asked.
///
/// The words ([`Reason::name`]) are part of what clients rely on: a word is never used for another meaning.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reason {
    /// The guest was asked to let go of its primary and did nothing until the deadline.
    #[error("the guest did not let go of it within {waited_ms} ms (asked {attempts} times)")]
    GuestIgnored {
        /// How long it was waited for.
        waited_ms: u64,
        /// How often the guest was asked.
        attempts: u32,
    },
    /// The guest said no: its slot's driver called the removal off.
    #[error("the guest refused to let go of it: {0}")]
    GuestRefused(String),
    /// The slot could not be asked.
    #[error("the guest could not be asked to let go of it: {0}")]
    CannotAsk(String),
    /// The guest is stopped and so can never answer.
    #[error("the guest is paused and cannot let go of it; resume it with 'cont' and try again")]
    GuestPaused,
    /// The guest was reset while it was waited for: nothing in it holds the primary any more.
    #[error("the guest was reset while it was waited for, and holds it no more")]
    GuestRebooted,
    /// The guest let go of its own accord, without being asked.
    #[error("the guest removed it by its own choice")]
    GuestRemovedIt,
    /// The guest sees the primary and no driver of it took the device.
    #[error("no driver of the guest took it within {waited_ms} ms")]
    GuestHasNoDriver {
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The host could not open, map or plug the device.
    #[error("the host could not plug it (attempt {attempt}, next try in {retry_ms} ms): {error}")]
    PlugFailed {
        /// Which attempt failed, counted from 1.
        attempt: u32,
        /// When the next one is made.
        retry_ms: u64,
        /// What the host said.
        error: PlugError,
    },
    /// The host is still busy with plugging.
    #[error("the host has been plugging it for {waited_ms} ms and has not finished")]
    HostStillPlugging {
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The device itself reported a fatal error, or the host wants it back.
    #[error("the device failed: {0}")]
    DeviceFailed(String),
    /// The link of the primary is down.
    #[error("its link has been down for {down_ms} ms; it comes back with the link")]
    LinkDown {
        /// For how long.
        down_ms: u64,
    },
    /// The standby has no primary.
    #[error(
        "the standby has no primary; add one with failover_pair_id= (until then it carries all)"
    )]
    NoPrimary,
    /// The primary is in use and names a standby that does not exist.
    #[error(
        "it is in use and its standby '{standby}' does not exist; add that with failover=on, or delete the device"
    )]
    NoStandby {
        /// The id that its `failover_pair_id` names.
        standby: String,
    },
    /// The primary is plugged although it should have been let go.
    #[error("it is still in use by the guest")]
    InUse,
}

impl Reason {
    /// The word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::GuestIgnored { .. } => "guest-ignored",
            Reason::GuestRefused(_) => "guest-refused",
            Reason::CannotAsk(_) => "cannot-ask",
            Reason::GuestPaused => "guest-paused",
            Reason::GuestRebooted => "guest-rebooted",
            Reason::GuestRemovedIt => "guest-removed-it",
            Reason::GuestHasNoDriver { .. } => "guest-has-no-driver",
            Reason::PlugFailed { error, .. } => error.fault.name(),
            Reason::HostStillPlugging { .. } => "host-still-plugging",
            Reason::DeviceFailed(_) => "device-failed",
            Reason::LinkDown { .. } => "link-down",
            Reason::NoPrimary => "no-primary",
            Reason::NoStandby { .. } => "no-standby",
            Reason::InUse => "primary-in-use",
        }
    }

    /// In how many ms the next attempt is made, where one is.
    pub fn retry_ms(&self) -> Option<u64> {
        match self {
            Reason::PlugFailed { retry_ms, .. } => Some(*retry_ms),
            _ => None,
        }
    }
}

/// What kind of thing keeps the host from plugging a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlugFault {
    /// The function does not exist (any more).
    DeviceMissing,
    /// The function belongs to a driver that cannot pass it through.
    OtherDriver,
    /// Another process has it.
    Busy,
    /// Anything else; the text says it.
    Other,
}

impl PlugFault {
    /// The word for programs.
    pub fn name(self) -> &'static str {
        match self {
            PlugFault::DeviceMissing => "host-device-missing",
            PlugFault::OtherDriver => "host-device-other-driver",
            PlugFault::Busy => "host-device-busy",
            PlugFault::Other => "plug-failed",
        }
    }
}

/// Why the host could not plug a primary.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct PlugError {
    /// Of what kind.
    pub fault: PlugFault,
    /// In one line.
    pub text: String,
}

impl PlugError {
    /// Of no particular kind.
    pub fn other(text: impl Into<String>) -> Self {
        Self {
            fault: PlugFault::Other,
            text: text.into(),
        }
    }
}

/// A migration that a pair does not allow: which primary, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("failover primary '{primary}' blocks the migration: {reason}")]
pub struct Refusal {
    /// Id of the primary.
    pub primary: String,
    /// What is in the way.
    pub reason: Reason,
}
