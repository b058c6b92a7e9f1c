//! Between a monitor and the machine: a command goes in, an answer comes back when it is known.

use crate::command::Command;
use crate::error::QmpError;
use crate::fds::MonitorFds;
use crate::response::Response;
use std::fmt;
use std::sync::mpsc::{Receiver, sync_channel};

/// The machine, as the monitors see it.
pub trait Backend: Send + Sync + 'static {
    /// Takes a command; the answer goes to `reply`, at once or later, from any thread.
    ///
    /// Commands of one client come one after the other: the next is submitted once the one before is answered (but for those
    /// executed out of band). An answer stands in the client's output where it was given: events emitted before it come before it,
    /// events emitted after it come after. So the thread that emits should be the thread that answers. Must not block for long.
    fn submit(&self, command: Command, reply: Reply);
}

type Sink = Box<dyn FnOnce(Result<Response, QmpError>) + Send>;

/// Where the answer to one command goes. Dropped unanswered, it answers with an error.
pub struct Reply {
    fds: MonitorFds,
    sink: Option<Sink>,
}

impl Reply {
    /// A reply that calls `sink` with the answer, on the thread that answers.
    pub fn new(
        fds: MonitorFds,
        sink: impl FnOnce(Result<Response, QmpError>) + Send + 'static,
    ) -> Self {
        Self {
            fds,
            sink: Some(Box::new(sink)),
        }
    }

    /// A reply for use inside the process, without descriptors: the answer comes out of the channel.
    pub fn channel() -> (Self, Receiver<Result<Response, QmpError>>) {
        let (sender, receiver) = sync_channel(1);
        let reply = Self::new(MonitorFds::default(), move |result| {
            // Nobody waits any more: the answer has no reader.
            let _ = sender.send(result);
        });
        (reply, receiver)
    }

    /// The descriptors that the client handed over: `migrate fd:NAME`, `netdev_add fd=NAME`, `/dev/fdset/N`.
    pub fn fds(&self) -> &MonitorFds {
        &self.fds
    }

    /// The command succeeded.
    pub fn ok(self, response: impl Into<Response>) {
        self.send(Ok(response.into()));
    }

    /// The command failed.
    pub fn err(self, error: QmpError) {
        self.send(Err(error));
    }

    /// The command ended.
    pub fn send(mut self, result: Result<Response, QmpError>) {
        if let Some(sink) = self.sink.take() {
            sink(result);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink(Err(QmpError::generic(
                "The command was dropped without an answer; the machine is shutting down",
            )));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("answered", &self.sink.is_none())
            .finish_non_exhaustive()
    }
}
