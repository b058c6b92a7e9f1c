//! A QMP client that keeps the order of all that a monitor says.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection to a monitor.
pub struct Qmp {
    stream: UnixStream,
    messages: Receiver<String>,
    asked: u64,
}

impl Qmp {
    /// Takes over a connected socket. The greeting is the first message.
    ///
    /// # Errors
    /// The socket cannot be read from a second place.
    pub fn open(stream: UnixStream) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone()?);
        let (sender, messages) = channel();
        thread::spawn(move || {
            for line in reader.lines().map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            stream,
            messages,
            asked: 0,
        })
    }

    /// Sends a command; returns the id that its reply will carry. Arguments that are null are left out.
    ///
    /// # Errors
    /// The monitor hung up.
    pub fn send(&mut self, command: &str, arguments: &Value) -> Result<u64> {
        self.asked += 1;
        let mut request = json!({"execute": command, "id": self.asked});
        if !arguments.is_null()
            && let Some(map) = request.as_object_mut()
        {
            map.insert("arguments".into(), arguments.clone());
        }
        self.raw(&format!("{request}\n"))?;
        Ok(self.asked)
    }

    /// Sends bytes with a descriptor beside them.
    ///
    /// # Errors
    /// The monitor hung up.
    pub fn raw_with(&mut self, text: &str, descriptor: &OwnedFd) -> Result<()> {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let descriptors = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&descriptors));
        let bytes = [IoSlice::new(text.as_bytes())];
        sendmsg(&self.stream, &bytes, &mut beside, SendFlags::empty())
            .map(drop)
            .context("the monitor hung up")
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The monitor hung up.
    pub fn raw(&mut self, text: &str) -> Result<()> {
        self.stream
            .write_all(text.as_bytes())
            .context("the monitor hung up")
    }

    /// The next message; nothing once the monitor has hung up.
    ///
    /// # Errors
    /// Nothing came until `deadline`, or it is not JSON.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Value>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.messages.recv_timeout(left) {
            Ok(line) => serde_json::from_str(&line)
                .map(Some)
                .with_context(|| format!("the monitor said {line:?}")),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the monitor said nothing"),
        }
    }
}
