//! One recording as a picture: lanes above each other, time across.
//!
//! ```text
//!   source   ▓setup▓▓wait-unplug▓▓▓▓▓▓▓▓▓active▓▓▓▓▓▓▓▓▓▓█completed
//!   target         ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓active▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓completed
//!   guest    ▒▒▒▒▒▒▒▒▒▒▒▒▒▒on the source▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒█▒on the target▒▒▒
//!   path     primary ▓▓standby▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓primary
//!   RAM      ▁▂▇▇▇▇▇▇▃▁
//!   pings    ──────────────────────────────────────────────┤┆┆┆├────────── gaps, lost ones
//!   source   ① ② ③ …                                                       events
//!   target
//!            0        1 s        2 s        3 s
//! ```

use maud::{Markup, html};

use crate::document::{Gap, Lane, LaneKind, Pings, Recording, Sample, Span};
use crate::events::{self, Placed};
use crate::scale::{Scale, duration, moment, px, rate, round_step, text_width};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 116.0;
const RIGHT: f64 = 16.0;
const LANE: f64 = 22.0;
const SPACE: f64 = 6.0;
const RATES: f64 = 62.0;
const PINGS: f64 = 38.0;
const AXIS: f64 = 26.0;
/// A gap this many times the distance of two requests goes through all lanes.
const STRIKING: f64 = 8.0;

/// No migration takes thirty years: what is so far away is a clock that was set.
const BEYOND_MS: f64 = 1e12;

/// What is drawn from when to when: all that happened, with a margin. `None` if nothing did.
pub(crate) fn window<'a>(
    recordings: impl IntoIterator<Item = &'a Recording>,
) -> Option<(f64, f64)> {
    let mut moments = Vec::new();
    for recording in recordings {
        moments.extend(recording.events.iter().map(|event| event.t_ms));
        moments.extend(recording.samples.iter().map(|sample| sample.t_ms));
        for lane in &recording.lanes {
            // Where a span begins something happened; the last one ends where the recording does.
            moments.extend(lane.spans.iter().skip(1).map(|span| span.from_ms));
        }
        if let Some(pings) = &recording.pings {
            moments.extend(&pings.lost_at_ms);
            for gap in &pings.gaps {
                moments.extend([gap.from_ms, gap.from_ms + gap.length_ms]);
            }
        }
    }
    moments.retain(|t| t.abs() < BEYOND_MS);
    let first = moments.iter().copied().reduce(f64::min)?.min(0.0);
    let last = moments.iter().copied().reduce(f64::max)?.max(first + 10.0);
    let margin = (last - first) * 0.04;
    Some((first - margin, last + margin * 2.0))
}

/// The moments around the hand-over: from the guest's stop to its first answer, with a margin. `None` if that is not
/// to be seen, or fills most of `whole` anyway.
pub(crate) fn hand_over(recording: &Recording, whole: (f64, f64)) -> Option<(f64, f64)> {
    let guest = recording
        .lanes
        .iter()
        .find(|lane| lane.kind == LaneKind::Guest)?;
    let stopped = guest.spans.iter().find(|span| span.value == "stopped")?;
    let (mut from, mut to) = (stopped.from_ms, stopped.to_ms);
    for gap in recording.pings.iter().flat_map(|pings| &pings.gaps) {
        let end = gap.from_ms + gap.length_ms;
        if gap.from_ms < stopped.to_ms + 1.0 && end > stopped.from_ms {
            from = from.min(gap.from_ms);
            to = to.max(end);
        }
    }
    let margin = ((to - from) * 0.35).max(20.0);
    let (from, to) = (from - margin, to + margin);
    ((to - from) * 3.0 < whole.1 - whole.0).then_some((from, to))
}

