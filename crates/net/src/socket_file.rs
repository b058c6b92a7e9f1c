//! The file of a Unix socket of ours.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// A socket file that goes when its socket does.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// The file at `path`, which has been made.
    pub(crate) fn made(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes a socket file that a process which ended has left: nobody answers there. Anything else stays, and will be in
/// the way.
pub(crate) fn clear_the_way(path: &Path, kind: SocketType) -> io::Result<()> {
    let there = std::fs::symlink_metadata(path);
    if !there.is_ok_and(|there| there.file_type().is_socket()) {
        return Ok(());
    }
    let probe = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::CONNREFUSED) => std::fs::remove_file(path),
        _ => Ok(()),
    }
}
