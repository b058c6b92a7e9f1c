//! The lab's one program inside its machines: init of the lab host, agent of the lab host, init of
//! the guest, launcher, and the runner of scenarios. Static, so that it runs in all of them.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "The lab's program inside its machines")]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve commands in the lab host.
    HostServer,
    /// Become another program.
    Exec(lab::launch::Launch),
}

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        return init();
    }
    match act(Cli::parse().role) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(role: Role) -> Result<ExitCode> {
    match role {
        Role::HostServer => lab::host::server::run()?,
        Role::Exec(launch) => launch.exec()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Process 1 never ends by returning: the kernel would panic before the reason is read.
fn init() -> ExitCode {
    // The two images are told apart by what they hold: only the lab host brings KVM along.
    let host = std::path::Path::new("/modules/kvm.ko").exists();
    let ended = if host {
        lab::host::init::run()
    } else {
        lab::guest::init::run()
    };
    match ended {
        Ok(()) => println!("lab: init is done"),
        Err(error) => println!("lab: init failed: {error:#}"),
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    ExitCode::FAILURE
}
