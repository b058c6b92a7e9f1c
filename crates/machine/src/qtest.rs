//! The socket of `-qtest`: a client that stands in for the machine's processors.
//!
//! ```text
//!   socket ──▶ "qtest": reads lines, executes, answers ──────┐
//!                                                            ▼
//!   device's thread ──IRQ raise/lower──▶ Outlet (waiting) ──▶ socket
//!                                            └──▶ "qtest-irq": writes what nobody's answer takes along
//! ```
//! A line that tells of an interrupt goes out before the answer to the command that caused it.

use crate::MachineError;
use crate::board::Board;
use crate::chardev::{ChardevError, Endpoint};
use crate::clock::ManualClock;
use crate::control::Control;
use crate::network::FdSource;
use config::vm::{ChardevBackend, ChardevConfig, QtestLog};
use hypervisor::qtest::{Client, MAX_LINE_BYTES, Pins, Protocol, Qtest};
use hypervisor::{Accelerator, Bus, CpuEvent, CpuListener, Topology};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Instant;

/// The most bytes about interrupts that wait for a client which does not read.
const MAX_WAITING_BYTES: usize = 1 << 20;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open character device with a log, before the machine is there that it drives.
pub struct Server {
    endpoint: Endpoint,
    log: Arc<Log>,
}

impl Server {
    /// Connects, or listens: from now on a client may come.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn open(
        chardev: &ChardevConfig,
        log: &QtestLog,
        fds: &dyn FdSource,
    ) -> Result<Self, ChardevError> {
        let failed = |reason: String| ChardevError {
            option: "-qtest".into(),
            reason: format!(
                "Failed to initialize device for qtest: \"{}\": {reason}",
                chardev.text
            ),
        };
        if matches!(
            chardev.backend,
            ChardevBackend::Null | ChardevBackend::RingBuf { .. }
        ) {
            return Err(failed("nobody can be at its other end".into()));
        }
        Ok(Self {
            endpoint: Endpoint::open(&chardev.backend, fds).map_err(failed)?,
            log: Arc::new(Log::open(log)),
        })
    }

    /// Serves one client after the other on threads of its own. `clock` is the guest's.
    ///
    /// # Errors
    /// No thread is left.
    pub fn serve(
        self,
        client: Arc<Client>,
        clock: Arc<ManualClock>,
        control: Control,
    ) -> io::Result<()> {
        let finder: Finder = Arc::new(move |path| find(&control, path));
        self.spawn(client, clock, finder)
    }

    /// The same for `-machine none`, in which there is nothing: no memory, no port, no device.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn serve_nothing(self) -> Result<(), MachineError> {
        let nothing = Qtest::new(Arc::new(memory::GuestRam::new()))?;
        let topology = Topology {
            cpus: 0,
            threads: 1,
            cores: 1,
        };
        let nobody = Arc::new(Nothing);
        let processors = Arc::clone(&nothing).processors(0, topology, nobody.clone(), nobody)?;
        let client = nothing.client();
        let client = client.ok_or_else(|| MachineError::refused("-qtest: it has no client"))?;
        // It is found only as long as somebody has it: from here on the thread.
        drop(processors);
        self.spawn(client, ManualClock::new(), Arc::new(|_| Pins::Unknown))
            .map_err(|error| MachineError::refused(format!("-qtest: {error}")))
    }

    fn spawn(self, client: Arc<Client>, clock: Arc<ManualClock>, finder: Finder) -> io::Result<()> {
        thread::Builder::new()
            .name("qtest".into())
            .spawn(move || self.run(&client, &clock, &finder))?;
        Ok(())
    }

    fn run(&self, client: &Arc<Client>, clock: &Arc<ManualClock>, finder: &Finder) {
        loop {
            match self.endpoint.next_connection() {
                Ok(Some((Some(input), output))) => {
                    self.log.opened();
                    let outlet = Outlet::new(output, Arc::clone(&self.log));
                    let (finder, sink) = (Arc::clone(finder), Arc::clone(&outlet));
                    let protocol = Protocol::new(
                        Arc::clone(client),
                        clock.clone(),
                        Box::new(move |path| finder(path)),
                        Box::new(move |line| sink.later(line)),
                    );
                    if let Err(error) = talk(input, protocol, &outlet, &self.log) {
                        tracing::debug!(%error, "the qtest client is gone");
                    }
                    outlet.end();
                    self.log.closed();
                }
                Ok(Some((None, _)) | None) => return,
                Err(error) => {
                    tracing::warn!(%error, "nobody can connect to the qtest socket any more");
                    return;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.endpoint.remove_file();
    }
}

/// Finds a device's interrupt pins by its path.
type Finder = Arc<dyn Fn(&str) -> Pins + Send + Sync>;

/// A machine in which nobody answers.
struct Nothing;

impl Bus for Nothing {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn memory_read(&self, _: u64, data: &mut [u8]) {
        // As a client reads of any machine where nobody answers.
        data.fill(0);
    }
    fn memory_write(&self, _: u64, _: &[u8]) {}
}

impl CpuListener for Nothing {
    fn cpu_event(&self, _: CpuEvent) {}
}

/// Names of the IOAPIC in QEMU's tree of objects.
const IOAPIC_PATHS: [&str; 3] = ["ioapic", "/machine/q35/ioapic", "q35/ioapic"];

fn find(control: &Control, path: &str) -> Pins {
    if IOAPIC_PATHS.contains(&path) {
        return Pins::Ioapic;
    }
    let path = path.to_owned();
    match control.ask(move |board: &mut Board| board.has_object(&path)) {
        Ok(true) => Pins::Without,
        Ok(false) | Err(_) => Pins::Unknown,
    }
}

impl Board {
    /// Whether a device has this path, or this as the last part of it.
    fn has_object(&self, path: &str) -> bool {
        self.devices.iter().any(|device| {
            let own = device.path();
            own == path || own.rsplit('/').next() == Some(path)
        })
    }
}

/// Serves one client until it hangs up.
fn talk(
    mut input: Box<dyn Read + Send>,
    mut protocol: Protocol,
    outlet: &Outlet,
    log: &Log,
) -> io::Result<()> {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        lines.feed(buffer.get(..count).unwrap_or_default(), |line| match line {
            Some(line) => {
                log.received(line);
                outlet.now(&protocol.execute(line))
            }
            None => outlet.now(&format!(
                "FAIL the line is longer than {MAX_LINE_BYTES} bytes\n"
            )),
        })?;
    }
}

/// Cuts what comes in into lines.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
    /// The line that has begun is too long: what comes of it is dropped.
    too_long: bool,
}