/// Draws a recording from `window.0` to `window.1` (ms).
pub(crate) fn chart(recording: &Recording, window: (f64, f64)) -> Markup {
    let scale = Scale::new(window.0, window.1, LEFT, WIDTH - LEFT - RIGHT);
    let events = events::place(&recording.events, &scale);
    let mut y = 4.0;
    let mut row = |height: f64| {
        let at = y;
        y += height + SPACE;
        at
    };
    let lanes: Vec<(f64, &Lane)> = recording
        .lanes
        .iter()
        .map(|lane| (row(LANE), lane))
        .collect();
    let samples: Vec<Sample> = recording
        .samples
        .iter()
        .filter(|sample| scale.contains(sample.t_ms))
        .copied()
        .collect();
    let rates = (samples.len() > 1).then(|| row(RATES));
    let pings = recording.pings.as_ref().map(|pings| (row(PINGS), pings));
    let sides: Vec<(f64, &events::Side)> = events
        .iter()
        .map(|side| (row(side.height()), side))
        .collect();
    let bottom = y;
    let height = bottom + AXIS;
    let name = format!("{}: {}", recording.name, recording.outcome);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", px(height))) role="img" aria-label=(name) {
            (axis(&scale, window, bottom))
            @if let Some((_, pings)) = pings { (striking_gaps(pings, &scale, bottom)) }
            @for (y, lane) in &lanes { (bars(lane, *y, &scale)) }
            @if let Some(y) = rates { (rate_curves(&samples, y, &scale)) }
            @if let Some((y, pings)) = pings { (requests(pings, y, &scale)) }
            @for (_, side) in &sides { @for event in &side.events { (guide(event, bottom)) } }
            @for (y, side) in &sides { (marks(side, *y)) }
        }
    }
}

fn margin_text(text: &str, y: f64) -> Markup {
    html! { text.margin x=(px(LEFT - 10.0)) y=(px(y)) text-anchor="end" { (text) } }
}

fn axis(scale: &Scale, window: (f64, f64), bottom: f64) -> Markup {
    let ticks = scale.ticks();
    // Fractions of a second are milliseconds until the whole is seconds.
    let long = window.1 - window.0 >= 2000.0;
    html! {
        @for tick in ticks {
            line.grid x1=(px(scale.x(tick))) x2=(px(scale.x(tick))) y1="0" y2=(px(bottom)) {}
            text.tick x=(px(scale.x(tick))) y=(px(bottom + 16.0)) text-anchor="middle" { (moment(tick, long)) }
        }
        line.axis x1=(px(scale.left())) x2=(px(scale.right())) y1=(px(bottom)) y2=(px(bottom)) {}
    }
}

/// The class of a bar. Whatever a document holds, only these reach the page.
pub(crate) fn class(kind: LaneKind, value: &str) -> &'static str {
    match (kind, value) {
        (LaneKind::Path, "primary") => "primary",
        (LaneKind::Path, "standby") => "standby",
        (LaneKind::Guest, "source") => "on-source",
        (LaneKind::Guest, "target") => "on-target",
        (LaneKind::Guest, "stopped") => "stopped",
        (LaneKind::State, "setup") => "setup",
        (LaneKind::State, "wait-unplug") => "wait-unplug",
        (LaneKind::State, "active") => "active",
        (LaneKind::State, "pre-switchover" | "device") => "device",
        (LaneKind::State, "completed") => "completed",
        (LaneKind::State, "failed") => "failed",
        (LaneKind::State, "cancelling" | "cancelled") => "cancelled",
        _ => "other",
    }
}

/// A value as a person reads it.
pub(crate) fn words(kind: LaneKind, value: &str) -> String {
    match (kind, value) {
        (LaneKind::Guest, "source") => "runs on the source".to_owned(),
        (LaneKind::Guest, "target") => "runs on the target".to_owned(),
        _ => value.to_owned(),
    }
}

