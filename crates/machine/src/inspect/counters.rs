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
}

impl PairCounters {
    /// Counts what goes into the pair.
    pub(crate) fn note_event(&mut self, event: &Event) {
        if matches!(event, Event::PlugFailed(_)) {
            self.plug_failures += 1;
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
            Action::RefuseMigration(refusal) if timed_out(&refusal.reason) => {
                self.unplug_timeouts += 1;
            }
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
        Action::Emit(Notice::PathChanged { standby, .. }) => Some(standby),
        Action::RefuseMigration(refusal) => Some(&refusal.primary),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failover::{Path, Refusal};

    #[test]
    fn counts_each_way_of_ending_once() {
        let mut counters = PairCounters::default();
        let primary = || "p".to_owned();
        let late = || Reason::GuestIgnored {
            waited_ms: 1,
            attempts: 2,
        };
        counters.note_event(&Event::PlugFailed("no".into()));
        counters.note_event(&Event::PlugSucceeded);
        let actions = [
            Action::Plug {
                primary: primary(),
                attempt: 2,
            },
            Action::AskUnplug {
                primary: primary(),
                attempt: 1,
            },
            Action::AskUnplug {
                primary: primary(),
                attempt: 2,
            },
            Action::RefuseMigration(Refusal {
                primary: primary(),
                reason: late(),
            }),
            Action::RefuseMigration(Refusal {
                primary: primary(),
                reason: Reason::GuestPaused,
            }),
            Action::Emit(Notice::UnplugFailed {
                primary: primary(),
                reason: late(),
            }),
            Action::Emit(Notice::PathChanged {
                standby: "s".into(),
                path: Path::Primary,
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
            unplug_timeouts: 2,
            path_changes: 1,
        };
        assert_eq!(counters, expected);
        let devices: Vec<_> = actions.iter().map(device_of).collect();
        assert_eq!(devices.iter().filter(|d| **d == Some("p")).count(), 6);
        assert_eq!(devices.last(), Some(&None));
    }
}
