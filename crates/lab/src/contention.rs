//! How much of this machine's processors other programs took during a measurement.
//!
//! Everything in the lab is emulated, so whatever else runs here stretches every figure. Two runs
//! that had different company are not to be compared.

use std::fs;

/// Above this share a figure is called disturbed.
pub const DISTURBED: f64 = 0.15;

/// A measurement of the machine's load from here on.
#[derive(Debug, Clone, Copy)]
pub struct Contention {
    pid: u32,
    start: Ticks,
}

#[derive(Debug, Clone, Copy)]
struct Ticks {
    total: u64,
    busy: u64,
    own: u64,
}

impl Ticks {
    fn now(pid: u32) -> Option<Self> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let process = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&machine, &process)
    }

    fn parse(machine: &str, process: &str) -> Option<Self> {
        // user nice system idle iowait irq softirq steal; guest time is in user's already.
        let line = machine.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .filter_map(|word| word.parse().ok())
            .collect();
        let total: u64 = fields.iter().sum();
        let idle = fields.get(3)? + fields.get(4)?;
        // Fields 14 and 15 of the line, counted from behind the name: utime and stime.
        let mut own = process.rsplit_once(')')?.1.split_whitespace().skip(11);
        let own = own.next()?.parse::<u64>().ok()? + own.next()?.parse::<u64>().ok()?;
        Some(Self {
            total,
            busy: total - idle,
            own,
        })
    }

    fn others_since(self, start: Self) -> Option<f64> {
        let total = self
            .total
            .checked_sub(start.total)
            .filter(|ticks| *ticks > 0)?;
        let busy = self.busy.saturating_sub(start.busy);
        let others = busy.saturating_sub(self.own.saturating_sub(start.own));
        Some(others as f64 / total as f64)
    }
}

impl Contention {
    /// Begins to measure; `pid` is the process whose work is the measurement's own.
    pub fn begin(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            start: Ticks::now(pid)?,
        })
    }

    /// The share of all processor time since the beginning that went to others, 0 to 1.
    pub fn others(&self) -> Option<f64> {
        Ticks::now(self.pid)?.others_since(self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_idle_nor_ours_is_others() {
        let ticks = |busy: u64, idle: u64, own: u64| {
            let machine = format!("cpu  {busy} 0 0 {idle} 0 0 0 0 9 9\ncpu0 1 1");
            Ticks::parse(
                &machine,
                &format!("7 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20"),
            )
            .unwrap()
        };
        let others = ticks(1300, 1100, 200)
            .others_since(ticks(1000, 1000, 100))
            .unwrap();
        assert!((others - 0.5).abs() < 1e-9, "{others}");
        assert!(ticks(1, 1, 1).others_since(ticks(1, 1, 1)).is_none());
    }
}
