//! A QMP client that keeps every event with its time.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::clock::now_us;

/// How long a command may take to be answered.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

/// An event as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The VMM's own time stamp, in microseconds.
    pub time_us: i64,
    /// The event's name.
    pub name: String,
    /// Its data; an empty object if it has none.
    pub data: Value,
}

impl Event {
    /// The name, and for a change of the migration's state that state too: `MIGRATION:active`.
    pub fn label(&self) -> String {
        match self.data.get("status").and_then(Value::as_str) {
            Some(status) if self.name == "MIGRATION" => format!("MIGRATION:{status}"),
            _ => self.name.clone(),
        }
    }
}

#[derive(Default)]
struct Inbox {
    greeting: Option<Value>,
    events: Vec<Event>,
    replies: HashMap<u64, Value>,
    closed: bool,
}

/// A connection to a VMM's monitor.
pub struct Qmp {
    stream: UnixStream,
    inbox: Arc<(Mutex<Inbox>, Condvar)>,
    next_id: Mutex<u64>,
}

fn lock(inbox: &(Mutex<Inbox>, Condvar)) -> MutexGuard<'_, Inbox> {
    inbox.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Qmp {
    /// Takes over a connected socket and negotiates.
    pub fn open(stream: UnixStream) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone()?);
        let inbox = Arc::new((Mutex::new(Inbox::default()), Condvar::new()));
        let shared = Arc::clone(&inbox);
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if let Ok(message) = serde_json::from_str::<Value>(&line) {
                    accept(&mut lock(&shared), message);
                    shared.1.notify_all();
                }
            }
            lock(&shared).closed = true;
            shared.1.notify_all();
        });
        let qmp = Self {
            stream,
            inbox,
            next_id: Mutex::new(1),
        };
        qmp.wait(REPLY_LIMIT, |inbox| inbox.greeting.clone())
            .context("the monitor sent no greeting")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn wait<T>(&self, limit: Duration, look: impl FnMut(&mut Inbox) -> Option<T>) -> Option<T> {
        wait(&self.inbox, limit, look)
    }

    /// Runs a command; returns what it returned, or its error as one.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let id = {
            let mut next = self.next_id.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let mut request = json!({"execute": command, "id": id});
        if arguments.as_object().is_some_and(|map| !map.is_empty())
            && let Some(map) = request.as_object_mut()
        {
            map.insert("arguments".to_owned(), arguments);
        }
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        (&self.stream)
            .write_all(&line)
            .with_context(|| format!("{command}: the monitor hung up"))?;
        let reply = self
            .wait(REPLY_LIMIT, |inbox| inbox.replies.remove(&id))
            .with_context(|| format!("{command}: no answer from the monitor"))?;
        if let Some(error) = reply.get("error") {
            bail!(
                "{command}: {}",
                error
                    .get("desc")
                    .and_then(Value::as_str)
                    .unwrap_or("no description")
            );
        }
        Ok(reply.get("return").cloned().unwrap_or(Value::Null))
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.inbox).events.clone()
    }

    /// The first event with this label ([`Event::label`]) among those from number `from` on,
    /// waited for if need be; nothing once the limit has passed or the monitor is gone.
    pub fn wait_event(&self, from: usize, label: &str, limit: Duration) -> Option<Event> {
        self.wait_any(from, &[label], limit)
    }

    /// As [`Qmp::wait_event`], for the first of several.
    pub fn wait_any(&self, from: usize, labels: &[&str], limit: Duration) -> Option<Event> {
        self.watcher().wait_any(from, labels, limit)
    }

    /// A look at the events for another thread.
    pub fn watcher(&self) -> Watcher {
        Watcher(Arc::clone(&self.inbox))
    }

    /// Whether the other end has hung up.
    pub fn closed(&self) -> bool {
        lock(&self.inbox).closed
    }
}

fn wait<T>(
    shared: &(Mutex<Inbox>, Condvar),
    limit: Duration,
    mut look: impl FnMut(&mut Inbox) -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut inbox = lock(shared);
    loop {
        if let Some(found) = look(&mut inbox) {
            return Some(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || inbox.closed {
            return None;
        }
        inbox = shared
            .1
            .wait_timeout(inbox, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

/// The events of a monitor, for a thread that has no part in its commands.
pub struct Watcher(Arc<(Mutex<Inbox>, Condvar)>);

impl Watcher {
    /// As [`Qmp::wait_any`].
    pub fn wait_any(&self, from: usize, labels: &[&str], limit: Duration) -> Option<Event> {
        wait(&self.0, limit, |inbox| {
            let later = inbox.events.get(from..).unwrap_or_default();
            later
                .iter()
                .find(|event| labels.contains(&event.label().as_str()))
                .cloned()
        })
    }
}

fn accept(inbox: &mut Inbox, message: Value) {
    let number = |value: &Value, field: &str| value.get(field).and_then(Value::as_i64).unwrap_or(0);
    if let Some(name) = message.get("event").and_then(Value::as_str) {
        let stamp = message.get("timestamp").cloned().unwrap_or(Value::Null);
        let mut time_us = number(&stamp, "seconds") * 1_000_000 + number(&stamp, "microseconds");
        if time_us <= 0 {
            time_us = now_us();
        }
        let data = message.get("data").cloned().unwrap_or_else(|| json!({}));
        inbox.events.push(Event {
            time_us,
            name: name.to_owned(),
            data,
        });
    } else if message.get("QMP").is_some() {
        inbox.greeting = Some(message);
    } else if let Some(id) = message.get("id").and_then(Value::as_u64) {
        inbox.replies.insert(id, message);
    }
}
