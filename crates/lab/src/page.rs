//! A demo's runs as the document that the page shows.

use report::{Cell, Document, Event, Figure, Gap, Lane, LaneKind, Pings, Recording, Sample, spans};
use serde_json::Value;

use crate::report::{FIGURES, Progress, Run, TimelineEvent};

/// The figures that are shown large.
const HEADLINES: [&str; 5] = [
    "longest gap",
    "packets lost",
    "unplug: asked to let go",
    "downtime: stop to resume",
    "resume to primary back",
];

/// The document of one run a VMM, on one axis.
pub fn document(columns: &[(&str, &Run)], subtitle: &str, notes: Vec<String>) -> Document {
    let figures = FIGURES.iter().filter_map(|figure| {
        let cells: Vec<Cell> = columns
            .iter()
            .map(|(_, run)| (figure.take)(run).map_or(Cell::Nothing, Cell::Number))
            .collect();
        let any = cells.iter().any(|cell| *cell != Cell::Nothing);
        any.then(|| Figure {
            name: figure.name.to_owned(),
            unit: figure.unit.to_owned(),
            cells,
            headline: HEADLINES.contains(&figure.name),
            comparable: figure.name != "packets sent",
        })
    });
    let words = |name: &str, take: fn(&Run) -> String| Figure {
        name: name.to_owned(),
        unit: String::new(),
        cells: columns
            .iter()
            .map(|(_, run)| Cell::Word(take(run)))
            .collect(),
        headline: false,
        comparable: false,
    };
    let survived = |run: &Run| if run.tcp_survived { "yes" } else { "no" }.to_owned();
    let mut figures: Vec<Figure> = figures.collect();
    // What a user feels comes first.
    figures.sort_by_key(|figure| {
        HEADLINES
            .iter()
            .position(|name| *name == figure.name)
            .unwrap_or(usize::MAX)
    });
    let mut all = vec![words("migration", |run| run.status.clone())];
    all.extend(figures);
    all.push(words("TCP connection survived", survived));
    Document {
        title: title(columns),
        subtitle: subtitle.to_owned(),
        recordings: columns
            .iter()
            .map(|(name, run)| recording(name, run))
            .collect(),
        one_axis: true,
        columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        figures: all,
        notes,
    }
}

fn title(columns: &[(&str, &Run)]) -> String {
    let gaps: Vec<String> = columns
        .iter()
        .map(|(name, run)| format!("{:.0} ms with {name}", run.ping.longest_gap_ms))
        .collect();
    format!(
        "A guest moves with its passed-through NIC: longest gap {}",
        gaps.join(", ")
    )
}

/// One run. All in it was observed: the states by QMP's events, the path by what the guest's own kernel said, the pings
/// by the client.
pub fn recording(name: &str, run: &Run) -> Recording {
    let end_ms = end(run);
    let state = |side: &str, first: &str| Lane {
        label: side.to_owned(),
        kind: LaneKind::State,
        spans: spans(&states(run, side, first), end_ms),
    };
    let mut lanes = vec![state("source", ""), state("target", "")];
    lanes.retain(|lane| !lane.spans.is_empty());
    lanes.push(Lane {
        label: "guest".into(),
        kind: LaneKind::Guest,
        spans: spans(&whereabouts(run), end_ms),
    });
    lanes.push(Lane {
        label: "path".into(),
        kind: LaneKind::Path,
        spans: spans(&paths(run), end_ms),
    });
    let good = run.status == "completed" && run.faults.is_empty();
    Recording {
        name: name.to_owned(),
        outcome: match run.faults.first() {
            None => run.status.clone(),
            Some(fault) => format!("{}; {fault}", run.status),
        },
        good: Some(good),
        began_us: 0,
        lanes,
        samples: samples(&run.progress),
        pings: Some(Pings {
            interval_ms: run.ping.interval_ms as f64,
            sent: run.ping.sent as u64,
            lost_at_ms: run.ping.lost_at_ms.clone(),
            gaps: run
                .ping
                .gaps
                .iter()
                .map(|gap| Gap {
                    from_ms: gap.from_ms,
                    length_ms: gap.length_ms,
                })
                .collect(),
        }),
        events: run.events.iter().map(event).collect(),
    }
}

/// Somewhat after the last thing that is known.
fn end(run: &Run) -> f64 {
    let last_event = run.events.last().map_or(0.0, |event| event.t_ms);
    let last_gap = run
        .ping
        .gaps
        .last()
        .map_or(0.0, |gap| gap.from_ms + gap.length_ms);
    let back = run.primary_back_ms.unwrap_or(0.0);
    last_event.max(last_gap).max(back) + 3000.0
}

