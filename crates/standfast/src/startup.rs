//! The moment at which the program tells who started it that it is there.

use std::os::fd::OwnedFd;

/// Told once, by [`Startup::ready`], when all sockets listen; dropping it untold tells the waiting parent of
/// `-daemonize` that the start failed.
#[derive(Debug)]
pub struct Startup {
    /// The pipe to the waiting parent; `None` without `-daemonize`.
    parent: Option<OwnedFd>,
}

impl Startup {
    /// For a program that stays in the foreground.
    pub fn foreground() -> Self {
        Self { parent: None }
    }

    /// Everything listens: lets the parent of `-daemonize` leave with status 0 and detaches from the terminal.
    ///
    /// # Errors
    /// The parent cannot be told.
    pub fn ready(self) -> std::io::Result<()> {
        if let Some(parent) = self.parent {
            rustix::io::write(&parent, b"1")?;
        }
        Ok(())
    }
}
