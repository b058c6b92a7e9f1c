//! `cargo xtask test` and `cargo xtask ci`: every test, and what else has to hold.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use lab::cleanup::{self, Owned};
use lab::l1::L1;
use lab::progress::say;
use lab::wire::Open;

use crate::build::Workspace;
use crate::fuzz;
use crate::lab_commands::{LabPlace, path, stage};

#[derive(Args)]
pub(crate) struct TestOptions {
    #[command(flatten)]
    place: LabPlace,
    /// The VMM that the lab scenarios run.
    #[arg(long, default_value = "standfast")]
    vmm: String,
    /// Leave the lab scenarios out (and say so).
    #[arg(long)]
    no_lab: bool,
    /// Run the lab scenarios alone, or only those named.
    #[arg(long, num_args = 0.., value_name = "SCENARIO")]
    only_lab: Option<Vec<String>>,
    /// Leave the lab host running.
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
pub(crate) struct CiOptions {
    #[command(flatten)]
    test: TestOptions,
    /// How long each fuzz target runs; 0 leaves them out.
    #[arg(long, default_value_t = 60)]
    fuzz_seconds: u64,
}

/// How many tests passed, and what failed.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// What tests said they left out.
    skipped: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.skipped.extend(other.skipped);
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// One more, that passed or failed.
    fn count(&mut self, what: &str, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("FAILED  {what}: {error:#}");
                self.failed += 1;
            }
        }
    }

    fn close(&self) -> ExitCode {
        for line in &self.skipped {
            println!("{line}");
        }
        if self.ignored > 0 {
            println!("{} tests were ignored and did not run", self.ignored);
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn run(options: &TestOptions) -> Result<ExitCode> {
    Ok(all(options)?.close())
}

/// The tests, and before them what takes no running: formatting, lints, documentation; after them the fuzz targets.
pub(crate) fn ci(options: &CiOptions) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    let mut tally = Tally::default();
    say("fmt");
    tally.count(
        "cargo fmt",
        workspace.cargo(&["fmt", "--all", "--check"], &[]),
    );
    say("clippy");
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    tally.count("cargo clippy", workspace.cargo(&lints, &[]));
    say("doc");
    let docs = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--quiet",
    ];
    tally.count(
        "cargo doc",
        workspace.cargo(&docs, &[("RUSTDOCFLAGS", "-D warnings")]),
    );
    tally.add(all(&options.test)?);
    fuzz_targets(&workspace, options.fuzz_seconds, &mut tally);
    Ok(tally.close())
}

fn fuzz_targets(workspace: &Workspace, seconds: u64, tally: &mut Tally) {
    if seconds == 0 || !fuzz::can_build() {
        let why = if seconds == 0 {
            "--fuzz-seconds 0"
        } else {
            fuzz::NO_COMPILER
        };
        tally
            .skipped
            .push(format!("SKIPPED: the fuzz targets ({why})"));
        return;
    }
    say(format!("fuzz targets, {seconds} s each"));
    match fuzz::all(workspace, seconds) {
        Ok(outcomes) => {
            for outcome in outcomes {
                let result = outcome.broken.map_or(Ok(()), |why| Err(anyhow!(why)));
                tally.count(&format!("fuzz target {}", outcome.target), result);
            }
        }
        Err(error) => tally.count("fuzz targets", Err(error)),
    }
}

fn all(options: &TestOptions) -> Result<Tally> {
    let workspace = Workspace::find()?;
    cleanup::on_signals()?;
    let mut tally = Tally::default();
    if !options.no_lab {
        let state = options.place.state(&workspace)?;
        lab::packages::ensure(&state)?;
        lab::kernel::ensure(&state)?;
    }
    if options.only_lab.is_none() {
        say("cargo test");
        tally.add(cargo_test(&workspace)?);
    }
    if options.no_lab {
        tally
            .skipped
            .push("SKIPPED: the lab scenarios (--no-lab)".to_owned());
        return Ok(tally);
    }
    say(format!("lab scenarios with {}", options.vmm));
    tally.add(all_scenarios(options, &workspace));
    Ok(tally)
}