fn text<'a>(event: &'a TimelineEvent, member: &str) -> &'a str {
    event
        .data
        .get(member)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn states<'a>(run: &'a Run, side: &str, first: &'a str) -> Vec<(f64, &'a str)> {
    let told = run
        .events
        .iter()
        .filter(|event| event.side == side && event.event == "MIGRATION");
    let mut states: Vec<(f64, &str)> = told
        .map(|event| (event.t_ms, text(event, "status")))
        .collect();
    if !first.is_empty() {
        states.insert(0, (f64::MIN, first));
    }
    states
}

/// Long before anything: what was so when `migrate` was sent.
const BEFORE_MS: f64 = -60_000.0;

fn whereabouts(run: &Run) -> Vec<(f64, &str)> {
    let mut changes = vec![(BEFORE_MS, "source")];
    for event in &run.events {
        match (event.event.as_str(), event.side.as_str()) {
            ("STOP", "source") => changes.push((event.t_ms, "stopped")),
            ("RESUME", side @ ("source" | "target")) => changes.push((event.t_ms, side)),
            _ => {}
        }
    }
    changes
}

/// What the guest's `net_failover` says of its primary: the same words under each VMM.
fn guest_path(message: &str) -> Option<&'static str> {
    let (_, said) = message.split_once("failover primary slave")?;
    if said.contains("unregistered") {
        Some("standby")
    } else if said.contains("registered") {
        Some("primary")
    } else {
        None
    }
}

fn paths(run: &Run) -> Vec<(f64, &'static str)> {
    let mut changes = vec![(BEFORE_MS, "primary")];
    for event in run.events.iter().filter(|event| event.event == "GUEST") {
        if let Some(path) = guest_path(text(event, "message")) {
            changes.push((event.t_ms, path));
        }
    }
    changes
}

fn samples(progress: &[Progress]) -> Vec<Sample> {
    let mut all = Vec::new();
    let mut before: Option<&Progress> = None;
    for now in progress {
        let rate = before.map_or(0.0, |before| {
            let bytes = now
                .transferred_bytes
                .saturating_sub(before.transferred_bytes);
            let seconds = (now.t_ms - before.t_ms) / 1000.0;
            if seconds > 0.0 {
                bytes as f64 / seconds
            } else {
                0.0
            }
        });
        all.push(Sample {
            t_ms: now.t_ms,
            sent_bytes_per_s: rate,
            dirty_bytes_per_s: now.dirty_bytes_per_s,
            remaining_bytes: now.remaining_bytes,
        });
        before = Some(now);
    }
    all
}

