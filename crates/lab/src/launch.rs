//! Becoming another program: what has to happen between the fork and the exec, without a fork hook.
//!
//! The lab starts programs as `lab-agent exec …` (or `xtask exec …`); that process arranges itself
//! and then *becomes* the program, so its process id is the program's.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::clock::now_us;

/// How to arrange the process before it becomes the program.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Launch {
    /// Join this network namespace, and see its devices in /sys.
    #[arg(long)]
    pub netns: Option<String>,
    /// Be killed when the process that started this one ends.
    #[arg(long)]
    pub die_with_parent: bool,
    /// Lead a new session.
    #[arg(long)]
    pub session: bool,
    /// Add this to the niceness; less than nothing takes precedence over other programs.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub nice: i32,
    /// Lead a new session on this terminal.
    #[arg(long)]
    pub tty: Option<PathBuf>,
    /// Write the time of the exec (microseconds, wall clock) into this file.
    #[arg(long)]
    pub stamp: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(required = true, last = true)]
    pub argv: Vec<OsString>,
}

impl Launch {
    /// Becomes the program; returns only if that failed.
    pub fn exec(&self) -> Result<()> {
        let Some((program, arguments)) = self.argv.split_first() else {
            bail!("exec: no program named");
        };
        if self.session || self.tty.is_some() {
            rustix::process::setsid().context("exec: setsid")?;
        }
        if let Some(path) = &self.tty {
            let tty = OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .context("exec: open the terminal")?;
            rustix::stdio::dup2_stdin(&tty)?;
            rustix::stdio::dup2_stdout(&tty)?;
            rustix::stdio::dup2_stderr(&tty)?;
        }
        if self.nice != 0 {
            rustix::process::nice(self.nice).context("exec: nice")?;
        }
        if let Some(name) = &self.netns {
            join_netns(name)?;
        }
        if self.die_with_parent {
            let parent = rustix::process::getppid();
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .context("exec: prctl")?;
            // The parent may have gone before the line above; then nobody would send the signal.
            if rustix::process::getppid() != parent {
                bail!("exec: the parent is gone");
            }
        }
        if let Some(path) = &self.stamp {
            let mut file =
                File::create(path).with_context(|| format!("exec: create {}", path.display()))?;
            write!(file, "{}", now_us())?;
        }
        let error = Command::new(program).args(arguments).exec();
        Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
    }
}

/// Joins a named network namespace and mounts a /sys that shows it, for this process alone.
fn join_netns(name: &str) -> Result<()> {
    enter_netns(name)?;
    unshare_mounts().context("exec: a mount namespace of its own")?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )
    .context("exec: make mounts private")?;
    rustix::mount::unmount("/sys", UnmountFlags::DETACH).context("exec: unmount /sys")?;
    rustix::mount::mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)
        .context("exec: mount /sys")?;
    Ok(())
}

#[allow(unsafe_code)]
fn unshare_mounts() -> io::Result<()> {
    // SAFETY: unsharing the mount namespace affects path resolution of this thread only; the
    // process has one thread and is about to exec.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(Into::into)
}

/// Moves the calling thread into a named network namespace (`ip netns add NAME`).
///
/// Sockets the thread makes from then on belong to it; other threads are not affected.
pub fn enter_netns(name: &str) -> Result<()> {
    let path = format!("/run/netns/{name}");
    let namespace =
        fs::File::open(&path).with_context(|| format!("no network namespace {name}"))?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter the network namespace {name}"))?;
    Ok(())
}
