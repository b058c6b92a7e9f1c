//! What a demo run saw, as `target/demo/report.json` holds it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The client's pings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingReport {
    /// The time from one request to the next.
    pub interval_ms: u64,
    /// Requests sent.
    pub sent: usize,
    /// Requests never answered.
    pub lost: usize,
    /// The longest time without an answer.
    pub longest_gap_ms: f64,
    /// When each request that was never answered was sent, in milliseconds since `migrate` was sent.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub lost_at_ms: Vec<f64>,
    /// The times without an answer, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub gaps: Vec<GapReport>,
}

/// A time without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GapReport {
    /// Since when, in milliseconds since `migrate` was sent.
    pub from_ms: f64,
    /// How long.
    pub length_ms: f64,
}

/// What `query-migrate` of the source said on the way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Milliseconds since `migrate` was sent.
    pub t_ms: f64,
    /// Bytes on the wire so far.
    pub transferred_bytes: u64,
    /// Bytes left to send in this pass.
    pub remaining_bytes: u64,
    /// All of guest RAM.
    pub total_bytes: u64,
    /// What the guest wrote anew, at the last look at its pages.
    pub dirty_bytes_per_s: f64,
    /// How long the guest would stand still now.
    pub expected_downtime_ms: Option<f64>,
}

/// One event on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimelineEvent {
    /// Milliseconds since `migrate` was sent.
    pub t_ms: f64,
    /// `source` or `target`.
    pub side: String,
    /// The QMP event's name; `GUEST` is a line of the guest's console.
    pub event: String,
    /// The event's data.
    pub data: Value,
}

/// One VMM's run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// How the migration ended, in the source's words.
    pub status: String,
    /// The client's pings.
    pub ping: PingReport,
    /// Whether the connection opened before still carried after.
    pub tcp_survived: bool,
    /// From `UNPLUG_PRIMARY` until the source went on.
    pub unplug_ms: f64,
    /// From the source's `STOP` to the target's `RESUME`.
    pub downtime_ms: f64,
    /// From `migrate` to the source's `completed`.
    pub total_ms: f64,
    /// From the target's `RESUME` until the guest had its primary enslaved and carrying.
    pub resume_to_primary_back_ms: f64,
    /// From the start of the VMM to the first line of the guest's init.
    pub boot_to_init_ms: f64,
    /// The VMM's resident memory beyond the guest's RAM.
    pub vmm_overhead_mib: f64,
    /// What happened, in order.
    pub events: Vec<TimelineEvent>,
    /// How memory travelled.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub progress: Vec<Progress>,
    /// The longest time without an answer on each pair beyond the first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub other_gaps_ms: Vec<f64>,
    /// When the guest had all its primaries enslaved and carrying, in milliseconds since `migrate` was sent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub primary_back_ms: Option<f64>,
    /// The guest's driver of the primary, on the target.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub guest_driver: String,
    /// The guest's kernel.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub guest_kernel: String,
    /// What went wrong; empty if the guest ended where it should, on its primary, connected.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub faults: Vec<String>,
    /// iperf3 on the standby, Mbit/s: client to guest, guest to client.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub standby_mbit_s: Option<(f64, f64)>,
    /// The same with vhost-net.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vhost_mbit_s: Option<(f64, f64)>,
}

/// A figure of a run: what it is called in a table, and how to take it.
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// How to take it from a run.
    pub take: fn(&Run) -> Option<f64>,
}