fn bars(lane: &Lane, y: f64, scale: &Scale) -> Markup {
    let bar = |span: &Span| {
        let (from, to) = (scale.x(span.from_ms), scale.x(span.to_ms));
        // What is short is still to be seen.
        let width = (to - from).max(1.5);
        let text = words(lane.kind, &span.value);
        let told = format!(
            "{}: {text}, {} from {} on",
            lane.label,
            duration(span.to_ms - span.from_ms),
            duration(span.from_ms)
        );
        html! {
            g {
                rect class=(format!("bar {}", class(lane.kind, &span.value)))
                    x=(px(from)) y=(px(y)) width=(px(width)) height=(px(LANE)) rx="2.5" {}
                @if text_width(&text) + 10.0 < width {
                    text class=(format!("in-bar on-{}", class(lane.kind, &span.value)))
                        x=(px(from + 6.0)) y=(px(y + 15.0)) { (text) }
                }
                title { (told) }
            }
        }
    };
    let shown = |span: &&Span| {
        let outside = scale.x(span.from_ms) >= scale.right() || scale.x(span.to_ms) <= scale.left();
        span.from_ms.is_finite() && span.to_ms.is_finite() && !outside
    };
    html! {
        (margin_text(&lane.label, y + 15.0))
        rect.track x=(px(scale.left())) y=(px(y)) width=(px(scale.right() - scale.left())) height=(px(LANE)) rx="2.5" {}
        @for span in lane.spans.iter().filter(shown) { (bar(span)) }
    }
}

