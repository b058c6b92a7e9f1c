//! `cargo xtask soak`: the model guest's tests, again and again, each run with another seed.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use lab::progress::say;

use crate::build::Workspace;

#[derive(Debug, Args)]
pub(crate) struct SoakOptions {
    /// How many times in a row.
    #[arg(long, default_value_t = 100)]
    runs: u32,
    /// Play with this seed alone, every time; it repeats what the guest did at random.
    #[arg(long)]
    seed: Option<u64>,
    /// Keep so many processors busy with something else meanwhile.
    #[arg(long, default_value_t = 0, value_name = "PROCESSORS")]
    busy: u32,
}

const TESTS: [&str; 6] = ["test", "--quiet", "-p", "guest-model", "--lib", "--tests"];

/// How many random scenarios a run plays, as without a seed.
const SCENARIOS: &str = "5";

/// Runs them; fails if one of them failed.
pub(crate) fn run(options: &SoakOptions) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    let build: Vec<_> = TESTS.into_iter().chain(["--no-run"]).collect();
    workspace.cargo(&build, &[])?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..options.busy {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let code = runs(&workspace, options);
        done.store(true, Ordering::Relaxed);
        code
    })
}

fn runs(workspace: &Workspace, options: &SoakOptions) -> Result<ExitCode> {
    let logs = workspace.target.join("soak");
    fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut failed = Vec::new();
    let mut times = Vec::new();
    for run in 1..=options.runs {
        // Short enough to type.
        let seed = options
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(run) >> 40);
        let seed = seed.to_string();
        let begin = Instant::now();
        let output = Command::new(&cargo)
            .args(TESTS)
            .args(["--", "--include-ignored"])
            .current_dir(&workspace.root)
            .env("GUEST_MODEL_SEED", &seed)
            .env("GUEST_MODEL_RUNS", SCENARIOS)
            .output()
            .context("cargo test")?;
        let took = begin.elapsed();
        times.push(took);
        let (of, seconds) = (options.runs, took.as_secs_f64());
        if output.status.success() {
            say(format!("{run}/{of}  seed {seed}  {seconds:.1} s  ok"));
            continue;
        }
        let log = logs.join(format!("{run}.log"));
        fs::write(&log, [output.stdout, output.stderr].concat())?;
        let log = log.display();
        say(format!(
            "{run}/{of}  seed {seed}  {seconds:.1} s  FAILED  {log}"
        ));
        failed.push(seed);
    }
    times.sort_unstable();
    let seconds = |at: Option<&Duration>| at.map_or(0.0, Duration::as_secs_f64);
    println!(
        "{} passed, {} failed; a run takes {:.1} s (median; {:.1} to {:.1})",
        times.len() - failed.len(),
        failed.len(),
        seconds(times.get(times.len() / 2)),
        seconds(times.first()),
        seconds(times.last())
    );
    for seed in &failed {
        println!("again: cargo xtask soak --runs 1 --seed {seed}");
    }
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
