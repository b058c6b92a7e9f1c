//! `query-failover`.

use machine::inspect::{Inspect, NoteView, PairView, Path, Phase};
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
            None => FailoverState::Unpaired,
            Some(Phase::Hidden) => FailoverState::Hidden,
            Some(Phase::Plugging) => FailoverState::Plugging,
            Some(Phase::Active) => FailoverState::Active,
            Some(Phase::Unplugging) => FailoverState::Unplugging,
            Some(Phase::Parked) => FailoverState::Parked,
            Some(Phase::Released) => FailoverState::Released,
        },
        since_ms: pair.since_ms,
        path: match pair.path {
            Path::Standby => FailoverPath::Standby,
            Path::Primary => FailoverPath::Primary,
        },
        negotiated: pair.negotiated,
        reason: pair.reason.as_ref().map(|note| note.name.to_owned()),
        message: pair.reason.map(|note| note.text),
        attempts: pair.attempts,
        retry_ms: pair.retry_ms,
        counters: FailoverCounters {
            plugs: counters.plugs,
            plug_failures: counters.plug_failures,
            unplugs: counters.unplugs,
            unplug_timeouts: counters.unplug_timeouts,
            path_changes: counters.path_changes,
            device_failures: counters.device_failures,
            link_failures: counters.link_failures,
        },
        blockers: pair.blockers.into_iter().map(note).collect(),
        warnings: pair.warnings.into_iter().map(note).collect(),
    }
}

fn note(note: NoteView) -> FailoverBlocker {
    FailoverBlocker {
        reason: note.name.to_owned(),
        message: note.text,
    }
}

/// The path that an order names.
pub(super) fn path(path: FailoverPath) -> Path {
    match path {
        FailoverPath::Standby => Path::Standby,
        FailoverPath::Primary => Path::Primary,
    }
}
