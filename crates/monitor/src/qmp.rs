//! One client's session in QMP: negotiation, commands in their order, out-of-band commands past them.
//!
//! ```text
//!            bytes, descriptors                requests, at most 8 ahead
//!  client ───────────────────────▶ reader ─────────────────────────────────▶ dispatcher ──▶ Backend
//!     ▲                              │ exec-oob ──────────────────────────────────────────────┤
//!     └────────── writer ◀─── Outbox ◀──────────────────────────── answers, events ────────────┘
//! ```
//! The answer goes into the outbox on the thread that gives it, and only then the dispatcher takes the next request.

use crate::command::{AnyCommand, CommandDescription, SessionCommand, describe};
use crate::error::QmpError;
use crate::fds::MonitorFds;
use crate::hmp;
use crate::introspect;
use crate::json::JsonStream;
use crate::outbox::{LINGER, Outbox};
use crate::reply::Reply;
use crate::request;
use crate::response::Response;
use crate::server::Shared;
use crate::stream::{Ready, Stream};
use crate::types::{QmpCapability, SchemaInfo};
use crate::wire::{answer, to_line};
use serde_json::{Value, json};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;
use std::time::Instant;

/// How many requests are read ahead of the one that is being executed (QEMU's figure).
const QUEUED_REQUESTS: usize = 8;

struct Request {
    message: Result<Value, String>,
    fd: Option<OwnedFd>,
}

struct Session {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    fds: MonitorFds,
    label: String,
    pretty: bool,
    negotiated: AtomicBool,
    oob: AtomicBool,
}

/// Serves one client until it is gone or `stop` becomes readable.
///
/// # Errors
/// The host has no descriptors or threads left.
pub(crate) fn serve(
    shared: &Arc<Shared>,
    fds: &MonitorFds,
    label: &str,
    pretty: bool,
    stream: &Arc<Stream>,
    outbox: &Arc<Outbox>,
    stop: BorrowedFd<'_>,
) -> io::Result<()> {
    let session = Arc::new(Session {
        shared: Arc::clone(shared),
        outbox: Arc::clone(outbox),
        fds: fds.clone(),
        label: label.to_owned(),
        pretty,
        negotiated: AtomicBool::new(false),
        oob: AtomicBool::new(false),
    });
    session.outbox.push(to_line(&session.greeting(), pretty));
    let (requests, receiver) = channel();
    let dispatcher = Arc::clone(&session);
    // Not joined: a command that the machine has not answered yet must not keep the next client out.
    thread::Builder::new()
        .name("qmp-dispatch".to_owned())
        .spawn(move || dispatcher.dispatch_all(&receiver))?;
    session.read_all(stream, requests, stop);
    // What was asked before the hang-up is answered, while somebody is there to read it.
    stream.wait_for_hangup([session.outbox.session_over(), session.outbox.hangup(), stop]);
    session.outbox.finish(Instant::now() + LINGER);
    Ok(())
}

impl Session {
    fn greeting(&self) -> Value {
        let version = crate::qapi::QapiType::encode(&self.shared.identity.version());
        json!({"QMP": {"version": version, "capabilities": ["oob"]}})
    }

