//! A command at the other end of a migration's channel (`exec:`), in the test's hands: it begins to read when it is told
//! to, and ends as it is told to.

use super::crew;
use anyhow::{Context as _, Result, ensure};
use rustix::fs::Mode;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub struct Command {
    folder: PathBuf,
    /// Where it keeps what it reads.
    kept: PathBuf,
    /// Named pipes, open for as long as this is: neither side waits for the other to open them.
    begin: File,
    end: File,
}

fn pipe(path: &Path) -> Result<File> {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::from_bits_retain(0o600))?;
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.context("a named pipe")
}

impl Command {
    /// In the stage's folder; it writes to `kept`.
    pub fn new(stage: &Path, kept: &Path) -> Result<Self> {
        let folder = stage.join("command");
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            begin: pipe(&folder.join("begin"))?,
            end: pipe(&folder.join("end"))?,
            folder,
            kept: kept.to_owned(),
        })
    }

    /// It reads all of its input, says so, and ends with the status that it is given. Told a number in place of `on`, it
    /// ends at once with that; if what reads ends badly, with what [`loses_reader`](Self::loses_reader) says, or else 2.
    pub fn uri(&self) -> String {
        let (at, kept) = (self.folder.display(), self.kept.display());
        format!(
            "exec:read on < {at}/begin; [ \"$on\" = on ] || exit $on; \
             cat > {kept} || exit $(cat {at}/lost || echo 2); : > {at}/taken; read status < {at}/end; exit $status"
        )
    }

    fn tell(mut pipe: &File, what: &str) -> Result<()> {
        Ok(pipe.write_all(format!("{what}\n").as_bytes())?)
    }

    /// It reads from now on.
    pub fn reads(&self) -> Result<()> {
        Self::tell(&self.begin, "on")
    }

    /// It ends with this status: before it has read anything, or else once it has read everything.
    pub fn ends(&self, status: u8) -> Result<()> {
        let text = status.to_string();
        Self::tell(&self.begin, &text)?;
        Self::tell(&self.end, &text)
    }

    /// What reads is killed, and it ends with this status.
    pub fn loses_reader(&self, status: u8) -> Result<()> {
        std::fs::write(self.folder.join("lost"), status.to_string())?;
        self.signal(Signal::KILL, true)
    }

    /// Whether it has read everything.
    pub fn has_taken(&self) -> bool {
        self.folder.join("taken").exists()
    }

    /// To it and all that it has started, or to what reads alone.
    pub fn signal(&self, signal: Signal, only_reader: bool) -> Result<()> {
        let stage = self.folder.parent().context("a stage")?;
        let mut found = false;
        for (number, path) in crew::processes(stage)? {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            if only_reader && name.trim() != "cat" {
                continue;
            }
            found = true;
            let process = i32::try_from(number).ok().and_then(Pid::from_raw);
            match kill_process(process.context("a process")?, signal) {
                // It may end with another that is killed.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(found, "the command does not run");
        Ok(())
    }
}
