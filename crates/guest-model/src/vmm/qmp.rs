//! A client of a VMM's monitor.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A command that is not answered for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An event, as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its data; `null` when there is none.
    pub data: Value,
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The connection broke, or nothing came in time.
    #[error("the monitor is gone: {0}")]
    Gone(#[from] io::Error),
    /// The monitor refused.
    #[error("{command}: {desc} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// The error's class.
        class: String,
        /// The error's text.
        desc: String,
    },
}

/// A monitor's client; events are kept in the order they came.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    partial: Vec<u8>,
    events: VecDeque<Event>,
    history: Vec<Event>,
}

impl Qmp {
    /// Connects, and leaves capabilities negotiation.
    ///
    /// # Errors
    /// Nobody listens there, or it is no monitor.
    pub fn connect(path: &Path) -> Result<Self, QmpError> {
        Self::over(UnixStream::connect(path)?)
    }

    /// Speaks over a stream that is connected already, and leaves capabilities negotiation.
    ///
    /// # Errors
    /// At its other end is no monitor.
    pub fn over(stream: UnixStream) -> Result<Self, QmpError> {
        let mut qmp = Self {
            stream,
            partial: Vec::new(),
            events: VecDeque::new(),
            history: Vec::new(),
        };
        let end = Instant::now() + PATIENCE;
        let greeting = qmp.read(end)?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other(format!("no greeting: {greeting}")).into());
        }
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    /// Executes a command; events that come before its answer are kept.
    ///
    /// # Errors
    /// It is refused; the connection broke.
    pub fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        let mut request = json!({ "execute": command });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        let mut line = request.to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())?;
        let end = Instant::now() + PATIENCE;
        loop {
            let mut answer = self.read(end)?;
            if self.keep_event(&answer) {
                continue;
            }
            if let Some(error) = answer.get("error") {
                let text = |name| error[name].as_str().unwrap_or_default().to_owned();
                return Err(QmpError::Refused {
                    command: command.to_owned(),
                    class: text("class"),
                    desc: text("desc"),
                });
            }
            return Ok(answer["return"].take());
        }
    }

    /// Sends this as it is, be it half a command or several, and waits for no answer.
    ///
    /// # Errors
    /// The connection broke.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// Goes away, as a client whose host is lost; nothing can be asked any more.
    ///
    /// # Errors
    /// The connection is gone already.
    pub fn hang_up(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Both)
    }

    /// The next event, if one is there already or comes within `limit`.
    ///
    /// # Errors
    /// The connection broke.
    pub fn next_event(&mut self, limit: Duration) -> Result<Option<Event>, QmpError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.read(end) {
                Ok(message) => {
                    self.keep_event(&message);
                }
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Skips events until one fits, at most `limit` long; `None` when it did not come.
    ///
    /// # Errors
    /// The connection broke.
    pub fn wait_event(
        &mut self,
        limit: Duration,
        mut fits: impl FnMut(&Event) -> bool,
    ) -> Result<Option<Event>, QmpError> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.next_event(left)? {
                Some(event) if fits(&event) => return Ok(Some(event)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// All events so far, in order, waited for or not.
    pub fn history(&self) -> &[Event] {
        &self.history
    }

    fn keep_event(&mut self, message: &Value) -> bool {
        let Some(name) = message.get("event").and_then(Value::as_str) else {
            return false;
        };
        let event = Event {
            name: name.to_owned(),
            data: message.get("data").cloned().unwrap_or(Value::Null),
        };
        self.history.push(event.clone());
        self.events.push_back(event);
        true
    }

    fn read(&mut self, end: Instant) -> io::Result<Value> {
        loop {
            if let Some(at) = self.partial.iter().position(|&byte| byte == b'\n') {
                let rest = self.partial.split_off(at + 1);
                let line = std::mem::replace(&mut self.partial, rest);
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            let left = end.saturating_duration_since(Instant::now());
            if !crate::bell::readable(&self.stream, left)? && left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        if !crate::bell::readable(&self.stream, Duration::ZERO)? {
            return Ok(());
        }
        let mut chunk = [0; 16 << 10];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.partial.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}
