//! `cargo xtask demo`: the main job, shown and measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use lab::cleanup;
use lab::contention::{Contention, DISTURBED};
use lab::progress::say;
use lab::report::{self, Run};
use serde_json::{Map, json};

use crate::build::Workspace;
use crate::lab_commands::LabPlace;
use crate::native::Native;
use crate::stage::{self, Stage};

/// How long a run may take, iperf3's included, before the lab host is taken for frozen: about ten times what it takes.
const RUN_LIMIT: Duration = Duration::from_secs(420);
/// How many lab hosts may be lost: the emulator under them has faults, and a run that one took along is done again.
const SPARE_LAB_HOSTS: usize = 2;

#[derive(Args)]
pub(crate) struct DemoOptions {
    #[command(flatten)]
    place: LabPlace,
    /// Do the same with another VMM in the same lab, and compare: `qemu`.
    #[arg(long)]
    peer: Option<String>,
    /// The VMM that is shown.
    #[arg(long, default_value = "standfast")]
    vmm: String,
    /// How often each does it; the figures are the medians.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Measure iperf3 on the standby, too.
    #[arg(long)]
    throughput: bool,
    /// The NIC that is the primary: `vf` or `e1000e`.
    #[arg(long, default_value = "vf")]
    primary_kind: String,
    /// Leave the lab host running.
    #[arg(long)]
    keep: bool,
    /// Show the guests' consoles.
    #[arg(long)]
    console: bool,
    /// Where the report goes [default: target/demo/report.json].
    #[arg(long)]
    report: Option<PathBuf>,
    #[command(flatten)]
    native: Native,
}

pub(crate) fn run(options: &DemoOptions) -> Result<ExitCode> {
    if options.runs == 0 {
        bail!("--runs 0 would measure nothing");
    }
    let workspace = Workspace::find()?;
    cleanup::on_signals()?;
    let state = options.place.state(&workspace)?;
    let file = options
        .report
        .clone()
        .unwrap_or_else(|| workspace.root.join("target/demo/report.json"));
    // A report of another run must not be taken for this one's.
    let _ = fs::remove_file(&file);
    let _ = fs::remove_file(file.with_extension("html"));
    let names: Vec<&str> = [Some(options.vmm.as_str()), options.peer.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    if names.contains(&"standfast") {
        options.place.publish_standfast(&workspace, &state)?;
    }
    let mut stage = if options.native.native {
        Stage::native(&workspace, &state, options.native.arguments()?)?
    } else {
        Stage::lab(&options.place, &workspace, &state, options.keep)?
    };
    let mut runs: Vec<(&str, Vec<Run>)> = names.iter().map(|name| (*name, Vec::new())).collect();
    let (mut errors, mut disturbed, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    let mut spare = SPARE_LAB_HOSTS;
    for number in 1..=options.runs {
        // Every other time the peer is first, so that neither always meets the warmer lab.
        let mut order: Vec<_> = runs.iter_mut().collect();
        if number % 2 == 0 {
            order.reverse();
        }
        for (name, done) in order {
            say(format!("{name}: run {number} of {}", options.runs));
            let throughput = options.throughput && number == 1;
            let mut arguments = vec!["--primary".to_owned(), options.primary_kind.clone()];
            if throughput {
                arguments.push("--throughput".to_owned());
            }
            if options.console {
                arguments.push("--console".to_owned());
            }
            let (result, contention) = loop {
                let contention = stage.emulator().and_then(Contention::begin);
                let result = stage.run_within(RUN_LIMIT, &state, name, arguments.clone());
                stage::keep_logs(&state, name, &format!("demo-{number}"));
                // Only what ended the lab host itself, which no VMM in it can be blamed for, is done again.
                match result {
                    Err(error) if spare > 0 && stage.is_lost(&state) => {
                        spare -= 1;
                        let lost = format!(
                            "{name}, run {number}: the lab host itself was lost ({error:#}); done again"
                        );
                        say(&lost);
                        repeated.push(lost);
                        stage.recover(&options.place, &workspace, &state, options.keep)?;
                    }
                    result => break (result, contention),
                }
            };
            match result {
                Ok(run) => {
                    done.push(run);
                    if let Some(share) = contention.and_then(|load| load.others())
                        && share > DISTURBED
                    {
                        disturbed.push(format!("{name}, run {number}: {:.0} %", share * 100.0));
                    }
                }
                Err(error) => {
                    say(format!("{name}: run {number} failed: {error:#}"));
                    errors.push(format!("{name}, run {number}: {error:#}"));
                }
            }
        }
    }
    stage.close(options.keep);
    let columns: Vec<(&str, Run)> = runs
        .iter()
        .filter_map(|(name, done)| Some((*name, report::medians(done)?)))
        .collect();
    show(&columns);
    if !disturbed.is_empty() {
        println!(
            "\nNOTE    other programs took much of this machine's processor time, so the figures are too large"
        );
        println!(
            "        and the columns may not be comparable ({})",
            disturbed.join("; ")
        );
    }
    for lost in &repeated {
        println!("NOTE    {lost}");
    }
    let mut notes = repeated;
    if !disturbed.is_empty() {
        notes.push(format!(
            "Other programs took much of the machine's processor time: {}.",
            disturbed.join("; ")
        ));
    }
    write_report(&file, &columns, notes)?;
    for (name, run) in &columns {
        errors.extend(run.faults.iter().map(|fault| format!("{name}: {fault}")));
    }
    if errors.is_empty() {
        println!("\nThe guest is on the target, on its primary, and its connection is alive.");
        return Ok(ExitCode::SUCCESS);
    }
    println!();
    for error in &errors {
        println!("FAILED  {error}");
    }
    Ok(ExitCode::FAILURE)
}

fn show(columns: &[(&str, Run)]) {
    for (name, run) in columns {
        println!("\n{name}, what happened (ms since migrate):");
        print!("{}", report::timeline(run));
    }
    if columns.is_empty() {
        return;
    }
    println!();
    let references: Vec<(&str, &Run)> = columns.iter().map(|(name, run)| (*name, run)).collect();
    print!("{}", report::table(&references));
}

fn write_report(file: &Path, columns: &[(&str, Run)], notes: Vec<String>) -> Result<()> {
    if columns.is_empty() {
        return Ok(());
    }
    let mut whole = Map::new();
    let (mut kernel, mut driver) = (String::new(), String::new());
    for (name, run) in columns {
        kernel.clone_from(&run.guest_kernel);
        if driver.is_empty() {
            driver.clone_from(&run.guest_driver);
        }
        let run = Run {
            guest_kernel: String::new(),
            guest_driver: String::new(),
            ..run.clone()
        };
        whole.insert((*name).to_owned(), serde_json::to_value(run)?);
    }
    whole.insert("guest_kernel".to_owned(), json!(kernel));
    whole.insert(
        "primary".to_owned(),
        json!({"host_driver": "vfio-pci", "guest_driver": driver}),
    );
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let text = serde_json::to_string_pretty(&whole)? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    say(format!("report: {}", file.display()));
    crate::page::write(file, &whole, notes)
}