fn cargo_test(workspace: &Workspace) -> Result<Tally> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--",
            "--show-output",
        ])
        .current_dir(&workspace.root)
        // What the lab needs is installed by now, QEMU among it: no test has a reason to be skipped.
        .env("STANDFAST_NO_SKIP", "1")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut tally = Tally::default();
    // The output of tests that passed is read for what they skipped, and not shown.
    let mut passed_output = false;
    for line in BufReader::new(child.stdout.take().context("no stdout")?).lines() {
        let line = line?;
        let seen = result_line(&line);
        match line.as_str() {
            "successes:" => passed_output = true,
            "failures:" => passed_output = false,
            _ if seen.is_some() => passed_output = false,
            _ => {}
        }
        if line.starts_with("SKIPPED") {
            tally.skipped.push(line);
        } else if !passed_output {
            println!("{line}");
        }
        if let Some(seen) = seen {
            tally.add(seen);
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        println!(
            "FAILED  cargo test ended with {status} without naming a test: does everything build?"
        );
        tally.failed += 1;
    }
    Ok(tally)
}

/// `test result: ok. 3 passed; 1 failed; 2 ignored; …`
fn result_line(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |what: &str| {
        let before = rest.split(&format!(" {what}")).next()?;
        before.rsplit(' ').next()?.parse().ok()
    };
    Some(Tally {
        passed: number("passed")?,
        failed: number("failed")?,
        ignored: number("ignored")?,
        skipped: Vec::new(),
    })
}

/// No scenario is silent for so long; a lab host that is has stopped working.
const SILENCE: Duration = Duration::from_secs(150);

/// Ends a lab host that says nothing any more, so that whoever listens to it need not wait for ever.
struct Watchdog {
    heard: Arc<Mutex<Instant>>,
    /// Dropped, it ends the thread.
    _alive: Sender<()>,
}

impl Watchdog {
    fn new(l1: Option<L1>, patience: Duration) -> Self {
        let heard = Arc::new(Mutex::new(Instant::now()));
        let (alive, ended) = channel::<()>();
        let last = Arc::clone(&heard);
        thread::spawn(move || {
            loop {
                let since = last
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .elapsed();
                let Some(left) = patience.checked_sub(since) else {
                    break;
                };
                match ended.recv_timeout(left) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
            }
            say(format!(
                "the lab host has said nothing for {} s: ending it",
                patience.as_secs()
            ));
            if let Some(l1) = l1 {
                l1.stop();
            }
        });
        Self {
            heard,
            _alive: alive,
        }
    }

    fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Lab hosts that may die before the scenarios are given up.
const LAB_HOSTS: u32 = 5;

/// Runs the scenarios asked for. A lab host that dies or falls silent (seen here, cause unknown) is replaced, and the
/// scenarios that had not come to their end go on in the next; each death is told.
fn all_scenarios(options: &TestOptions, workspace: &Workspace) -> Tally {
    let mut left: Vec<String> = match &options.only_lab {
        Some(names) if !names.is_empty() => names.clone(),
        _ => lab::scenario::SCENARIOS
            .iter()
            .map(|s| s.name.to_owned())
            .collect(),
    };
    let mut tally = Tally::default();
    for host in 1..=LAB_HOSTS {
        let mut text = Vec::new();
        let ran = scenarios(options, workspace, &left, &mut text);
        for (name, end) in String::from_utf8_lossy(&text)
            .lines()
            .filter_map(ended_line)
        {
            left.retain(|other| other != name);
            match end {
                End::Passed => tally.passed += 1,
                End::Failed => tally.failed += 1,
                End::Skipped(line) => tally.skipped.push(line),
            }
        }
        let repeats = String::from_utf8_lossy(&text)
            .lines()
            .filter(|line| line.contains("AGAIN   "))
            .count();
        if repeats > 0 {
            println!(
                "NOT CLEAN: {repeats} runs of scenarios failed and were repeated; look for AGAIN above"
            );
        }
        match ran {
            Ok(()) if left.is_empty() => return tally,
            Ok(()) => println!("the scenarios came to no end: {}", left.join(", ")),
            Err(error) => {
                println!("the lab host died (number {host} of {LAB_HOSTS} at most): {error:#}")
            }
        }
    }
    println!("FAILED  not run to their end: {}", left.join(", "));
    tally.failed += u64::try_from(left.len()).unwrap_or(1);
    tally
}

/// How a scenario ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    /// It cannot run here; what it said.
    Skipped(String),
}

