//! `cargo xtask lab measure`: the whole measurement, part by part, and docs/measurements.md made of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use lab::cleanup;
use lab::contention::{Contention, DISTURBED};
use lab::measurement::{self, Measured, PARTS, Part, Raw};
use lab::page;
use lab::progress::say;
use lab::report::{Run, medians};
use lab::state::StateDir;

use crate::build::Workspace;
use crate::lab_commands::LabPlace;
use crate::stage::{self, RunFailed, Stage};

/// How long a run may take: boot, writing memory, and all waits in it that have an end of their own.
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// How often a run that failed is done again, over all runs of a part.
const SPARE_RUNS: usize = 3;

#[derive(Args)]
pub(crate) struct MeasureOptions {
    #[command(flatten)]
    place: LabPlace,
    /// Runs of each VMM in each part; figures are medians.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only these parts [default: all]: untouched, by-hand, memory-1024, memory-2048, pairs-2, pairs-4, pairs-7.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,
    /// Only this VMM: `standfast` or `qemu`.
    #[arg(long)]
    vmm: Option<String>,
    /// Forget the raw data of these parts; without it, runs that are there count, and the rest is done.
    #[arg(long)]
    fresh: bool,
    /// Measure nothing: make the tables anew of the raw data.
    #[arg(long)]
    tables: bool,
    /// Where the raw data goes [default: docs/measurements].
    #[arg(long)]
    raw: Option<PathBuf>,
    /// Leave the lab host running.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: &MeasureOptions) -> Result<ExitCode> {
    if options.runs == 0 {
        bail!("--runs 0 would measure nothing");
    }
    let parts = chosen(&options.only)?;
    let workspace = Workspace::find()?;
    let folder = options
        .raw
        .clone()
        .unwrap_or_else(|| workspace.root.join("docs/measurements"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut complete = true;
    if !options.tables {
        complete = measure(options, &workspace, &folder, &parts)?;
    }
    write_tables(&workspace, &folder)?;
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn chosen(only: &[String]) -> Result<Vec<&'static Part>> {
    for name in only {
        if !PARTS.iter().any(|part| part.name == name) {
            let known: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
            bail!("there is no part {name}; there are {}", known.join(", "));
        }
    }
    let wanted = |part: &&Part| only.is_empty() || only.iter().any(|name| name == part.name);
    Ok(PARTS.iter().filter(wanted).collect())
}

fn file(folder: &Path, part: &Part) -> PathBuf {
    folder.join(format!("{}.json", part.name))
}

/// The raw data of a part, as far as there is some.
fn load(folder: &Path, part: &Part) -> Result<Raw> {
    let path = file(folder, part);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; --fresh forgets it", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Raw {
            part: part.name.to_owned(),
            about: part.about.to_owned(),
            ..Raw::default()
        }),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A run a line: what came and went shows in a diff.
fn store(folder: &Path, part: &Part, raw: &Raw) -> Result<()> {
    let runs = raw
        .runs
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<Vec<_>, _>>()?;
    let text = format!(
        "{{\n\"part\": {},\n\"about\": {},\n\"failed\": {},\n\"runs\": [\n{}\n]\n}}\n",
        serde_json::to_string(&raw.part)?,
        serde_json::to_string(&raw.about)?,
        serde_json::to_string(&raw.failed)?,
        runs.join(",\n")
    );
    report::write_atomically(&file(folder, part), &text)?;
    Ok(())
}

/// What is measured: the commit, and whether there is more than it.
fn commit(workspace: &Workspace) -> String {
    let git = |words: &[&str]| {
        let done = Command::new("git")
            .args(words)
            .current_dir(&workspace.root)
            .output()
            .ok()?;
        done.status
            .success()
            .then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    // The raw data itself changes while it is made.
    let changed = git(&[
        "status",
        "--porcelain",
        "--",
        ".",
        ":!docs/measurements",
        ":!docs/measurements.md",
    ]);
    match changed {
        Some(changed) if changed.is_empty() => head,
        _ => format!("{head}, changed"),
    }
}

/// Does what is missing; says whether all is there now.
fn measure(
    options: &MeasureOptions,
    workspace: &Workspace,
    folder: &Path,
    parts: &[&Part],
) -> Result<bool> {
    cleanup::on_signals()?;
    let state = options.place.state(workspace)?;
    options.place.publish_standfast(workspace, &state)?;
    let mut place = options.place.clone();
    // The lab host's kernel keeps a part of it to itself, some four in a hundred.
    let most = parts.iter().map(|part| part.host_mib()).max().unwrap_or(0);
    place.at_least(most + most / 16);
    let mut stage = Stage::lab(&place, workspace, &state, options.keep)?;
    let work = Work {
        options,
        place,
        workspace,
        state: &state,
        folder,
        commit: commit(workspace),
    };
    let mut missing = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        say(format!(
            "part {} of {}: {} ({})",
            index + 1,
            parts.len(),
            part.name,
            part.about
        ));
        if options.fresh {
            let _ = fs::remove_file(file(folder, part));
        }
        let mut raw = load(folder, part)?;
        work.recover(&mut stage)?;
        if let Some(mib) = stage.memory_mib()?
            && mib < part.host_mib()
        {
            missing.push(format!(
                "{}: the lab host has {mib} MiB and {} are needed: cargo xtask lab down, then again",
                part.name,
                part.host_mib()
            ));
            continue;
        }
        work.do_part(&mut stage, part, &mut raw)?;
        for vmm in vmms(options, part) {
            let there = raw.of(vmm).len();
            if there < options.runs {
                missing.push(format!(
                    "{}: {there} of {} runs of {vmm}",
                    part.name, options.runs
                ));
            }
        }
        // What is known so far is to be seen even if the rest is never done.
        write_tables(workspace, folder)?;
    }
    stage.close(options.keep);
    for line in &missing {
        println!("MISSING {line}");
    }
    Ok(missing.is_empty())
}

fn vmms<'a>(options: &'a MeasureOptions, part: &'a Part) -> impl Iterator<Item = &'static str> {
    let only = options.vmm.clone();
    part.vmms
        .iter()
        .copied()
        .filter(move |vmm| only.as_deref().is_none_or(|only| only == *vmm))
}

/// What all parts have in common.
struct Work<'a> {
    options: &'a MeasureOptions,
    place: LabPlace,
    workspace: &'a Workspace,
    state: &'a StateDir,
    folder: &'a Path,
    commit: String,
}

