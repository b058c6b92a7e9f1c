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
        /// The standby that the primary names does not exist.
        Unpaired = "unpaired",
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
        /// Failures of the device: its own report, or the host that wants it back.
        device_failures: u64 = "device-failures",
        /// Times that the primary was not used because its link was down.
        link_failures: u64 = "link-failures",
    }

    /// Something that would stop a migration, or make it less than is hoped for.
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
        /// Why the traffic is not on the primary, or about to leave it; a word for programs.
        reason: Option<String> = "reason",
        /// The same for a person.
        message: Option<String> = "message",
        /// How many attempts to plug have failed in a row, while another is to come.
        attempts: Option<u32> = "attempts",
        /// In how many ms the next attempt comes.
        retry_ms: Option<u64> = "retry-ms",
        /// What happened so far.
        counters: FailoverCounters = "counters",
        /// What would stop a migration that began now.
        blockers: Vec<FailoverBlocker> = "blockers",
        /// What would not stop it, and what the guest would have to do without.
        warnings: Vec<FailoverBlocker> = "warnings",
    }
}
