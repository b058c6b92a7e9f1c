//! The threads of a stage, and the processes that they start: which they are, and whether all of them wait.
//!
//! "Nothing else happens" is what lets time pass ([`Stage`](super::Stage)), so it must not be a matter of how fast a
//! thread is. It is when every thread of the stage's sleeps and none has run between two looks: then nothing is under way
//! between them, for whatever one has for another wakes it.
//!
//! A thread belongs to the stage if it has the stage's folder as its working directory. Threads inherit it from the one
//! that starts them, and that of the test takes it for itself alone first; so stages of one process do not meet. So do
//! processes, and what those start.

use anyhow::{Context as _, Result};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// How often a thread has gone to sleep, and how often it was made to wait, as the kernel counts.
type Switches = [String; 2];

pub struct Crew {
    folder: PathBuf,
    /// Processes are looked for too; that takes time, and few stages start one.
    pub processes: bool,
    /// The thread of the test.
    own: u32,
}

/// The other processes of a stage, by number, and their folders in `/proc`.
pub fn processes(stage: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let stage = fs::canonicalize(stage)?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(number) = number.filter(|number| *number != std::process::id()) else {
            continue;
        };
        // One that has ended has none any more.
        if fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == stage) {
            found.push((number, path));
        }
    }
    Ok(found)
}

impl Crew {
    /// From now on this thread, and those that it starts, are the ones of `folder`.
    pub fn gather(folder: &Path) -> Result<Self> {
        #[allow(unsafe_code)]
        // SAFETY: of what can be unshared only file descriptors would concern memory safety, and they stay shared.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.context("a working directory of its own")?;
        std::env::set_current_dir(folder)?;
        Ok(Self {
            processes: false,
            // As the kernel tells it.
            folder: fs::read_link("/proc/thread-self/cwd")?,
            own: rustix::thread::gettid()
                .as_raw_nonzero()
                .get()
                .unsigned_abs(),
        })
    }

    /// The others' folders in `/proc`.
    fn tasks(&self, processes_too: bool) -> Result<Vec<(u32, PathBuf)>> {
        let mut tasks = if processes_too {
            processes(&self.folder)?
        } else {
            Vec::new()
        };
        for task in fs::read_dir("/proc/self/task")? {
            let path = task?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let Some(number) = number.filter(|number| *number != self.own) else {
                continue;
            };
            // One that has just ended has none any more.
            let ours = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == self.folder);
            if ours {
                tasks.push((number, path));
            }
        }
        Ok(tasks)
    }

    /// All threads but the test's own, asleep; `None` if one is not.
    fn asleep(&self) -> Result<Option<BTreeMap<u32, Switches>>> {
        let mut all = BTreeMap::new();
        for (number, path) in self.tasks(self.processes)? {
            let Ok(status) = fs::read_to_string(path.join("status")) else {
                // It has just ended; what it did last is looked for the next time.
                return Ok(None);
            };
            let line = |name: &str| {
                let mut lines = status.lines();
                lines.find_map(|line| line.strip_prefix(name).map(str::trim))
            };
            // A process that was stopped does nothing either.
            if !line("State:").is_some_and(|state| state.starts_with(['S', 'T'])) {
                return Ok(None);
            }
            let switches = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
            all.insert(
                number,
                switches.map(|name| line(name).unwrap_or_default().to_owned()),
            );
        }
        Ok(Some(all))
    }

    /// Whether all of them wait for something that is not under way between them.
    pub fn waits(&self) -> Result<bool> {
        Ok(match self.asleep()? {
            Some(before) => self.asleep()? == Some(before),
            None => false,
        })
    }

    /// The names of those that there are still, processes too.
    pub fn names(&self) -> Result<Vec<String>> {
        let names = self.tasks(true)?.into_iter();
        let name = |(_, path): (u32, PathBuf)| fs::read_to_string(path.join("comm")).ok();
        Ok(names
            .filter_map(name)
            .map(|name| name.trim().to_owned())
            .collect())
    }
}
