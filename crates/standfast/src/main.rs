//! The virtual machine monitor.

use std::process::ExitCode;

fn main() -> ExitCode {
    match standfast::run::run(
        config::vm::VmConfig::default(),
        standfast::startup::Startup::foreground(),
    ) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("standfast: {error:#}");
            ExitCode::FAILURE
        }
    }
}
