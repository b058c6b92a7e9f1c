//! Why something ended badly: typed, and each with one line for a person.

use thiserror::Error;

/// Why an unplug, a plug or a migration did not do what was asked.
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
    /// The guest said no (`_OST` with a failure, or the slot's driver cancelled).
    #[error("the guest refused to let go of it: {0}")]
    GuestRefused(String),
    /// The guest is stopped and so can never answer.
    #[error("the guest is paused and cannot let go of it; resume it with 'cont' and try again")]
    GuestPaused,
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
        error: String,
    },
    /// The host is still busy with plugging.
    #[error("the host has been plugging it for {waited_ms} ms and has not finished")]
    HostStillPlugging {
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The device itself reported a fatal error.
    #[error("the device failed: {0}")]
    DeviceFailed(String),
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

/// A migration that a pair does not allow: which primary, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("failover primary '{primary}' blocks the migration: {reason}")]
pub struct Refusal {
    /// Id of the primary.
    pub primary: String,
    /// What is in the way.
    pub reason: Reason,
}
