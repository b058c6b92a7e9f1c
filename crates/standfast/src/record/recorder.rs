//! Who fills a [`Record`], and writes it to disk: nothing of that is done on the control thread but to note what happened.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use machine::{Control, MigrationNews};
use monitor::Event;
use report::Document;

use super::{At, Record};

/// How often a migration is asked how far it is.
const SAMPLE: Duration = Duration::from_millis(100);
/// How long nothing has to happen before the report is written: what matters to a guest in that time goes first.
const SETTLE: Duration = Duration::from_millis(500);

struct Shared {
    record: Mutex<Record>,
    started: Instant,
    /// Room for one: that there is something to look at.
    wake: SyncSender<()>,
}

/// A handle to the record; cloning gives another to the same.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

/// Asks and writes, on a thread of its own.
pub struct Writer {
    thread: JoinHandle<()>,
    recorder: Recorder,
    path: Option<PathBuf>,
    end: SyncSender<()>,
}

impl Recorder {
    /// For a machine of this name. What it wakes waits at the second handle for [`Recorder::start`].
    pub fn new(name: &str) -> (Self, Receiver<()>) {
        let (wake, woken) = sync_channel(1);
        let shared = Shared {
            record: Mutex::new(Record::new(name)),
            started: Instant::now(),
            wake,
        };
        (Self(Arc::new(shared)), woken)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> At {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        At {
            ms: self.0.started.elapsed().as_secs_f64() * 1000.0,
            epoch_us: u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn wake(&self) {
        match self.0.wake.try_send(()) {
            // It is awake already, or has ended.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    /// Notes an event. Never waits.
    pub fn event(&self, event: &Event) {
        let now = self.now();
        self.lock().event(event, now);
        self.wake();
    }

    /// Notes a change of a migration's state. Never waits.
    pub fn migration(&self, news: &MigrationNews) {
        let now = self.now();
        self.lock().migration(news, now);
        self.wake();
    }

    /// How migrations ended so far, and whether the last one goes away from here.
    pub fn ended(&self) -> (Vec<(&'static str, &'static str, u64)>, bool) {
        let record = self.lock();
        (record.ended(), record.outgoing())
    }

    /// The report as it is now.
    pub fn document(&self) -> Document {
        let now = self.now();
        self.lock().document(now)
    }

    /// Begins to ask the machine behind `control`, and to write to `path` if there is one.
    ///
    /// # Errors
    /// The folder of `path` does not exist, or there can be no thread.
    pub fn start(
        &self,
        woken: Receiver<()>,
        control: Control,
        path: Option<PathBuf>,
    ) -> anyhow::Result<Writer> {
        if let Some(path) = &path {
            check(path)?;
        }
        let (end, ended) = sync_channel(1);
        let (recorder, to) = (self.clone(), path.clone());
        let thread = thread::Builder::new()
            .name("failover-report".into())
            .spawn(move || recorder.attend(&woken, &ended, &control, to.as_deref()))?;
        Ok(Writer {
            thread,
            recorder: self.clone(),
            path,
            end,
        })
    }

    fn attend(
        &self,
        woken: &Receiver<()>,
        ended: &Receiver<()>,
        control: &Control,
        path: Option<&Path>,
    ) {
        // What was noted since the report was last written.
        let mut unwritten = false;
        loop {
            let migrating = self.lock().migrating();
            let news = match (migrating, unwritten) {
                (true, _) => woken.recv_timeout(SAMPLE),
                (false, true) => woken.recv_timeout(SETTLE),
                (false, false) => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if ended.try_recv().is_ok() {
                return;
            }
            match news {
                Ok(()) => unwritten = true,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if migrating => {}
                Err(RecvTimeoutError::Timeout) => {
                    unwritten = false;
                    if let Some(path) = path {
                        self.write(path);
                    }
                }
            }
            if migrating && let Ok(Some(info)) = control.ask(|board| board.migrate_info()) {
                let now = self.now();
                self.lock().sample(&info, now);
            }
        }
    }

    fn write(&self, path: &Path) {
        let document = self.document();
        if let Err(error) = report::write_both(path, &document) {
            tracing::warn!("-failover-report: {error}");
        }
    }
}

/// The folder has to be there before a guest runs, and not only when it has left.
fn check(path: &Path) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    anyhow::ensure!(
        folder.is_dir(),
        "-failover-report {}: there is no folder {}; make it first",
        path.display(),
        folder.display()
    );
    anyhow::ensure!(
        !path.is_dir(),
        "-failover-report {}: this is a folder; name a file in it",
        path.display()
    );
    Ok(())
}

impl Writer {
    /// Writes the report a last time.
    pub fn finish(self) {
        // Full or gone: it ends anyway.
        let _ = self.end.try_send(());
        self.recorder.wake();
        if self.thread.join().is_err() {
            tracing::error!("the thread of the failover report panicked");
        }
        if let Some(path) = &self.path {
            self.recorder.write(path);
        }
    }
}
