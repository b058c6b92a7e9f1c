//! The measurement: what is measured, in which parts, and the tables made of it.
//!
//! A part is one setting; its raw data is one file, to which runs are added until there are enough of each VMM's. The
//! tables are made of the raw data alone.

use serde::{Deserialize, Serialize};

use crate::report::{Run, median};

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its name, which names its file.
    pub name: &'static str,
    /// What it is, for the table.
    pub about: &'static str,
    /// The VMMs that are measured in it.
    pub vmms: &'static [&'static str],
    /// The guest's pairs.
    pub pairs: usize,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// An operator steers by hand.
    pub by_hand: bool,
}

const BOTH: &[&str] = &["standfast", "qemu"];

const fn part(name: &'static str, about: &'static str, pairs: usize, memory_mib: u32) -> Part {
    Part {
        name,
        about,
        vmms: BOTH,
        pairs,
        memory_mib,
        by_hand: false,
    }
}

/// All parts, in the order in which they are done: what matters most comes first.
pub const PARTS: &[Part] = &[
    part("untouched", "1 pair, 256 MiB", 1, 256),
    Part {
        name: "by-hand",
        about: "1 pair, 256 MiB, QEMU's network fixed by hand",
        vmms: &["qemu"],
        pairs: 1,
        memory_mib: 256,
        by_hand: true,
    },
    part("memory-1024", "1 pair, 1 GiB", 1, 1024),
    part("memory-2048", "1 pair, 2 GiB", 1, 2048),
    part("pairs-2", "2 pairs, 256 MiB", 2, 256),
    part("pairs-4", "4 pairs, 256 MiB", 4, 256),
    part("pairs-7", "7 pairs, 256 MiB", 7, 256),
];

impl Part {
    /// How much of its memory the guest writes to beforehand, in MiB: half of what it has beyond the smallest guest's.
    pub fn fill_mib(&self) -> u32 {
        self.memory_mib.saturating_sub(256) / 2
    }

    /// What the lab host has to have for both machines, which pin all their memory, in MiB.
    pub fn host_mib(&self) -> u64 {
        u64::from(self.memory_mib) * 2 + 1600
    }

    /// The agent's arguments for a run.
    pub fn arguments(&self) -> Vec<String> {
        let mut words = vec![
            "--pairs".to_owned(),
            self.pairs.to_string(),
            "--memory".to_owned(),
            self.memory_mib.to_string(),
            "--fill".to_owned(),
            self.fill_mib().to_string(),
        ];
        if self.by_hand {
            words.push("--by-hand".to_owned());
        }
        words
    }
}

/// A run as it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Whose: `standfast` or `qemu`.
    pub vmm: String,
    /// The commit of this repository that was measured.
    pub commit: String,
    /// The share of the machine's processor time that other programs took, if it is known.
    pub others: Option<f64>,
    /// What was seen.
    pub run: Run,
}

/// The raw data of a part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Raw {
    /// The part's name.
    pub part: String,
    /// What it is.
    pub about: String,
    /// Its runs, in the order in which they were done.
    pub runs: Vec<Measured>,
    /// Runs that did not end as they should, with the reason; they are in no median.
    #[serde(default)]
    pub failed: Vec<String>,
}

impl Raw {
    /// The runs of a VMM that ended as they should.
    pub fn of(&self, vmm: &str) -> Vec<&Run> {
        let all = self.runs.iter().filter(|measured| measured.vmm == vmm);
        all.map(|measured| &measured.run).collect()
    }
}

/// A figure of a table.
struct Row {
    name: &'static str,
    take: fn(&Run) -> Option<f64>,
    /// The most that Standfast may have of QEMU's, untouched and by hand.
    wanted: Option<(f64, f64)>,
    digits: usize,
}

/// A figure that is not there is negative in a run.
fn known(value: f64) -> Option<f64> {
    (value >= 0.0).then_some(value)
}

const ROWS: &[Row] = &[
    Row {
        name: "longest gap (ms)",
        take: |run| Some(run.ping.longest_gap_ms),
        wanted: Some((0.1, 0.2)),
        digits: 0,
    },
    Row {
        name: "packets lost",
        take: |run| Some(run.ping.lost as f64),
        wanted: Some((0.1, 0.1)),
        digits: 0,
    },
    Row {
        name: "unplug: asked → let go (ms)",
        take: |run| known(run.unplug_ms),
        wanted: Some((0.7, 0.7)),
        digits: 0,
    },
    Row {
        name: "downtime: stop → resume (ms)",
        take: |run| known(run.downtime_ms),
        wanted: None,
        digits: 0,
    },
    Row {
        name: "resume → primary carries traffic (ms)",
        take: |run| known(run.resume_to_primary_back_ms),
        wanted: Some((1.0, 1.0)),
        digits: 0,
    },
    Row {
        name: "stop → primary carries traffic (ms)",
        take: |run| Some(known(run.downtime_ms)? + known(run.resume_to_primary_back_ms)?),
        wanted: Some((1.0, 1.0)),
        digits: 0,
    },
    Row {
        name: "total: migrate → completed (ms)",
        take: |run| known(run.total_ms),
        wanted: None,
        digits: 0,
    },
    Row {
        name: "VMM's memory beyond RAM (MiB)",
        take: |run| known(run.vmm_overhead_mib),
        wanted: None,
        digits: 1,
    },
];

