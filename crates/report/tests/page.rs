//! The page of a migration, and of what a hostile one would say.
#![allow(clippy::unwrap_used)]

use report::{
    Cell, Document, Event, Figure, Gap, Lane, LaneKind, Pings, Recording, Sample, page, spans,
};

fn recording() -> Recording {
    Recording {
        name: "standfast".into(),
        outcome: "completed".into(),
        good: Some(true),
        began_us: 0,
        lanes: vec![
            Lane {
                label: "source".into(),
                kind: LaneKind::State,
                spans: spans(
                    &[
                        (0.0, "setup"),
                        (20.0, "wait-unplug"),
                        (260.0, "active"),
                        (1200.0, "device"),
                        (1300.0, "completed"),
                    ],
                    5000.0,
                ),
            },
            Lane {
                label: "guest".into(),
                kind: LaneKind::Guest,
                spans: spans(
                    &[(-9.0, "source"), (1200.0, "stopped"), (1290.0, "target")],
                    5000.0,
                ),
            },
        ],
        samples: (0..20)
            .map(|n| Sample {
                t_ms: 260.0 + f64::from(n) * 50.0,
                sent_bytes_per_s: 1e8,
                dirty_bytes_per_s: 1e6,
                remaining_bytes: 0,
            })
            .collect(),
        pings: Some(Pings {
            interval_ms: 10.0,
            sent: 900,
            lost_at_ms: (0..17).map(|n| 1205.0 + f64::from(n) * 10.0).collect(),
            gaps: vec![
                Gap {
                    from_ms: 160.0,
                    length_ms: 28.0,
                },
                Gap {
                    from_ms: 1198.0,
                    length_ms: 178.0,
                },
            ],
        }),
        events: [
            (1200.0, "source", "STOP"),
            (1290.0, "target", "RESUME"),
            (4000.0, "target", "DONE"),
        ]
        .map(|(t_ms, side, name)| Event {
            t_ms,
            side: side.into(),
            name: name.into(),
            label: String::new(),
            detail: String::new(),
        })
        .to_vec(),
    }
}

fn document(recordings: Vec<Recording>) -> Document {
    Document {
        title: "A migration".into(),
        recordings,
        one_axis: true,
        ..Document::default()
    }
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[test]
fn everything_that_was_recorded_is_drawn() {
    let html = page(&document(vec![recording()]));
    // In the whole, and again in the hand-over close up.
    assert_eq!(count(&html, "<svg"), 2);
    assert_eq!(count(&html, "<line class=\"lost\""), 34, "each lost packet");
    assert_eq!(
        count(&html, "<line class=\"silence\""),
        3,
        "each gap; one is not in the close-up"
    );
    assert_eq!(
        count(&html, "<rect class=\"gap\""),
        2,
        "the striking one through all lanes"
    );
    for state in [
        "wait-unplug",
        "active",
        "device",
        "completed",
        "stopped",
        "on-source",
        "on-target",
    ] {
        assert!(
            html.contains(&format!("<rect class=\"bar {state}\"")),
            "{state}"
        );
    }
    assert!(html.contains("178 ms without an answer"));
    assert_eq!(count(&html, "<polyline class=\"sent-line\""), 2);
    assert!(html.contains("<td class=\"name\">RESUME</td>"));
    assert_eq!(count(&html, "<circle class=\"mark source\""), 2);
}

#[test]
fn nothing_outside_the_file_is_needed() {
    let html = page(&document(vec![recording()]));
    for asked in [
        "http:", "https:", "<script", "<link", "<img", "url(", "@import", "src=",
    ] {
        assert!(!html.contains(asked), "{asked}");
    }
    assert!(html.contains("default-src 'none'"));
    assert!(html.contains("prefers-color-scheme: dark"));
}

#[test]
fn every_element_is_closed() {
    let html = page(&document(vec![recording()]));
    for name in [
        "svg", "g", "rect", "line", "text", "circle", "table", "td", "section", "span", "div",
        "title",
    ] {
        let open = count(&html, &format!("<{name} ")) + count(&html, &format!("<{name}>"));
        assert_eq!(open, count(&html, &format!("</{name}>")), "{name}");
        assert!(open > 0, "{name}");
    }
}

/// Whatever a guest's console, a client's id or a peer's reason holds, it stays a text.
#[test]
fn a_hostile_text_stays_a_text() {
    let evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>&lt;]]>";
    let mut bad = recording();
    bad.name = evil.into();
    bad.outcome = evil.into();
    for lane in &mut bad.lanes {
        lane.label = evil.into();
        for span in &mut lane.spans {
            span.value = evil.into();
        }
    }
    for event in &mut bad.events {
        event.name = evil.into();
        event.label = evil.into();
        event.detail = evil.into();
        event.side = evil.into();
    }
    let mut document = document(vec![bad]);
    document.title = evil.into();
    document.subtitle = evil.into();
    document.columns = vec![evil.into(), evil.into()];
    document.notes = vec![evil.into()];
    document.figures = vec![Figure {
        name: evil.into(),
        unit: evil.into(),
        cells: vec![Cell::Word(evil.into()), Cell::Nothing],
        headline: true,
        comparable: true,
    }];
    let html = page(&document);
    assert!(!html.contains("<script") && !html.contains("<img"));
    assert!(!html.contains(evil) && !html.contains("onerror=alert(1)>"));
    assert!(html.contains("&lt;script&gt;alert(1)"));
}

/// A clock that jumped, a division by nothing.
#[test]
fn numbers_that_are_none_are_left_out() {
    let mut bad = recording();
    for value in [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
    ] {
        bad.samples.push(Sample {
            t_ms: value,
            sent_bytes_per_s: value,
            dirty_bytes_per_s: value,
            remaining_bytes: u64::MAX,
        });
        bad.events.push(Event {
            t_ms: value,
            side: String::new(),
            name: "X".into(),
            label: String::new(),
            detail: String::new(),
        });
        if let Some(pings) = &mut bad.pings {
            pings.lost_at_ms.push(value);
            pings.gaps.push(Gap {
                from_ms: value,
                length_ms: value,
            });
            pings.interval_ms = value;
        }
        if let Some(lane) = bad.lanes.first_mut() {
            lane.spans.extend(spans(&[(value, "active")], value));
        }
    }
    let html = page(&document(vec![bad]));
    for wrong in ["=\"NaN", "=\"inf", "=\"-inf", ",NaN", ",inf"] {
        let at = html.find(wrong);
        let around = at.and_then(|at| html.get(at.saturating_sub(60)..at + 60));
        assert_eq!(around, None, "{wrong}");
    }
}

#[test]
fn an_empty_report_says_so() {
    assert!(page(&Document::default()).contains("there was no migration"));
    assert!(page(&document(vec![Recording::default()])).contains("Nothing happened"));
}
