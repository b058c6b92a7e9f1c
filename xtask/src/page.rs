//! `report.html` beside `report.json`, and `cargo xtask page`: the page of a report that was written before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use lab::page;
use lab::progress::say;
use lab::report::Run;
use serde_json::{Map, Value};

#[derive(Args)]
pub(crate) struct PageOptions {
    /// A report of the demo's, or of `-failover-report`.
    report: PathBuf,
}

/// The VMMs that a report may have, in the order of the columns.
const NAMES: [&str; 2] = ["standfast", "qemu"];

pub(crate) fn run(options: &PageOptions) -> Result<ExitCode> {
    let text = fs::read_to_string(&options.report)
        .with_context(|| format!("cannot read {}", options.report.display()))?;
    let whole: Map<String, Value> =
        serde_json::from_str(&text).context("this is no JSON object, so no report")?;
    if whole.contains_key("recordings") {
        let document = serde_json::from_str(&text).context("this is not the VMM's report")?;
        return finish(&options.report, &document);
    }
    write(&options.report, &whole, Vec::new())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a demo's report beside it. Takes all it shows from the report.
pub(crate) fn write(report: &Path, whole: &Map<String, Value>, notes: Vec<String>) -> Result<()> {
    let mut runs: Vec<(&str, Run)> = Vec::new();
    for name in NAMES {
        if let Some(value) = whole.get(name) {
            let run = serde_json::from_value(value.clone())
                .with_context(|| format!("the report's {name}"))?;
            runs.push((name, run));
        }
    }
    if runs.is_empty() {
        bail!("the report has no run of {}", NAMES.join(" or "));
    }
    let columns: Vec<(&str, &Run)> = runs.iter().map(|(name, run)| (*name, run)).collect();
    let word = |place: &str| {
        let value = Value::Object(whole.clone());
        let found = value.pointer(place).and_then(Value::as_str);
        found.unwrap_or("unknown").to_owned()
    };
    let mut all_notes = self::notes();
    all_notes.extend(notes);
    let subtitle = format!(
        "Guest kernel {}, primary {} on the host and {} in the guest, a client pings every {} ms",
        word("/guest_kernel"),
        word("/primary/host_driver"),
        word("/primary/guest_driver"),
        columns.first().map_or(0, |(_, run)| run.ping.interval_ms)
    );
    finish(report, &page::document(&columns, &subtitle, all_notes)).map(drop)
}

/// What a reader of any such page has to know.
pub(crate) fn notes() -> Vec<String> {
    vec![
        "Each picture is one run, the one whose longest gap is in the middle; figures are the medians of all runs. \
         Time 0 is when migrate was sent."
            .to_owned(),
        "The lab is emulated: everything takes several times as long as on hardware, for both. What counts is one \
         beside the other."
            .to_owned(),
    ]
}

fn finish(report: &Path, document: &report::Document) -> Result<ExitCode> {
    let file = report.with_extension("html");
    report::write_atomically(&file, &report::page(document))?;
    say(format!("page: {}", file.display()));
    Ok(ExitCode::SUCCESS)
}
