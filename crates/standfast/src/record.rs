//! What happened in the last migrations and failovers on this side, for `query-failover-report` and `-failover-report`.
//!
//! ```text
//!   machine's events, changes of state ─▶ Record (bounded) ─▶ report::Document ─▶ QMP
//!   query-migrate, ten times a second ──▶   ▲                                 └─▶ page and JSON on disk
//!                                       Recorder: the thread that asks and writes
//! ```
//! A [`Record`] is plain: what happened and when is handed in. It keeps the last few *sessions*: a migration with what came
//! after it, or changes of a path outside of one. Whatever a guest or a client does, it does not grow beyond its bounds.

mod recorder;
mod session;

pub use recorder::{Recorder, Writer};

use std::collections::{BTreeMap, VecDeque};

use machine::MigrationNews;
use machine::inspect::Path;
use migration::Info;
use monitor::Event;
use report::{Cell, Document, Figure};

use session::{Kind, Session};

/// Sessions that are kept.
const MAX_SESSIONS: usize = 8;
/// An event so long after the last one of a session is a matter of its own.
const APART_MS: f64 = 120_000.0;
/// One that is no failover's, as a shutdown, is so after this time: it would draw a second over minutes.
const AFTERMATH_MS: f64 = 3000.0;

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct At {
    /// On a clock that nobody sets, in ms.
    pub ms: f64,
    /// Since 1970, in microseconds.
    pub epoch_us: u64,
}

/// A row of the table: its name, its unit, how to take it from a session.
type Row = (&'static str, &'static str, fn(&Session) -> Cell);

/// The last sessions.
#[derive(Debug, Default)]
pub struct Record {
    /// Of the machine.
    name: String,
    sessions: VecDeque<Session>,
    /// Sessions so far, those that are forgotten among them.
    count: u64,
    /// How migrations ended, by direction and outcome.
    ended: BTreeMap<(&'static str, &'static str), u64>,
    /// The last migration goes away from here.
    outgoing: bool,
}

impl Record {
    /// Of a machine of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// A migration is under way.
    pub fn migrating(&self) -> bool {
        self.sessions.back().is_some_and(Session::migrating)
    }

    fn begin(&mut self, kind: Kind, at: At) {
        self.count += 1;
        if self.sessions.len() >= MAX_SESSIONS {
            self.sessions.pop_front();
        }
        self.sessions.push_back(Session::new(self.count, kind, at));
    }

    /// A migration's state changed.
    pub fn migration(&mut self, news: &MigrationNews, at: At) {
        if !self.migrating() {
            let kind = if news.outgoing {
                Kind::Source
            } else {
                Kind::Target
            };
            self.begin(kind, at);
        }
        if let Some(session) = self.sessions.back_mut() {
            session.migration(news, at);
        }
        self.outgoing = news.outgoing;
        if !news.state.is_running() {
            let key = (direction(news.outgoing), news.state.name());
            *self.ended.entry(key).or_default() += 1;
        }
    }

    /// Something happened.
    pub fn event(&mut self, event: &Event, at: At) {
        if !session::matters(event) {
            return;
        }
        let patience = if session::begins(event) {
            APART_MS
        } else {
            AFTERMATH_MS
        };
        let fits = |session: &Session| session.migrating() || at.ms - session.last_ms() < patience;
        if !self.sessions.back().is_some_and(fits) {
            // A stop alone is no failover.
            if !session::begins(event) {
                return;
            }
            self.begin(Kind::Path, at);
        }
        if let Some(session) = self.sessions.back_mut() {
            session.event(event, at);
        }
    }

    /// `query-migrate`'s answer while a migration is under way.
    pub fn sample(&mut self, info: &Info, at: At) {
        if let Some(session) = self.sessions.back_mut() {
            session.sample(info, at);
        }
    }

    /// How migrations ended so far: direction, outcome, how many.
    pub fn ended(&self) -> Vec<(&'static str, &'static str, u64)> {
        let all = self.ended.iter();
        all.map(|(&(direction, outcome), &count)| (direction, outcome, count))
            .collect()
    }

    /// The last migration goes, or went, away from here.
    pub fn outgoing(&self) -> bool {
        self.outgoing
    }

