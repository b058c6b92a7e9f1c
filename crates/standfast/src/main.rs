//! The virtual machine monitor: see the library beside it for how it starts.

use std::io::Write;
use std::process::ExitCode;

use config::vm::VmConfig;
use standfast::cli::{self, Invocation};
use standfast::daemon::{self, Side};
use standfast::pidfile::PidFile;
use standfast::startup::Startup;
use standfast::{log, message, run};

fn main() -> ExitCode {
    if let Err(error) = machine::passed::remember() {
        return fail(&format!("/proc/self/fd: {error}"));
    }
    let config = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Run(config)) => *config,
        Ok(Invocation::Print(text)) => return print(&text),
        Err(error) => return fail(&error.to_string()),
    };
    let startup = if config.daemonize {
        match daemon::daemonize() {
            Ok(Side::Command(status)) => return ExitCode::from(status),
            Ok(Side::Daemon(command)) => Startup::background(command),
            Err(error) => return fail(&format!("-daemonize: {error}")),
        }
    } else {
        Startup::foreground()
    };
    start(config, startup)
}

/// The part that only the process which runs the machine does.
fn start(config: VmConfig, startup: Startup) -> ExitCode {
    // Held to the end of the machine, whatever that end is.
    let _pid_file = match config
        .pidfile
        .as_deref()
        .map(|path| (path, PidFile::create(path)))
    {
        None => None,
        Some((_, Ok(file))) => Some(file),
        Some((path, Err(error))) => {
            return fail(&format!(
                "-pidfile {0}: cannot create PID file '{0}': {error}",
                path.display()
            ));
        }
    };
    if let Err(error) = log::set_up(&config.log) {
        return fail(&error.to_string());
    }
    match run::run(config, startup) {
        Ok(status) => status,
        Err(error) => fail(&message::of(&error)),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe may have had enough: that is its right.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("standard output: {error}")),
    }
}

/// One line on standard error, status 1.
fn fail(text: &str) -> ExitCode {
    let line = message::one_line(text);
    let _ = writeln!(std::io::stderr(), "{}: {line}", log::program_name());
    ExitCode::FAILURE
}
