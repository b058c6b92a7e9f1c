//! What a cell must not leave behind in this process: threads and open files.

use crate::stage::Crew;
use anyhow::{Context as _, Result, bail};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// A thread ends when it ends; no one can be asked to tell.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives this thread, and those it starts from now on, open files of their own: others come and go with the tests that
/// run at the same time.
pub(crate) fn apart() -> Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: a descriptor is good only where it was opened. Those from before are in both tables; of those of a cell none
    // leaves the threads that its test starts, for machines, wires and sockets are dropped where they were made, and
    // no crate of ours keeps one for the whole process.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.context("open files of its own")
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inventory {
    files: BTreeMap<String, usize>,
}

impl Inventory {
    /// This thread's open files, by what they are.
    pub(crate) fn take() -> Result<Self> {
        let mut files = BTreeMap::new();
        for file in fs::read_dir("/proc/thread-self/fd")? {
            if let Ok(what) = fs::read_link(file?.path()) {
                let what = what.display().to_string();
                // Without the number of the very object.
                let kind = what
                    .split_once(":[")
                    .map_or(what.as_str(), |(kind, _)| kind);
                *files.entry(kind.to_owned()).or_default() += 1;
            }
        }
        Ok(Self { files })
    }

    /// Waits until there are no more files than these, and of the threads of a stage none.
    pub(crate) fn restored(&self, crew: &Crew) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let (threads, files) = (crew.names()?, self.more(&Self::take()?));
            if threads.is_empty() && files.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("left behind: threads {threads:?}, files {files:?}");
            }
            std::thread::yield_now();
        }
    }

    fn more(&self, now: &Self) -> Vec<(String, usize)> {
        let left = now.files.iter().map(|(name, count)| {
            let was = self.files.get(name).copied().unwrap_or_default();
            (name.clone(), count.saturating_sub(was))
        });
        left.filter(|(_, count)| *count > 0).collect()
    }
}
