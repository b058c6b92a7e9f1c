//! The marks of events: numbered, in rows by side, so that none hides another as far as there is room.

use crate::document::Event;
use crate::scale::{Scale, text_width};

/// The height of a row of marks.
pub(crate) const LEVEL: f64 = 16.0;
/// How many rows a side may take.
const MAX_LEVELS: usize = 7;
/// The width of a mark.
const MARK: f64 = 16.0;

/// An event and its place.
pub(crate) struct Placed<'a> {
    pub(crate) event: &'a Event,
    /// As in the list beneath: from 1.
    pub(crate) number: usize,
    pub(crate) x: f64,
    pub(crate) level: usize,
    /// There is room for its label.
    pub(crate) labelled: bool,
}

impl Placed<'_> {
    pub(crate) fn label(&self) -> &str {
        if self.event.label.is_empty() {
            &self.event.name
        } else {
            &self.event.label
        }
    }

    /// It divides the time for all lanes.
    pub(crate) fn decisive(&self) -> bool {
        matches!(
            self.event.name.as_str(),
            "STOP" | "RESUME" | "UNPLUG_PRIMARY"
        )
    }
}

/// The marks of one side.
pub(crate) struct Side<'a> {
    side: &'a str,
    pub(crate) events: Vec<Placed<'a>>,
    levels: usize,
}

impl Side<'_> {
    pub(crate) fn height(&self) -> f64 {
        self.levels as f64 * LEVEL
    }

    pub(crate) fn title(&self) -> &str {
        match self.side {
            "source" => "on the source",
            "target" => "on the target",
            _ => "events",
        }
    }

    pub(crate) fn class(&self) -> &'static str {
        match self.side {
            "target" => "mark target",
            _ => "mark source",
        }
    }
}

/// Places the events that the scale has room for; a side without any has no rows.
pub(crate) fn place<'a>(events: &'a [Event], scale: &Scale) -> Vec<Side<'a>> {
    let mut names: Vec<&str> = Vec::new();
    for event in events {
        if !names.contains(&event.side.as_str()) {
            names.push(&event.side);
        }
    }
    // Two sides in the order of the lanes, whatever came first; what is neither is one more.
    names.sort_by_key(|name| match *name {
        "source" => 0,
        "target" => 1,
        _ => 2,
    });
    let sides = names
        .into_iter()
        .map(|side| place_side(side, events, scale));
    sides.filter(|side| !side.events.is_empty()).collect()
}

fn place_side<'a>(side: &'a str, events: &'a [Event], scale: &Scale) -> Side<'a> {
    let mut order: Vec<(usize, &Event)> = events
        .iter()
        .enumerate()
        .filter(|(_, event)| event.side == side && scale.contains(event.t_ms))
        .collect();
    order.sort_by(|a, b| a.1.t_ms.total_cmp(&b.1.t_ms));
    // The x at which each row is free again.
    let mut free = [f64::MIN; MAX_LEVELS];
    let mut placed = Vec::new();
    let mut levels = 0;
    for (index, event) in order {
        let x = scale.x(event.t_ms);
        let mut this = Placed {
            event,
            number: index + 1,
            x,
            level: 0,
            labelled: true,
        };
        let label_end = x + MARK / 2.0 + 4.0 + text_width(this.label()) + 6.0;
        let begin = x - MARK / 2.0;
        let room = free.iter().position(|end| *end <= begin);
        this.labelled = room.is_some() && label_end <= scale.right() + 10.0;
        // Without room the mark goes where the least is in its way.
        this.level = room.unwrap_or_else(|| {
            let ends = free.iter().enumerate();
            ends.min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(l, _)| l)
        });
        let end = if this.labelled {
            label_end
        } else {
            x + MARK / 2.0
        };
        if let Some(slot) = free.get_mut(this.level) {
            *slot = slot.max(end);
        }
        levels = levels.max(this.level + 1);
        placed.push(this);
    }
    Side {
        side,
        events: placed,
        levels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(t_ms: f64, side: &str) -> Event {
        Event {
            t_ms,
            side: side.into(),
            name: "MIGRATION".into(),
            label: String::new(),
            detail: String::new(),
        }
    }

    #[test]
    fn marks_at_one_moment_are_above_each_other() {
        let events = [
            event(0.0, "target"),
            event(1.0, "source"),
            event(1.0, "source"),
            event(900.0, "source"),
        ];
        let sides = place(&events, &Scale::new(0.0, 1000.0, 0.0, 1000.0));
        let shape: Vec<_> = sides
            .iter()
            .flat_map(|side| side.events.iter().map(|e| (side.side, e.number, e.level)))
            .collect();
        assert_eq!(
            shape,
            [
                ("source", 2, 0),
                ("source", 3, 1),
                ("source", 4, 0),
                ("target", 1, 0)
            ]
        );
    }

    #[test]
    fn a_crowd_has_no_more_rows_than_there_may_be() {
        let events: Vec<Event> = (0..100).map(|_| event(1.0, "")).collect();
        let sides = place(&events, &Scale::new(0.0, 10.0, 0.0, 1000.0));
        assert_eq!(sides.len(), 1);
        assert!(sides.iter().all(|s| s.levels == MAX_LEVELS
            && s.events.len() == 100
            && s.events.iter().filter(|e| e.labelled).count() == MAX_LEVELS));
    }
}
