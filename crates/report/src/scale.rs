//! Where a moment is on the paper, and how figures are written.

/// A stretch of time on a stretch of paper.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    from_ms: f64,
    to_ms: f64,
    left: f64,
    width: f64,
}

/// How many marks an axis has, about.
const TICKS: f64 = 10.0;
const MAX_TICKS: usize = 20;

impl Scale {
    /// `from_ms` at `left`, `to_ms` at `left + width`; a stretch of no length is taken for one of a millisecond.
    pub(crate) fn new(from_ms: f64, to_ms: f64, left: f64, width: f64) -> Self {
        let to_ms = to_ms.max(from_ms + 1.0);
        Self {
            from_ms,
            to_ms,
            left,
            width,
        }
    }

    /// Where a moment is; what is outside is at the edge.
    pub(crate) fn x(&self, t_ms: f64) -> f64 {
        let share = (t_ms - self.from_ms) / (self.to_ms - self.from_ms);
        self.left + self.width * share.clamp(0.0, 1.0)
    }

    pub(crate) fn left(&self) -> f64 {
        self.left
    }

    pub(crate) fn right(&self) -> f64 {
        self.left + self.width
    }

    pub(crate) fn contains(&self, t_ms: f64) -> bool {
        t_ms >= self.from_ms && t_ms <= self.to_ms
    }

    /// The moments that are written on the axis: whole numbers of 1, 2 or 5 times a power of ten.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let span = self.to_ms - self.from_ms;
        let step = round_step(span / TICKS);
        let first = (self.from_ms / step).ceil();
        let count = ((span / step) as usize).min(MAX_TICKS);
        (0..=count)
            .map(|n| (first + n as f64) * step)
            .filter(|t| self.contains(*t))
            .collect()
    }
}

/// The least of 1, 2, 5 times a power of ten that is not below `least`.
pub(crate) fn round_step(least: f64) -> f64 {
    if !least.is_finite() || least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= least * 0.999_999)
        .unwrap_or(10.0 * power)
}

/// A coordinate.
pub(crate) fn px(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    format!("{value:.1}")
}

/// `178 ms`, `2.6 s`.
pub(crate) fn duration(ms: f64) -> String {
    let size = ms.abs();
    if size >= 10_000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else if size >= 1000.0 {
        format!("{:.2} s", ms / 1000.0)
    } else if size >= 10.0 || size == 0.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{ms:.1} ms")
    }
}

/// A moment on the axis, of an axis whose marks are `step_ms` apart.
pub(crate) fn moment(t_ms: f64, long: bool) -> String {
    if t_ms == 0.0 {
        return "0".to_owned();
    }
    if long {
        let text = format!("{:.2}", t_ms / 1000.0);
        format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
    } else {
        format!("{t_ms:.0} ms")
    }
}

/// `35.2 MiB/s`.
pub(crate) fn rate(bytes_per_s: f64) -> String {
    const UNITS: [&str; 4] = ["B/s", "KiB/s", "MiB/s", "GiB/s"];
    let mut value = bytes_per_s.max(0.0);
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let digits = usize::from(value < 10.0 && unit != UNITS[0]);
    format!("{value:.digits$} {unit}")
}

/// A moment since 1970 (in microseconds) by the calendar: `2026-11-25 17:40:12`, in UTC.
#[must_use]
pub fn utc(epoch_us: u64) -> String {
    let seconds = epoch_us / 1_000_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // The Gregorian calendar in eras of 400 years, each year beginning with March, so that the leap day is its last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// How wide a text of 11 pixels is, about: there is nobody to ask.
pub(crate) fn text_width(text: &str) -> f64 {
    text.chars()
        .map(|c| match c {
            'i' | 'l' | 'I' | '.' | ',' | ':' | '\'' | '|' => 3.2,
            'm' | 'w' | 'M' | 'W' => 9.4,
            'A'..='Z' | '_' => 7.6,
            ' ' | 't' | 'f' | 'r' | '-' => 4.2,
            c if c.is_ascii() => 6.2,
            _ => 11.0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_inside() {
        let scale = Scale::new(-312.0, 5127.0, 100.0, 1000.0);
        let ticks = scale.ticks();
        assert_eq!(ticks.first(), Some(&0.0));
        assert_eq!(ticks.get(1), Some(&1000.0));
        assert!(ticks.len() <= 12 && ticks.iter().all(|t| scale.contains(*t)));
        assert!(!Scale::new(0.0, 0.0, 0.0, 1.0).ticks().is_empty());
    }

    #[test]
    fn the_calendar_is_right() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (1_767_225_599, "2025-12-31 23:59:59"),
        ] {
            assert_eq!(utc(seconds * 1_000_000), text);
        }
        assert!(!utc(u64::MAX).is_empty());
    }

    #[test]
    fn what_is_outside_is_at_the_edge() {
        let scale = Scale::new(0.0, 10.0, 100.0, 50.0);
        assert_eq!(
            [scale.x(-5.0), scale.x(5.0), scale.x(99.0)],
            [100.0, 125.0, 150.0]
        );
    }

    #[test]
    fn figures_have_units() {
        assert_eq!(duration(177.9), "178 ms");
        assert_eq!(duration(2605.0), "2.60 s");
        assert_eq!(duration(4.14), "4.1 ms");
        assert_eq!(rate(35.25 * 1024.0 * 1024.0), "35 MiB/s");
        assert_eq!(rate(f64::NAN), "0 B/s");
        assert_eq!(moment(1500.0, true), "1.5 s");
        assert_eq!(moment(20.0, false), "20 ms");
    }
}