    /// All of it, the newest first.
    pub fn document(&self, at: At) -> Document {
        let sessions: Vec<&Session> = self.sessions.iter().rev().collect();
        let rows: [Row; 8] = [
            ("began (UTC)", "", |s| Cell::Word(s.began())),
            ("outcome", "", |s| Cell::Word(s.outcome())),
            ("total", "ms", |s| number(s.info().total_time_ms)),
            ("downtime", "ms", |s| number(s.info().downtime_ms)),
            ("unplug", "ms", |s| number(s.info().unplug_time_ms)),
            ("memory sent", "MiB", |s| {
                let bytes = s.info().ram.map(|ram| ram.transferred_bytes);
                bytes.map_or(Cell::Nothing, |b| {
                    Cell::Number(b as f64 / f64::from(1 << 20))
                })
            }),
            ("resume to all on their primaries", "ms", |s| {
                s.back_ms().map_or(Cell::Nothing, Cell::Number)
            }),
            ("changes of a path", "", |s| {
                Cell::Number(s.path_changes() as f64)
            }),
        ];
        let named = if self.name.is_empty() {
            String::new()
        } else {
            format!(" of {}", self.name)
        };
        Document {
            title: format!("Migrations and failovers{named}"),
            subtitle: format!(
                "{}, Standfast {}, process {}; the newest first",
                rustix::system::uname().nodename().to_string_lossy(),
                env!("CARGO_PKG_VERSION"),
                std::process::id()
            ),
            recordings: sessions.iter().map(|s| s.recording(at)).collect(),
            one_axis: false,
            columns: sessions.iter().map(|s| s.name()).collect(),
            figures: if sessions.is_empty() {
                Vec::new()
            } else {
                rows.into_iter()
                    .map(|(name, unit, take)| Figure {
                        name: name.to_owned(),
                        unit: unit.to_owned(),
                        cells: sessions.iter().map(|s| take(s)).collect(),
                        headline: false,
                        comparable: false,
                    })
                    .collect()
            },
            notes: vec![
                "This is what one side saw: the other side of a migration has a report of its own. \
                 When the guest was stopped is known on the source alone."
                    .to_owned(),
            ],
        }
    }
}

fn direction(outgoing: bool) -> &'static str {
    if outgoing { "outgoing" } else { "incoming" }
}

fn number(value: Option<u64>) -> Cell {
    value.map_or(Cell::Nothing, |value| Cell::Number(value as f64))
}