/// Median, least and most of a figure.
fn spread(runs: &[&Run], take: fn(&Run) -> Option<f64>) -> Option<(f64, f64, f64)> {
    let values: Vec<f64> = runs.iter().filter_map(|run| take(run)).collect();
    let least = values.iter().copied().reduce(f64::min)?;
    let most = values.iter().copied().reduce(f64::max)?;
    Some((median(values), least, most))
}

fn cell(spread: Option<(f64, f64, f64)>, digits: usize) -> String {
    match spread {
        Some((middle, least, most)) => {
            format!("{middle:.digits$} [{least:.digits$}–{most:.digits$}]")
        }
        None => "–".to_owned(),
    }
}

fn ratio(ours: Option<(f64, f64, f64)>, theirs: Option<(f64, f64, f64)>) -> Option<f64> {
    let (ours, theirs) = (ours?.0, theirs?.0);
    (theirs > 0.0).then(|| ours / theirs)
}

fn ratio_cell(ratio: Option<f64>, wanted: Option<f64>) -> String {
    match (ratio, wanted) {
        (None, _) => "–".to_owned(),
        (Some(ratio), None) => format!("{ratio:.2}"),
        (Some(ratio), Some(wanted)) if ratio <= wanted => format!("**{ratio:.2}** (≤ {wanted})"),
        (Some(ratio), Some(wanted)) => format!("{ratio:.2} (*missed:* ≤ {wanted})"),
    }
}

fn find<'a>(parts: &'a [Raw], name: &str) -> Option<&'a Raw> {
    parts.iter().find(|raw| raw.part == name)
}

fn runs_of<'a>(parts: &'a [Raw], name: &str, vmm: &str) -> Vec<&'a Run> {
    find(parts, name).map_or_else(Vec::new, |raw| raw.of(vmm))
}

/// The tables, as Markdown: the comparison, then how the gap grows. Parts that were not measured are left out.
pub fn tables(parts: &[Raw]) -> String {
    let ours = runs_of(parts, "untouched", "standfast");
    let theirs = runs_of(parts, "untouched", "qemu");
    let fixed = runs_of(parts, "by-hand", "qemu");
    let mut text = format!(
        "Medians [least–most] of {} runs of Standfast, {} of QEMU on an untouched host network, {} of QEMU on a host network \
         that an operator fixes by hand.\n\n",
        ours.len(),
        theirs.len(),
        fixed.len()
    );
    text += "| figure | QEMU, untouched | QEMU, fixed by hand | Standfast | Standfast : untouched | Standfast : fixed |\n";
    text += "|---|---|---|---|---|---|\n";
    for row in ROWS {
        let (a, b, c) = (
            spread(&ours, row.take),
            spread(&theirs, row.take),
            spread(&fixed, row.take),
        );
        text += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            row.name,
            cell(b, row.digits),
            cell(c, row.digits),
            cell(a, row.digits),
            ratio_cell(ratio(a, b), row.wanted.map(|w| w.0)),
            ratio_cell(ratio(a, c), row.wanted.map(|w| w.1)),
        );
    }
    let grown: Vec<(&Part, &Raw)> = PARTS
        .iter()
        .filter(|part| !part.by_hand)
        .filter_map(|part| Some((part, find(parts, part.name)?)))
        .filter(|(_, raw)| !raw.runs.is_empty())
        .collect();
    if grown.len() > 1 {
        text += "\n";
        text += &growth(&grown);
    }
    let failed: Vec<String> = parts
        .iter()
        .flat_map(|raw| {
            raw.failed
                .iter()
                .map(move |why| format!("{}: {why}", raw.part))
        })
        .collect();
    if !failed.is_empty() {
        text += "\nRuns that did not end as they should, and are in no median:\n\n";
        for why in failed {
            text += &format!("- {}\n", one_line(&why));
        }
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn growth(parts: &[(&Part, &Raw)]) -> String {
    let mut text = "| guest | gap, Standfast (ms) | gap, any pair (ms) | gap, QEMU (ms) | unplug, Standfast | unplug, QEMU | \
                    total, Standfast | total, QEMU |\n|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let any_gap: fn(&Run) -> Option<f64> = |run| {
        let gaps = run.other_gaps_ms.iter().copied();
        Some(gaps.fold(run.ping.longest_gap_ms, f64::max))
    };
    let gap: fn(&Run) -> Option<f64> = |run| Some(run.ping.longest_gap_ms);
    let unplug: fn(&Run) -> Option<f64> = |run| known(run.unplug_ms);
    let total: fn(&Run) -> Option<f64> = |run| known(run.total_ms);
    for (part, raw) in parts {
        let (ours, theirs) = (raw.of("standfast"), raw.of("qemu"));
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            part.about,
            cell(spread(&ours, gap), 0),
            cell(spread(&ours, any_gap), 0),
            cell(spread(&theirs, gap), 0),
            cell(spread(&ours, unplug), 0),
            cell(spread(&theirs, unplug), 0),
            cell(spread(&ours, total), 0),
            cell(spread(&theirs, total), 0),
        );
    }
    text
}

