//! One migration with what came after it, or changes of a path outside of one.

use std::collections::BTreeMap;

use machine::MigrationNews;
use migration::{Info, State};
use monitor::Event;
use monitor::types::FailoverPath;
use report::{Lane, LaneKind, Recording, Sample, spans};
use serde_json::{Value, json};

use super::{At, path_name};

/// Events that are kept of a session; then its states alone.
const MAX_EVENTS: usize = 256;
/// States that are kept besides.
const MAX_STATES: usize = 64;
/// Samples that are kept; when there are so many, every other one goes, and half as many come.
const MAX_SAMPLES: usize = 512;
/// Pairs that have a lane.
const MAX_PAIRS: usize = 32;
/// Changes of one lane.
const MAX_CHANGES: usize = 128;
/// Characters of a text from outside.
const MAX_TEXT: usize = 300;

/// What a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The guest leaves.
    Source,
    /// The guest comes.
    Target,
    /// A path changed without a migration.
    Path,
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// An event has a part in a failover. A migration's states come with their own news, asked for or not.
pub(super) fn matters(event: &Event) -> bool {
    !matches!(
        event,
        Event::Migration { .. }
            | Event::NicRxFilterChanged { .. }
            | Event::RtcChange { .. }
            | Event::Powerdown
    )
}

/// An event moves a guest's traffic, or should have: it begins a session where there is none.
pub(super) fn begins(event: &Event) -> bool {
    !matches!(event, Event::FailoverNegotiated { .. })
        && ["FAILOVER_", "UNPLUG_", "DEVICE_UNPLUG_"]
            .iter()
            .any(|word| event.name().starts_with(word))
}

/// A few words for the plot; none where the name will do.
fn label(event: &Event) -> String {
    match event {
        Event::UnplugPrimary { .. } => "asked to let go".to_owned(),
        Event::DeviceUnplugGuestError { .. } => "guest refused".to_owned(),
        Event::FailoverNegotiated { .. } => "negotiated".to_owned(),
        Event::FailoverPathChanged { path, .. } => format!("path: {path}"),
        Event::FailoverPrimaryMissing { .. } => "primary missing".to_owned(),
        Event::MigrationPass { pass } => format!("pass {pass}"),
        _ => String::new(),
    }
}

/// What an event says, its texts cut.
fn detail(event: &Event) -> String {
    let Some(Value::Object(mut data)) = event.data() else {
        return String::new();
    };
    for (_, value) in data.iter_mut() {
        if let Value::String(text) = value {
            *text = short(text);
        }
    }
    Value::Object(data).to_string()
}

type Changes<T> = Vec<(f64, T)>;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    number: u64,
    kind: Kind,
    began: At,
    last_ms: f64,
    states: Changes<&'static str>,
    guest: Changes<&'static str>,
    paths: BTreeMap<String, Changes<&'static str>>,
    path_changes: u64,
    events: Vec<report::Event>,
    /// Events that found no room.
    left_out: u64,
    samples: Vec<Sample>,
    /// The last sample that was kept: when, and how many bytes there were.
    sampled: Option<(f64, u64)>,
    /// Each so many-th is kept.
    stride: u64,
    seen: u64,
    info: Info,
    running: bool,
    resumed_ms: Option<f64>,
    /// When a pair was last back on its primary.
    back_ms: Option<f64>,
}

impl Session {
    pub(super) fn new(number: u64, kind: Kind, began: At) -> Self {
        Self {
            number,
            kind,
            began,
            last_ms: began.ms,
            states: Vec::new(),
            guest: Vec::new(),
            paths: BTreeMap::new(),
            path_changes: 0,
            events: Vec::new(),
            left_out: 0,
            samples: Vec::new(),
            sampled: None,
            stride: 1,
            seen: 0,
            info: Info::default(),
            running: false,
            resumed_ms: None,
            back_ms: None,
        }
    }

    pub(super) fn migrating(&self) -> bool {
        self.running
    }

    pub(super) fn last_ms(&self) -> f64 {
        self.last_ms
    }

    pub(super) fn info(&self) -> &Info {
        &self.info
    }

    pub(super) fn path_changes(&self) -> u64 {
        self.path_changes
    }

    /// From the resume until all pairs that are known were on their primaries.
    pub(super) fn back_ms(&self) -> Option<f64> {
        let all = !self.paths.is_empty()
            && self
                .paths
                .values()
                .all(|changes| changes.last().is_some_and(|(_, path)| *path == "primary"));
        all.then(|| Some(self.back_ms? - self.resumed_ms?))
            .flatten()
    }

    pub(super) fn began(&self) -> String {
        report::utc(self.began.epoch_us)
    }

    pub(super) fn name(&self) -> String {
        match self.kind {
            Kind::Source | Kind::Target => format!("migration {}", self.number),
            Kind::Path => format!("failover {}", self.number),
        }
    }

    pub(super) fn outcome(&self) -> String {
        let Some((_, state)) = self.states.last() else {
            let path = self.paths.values().filter_map(|c| c.last()).next_back();
            return match (path, self.events.last()) {
                (Some((_, path)), _) => format!("on the {path}"),
                (None, Some(event)) if !event.label.is_empty() => event.label.clone(),
                (None, last) => last.map_or("", |event| &event.name).to_owned(),
            };
        };
        match &self.info.error_desc {
            Some(why) if *state == "failed" => match self.info.failover_reason {
                Some(reason) => format!("failed ({reason}): {}", short(why)),
                None => format!("failed: {}", short(why)),
            },
            _ => (*state).to_owned(),
        }
    }

    fn since(&self, at: At) -> f64 {
        at.ms - self.began.ms
    }

