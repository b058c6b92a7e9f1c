//! What happened to a pair so far, counted where events go in and actions come out.

use failover::{Action, Event, Notice, Reason};

/// Counts since the standby was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PairCounters {
    /// Plugs asked for.
    pub plugs: u64,
    /// Plugs that failed.
    pub plug_failures: u64,
    /// Unplugs asked for; a repeated request is not counted again.
    pub unplugs: u64,
    /// Unplugs whose deadline passed.
    pub unplug_timeouts: u64,
    /// Changes of the path.
    pub path_changes: u64,
    /// Failures of the device: its own report, or the host that wants it back.
    pub device_failures: u64,
    /// Times that its link was down for too long.
    pub link_failures: u64,
}

impl PairCounters {
    /// Counts what goes into the pair.
    pub(crate) fn note_event(&mut self, event: &Event) {
        match event {
            Event::PlugFailed(_) => self.plug_failures += 1,
            Event::DeviceFailed(_) => self.device_failures += 1,
            _ => {}
        }
    }

    /// Counts what comes out of it.
    pub(crate) fn note_action(&mut self, action: &Action) {
        let timed_out = |reason: &Reason| matches!(reason, Reason::GuestIgnored { .. });
        match action {
            Action::Plug { .. } => self.plugs += 1,
            Action::AskUnplug { attempt: 1, .. } => self.unplugs += 1,
            Action::Emit(Notice::PathChanged { .. }) => self.path_changes += 1,
            Action::Emit(Notice::UnplugFailed { reason, .. }) if timed_out(reason) => {
                self.unplug_timeouts += 1;
            }
            // Once each time: what is told while it is plugged.
            Action::Emit(Notice::PrimaryMissing {
                reason: Reason::LinkDown { .. },
                ..
            }) => self.link_failures += 1,
            _ => {}
        }
    }
}

/// The device that an action is about; `None` where it is about all pairs.
pub(crate) fn device_of(action: &Action) -> Option<&str> {
    match action {
        Action::Plug { primary, .. }
        | Action::AskUnplug { primary, .. }
        | Action::Emit(Notice::UnplugFailed { primary, .. }) => Some(primary),
        Action::Emit(
            Notice::PathChanged { standby, .. } | Notice::PrimaryMissing { standby, .. },
        ) => Some(standby),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failover::{Path, PathWhy, PlugError};

    #[test]
    fn counts_each_way_of_ending_once() {
        let mut counters = PairCounters::default();
        let primary = || "p".to_owned();
        let failed = |reason| {
            Action::Emit(Notice::UnplugFailed {
                standby: "s".into(),
                primary: primary(),
                reason,
                for_migration: true,
            })
        };
        for event in [
            Event::PlugFailed(PlugError::other("no")),
            Event::PlugBrokenOff,
            Event::PlugSucceeded,
            Event::DeviceFailed("bad".into()),
        ] {
            counters.note_event(&event);
        }
        let late = Reason::GuestIgnored {
            waited_ms: 1,
            attempts: 2,
        };
        let asked = |attempt| Action::AskUnplug {
            primary: primary(),
            attempt,
        };
        let actions = [
            Action::Plug {
                primary: primary(),
                attempt: 2,
            },
            asked(1),
            asked(2),
            failed(late),
            failed(Reason::GuestPaused),
            Action::Emit(Notice::PathChanged {
                standby: "s".into(),
                path: Path::Primary,
                why: PathWhy::DriverReady,
            }),
            Action::Emit(Notice::PrimaryMissing {
                standby: "s".into(),
                primary: None,
                reason: Reason::LinkDown { down_ms: 3 },
            }),
            Action::LetMigrationProceed,
        ];
        for action in &actions {
            counters.note_action(action);
        }
        let expected = PairCounters {
            plugs: 1,
            plug_failures: 1,
            unplugs: 1,
            unplug_timeouts: 1,
            path_changes: 1,
            device_failures: 1,
            link_failures: 1,
        };
        assert_eq!(counters, expected);
        let devices: Vec<_> = actions.iter().map(device_of).collect();
        assert_eq!(devices.iter().filter(|d| **d == Some("p")).count(), 5);
        assert_eq!(devices.iter().filter(|d| **d == Some("s")).count(), 2);
        assert_eq!(devices.last(), Some(&None));
    }
}
