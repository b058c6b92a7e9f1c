//! What a guest does wrong, or late, on purpose.

use crate::pci::Bdf;
use std::time::Duration;

/// A step at which a guest can be told to behave otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Something was plugged in.
    Plug,
    /// The guest is asked to let go of a slot.
    Noticed,
    /// The drivers are about to leave it.
    DriverOut,
    /// They have left; the slot is about to be ejected.
    Eject,
}

impl Moment {
    /// All of them, in the order in which they come.
    pub const ALL: [Self; 4] = [Self::Plug, Self::Noticed, Self::DriverOut, Self::Eject];
}

/// What it does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// Goes on after this time.
    Slow(Duration),
    /// Does nothing more about it.
    Ignore,
    /// Takes it back: its drivers stay, or return; with native hotplug the indicator shines again. ACPI's registers have
    /// no way to say so.
    Refuse,
    /// Reboots.
    Reboot,
    /// Takes the drivers off, and does nothing more about it.
    PullDriver,
    /// Ejects, or powers off, twice.
    EjectTwice,
    /// Ejects, or powers off, first, and takes the drivers out of the empty slot.
    EjectFirst,
    /// Writes garbage into the hotplug registers, and goes on.
    Garbage,
}

impl Act {
    /// All of them; the slow one by this much.
    pub const fn all(slow: Duration) -> [Self; 8] {
        [
            Self::Slow(slow),
            Self::Ignore,
            Self::Refuse,
            Self::Reboot,
            Self::PullDriver,
            Self::EjectTwice,
            Self::EjectFirst,
            Self::Garbage,
        ]
    }
}

/// What is still to be done wrong at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    /// Behind this port alone.
    port: Option<Bdf>,
    moment: Moment,
    act: Act,
    times: u32,
}

/// What is still to be done wrong, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Behaviours {
    planned: Vec<Plan>,
}

impl Behaviours {
    pub(crate) fn plan(&mut self, port: Option<Bdf>, moment: Moment, act: Act, times: u32) {
        if times > 0 {
            self.planned.push(Plan {
                port,
                moment,
                act,
                times,
            });
        }
    }

    pub(crate) fn clear(&mut self) {
        self.planned.clear();
    }

    /// What to do at this moment behind this port; counts as done.
    pub(crate) fn take(&mut self, port: Bdf, moment: Moment) -> Option<Act> {
        let fits = |plan: &Plan| plan.moment == moment && plan.port.is_none_or(|only| only == port);
        let at = self.planned.iter().position(fits)?;
        let plan = self.planned.get_mut(at)?;
        let act = plan.act;
        plan.times -= 1;
        if plan.times == 0 {
            self.planned.remove(at);
        }
        Some(act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [Bdf; 2] = [Bdf::new(0, 1, 0), Bdf::new(0, 2, 0)];

    #[test]
    fn a_plan_is_used_up_at_its_moment_only() {
        let mut behaviours = Behaviours::default();
        behaviours.plan(None, Moment::Eject, Act::Ignore, 2);
        behaviours.plan(None, Moment::Eject, Act::Reboot, 1);
        let mut take = |moment| behaviours.take(PORTS[0], moment);
        assert_eq!(take(Moment::Noticed), None);
        let taken: Vec<_> = (0..4).map(|_| take(Moment::Eject)).collect();
        let ignore = Some(Act::Ignore);
        assert_eq!(taken, [ignore, ignore, Some(Act::Reboot), None]);
    }

    #[test]
    fn a_plan_for_one_port_leaves_the_others_alone() {
        let mut behaviours = Behaviours::default();
        behaviours.plan(Some(PORTS[1]), Moment::Eject, Act::Ignore, 1);
        let taken = PORTS.map(|port| behaviours.take(port, Moment::Eject));
        assert_eq!(taken, [None, Some(Act::Ignore)]);
    }
}
