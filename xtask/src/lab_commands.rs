//! `cargo xtask lab …`: a lab host that stays up between commands.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use lab::l1::{L1, Options};
use lab::progress::say;
use lab::state::StateDir;
use lab::wire::Open;

use crate::build::Workspace;

/// Which lab, and how large.
#[derive(Debug, Clone, Args)]
pub(crate) struct LabPlace {
    /// The lab's state folder [default: lab in cargo's target folder]; two folders are two labs.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The lab host's memory in MiB.
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// The lab host's processors.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// The lab host's niceness: with less than 0 other programs disturb its figures less.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    nice: i32,
    /// The lab host's kernel, in the folder that `make install modules_install` put it into [default: Debian's]; guests
    /// keep Debian's.
    #[arg(long, value_name = "FOLDER")]
    kernel: Option<PathBuf>,
    /// Use this program as standfast instead of building it.
    #[arg(long, value_name = "PROGRAM")]
    standfast: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum LabCommand {
    /// Start the lab host, with everything it needs, and leave it running.
    Up(LabPlace),
    /// Run a command in the lab host (which is started if it is not up, and left running).
    Run {
        #[command(flatten)]
        place: LabPlace,
        /// Build the program of this project first; it is /run/lab/stage/standfast there.
        #[arg(long)]
        build: bool,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<String>,
    },
    /// The whole measurement beside QEMU: docs/measurements.md and its raw data. Goes on where it was left.
    Measure(crate::measure::MeasureOptions),
    /// A shell in the lab host.
    Shell(LabPlace),
    /// Stop the lab host.
    Down(LabPlace),
}

impl LabPlace {
    /// Gives a lab host that is started for this no less memory than that, in MiB.
    pub(crate) fn at_least(&mut self, mib: u64) {
        self.memory = self.memory.max(u32::try_from(mib).unwrap_or(u32::MAX));
    }

    pub(crate) fn state(&self, workspace: &Workspace) -> Result<StateDir> {
        StateDir::open(
            &self
                .dir
                .clone()
                .unwrap_or_else(|| workspace.target.join("lab")),
        )
    }

    /// Puts the program of this project where the lab host sees it; builds it unless one is named.
    pub(crate) fn publish_standfast(&self, workspace: &Workspace, state: &StateDir) -> Result<()> {
        let program = match &self.standfast {
            Some(program) => program.clone(),
            None => {
                say("building standfast");
                workspace.standfast()?
            }
        };
        lab::l1::publish(&program, &state.share().join("standfast"))
    }

    /// The lab host of this place, started if need be; says whether it was started here.
    pub(crate) fn start(
        &self,
        workspace: &Workspace,
        state: &StateDir,
        keep: bool,
    ) -> Result<(L1, bool)> {
        say("building lab-agent");
        let agent = workspace.agent()?;
        if let Some(l1) = L1::running(state) {
            if let Some(folder) = &self.kernel {
                let wanted = lab::kernel::Kernel::installed(folder)?.release;
                ensure!(
                    l1.kernel() == wanted,
                    "the lab host is up with kernel {}, not {wanted}: stop it first (cargo xtask lab down)",
                    l1.kernel()
                );
            }
            lab::l1::prepare(state, &agent)?;
            return Ok((l1, false));
        }
        let options = Options {
            memory_mib: self.memory,
            cpus: self.cpus,
            nice: self.nice,
            die_with_parent: !keep,
            kernel: self.kernel.clone(),
            launcher: std::env::current_exe().context("where am I?")?,
        };
        Ok((L1::start(state, &agent, &options)?, true))
    }
}

pub(crate) fn run(command: LabCommand) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match command {
        LabCommand::Measure(options) => crate::measure::run(&options),
        LabCommand::Up(place) => {
            let state = place.state(&workspace)?;
            let (_, fresh) = place.start(&workspace, &state, true)?;
            if !fresh {
                say("lab host: already up");
            }
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Run { place, build, argv } => {
            let state = place.state(&workspace)?;
            if build || place.standfast.is_some() {
                place.publish_standfast(&workspace, &state)?;
            }
            let (l1, _) = place.start(&workspace, &state, true)?;
            let mut channel = l1.channel()?;
            stage(&mut channel, &state)?;
            let code = channel.run(
                &Open {
                    argv,
                    env: vec![path()],
                    tty: None,
                },
                |bytes| {
                    io::stdout()
                        .write_all(bytes)
                        .and_then(|()| io::stdout().flush())
                },
                |bytes| io::stderr().write_all(bytes),
            )?;
            Ok(exit_code(code))
        }
        LabCommand::Shell(place) => {
            let state = place.state(&workspace)?;
            let (l1, _) = place.start(&workspace, &state, true)?;
            let argv = vec!["/bin/bash".to_owned(), "-l".to_owned()];
            let code = l1.channel()?.shell(Open {
                argv,
                env: vec![path()],
                tty: None,
            })?;
            Ok(exit_code(code))
        }
        LabCommand::Down(place) => {
            let state = place.state(&workspace)?;
            match L1::running(&state) {
                Some(l1) => {
                    l1.stop();
                    say("lab host: stopped");
                }
                None => say("lab host: not running"),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Copies what changed from the share into L1's memory, where programs start quickly.
pub(crate) fn stage(channel: &mut lab::channel::Channel, state: &StateDir) -> Result<()> {
    let names = [
        "lab-agent",
        "standfast",
        "vmlinuz",
        "guest.img",
        "guest-iperf.img",
    ];
    let present: Vec<&str> = names
        .into_iter()
        .filter(|name| state.share().join(name).exists())
        .collect();
    let script = format!(
        "cd /run/lab/share && for f in {}; do t=/run/lab/stage/$f; [ $f -nt $t ] || [ $f -ot $t ] || [ ! -e $t ] || continue; \
         cp -p $f $t.new && mv $t.new $t; done",
        present.join(" ")
    );
    channel.capture(&["/bin/sh", "-c", &script]).map(drop)
}

pub(crate) fn path() -> (String, String) {
    (
        "PATH".to_owned(),
        "/run/lab/stage:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    )
}

/// What a program in the lab host is told besides its arguments.
pub(crate) fn environment() -> Vec<(String, String)> {
    let mut all = vec![path()];
    if lab::progress::on_terminal() {
        all.push((lab::progress::TERMINAL.to_owned(), "1".to_owned()));
    }
    all
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(255))
}
