//! The memory file of plain RAM: one whose pages the kernel makes huge as they are first touched, where it lets us.
//!
//! A `memfd` lives on a mount of the kernel's own, which by default never makes huge pages
//! (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`), whatever a mapping is advised. A guest on small pages faults
//! 512 times as often, and its DMA mappings are as many. So the file is made on a `tmpfs` of ours, which follows the
//! advice (`huge=advise`) and is mounted nowhere: no path leads to it, and it goes with the file. An administrator's
//! `deny` in `shmem_enabled` is obeyed all the same.
//!
//! Who may not mount gets a `memfd`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

/// A file of memory without a name and of length 0, for the block `name`.
///
/// # Errors
/// The kernel gives neither kind of file.
pub(crate) fn memory_file(name: &str) -> io::Result<OwnedFd> {
    on_own_tmpfs().or_else(|errno| {
        tracing::debug!("guest RAM '{name}': no tmpfs of its own ({errno}); a memfd instead");
        rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
    })
}

fn on_own_tmpfs() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // As of a memfd: no limit but the host's memory.
    for (key, value) in [
        ("size", "0"),
        ("nr_inodes", "0"),
        ("mode", "0700"),
        ("huge", "advise"),
    ] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    rustix::fs::openat(
        mount.as_fd(),
        ".",
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
}
