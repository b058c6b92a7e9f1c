//! The lab's state folder. Everything a lab owns on the machine is below it, so two labs with two
//! folders never meet: sockets, pid, logs, packages, kernels, images.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// How many commands may run in one lab host at the same time: one channel each.
pub const CHANNELS: usize = 3;

/// The state folder of one lab.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Opens the folder, and creates it and its parts where they are missing.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let root = root
            .canonicalize()
            .with_context(|| format!("cannot resolve {}", root.display()))?;
        let state = Self { root };
        for part in [state.share(), state.out(), state.cache()] {
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        Ok(state)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What L1 sees read-only and always fresh: binaries, kernels, guest images.
    pub fn share(&self) -> PathBuf {
        self.root.join("share")
    }

    /// What L1 may write: logs and results that outlive it.
    pub fn out(&self) -> PathBuf {
        self.root.join("out")
    }

    /// Packages, unpacked kernels, built agents.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The console log of L1.
    pub fn l1_log(&self) -> PathBuf {
        self.root.join("l1.log")
    }

    /// What L1's own VMM said on stdout and stderr.
    pub fn l1_vmm_log(&self) -> PathBuf {
        self.root.join("l1-vmm.log")
    }

    /// Where the running L1 is recorded: its process id and start time.
    pub fn l1_pid(&self) -> PathBuf {
        self.root.join("l1.pid")
    }

    /// The lock held while L1 is started or stopped.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The file name (relative to the folder) of a channel's socket.
    pub fn channel_socket(index: usize) -> String {
        format!("agent{index}.sock")
    }

    /// The lock that says a channel is in use.
    pub fn channel_lock(&self, index: usize) -> PathBuf {
        self.root.join(format!("agent{index}.lock"))
    }
}