impl Work<'_> {
    fn recover(&self, stage: &mut Stage) -> Result<()> {
        stage.recover(&self.place, self.workspace, self.state, self.options.keep)
    }

    fn do_part(&self, stage: &mut Stage, part: &Part, raw: &mut Raw) -> Result<()> {
        let mut spare = SPARE_RUNS;
        // In turns, so that neither always meets the warmer lab.
        loop {
            let next = vmms(self.options, part)
                .map(|vmm| (raw.of(vmm).len(), vmm))
                .filter(|(done, _)| *done < self.options.runs)
                .min_by_key(|(done, _)| *done);
            let Some((done, vmm)) = next else {
                return Ok(());
            };
            say(format!(
                "{}: {vmm}, run {} of {}",
                part.name,
                done + 1,
                self.options.runs
            ));
            let load = stage.emulator().and_then(Contention::begin);
            let result = stage.run_within(RUN_LIMIT, self.state, vmm, part.arguments());
            let good = result.as_ref().is_ok_and(|run| run.faults.is_empty());
            let logs = if good {
                format!("{}-{}", part.name, done + 1)
            } else {
                format!("{}-failed-{}", part.name, raw.failed.len() + 1)
            };
            stage::keep_logs(self.state, vmm, &logs);
            let others = load.and_then(|load| load.others());
            let failure = match result {
                Ok(run) if run.faults.is_empty() => {
                    tell(part, vmm, &run, others);
                    raw.runs.push(Measured {
                        vmm: vmm.to_owned(),
                        commit: self.commit.clone(),
                        others,
                        run,
                    });
                    None
                }
                Ok(run) => Some(run.faults.join("; ")),
                Err(error) => {
                    say(format!("{}: {vmm}: {error:#}", part.name));
                    // What is written down is for any machine.
                    Some(match error.downcast_ref::<RunFailed>() {
                        Some(failed) => failed.reason.clone(),
                        None => format!("{error:#}"),
                    })
                }
            };
            if let Some(why) = failure {
                say(format!("{}: {vmm}, a run failed: {why}", part.name));
                raw.failed.push(format!("{vmm}: {why}"));
                if spare == 0 {
                    store(self.folder, part, raw)?;
                    return Ok(());
                }
                spare -= 1;
                store(self.folder, part, raw)?;
                self.recover(stage)?;
                continue;
            }
            store(self.folder, part, raw)?;
        }
    }
}

