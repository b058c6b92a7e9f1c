//! How far a migration is, on one line of a terminal.

use crate::scale::{duration, rate};

/// What is known of a migration under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Bytes left to send in this pass.
    pub remaining_bytes: u64,
    /// All of guest RAM.
    pub total_bytes: u64,
    /// Bytes a second on the wire, if that is known.
    pub bytes_per_s: Option<f64>,
    /// How long the guest would stand still now, in ms, if that is known.
    pub expected_downtime_ms: Option<f64>,
}

/// Characters of a bar.
const BAR: usize = 28;
const MIB: f64 = 1024.0 * 1024.0;

/// `[█████████▌··················]  34 %  112 MiB/s, 168 MiB left, expected downtime 300 ms`.
#[must_use]
pub fn progress_line(progress: &Progress) -> String {
    let total = progress.total_bytes.max(1) as f64;
    // A guest that writes faster than is sent has more left than there was: that is nothing done, not less.
    let left = (progress.remaining_bytes as f64 / total).clamp(0.0, 1.0);
    let mut line = format!("[{}] {:>3.0} %", bar(1.0 - left, BAR), (1.0 - left) * 100.0);
    if let Some(speed) = progress.bytes_per_s {
        line += &format!("  {},", rate(speed));
    }
    line += &format!("  {:.0} MiB left", progress.remaining_bytes as f64 / MIB);
    if let Some(ms) = progress.expected_downtime_ms {
        line += &format!(", expected downtime {}", duration(ms));
    }
    line
}

/// A bar of `width` characters, to an eighth of one.
fn bar(share: f64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let part = PARTS.get(eighths % 8).copied().unwrap_or_default();
    let full = "█".repeat(eighths / 8);
    let used = eighths / 8 + usize::from(!part.is_empty());
    format!("{full}{part}{}", "·".repeat(width.saturating_sub(used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_one_width_and_grows() {
        for n in 0..=100 {
            assert_eq!(bar(f64::from(n) / 100.0, 28).chars().count(), 28, "{n}");
        }
        assert_eq!(bar(0.5, 4), "██··");
        assert_eq!(bar(f64::NAN, 2), "··");
        assert_eq!(bar(7.0, 2), "██");
    }

    #[test]
    fn a_line_says_what_is_known() {
        let mut progress = Progress {
            remaining_bytes: 64 << 20,
            total_bytes: 256 << 20,
            bytes_per_s: Some(32.0 * MIB),
            expected_downtime_ms: Some(300.0),
        };
        let line = progress_line(&progress);
        assert!(
            line.ends_with("  75 %  32 MiB/s,  64 MiB left, expected downtime 300 ms"),
            "{line}"
        );
        progress.bytes_per_s = None;
        progress.expected_downtime_ms = None;
        progress.remaining_bytes = u64::MAX;
        progress.total_bytes = 0;
        assert!(progress_line(&progress).contains("   0 %"));
    }
}
