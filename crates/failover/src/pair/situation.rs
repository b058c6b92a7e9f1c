//! Why a pair is where it is, for people and programs that look.

use super::{Pair, Path};
use crate::state::{HiddenWhy, ParkedWhy, PlugStage, State, UnplugWhy};

/// Why a pair is not where it should be: traffic over a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// The word for programs.
    pub name: &'static str,
    /// One line for a person.
    pub text: String,
    /// When the next attempt to plug is made, and which one failed last (0: none yet).
    pub retry: Option<(crate::Moment, u32)>,
}

fn said(name: &'static str, text: &str) -> Option<Situation> {
    Some(Situation {
        name,
        text: text.to_owned(),
        retry: None,
    })
}

impl Pair {
    /// Why the traffic is not on the primary, or is about to leave it; `None` if all is as it should be.
    pub fn situation(&self) -> Option<Situation> {
        match &self.state {
            State::Active { .. } if self.path == Path::Standby => {
                said("link-down", "its driver is in, and its link is down")
            }
            State::Active { .. } => None,
            State::Plugging(PlugStage::Opening { .. }) => {
                said("plugging", "the host is opening and plugging it")
            }
            State::Hidden(why) => match why {
                HiddenWhy::NoPrimary => said("no-primary", "the standby has no primary"),
                HiddenWhy::NotAccepted => {
                    said("not-accepted", "the guest has not accepted STANDBY")
                }
                HiddenWhy::GuestRebooted => said(
                    "guest-rebooted",
                    "the guest was reset and has not accepted anew",
                ),
            },
            State::Plugging(PlugStage::Backoff {
                reason,
                retry_at,
                attempt,
            }) => Some(Situation {
                name: reason.name(),
                text: reason.to_string(),
                retry: Some((*retry_at, *attempt)),
            }),
            State::Plugging(PlugStage::Offered { deadline, .. }) => said(
                if deadline.is_some() {
                    "waiting-for-driver"
                } else {
                    "guest-has-no-driver"
                },
                "no driver of the guest has taken it yet",
            ),
            State::Unplugging { why, .. } => said(
                why.name(),
                match why {
                    UnplugWhy::Migration => "a migration waits for it",
                    UnplugWhy::Operator => "an operator ordered the guest onto its standby",
                    UnplugWhy::Deletion => "it is to be deleted",
                    UnplugWhy::NotAccepted => "the guest no longer accepts STANDBY",
                    UnplugWhy::DeviceFailed => "the device reported an error",
                    UnplugWhy::LinkDown => "its link has been down for too long",
                },
            ),
            State::Parked(why) | State::Released(why) => match why {
                ParkedWhy::Migration => {
                    said("migration", "a migration is under way or has completed")
                }
                ParkedWhy::Operator => {
                    said("operator", "an operator ordered the guest onto its standby")
                }
                ParkedWhy::GuestRemoved => {
                    said("guest-removed-it", "the guest removed it by its own choice")
                }
                ParkedWhy::LinkDown => said("link-down", "its link is down"),
            },
        }
    }
}