impl Lines {
    /// Calls `each` for each line that ends in `bytes`; with `None` for one that was too long.
    fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Option<&str>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            self.add(line);
            if std::mem::take(&mut self.too_long) {
                each(None)?;
            } else {
                let line = String::from_utf8_lossy(&self.begun).into_owned();
                self.begun.clear();
                // What one long line took is not kept for the next short ones.
                self.begun.shrink_to(64 << 10);
                each(Some(&line))?;
            }
        }
        self.add(rest);
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.too_long || self.begun.len() + bytes.len() > MAX_LINE_BYTES {
            self.too_long = true;
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }
}

#[derive(Default)]
struct Waiting {
    text: String,
    lost: bool,
    ended: bool,
}

/// The way to the client.
struct Outlet {
    output: Mutex<Box<dyn Write + Send>>,
    waiting: Mutex<Waiting>,
    news: Condvar,
    /// The thread that writes what no answer takes along; only where interrupts are told.
    writer: Once,
    log: Arc<Log>,
}

impl Outlet {
    fn new(output: Box<dyn Write + Send>, log: Arc<Log>) -> Arc<Self> {
        Arc::new(Self {
            output: Mutex::new(output),
            waiting: Mutex::default(),
            news: Condvar::new(),
            writer: Once::new(),
            log,
        })
    }

    /// The client is gone.
    fn end(&self) {
        lock(&self.waiting).ended = true;
        self.news.notify_all();
    }

