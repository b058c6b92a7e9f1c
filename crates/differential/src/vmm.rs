//! A VMM that runs: its process, its monitor, its `qtest` socket. It ends when it is dropped.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::normalise;
use crate::program::Program;
use crate::qmp::Qmp;
use crate::transcript::{Entry, Transcript};

/// Whoever waits longer has found a bug, or a machine that is far too busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a process does first.
enum Sign {
    Monitor(UnixStream),
    Guest(UnixStream),
    Ended,
}

/// A running VMM.
pub struct Vmm {
    child: Child,
    qmp: Qmp,
    guest: Option<UnixStream>,
    greeting: Value,
    stderr: Receiver<String>,
    names: Names,
    transcript: Rc<RefCell<Transcript>>,
    /// Events that came with the last reply.
    recent: Vec<(String, Value)>,
}

/// What is written otherwise in a transcript.
#[derive(Clone)]
struct Names {
    program: String,
    folder: String,
}

impl Vmm {
    /// Starts `program` with `arguments` in `folder`, with a monitor and a `qtest` socket. Nothing, if it ended by itself; that is
    /// in the transcript then.
    ///
    /// # Errors
    /// The program cannot be started, or neither answers nor ends.
    pub fn boot(
        program: &Program,
        folder: &Path,
        arguments: &[String],
        transcript: Rc<RefCell<Transcript>>,
    ) -> Result<Option<Self>> {
        let part = transcript.borrow().part.clone();
        let (signs, sign) = channel();
        let monitor = folder.join(format!("{part}.qmp"));
        let guest = folder.join(format!("{part}.qtest"));
        let doors = [
            Door::open(&monitor, signs.clone(), Sign::Monitor)?,
            Door::open(&guest, signs.clone(), Sign::Guest)?,
        ];
        let mut child = Command::new(&program.path)
            .args(program.still(folder))
            .arg("-qmp")
            .arg(format!("unix:{}", monitor.display()))
            .arg("-qtest")
            .arg(format!("unix:{}", guest.display()))
            .args(["-qtest-log", "/dev/null"])
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| program.path.display().to_string())?;
        let (lines, stderr) = channel();
        if let Some(pipe) = child.stderr.take() {
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let _ = lines.send(line);
                }
                drop(lines);
                // Whoever waits for a connection hears that there will be none.
                let _ = signs.send(Sign::Ended);
            });
        }
        let names = Names {
            program: program.path.display().to_string(),
            folder: folder.display().to_string(),
        };
        let (mut connected, mut guest) = (None, None);
        while connected.is_none() || guest.is_none() {
            match sign.recv_timeout(PATIENCE) {
                Ok(Sign::Monitor(stream)) => connected = Some(stream),
                Ok(Sign::Guest(stream)) => guest = Some(stream),
                Ok(Sign::Ended) => break,
                Err(_) => {
                    end(&mut child);
                    bail!("{part}: it neither connected its monitor nor ended");
                }
            }
        }
        drop(doors);
        let Some(stream) = connected else {
            conclude(&mut child, &stderr, &names, &transcript)?;
            return Ok(None);
        };
        let mut vmm = Self {
            child,
            qmp: Qmp::open(stream)?,
            guest,
            greeting: Value::Null,
            stderr,
            names,
            transcript,
            recent: Vec::new(),
        };
        if vmm.negotiate()? {
            Ok(Some(vmm))
        } else {
            vmm.conclude()?;
            Ok(None)
        }
    }

    /// The monitor connects early; whether the machine was built is known when it carries commands out.
    fn negotiate(&mut self) -> Result<bool> {
        if self.qmp.send("qmp_capabilities", &Value::Null).is_err() {
            return Ok(false);
        }
        loop {
            match self.qmp.next(Instant::now() + PATIENCE)? {
                None => return Ok(false),
                Some(message) if message.get("return").is_some() => return Ok(true),
                Some(message) if message.get("QMP").is_some() => self.greeting = message,
                Some(message) => self.note_event(&message),
            }
        }
    }

    /// The socket by which a guest is played; the first caller gets it.
    ///
    /// # Errors
    /// Somebody has it.
    pub fn take_guest(&mut self) -> Result<UnixStream> {
        self.guest.take().context("the guest is played already")
    }

    /// What the monitor said first.
    pub fn greeting(&self) -> Value {
        self.greeting.clone()
    }

    /// Says in the transcript what comes next.
    pub fn step(&mut self, what: &str) {
        self.note(format!("-- {what}"), Value::Null);
    }

    fn note(&mut self, key: impl Into<String>, value: Value) {
        self.transcript.borrow_mut().push(key, value);
    }

    /// Puts something that was seen in another way into the transcript.
    pub fn saw(&mut self, key: &str, mut value: Value) {
        normalise::normalise(&mut value);
        self.note(key, value);
    }

    /// Sends a command and notes what comes, up to its reply, which is returned as it was sent.
    ///
    /// # Errors
    /// No reply, or the monitor hung up.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let before = self.transcript.borrow().entries.len();
        let id = self.qmp.send(command, &arguments)?;
        self.recent.clear();
        loop {
            let message = self.qmp.next(Instant::now() + PATIENCE);
            let Some(message) = message.with_context(|| format!("waiting for {command}"))? else {
                bail!("the monitor hung up at {command}");
            };
            if message.get("event").is_some() {
                self.note_event(&message);
                continue;
            }
            if message.get("id") != Some(&Value::from(id)) {
                bail!("{command} was answered by {message}");
            }
            let mut reply = message;
            if let Some(map) = reply.as_object_mut() {
                map.remove("id");
            }
            let mut noted = reply.clone();
            normalise::normalise(&mut noted);
            normalise::paths(&mut noted, &self.names.program, &self.names.folder);
            self.note_reply(command, noted, before);
            return Ok(reply);
        }
    }

    /// `getfd`: gives the monitor a descriptor under a name.
    ///
    /// # Errors
    /// It does not take it.
    pub fn hand_over(&mut self, name: &str, descriptor: OwnedFd) -> Result<()> {
        let request = json!({"execute": "getfd", "arguments": {"fdname": name}});
        self.qmp.raw_with(&format!("{request}\n"), &descriptor)?;
        loop {
            let message = self.qmp.next(Instant::now() + PATIENCE)?;
            let message = message.context("the monitor hung up at getfd")?;
            if message.get("event").is_some() {
                self.note_event(&message);
            } else if message.get("return").is_some() {
                return Ok(());
            } else {
                bail!("getfd: {message}");
            }
        }
    }

    /// As [`Vmm::ask`], for a command that sets off something beside it: whether an event comes before or after the reply is a
    /// matter of luck then, and the reply is noted before all of them.
    ///
    /// # Errors
    /// As [`Vmm::ask`].
    pub fn set_off(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let before = self.transcript.borrow().entries.len();
        let reply = self.ask(command, arguments)?;
        let mut transcript = self.transcript.borrow_mut();
        if let Some(noted) = transcript.entries.pop() {
            transcript.entries.insert(before, noted);
        }
        drop(transcript);
        Ok(reply)
    }

    /// As [`Vmm::set_off`], and up to all of these events. The order in which they come is a matter of luck (QEMU tells of a
    /// device's end when the last that uses it is done): they are noted in that of their names.
    ///
    /// # Errors
    /// As [`Vmm::ask`], and one that did not come.
    pub fn set_off_until(
        &mut self,
        command: &str,
        arguments: Value,
        labels: &[&str],
    ) -> Result<()> {
        let before = self.transcript.borrow().entries.len();
        self.set_off(command, arguments)?;
        for label in labels {
            self.wait(label)?;
        }
        let mut transcript = self.transcript.borrow_mut();
        if let Some(events) = transcript.entries.get_mut(before + 1..) {
            events.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Ok(())
    }

    /// Ends it where nothing more of it is to be compared.
    pub fn abandon(mut self) {
        end(&mut self.child);
        while self.stderr.recv_timeout(PATIENCE).is_ok() {}
    }

    /// Sends a command again and again until its reply is `enough`, and notes that one reply.
    ///
    /// # Errors
    /// It never is.
    pub fn until(
        &mut self,
        command: &str,
        arguments: Value,
        enough: fn(&Value) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.transcript.borrow().entries.len();
            let reply = self.ask(command, arguments.clone())?;
            if enough(&reply) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{command} {arguments} still says {reply}");
            }
            // What came before the reply stays; the reply itself is as often there as the machine is slow.
            let mut transcript = self.transcript.borrow_mut();
            if transcript.entries.len() > before {
                transcript.entries.pop();
            }
        }
    }

    /// A migration's first pass begins on a thread of its own: it may be told before `migrate` is answered, and is noted after.
    fn note_reply(&mut self, command: &str, reply: Value, since: usize) {
        let mut transcript = self.transcript.borrow_mut();
        let is_pass = |entry: &Entry| command == "migrate" && entry.key == "event MIGRATION_PASS";
        let later = transcript.entries.iter().skip(since).position(is_pass);
        let at = later.map_or(transcript.entries.len(), |later| since + later);
        let key = command.to_owned();
        transcript.entries.insert(at, Entry { key, value: reply });
    }

    /// Sends a command that must be carried out; returns what it returned.
    ///
    /// # Errors
    /// As [`Vmm::ask`], and a refusal.
    pub fn must(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let reply = self.ask(command, arguments)?;
        match reply.get("return") {
            Some(value) => Ok(value.clone()),
            None => bail!("{command}: {reply}"),
        }
    }

    /// Notes what comes, up to this event: its name, and for a migration's state that state (`MIGRATION active`). It may have
    /// come already, before the reply to the last command.
    ///
    /// # Errors
    /// It did not come.
    pub fn wait(&mut self, label: &str) -> Result<Value> {
        self.wait_any(&[label]).map(|(_, data)| data)
    }

    /// The same for the first of several.
    ///
    /// # Errors
    /// None came.
    pub fn wait_any(&mut self, labels: &[&str]) -> Result<(String, Value)> {
        self.wait_within(labels, PATIENCE)
    }

    /// The same with a limit of the caller's.
    ///
    /// # Errors
    /// None came.
    pub fn wait_within(&mut self, labels: &[&str], limit: Duration) -> Result<(String, Value)> {
        let deadline = Instant::now() + limit;
        let wanted = |(label, _): &(String, Value)| labels.contains(&label.as_str());
        if let Some(at) = self.recent.iter().position(wanted) {
            return Ok(self.recent.swap_remove(at));
        }
        loop {
            let message = self.qmp.next(deadline);
            let Some(message) = message.with_context(|| format!("waiting for {labels:?}"))? else {
                bail!("the monitor hung up before {labels:?}");
            };
            self.note_event(&message);
            if let Some(at) = self.recent.iter().position(wanted) {
                return Ok(self.recent.swap_remove(at));
            }
        }
    }

    fn note_event(&mut self, message: &Value) {
        let Some(name) = message.get("event").and_then(Value::as_str) else {
            return;
        };
        let mut data = message.get("data").cloned().unwrap_or(Value::Null);
        self.recent.push((label(message), data.clone()));
        if normalise::is_later_pass(name, data.as_object().unwrap_or(&Map::new())) {
            return;
        }
        normalise::normalise(&mut data);
        normalise::paths(&mut data, &self.names.program, &self.names.folder);
        self.note(format!("event {}", label(message)), data);
    }

    /// Ends it by its monitor; all that it says until then, and its exit, is in the transcript.
    ///
    /// # Errors
    /// It does not end.
    pub fn finish(mut self) -> Result<()> {
        // It may have ended by itself: then its exit says so.
        let _ = self.qmp.send("quit", &Value::Null);
        self.conclude()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn conclude(&mut self) -> Result<()> {
        while let Some(message) = self.qmp.next(Instant::now() + PATIENCE)? {
            if message.get("event").is_some() {
                self.note_event(&message);
            }
        }
        conclude(&mut self.child, &self.stderr, &self.names, &self.transcript)
    }

    /// Its process, for signals.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        end(&mut self.child);
        // A scenario that failed wants to know what it said last.
        while let Ok(line) = self.stderr.recv_timeout(PATIENCE) {
            let line = normalise::text(&line, &self.names.program, &self.names.folder);
            self.note(format!("stderr {line}"), json!(line));
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// Notes what a process wrote to standard error, and how it ended.
fn conclude(
    child: &mut Child,
    stderr: &Receiver<String>,
    names: &Names,
    transcript: &Rc<RefCell<Transcript>>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match stderr.recv_timeout(left) {
            Ok(line) if is_chatter(&line) => {}
            Ok(line) => {
                let line = normalise::text(&line, &names.program, &names.folder);
                let key = format!("stderr {line}");
                transcript.borrow_mut().push(key, json!(line));
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                end(child);
                bail!("it does not end");
            }
        }
    }
    let status = child.wait()?;
    let code = status
        .code()
        .map_or_else(|| json!(status.to_string()), Value::from);
    transcript.borrow_mut().push("exit", code);
    Ok(())
}

/// Lines of QEMU's `qtest` server about itself, and one that its migration writes when a cancel meets it in the middle of a write.
fn is_chatter(line: &str) -> bool {
    line.contains("GLib: g_timer_elapsed")
        || (line.starts_with('[') && line.contains(" +"))
        || line.contains("failed to save SaveStateEntry with id(name)")
}

/// An event's name, with what tells events of that name apart.
fn label(message: &Value) -> String {
    let name = message.get("event").and_then(Value::as_str).unwrap_or("");
    let detail = match name {
        "MIGRATION" => message.pointer("/data/status"),
        "DEVICE_DELETED" => message.pointer("/data/device"),
        _ => None,
    };
    match detail.and_then(Value::as_str) {
        Some(detail) => format!("{name} {detail}"),
        None => name.to_owned(),
    }
}

/// A socket at which a VMM is awaited.
struct Door(PathBuf);

impl Door {
    fn open(path: &Path, signs: Sender<Sign>, sign: fn(UnixStream) -> Sign) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = signs.send(sign(stream));
            }
        });
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Lets the thread go that may still wait there. If nobody does, nobody listens.
        let _ = UnixStream::connect(&self.0);
        let _ = std::fs::remove_file(&self.0);
    }
}
