//! `query-failover`.

use machine::inspect::{Inspect, PairView, Path, Phase};
use monitor::types::{
    FailoverBlocker, FailoverCounters, FailoverInfo, FailoverPath, FailoverState,
};

pub(super) fn pairs(machine: &dyn Inspect) -> Vec<FailoverInfo> {
    machine.pairs().into_iter().map(info).collect()
}

fn info(pair: PairView) -> FailoverInfo {
    let counters = pair.counters;
    FailoverInfo {
        device_id: pair.standby,
        primary_id: pair.primary,
        state: match pair.phase {
            Phase::Hidden => FailoverState::Hidden,
            Phase::Plugging => FailoverState::Plugging,
            Phase::Active => FailoverState::Active,
            Phase::Unplugging => FailoverState::Unplugging,
            Phase::Parked => FailoverState::Parked,
            Phase::Released => FailoverState::Released,
        },
        since_ms: pair.since_ms,
        path: match pair.path {
            Path::Standby => FailoverPath::Standby,
            Path::Primary => FailoverPath::Primary,
        },
        negotiated: pair.negotiated,
        reason: pair.reason,
        counters: FailoverCounters {
            plugs: counters.plugs,
            plug_failures: counters.plug_failures,
            unplugs: counters.unplugs,
            unplug_timeouts: counters.unplug_timeouts,
            path_changes: counters.path_changes,
        },
        blockers: pair
            .blockers
            .into_iter()
            .map(|(reason, message)| FailoverBlocker {
                reason: reason.to_owned(),
                message,
            })
            .collect(),
    }
}

/// The path that an order names.
pub(super) fn path(path: FailoverPath) -> Path {
    match path {
        FailoverPath::Standby => Path::Standby,
        FailoverPath::Primary => Path::Primary,
    }
}
