//! `cargo xtask fuzz`: builds the fuzz targets with coverage counters and runs them, two at a time.
//!
//! Nothing but a stable compiler, a C++ compiler and crates is needed: LLVM's coverage counters are options of the code
//! generation, and libFuzzer comes as source with `libfuzzer-sys`. No sanitizer: what is watched for is panics (overflow
//! and debug assertions are on), hangs, and a heap that grows past the target's bound.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Args;
use lab::progress::say;

use crate::build::{Workspace, host_triple};

/// What sets rustc's code generation to count edges and to hand compared values to libFuzzer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";
/// A single input that takes longer is a hang. Far above what any takes, since the machine may be busy.
const HANG_S: u64 = 20;
/// The whole process may use so much memory; what one input may take is each target's own, and far less.
const MEMORY_MIB: u64 = 1024;
/// Targets that run side by side.
const AT_A_TIME: usize = 2;

#[derive(Args)]
pub(crate) struct FuzzOptions {
    /// The targets; all if none is named.
    targets: Vec<String>,
    /// How long each of them runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Play this input alone, once, and show what comes of it.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// List the targets.
    #[arg(long)]
    list: bool,
}

/// What the program says of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    longest_bytes: u64,
    what: String,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Which target.
    pub(crate) target: String,
    executions: u64,
    edges: u64,
    inputs: u64,
    /// What broke, and how to see it again.
    pub(crate) broken: Option<String>,
}

struct Fuzzer {
    program: PathBuf,
    root: PathBuf,
    folder: PathBuf,
}

