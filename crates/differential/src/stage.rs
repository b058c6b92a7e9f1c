//! Where a scenario is played to one program.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::program::{HALT, Program, halting_firmware};
use crate::transcript::Transcript;
use crate::vmm::Vmm;

/// A folder of its own, and the transcripts of the VMMs that were started in it.
pub struct Stage {
    program: Program,
    folder: tempfile::TempDir,
    transcripts: Vec<Rc<RefCell<Transcript>>>,
    held: Vec<OwnedFd>,
}

impl Stage {
    /// An empty one.
    ///
    /// # Errors
    /// There is no place for temporary files.
    pub fn new(program: &Program) -> Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        std::fs::write(folder.path().join(HALT), halting_firmware())?;
        Ok(Self {
            program: program.clone(),
            folder,
            transcripts: Vec::new(),
            held: Vec::new(),
        })
    }

    /// A file of the stage's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `{name}` of a stage's file as text, for a URI.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Starts a VMM in the scenario's part `part`; nothing, if it ended by itself, which is in the transcript then.
    ///
    /// # Errors
    /// It can neither be started nor ends.
    pub fn boot(&mut self, part: &str, arguments: &[String]) -> Result<Option<Vmm>> {
        let transcript = Rc::new(RefCell::new(Transcript {
            part: part.to_owned(),
            entries: Vec::new(),
        }));
        self.transcripts.push(Rc::clone(&transcript));
        Vmm::boot(&self.program, self.folder.path(), arguments, transcript)
            .with_context(|| format!("{part}: {}", arguments.join(" ")))
    }

    /// Starts a VMM that must run.
    ///
    /// # Errors
    /// It ended, or cannot be started.
    pub fn start(&mut self, part: &str, arguments: &[String]) -> Result<Vmm> {
        self.boot(part, arguments)?
            .with_context(|| format!("{part}: it ended at once: {}", self.last()))
    }

    fn last(&self) -> String {
        self.transcripts
            .last()
            .map(|each| each.borrow().to_string())
            .unwrap_or_default()
    }

    /// A command line that is looked at for whether it is taken and what is said of it. `part` names the case.
    ///
    /// # Errors
    /// As [`Stage::boot`].
    pub fn command_line(&mut self, part: &str, arguments: &[String]) -> Result<()> {
        if let Some(mut vmm) = self.boot(part, arguments)? {
            vmm.saw("runs", json!(true));
            vmm.finish()?;
        }
        Ok(())
    }

    /// A TCP port at which a connection is neither accepted nor refused, as long as the stage is there.
    ///
    /// # Errors
    /// The system has none.
    pub fn silent_port(&mut self) -> Result<std::net::SocketAddrV4> {
        use rustix::net;
        let socket = || net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None);
        let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
        let listener = socket()?;
        net::bind(&listener, &any)?;
        net::listen(&listener, 0)?;
        let at = std::net::SocketAddrV4::try_from(net::getsockname(&listener)?)?;
        self.held.push(listener);
        // A connection or two that nobody takes, and its queue is full: the next one waits.
        for _ in 0..4 {
            let filler = socket()?;
            rustix::io::ioctl_fionbio(&filler, true)?;
            match net::connect(&filler, &at) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => self.held.push(filler),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(at)
    }

    /// What was seen, in the order in which the VMMs were started.
    pub fn into_transcripts(self) -> Vec<Transcript> {
        self.transcripts
            .iter()
            .map(|each| each.borrow().clone())
            .collect()
    }
}

/// Arguments of a command; none.
pub fn nothing() -> Value {
    Value::Null
}