    fn read_all(&self, stream: &Stream, requests: Sender<Request>, stop: BorrowedFd<'_>) {
        let mut parser = JsonStream::new();
        let mut buffer = vec![0; 4096];
        let mut came = Vec::new();
        while matches!(stream.wait([self.outbox.hangup(), stop]), Ok(Ready::Input)) {
            let bytes = match stream.read(&mut buffer, &mut came) {
                Ok(0) => return,
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    tracing::debug!(monitor = self.label, %error, "reading from the client failed");
                    return;
                }
            };
            for byte in bytes {
                parser.feed(*byte);
                while let Some(message) = parser.next_message() {
                    let fd = match &message {
                        Ok(message) if takes_fd(message) && !came.is_empty() => {
                            Some(came.remove(0))
                        }
                        _ => None,
                    };
                    let request = Request { message, fd };
                    if !self.outbox.begin_request(QUEUED_REQUESTS) {
                        return;
                    }
                    if self.is_oob(&request) {
                        // On this thread: answered before anything that the client sends next is looked at.
                        if !self.outbox.wait_for_room() {
                            return;
                        }
                        let outbox = Arc::clone(&self.outbox);
                        outbox.set_out_of_band(true);
                        self.execute(request, move || outbox.set_out_of_band(false));
                        self.outbox.end_request();
                        if !self.outbox.wait_for_out_of_band() {
                            return;
                        }
                    } else if requests.send(request).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn is_oob(&self, request: &Request) -> bool {
        let Ok(Value::Object(object)) = &request.message else {
            return false;
        };
        self.oob.load(Ordering::Acquire)
            && object.contains_key("exec-oob")
            && !object.contains_key("execute")
    }

    fn dispatch_all(&self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            self.outbox.end_request();
            if !self.outbox.wait_for_room() {
                break;
            }
            let (done, answered) = sync_channel(1);
            self.execute(request, move || {
                // Whoever answers may find that nobody waits any more.
                let _ = done.send(());
            });
            // An error: the closure was dropped uncalled, and nothing will come.
            let _ = answered.recv();
        }
        self.outbox.end_session();
    }

    /// Executes one request; calls `done` once its answer is in the outbox.
    fn execute(&self, request: Request, done: impl FnOnce() + Send + 'static) {
        let mut id = None;
        let decoded = match request.message {
            Err(text) => Err(QmpError::generic(text)),
            Ok(Value::Object(mut object)) => {
                id = object.shift_remove("id");
                request::decode(object, self.state())
            }
            Ok(_) => Err(QmpError::generic("QMP input must be a JSON object")),
        };
        match decoded {
            Err(error) => {
                self.answer(&Err(error), id);
                done();
            }
            Ok(AnyCommand::Session(command)) => self.execute_here(command, request.fd, id, done),
            Ok(AnyCommand::Machine(command)) => {
                tracing::debug!(monitor = self.label, command = command.name(), "executes");
                let declared = describe(command.name());
                let handle = self.handle();
                let reply = Reply::new(self.fds.clone(), move |result| {
                    handle.answer(&checked(result, declared), id);
                    done();
                });
                self.shared.backend.submit(*command, reply);
            }
        }
    }

    fn state(&self) -> request::State {
        request::State {
            negotiated: self.negotiated.load(Ordering::Acquire),
            oob: self.oob.load(Ordering::Acquire),
        }
    }

    fn answer(&self, result: &Result<Response, QmpError>, id: Option<Value>) {
        if let Err(error) = result {
            tracing::debug!(monitor = self.label, %error, "command failed");
        }
        self.outbox.push(to_line(&answer(result, id), self.pretty));
    }

    fn execute_here(
        &self,
        command: SessionCommand,
        fd: Option<OwnedFd>,
        id: Option<Value>,
        done: impl FnOnce() + Send + 'static,
    ) {
        let identity = &self.shared.identity;
        let sets = self.fds.sets();
        let result = match command {
            SessionCommand::QmpCapabilities { enable } => {
                self.negotiate(enable.unwrap_or_default(), id);
                return done();
            }
            SessionCommand::HumanMonitorCommand {
                command_line,
                cpu_index: _,
            } => {
                let handle = self.handle();
                let line = hmp::Line {
                    text: &command_line,
                    in_qmp: true,
                };
                return hmp::run(&self.shared, &self.fds, line, move |text| {
                    handle.answer(&Ok(Response::Text(text)), id);
                    done();
                });
            }
            SessionCommand::QueryVersion => Ok(identity.version().into()),
            SessionCommand::QueryCommands => Ok(introspect::commands().into()),
            SessionCommand::QueryEvents => Ok(introspect::events().into()),
            SessionCommand::QueryQmpSchema => {
                let entries = introspect::schema(identity).into_iter();
                Ok(entries.map(SchemaInfo).collect::<Vec<_>>().into())
            }
            SessionCommand::Getfd { fdname } => self.fds.keep(&fdname, fd).map(Into::into),
            SessionCommand::Closefd { fdname } => self.fds.close(&fdname).map(Into::into),
            SessionCommand::AddFd { fdset_id, opaque } => {
                sets.add(fdset_id, fd, opaque).map(Into::into)
            }
            SessionCommand::RemoveFd { fdset_id, fd } => sets.remove(fdset_id, fd).map(Into::into),
            SessionCommand::QueryFdsets => Ok(sets.query().into()),
        };
        self.answer(&result, id);
        done();
    }

    fn negotiate(&self, enable: Vec<QmpCapability>, id: Option<Value>) {
        if enable.contains(&QmpCapability::Oob) {
            self.oob.store(true, Ordering::Release);
        }
        self.negotiated.store(true, Ordering::Release);
        self.shared
            .events
            .add_client(&self.outbox, self.pretty, &self.label);
        self.outbox
            .push_and_listen(to_line(&answer(&Ok(Response::Empty(())), id), self.pretty));
    }

    /// What an answer needs that comes when the session may be gone.
    fn handle(&self) -> AnswerHandle {
        AnswerHandle {
            outbox: Arc::clone(&self.outbox),
            pretty: self.pretty,
        }
    }
}

struct AnswerHandle {
    outbox: Arc<Outbox>,
    pretty: bool,
}

impl AnswerHandle {
    fn answer(&self, result: &Result<Response, QmpError>, id: Option<Value>) {
        self.outbox.push(to_line(&answer(result, id), self.pretty));
    }
}

/// A response that is not of the command's declared type would break clients: it becomes an error instead.
pub(crate) fn checked(
    result: Result<Response, QmpError>,
    declared: Option<&CommandDescription>,
) -> Result<Response, QmpError> {
    match (result, declared) {
        (Ok(response), Some(command)) if !(command.accepts)(&response) => {
            tracing::error!(
                command = command.name,
                ?response,
                "the machine answered with a response of another command"
            );
            Err(QmpError::generic(format!(
                "Internal error: the answer to {} is of a wrong type",
                command.name
            )))
        }
        (result, _) => result,
    }
}

fn takes_fd(message: &Value) -> bool {
    matches!(
        message.get("execute").and_then(Value::as_str),
        Some("getfd" | "add-fd")
    )
}
