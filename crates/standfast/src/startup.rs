//! The moment at which the program tells who started it that it is there.

use std::io;
use std::os::fd::OwnedFd;

use crate::daemon;

/// Told once, by [`Startup::ready`], when all sockets listen; dropped untold, it tells the waiting command of
/// `-daemonize` that the start failed.
#[derive(Debug)]
pub struct Startup {
    /// The pipe to the waiting command; `None` without `-daemonize`.
    command: Option<OwnedFd>,
}

impl Startup {
    /// For a program that stays in the foreground.
    pub fn foreground() -> Self {
        Self { command: None }
    }

    /// For the daemon side of [`daemon::daemonize`].
    pub fn background(command: OwnedFd) -> Self {
        Self {
            command: Some(command),
        }
    }

    /// Everything listens: lets the command of `-daemonize` leave with status 0, and lets go of the terminal.
    ///
    /// # Errors
    /// The terminal cannot be let go, or the command is gone.
    pub fn ready(self) -> io::Result<()> {
        if let Some(command) = self.command {
            daemon::detach_from_terminal()?;
            rustix::io::retry_on_intr(|| rustix::io::write(&command, b"1"))?;
        }
        Ok(())
    }
}
