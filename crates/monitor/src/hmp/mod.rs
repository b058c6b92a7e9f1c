//! HMP: the same commands for a person, on a line.
//!
//! A line becomes an [`Action`]: a text, or a typed command with a way to print its response. Nothing is done here that
//! QMP cannot do.

mod arguments;
mod info;
mod migration;
mod print;
mod print_pci;
mod table;

use crate::command::{Command, describe};
use crate::error::QmpError;
use crate::fds::MonitorFds;
use crate::outbox::{LINGER, Outbox};
use crate::qmp::checked;
use crate::reply::Reply;
use crate::response::Response;
use crate::server::Shared;
use crate::stream::{Ready, Stream};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::Instant;
use table::Action;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use table::names;

/// The longest line, in bytes.
const MAX_LINE_BYTES: usize = 4096;
/// The prompt, as scripts expect it.
const PROMPT: &str = "(qemu) ";

/// A line and where it came from.
pub(crate) struct Line<'a> {
    pub(crate) text: &'a str,
    /// It came by `human-monitor-command`, which does not wait for migrations.
    pub(crate) in_qmp: bool,
}

/// What a step of an action asks the machine with.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    fds: MonitorFds,
}

impl Machine {
    /// Submits a command and waits for its answer.
    ///
    /// # Errors
    /// The command's own.
    pub(crate) fn ask(&self, command: Command) -> Result<Response, QmpError> {
        let declared = describe(command.name());
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let reply = Reply::new(self.fds.clone(), move |result| drop(sender.send(result)));
        self.shared.backend.submit(command, reply);
        let result = receiver
            .recv()
            .unwrap_or_else(|_| Err(QmpError::generic("The machine is shutting down")));
        checked(result, declared)
    }
}

/// The command that a line becomes, if it becomes one.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn command_of(line: &Line<'_>, identity: &crate::server::Identity) -> Option<Command> {
    match table::interpret(line, identity) {
        Ok(Action::Submit(command, _)) => Some(*command),
        _ => None,
    }
}

/// Where the output of a line goes, exactly once: a session that waits for it must not wait for ever.
struct Output<F: FnOnce(String)>(Option<F>);

impl<F: FnOnce(String)> Output<F> {
    fn finish(mut self, text: &str) {
        if let Some(done) = self.0.take() {
            done(with_line_ends(text));
        }
    }
}

impl<F: FnOnce(String)> Drop for Output<F> {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(with_line_ends("Error: the command could not be executed\n"));
        }
    }
}

/// Executes a line and hands its output to `done`, in the order of events on the thread that answers.
pub(crate) fn run(
    shared: &Arc<Shared>,
    fds: &MonitorFds,
    line: Line<'_>,
    done: impl FnOnce(String) + Send + 'static,
) {
    let output = Output(Some(done));
    match table::interpret(&line, &shared.identity) {
        Err(text) | Ok(Action::Text(text)) => output.finish(&text),
        Ok(Action::Submit(command, print)) => {
            let declared = describe(command.name());
            let reply = Reply::new(fds.clone(), move |result| {
                output.finish(
                    &checked(result, declared).map_or_else(|error| print::error(&error), print),
                );
            });
            shared.backend.submit(*command, reply);
        }
        Ok(Action::Steps(steps)) => {
            let machine = Machine {
                shared: Arc::clone(shared),
                fds: fds.clone(),
            };
            // A thread of its own: the monitor's must stay able to notice that the client is gone.
            let spawned = thread::Builder::new()
                .name("hmp-steps".to_owned())
                .spawn(move || output.finish(&steps(&machine)));
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread for a monitor command");
            }
        }
    }
}

fn with_line_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

/// Serves one client until it is gone or `stop` becomes readable.
pub(crate) fn serve(
    shared: &Arc<Shared>,
    fds: &MonitorFds,
    label: &str,
    stream: &Stream,
    outbox: &Arc<Outbox>,
    stop: BorrowedFd<'_>,
) -> io::Result<()> {
    let banner = format!(
        "{} monitor - type 'help' for more information\r\n{PROMPT}",
        shared.identity.package
    );
    outbox.push(banner.into_bytes());
    let mut line = Vec::new();
    let mut too_long = false;
    let mut buffer = vec![0; 4096];
    let mut came = Vec::new();
    while matches!(stream.wait([outbox.hangup(), stop]), Ok(Ready::Input)) {
        let bytes = match stream.read(&mut buffer, &mut came) {
            Ok(0) => break,
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
                tracing::debug!(monitor = label, %error, "reading from the client failed");
                break;
            }
        };
        // A person has no use for descriptors, and they must not pile up.
        came.clear();
        for byte in bytes {
            match byte {
                b'\n' if !outbox.wait_for_room() || !outbox.begin_request(1) => return Ok(()),
                b'\n' => {
                    let text = String::from_utf8_lossy(&std::mem::take(&mut line))
                        .trim()
                        .to_owned();
                    let text = if std::mem::take(&mut too_long) {
                        None
                    } else {
                        Some(text)
                    };
                    let outbox = Arc::clone(outbox);
                    let done = move |mut output: String| {
                        output.push_str(PROMPT);
                        outbox.push(output.into_bytes());
                        outbox.end_request();
                    };
                    match text {
                        Some(text) => run(
                            shared,
                            fds,
                            Line {
                                text: &text,
                                in_qmp: false,
                            },
                            done,
                        ),
                        None => done(format!(
                            "Error: the line is longer than {MAX_LINE_BYTES} bytes\r\n"
                        )),
                    }
                }
                _ if line.len() >= MAX_LINE_BYTES => {
                    too_long = true;
                    line.clear();
                }
                byte => line.push(*byte),
            }
        }
    }
    outbox.wait_for_requests();
    outbox.finish(Instant::now() + LINGER);
    Ok(())
}
