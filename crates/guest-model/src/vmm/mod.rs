//! A VMM started as a program, with its CPU's place (qtest) and its monitor (QMP) in our hands.

mod qmp;

pub use qmp::{Event, Qmp, QmpError};

use crate::bell;
use crate::qtest::QtestBus;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a VMM may take to connect to its sockets, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which program, and how it is started so that no CPU of its own runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// QEMU, under TCG with a firmware that only halts: distributions leave out its qtest accelerator.
    Qemu(PathBuf),
    /// A program with a qtest accelerator.
    Qtest(PathBuf),
}

impl Program {
    /// QEMU from the search path; `None` where it is not installed.
    pub fn installed_qemu() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join("qemu-system-x86_64"))
            .find(|file| file.is_file())
            .map(Self::Qemu)
    }
}

/// A running VMM. It is killed when this is dropped.
#[derive(Debug)]
pub struct Vmm {
    child: Child,
    /// Readable once it has ended.
    end: OwnedFd,
    folder: PathBuf,
    bus: Option<QtestBus>,
    /// Its monitor.
    pub qmp: Qmp,
}

/// A socket that the VMM connects to, so that it need not be asked again and again whether it listens.
struct Door(UnixListener);

impl Door {
    fn open(folder: &Path, name: &str) -> io::Result<(Self, String)> {
        let path = folder.join(name);
        let listener = UnixListener::bind(&path)?;
        Ok((Self(listener), format!("unix:{}", path.display())))
    }

    /// Whether the VMM is at the door; `false` when it has ended before.
    fn knocked(&self, vmm_end: &OwnedFd, until: Instant) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(&self.0, PollFlags::IN),
            PollFd::new(vmm_end, PollFlags::IN),
        ];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if bell::ready(&mut fds, left)? {
                return Ok(!fds[0].revents().is_empty());
            }
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Vmm {
    /// Starts a q35 machine with `args` added, and has it connect its monitor and its CPU's place to us. Sockets and
    /// logs go to `folder`, which is this VMM's alone.
    ///
    /// # Errors
    /// It does not start, or ends with a message, which is in the error.
    pub fn start(program: &Program, folder: &Path, args: &[impl AsRef<str>]) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut command = match program {
            Program::Qemu(path) => {
                let firmware = folder.join("halt.bin");
                std::fs::write(&firmware, halting_firmware())?;
                let mut command = Command::new(path);
                command.args(["-accel", "tcg", "-bios"]).arg(firmware);
                command
            }
            Program::Qtest(path) => {
                let mut command = Command::new(path);
                command.args(["-accel", "qtest"]);
                command
            }
        };
        let (qtest_door, qtest) = Door::open(folder, "qtest")?;
        let (qmp_door, qmp) = Door::open(folder, "qmp")?;
        command
            .args(["-M", "q35", "-m", "64", "-nodefaults", "-display", "none"])
            .args(["-qtest", &qtest, "-qtest-log", "none", "-qmp", &qmp])
            .args(args.iter().map(AsRef::as_ref))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(folder.join("stdout"))?)
            .stderr(std::fs::File::create(folder.join("stderr"))?);
        let mut child = command.spawn()?;
        let connected = Self::connect(&child, &qtest_door, &qmp_door);
        match connected {
            Ok(Some((end, bus, qmp))) => Ok(Self {
                child,
                end,
                folder: folder.to_owned(),
                bus: Some(bus),
                qmp,
            }),
            failed => {
                let _ = child.kill();
                let status = child.wait()?;
                failed?;
                let said = std::fs::read_to_string(folder.join("stderr"))?;
                Err(io::Error::other(format!("{status}: {}", said.trim())))
            }
        }
    }

    /// `None` when it ends instead.
    fn connect(
        child: &Child,
        qtest: &Door,
        qmp: &Door,
    ) -> io::Result<Option<(OwnedFd, QtestBus, Qmp)>> {
        let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        let until = Instant::now() + PATIENCE;
        if !qtest.knocked(&end, until)? || !qmp.knocked(&end, until)? {
            return Ok(None);
        }
        let bus = QtestBus::over(qtest.0.accept()?.0)?;
        let qmp = Qmp::over(qmp.0.accept()?.0).map_err(io::Error::other)?;
        Ok(Some((end, bus, qmp)))
    }

    /// The CPU's place. A VMM has one.
    ///
    /// # Errors
    /// It was taken.
    pub fn bus(&mut self) -> io::Result<QtestBus> {
        self.bus
            .take()
            .ok_or_else(|| io::Error::other("the CPU's place was taken before"))
    }

    /// Where its sockets and logs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it wrote to its standard error.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn stderr(&self) -> io::Result<String> {
        std::fs::read_to_string(self.folder.join("stderr"))
    }

    /// Kills it, as when its host loses power.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        let _ = self.child.kill();
        self.child.wait().map(drop)
    }

    /// Asks it to quit, and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn quit(mut self) -> io::Result<ExitStatus> {
        // It may close the monitor before it has answered.
        let _ = self.qmp.execute("quit", None);
        if !bell::readable(&self.end, PATIENCE)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.child.wait()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// 64 KiB whose reset vector (16 bytes before the end) holds the CPU: `cli; hlt; jmp` to the `hlt`.
pub fn halting_firmware() -> Vec<u8> {
    const RESET_VECTOR: usize = 0xfff0;
    const CODE: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];
    let mut image = vec![0xf4; 0x1_0000];
    image[RESET_VECTOR..RESET_VECTOR + CODE.len()].copy_from_slice(&CODE);
    image
}
