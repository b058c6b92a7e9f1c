//! `-failover-report` and `query-failover-report`, on a source and on a target.

use std::path::Path;
use std::time::Instant;

use report::{Document, LaneKind, Recording};
use serde_json::json;

use crate::client::{Machine, PATIENCE};
use crate::migrate::{EJECT, completed, dawdle, incoming, migrate, tell_states};
use crate::pair::{PORTS, accept, add_primary, add_standby, expect};
use crate::pci::Pci;

/// Starts a machine whose report goes to `folder`.
fn reporting(folder: &Path, name: &str, more: &str) -> Machine {
    let file = folder.join(name);
    Machine::start(&format!(
        "{PORTS} -name {name} -failover-report {} {more}",
        file.display()
    ))
}

fn asked(machine: &mut Machine) -> Document {
    let value = machine.qmp("query-failover-report", json!({})).unwrap();
    serde_json::from_value(value).unwrap()
}

fn values(recording: &Recording, kind: LaneKind) -> Vec<&str> {
    let lanes = recording.lanes.iter().filter(|lane| lane.kind == kind);
    lanes
        .flat_map(|lane| lane.spans.iter().map(|span| span.value.as_str()))
        .collect()
}

#[test]
fn both_sides_of_a_migration_have_their_report() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = reporting(folder.path(), "source.html", "");
    assert!(asked(&mut source).recordings.is_empty());
    let mut pci = Pci::set_up(&mut source, 2);
    add_standby(&mut source, 0, true);
    accept(&mut source, &mut pci, 1, "standby0");
    add_primary(&mut source, 0);
    expect(&mut source, &["standby0", "primary0"], &[]);
    let file = source.folder.path().join("stream");
    tell_states(&mut source);
    dawdle(&mut source);
    migrate(&mut source, &file);
    assert_eq!(source.event("UNPLUG_PRIMARY")["device-id"], "primary0");
    source.until("wait-unplug", &["setup"]);
    let under_way = asked(&mut source);
    let now = under_way.recordings.first().unwrap();
    assert_eq!((now.outcome.as_str(), now.good), ("wait-unplug", None));
    source.command(EJECT);
    let end = Instant::now() + PATIENCE;
    while asked(&mut source).recordings[0].samples.is_empty() {
        assert!(Instant::now() < end, "memory's rate is not sampled");
    }
    source.set_parameters(json!({"max-bandwidth": 0}));
    completed(&mut source);

    let document = asked(&mut source);
    let left = document.recordings.first().unwrap();
    assert_eq!(
        (left.outcome.as_str(), left.good),
        ("completed", Some(true))
    );
    assert_eq!(
        values(left, LaneKind::State),
        ["setup", "wait-unplug", "active", "device", "completed"]
    );
    assert_eq!(
        values(left, LaneKind::Guest),
        ["source", "stopped", "target"]
    );
    assert_eq!(values(left, LaneKind::Path).last(), Some(&"standby"));
    assert!(left.events.iter().any(|e| e.name == "UNPLUG_PRIMARY"));
    assert!(!left.samples.is_empty(), "the samples stay");

    let mut target = reporting(folder.path(), "target.json", "-incoming defer");
    Pci::set_up(&mut target, 2);
    add_standby(&mut target, 0, true);
    add_primary(&mut target, 0);
    incoming(&mut target, &file);
    completed(&mut target);
    expect(&mut target, &["standby0", "primary0"], &[]);
    let document = asked(&mut target);
    let came = document.recordings.first().unwrap();
    assert_eq!(
        values(came, LaneKind::State),
        ["setup", "active", "completed"]
    );
    assert_eq!(values(came, LaneKind::Guest), ["target"]);

    source.stop();
    target.stop();
    for (name, state) in [("source", "wait-unplug"), ("target", "active")] {
        let html = std::fs::read_to_string(folder.path().join(format!("{name}.html"))).unwrap();
        assert!(
            html.contains("<svg") && html.contains(&format!("bar {state}")),
            "{name}"
        );
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.json"))).unwrap();
        let written: Document = serde_json::from_str(&text).unwrap();
        assert_eq!(written.recordings.first().unwrap().outcome, "completed");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(
        left.len(),
        4,
        "nothing but two pages and two documents: {left:?}"
    );
}
