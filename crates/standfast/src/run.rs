//! A configuration becomes a running machine.

use std::process::ExitCode;

use config::vm::VmConfig;

use crate::startup::Startup;

/// Builds the machine and runs it until it ends.
///
/// # Errors
/// The machine cannot be built, or ends badly.
pub fn run(_config: VmConfig, _startup: Startup) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not wired yet")
}
