//! What a guest says on its serial lines: the console's text, and its agent's answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::clock::now_us;
use crate::guest::agent::{Reply, Request};

/// A line and the time at which its end arrived, in microseconds.
pub type Stamped<T> = (i64, T);

struct Log<T> {
    lines: Vec<Stamped<T>>,
    closed: bool,
}

type Shared<T> = Arc<(Mutex<Log<T>>, Condvar)>;

fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, Log<T>> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn follow<T: Send + 'static>(
    stream: UnixStream,
    mut parse: impl FnMut(&str) -> Option<T> + Send + 'static,
) -> Shared<T> {
    let shared: Shared<T> = Arc::new((
        Mutex::new(Log {
            lines: Vec::new(),
            closed: false,
        }),
        Condvar::new(),
    ));
    let log = Arc::clone(&shared);
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut bytes) {
            let time = now_us();
            if let Some(line) = parse(String::from_utf8_lossy(&bytes).trim_end()) {
                lock(&log).lines.push((time, line));
                log.1.notify_all();
            }
            bytes.clear();
        }
        lock(&log).closed = true;
        log.1.notify_all();
    });
    shared
}

fn wait<T: Clone>(
    shared: &Shared<T>,
    limit: Duration,
    mut wanted: impl FnMut(&T) -> bool,
) -> Option<Stamped<T>> {
    let deadline = Instant::now() + limit;
    let mut log = lock(shared);
    let mut seen = 0;
    loop {
        let fresh = log.lines.get(seen..).unwrap_or_default();
        if let Some(found) = fresh.iter().find(|(_, line)| wanted(line)) {
            return Some(found.clone());
        }
        seen = log.lines.len();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || log.closed {
            return None;
        }
        log = shared
            .1
            .wait_timeout(log, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

/// A guest's console.
pub struct Console(Shared<String>);

impl Console {
    /// Follows the console; with `echo`, each line is also shown, after that prefix.
    pub fn follow(stream: UnixStream, echo: Option<String>) -> Self {
        Self(follow(stream, move |line| {
            if let Some(prefix) = &echo {
                eprintln!("{prefix} {line}");
            }
            Some(line.to_owned())
        }))
    }

    /// Waits for a line that contains `text`; looks at those that came before, too.
    pub fn wait(&self, text: &str, limit: Duration) -> Option<Stamped<String>> {
        wait(&self.0, limit, |line| line.contains(text))
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Stamped<String>> {
        lock(&self.0).lines.clone()
    }
}

/// The guest's agent on its second serial line.
pub struct Agent {
    stream: UnixStream,
    replies: Shared<Reply>,
    next_id: Mutex<u64>,
}

impl Agent {
    /// Follows the line.
    pub fn follow(stream: UnixStream) -> Result<Self> {
        let replies = follow(stream.try_clone()?, |line| serde_json::from_str(line).ok());
        // A guest that migrates may still answer what was asked before: ids do not repeat.
        let first = u64::try_from(now_us()).unwrap_or(1);
        Ok(Self {
            stream,
            replies,
            next_id: Mutex::new(first),
        })
    }

    fn ask(&self, mut request: Request, limit: Duration) -> Result<Reply> {
        request.id = {
            let mut next = self.next_id.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let deadline = Instant::now() + limit;
        // A UART that is reset while a line is on its way loses it; asking again is harmless
        // for a question, and a shell command is asked once only.
        let again = request.shell.is_none() && request.module.is_none();
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        loop {
            (&self.stream)
                .write_all(&line)
                .context("the guest's agent line is closed")?;
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = if again {
                left.min(Duration::from_secs(5))
            } else {
                left
            };
            if let Some((_, reply)) = wait(&self.replies, patience, |reply| {
                reply.id == Some(request.id)
            }) {
                return Ok(reply);
            }
            if Instant::now() >= deadline {
                bail!(
                    "the guest's agent did not answer within {} s",
                    limit.as_secs()
                );
            }
        }
    }

    /// The guest's state now.
    pub fn state(&self) -> Result<Reply> {
        self.ask(
            Request {
                id: 0,
                shell: None,
                module: None,
            },
            Duration::from_secs(30),
        )
    }

    /// Runs a shell command in the guest; returns its output, or an error if it failed.
    pub fn shell(&self, command: &str) -> Result<String> {
        let request = Request {
            id: 0,
            shell: Some(command.to_owned()),
            module: None,
        };
        let reply = self.ask(request, Duration::from_secs(60))?;
        if reply.code != 0 {
            bail!(
                "in the guest, {command}: status {}: {}",
                reply.code,
                reply.out.trim()
            );
        }
        Ok(reply.out)
    }

    /// Loads a module of the guest's image.
    pub fn load_module(&self, name: &str) -> Result<()> {
        let request = Request {
            id: 0,
            shell: None,
            module: Some(name.to_owned()),
        };
        let reply = self.ask(request, Duration::from_secs(60))?;
        if reply.code != 0 {
            bail!("in the guest, module {name}: {}", reply.out);
        }
        Ok(())
    }

    /// Waits for the guest to say (or, asked every now and then, to answer) a wanted state; what
    /// it said before `from_us` does not count.
    pub fn wait(
        &self,
        from_us: i64,
        limit: Duration,
        wanted: impl Fn(&Reply) -> bool,
    ) -> Option<Stamped<Reply>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let found = {
                let mut index = 0;
                let log: Vec<i64> = lock(&self.replies)
                    .lines
                    .iter()
                    .map(|(time, _)| *time)
                    .collect();
                wait(&self.replies, left.min(Duration::from_secs(3)), |reply| {
                    let time = log.get(index).copied().unwrap_or(i64::MAX);
                    index += 1;
                    time >= from_us && wanted(reply)
                })
            };
            if found.is_some() || Instant::now() >= deadline {
                return found;
            }
            // A report may have been lost with the machine that was to pass it on.
            let _ = self.ask(
                Request {
                    id: 0,
                    shell: None,
                    module: None,
                },
                left.min(Duration::from_secs(5)),
            );
        }
    }
}