    /// Writes what waits, until the client is gone.
    fn write_waiting(&self) {
        loop {
            let mut waiting = lock(&self.waiting);
            while waiting.text.is_empty() && !waiting.ended {
                waiting = self
                    .news
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if waiting.ended {
                return;
            }
            drop(waiting);
            if let Err(error) = self.now("") {
                tracing::debug!(%error, "the qtest client does not hear of interrupts any more");
                return;
            }
        }
    }

    /// An answer, after what waits.
    fn now(&self, answer: &str) -> io::Result<()> {
        let mut output = lock(&self.output);
        let mut text = std::mem::take(&mut lock(&self.waiting).text);
        self.log.sent(&text);
        self.log.sent(answer);
        if text.is_empty() {
            // Taken along by an answer meanwhile.
            return output.write_all(answer.as_bytes());
        }
        text.push_str(answer);
        output.write_all(text.as_bytes())
    }

    /// A line that is no answer: goes out with the next one, or by itself soon.
    fn later(self: &Arc<Self>, line: &str) {
        let mut waiting = lock(&self.waiting);
        if waiting.text.len() + line.len() > MAX_WAITING_BYTES {
            if !std::mem::replace(&mut waiting.lost, true) {
                tracing::warn!("the qtest client does not read: lines about interrupts are lost");
            }
            return;
        }
        waiting.text.push_str(line);
        drop(waiting);
        self.news.notify_one();
        self.writer.call_once(|| {
            let this = Arc::clone(self);
            let writer = thread::Builder::new()
                .name("qtest-irq".into())
                .spawn(move || this.write_waiting());
            if let Err(error) = writer {
                tracing::error!(%error, "interrupts are told with the next answer only");
            }
        });
    }
}

/// What is said, written down as QEMU does it.
struct Log {
    file: Option<Mutex<Box<dyn Write + Send>>>,
    since: Mutex<Option<Instant>>,
}

impl Log {
    fn open(log: &QtestLog) -> Self {
        let file: Option<Box<dyn Write + Send>> = match log {
            QtestLog::Off => None,
            QtestLog::Stderr => Some(Box::new(io::stderr())),
            QtestLog::File(path) => match File::create(path) {
                Ok(file) => Some(Box::new(file)),
                Err(error) => {
                    tracing::warn!("-qtest-log {}: {error}", path.display());
                    None
                }
            },
        };
        Self {
            file: file.map(Mutex::new),
            since: Mutex::new(None),
        }
    }

    fn line(&self, text: impl FnOnce(f64) -> String) {
        let Some(file) = &self.file else { return };
        let since = lock(&self.since).map_or(0.0, |since| since.elapsed().as_secs_f64());
        // A log that cannot be written stops nothing.
        let _ = lock(file).write_all(text(since).as_bytes());
    }

    fn opened(&self) {
        *lock(&self.since) = Some(Instant::now());
        self.line(|since| format!("[I {since:.6}] OPENED\n"));
    }

    fn closed(&self) {
        self.line(|since| format!("[I +{since:.6}] CLOSED\n"));
    }

    fn received(&self, line: &str) {
        self.line(|since| format!("[R +{since:.6}] {line}\n"));
    }

    fn sent(&self, lines: &str) {
        for line in lines.lines() {
            self.line(|since| format!("[S +{since:.6}] {line}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_however_they_arrive_and_long_ones_are_skipped() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut feed = |bytes: &[u8], seen: &mut Vec<Option<String>>| {
            lines
                .feed(bytes, |line| {
                    seen.push(line.map(str::to_owned));
                    Ok(())
                })
                .unwrap();
        };
        feed(b"in", &mut seen);
        feed(b"b 1\n\nread", &mut seen);
        feed(b" 2\n", &mut seen);
        let long = vec![b'x'; MAX_LINE_BYTES];
        feed(&long, &mut seen);
        feed(b"y", &mut seen);
        feed(b"z\nagain\n", &mut seen);
        feed(b"\xff\n", &mut seen);
        let texts: Vec<_> = seen.iter().map(Option::as_deref).collect();
        assert_eq!(
            texts,
            [
                Some("inb 1"),
                Some(""),
                Some("read 2"),
                None,
                Some("again"),
                Some("\u{fffd}")
            ]
        );
    }
}
