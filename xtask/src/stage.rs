//! Where measured runs are done: in the lab, or on this machine itself.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::cleanup::Owned;
use lab::l1::{self, L1};
use lab::progress::say;
use lab::report::Run;
use lab::state::StateDir;
use lab::wire::Open;

use crate::build::Workspace;
use crate::lab_commands::{self, LabPlace, environment};

/// A run ended with another status than 0; shown, it says where its logs are on this machine.
#[derive(Debug)]
pub(crate) struct RunFailed {
    /// Its last words.
    pub(crate) reason: String,
    logs: PathBuf,
}

impl fmt::Display for RunFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (logs: {})", self.reason, self.logs.display())
    }
}

impl std::error::Error for RunFailed {}

/// The end of what is said on stderr, so long as a line may be.
#[derive(Default)]
struct LastWords(Vec<u8>);

impl LastWords {
    const MAX_BYTES: usize = 1024;

    fn keep(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let surplus = self.0.len().saturating_sub(Self::MAX_BYTES);
        self.0.drain(..surplus);
    }

    /// The last line with anything in it.
    fn line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        line.map(str::to_owned)
    }
}

/// Where and how runs are done.
pub(crate) enum Stage {
    Lab {
        l1: L1,
        owned: Option<Owned>,
    },
    Native {
        agent: PathBuf,
        arguments: Vec<String>,
    },
}

impl Stage {
    /// The lab of this place, started if it is not up; one that was up before stays up after.
    pub(crate) fn lab(
        place: &LabPlace,
        workspace: &Workspace,
        state: &StateDir,
        keep: bool,
    ) -> Result<Self> {
        let (l1, fresh) = place
            .start(workspace, state, keep)
            .context("the lab cannot be had on this machine")?;
        let owned = fresh.then(|| L1::running(state).map(Owned::new)).flatten();
        Ok(Self::Lab { l1, owned })
    }

    /// All of the lab host's memory in MiB; `None` on this machine itself.
    pub(crate) fn memory_mib(&self) -> Result<Option<u64>> {
        let Self::Lab { l1, .. } = self else {
            return Ok(None);
        };
        let text = l1.channel()?.capture(&["cat", "/proc/meminfo"])?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(Some(
            kib.context("the lab host does not tell its memory")? / 1024,
        ))
    }

    /// Whether the lab host is gone or does not answer any more; never so on this machine itself.
    pub(crate) fn is_lost(&self, state: &StateDir) -> bool {
        match self {
            Self::Lab { l1, .. } => L1::running(state).is_none() || l1.channel().is_err(),
            Self::Native { .. } => false,
        }
    }

    /// Has a lab host that answers: one that is gone or does not is replaced.
    pub(crate) fn recover(
        &mut self,
        place: &LabPlace,
        workspace: &Workspace,
        state: &StateDir,
        keep: bool,
    ) -> Result<()> {
        if !self.is_lost(state) {
            return Ok(());
        }
        let Self::Lab { l1, owned } = self else {
            return Ok(());
        };
        say("lab host: it is gone or does not answer; another one is started");
        l1.stop();
        // Given up now: later, it would stop the next one, since what is owned is one a process.
        drop(owned.take());
        *self = Self::lab(place, workspace, state, keep)?;
        Ok(())
    }

    /// As [`Stage::run`]; the lab host is stopped when the run takes longer than `limit`, which ends the run.
    pub(crate) fn run_within(
        &mut self,
        limit: Duration,
        state: &StateDir,
        name: &str,
        arguments: Vec<String>,
    ) -> Result<Run> {
        let (done, over) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
                    && let Some(l1) = L1::running(state)
                {
                    say(format!(
                        "the run did not end within {} s; the lab host is stopped",
                        limit.as_secs()
                    ));
                    l1.stop();
                }
            });
            let result = self.run(state, name, arguments);
            drop(done);
            result
        })
    }

    /// This machine, with the agent's arguments for it.
    pub(crate) fn native(
        workspace: &Workspace,
        state: &StateDir,
        arguments: Vec<String>,
    ) -> Result<Self> {
        say("building lab-agent");
        let agent = workspace.agent()?;
        l1::prepare(state, &agent)?;
        Ok(Self::Native { agent, arguments })
    }

    /// The process whose work is the measurement's own.
    pub(crate) fn emulator(&self) -> Option<u32> {
        match self {
            Self::Lab { l1, .. } => Some(l1.pid()),
            Self::Native { .. } => None,
        }
    }

    /// Does the main job once with this VMM.
    fn run(&mut self, state: &StateDir, name: &str, mut arguments: Vec<String>) -> Result<Run> {
        let words = ["demo", "--vmm", name].map(str::to_owned);
        arguments.splice(0..0, words);
        let mut output = Vec::new();
        let mut said = LastWords::default();
        let code = match self {
            Self::Lab { l1, .. } => {
                let mut channel = l1.channel()?;
                lab_commands::stage(&mut channel, state)?;
                arguments.insert(0, "/run/lab/stage/lab-agent".to_owned());
                channel.run(
                    &Open {
                        argv: arguments,
                        env: environment(),
                        tty: None,
                    },
                    |bytes| output.write_all(bytes),
                    |bytes| {
                        said.keep(bytes);
                        io::stderr().write_all(bytes)
                    },
                )?
            }
            Self::Native {
                agent,
                arguments: native,
            } => {
                arguments.extend(native.iter().cloned());
                arguments.extend([
                    "--share".to_owned(),
                    state.share().to_string_lossy().into_owned(),
                ]);
                let done = Command::new(agent)
                    .args(&arguments)
                    .stderr(Stdio::inherit())
                    .output()
                    .context("cannot run lab-agent")?;
                output = done.stdout;
                done.status.code().unwrap_or(1)
            }
        };
        if code != 0 {
            return Err(RunFailed {
                reason: said.line().unwrap_or_else(|| "see above".to_owned()),
                logs: state.out().join(name),
            }
            .into());
        }
        let text = String::from_utf8_lossy(&output);
        let line = text
            .lines()
            .rev()
            .find(|line| line.starts_with('{'))
            .context("the run left no report")?;
        serde_json::from_str(line).context("the run's report is damaged")
    }

    /// Stops the lab host, if it was started here and is not to be kept.
    pub(crate) fn close(self, keep: bool) {
        if let Self::Lab {
            owned: Some(owned), ..
        } = self
        {
            if keep {
                owned.keep();
                say("lab host: left running (cargo xtask lab down stops it)");
            } else {
                drop(owned);
            }
        }
    }
}

/// Puts the logs of the last run away: the next one writes its own to the same place.
pub(crate) fn keep_logs(state: &StateDir, vmm: &str, name: &str) {
    let logs = state.out().join(vmm);
    let _ = fs::remove_dir_all(logs.join(name));
    let _ = fs::rename(logs.join("demo"), logs.join(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_of_a_failed_run_is_its_last_line_and_no_path() {
        let mut said = LastWords::default();
        assert_eq!(said.line(), None);
        said.keep(&b"x".repeat(3000));
        said.keep(b"\nthe guest did not");
        said.keep(b" come back\n\n");
        let failed = RunFailed {
            reason: said.line().unwrap(),
            logs: PathBuf::from("/logs"),
        };
        assert_eq!(failed.reason, "the guest did not come back");
        assert_eq!(
            failed.to_string(),
            "the guest did not come back (logs: /logs)"
        );
        assert!(said.0.len() <= LastWords::MAX_BYTES);
    }
}
