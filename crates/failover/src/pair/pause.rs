//! A paused guest cannot answer: its time stands still, or the wait for it ends, as was asked for.

use super::{Hold, Pair};
use crate::clock::Moment;
use crate::state::{PlugStage, State};

/// What an outgoing migration does whose guest is paused with its primary in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenPaused {
    /// It is refused at its beginning. A guest that is paused while it is waited for may go on before the deadline.
    #[default]
    Refuse,
    /// It waits: the deadline counts only the time in which the guest runs.
    Wait,
}

/// Whether the guest runs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pause {
    paused_at: Option<Moment>,
    policy: WhenPaused,
}

impl Pause {
    pub(super) fn guest_runs(&self) -> bool {
        self.paused_at.is_none()
    }
}

impl Pair {
    pub(crate) fn set_when_paused(&mut self, policy: WhenPaused) {
        self.pause.policy = policy;
    }

    /// Whether the wait under way is for a guest that is paused, and does not go on for as long.
    pub(super) fn is_frozen(&self) -> bool {
        let on_guest = matches!(
            self.state,
            State::Unplugging { .. } | State::Plugging(PlugStage::Offered { .. })
        );
        let waits = self.hold != Hold::Outgoing || self.pause.policy == WhenPaused::Wait;
        on_guest && waits && !self.pause.guest_runs()
    }

    pub(crate) fn set_guest_running(&mut self, now: Moment, running: bool) {
        if !running {
            self.pause.paused_at.get_or_insert(now);
            return;
        }
        let frozen = self.is_frozen();
        let Some(paused_at) = self.pause.paused_at.take().filter(|_| frozen) else {
            return;
        };
        let shift = |moment: &mut Moment, began: Moment| {
            *moment = moment.after_ms(now.ms_since(paused_at.max(began)));
        };
        match &mut self.state {
            State::Unplugging {
                began,
                resend_at,
                deadline,
                ..
            } => {
                let from = *began;
                shift(resend_at, from);
                shift(deadline, from);
                shift(began, from);
            }
            State::Plugging(PlugStage::Offered {
                began, deadline, ..
            }) => {
                let from = *began;
                if let Some(deadline) = deadline {
                    shift(deadline, from);
                }
                shift(began, from);
            }
            _ => {}
        }
    }
}
