//! A VMM started as a program, with its CPU's place (qtest) and its monitor (QMP) in our hands.

mod qmp;

pub use qmp::{Event, Qmp, QmpError};

use crate::qtest::QtestBus;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a VMM may take to listen on its sockets, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);

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
    folder: PathBuf,
    /// Its monitor.
    pub qmp: Qmp,
}

impl Vmm {
    /// Starts a q35 machine with `args` added, and connects to its monitor. Sockets and logs go to `folder`, which is
    /// this VMM's alone.
    ///
    /// # Errors
    /// It does not start, or ends with a message, which is in the error.
    pub fn start(program: &Program, folder: &Path, args: &[impl AsRef<str>]) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let socket =
            |name: &str| format!("unix:{},server=on,wait=off", folder.join(name).display());
        let mut command = match program {
            Program::Qemu(path) => {
                let firmware = folder.join("halt.bin");
                std::fs::write(&firmware, halting_firmware())?;
                let mut command = Command::new(path);
                command.args(["-accel", "tcg", "-bios"]).arg(firmware);
                command.args(["-qtest-log", "none"]);
                command
            }
            Program::Qtest(path) => {
                let mut command = Command::new(path);
                command.args(["-accel", "qtest"]);
                command
            }
        };
        command
            .args(["-M", "q35", "-m", "64", "-nodefaults", "-display", "none"])
            .args(["-qtest", &socket("qtest"), "-qmp", &socket("qmp")])
            .args(args.iter().map(AsRef::as_ref))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(folder.join("stdout"))?)
            .stderr(std::fs::File::create(folder.join("stderr"))?);
        let mut child = command.spawn()?;
        let end = Instant::now() + PATIENCE;
        let qmp = loop {
            if let Ok(qmp) = Qmp::connect(&folder.join("qmp")) {
                break Ok(qmp);
            }
            if let Some(status) = child.try_wait()? {
                let mut said = String::new();
                std::fs::File::open(folder.join("stderr"))?.read_to_string(&mut said)?;
                break Err(io::Error::other(format!("{status}: {}", said.trim())));
            }
            if Instant::now() > end {
                break Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(LOOK);
        };
        match qmp {
            Ok(qmp) => Ok(Self {
                child,
                folder: folder.to_owned(),
                qmp,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The CPU's place. A VMM takes one such client at a time.
    ///
    /// # Errors
    /// The VMM is gone.
    pub fn bus(&self) -> io::Result<QtestBus> {
        QtestBus::connect(self.folder.join("qtest"))
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
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(LOOK);
        }
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
