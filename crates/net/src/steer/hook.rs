//! `failover-hook=`: a program of the operator's that is told each moment of steering.
//!
//! ```text
//!   control thread, a vCPU ──▶ queue ──▶ thread `hook ID` ──▶ program: one JSON object on its standard input
//!                                             └── its end, or the time-out ──▶ log, Trouble
//! ```
//! One program at a time, in the order of the moments; whoever steers never waits for one. It runs without a shell, with `/`
//! as its directory and nothing but `PATH` in its environment, in a process group of its own, which is killed when it takes
//! too long. Input and output are memory of a fixed size: a program that reads nothing, or writes for ever, holds up nobody.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::process::{Signal, kill_process_group};

use super::moment::{Moment, Trouble};
use super::wanted::HookConfig;
use crate::child;

/// Moments that may wait for a slow program.
const QUEUE_MAX: usize = 32;
/// As much of what it writes is kept, in bytes.
const OUTPUT_BYTES_MAX: u64 = 4096;
/// The longest message made of it, in characters.
const SAID_CHARS_MAX: usize = 500;
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Waits until a program ends; `None`: it has not within this long, and goes on.
type Wait = dyn Fn(&mut Child, Duration) -> io::Result<Option<ExitStatus>> + Send;

/// Who is told of what does not work.
pub(super) type Listener = Arc<dyn Fn(Trouble) + Send + Sync>;

struct Job {
    moment: Moment,
    json: Vec<u8>,
}

struct State {
    standby: String,
    config: HookConfig,
    listener: Mutex<Listener>,
    /// After this no program is begun.
    end: Mutex<Option<Instant>>,
    last: Mutex<Option<(Moment, Result<(), String>)>>,
    /// It was told that the queue is full; cleared when it is empty.
    full: AtomicBool,
}

/// The thread that runs the program.
pub(super) struct Hook {
    state: Arc<State>,
    jobs: Option<SyncSender<Job>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hook({})", self.state.config.program.display())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hook {
    /// # Errors
    /// The host has no thread left.
    pub(super) fn start(standby: &str, config: HookConfig) -> io::Result<Self> {
        Self::start_with(standby, config, Box::new(child::wait))
    }

    fn start_with(standby: &str, config: HookConfig, wait: Box<Wait>) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let (alive, ended) = sync_channel(0);
        let state = Arc::new(State {
            standby: standby.to_owned(),
            config,
            listener: Mutex::new(Arc::new(|_| {})),
            end: Mutex::default(),
            last: Mutex::default(),
            full: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&state);
        thread::Builder::new()
            .name(format!("hook {standby}"))
            .spawn(move || {
                for_thread.work(&queue, &*wait);
                drop(alive);
            })?;
        Ok(Self {
            state,
            jobs: Some(jobs),
            ended,
        })
    }

    pub(super) fn set_listener(&self, listener: Listener) {
        *lock(&self.state.listener) = listener;
    }

    /// Has the program told of a moment; never waits.
    pub(super) fn hand(&self, moment: Moment, json: Vec<u8>) {
        let Some(jobs) = &self.jobs else { return };
        match jobs.try_send(Job { moment, json }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                // Once: a guest that opens and closes its primary all the time is not to fill the log.
                if !self.state.full.swap(true, Ordering::AcqRel) {
                    let why = format!("{QUEUE_MAX} earlier steps still wait for it");
                    self.state.failed(moment, why);
                }
            }
            Err(TrySendError::Disconnected(_)) => {
                self.state.failed(moment, "its thread has ended".to_owned());
            }
        }
    }

    /// Waits until the program was told all; what it was not told after its time-out is left out.
    pub(super) fn finish(&mut self) {
        let limit = self.state.config.timeout;
        let end = Instant::now() + limit;
        *lock(&self.state.end) = Some(end);
        self.jobs = None;
        // Twice: the one that runs now may just have begun.
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(limit.saturating_mul(2)) {
            tracing::warn!(
                standby = self.state.standby,
                "failover-hook: not waited for any longer"
            );
        }
    }

    /// For `info network`.
    pub(super) fn describe(&self) -> String {
        let program = self.state.config.program.display();
        match &*lock(&self.state.last) {
            None => format!("hook {program}"),
            Some((moment, Ok(()))) => format!("hook {program}: {} done", moment.name()),
            Some((moment, Err(why))) => {
                format!("hook {program}: {} failed: {why}", moment.name())
            }
        }
    }
}

impl State {
    fn work(&self, queue: &Receiver<Job>, wait: &Wait) {
        while let Some(Job { moment, json }) = self.next(queue) {
            let left = match *lock(&self.end) {
                Some(end) => end.saturating_duration_since(Instant::now()),
                None => self.config.timeout,
            };
            if left.is_zero() {
                self.failed(moment, "the machine ended before its turn".to_owned());
                continue;
            }
            let limit = left.min(self.config.timeout);
            match run(&self.config.program, &json, limit, wait) {
                Ok(output) => {
                    let standby = &self.standby;
                    tracing::debug!(
                        standby,
                        moment = moment.name(),
                        output,
                        "failover-hook: done"
                    );
                    *lock(&self.last) = Some((moment, Ok(())));
                }
                Err(why) => self.failed(moment, why),
            }
        }
    }

    fn next(&self, queue: &Receiver<Job>) -> Option<Job> {
        queue.try_recv().ok().or_else(|| {
            self.full.store(false, Ordering::Release);
            queue.recv().ok()
        })
    }

    fn failed(&self, moment: Moment, why: String) {
        let program = self.config.program.display().to_string();
        tracing::warn!(
            standby = self.standby,
            moment = moment.name(),
            "failover-hook '{program}' failed: {why}"
        );
        *lock(&self.last) = Some((moment, Err(why.clone())));
        let listener = Arc::clone(&lock(&self.listener));
        listener(Trouble {
            standby: self.standby.clone(),
            moment,
            step: program,
            error: why,
        });
    }
}

/// A file in memory that holds `bytes`, at its beginning.
fn input(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("hook-input", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// A file in memory that takes [`OUTPUT_BYTES_MAX`] and no more.
fn output() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("hook-output", flags)?;
    ftruncate(&file, OUTPUT_BYTES_MAX)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file)
}

/// What was written, on one line.
fn said(output: OwnedFd) -> String {
    let mut file = File::from(output);
    let mut bytes = Vec::new();
    // What cannot be read is not missed.
    let _ = file.rewind();
    let _ = file.read_to_end(&mut bytes);
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join("; ");
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(SAID_CHARS_MAX).collect()
}

/// Runs the program; what it wrote, or one line about what went wrong.
fn run(program: &Path, json: &[u8], limit: Duration, wait: &Wait) -> Result<String, String> {
    let text = |e: io::Error| e.to_string();
    let output = output().map_err(text)?;
    let both = [
        output.try_clone().map_err(text)?,
        output.try_clone().map_err(text)?,
    ];
    let [stdout, stderr] = both.map(Stdio::from);
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .current_dir("/")
        .process_group(0)
        .stdin(input(json).map_err(text)?)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(|e| format!("cannot be run: {e}"))?;
    let status = wait(&mut child, limit).map_err(text)?;
    let Some(status) = status else {
        if let Some(group) = child::pid(&child) {
            // It may end in this moment: then there is nothing to kill.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
        return Err(format!("not done after {} ms, killed", limit.as_millis()));
    };
    let said = said(output);
    match (status.success(), said.is_empty()) {
        (true, _) => Ok(said),
        (false, true) => Err(status.to_string()),
        (false, false) => Err(format!("{status}: {said}")),
    }
}

#[cfg(test)]
#[path = "hook_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
