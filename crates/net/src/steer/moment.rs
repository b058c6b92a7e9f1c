//! The moments at which the host's network is steered, and what is told of one.

use serde_json::{Value, json};

use super::discovery::Surroundings;
use super::step::{MacText, Outcome, Report};
use super::wanted::Wanted;

/// A moment in a pair's life at which the host's network is steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The guest's driver begins to probe the primary.
    ArmPrimary,
    /// The guest is asked to let go of the primary.
    ToBoth,
    /// The guest's driver has opened the primary.
    ToPrimary,
    /// The guest has let go of the primary, or has come by a migration.
    ToStandby,
    /// The guest has moved to another host.
    GuestLeft,
    /// The primary was deleted.
    PrimaryDeleted,
    /// The pair ends here: the standby is deleted, or the machine ends.
    End,
}

impl Moment {
    /// Its name, as the hook is told it.
    pub fn name(self) -> &'static str {
        match self {
            Moment::ArmPrimary => "arm-primary",
            Moment::ToBoth => "to-both",
            Moment::ToPrimary => "to-primary",
            Moment::ToStandby => "to-standby",
            Moment::GuestLeft => "guest-left",
            Moment::PrimaryDeleted => "primary-deleted",
            Moment::End => "end",
        }
    }

    /// Where frames for the guest are to go from now on, as the hook is told it.
    pub fn path(self) -> &'static str {
        match self {
            Moment::ArmPrimary | Moment::ToBoth => "both",
            Moment::ToPrimary => "primary",
            Moment::ToStandby | Moment::PrimaryDeleted => "standby",
            Moment::GuestLeft => "elsewhere",
            Moment::End => "none",
        }
    }
}

/// Something that did not work, for whoever watches the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Id of the standby.
    pub standby: String,
    /// When.
    pub moment: Moment,
    /// The command that does the same as the step that failed, or the hook's program.
    pub step: String,
    /// Why, in one line.
    pub error: String,
}

/// The last moment and how it went, for a person.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) moment: Moment,
    pub(super) reason: String,
    steps: usize,
    failed: Option<String>,
}

impl Last {
    pub(super) fn new(moment: Moment, reason: &str, report: &Report) -> Self {
        Self {
            moment,
            reason: reason.to_owned(),
            steps: report.steps.len(),
            failed: report
                .failures()
                .next()
                .map(|(step, error)| format!("'{step}' failed: {error}")),
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.failed.is_none()
    }
}

impl std::fmt::Display for Last {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "last {} ({}): ", self.moment.name(), self.reason)?;
        match (&self.failed, self.steps) {
            (Some(failed), _) => f.write_str(failed),
            (None, 0) => f.write_str("nothing to do"),
            (None, 1) => f.write_str("1 step done"),
            (None, steps) => write!(f, "{steps} steps done"),
        }
    }
}

/// What the hook reads: one JSON object; docs/operating.md says what its members are.
pub(super) fn record(
    moment: Moment,
    reason: &str,
    wanted: &Wanted,
    vlans: &[u16],
    around: &Surroundings,
    report: &Report,
) -> Vec<u8> {
    let vf = around.vf.as_ref().ok();
    let steps: Vec<Value> = report
        .steps
        .iter()
        .map(|(step, outcome)| match outcome {
            Outcome::Done => json!({"step": step.to_string(), "outcome": "done"}),
            Outcome::Already => json!({"step": step.to_string(), "outcome": "already"}),
            Outcome::Failed(error) => {
                json!({"step": step.to_string(), "outcome": "failed", "error": error.to_string()})
            }
        })
        .collect();
    let object = json!({
        "version": 1,
        "moment": moment.name(),
        "path": moment.path(),
        "reason": reason,
        "standby": wanted.standby,
        "primary": wanted.primary,
        "mac": MacText(&wanted.mac).to_string(),
        "vlans": vlans,
        "interface": wanted.interface,
        "bridge": around.bridge,
        "standby-port": around.tap.as_ref().ok().map(|port| &port.name),
        "primary-port": around.uplink.as_ref().ok().map(|port| &port.name),
        "pf": vf.map(|vf| &vf.pf.name),
        "vf": vf.map(|vf| vf.number),
        "vf-address": wanted.vf_address,
        "steps": steps,
    });
    let mut bytes = object.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}
