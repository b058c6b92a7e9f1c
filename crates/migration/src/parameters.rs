//! Parameters of migrations, by QMP's names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::cancel::lock;
use crate::inert::{Inert, Setting};

/// What a migration does whose guest has not let its primaries go in time, or will not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnplugPolicy {
    /// It fails.
    #[default]
    Abort,
    /// It is cancelled.
    Cancel,
}

/// What a migration does whose guest is paused with its primaries in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PausedPolicy {
    /// It ends at its beginning, as [`UnplugPolicy`] says.
    #[default]
    Refuse,
    /// It waits for the guest to be resumed, and then as long as for any other.
    Wait,
}

/// What `query-migrate-parameters` answers. A change counts at once, for a migration under way as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Parameters {
    /// Delay before the first announcement of the guest's addresses, in ms.
    #[serde(rename = "announce-initial")]
    pub announce_initial_ms: u64,
    /// Longest delay between announcements, in ms.
    #[serde(rename = "announce-max")]
    pub announce_max_ms: u64,
    /// Number of announcements.
    pub announce_rounds: u64,
    /// By how much the delay grows each round, in ms.
    #[serde(rename = "announce-step")]
    pub announce_step_ms: u64,
    /// Bytes a second at most while the guest runs; 0 for no limit. Once it is stopped there is none.
    #[serde(rename = "max-bandwidth")]
    pub max_bandwidth_bytes: u64,
    /// Bytes a second the final part is taken to travel with; 0 to use what was measured.
    #[serde(rename = "avail-switchover-bandwidth")]
    pub avail_switchover_bandwidth_bytes: u64,
    /// How long the guest may stand still, in ms.
    #[serde(rename = "downtime-limit")]
    pub downtime_limit_ms: u64,
    /// Ours: how long the guest has to let its primaries go, in ms.
    #[serde(rename = "failover-unplug-timeout")]
    pub failover_unplug_timeout_ms: u64,
    /// Ours: what to do when it has not.
    pub failover_unplug_policy: UnplugPolicy,
    /// Ours: what to do with a guest that is paused with its primaries in.
    pub failover_when_paused: PausedPolicy,
    /// Ours: how long the target has to answer at each step of the hand-over, and may take nothing of what it is sent
    /// while the guest is stopped, in ms.
    #[serde(rename = "handover-timeout")]
    pub handover_timeout_ms: u64,
    /// QEMU's that change nothing here.
    #[serde(flatten)]
    pub inert: Inert,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            announce_initial_ms: 50,
            announce_max_ms: 550,
            announce_rounds: 5,
            announce_step_ms: 100,
            max_bandwidth_bytes: 128 << 20,
            avail_switchover_bandwidth_bytes: 0,
            downtime_limit_ms: 300,
            failover_unplug_timeout_ms: 30_000,
            failover_unplug_policy: UnplugPolicy::default(),
            failover_when_paused: PausedPolicy::default(),
            handover_timeout_ms: 60_000,
            inert: Inert::default(),
        }
    }
}

/// What `migrate-set-parameters` brings: the parameters to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ParametersUpdate {
    /// See [`Parameters::announce_initial_ms`].
    #[serde(rename = "announce-initial")]
    pub announce_initial_ms: Option<u64>,
    /// See [`Parameters::announce_max_ms`].
    #[serde(rename = "announce-max")]
    pub announce_max_ms: Option<u64>,
    /// See [`Parameters::announce_rounds`].
    pub announce_rounds: Option<u64>,
    /// See [`Parameters::announce_step_ms`].
    #[serde(rename = "announce-step")]
    pub announce_step_ms: Option<u64>,
    /// See [`Parameters::max_bandwidth_bytes`].
    #[serde(rename = "max-bandwidth")]
    pub max_bandwidth_bytes: Option<u64>,
    /// See [`Parameters::avail_switchover_bandwidth_bytes`].
    #[serde(rename = "avail-switchover-bandwidth")]
    pub avail_switchover_bandwidth_bytes: Option<u64>,
    /// See [`Parameters::downtime_limit_ms`].
    #[serde(rename = "downtime-limit")]
    pub downtime_limit_ms: Option<u64>,
    /// See [`Parameters::failover_unplug_timeout_ms`].
    #[serde(rename = "failover-unplug-timeout")]
    pub failover_unplug_timeout_ms: Option<u64>,
    /// See [`Parameters::failover_unplug_policy`].
    pub failover_unplug_policy: Option<UnplugPolicy>,
    /// See [`Parameters::failover_when_paused`].
    pub failover_when_paused: Option<PausedPolicy>,
    /// See [`Parameters::handover_timeout_ms`].
    #[serde(rename = "handover-timeout")]
    pub handover_timeout_ms: Option<u64>,
    /// All others, by name: QEMU's that change nothing here. Other names are refused.
    #[serde(flatten)]
    pub inert: BTreeMap<String, Setting>,
}

/// A value that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Parameter '{name}' {what}")]
pub struct ParameterError {
    /// The parameter; of QEMU's, in the spelling of QEMU's message.
    pub name: String,
    /// What is wrong with the value.
    pub what: String,
}