/// The figures of the table.
pub const FIGURES: &[Figure] = &[
    Figure {
        name: "packets sent",
        unit: "",
        take: |run| Some(run.ping.sent as f64),
    },
    Figure {
        name: "packets lost",
        unit: "",
        take: |run| Some(run.ping.lost as f64),
    },
    Figure {
        name: "longest gap",
        unit: "ms",
        take: |run| Some(run.ping.longest_gap_ms),
    },
    Figure {
        name: "unplug: asked to let go",
        unit: "ms",
        take: |run| Some(run.unplug_ms),
    },
    Figure {
        name: "downtime: stop to resume",
        unit: "ms",
        take: |run| Some(run.downtime_ms),
    },
    Figure {
        name: "total: migrate to completed",
        unit: "ms",
        take: |run| Some(run.total_ms),
    },
    Figure {
        name: "resume to primary back",
        unit: "ms",
        take: |run| Some(run.resume_to_primary_back_ms),
    },
    Figure {
        name: "boot: exec to init",
        unit: "ms",
        take: |run| Some(run.boot_to_init_ms),
    },
    Figure {
        name: "VMM's memory beyond RAM",
        unit: "MiB",
        take: |run| Some(run.vmm_overhead_mib),
    },
    Figure {
        name: "standby, client to guest",
        unit: "Mbit/s",
        take: |run| run.standby_mbit_s.map(|rate| rate.0),
    },
    Figure {
        name: "standby, guest to client",
        unit: "Mbit/s",
        take: |run| run.standby_mbit_s.map(|rate| rate.1),
    },
    Figure {
        name: "vhost-net, client to guest",
        unit: "Mbit/s",
        take: |run| run.vhost_mbit_s.map(|rate| rate.0),
    },
    Figure {
        name: "vhost-net, guest to client",
        unit: "Mbit/s",
        take: |run| run.vhost_mbit_s.map(|rate| rate.1),
    },
];

/// The value in the middle; of two in the middle, halfway between them. 0 if there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (
        values.len() % 2,
        values.get(middle),
        middle.checked_sub(1).and_then(|index| values.get(index)),
    ) {
        (1, Some(value), _) => *value,
        (_, Some(upper), Some(lower)) => (upper + lower) / 2.0,
        _ => 0.0,
    }
}

/// The medians of several runs: each figure's own, and the events of the run whose longest gap
/// is in the middle. A fault of any run is a fault of the whole.
pub fn medians(runs: &[Run]) -> Option<Run> {
    let mut by_gap: Vec<&Run> = runs.iter().collect();
    by_gap.sort_by(|a, b| a.ping.longest_gap_ms.total_cmp(&b.ping.longest_gap_ms));
    let mut middle = (*by_gap.get(by_gap.len().checked_sub(1)? / 2)?).clone();
    let of = |take: fn(&Run) -> f64| median(runs.iter().map(take).collect());
    middle.ping.sent = of(|run| run.ping.sent as f64).round() as usize;
    middle.ping.lost = of(|run| run.ping.lost as f64).round() as usize;
    middle.ping.longest_gap_ms = of(|run| run.ping.longest_gap_ms);
    middle.unplug_ms = of(|run| run.unplug_ms);
    middle.downtime_ms = of(|run| run.downtime_ms);
    middle.total_ms = of(|run| run.total_ms);
    middle.resume_to_primary_back_ms = of(|run| run.resume_to_primary_back_ms);
    middle.boot_to_init_ms = of(|run| run.boot_to_init_ms);
    middle.vmm_overhead_mib = of(|run| run.vmm_overhead_mib);
    middle.standby_mbit_s = runs.iter().find_map(|run| run.standby_mbit_s);
    middle.vhost_mbit_s = runs.iter().find_map(|run| run.vhost_mbit_s);
    middle.tcp_survived = runs.iter().all(|run| run.tcp_survived);
    middle.faults = runs
        .iter()
        .flat_map(|run| run.faults.iter().cloned())
        .collect();
    if let Some(bad) = runs.iter().find(|run| run.status != "completed") {
        middle.status.clone_from(&bad.status);
    }
    Some(middle)
}

/// The timeline of one run.
pub fn timeline(run: &Run) -> String {
    let mut text = String::new();
    for event in &run.events {
        let data = match event.data.get("message").and_then(Value::as_str) {
            Some(message) if event.event == "GUEST" => message.to_owned(),
            _ if event
                .data
                .as_object()
                .is_some_and(serde_json::Map::is_empty) =>
            {
                String::new()
            }
            _ => event.data.to_string(),
        };
        let (left, right) = if event.side == "source" {
            (event.event.as_str(), "")
        } else {
            ("", event.event.as_str())
        };
        text.push_str(&format!(
            "  {:>9.1} ms  {left:<20} {right:<20} {data}\n",
            event.t_ms
        ));
    }
    format!("  {:>12}  {:<20} {:<20}\n{text}", "", "source", "target")
}

