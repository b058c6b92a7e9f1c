//! Going to the background: `-daemonize`.
//!
//! ```text
//!  command ──fork──▶ middle ──setsid, fork──▶ daemon: pid file, sockets, devices ──Startup::ready──▶ runs
//!     │                 └─▶ gone                   │ one byte: all listens    │ pipe closed: it failed
//!     └── waits on a pipe ◀────────────────────────┴──────────────────────────┘
//!         exit 0 on the byte, exit 1 without it (the daemon has written why to standard error, still the terminal's)
//! ```
//!
//! The working folder stays what it was, unlike with QEMU, which changes to `/`: relative paths in options and in later
//! monitor commands keep their meaning, and sockets and pid file can be removed at the end by the names they were given.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};

/// Which of the processes this is, after [`daemonize`].
#[derive(Debug)]
pub enum Side {
    /// The command; leave with this status.
    Command(u8),
    /// The daemon; tell the command by one byte on this pipe that it is ready, or close it.
    Daemon(OwnedFd),
}

/// Forks into the background. In the command it returns only when the daemon is ready or has failed.
///
/// Precondition: this process has one thread. It is called before any other is started.
///
/// # Errors
/// The system refuses a pipe, a process or a session.
pub fn daemonize() -> io::Result<Side> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    if fork()? {
        drop(write);
        let mut byte = [0u8; 1];
        let told = rustix::io::retry_on_intr(|| rustix::io::read(&read, &mut byte))?;
        // The middle process has left by now; taking its status leaves no zombie if the command stays.
        let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
        return Ok(Side::Command(u8::from(told != 1)));
    }
    drop(read);
    rustix::process::setsid()?;
    // A process that leads no session can never get a terminal again.
    if fork()? {
        drop(write);
        exit_now();
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    Ok(Side::Daemon(write))
}

/// Lets go of the terminal: standard input, output and error lead to /dev/null.
///
/// # Errors
/// /dev/null cannot be opened.
pub fn detach_from_terminal() -> io::Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// True in the parent, false in the child.
#[allow(unsafe_code)]
fn fork() -> io::Result<bool> {
    // SAFETY: the precondition of `daemonize` is that there is one thread, so that no lock can be left held in the child.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(false),
        _ => Ok(true),
    }
}

/// Leaves without running anything that the parent will run too.
#[allow(unsafe_code)]
fn exit_now() -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(0) }
}