impl ParameterError {
    pub(crate) fn new(name: &str, what: &str) -> Self {
        Self {
            name: name.to_owned(),
            what: what.to_owned(),
        }
    }
}

impl Parameters {
    /// Makes all the changes, or none.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn update(&mut self, update: &ParametersUpdate) -> Result<(), ParameterError> {
        let mut new = self.clone();
        let fields = [
            (
                update.announce_initial_ms,
                &mut new.announce_initial_ms,
                "announce_initial",
                0,
                100_000,
                "a value between 0 and 100000",
            ),
            (
                update.announce_max_ms,
                &mut new.announce_max_ms,
                "announce_max",
                0,
                100_000,
                "a value between 0 and 100000",
            ),
            (
                update.announce_rounds,
                &mut new.announce_rounds,
                "announce_rounds",
                0,
                1000,
                "a value between 0 and 1000",
            ),
            (
                update.announce_step_ms,
                &mut new.announce_step_ms,
                "announce_step",
                1,
                10_000,
                "a value between 0 and 10000",
            ),
            (
                update.max_bandwidth_bytes,
                &mut new.max_bandwidth_bytes,
                "max_bandwidth",
                0,
                u64::MAX,
                "an integer in the range of 0 to 18446744073709551615 bytes/second",
            ),
            (
                update.avail_switchover_bandwidth_bytes,
                &mut new.avail_switchover_bandwidth_bytes,
                "avail_switchover_bandwidth",
                0,
                u64::MAX,
                "an integer in the range of 0 to 18446744073709551615 bytes/second",
            ),
            (
                update.downtime_limit_ms,
                &mut new.downtime_limit_ms,
                "downtime_limit",
                0,
                2_000_000,
                "an integer in the range of 0 to (2000 * 1000) ms",
            ),
            (
                update.failover_unplug_timeout_ms,
                &mut new.failover_unplug_timeout_ms,
                "failover-unplug-timeout",
                1,
                86_400_000,
                "an integer in the range of 1 to 86400000 ms",
            ),
            (
                update.handover_timeout_ms,
                &mut new.handover_timeout_ms,
                "handover-timeout",
                100,
                3_600_000,
                "an integer in the range of 100 to 3600000 ms",
            ),
        ];
        for (value, field, name, min, max, words) in fields {
            if let Some(value) = value {
                if !(min..=max).contains(&value) {
                    return Err(ParameterError::new(name, &format!("expects {words}")));
                }
                *field = value;
            }
        }
        if let Some(policy) = update.failover_unplug_policy {
            new.failover_unplug_policy = policy;
        }
        if let Some(policy) = update.failover_when_paused {
            new.failover_when_paused = policy;
        }
        new.inert.update(&update.inert)?;
        *self = new;
        Ok(())
    }
}

/// Parameters that the monitor changes while a migration reads them.
#[derive(Debug, Clone, Default)]
pub struct SharedParameters(Arc<Mutex<Parameters>>);

impl SharedParameters {
    /// The parameters now.
    #[must_use]
    pub fn get(&self) -> Parameters {
        lock(&self.0).clone()
    }

    /// Makes all the changes, or none.
    ///
    /// # Errors
    /// As [`Parameters::update`].
    pub fn update(&self, update: &ParametersUpdate) -> Result<(), ParameterError> {
        lock(&self.0).update(update)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn all_or_nothing() {
        let mut parameters = Parameters::default();
        let update: ParametersUpdate =
            serde_json::from_str(r#"{"max-bandwidth": 0, "downtime-limit": 2000001}"#).unwrap();
        let error = parameters.update(&update).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms"
        );
        assert_eq!(parameters, Parameters::default());
        let update: ParametersUpdate =
            serde_json::from_str(r#"{"max-bandwidth": 0, "announce-rounds": 3}"#).unwrap();
        parameters.update(&update).unwrap();
        assert_eq!(
            (parameters.max_bandwidth_bytes, parameters.announce_rounds),
            (0, 3)
        );
        let update: ParametersUpdate = serde_json::from_str(
            r#"{"failover-unplug-policy": "cancel", "failover-when-paused": "wait"}"#,
        )
        .unwrap();
        parameters.update(&update).unwrap();
        let shown = serde_json::to_value(&parameters).unwrap();
        assert_eq!(shown["failover-unplug-policy"], "cancel");
        assert_eq!(shown["failover-when-paused"], "wait");
        assert_eq!(shown["downtime-limit"], 300);
        assert_eq!(shown["announce-rounds"], 3);
        assert_eq!(shown["multifd-channels"], 2);
        let unknown: ParametersUpdate =
            serde_json::from_str(r#"{"x": 1, "announce-rounds": 4}"#).unwrap();
        let error = parameters.update(&unknown).unwrap_err();
        assert_eq!(error.to_string(), "Parameter 'x' is unexpected");
        assert_eq!(parameters.announce_rounds, 3);
    }
}
