//! Descriptors that clients hand over (SCM_RIGHTS): by name, one monitor each (`getfd`), and in sets for all (`add-fd`).

use crate::error::QmpError;
use crate::types::{AddfdInfo, FdsetFdInfo, FdsetInfo};
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many descriptors a monitor keeps by name, and how many all sets keep together.
pub const MAX_FDS: usize = 256;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The descriptors that one monitor can name. Cloning gives another handle on the same.
#[derive(Debug, Clone, Default)]
pub struct MonitorFds {
    named: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
    sets: FdSets,
}

impl MonitorFds {
    /// No names yet; the sets are shared with the other monitors.
    pub fn new(sets: FdSets) -> Self {
        Self {
            named: Arc::default(),
            sets,
        }
    }

    /// The sets.
    pub fn sets(&self) -> &FdSets {
        &self.sets
    }

    /// Takes the descriptor of that name away: whoever asks owns it from now on.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn take(&self, name: &str) -> Result<OwnedFd, QmpError> {
        lock(&self.named).remove(name).ok_or_else(|| {
            QmpError::generic(format!("File descriptor named '{name}' has not been found"))
        })
    }

    /// `getfd`: keeps `fd` under `name`; one of that name from before is closed.
    ///
    /// # Errors
    /// No descriptor came, the name begins with a digit, or there are [`MAX_FDS`] already.
    pub fn keep(&self, name: &str, fd: Option<OwnedFd>) -> Result<(), QmpError> {
        let fd =
            fd.ok_or_else(|| QmpError::generic("No file descriptor supplied via SCM_RIGHTS"))?;
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(QmpError::invalid_value(
                "fdname",
                "a name not starting with a digit",
            ));
        }
        let mut named = lock(&self.named);
        if named.len() >= MAX_FDS && !named.contains_key(name) {
            return Err(QmpError::generic(format!(
                "The monitor keeps {MAX_FDS} descriptors already; close some with closefd"
            )));
        }
        named.insert(name.to_owned(), fd);
        Ok(())
    }

    /// `closefd`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn close(&self, name: &str) -> Result<(), QmpError> {
        let fd = lock(&self.named).remove(name);
        fd.map(drop)
            .ok_or_else(|| QmpError::generic(format!("File descriptor named '{name}' not found")))
    }
}

#[derive(Debug)]
struct SetFd {
    fd: OwnedFd,
    opaque: Option<String>,
}

/// The descriptor sets of `add-fd` and `-add-fd`. Cloning gives another handle on the same.
#[derive(Debug, Clone, Default)]
pub struct FdSets(Arc<Mutex<BTreeMap<i64, Vec<SetFd>>>>);

impl FdSets {
    /// Puts `fd` into the set `id`, or into a new one.
    ///
    /// # Errors
    /// No descriptor came, the id is negative, or the sets hold [`MAX_FDS`] already.
    pub fn add(
        &self,
        id: Option<i64>,
        fd: Option<OwnedFd>,
        opaque: Option<String>,
    ) -> Result<AddfdInfo, QmpError> {
        let fd =
            fd.ok_or_else(|| QmpError::generic("No file descriptor supplied via SCM_RIGHTS"))?;
        if id.is_some_and(|id| id < 0) {
            return Err(QmpError::invalid_value("fdset-id", "a non-negative value"));
        }
        let mut sets = lock(&self.0);
        if sets.values().map(Vec::len).sum::<usize>() >= MAX_FDS {
            return Err(QmpError::generic(format!(
                "The descriptor sets hold {MAX_FDS} already; remove some with remove-fd"
            )));
        }
        let id = match id {
            Some(id) => id,
            None => (0..).find(|id| !sets.contains_key(id)).unwrap_or(i64::MAX),
        };
        let info = AddfdInfo {
            fdset_id: id,
            fd: i64::from(fd.as_raw_fd()),
        };
        sets.entry(id).or_default().push(SetFd { fd, opaque });
        Ok(info)
    }

    /// `remove-fd`: closes one descriptor of a set, or all.
    ///
    /// # Errors
    /// There is no such set or descriptor.
    pub fn remove(&self, id: i64, fd: Option<i64>) -> Result<(), QmpError> {
        let mut sets = lock(&self.0);
        let gone = match (sets.get_mut(&id), fd) {
            (None, _) => false,
            (Some(set), None) => {
                set.clear();
                true
            }
            (Some(set), Some(fd)) => {
                let before = set.len();
                set.retain(|entry| i64::from(entry.fd.as_raw_fd()) != fd);
                set.len() < before
            }
        };
        sets.retain(|_, set| !set.is_empty());
        if gone {
            return Ok(());
        }
        let name = match fd {
            Some(fd) => format!("fdset-id:{id}, fd:{fd}"),
            None => format!("fdset-id:{id}"),
        };
        Err(QmpError::generic(format!(
            "File descriptor named '{name}' not found"
        )))
    }

    /// `query-fdsets`.
    pub fn query(&self) -> Vec<FdsetInfo> {
        let describe = |entry: &SetFd| FdsetFdInfo {
            fd: i64::from(entry.fd.as_raw_fd()),
            opaque: entry.opaque.clone(),
        };
        lock(&self.0)
            .iter()
            .map(|(id, set)| FdsetInfo {
                fdset_id: *id,
                fds: set.iter().map(describe).collect(),
            })
            .collect()
    }

    /// Another descriptor for the one of the set `id` that can be read (`write` false) or written: what opening
    /// `/dev/fdset/ID` means.
    ///
    /// # Errors
    /// There is no such set, none in it has the access asked for, or it could not be duplicated.
    pub fn open(&self, id: i64, write: bool) -> Result<OwnedFd, QmpError> {
        let sets = lock(&self.0);
        let set = sets
            .get(&id)
            .ok_or_else(|| QmpError::generic(format!("File descriptor set {id} not found")))?;
        let fits = |entry: &&SetFd| {
            let mode =
                rustix::fs::fcntl_getfl(entry.fd.as_fd()).map(|flags| flags & OFlags::RWMODE);
            match mode {
                Ok(mode) => {
                    mode == OFlags::RDWR
                        || mode
                            == if write {
                                OFlags::WRONLY
                            } else {
                                OFlags::RDONLY
                            }
                }
                Err(_) => false,
            }
        };
        let entry = set.iter().find(fits).ok_or_else(|| {
            let access = if write { "writing" } else { "reading" };
            QmpError::generic(format!("No descriptor of set {id} is open for {access}"))
        })?;
        entry
            .fd
            .try_clone()
            .map_err(|error| QmpError::generic(format!("Descriptor set {id}: {error}")))
    }
}
