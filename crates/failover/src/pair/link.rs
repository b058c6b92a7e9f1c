//! The primary's link, as the host sees it: down for too long, the guest goes to its standby; up, it comes back.
//!
//! A guest with a primary drops what arrives on its standby, whatever the primary's link is: it is only its unplug that
//! gives the guest its traffic back.

use super::{Hold, Pair, Step};
use crate::clock::Moment;
use crate::event::Action;
use crate::reason::Reason;
use crate::state::{ParkedWhy, PathWhy, PlugStage, State, UnplugWhy};

/// What is known of the link. Nothing known counts as up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    down_since: Option<Moment>,
    /// 0: it is not looked at.
    timeout_ms: u64,
}

impl Link {
    pub(super) fn new(timeout_ms: u64) -> Self {
        Self {
            down_since: None,
            timeout_ms,
        }
    }

    fn looked_at(&self) -> Option<Moment> {
        self.down_since.filter(|_| self.timeout_ms != 0)
    }

    pub(super) fn is_down(&self) -> bool {
        self.looked_at().is_some()
    }

    /// For how long it has been down, if it is.
    pub(super) fn down_ms(&self, now: Moment) -> Option<u64> {
        self.looked_at().map(|since| now.ms_since(since))
    }

    fn too_long_at(&self) -> Option<Moment> {
        self.looked_at()
            .map(|since| since.after_ms(self.timeout_ms))
    }

    /// An operator knows better, until the next change.
    pub(super) fn overrule(&mut self) {
        self.down_since = None;
    }
}

impl Pair {
    /// When the link will have been down for too long.
    pub(super) fn link_deadline(&self) -> Option<Moment> {
        let with_guest = matches!(
            self.state,
            State::Active { .. } | State::Plugging(PlugStage::Offered { .. })
        );
        self.link
            .too_long_at()
            .filter(|_| with_guest && self.hold == Hold::Free)
    }

    pub(super) fn link_down(&mut self, now: Moment) {
        self.link.down_since.get_or_insert(now);
    }

    pub(super) fn link_too_long_down(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let down_ms = self.link.down_ms(now).unwrap_or(0);
        self.count_fault(now);
        self.tell_missing(Reason::LinkDown { down_ms }, out);
        self.ask_unplug(now, self.owed_or(UnplugWhy::LinkDown), out)
    }

    pub(super) fn link_up(&mut self, now: Moment, out: &mut Vec<Action>) -> Step {
        let was_down_ms = self.link.down_ms(now);
        self.link.down_since = None;
        let free = self.hold == Hold::Free;
        match &self.state {
            State::Active { .. } => self.use_primary(PathWhy::LinkUp, out),
            State::Unplugging {
                why: UnplugWhy::LinkDown,
                ..
            } if free => self.take_back(now, out)?,
            State::Parked(ParkedWhy::LinkDown) if free => {
                let down_ms = was_down_ms.unwrap_or(0);
                self.plug_later(now, Reason::LinkDown { down_ms })?;
            }
            State::Parked(ParkedWhy::LinkDown) => {
                self.go(now, State::Parked(ParkedWhy::Migration))?;
            }
            _ => {}
        }
        Ok(())
    }
}
