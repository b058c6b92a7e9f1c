//! Files of character devices; `/dev/fdset/N` is a descriptor that was passed in set N.

use crate::network::FdSource;
use std::fs::{File, OpenOptions};
use std::path::Path;

/// How the path of a set begins.
const SETS: &str = "/dev/fdset/";

/// The set that a path names; nothing if it is a file's.
fn set_of(path: &Path) -> Option<Result<i64, String>> {
    let number = path.to_str()?.strip_prefix(SETS)?;
    Some(
        number
            .parse()
            .map_err(|_| format!("{}: not the number of a descriptor set", path.display())),
    )
}

/// Opens a file to write to: a new one or an emptied one, or with `append` at its end.
pub(super) fn create(path: &Path, append: bool, fds: &dyn FdSource) -> Result<File, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let Some(set) = set_of(path) else {
        let mut options = OpenOptions::new();
        options
            .create(true)
            .append(append)
            .write(true)
            .truncate(!append);
        return options.open(path).map_err(failed);
    };
    let fd = fds.open_set(set?, true)?;
    if append {
        // Of a pipe it means nothing, and whoever opened a file may have done it already.
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(|error| failed(error.into()))?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::APPEND)
            .map_err(|error| failed(error.into()))?;
    }
    Ok(fd.into())
}

/// Opens a file to read from.
pub(super) fn open(path: &Path, fds: &dyn FdSource) -> Result<File, String> {
    match set_of(path) {
        Some(set) => Ok(fds.open_set(set?, false)?.into()),
        None => File::open(path).map_err(|error| format!("{}: {error}", path.display())),
    }
}
