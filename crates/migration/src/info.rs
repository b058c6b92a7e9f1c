//! What `query-migrate` and a progress display show, at any time and from any thread.

use std::sync::Mutex;
use std::time::Duration;

use memory::PAGE_SIZE_BYTES;
use serde::Serialize;

use crate::cancel::lock;
use crate::channel::ListeningAt;
use crate::state::State;

/// `query-migrate`'s answer. Which fields it has goes by the state, as SPEC section 1 lists.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// The state; absent when there never was a migration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<State>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
    /// Since the start; all of it once it ended. In ms.
    #[serde(rename = "total-time", skip_serializing_if = "Option::is_none")]
    pub total_time_ms: Option<u64>,
    /// From the start until the first page was sent, the unplug included. In ms.
    #[serde(rename = "setup-time", skip_serializing_if = "Option::is_none")]
    pub setup_time_ms: Option<u64>,
    /// How long the guest would stand still if it were stopped now, in ms.
    #[serde(rename = "expected-downtime", skip_serializing_if = "Option::is_none")]
    pub expected_downtime_ms: Option<u64>,
    /// How long the guest stood still: from its stop until the target said that it runs. In ms.
    #[serde(rename = "downtime", skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<RamInfo>,
    /// Where a target waits for its source, as long as it does; none where nobody connects.
    #[serde(skip)]
    pub listening: Option<Vec<ListeningAt>>,
    /// Ours: how long the guest took to let its primaries go, in ms.
    #[serde(
        rename = "failover-unplug-time",
        skip_serializing_if = "Option::is_none"
    )]
    pub unplug_time_ms: Option<u64>,
    /// Ours: how the wait for the guest's eject ended, if otherwise than by one; a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_reason: Option<&'static str>,
}

/// What became of guest memory so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RamInfo {
    /// Bytes on the wire.
    #[serde(rename = "transferred")]
    pub transferred_bytes: u64,
    /// Bytes of pages still to send in this pass.
    #[serde(rename = "remaining")]
    pub remaining_bytes: u64,
    /// All of guest RAM.
    #[serde(rename = "total")]
    pub total_bytes: u64,
    /// Pages that were zero.
    #[serde(rename = "duplicate")]
    pub zero_pages: u64,
    /// Pages sent in full.
    #[serde(rename = "normal")]
    pub normal_pages: u64,
    /// The same in bytes.
    pub normal_bytes: u64,
    /// Pages a second the guest writes, between the last two looks at the dirty bitmap.
    pub dirty_pages_rate: u64,
    /// Megabits a second on the wire, now.
    pub mbps: f64,
    /// Looks at the dirty bitmap: one more than passes.
    pub dirty_sync_count: u64,
    /// Pages a second, zero pages among them, now.
    pub pages_per_second: u64,
    /// Bytes of a page.
    #[serde(rename = "page-size")]
    pub page_bytes: u64,
    /// Bytes on the wire before the guest was stopped.
    pub precopy_bytes: u64,
    /// Bytes on the wire after that.
    pub downtime_bytes: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) ram: RamInfo,
    pub(crate) started: Option<Duration>,
    pub(crate) ended: Option<Duration>,
    pub(crate) setup: Option<Duration>,
    pub(crate) unplug: Option<Duration>,
    pub(crate) failover_reason: Option<&'static str>,
    pub(crate) downtime: Option<Duration>,
    pub(crate) expected_downtime: Option<Duration>,
    pub(crate) error: Option<String>,
    pub(crate) listening: Vec<ListeningAt>,
}

/// Figures of a migration under way, written by its thread.
#[derive(Debug, Default)]
pub(crate) struct Statistics(Mutex<Figures>);

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Statistics {
    pub(crate) fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut lock(&self.0));
    }

    /// How the wait for the guest's eject ended, if it did otherwise than by one.
    pub(crate) fn failover_reason(&self) -> Option<&'static str> {
        lock(&self.0).failover_reason
    }

    /// What a source shows in `state`.
    pub(crate) fn info(&self, state: State, now: Duration) -> Info {
        let figures = lock(&self.0).clone();
        let mut info = Info {
            status: (state != State::None).then_some(state),
            failover_reason: figures.failover_reason,
            ..Info::default()
        };
        let with_ram = |info: &mut Info| {
            let end = figures.ended.unwrap_or(now);
            let started = figures.started.unwrap_or(end);
            info.total_time_ms = Some(ms(end.saturating_sub(started)));
            info.setup_time_ms = Some(figures.setup.map_or(0, ms));
            info.unplug_time_ms = figures.unplug.map(ms);
            info.ram = Some(RamInfo {
                page_bytes: PAGE_SIZE_BYTES,
                normal_bytes: figures.ram.normal_pages.saturating_mul(PAGE_SIZE_BYTES),
                ..figures.ram
            });
        };
        match state {
            State::None | State::Setup | State::WaitUnplug | State::Cancelled => {}
            State::Failed => info.error_desc.clone_from(&figures.error),
            State::Active | State::Cancelling | State::Device | State::PreSwitchover => {
                with_ram(&mut info);
                info.expected_downtime_ms = figures.expected_downtime.map(ms);
            }
            State::Completed => {
                with_ram(&mut info);
                info.downtime_ms = figures.downtime.map(ms);
            }
        }
        info
    }

    /// What a target shows in `state`.
    pub(crate) fn incoming_info(&self, state: State) -> Info {
        let under_way = matches!(state, State::Setup | State::Active);
        let listening = lock(&self.0).listening.clone();
        Info {
            listening: (under_way && !listening.is_empty()).then_some(listening),
            status: (state != State::None).then_some(state),
            error_desc: (state == State::Failed)
                .then(|| lock(&self.0).error.clone())
                .flatten(),
            ..Info::default()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn keys(state: State) -> Vec<String> {
        let statistics = Statistics::default();
        statistics.update(|figures| {
            figures.started = Some(Duration::from_secs(1));
            figures.downtime = Some(Duration::from_millis(5));
            figures.expected_downtime = Some(Duration::from_millis(300));
            figures.error = Some("broken".to_owned());
        });
        let info = statistics.info(state, Duration::from_secs(3));
        assert!(info.total_time_ms.is_none_or(|total| total == 2000));
        let value = serde_json::to_value(info).unwrap();
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    }

    #[test]
    fn fields_go_by_the_state() {
        assert!(keys(State::None).is_empty());
        for state in [State::Setup, State::WaitUnplug, State::Cancelled] {
            assert_eq!(keys(state), ["status"]);
        }
        assert_eq!(keys(State::Failed), ["error-desc", "status"]);
        for state in [
            State::Active,
            State::Cancelling,
            State::Device,
            State::PreSwitchover,
        ] {
            assert_eq!(
                keys(state),
                [
                    "expected-downtime",
                    "ram",
                    "setup-time",
                    "status",
                    "total-time"
                ]
            );
        }
        assert_eq!(
            keys(State::Completed),
            ["downtime", "ram", "setup-time", "status", "total-time"]
        );
    }
}
