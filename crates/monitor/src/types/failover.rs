//! Pairs: `query-failover` and `failover-switch`.

use crate::qapi::{qapi_enum, qapi_struct};

qapi_enum! {
    /// Where a pair is in its life.
    pub enum FailoverState {
        /// The guest has not accepted STANDBY; the primary is not plugged.
        Hidden = "hidden",
        /// The primary is being plugged.
        Plugging = "plugging",
        /// The primary is plugged and the guest's driver is in.
        Active = "active",
        /// The guest was asked to let go of the primary.
        Unplugging = "unplugging",
        /// The guest let go; the primary keeps its host resources.
        Parked = "parked",
        /// The primary's host resources were given back.
        Released = "released",
    }

    /// Which of the two devices carries the guest's traffic.
    pub enum FailoverPath {
        /// The virtio-net device.
        Standby = "standby",
        /// The fast device.
        Primary = "primary",
    }
}

qapi_struct! {
    /// What happened to a pair so far.
    #[derive(Default)]
    pub struct FailoverCounters {
        /// Plugs asked for.
        plugs: u64 = "plugs",
        /// Plugs that failed.
        plug_failures: u64 = "plug-failures",
        /// Unplugs asked for.
        unplugs: u64 = "unplugs",
        /// Unplugs whose deadline passed.
        unplug_timeouts: u64 = "unplug-timeouts",
        /// Changes of the path.
        path_changes: u64 = "path-changes",
    }

    /// Something that would stop a migration.
    pub struct FailoverBlocker {
        /// A word for programs, as `guest-paused`.
        reason: String = "reason",
        /// A sentence for a person, with the remedy.
        message: String = "message",
    }

    /// One pair of `query-failover`.
    pub struct FailoverInfo {
        /// The standby's id.
        device_id: String = "device-id",
        /// The primary's id, when there is one.
        primary_id: Option<String> = "primary-id",
        /// Where the pair is in its life.
        state: FailoverState = "state",
        /// How long it has been there, in ms.
        since_ms: u64 = "since-ms",
        /// Which device carries the traffic.
        path: FailoverPath = "path",
        /// The guest accepted STANDBY.
        negotiated: bool = "negotiated",
        /// Why it is where it is, when something went wrong.
        reason: Option<String> = "reason",
        /// What happened so far.
        counters: FailoverCounters = "counters",
        /// What would stop a migration that began now.
        blockers: Vec<FailoverBlocker> = "blockers",
    }
}
