//! `cargo xtask`: every set-up step of the project.

mod build;
mod demo;
mod differential;
mod fuzz;
mod lab_commands;
mod matrix;
mod measure;
mod native;
mod page;
mod soak;
mod stage;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Every set-up step of Standfast",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The main job: a guest with a passed-through NIC migrates; shown and measured.
    Demo(demo::DemoOptions),
    /// The page of a report that was written before, beside it.
    Page(page::PageOptions),
    /// Every test: cargo's, then the lab scenarios.
    Test(test::TestOptions),
    /// What has to hold before a change is taken: fmt, clippy, docs, every test, a minute of each fuzz target.
    Ci(test::CiOptions),
    /// Hostile input: builds the fuzz targets and runs them, two at a time.
    Fuzz(fuzz::FuzzOptions),
    /// Standfast beside QEMU: each scenario played to both, and what differs.
    Differential(differential::DifferentialOptions),
    /// Each fault at each moment of a migration, played in one process; a table.
    Matrix(matrix::MatrixOptions),
    /// The model guest's tests many times in a row, each time with another seed.
    Soak(soak::SoakOptions),
    /// The lab: a nested host with KVM, IOMMU, VFIO, SR-IOV and guests.
    #[command(subcommand)]
    Lab(lab_commands::LabCommand),
    /// Become another program (used by the lab itself).
    #[command(hide = true)]
    Exec(lab::launch::Launch),
}

fn main() -> ExitCode {
    lab::progress::begin();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Task::Demo(options) => demo::run(&options),
        Task::Page(options) => page::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Ci(options) => test::ci(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Matrix(options) => matrix::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Differential(options) => differential::run(&options),
        Task::Lab(command) => lab_commands::run(command),
        Task::Exec(launch) => launch.exec().map(|()| ExitCode::SUCCESS),
    }
}