    fn side(&self) -> &'static str {
        match self.kind {
            Kind::Source => "source",
            Kind::Target => "target",
            Kind::Path => "",
        }
    }

    pub(super) fn migration(&mut self, news: &MigrationNews, at: At) {
        let now = self.since(at);
        self.last_ms = at.ms;
        self.running = news.state.is_running();
        self.info = news.info.clone();
        if self.states.is_empty() {
            if news.outgoing {
                self.guest.push((now, "source"));
            }
            for (standby, path) in news.paths.iter().take(MAX_PAIRS) {
                let changes = vec![(now, path_name(*path))];
                self.paths.insert(short(standby), changes);
            }
        }
        if self.states.len() < MAX_STATES {
            self.states.push((now, news.state.name()));
            let status = news.state.name();
            let detail = match &news.info.error_desc {
                Some(why) if news.state == State::Failed => {
                    json!({"status": status, "error": short(why)})
                }
                _ => json!({ "status": status }),
            };
            self.events.push(report::Event {
                t_ms: now,
                side: self.side().to_owned(),
                name: "MIGRATION".to_owned(),
                label: status.to_owned(),
                detail: detail.to_string(),
            });
        }
        if news.outgoing && news.state == State::Completed {
            change(&mut self.guest, now, "target");
        }
        // However short it was, what is known at its end is known.
        self.keep_sample(&news.info, at);
    }

    pub(super) fn event(&mut self, event: &Event, at: At) {
        let now = self.since(at);
        self.last_ms = at.ms;
        match event {
            Event::Stop => change(&mut self.guest, now, "stopped"),
            Event::Resume if self.kind == Kind::Target => {
                self.resumed_ms.get_or_insert(now);
                change(&mut self.guest, now, "target");
            }
            Event::Resume => change(&mut self.guest, now, "source"),
            Event::FailoverPathChanged {
                device_id, path, ..
            } => {
                let path = match path {
                    FailoverPath::Primary => {
                        self.back_ms = Some(now);
                        "primary"
                    }
                    FailoverPath::Standby => "standby",
                };
                self.path_changes += 1;
                let id = short(device_id);
                let room = self.paths.len() < MAX_PAIRS;
                if room || self.paths.contains_key(&id) {
                    change(self.paths.entry(id).or_default(), now, path);
                }
            }
            _ => {}
        }
        if self.events.len() >= MAX_EVENTS {
            self.left_out += 1;
            return;
        }
        self.events.push(report::Event {
            t_ms: now,
            side: self.side().to_owned(),
            name: event.name().to_owned(),
            label: label(event),
            detail: detail(event),
        });
    }

    pub(super) fn sample(&mut self, info: &Info, at: At) {
        self.seen += 1;
        if self.running && self.seen.is_multiple_of(self.stride) {
            self.keep_sample(info, at);
        }
    }

    fn keep_sample(&mut self, info: &Info, at: At) {
        let Some(ram) = info.ram else {
            return;
        };
        let now = self.since(at);
        let rate = match self.sampled {
            Some((then, bytes)) if now > then => {
                ram.transferred_bytes.saturating_sub(bytes) as f64 * 1000.0 / (now - then)
            }
            _ => 0.0,
        };
        self.sampled = Some((now, ram.transferred_bytes));
        self.samples.push(Sample {
            t_ms: now,
            sent_bytes_per_s: rate,
            dirty_bytes_per_s: ram.dirty_pages_rate.saturating_mul(ram.page_bytes) as f64,
            remaining_bytes: ram.remaining_bytes,
        });
        if self.samples.len() >= MAX_SAMPLES {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            self.stride = self.stride.saturating_mul(2);
        }
    }

    /// As the page draws it.
    pub(super) fn recording(&self, at: At) -> Recording {
        // What is lasts until now, but a session of last week need not be drawn a week long.
        let last = self.last_ms - self.began.ms;
        let end = if self.running {
            self.since(at)
        } else {
            self.since(at).min(last + (last * 0.1).max(50.0))
        };
        let mut lanes = Vec::new();
        let mut lane = |label: &str, kind: LaneKind, changes: &Changes<&'static str>| {
            if !changes.is_empty() {
                lanes.push(Lane {
                    label: label.to_owned(),
                    kind,
                    spans: spans(changes, end),
                });
            }
        };
        lane(self.side(), LaneKind::State, &self.states);
        if self.kind != Kind::Path {
            lane("guest", LaneKind::Guest, &self.guest);
        }
        for (standby, changes) in &self.paths {
            lane(standby, LaneKind::Path, changes);
        }
        let mut events = self.events.clone();
        if self.left_out > 0 {
            let place = events.len().min(MAX_EVENTS);
            let t_ms = events.get(place - 1).map_or(0.0, |e| e.t_ms);
            events.insert(
                place,
                report::Event {
                    t_ms,
                    side: self.side().to_owned(),
                    name: "…".to_owned(),
                    label: "…".to_owned(),
                    detail: format!("{} more events, which are not kept", self.left_out),
                },
            );
        }
        let ended = self.states.last().filter(|_| !self.running);
        Recording {
            name: self.name(),
            outcome: self.outcome(),
            good: ended.map(|(_, state)| *state == "completed"),
            began_us: self.began.epoch_us,
            lanes,
            samples: self.samples.clone(),
            pings: None,
            events,
        }
    }
}

/// Notes a change; what is beyond the bound replaces the last one.
fn change(changes: &mut Changes<&'static str>, now: f64, value: &'static str) {
    if changes.len() >= MAX_CHANGES {
        changes.pop();
    }
    changes.push((now, value));
}
