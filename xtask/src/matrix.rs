//! `cargo xtask matrix`: each fault at each moment of a migration, played in one process, as a table.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct MatrixOptions {
    /// A moment (`active`), a fault (`cancel`) or one cell (`active/cancel`); all of them if none is named.
    part: Option<String>,
    /// Write docs/fault-matrix.md anew.
    #[arg(long, conflicts_with = "part")]
    write: bool,
}

/// Plays and prints; fails if a promise does not hold in a cell, or the page in `docs` is stale.
pub(crate) fn run(options: &MatrixOptions) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--quiet", "-p", "guest-model", "--test", "matrix"]);
    command.args(["--", "--nocapture", "--include-ignored"]);
    if let Some(part) = &options.part {
        command.env("FAULT_MATRIX", part);
    }
    if options.write {
        command.env("STANDFAST_WRITE_DOCS", "1");
    }
    let status = command.status().context("cargo test")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
