//! Single changes to the host's network, and how they ended.

use std::fmt;
use std::io;

use super::discovery::VfVlan;
use crate::announce::Mac;

/// One change to the host's network. Its text is the command that does the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The bridge sends frames for the guest to this port, whatever comes in at another one.
    PointAt {
        /// The guest's address.
        mac: Mac,
        /// Name of the port.
        port: String,
    },
    /// The bridge knows nothing of the guest at this port any more.
    ForgetAt {
        /// The guest's address.
        mac: Mac,
        /// Name of the port.
        port: String,
    },
    /// The NIC hands frames for this address to the VF; all zeroes: none.
    SetVfMac {
        /// Name of the PF's interface.
        pf: String,
        /// The VF's number.
        vf: u32,
        /// The VF's administrative address.
        mac: Mac,
    },
    /// The VF's frames are of this VLAN on the wire, untagged for the guest; 0: none.
    SetVfVlan {
        /// Name of the PF's interface.
        pf: String,
        /// The VF's number.
        vf: u32,
        /// The VF's administrative VLAN.
        vlan: VfVlan,
    },
    /// The NIC hands frames for the guest to the host.
    AddToPf {
        /// The guest's address.
        mac: Mac,
        /// Name of the PF's interface.
        pf: String,
    },
    /// The reverse of it.
    RemoveFromPf {
        /// The guest's address.
        mac: Mac,
        /// Name of the PF's interface.
        pf: String,
    },
}

/// A MAC address as it is written.
pub(super) struct MacText<'m>(pub(super) &'m Mac);

impl fmt::Display for MacText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::PointAt { mac, port } => {
                write!(
                    f,
                    "bridge fdb replace {} dev {port} master dynamic sticky",
                    MacText(mac)
                )
            }
            Step::ForgetAt { mac, port } => {
                write!(f, "bridge fdb del {} dev {port} master", MacText(mac))
            }
            Step::SetVfMac { pf, vf, mac } => {
                write!(f, "ip link set dev {pf} vf {vf} mac {}", MacText(mac))
            }
            Step::SetVfVlan { pf, vf, vlan } => {
                write!(f, "ip link set dev {pf} vf {vf} vlan {}", vlan.id)?;
                match vlan.qos {
                    0 => Ok(()),
                    qos => write!(f, " qos {qos}"),
                }
            }
            Step::AddToPf { mac, pf } => {
                write!(f, "bridge fdb add {} dev {pf} self", MacText(mac))
            }
            Step::RemoveFromPf { mac, pf } => {
                write!(f, "bridge fdb del {} dev {pf} self", MacText(mac))
            }
        }
    }
}

/// How a step ended.
#[derive(Debug)]
pub enum Outcome {
    /// Done.
    Done,
    /// It was so already.
    Already,
    /// The kernel said no.
    Failed(io::Error),
}

/// What was done, in its order.
#[derive(Debug, Default)]
pub struct Report {
    /// Each step with its end.
    pub steps: Vec<(Step, Outcome)>,
}

impl Report {
    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The steps that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&Step, &io::Error)> {
        self.steps
            .iter()
            .filter_map(|(step, outcome)| match outcome {
                Outcome::Failed(error) => Some((step, error)),
                _ => None,
            })
    }

    /// Notes how a step ended; whether it is as wanted now.
    pub(super) fn note(&mut self, standby: &str, step: Step, result: io::Result<()>) -> bool {
        let outcome = match result {
            Ok(()) => Outcome::Done,
            Err(e) if is_already(&step, &e) => Outcome::Already,
            Err(e) => Outcome::Failed(e),
        };
        let good = !matches!(outcome, Outcome::Failed(_));
        tracing::debug!(standby, ?outcome, "steering the host's switch: '{step}'");
        self.steps.push((step, outcome));
        good
    }
}

/// Deleting what is not there and adding what is there are no failures.
fn is_already(step: &Step, error: &io::Error) -> bool {
    match step {
        Step::ForgetAt { .. } | Step::RemoveFromPf { .. } => {
            matches!(error.raw_os_error(), Some(libc::ENOENT))
        }
        Step::AddToPf { .. } => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}