fn event(event: &TimelineEvent) -> Event {
    let message = text(event, "message");
    let label = match event.event.as_str() {
        "MIGRATION" => text(event, "status").to_owned(),
        "MIGRATION_PASS" => format!("pass {}", event.data.get("pass").unwrap_or(&Value::Null)),
        "UNPLUG_PRIMARY" => "asked to let go".to_owned(),
        "FAILOVER_PATH_CHANGED" => format!("path: {}", text(event, "path")),
        "FAILOVER_NEGOTIATED" => "negotiated".to_owned(),
        "GUEST" => match guest_path(message) {
            Some("primary") => "guest: primary in".to_owned(),
            Some(_) => "guest: primary out".to_owned(),
            None if message.contains("ink is Up") => "guest: link up".to_owned(),
            None if message.contains("ink is Down") => "guest: link down".to_owned(),
            None if message.contains("failover standby") => "guest: standby".to_owned(),
            None => "guest".to_owned(),
        },
        other => other.to_owned(),
    };
    let empty = event.data.as_object().is_none_or(serde_json::Map::is_empty);
    Event {
        t_ms: event.t_ms,
        side: event.side.clone(),
        name: event.event.clone(),
        label,
        detail: match (message.is_empty(), empty) {
            (false, _) => message.to_owned(),
            (true, true) => String::new(),
            (true, false) => event.data.to_string(),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run() -> Run {
        let event = |t: f64, side: &str, name: &str, data: Value| json!({"t_ms": t, "side": side, "event": name, "data": data});
        let message = |text: &str| json!({ "message": text });
        serde_json::from_value(json!({
            "status": "completed",
            "ping": {
                "interval_ms": 10, "sent": 100, "lost": 2, "longest_gap_ms": 90.5,
                "lost_at_ms": [1210.0, 1220.0], "gaps": [{"from_ms": 1205.0, "length_ms": 90.5}]
            },
            "tcp_survived": true, "unplug_ms": 250.0, "downtime_ms": 80.0, "total_ms": 1300.0,
            "resume_to_primary_back_ms": 900.0, "boot_to_init_ms": 6000.0, "vmm_overhead_mib": 7.0,
            "progress": [
                {"t_ms": 300.0, "transferred_bytes": 1000, "remaining_bytes": 9, "total_bytes": 10,
                 "dirty_bytes_per_s": 5.0, "expected_downtime_ms": 300.0},
                {"t_ms": 350.0, "transferred_bytes": 6000, "remaining_bytes": 4, "total_bytes": 10,
                 "dirty_bytes_per_s": 5.0, "expected_downtime_ms": null}
            ],
            "events": [
                event(3.0, "source", "MIGRATION", json!({"status": "setup"})),
                event(7.0, "target", "MIGRATION", json!({"status": "active"})),
                event(170.0, "source", "GUEST", message("virtio_net virtio0 eth0: failover primary slave:eth2 unregistered")),
                event(1200.0, "source", "STOP", json!({})),
                event(1280.0, "target", "RESUME", json!({})),
                event(2100.0, "target", "GUEST", message("virtio_net virtio0 eth0: failover primary slave:eth1 registered")),
                event(4700.0, "target", "GUEST", message("igbvf 0000:01:00.0: Link is Up 1000 Mbps Full Duplex")),
            ]
        }))
        .unwrap()
    }

    fn lane(recording: &Recording, label: &str) -> Vec<(f64, String)> {
        let lane = recording
            .lanes
            .iter()
            .find(|lane| lane.label == label)
            .unwrap();
        lane.spans
            .iter()
            .map(|span| (span.from_ms, span.value.clone()))
            .collect()
    }

    #[test]
    fn lanes_show_what_was_observed() {
        let recording = recording("qemu", &run());
        let owned = |list: &[(f64, &str)]| -> Vec<(f64, String)> {
            list.iter()
                .map(|(t, word)| (*t, (*word).to_owned()))
                .collect()
        };
        assert_eq!(
            lane(&recording, "path"),
            owned(&[
                (BEFORE_MS, "primary"),
                (170.0, "standby"),
                (2100.0, "primary")
            ])
        );
        assert_eq!(
            lane(&recording, "guest"),
            owned(&[
                (BEFORE_MS, "source"),
                (1200.0, "stopped"),
                (1280.0, "target")
            ])
        );
        assert_eq!(lane(&recording, "target"), owned(&[(7.0, "active")]));
        assert_eq!(
            recording.samples.get(1).unwrap().sent_bytes_per_s,
            100_000.0
        );
        assert_eq!(recording.good, Some(true));
        let labels: Vec<_> = recording.events.iter().map(|e| e.label.as_str()).collect();
        assert_eq!(
            labels,
            [
                "setup",
                "active",
                "guest: primary out",
                "STOP",
                "RESUME",
                "guest: primary in",
                "guest: link up"
            ]
        );
    }

    #[test]
    fn two_vmms_are_on_one_axis_with_their_ratio() {
        let (ours, mut theirs) = (run(), run());
        theirs.ping.longest_gap_ms = 905.0;
        theirs.faults.push("it <fell> over".to_owned());
        let document = document(
            &[("standfast", &ours), ("qemu", &theirs)],
            "here",
            Vec::new(),
        );
        assert!(document.one_axis);
        assert_eq!(
            document
                .recordings
                .iter()
                .map(|r| r.good)
                .collect::<Vec<_>>(),
            [Some(true), Some(false)]
        );
        let html = report::page(&document);
        assert!(html.contains("10.0 times less"), "the gap's ratio");
        assert!(html.contains("it &lt;fell&gt; over"));
        assert_eq!(html.matches("<td class=\"n\">0.10</td>").count(), 1);
    }

    /// Older reports: without what was added since.
    #[test]
    fn a_report_without_samples_is_read() {
        let mut value = serde_json::to_value(run()).unwrap();
        let object = value.as_object_mut().unwrap();
        object.remove("progress");
        let ping = object.get_mut("ping").unwrap().as_object_mut().unwrap();
        ping.remove("gaps");
        ping.remove("lost_at_ms");
        let old: Run = serde_json::from_value(value).unwrap();
        assert!(recording("standfast", &old).samples.is_empty());
    }
}
