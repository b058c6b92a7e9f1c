//! What a cell must not leave behind in this process: threads and open files.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// A thread ends when it ends; no one can be asked to tell.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inventory {
    threads: BTreeMap<String, usize>,
    files: BTreeMap<String, usize>,
}

impl Inventory {
    /// The threads of this process, by name, and its open files, by what they are.
    pub(crate) fn take() -> Result<Self> {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir("/proc/self/task")? {
            // One that has just ended is not there any more.
            if let Ok(name) = fs::read_to_string(task?.path().join("comm")) {
                *threads.entry(name.trim().to_owned()).or_default() += 1;
            }
        }
        let mut files = BTreeMap::new();
        for file in fs::read_dir("/proc/self/fd")? {
            if let Ok(what) = fs::read_link(file?.path()) {
                let what = what.display().to_string();
                // Without the number of the very object.
                let kind = what
                    .split_once(":[")
                    .map_or(what.as_str(), |(kind, _)| kind);
                *files.entry(kind.to_owned()).or_default() += 1;
            }
        }
        Ok(Self { threads, files })
    }

    /// Waits until no more is there than this.
    pub(crate) fn restored(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = Self::take()?;
            let (threads, files) = (
                more(&now.threads, &self.threads),
                more(&now.files, &self.files),
            );
            if threads.is_empty() && files.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("left behind: threads {threads:?}, files {files:?}");
            }
            std::thread::yield_now();
        }
    }
}

fn more(now: &BTreeMap<String, usize>, before: &BTreeMap<String, usize>) -> Vec<(String, usize)> {
    let left = now.iter().map(|(name, count)| {
        let was = before.get(name).copied().unwrap_or_default();
        (name.clone(), count.saturating_sub(was))
    });
    left.filter(|(_, count)| *count > 0).collect()
}
