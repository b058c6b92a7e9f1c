//! `script=` and `downscript=`: a program that connects a tap to the host's network.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::TapError;
use crate::child;

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
    let mut child = Command::new(program)
        .arg(name)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    match child::wait(&mut child, LIMIT).map_err(|e| failed(e.to_string()))? {
        None => {
            // Gone by itself in this moment, or ended now: waited for in either case.
            let _ = child.kill();
            let _ = child.wait();
            Err(failed(format!("not done after {} s", LIMIT.as_secs())))
        }
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(status.to_string())),
    }
}
