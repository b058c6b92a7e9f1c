//! `script=` and `downscript=`: a program that connects a tap to the host's network.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::TapError;

/// What runs when a tap is opened, or closed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Script {
    /// The conventional one (`/etc/qemu-ifup`, `/etc/qemu-ifdown`), if it exists.
    #[default]
    Conventional,
    /// None (`script=no`).
    No,
    /// This one.
    Program(PathBuf),
}

/// How long a script may take.
const LIMIT: Duration = Duration::from_secs(60);

impl Script {
    /// The value of `script=` or `downscript=`.
    pub fn from_option(value: &str) -> Self {
        match value {
            "no" | "" => Script::No,
            path => Script::Program(path.into()),
        }
    }

    /// What is to run, `conventional` standing for the default.
    pub(super) fn program(&self, conventional: &str) -> Option<PathBuf> {
        match self {
            Script::No => None,
            Script::Program(path) => Some(path.clone()),
            Script::Conventional => {
                let path = Path::new(conventional);
                path.exists().then(|| path.to_owned())
            }
        }
    }
}

/// Runs `program NAME` and waits for it.
pub(super) fn run(program: &Path, name: &str) -> Result<(), TapError> {
    let failed = |why: String| TapError::Script {
        path: program.to_owned(),
        name: name.to_owned(),
        why,
    };
    let child = Command::new(program)
        .arg(name)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let status = wait(child).map_err(|e| failed(e.to_string()))?;
    match status {
        None => Err(failed(format!("not done after {} s", LIMIT.as_secs()))),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(status.to_string())),
    }
}

/// Waits for the child, and ends it after [`LIMIT`].
fn wait(mut child: Child) -> std::io::Result<Option<ExitStatus>> {
    let pidfd = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(pidfd) = pidfd {
        let limit = Timespec::try_from(LIMIT).ok();
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        if matches!(poll(&mut fds, limit.as_ref()), Ok(0)) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
    child.wait().map(Some)
}