pub(crate) fn run(options: &FuzzOptions) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    let fuzzer = Fuzzer::build(&workspace)?;
    let targets = fuzzer.chosen(&options.targets)?;
    if options.list {
        for target in &targets {
            println!("{:<10} {}", target.name, target.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(input) = &options.input {
        let [target] = targets.as_slice() else {
            bail!(
                "--input needs the one target that it is for: cargo xtask fuzz TARGET --input FILE"
            );
        };
        let status = fuzzer.command(&target.name).arg(input).status()?;
        return Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let outcomes = fuzzer.run(&targets, options.seconds)?;
    Ok(if outcomes.iter().all(|outcome| outcome.broken.is_none()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What to say where [`can_build`] does not hold.
pub(crate) const NO_COMPILER: &str =
    "fuzzing needs a C++ compiler for libFuzzer: apt-get install g++";

/// Whether this machine has what cargo does not bring.
pub(crate) fn can_build() -> bool {
    lab::packages::find_program("c++").is_some()
}

/// Every target for so many seconds.
pub(crate) fn all(workspace: &Workspace, seconds: u64) -> Result<Vec<Outcome>> {
    let fuzzer = Fuzzer::build(workspace)?;
    fuzzer.run(&fuzzer.chosen(&[])?, seconds)
}

impl Fuzzer {
    /// Builds the targets' program. A target triple is named so that the flags do not reach build scripts.
    fn build(workspace: &Workspace) -> Result<Self> {
        if !can_build() {
            bail!("{NO_COMPILER}");
        }
        say("fuzz targets: building");
        let triple = host_triple()?;
        let folder = workspace.target.join("fuzz");
        let text = folder
            .to_str()
            .context("the target folder's name is not UTF-8")?;
        let arguments = [
            "build",
            "--quiet",
            "--package",
            "fuzz",
            "--bin",
            "fuzz",
            "--features",
            "libfuzzer",
            "--release",
            "--target",
            &triple,
            "--target-dir",
            text,
            "--config",
            "profile.release.lto=\"off\"",
        ];
        workspace.cargo(&arguments, &[("RUSTFLAGS", COVERAGE)])?;
        Ok(Self {
            program: folder.join(&triple).join("release/fuzz"),
            root: workspace.root.clone(),
            folder,
        })
    }

    /// The targets of these names, or all.
    fn chosen(&self, names: &[String]) -> Result<Vec<Target>> {
        let listed = Command::new(&self.program)
            .env_remove("STANDFAST_FUZZ_TARGET")
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let all: Vec<Target> = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter_map(listed_target)
            .collect();
        if let Some(unknown) = names
            .iter()
            .find(|name| all.iter().all(|t| t.name != **name))
        {
            let known: Vec<_> = all.iter().map(|t| t.name.as_str()).collect();
            bail!(
                "there is no fuzz target '{unknown}'; there are {}",
                known.join(", ")
            );
        }
        let wanted = |target: &Target| names.is_empty() || names.contains(&target.name);
        Ok(all.into_iter().filter(wanted).collect())
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("STANDFAST_FUZZ_TARGET", target)
            .env("RUST_BACKTRACE", "1")
            .current_dir(&self.root)
            .arg(format!("-timeout={HANG_S}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"));
        command
    }

    fn start(&self, target: &Target, seconds: u64) -> Result<Child> {
        let at = |what: &str| self.folder.join(what).join(&target.name);
        let (corpus, seeds, crashes) = (at("corpus"), at("seeds"), at("crashes"));
        let kept = self.root.join("crates/fuzz/regressions").join(&target.name);
        for folder in [&corpus, &seeds, &crashes] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let log = File::create(at("crashes").with_extension("log"))?;
        let mut command = self.command(&target.name);
        command
            .env("STANDFAST_FUZZ_SEEDS", &seeds)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={}", target.longest_bytes))
            .arg(format!("-dict={}", seeds.with_extension("words").display()))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .args(["-print_final_stats=1", "-use_value_profile=1"])
            .args([&corpus, &seeds])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if kept.is_dir() {
            command.arg(kept);
        }
        command.spawn().context("cannot start a fuzz target")
    }

    /// A hang of one input is libFuzzer's to notice, and so is the end of the time.
    fn run(&self, targets: &[Target], seconds: u64) -> Result<Vec<Outcome>> {
        println!(
            "{:<10} {:>12} {:>8} {:>8}  result",
            "target", "executions", "edges", "inputs"
        );
        let waiting = Mutex::new(targets.iter());
        let next = || {
            waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next()
        };
        let one_after_another = || -> Result<Vec<Outcome>> {
            let mut outcomes = Vec::new();
            while let Some(target) = next() {
                let status = self.start(target, seconds)?.wait()?;
                let outcome = self.outcome(target, status.success());
                println!("{outcome}");
                outcomes.push(outcome);
            }
            Ok(outcomes)
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_A_TIME)
                .map(|_| scope.spawn(one_after_another))
                .collect();
            let mut outcomes = Vec::new();
            for worker in workers {
                match worker.join() {
                    Ok(result) => outcomes.extend(result?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(outcomes)
        })
    }

    fn outcome(&self, target: &Target, good: bool) -> Outcome {
        let log = self
            .folder
            .join("crashes")
            .join(&target.name)
            .with_extension("log");
        let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let mut outcome = figures(&target.name, &text);
        if !good {
            outcome.broken = Some(broken(&target.name, &text, &log));
        }
        outcome
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let result = self.broken.as_deref().unwrap_or("ok");
        write!(
            f,
            "{:<10} {:>12} {:>8} {:>8}  {result}",
            self.target, self.executions, self.edges, self.inputs
        )
    }
}

/// `qmp\t4096\ta client of QMP`
fn listed_target(line: &str) -> Option<Target> {
    let mut fields = line.split('\t');
    Some(Target {
        name: fields.next()?.to_owned(),
        longest_bytes: fields.next()?.parse().ok()?,
        what: fields.next()?.to_owned(),
    })
}

/// The figures of libFuzzer's log: `#1234\tNEW    cov: 812 ft: 2044 corp: 77/3109b …`, `stat::number_of_executed_units: 5`.
fn figures(target: &str, log: &str) -> Outcome {
    let after = |line: &str, what: &str| -> Option<u64> {
        let rest = line.split(what).nth(1)?.trim_start();
        rest.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    let mut outcome = Outcome {
        target: target.to_owned(),
        executions: 0,
        edges: 0,
        inputs: 0,
        broken: None,
    };
    for line in log.lines() {
        if let Some(edges) = after(line, " cov: ") {
            outcome.edges = edges;
            outcome.executions = after(line, "#").unwrap_or(outcome.executions);
        }
        outcome.inputs = after(line, " corp: ").unwrap_or(outcome.inputs);
        outcome.executions =
            after(line, "stat::number_of_executed_units:").unwrap_or(outcome.executions);
    }
    outcome
}

/// What broke, in the log's words, and the command that plays the input again.
fn broken(target: &str, log: &str, place: &Path) -> String {
    let said = ["panicked at", "the heap grew", "ERROR: libFuzzer"];
    let mut lines = log.lines();
    let mut what = lines
        .find(|line| said.iter().any(|words| line.contains(words)))
        .unwrap_or("ended badly")
        .to_owned();
    if what.contains("panicked at")
        && let Some(message) = lines.next()
    {
        what = format!("{what} {message}");
    }
    let replay = log
        .lines()
        .find_map(|line| line.split("Test unit written to ").nth(1))
        .map_or_else(
            || format!("see {}", place.display()),
            |file| format!("cargo xtask fuzz {target} --input {file}"),
        );
    format!("BROKEN: {what}; again: {replay}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzers_log_is_read() {
        let log = "INFO: Loaded 1 modules\n#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                   #4096\tpulse  cov: 812 ft: 2044 corp: 77/3109b lim: 4096 exec/s: 2048 rss: 50Mb\n\
                   thread '<unnamed>' (1) panicked at crates/x/src/y.rs:1:2:\nattempt to add with overflow\n\
                   ==9== ERROR: libFuzzer: deadly signal\n\
                   artifact_prefix='/t/'; Test unit written to /t/crash-00ff\nstat::number_of_executed_units: 4100\n";
        let outcome = figures("bus", log);
        assert_eq!(
            (outcome.executions, outcome.edges, outcome.inputs),
            (4100, 812, 77)
        );
        let text = broken("bus", log, Path::new("/t/bus.log"));
        assert!(
            text.contains("y.rs:1:2: attempt to add with overflow"),
            "{text}"
        );
        assert!(
            text.ends_with("cargo xtask fuzz bus --input /t/crash-00ff"),
            "{text}"
        );
        assert!(broken("bus", "", Path::new("/t/bus.log")).ends_with("see /t/bus.log"));
        let listed = listed_target("qmp\t4096\ta client").unwrap();
        assert_eq!((listed.name.as_str(), listed.longest_bytes), ("qmp", 4096));
    }
}
