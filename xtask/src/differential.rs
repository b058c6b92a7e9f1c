//! `cargo xtask differential`: the scenarios, played to Standfast and to QEMU, as a table.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use differential::scenarios::GROUPS;
use differential::{Programs, intended, scenario, table};

#[derive(Debug, Args)]
pub(crate) struct DifferentialOptions {
    /// Groups or scenarios to play; all of them if none is named.
    names: Vec<String>,
    /// Print what both programs' clients saw.
    #[arg(long)]
    transcripts: bool,
    /// Print every difference, those that are meant among them.
    #[arg(long)]
    differences: bool,
    /// How many scenarios are played at a time.
    #[arg(long, default_value_t = 6)]
    at_once: usize,
}

/// Builds Standfast, plays, prints; fails if anything differs that is not meant to.
pub(crate) fn run(options: &DifferentialOptions) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "-p", "standfast"])
        .status()
        .context("cargo build")?;
    if !built.success() {
        bail!("cargo build -p standfast failed");
    }
    let program = std::env::current_exe()?.with_file_name("standfast");
    let programs = Programs::find(Path::new(&program))?;
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|n| n == name);
    // One list: the slowest begins first.
    let mut chosen: Vec<&scenario::Scenario> = GROUPS
        .iter()
        .rev()
        .flat_map(|group| group.scenarios.iter().map(move |each| (group, each)))
        .filter(|(group, each)| wanted(group.name) || wanted(each.name))
        .map(|(_, each)| each)
        .collect();
    if chosen.is_empty() {
        let groups: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
        bail!(
            "no scenario or group of this name; the groups are {}",
            groups.join(", ")
        );
    }
    chosen.dedup_by_key(|each| each.name);
    let outcomes = scenario::play_all(&chosen, &programs, options.at_once);
    for outcome in outcomes.iter().filter(|_| options.transcripts) {
        println!("{}: {}", outcome.name, outcome.about);
        for (label, transcripts) in [("QEMU", &outcome.qemu), ("ours", &outcome.ours)] {
            println!(" {label}");
            transcripts
                .iter()
                .for_each(|transcript| print!("{transcript}"));
        }
    }
    for outcome in outcomes.iter().filter(|_| options.differences) {
        for each in &outcome.differences {
            println!("{}: {each}", outcome.name);
        }
    }
    print!("{}", table::table(&outcomes));
    println!("\nIntended, where the table names it:");
    for each in intended::LISTED {
        if outcomes.iter().any(|outcome| outcome.seen.contains(each)) {
            println!("  {}: {}", each.name, each.reason);
        }
    }
    println!("Intended, in every scenario:");
    for each in intended::EVERYWHERE {
        println!("  {}: {}", each.name, each.reason);
    }
    // Of a part of the scenarios nothing can be said.
    let idle = if options.names.is_empty() {
        intended::idle(&outcomes)
    } else {
        Vec::new()
    };
    for pattern in &idle {
        println!("explains nothing any more: {pattern}");
    }
    let passed = outcomes.iter().all(scenario::Outcome::passed) && idle.is_empty();
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