/// A path's name.
fn path_name(path: Path) -> &'static str {
    match path {
        Path::Standby => "standby",
        Path::Primary => "primary",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ::migration::{RamInfo, State};
    use monitor::types::FailoverPath;
    use report::{LaneKind, page};

    fn at(ms: f64) -> At {
        At {
            ms,
            epoch_us: 1_700_000_000_000_000 + (ms * 1000.0) as u64,
        }
    }

    fn news(outgoing: bool, state: State) -> MigrationNews {
        MigrationNews {
            outgoing,
            state,
            info: Info {
                status: Some(state),
                total_time_ms: Some(1300),
                error_desc: (state == State::Failed).then(|| "the <target> hung up".to_owned()),
                ..Info::default()
            },
            paths: vec![("net1".into(), Path::Primary)],
        }
    }

    fn changed(id: String, path: &str, reason: String) -> Event {
        Event::FailoverPathChanged {
            device_id: id,
            path: FailoverPath::from_wire(path).unwrap(),
            reason,
        }
    }

    fn path_changed(path: &str) -> Event {
        changed("net1".into(), path, "unplugged".into())
    }

    fn lane(document: &Document, index: usize, label: &str) -> Vec<(f64, String)> {
        let recording = document.recordings.get(index).unwrap();
        let lane = recording.lanes.iter().find(|l| l.label == label).unwrap();
        let spans = lane.spans.iter();
        spans.map(|s| (s.from_ms, s.value.clone())).collect()
    }

    fn sent(bytes: u64) -> Info {
        Info {
            ram: Some(RamInfo {
                transferred_bytes: bytes,
                dirty_pages_rate: 10,
                page_bytes: 4096,
                ..RamInfo::default()
            }),
            ..Info::default()
        }
    }

    #[test]
    fn a_source_shows_states_guest_path_and_rates() {
        let mut record = Record::new("guest");
        record.migration(&news(true, State::Setup), at(1000.0));
        record.event(
            &Event::UnplugPrimary {
                device_id: "hostdev0".into(),
            },
            at(1010.0),
        );
        record.migration(&news(true, State::WaitUnplug), at(1020.0));
        record.event(&path_changed("standby"), at(1100.0));
        record.migration(&news(true, State::Active), at(1250.0));
        for n in 0..5_u32 {
            record.sample(
                &sent(u64::from(n) * 1_000_000),
                at(1300.0 + f64::from(n) * 100.0),
            );
        }
        record.event(&Event::Stop, at(1900.0));
        record.migration(&news(true, State::Device), at(1901.0));
        record.migration(&news(true, State::Completed), at(2000.0));
        assert!(!record.migrating());
        let document = record.document(at(5000.0));
        let owned = |list: &[(f64, &str)]| -> Vec<(f64, String)> {
            list.iter()
                .map(|(t, word)| (*t, (*word).to_owned()))
                .collect()
        };
        assert_eq!(
            lane(&document, 0, "source"),
            owned(&[
                (0.0, "setup"),
                (20.0, "wait-unplug"),
                (250.0, "active"),
                (901.0, "device"),
                (1000.0, "completed")
            ])
        );
        assert_eq!(
            lane(&document, 0, "guest"),
            owned(&[(0.0, "source"), (900.0, "stopped"), (1000.0, "target")])
        );
        assert_eq!(
            lane(&document, 0, "net1"),
            owned(&[(0.0, "primary"), (100.0, "standby")])
        );
        let recording = document.recordings.first().unwrap();
        assert_eq!(recording.good, Some(true));
        let rates: Vec<f64> = recording
            .samples
            .iter()
            .map(|s| s.sent_bytes_per_s)
            .collect();
        assert_eq!(
            rates,
            [0.0, 10_000_000.0, 10_000_000.0, 10_000_000.0, 10_000_000.0]
        );
        let names: Vec<&str> = recording.events.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "MIGRATION",
                "UNPLUG_PRIMARY",
                "MIGRATION",
                "FAILOVER_PATH_CHANGED",
                "MIGRATION",
                "STOP",
                "MIGRATION",
                "MIGRATION"
            ]
        );
        assert!(page(&document).contains("Migrations and failovers of guest"));
    }

    #[test]
    fn a_target_shows_when_the_primary_was_back() {
        let mut record = Record::new("");
        record.migration(&news(false, State::Setup), at(0.0));
        record.migration(&news(false, State::Active), at(10.0));
        record.event(&Event::Resume, at(900.0));
        record.migration(&news(false, State::Completed), at(910.0));
        record.event(&path_changed("standby"), at(915.0));
        record.event(&path_changed("primary"), at(1700.0));
        // Long after: no part of it.
        record.event(&Event::Stop, at(1700.0 + AFTERMATH_MS));
        let document = record.document(at(2000.0));
        let back = document
            .figures
            .iter()
            .find(|f| f.name.starts_with("resume"));
        assert_eq!(back.unwrap().cells, [Cell::Number(800.0)]);
        assert_eq!(
            lane(&document, 0, "guest"),
            [(900.0, "target".to_owned())],
            "what went before is not known here"
        );
        assert_eq!(
            document.recordings.first().unwrap().lanes.len(),
            3,
            "one state, one guest, one pair"
        );
    }

    #[test]
    fn a_failure_has_its_reason_and_the_next_one_is_another_session() {
        let mut record = Record::new("");
        for n in 0..12_u32 {
            let begin = f64::from(n) * 1000.0;
            record.migration(&news(true, State::Setup), at(begin));
            record.migration(&news(true, State::Failed), at(begin + 5.0));
        }
        let document = record.document(at(99_000.0));
        assert_eq!(document.recordings.len(), MAX_SESSIONS);
        let newest = document.recordings.first().unwrap();
        assert_eq!(newest.name, "migration 12");
        assert_eq!(newest.outcome, "failed: the <target> hung up");
        assert_eq!(newest.good, Some(false));
        assert_eq!(
            lane(&document, 0, "guest"),
            [(0.0, "source".to_owned())],
            "it never left"
        );
        assert!(!page(&document).contains("<target>"));
    }

    #[test]
    fn a_switch_without_a_migration_is_recorded_too() {
        let mut record = Record::new("");
        record.event(&Event::Stop, at(0.0));
        assert!(
            record.document(at(1.0)).recordings.is_empty(),
            "a stop alone is no failover"
        );
        record.event(&path_changed("standby"), at(10.0));
        record.event(&path_changed("primary"), at(500.0));
        record.event(&path_changed("standby"), at(500.0 + APART_MS));
        let document = record.document(at(999_999.0));
        assert_eq!(document.recordings.len(), 2);
        assert_eq!(
            lane(&document, 1, "net1"),
            [(0.0, "standby".to_owned()), (490.0, "primary".to_owned())]
        );
        assert!(
            document
                .recordings
                .iter()
                .all(|r| r.lanes.iter().all(|l| l.kind == LaneKind::Path))
        );
    }

    /// A guest that flips for ever, a client that never tires, a migration that takes a week.
    #[test]
    fn it_does_not_grow_without_end() {
        let mut record = Record::new("");
        record.migration(&news(true, State::Setup), at(0.0));
        for n in 0..20_000_u32 {
            let now = at(f64::from(n) * 100.0);
            let path = if n % 2 == 0 { "standby" } else { "primary" };
            record.event(&changed(format!("net{n}"), path, "x".repeat(5000)), now);
            record.sample(&sent(u64::from(n) * 1000), now);
        }
        record.migration(&news(true, State::Completed), at(2_000_000.0));
        let document = record.document(at(2_000_001.0));
        let text = serde_json::to_string(&document).unwrap();
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
        let recording = document.recordings.first().unwrap();
        assert!(
            recording
                .events
                .iter()
                .any(|e| e.detail.contains("more events")),
            "what was left out is told"
        );
        assert_eq!(
            recording.events.last().unwrap().label,
            "completed",
            "the end is kept"
        );
        let samples = &recording.samples;
        assert!(samples.len() > 100 && samples.last().unwrap().t_ms > 1_900_000.0);
    }
}