fn tell(part: &Part, vmm: &str, run: &Run, others: Option<f64>) {
    let disturbed = match others {
        Some(share) if share > DISTURBED => {
            format!(
                "; NOTE: other programs took {:.0} % of the machine",
                share * 100.0
            )
        }
        _ => String::new(),
    };
    say(format!(
        "{}: {vmm}: longest gap {:.0} ms, {} lost, unplug {:.0} ms, downtime {:.0} ms, primary back {:.0} ms after the \
         resume{disturbed}",
        part.name,
        run.ping.longest_gap_ms,
        run.ping.lost,
        run.unplug_ms,
        run.downtime_ms,
        run.resume_to_primary_back_ms
    ));
}

/// Makes the tables in docs/measurements.md and the page beside the raw data.
fn write_tables(workspace: &Workspace, folder: &Path) -> Result<()> {
    let raw = PARTS
        .iter()
        .map(|part| load(folder, part))
        .collect::<Result<Vec<_>>>()?;
    let raw: Vec<Raw> = raw
        .into_iter()
        .filter(|raw| !raw.runs.is_empty() || !raw.failed.is_empty())
        .collect();
    let tables = measurement::tables(&raw);
    println!("\n{tables}");
    write_page(folder, &raw)?;
    let path = workspace.root.join("docs/measurements.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(new) = measurement::put(&text, &tables) else {
        bail!("{} has no place for the tables", path.display());
    };
    report::write_atomically(&path, &new)?;
    say(format!("tables: {}", path.display()));
    Ok(())
}

/// The run in the middle of each of the three columns, as a page.
fn write_page(folder: &Path, raw: &[Raw]) -> Result<()> {
    let of = |part: &str, vmm: &str| -> Option<Run> {
        let raw = raw.iter().find(|raw| raw.part == part)?;
        let runs: Vec<Run> = raw.of(vmm).into_iter().cloned().collect();
        medians(&runs)
    };
    let columns = [
        ("standfast", of("untouched", "standfast")),
        ("qemu", of("untouched", "qemu")),
        ("qemu, by hand", of("by-hand", "qemu")),
    ];
    let columns: Vec<(&str, &Run)> = columns
        .iter()
        .filter_map(|(name, run)| Some((*name, run.as_ref()?)))
        .collect();
    let Some((_, first)) = columns.first() else {
        return Ok(());
    };
    let subtitle = format!(
        "Guest kernel {}, primary vfio-pci on the host and {} in the guest, a client pings every {} ms",
        first.guest_kernel, first.guest_driver, first.ping.interval_ms
    );
    let document = page::document(&columns, &subtitle, crate::page::notes());
    let path = folder.join("report.html");
    report::write_atomically(&path, &report::page(&document))?;
    say(format!("page: {}", path.display()));
    Ok(())
}
