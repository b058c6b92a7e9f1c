//! The page around the pictures.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chart::{chart, class, hand_over, window, words};
use crate::document::{Document, LaneKind, Recording};
use crate::figures;
use crate::scale::duration;

/// The style sheet goes into the page: it opens from disk.
const STYLE: &str = include_str!("style.css");
/// Nothing is loaded, run or sent, whatever a text in the document may try.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A document as one HTML file that needs nothing else.
#[must_use]
pub fn page(document: &Document) -> String {
    let whole = document
        .one_axis
        .then(|| window(&document.recordings))
        .flatten();
    let title = if document.title.is_empty() {
        "Migrations"
    } else {
        &document.title
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    @if !document.subtitle.is_empty() { p.subtitle { (document.subtitle) } }
                }
                (figures::headlines(document))
                @if document.recordings.is_empty() { p.empty { "Nothing was recorded: there was no migration." } }
                @for recording in &document.recordings { (panel(recording, whole)) }
                @if !document.figures.is_empty() { section { h2 { "All figures" } (figures::table(document)) } }
                @for recording in &document.recordings { (happened(recording)) }
                @if !document.notes.is_empty() {
                    section.notes { h2 { "To know" } ul { @for note in &document.notes { li { (note) } } } }
                }
            }
        }
    }
    .into_string()
}

fn panel(recording: &Recording, whole: Option<(f64, f64)>) -> Markup {
    let shown = whole.or_else(|| window([recording]));
    let verdict = match recording.good {
        Some(true) => "verdict good",
        Some(false) => "verdict bad",
        None => "verdict",
    };
    html! {
        section.panel {
            div.heading {
                h2 { (recording.name) }
                span class=(verdict) { (recording.outcome) }
                (legend(recording))
            }
            @if let Some(shown) = shown {
                div.scroll { (chart(recording, shown)) }
                @if let Some(close) = hand_over(recording, shown) {
                    h3 { "The hand-over, " (format!("{:.0}", (shown.1 - shown.0) / (close.1 - close.0))) " times as large: " (duration(close.1 - close.0)) " of it" }
                    div.scroll { (chart(recording, close)) }
                }
            } @else {
                p.empty { "Nothing happened." }
            }
        }
    }
}

/// What the colours of this recording stand for.
fn legend(recording: &Recording) -> Markup {
    let mut known: Vec<(&'static str, String)> = Vec::new();
    let order = [LaneKind::State, LaneKind::Guest, LaneKind::Path];
    for kind in order {
        for lane in recording.lanes.iter().filter(|lane| lane.kind == kind) {
            for span in &lane.spans {
                let entry = (class(kind, &span.value), words(kind, &span.value));
                if !known.iter().any(|(class, _)| *class == entry.0) {
                    known.push(entry);
                }
            }
        }
    }
    html! {
        span.legend {
            @for (class, text) in known { span.entry { span class=(format!("swatch {class}")) {} (text) } }
        }
    }
}

/// The list of what happened, by the numbers in the picture.
fn happened(recording: &Recording) -> Markup {
    let last = |index: usize| index.checked_sub(1).and_then(|i| recording.events.get(i));
    html! {
        @if !recording.events.is_empty() {
            section {
                h2 { (recording.name) ": what happened" }
                table.events {
                    thead { tr { th.n { "№" } th.n { "ms" } th.n { "after" } th { "side" } th { "event" } th { "what it said" } } }
                    tbody {
                        @for (index, event) in recording.events.iter().enumerate() {
                            tr {
                                td.n { (index + 1) }
                                td.n { (format!("{:.1}", event.t_ms)) }
                                td.n.soft { @if let Some(before) = last(index) { "+" (format!("{:.1}", event.t_ms - before.t_ms)) } }
                                td { (event.side) }
                                td.name { (event.name) }
                                td.detail { (event.detail) }
                            }
                        }
                    }
                }
            }
        }
    }
}