/// A scenario's last line: `ok      boot (22.1 s)`, `FAILED  boot (3.0 s): …` or `SKIPPED boot: …`. Progress may stand
/// before it.
fn ended_line(line: &str) -> Option<(&str, End)> {
    let good = line.rfind("ok      ").map(|at| (at, End::Passed));
    let bad = line.find("FAILED  ").map(|at| (at, End::Failed));
    let left_out = line
        .find("SKIPPED ")
        .map(|at| (at, End::Skipped(line[at..].to_owned())));
    let (at, end) = bad.or(left_out).or(good)?;
    let name = line.get(at + 8..)?.split([' ', ':']).next()?;
    lab::scenario::SCENARIOS
        .iter()
        .any(|s| s.name == name)
        .then_some((name, end))
}

fn scenarios(
    options: &TestOptions,
    workspace: &Workspace,
    names: &[String],
    text: &mut Vec<u8>,
) -> Result<()> {
    let state = options.place.state(workspace)?;
    if options.vmm == "standfast" {
        options.place.publish_standfast(workspace, &state)?;
    }
    let (l1, fresh) = options.place.start(workspace, &state, options.keep)?;
    let owned = fresh.then(|| L1::running(&state).map(Owned::new)).flatten();
    // Staging is no more sure to end than a scenario is.
    let watchdog = Watchdog::new(L1::running(&state), SILENCE);
    let mut channel = l1.channel()?;
    stage(&mut channel, &state)?;
    watchdog.heard();
    let mut argv: Vec<String> = [
        "/run/lab/stage/lab-agent",
        "scenarios",
        "--vmm",
        &options.vmm,
    ]
    .map(str::to_owned)
    .to_vec();
    argv.extend(names.iter().cloned());
    let ran = channel.run(
        &Open {
            argv,
            env: vec![path()],
            tty: None,
        },
        |bytes| {
            watchdog.heard();
            text.extend_from_slice(bytes);
            io::stdout()
                .write_all(bytes)
                .and_then(|()| io::stdout().flush())
        },
        |bytes| {
            watchdog.heard();
            io::stderr().write_all(bytes)
        },
    );
    drop(watchdog);
    ran?;
    if let (true, Some(owned)) = (options.keep, owned) {
        owned.keep();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_cargo_and_of_the_lab_are_counted() {
        let seen = result_line(
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out",
        )
        .unwrap();
        assert_eq!((seen.passed, seen.failed, seen.ignored), (12, 1, 2));
        assert!(result_line("test a ... ok").is_none());
        assert_eq!(
            ended_line("[ ok      pair-vf (35.9 s)"),
            Some(("pair-vf", End::Passed))
        );
        assert_eq!(
            ended_line("FAILED  boot (1.0 s): ok      no"),
            Some(("boot", End::Failed))
        );
        let line = "SKIPPED iommufd: the lab host has no /dev/iommu; ok      no";
        assert_eq!(
            ended_line(&format!("[ {line}")),
            Some(("iommufd", End::Skipped(line.to_owned())))
        );
        assert_eq!(ended_line("lab scenarios: 2 passed, 0 failed"), None);
    }
}
