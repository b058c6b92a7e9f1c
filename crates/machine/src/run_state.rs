//! The machine's run state (QAPI's `RunState`) and which of them follow which.
//!
//! ```text
//!   prelaunch ──────────┬──▶ running ⇄ paused
//!   inmigrate ──────────┘      │ ▲
//!                              │ └──── cont ────────┐
//!                              ├─▶ finish-migrate ─▶ postmigrate
//!                              ├─▶ shutdown ─ reset ▶ paused
//!                              └─▶ internal-error ─ reset ▶ paused
//! ```

use std::fmt;

/// Whether, and why not, the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Made, not started yet (`-S`).
    Prelaunch,
    /// Waits for its guest to come by migration.
    InMigrate,
    /// The vCPUs run.
    Running,
    /// Stopped by an operator.
    Paused,
    /// Stopped for the last pass of a migration.
    FinishMigrate,
    /// The guest runs on the target of a migration.
    PostMigrate,
    /// The guest powered off.
    Shutdown,
    /// A vCPU cannot go on.
    InternalError,
}

/// A transition that has no place in the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine cannot go from '{from}' to '{to}'")]
pub struct IllegalTransition {
    /// The state it is in.
    pub from: RunState,
    /// The state asked for.
    pub to: RunState,
}

/// All legal transitions.
pub(crate) const TRANSITIONS: &[(RunState, RunState)] = {
    use RunState::{
        FinishMigrate, InMigrate, InternalError, Paused, PostMigrate, Prelaunch, Running, Shutdown,
    };
    &[
        (Prelaunch, Running),
        (Prelaunch, InMigrate),
        (Prelaunch, FinishMigrate),
        (InMigrate, Running),
        (InMigrate, Paused),
        (InMigrate, Shutdown),
        (InMigrate, Prelaunch),
        (InMigrate, PostMigrate),
        (InMigrate, InternalError),
        (Running, Paused),
        (Running, FinishMigrate),
        (Running, Shutdown),
        (Running, InternalError),
        (Paused, Running),
        (Paused, FinishMigrate),
        (Paused, Shutdown),
        (FinishMigrate, PostMigrate),
        (FinishMigrate, Running),
        (FinishMigrate, Paused),
        (FinishMigrate, Prelaunch),
        (FinishMigrate, Shutdown),
        (FinishMigrate, InternalError),
        (PostMigrate, Running),
        (PostMigrate, FinishMigrate),
        (PostMigrate, Paused),
        (Shutdown, Paused),
        (Shutdown, Prelaunch),
        (Shutdown, FinishMigrate),
        (InternalError, Paused),
        (InternalError, FinishMigrate),
    ]
};

impl RunState {
    /// QAPI's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::InMigrate => "inmigrate",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::FinishMigrate => "finish-migrate",
            Self::PostMigrate => "postmigrate",
            Self::Shutdown => "shutdown",
            Self::InternalError => "internal-error",
        }
    }

    /// The vCPUs run.
    pub fn is_running(self) -> bool {
        self == Self::Running
    }

    /// Goes to another state; to the same one is always legal.
    ///
    /// # Errors
    /// The transition is not in the table; the state is unchanged.
    pub fn go(&mut self, to: Self) -> Result<(), IllegalTransition> {
        if *self != to && !TRANSITIONS.contains(&(*self, to)) {
            return Err(IllegalTransition { from: *self, to });
        }
        *self = to;
        Ok(())
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_left_runs_here_again_only_by_order() {
        let mut state = RunState::PostMigrate;
        assert!(state.go(RunState::InMigrate).is_err());
        assert_eq!(state, RunState::PostMigrate);
        state.go(RunState::Running).unwrap();
    }

    #[test]
    fn no_transition_is_listed_twice() {
        for (i, t) in TRANSITIONS.iter().enumerate() {
            assert!(!TRANSITIONS[..i].contains(t), "{t:?}");
        }
    }
}