/// The table of one or two columns, with the ratio of the first to the second.
pub fn table(columns: &[(&str, &Run)]) -> String {
    let mut text = format!("  {:<34}", "");
    for (name, _) in columns {
        text.push_str(&format!("{name:>12}"));
    }
    if columns.len() == 2 {
        text.push_str(&format!("{:>9}", "ratio"));
    }
    text.push('\n');
    let row = |name: &str, cells: Vec<String>, ratio: Option<f64>| {
        let mut line = format!("  {name:<34}");
        for cell in cells {
            line.push_str(&format!("{cell:>12}"));
        }
        if let Some(ratio) = ratio {
            line.push_str(&format!("{ratio:>9.2}"));
        }
        line + "\n"
    };
    text.push_str(&row(
        "migration",
        columns.iter().map(|(_, run)| run.status.clone()).collect(),
        None,
    ));
    for figure in FIGURES {
        let values: Vec<Option<f64>> = columns.iter().map(|(_, run)| (figure.take)(run)).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let name = if figure.unit.is_empty() {
            figure.name.to_owned()
        } else {
            format!("{} ({})", figure.name, figure.unit)
        };
        let precise = usize::from(!figure.unit.is_empty());
        let cells = values
            .iter()
            .map(|value| value.map_or("-".to_owned(), |value| format!("{value:.precise$}")))
            .collect();
        let ratio = match values.as_slice() {
            [Some(ours), Some(theirs)] if *theirs != 0.0 && figure.name != "packets sent" => {
                Some(ours / theirs)
            }
            _ => None,
        };
        text.push_str(&row(&name, cells, ratio));
    }
    let yes_no = |run: &Run| if run.tcp_survived { "yes" } else { "NO" }.to_owned();
    text + &row(
        "TCP connection survived",
        columns.iter().map(|(_, run)| yes_no(run)).collect(),
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(gap: f64, survived: bool) -> Run {
        Run {
            status: "completed".into(),
            ping: PingReport {
                interval_ms: 10,
                sent: 100,
                lost: 3,
                longest_gap_ms: gap,
                lost_at_ms: Vec::new(),
                gaps: Vec::new(),
            },
            tcp_survived: survived,
            unplug_ms: gap,
            downtime_ms: 2.0 * gap,
            total_ms: 1.0,
            resume_to_primary_back_ms: 1.0,
            boot_to_init_ms: 1.0,
            vmm_overhead_mib: 1.0,
            events: Vec::new(),
            progress: Vec::new(),
            other_gaps_ms: Vec::new(),
            primary_back_ms: None,
            guest_driver: String::new(),
            guest_kernel: String::new(),
            faults: Vec::new(),
            standby_mbit_s: None,
            vhost_mbit_s: None,
        }
    }

    #[test]
    fn medians_are_each_figures_own_and_one_break_is_a_break() {
        let all = medians(&[run(30.0, true), run(10.0, false), run(20.0, true)]).unwrap();
        assert_eq!(
            (all.ping.longest_gap_ms, all.downtime_ms, all.tcp_survived),
            (20.0, 40.0, false)
        );
        assert_eq!(
            medians(&[run(1.0, true), run(3.0, true)])
                .unwrap()
                .unplug_ms,
            2.0
        );
        assert!(medians(&[]).is_none());
    }

    #[test]
    fn the_ratio_is_ours_to_theirs() {
        let (ours, theirs) = (run(10.0, true), run(40.0, true));
        let table = table(&[("standfast", &ours), ("qemu", &theirs)]);
        let line = table
            .lines()
            .find(|line| line.contains("longest gap"))
            .unwrap();
        assert!(line.ends_with("0.25"), "{line}");
    }
}
