//! The pid file: `-pidfile`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A pid file of this process, locked as long as this value lives and removed when it goes.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Creates the file, or takes over one whose owner is gone, and writes this process's id into it.
    ///
    /// # Errors
    /// It cannot be created, or another process holds it (which is then left as it is).
    pub fn create(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(
                |error| match error {
                    rustix::io::Errno::WOULDBLOCK => {
                        io::Error::other("another process holds its lock and is running")
                    }
                    other => other.into(),
                },
            )?;
            // Its last owner may have removed it between our opening and our locking: then we locked a file without a name.
            let ours = file.metadata()?;
            let same = std::fs::metadata(&path)
                .is_ok_and(|named| named.dev() == ours.dev() && named.ino() == ours.ino());
            if !same {
                continue;
            }
            let mut pid_file = Self { path, file };
            pid_file.file.set_len(0)?;
            writeln!(pid_file.file, "{}", std::process::id())?;
            return Ok(pid_file);
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = self
            .file
            .metadata()
            .ok()
            .map(|file| (file.dev(), file.ino()));
        let named = std::fs::metadata(&self.path)
            .ok()
            .map(|file| (file.dev(), file.ino()));
        if ours.is_some() && ours == named {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_pid_and_goes_with_its_owner() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("pid");
        let first = PidFile::create(&path)?;
        assert_eq!(
            std::fs::read_to_string(&path)?,
            format!("{}\n", std::process::id())
        );
        let error = PidFile::create(&path).err().map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some("another process holds its lock and is running")
        );
        assert!(
            path.exists(),
            "a second owner that fails must leave the first one's file"
        );
        drop(first);
        assert!(!path.exists());
        Ok(())
    }

    #[test]
    fn takes_over_a_stale_file() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("pid");
        std::fs::write(&path, "4194304000000\n")?;
        let _file = PidFile::create(&path)?;
        assert_eq!(
            std::fs::read_to_string(&path)?,
            format!("{}\n", std::process::id())
        );
        Ok(())
    }

    #[test]
    fn leaves_a_file_that_took_its_name() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("pid");
        let file = PidFile::create(&path)?;
        std::fs::remove_file(&path)?;
        std::fs::write(&path, "someone else's")?;
        drop(file);
        assert_eq!(std::fs::read_to_string(&path)?, "someone else's");
        Ok(())
    }
}
