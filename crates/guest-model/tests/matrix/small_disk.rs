//! A file system so small that it can be filled: a disk, or the memory of a host.

use anyhow::{Context as _, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// More than a migration's file takes.
const BYTES: usize = 12 << 20;

/// Gives this thread, and those it starts from now on, mounts of its own. `false` where that is not allowed: nothing can
/// be filled then.
pub(crate) fn possible() -> bool {
    #[allow(unsafe_code)]
    // SAFETY: of what can be unshared only file descriptors would concern memory safety, and they stay shared.
    let apart = unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    apart.is_ok() && mount_change("/", private).is_ok()
}

/// Mounted at a folder until it is dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let size = std::ffi::CString::new(format!("size={BYTES}"))?;
        mount(
            "tmpfs",
            folder,
            "tmpfs",
            MountFlags::empty(),
            size.as_c_str(),
        )
        .context("mounting a small file system")?;
        Ok(Self(folder.to_owned()))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// Takes all that is left.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        let block = [0xff; 4096];
        for _ in 0..=BYTES / block.len() {
            if file.write_all(&block).is_err() {
                return Ok(());
            }
        }
        anyhow::bail!("the small file system does not fill up")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever has a file open on it keeps it until then.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