/// Where the tables are in the document.
const BEGIN: &str = "<!-- measure: begin -->";
const END: &str = "<!-- measure: end -->";

/// Puts the tables into the document, in place of those that are there; `None` if it has no place for them.
pub fn put(document: &str, tables: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}{END}{after}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(gap: f64) -> Run {
        serde_json::from_value(json!({
            "status": "completed",
            "ping": {"interval_ms": 10, "sent": 100, "lost": (gap / 10.0) as u64, "longest_gap_ms": gap},
            "tcp_survived": true, "unplug_ms": 200.0, "downtime_ms": gap, "total_ms": 1300.0,
            "resume_to_primary_back_ms": -1.0, "boot_to_init_ms": 6000.0, "vmm_overhead_mib": 7.0, "events": []
        }))
        .unwrap()
    }

    fn raw(part: &str, runs: &[(&str, f64)]) -> Raw {
        Raw {
            part: part.into(),
            about: String::new(),
            runs: runs
                .iter()
                .map(|(vmm, gap)| Measured {
                    vmm: (*vmm).to_owned(),
                    commit: "0".into(),
                    others: None,
                    run: run(*gap),
                })
                .collect(),
            failed: Vec::new(),
        }
    }

    #[test]
    fn the_table_has_medians_spreads_and_what_was_wanted() {
        let parts = [
            raw(
                "untouched",
                &[
                    ("standfast", 100.0),
                    ("standfast", 300.0),
                    ("standfast", 200.0),
                    ("qemu", 4000.0),
                ],
            ),
            raw("by-hand", &[("qemu", 800.0)]),
        ];
        let text = tables(&parts);
        let line = text.lines().find(|l| l.contains("longest gap")).unwrap();
        assert_eq!(
            line,
            "| longest gap (ms) | 4000 [4000–4000] | 800 [800–800] | 200 [100–300] | **0.05** (≤ 0.1) | 0.25 (*missed:* ≤ 0.2) |"
        );
        let line = text.lines().find(|l| l.contains("resume →")).unwrap();
        assert!(
            line.ends_with("| – | – | – | – | – |"),
            "what did not happen is no figure: {line}"
        );
        assert!(!text.contains("| guest |"), "one part shows no growth");
    }

    #[test]
    fn growth_is_shown_part_by_part() {
        let mut more = raw("pairs-2", &[("standfast", 120.0)]);
        for measured in &mut more.runs {
            measured.run.other_gaps_ms = vec![90.0, 150.0];
        }
        more.failed.push("qemu, run 1: it\nfell over".into());
        let parts = [more, raw("untouched", &[("standfast", 100.0)])];
        let text = tables(&parts);
        let line = text.lines().find(|l| l.starts_with("| 2 pairs")).unwrap();
        assert!(
            line.starts_with("| 2 pairs, 256 MiB | 120 [120–120] | 150 [150–150] | – |"),
            "{line}"
        );
        assert!(text.contains("- pairs-2: qemu, run 1: it fell over\n"));
        assert!(text.find("1 pair").unwrap() < text.find("2 pairs").unwrap());
    }

    #[test]
    fn tables_replace_tables() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = put(&document, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(put(&new, "new\n").unwrap(), new);
        assert!(put("nothing", "new").is_none());
    }

    #[test]
    fn a_part_says_what_the_agent_has_to_do() {
        let words = PARTS.iter().map(|part| part.arguments().join(" "));
        let words: Vec<String> = words.collect();
        assert!(words.contains(&"--pairs 1 --memory 1024 --fill 384".to_owned()));
        assert!(words.contains(&"--pairs 1 --memory 256 --fill 0 --by-hand".to_owned()));
        assert!(
            PARTS
                .iter()
                .all(|part| part.pairs <= crate::site::MAX_PAIRS)
        );
    }
}
