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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Map<String, Value> {
        let run = json!({
            "status": "completed",
            "ping": {
                "interval_ms": 10, "sent": 100, "lost": 1, "longest_gap_ms": 20.5,
                "lost_at_ms": [12.0], "gaps": [{"from_ms": 5.0, "length_ms": 20.5}]
            },
            "tcp_survived": true, "unplug_ms": 1.0, "downtime_ms": 2.0, "total_ms": 3.0,
            "resume_to_primary_back_ms": 4.0, "boot_to_init_ms": 5.0, "vmm_overhead_mib": 6.0,
            "events": [{"t_ms": 1.0, "side": "source", "event": "MIGRATION", "data": {"status": "setup"}}]
        });
        let whole = json!({
            "standfast": run, "qemu": run, "guest_kernel": "6.12 <x>",
            "primary": {"host_driver": "vfio-pci", "guest_driver": "igbvf"}
        });
        whole.as_object().unwrap().clone()
    }

    #[test]
    fn the_page_is_beside_the_report_with_both_vmms() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        write(&file, &report(), vec!["a <note>".to_owned()]).unwrap();
        let html = fs::read_to_string(folder.path().join("report.html")).unwrap();
        assert_eq!(html.matches("<svg").count(), 2);
        for word in [
            "<h2>standfast</h2>",
            "<h2>qemu</h2>",
            "6.12 &lt;x&gt;",
            "a &lt;note&gt;",
            "igbvf",
        ] {
            assert!(html.contains(word), "{word}");
        }
    }

    #[test]
    fn a_written_report_is_drawn_again_and_anything_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let report = folder.path().join(name);
            fs::write(&report, text).unwrap();
            PageOptions { report }
        };
        let demo = serde_json::to_string(&report()).unwrap();
        run(&at("demo.json", &demo)).unwrap();
        let own = serde_json::to_string(&report::Document::default()).unwrap();
        run(&at("own.json", &own)).unwrap();
        assert!(folder.path().join("own.html").exists());
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"recordings": 1}"#,
            r#"{"standfast": {}}"#,
        ] {
            assert!(run(&at("wrong.json", wrong)).is_err(), "{wrong}");
        }
        assert!(!folder.path().join("wrong.html").exists());
    }
}
