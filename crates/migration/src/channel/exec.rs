//! A command at the other end of the channel.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

use super::{Channel, ChannelError, Patience, sentence};
use crate::cancel::CancelToken;

/// A running command. It does not outlive its channel: dropped, it is killed with all that it has started, and reaped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    command: String,
    ended: bool,
}

impl Running {
    fn failed(&self, why: impl Into<String>) -> ChannelError {
        ChannelError::Command {
            command: self.command.clone(),
            why: why.into(),
        }
    }

    /// Kills it and all that it has started. Not once it was waited for: until then its number is its group's.
    fn kill(&self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }

    /// Waits for it to end by itself; what it has started goes on then, if it ended well. Its input is closed already.
    pub(super) fn wait(
        mut self,
        cancel: &CancelToken,
        patience: &Patience,
    ) -> Result<(), ChannelError> {
        if let Ok(pidfd) = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()) {
            loop {
                let timeout = patience.left()?;
                let mut fds = vec![
                    PollFd::new(&pidfd, PollFlags::IN),
                    PollFd::new(cancel, PollFlags::IN),
                ];
                let bell = patience.bell();
                fds.extend(bell.iter().map(|bell| PollFd::new(bell, PollFlags::IN)));
                let _ = poll(&mut fds, timeout.as_ref());
                let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
                if cancel.is_cancelled() {
                    return Err(ChannelError::Cancelled);
                }
                if ended {
                    break;
                }
            }
        }
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let peeked = waitid(WaitId::Pid(Pid::from_child(&self.child)), ended);
        let good = matches!(&peeked, Ok(Some(status)) if status.exit_status() == Some(0));
        if !good {
            self.kill();
        }
        let status = self
            .child
            .wait()
            .map_err(|error| self.failed(format!("cannot be waited for: {}", sentence(&error))))?;
        self.ended = true;
        if status.success() {
            Ok(())
        } else {
            Err(self.failed(format!("failed: {status}")))
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts `command` with its standard input (`write`) or output as the channel.
pub(super) fn spawn(command: &str, write: bool) -> Result<Channel, ChannelError> {
    let failed = |why: String| ChannelError::Command {
        command: command.to_owned(),
        why,
    };
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    // A group of its own: the shell is not all there is to end. *Rejected: killing the shell alone,* as QEMU does. What it
    // waits for reads on, or stays for good if it does not read.
    shell.process_group(0);
    if write {
        shell.stdin(Stdio::piped());
    } else {
        shell.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    let mut child = shell
        .spawn()
        .map_err(|error| failed(format!("cannot be run: {}", sentence(&error))))?;
    let fd = if write {
        child.stdin.take().map(OwnedFd::from)
    } else {
        child.stdout.take().map(OwnedFd::from)
    };
    let running = Running {
        child,
        command: command.to_owned(),
        ended: false,
    };
    let fd = fd.ok_or_else(|| failed("has no pipe".to_owned()))?;
    Channel::of_command(fd, running)
        .map_err(|error| failed(format!("cannot be talked to: {}", sentence(&error))))
}