fn rate_curves(samples: &[Sample], y: f64, scale: &Scale) -> Markup {
    let finite = |value: f64| {
        if value.is_finite() {
            value.max(0.0)
        } else {
            0.0
        }
    };
    let most = samples
        .iter()
        .map(|s| finite(s.sent_bytes_per_s).max(finite(s.dirty_bytes_per_s)))
        .fold(0.0, f64::max);
    // Round in the unit in which it is written.
    let unit = if most >= 1024.0 * 1024.0 {
        1024.0 * 1024.0
    } else {
        1024.0
    };
    let top = round_step(most / unit) * unit;
    let at = |value: f64| y + RATES - RATES * (finite(value) / top).min(1.0);
    let points = |take: fn(&Sample) -> f64| -> String {
        samples
            .iter()
            .map(|s| format!("{},{}", px(scale.x(s.t_ms)), px(at(take(s)))))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let sent = points(|s| s.sent_bytes_per_s);
    let dirty = points(|s| s.dirty_bytes_per_s);
    let ends = samples.first().zip(samples.last());
    html! {
        g {
            rect.track x=(px(scale.left())) y=(px(y)) width=(px(scale.right() - scale.left())) height=(px(RATES)) rx="2.5" {}
            (margin_text("RAM", y + 13.0))
            text.margin.key-sent x=(px(LEFT - 10.0)) y=(px(y + 30.0)) text-anchor="end" { "sent ▬" }
            text.margin.key-dirty x=(px(LEFT - 10.0)) y=(px(y + 46.0)) text-anchor="end" { "rewritten ▬" }
            @if let Some((first, last)) = ends {
                polygon.sent points=(format!("{},{} {sent} {},{}",
                    px(scale.x(first.t_ms)), px(y + RATES), px(scale.x(last.t_ms)), px(y + RATES))) {}
                polyline.sent-line points=(sent) {}
                polyline.dirty-line points=(dirty) {}
            }
            line.half x1=(px(scale.left())) x2=(px(scale.right())) y1=(px(y + RATES / 2.0)) y2=(px(y + RATES / 2.0)) {}
            text.small x=(px(scale.right() - 4.0)) y=(px(y + 11.0)) text-anchor="end" { (rate(top)) }
            text.small x=(px(scale.right() - 4.0)) y=(px(y + RATES / 2.0 + 11.0)) text-anchor="end" { (rate(top / 2.0)) }
            title { (format!("memory: at most {} a second on the wire", rate(most).trim_end_matches("/s"))) }
        }
    }
}

fn is_striking(pings: &Pings) -> impl Fn(&&Gap) -> bool + use<> {
    let least = pings.interval_ms * STRIKING;
    move |gap: &&Gap| gap.length_ms >= least
}

fn striking_gaps(pings: &Pings, scale: &Scale, bottom: f64) -> Markup {
    html! {
        @for gap in pings.gaps.iter().filter(is_striking(pings)) {
            @let (from, to) = (scale.x(gap.from_ms), scale.x(gap.from_ms + gap.length_ms));
            rect.gap x=(px(from)) y="0" width=(px((to - from).max(1.0))) height=(px(bottom)) {}
        }
    }
}

fn requests(pings: &Pings, y: f64, scale: &Scale) -> Markup {
    let line = y + 27.0;
    // A label where there is room for it; the longest gaps come first.
    let mut gaps: Vec<&Gap> = pings.gaps.iter().collect();
    gaps.sort_by(|a, b| b.length_ms.total_cmp(&a.length_ms));
    let mut taken: Vec<(f64, f64)> = Vec::new();
    let mut labels = Vec::new();
    for gap in &gaps {
        let text = format!("{} without an answer", duration(gap.length_ms));
        let short = duration(gap.length_ms);
        let middle = scale.x(gap.from_ms + gap.length_ms / 2.0);
        for text in [text, short] {
            let half = text_width(&text) / 2.0 + 4.0;
            let place = (middle - half, middle + half);
            let inside = place.0 >= scale.left() && place.1 <= scale.right();
            if inside
                && scale.contains(gap.from_ms)
                && taken.iter().all(|t| place.1 < t.0 || place.0 > t.1)
            {
                taken.push(place);
                labels.push((middle, text));
                break;
            }
        }
    }
    let told = format!(
        "{} requests, one every {}; {} without an answer",
        pings.sent,
        duration(pings.interval_ms),
        pings.lost_at_ms.len()
    );
    html! {
        g {
            title { (told) }
            (margin_text("pings", y + 17.0))
            text.margin.key-lost x=(px(LEFT - 10.0)) y=(px(y + 32.0)) text-anchor="end" { (pings.lost_at_ms.len()) " lost" }
            rect.track x=(px(scale.left())) y=(px(y)) width=(px(scale.right() - scale.left())) height=(px(PINGS)) rx="2.5" {}
            line.answered x1=(px(scale.left())) x2=(px(scale.right())) y1=(px(line)) y2=(px(line)) {}
            @for gap in gaps.iter().filter(|gap| gap.from_ms.is_finite() && gap.length_ms.is_finite()) {
                @let (from, to) = (scale.x(gap.from_ms), scale.x(gap.from_ms + gap.length_ms));
                @if to > scale.left() && from < scale.right() {
                    g {
                        line.silence x1=(px(from)) x2=(px(to.max(from + 1.0))) y1=(px(line)) y2=(px(line)) {}
                        title { (format!("no answer for {} from {} on", duration(gap.length_ms), duration(gap.from_ms))) }
                    }
                }
            }
            @for lost in pings.lost_at_ms.iter().filter(|t| scale.contains(**t)) {
                line.lost x1=(px(scale.x(*lost))) x2=(px(scale.x(*lost))) y1=(px(line - 7.0)) y2=(px(line + 7.0)) {}
            }
            @for (x, text) in labels { text.gap-label x=(px(x)) y=(px(y + 13.0)) text-anchor="middle" { (text) } }
        }
    }
}

fn guide(event: &Placed<'_>, bottom: f64) -> Markup {
    if !event.decisive() {
        return html! {};
    }
    html! { line.guide x1=(px(event.x)) x2=(px(event.x)) y1="0" y2=(px(bottom)) {} }
}

fn marks(side: &events::Side<'_>, top: f64) -> Markup {
    html! {
        (margin_text(side.title(), top + 12.0))
        @for event in &side.events {
            @let y = top + event.level as f64 * events::LEVEL + events::LEVEL / 2.0;
            g.event {
                circle class=(side.class()) cx=(px(event.x)) cy=(px(y)) r="7" {}
                text.number x=(px(event.x)) y=(px(y + 3.2)) text-anchor="middle" { (event.number) }
                @if event.labelled {
                    text.label x=(px(event.x + 10.0)) y=(px(y + 3.8)) { (event.label()) }
                }
                title { (format!("{} · {} {}", duration(event.event.t_ms), event.event.name, event.event.detail)) }
            }
        }
    }
}
