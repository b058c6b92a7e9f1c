//! What a report holds: one set of types for the JSON and for the page.

use serde::{Deserialize, Serialize};

/// A whole report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Document {
    /// What it is about, in a few words.
    pub title: String,
    /// Where and with what it was recorded.
    #[serde(default)]
    pub subtitle: String,
    /// The recordings, stacked in this order.
    pub recordings: Vec<Recording>,
    /// All recordings have one time axis, so that they can be compared.
    #[serde(default)]
    pub one_axis: bool,
    /// The table beneath: a column a name.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Its rows.
    #[serde(default)]
    pub figures: Vec<Figure>,
    /// What a reader has to know besides.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One migration, of one VMM. All times are milliseconds since it began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recording {
    /// Whose it is.
    pub name: String,
    /// How it ended, in a word or a sentence.
    pub outcome: String,
    /// It ended as it should; `None` while it runs.
    #[serde(default)]
    pub good: Option<bool>,
    /// When it began, in microseconds since 1970.
    #[serde(default)]
    pub began_us: u64,
    /// What was when.
    pub lanes: Vec<Lane>,
    /// How fast memory travelled.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// What a client outside saw, where one looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pings: Option<Pings>,
    /// What happened.
    pub events: Vec<Event>,
}

/// What a lane shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneKind {
    /// The migration's state, in QMP's words.
    State,
    /// Which of a pair's devices carries the guest's traffic: `standby` or `primary`.
    Path,
    /// Where the guest runs: `source`, `stopped` or `target`.
    Guest,
}

/// What one thing was, from the beginning to the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lane {
    /// Its name at the margin.
    pub label: String,
    /// What it shows.
    pub kind: LaneKind,
    /// Its values, in order.
    pub spans: Vec<Span>,
}

/// A value for a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Span {
    /// Since when.
    pub from_ms: f64,
    /// Until when.
    pub to_ms: f64,
    /// What.
    pub value: String,
}

/// How fast memory travelled, and how fast the guest wrote it, at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sample {
    /// When.
    pub t_ms: f64,
    /// Bytes a second on the wire since the sample before.
    pub sent_bytes_per_s: f64,
    /// Bytes a second that the guest wrote anew, at the last look at its pages.
    pub dirty_bytes_per_s: f64,
    /// Bytes left to send in this pass.
    pub remaining_bytes: u64,
}

/// A client's requests at a fixed pace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pings {
    /// From one to the next.
    pub interval_ms: f64,
    /// How many.
    pub sent: u64,
    /// When each that was never answered was sent.
    pub lost_at_ms: Vec<f64>,
    /// The times without any answer, in order.
    pub gaps: Vec<Gap>,
}

/// A time without any answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gap {
    /// Since when.
    pub from_ms: f64,
    /// How long.
    pub length_ms: f64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// When.
    pub t_ms: f64,
    /// Where: `source`, `target`, or nothing where there is one side only.
    #[serde(default)]
    pub side: String,
    /// Its name.
    pub name: String,
    /// A few words for the plot; its name, if empty.
    #[serde(default)]
    pub label: String,
    /// What it said.
    #[serde(default)]
    pub detail: String,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Figure {
    /// What is measured.
    pub name: String,
    /// In what; empty for a number of things and for a word.
    #[serde(default)]
    pub unit: String,
    /// One a column.
    pub cells: Vec<Cell>,
    /// Shown large above the plot, too.
    #[serde(default)]
    pub headline: bool,
    /// The first column divided by the second says something.
    #[serde(default)]
    pub comparable: bool,
}

/// A cell of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// Nothing was measured.
    Nothing,
    /// A figure.
    Number(f64),
    /// A word.
    Word(String),
}

/// Spans from the moments at which a value changed, up to `end_ms`. Moments out of order and repeated values do no harm.
#[must_use]
pub fn spans(changes: &[(f64, &str)], end_ms: f64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for &(at, value) in changes {
        if let Some(last) = spans.last_mut() {
            if last.value == value {
                continue;
            }
            last.to_ms = at.max(last.from_ms);
        }
        spans.push(Span {
            from_ms: at,
            to_ms: end_ms.max(at),
            value: value.to_owned(),
        });
    }
    spans
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn spans_meet_and_do_not_repeat() {
        let all = spans(&[(0.0, "setup"), (5.0, "setup"), (7.0, "active")], 9.0);
        let shape: Vec<_> = all
            .iter()
            .map(|s| (s.from_ms, s.to_ms, s.value.as_str()))
            .collect();
        assert_eq!(shape, [(0.0, 7.0, "setup"), (7.0, 9.0, "active")]);
        assert!(spans(&[], 9.0).is_empty());
        let backwards = spans(&[(5.0, "a"), (3.0, "b")], 1.0);
        assert!(backwards.iter().all(|s| s.to_ms >= s.from_ms));
    }

    #[test]
    fn a_document_survives_json() {
        let document = Document {
            title: "t".into(),
            recordings: vec![Recording {
                name: "standfast".into(),
                good: Some(true),
                pings: Some(Pings::default()),
                ..Recording::default()
            }],
            columns: vec!["standfast".into()],
            figures: vec![Figure {
                name: "longest gap".into(),
                unit: "ms".into(),
                cells: vec![Cell::Number(1.5), Cell::Nothing, Cell::Word("yes".into())],
                headline: true,
                comparable: true,
            }],
            ..Document::default()
        };
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
    }
}
