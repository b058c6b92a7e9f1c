//! The migration's state, the same for a source and a target.
//!
//! ```text
//!  source:  none ─▶ setup ─▶ [wait-unplug] ─▶ active ─▶ [pre-switchover] ─▶ device ─▶ completed
//!                     │            │             │              │              │
//!                     ├────────────┴─────────────┴──────────────┴──────────────┤
//!                     ▼                                                        ▼
//!                  failed                                          cancelling ─▶ cancelled
//!
//!  target:  none ─▶ setup ─▶ active ─▶ completed | failed
//! ```
//! A migration that ended, however, may be followed by another one: failed, cancelled and completed lead to setup.

use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::cancel::lock;

/// QMP's `MigrationStatus`, as far as we get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No migration was asked for.
    None,
    /// Transport and both sides get ready.
    Setup,
    /// The guest was asked to let its primaries go.
    WaitUnplug,
    /// RAM travels while the guest runs (source); the stream is read (target).
    Active,
    /// The VM is stopped; it waits for `migrate-continue`.
    PreSwitchover,
    /// The VM is stopped; the last pages and the devices travel.
    Device,
    /// The VM belongs to the target.
    Completed,
    /// It went wrong.
    Failed,
    /// Cancelled, not all undone yet.
    Cancelling,
    /// Cancelled; the VM goes on where it was.
    Cancelled,
}

impl State {
    /// All states.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::Setup,
        Self::WaitUnplug,
        Self::Active,
        Self::PreSwitchover,
        Self::Device,
        Self::Completed,
        Self::Failed,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// The states that may follow.
    #[must_use]
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::None | Self::Completed | Self::Failed | Self::Cancelled => &[Self::Setup],
            Self::Setup => &[
                Self::WaitUnplug,
                Self::Active,
                Self::Failed,
                Self::Cancelling,
            ],
            Self::WaitUnplug => &[Self::Active, Self::Failed, Self::Cancelling],
            // A target goes straight on; a source by `device`.
            Self::Active => &[
                Self::PreSwitchover,
                Self::Device,
                Self::Completed,
                Self::Failed,
                Self::Cancelling,
            ],
            Self::PreSwitchover => &[Self::Device, Self::Failed, Self::Cancelling],
            Self::Device => &[Self::Completed, Self::Failed, Self::Cancelling],
            Self::Cancelling => &[Self::Cancelled],
        }
    }

    /// Whether `to` may follow.
    #[must_use]
    pub fn may_become(self, to: Self) -> bool {
        self.next().contains(&to)
    }

    /// Whether a migration is under way: the monitor refuses a second one, and the changes that must not happen now.
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(
            self,
            Self::Setup
                | Self::WaitUnplug
                | Self::Active
                | Self::PreSwitchover
                | Self::Device
                | Self::Cancelling
        )
    }

    /// Its name in QMP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::WaitUnplug => "wait-unplug",
            Self::Active => "active",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A step the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a migration in state '{from}' cannot become '{to}'")]
pub struct IllegalTransition {
    /// The state it is in.
    pub from: State,
    /// The state it should have got.
    pub to: State,
}

/// Told of every change, in order. It may read the state, and must neither change it nor block: it emits an event, or
/// sends a message.
pub type OnChange = Box<dyn Fn(State, State) + Send + Sync>;

/// Holds the state, lets only legal changes through, and tells of them.
pub struct StateMachine {
    state: Mutex<State>,
    // Held while telling, so that changes are told in the order they happened.
    telling: Mutex<()>,
    on_change: OnChange,
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateMachine({})", self.get())
    }
}

impl StateMachine {
    /// In state [`State::None`].
    #[must_use]
    pub fn new(on_change: OnChange) -> Self {
        Self {
            state: Mutex::new(State::None),
            telling: Mutex::new(()),
            on_change,
        }
    }

    /// The state now.
    #[must_use]
    pub fn get(&self) -> State {
        *lock(&self.state)
    }

    /// Changes the state and tells of it.
    ///
    /// # Errors
    /// [`IllegalTransition`]; the state is as it was.
    pub fn advance(&self, to: State) -> Result<(), IllegalTransition> {
        let _order = lock(&self.telling);
        let from = self.set(to)?;
        (self.on_change)(from, to);
        Ok(())
    }

    /// Changes the state, does `between`, then tells of the change: for a change that whoever sees the effect of `between`
    /// must find done already.
    ///
    /// # Errors
    /// [`IllegalTransition`]; the state is as it was and `between` was not called.
    pub fn advance_around(
        &self,
        to: State,
        between: impl FnOnce(),
    ) -> Result<(), IllegalTransition> {
        let _order = lock(&self.telling);
        let from = self.set(to)?;
        between();
        (self.on_change)(from, to);
        Ok(())
    }

    fn set(&self, to: State) -> Result<State, IllegalTransition> {
        let mut state = lock(&self.state);
        let from = *state;
        if !from.may_become(to) {
            return Err(IllegalTransition { from, to });
        }
        *state = to;
        Ok(from)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    type Changes = Arc<Mutex<Vec<(State, State)>>>;

    fn recorded() -> (Changes, StateMachine) {
        let seen = Changes::default();
        let to = seen.clone();
        let machine = StateMachine::new(Box::new(move |old, new| lock(&to).push((old, new))));
        (seen, machine)
    }

    #[test]
    fn names_are_those_of_qmp() {
        for state in State::ALL {
            assert_eq!(
                serde_json::to_string(&state).unwrap(),
                format!("\"{}\"", state.name())
            );
        }
    }

    #[test]
    fn an_ended_migration_may_be_followed_by_another_only() {
        for state in State::ALL {
            let ended = !state.is_running();
            assert_eq!(state.next() == [State::Setup], ended, "{state}");
        }
    }

    #[test]
    fn the_state_is_there_before_the_change_is_told() {
        let (seen, machine) = recorded();
        for state in [State::Setup, State::Active] {
            machine.advance(state).unwrap();
        }
        machine
            .advance_around(State::Completed, || {
                assert_eq!(machine.get(), State::Completed);
                assert_eq!(lock(&seen).len(), 2);
            })
            .unwrap();
        assert_eq!(
            *lock(&seen),
            [
                (State::None, State::Setup),
                (State::Setup, State::Active),
                (State::Active, State::Completed)
            ]
        );
    }

    proptest! {
        #[test]
        fn any_order_of_wishes_keeps_to_the_table(wishes in prop::collection::vec(0usize..10, 0..60)) {
            let (seen, machine) = recorded();
            let mut state = State::None;
            let mut changes = Vec::new();
            for wish in wishes {
                let to = State::ALL[wish];
                match machine.advance(to) {
                    Ok(()) => {
                        prop_assert!(state.may_become(to));
                        changes.push((state, to));
                        state = to;
                    }
                    Err(error) => {
                        prop_assert!(!state.may_become(to));
                        prop_assert_eq!(error, IllegalTransition { from: state, to });
                    }
                }
                prop_assert_eq!(machine.get(), state);
            }
            prop_assert_eq!(&*lock(&seen), &changes);
            // Cancelling, once begun, ends in cancelled.
            for pair in changes.windows(2) {
                if pair[0].1 == State::Cancelling {
                    prop_assert_eq!(pair[1].1, State::Cancelled);
                }
            }
        }
    }
}
