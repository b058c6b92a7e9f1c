//! Character devices: the host's end of a serial port.
//!
//! ```text
//!   guest ──▶ UART ──▶ Outbox (bounded) ──▶ writer thread ──▶ socket, terminal, file ...
//!   guest ◀── UART ◀──────────────────────── reader thread ◀──┘
//! ```
//! The guest never waits for a reader that is slow or absent: what does not fit into the outbox is lost, as on a
//! wire. Towards the guest nothing is lost: the reader waits for room in the UART.

pub(crate) mod endpoint;
mod file;
mod mux;
mod outbox;
mod terminal;

use crate::network::FdSource;
use config::vm::{ChardevBackend, ChardevConfig};
pub(crate) use endpoint::Endpoint;
use mux::Mux;
pub use outbox::{Outbox, OutboxWriter};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use terminal::RawTerminal;

/// A character device could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{option}: {reason}")]
pub struct ChardevError {
    /// The option as the user wrote it.
    pub option: String,
    /// One clear sentence.
    pub reason: String,
}

/// Takes what arrives from the host. Called from the device's reader thread; may block until there is room.
pub trait Receiver: Send + Sync {
    /// All of `bytes` go to the guest.
    fn receive(&self, bytes: &[u8]);

    /// A break condition on the line. Nothing, where there is no such thing.
    fn receive_break(&self) {}
}

/// An open character device.
pub struct Chardev {
    id: String,
    filename: String,
    outbox: Arc<Outbox>,
    receiver: Arc<Mutex<Option<Arc<dyn Receiver>>>>,
    endpoint: Option<Arc<Endpoint>>,
    mux: Option<Arc<Mux>>,
    /// `logfile=`, and the number of its connection.
    log: Option<(Arc<Outbox>, u64)>,
    _terminal: Option<RawTerminal>,
}

impl Chardev {
    /// Opens what `config` names and starts its threads. A server that waits (`wait=on`) blocks until its first
    /// client is there. With `mux=on`, `end` is what Ctrl-A x does. `fds` has the sets that `/dev/fdset/N` names.
    ///
    /// # Errors
    /// The socket, file or terminal cannot be had.
    pub fn open(
        config: &ChardevConfig,
        end: Box<dyn Fn() + Send + Sync>,
        fds: &dyn FdSource,
    ) -> Result<Self, ChardevError> {
        let failed = |reason: String| ChardevError {
            option: format!("{} {}", config.option, config.text),
            reason,
        };
        let outbox = Arc::new(Outbox::new());
        let receiver: Arc<Mutex<Option<Arc<dyn Receiver>>>> = Arc::default();
        let log = match &config.logfile {
            Some(path) => {
                let output = file::create(path, config.logappend, fds).map_err(failed)?;
                let log = Arc::new(Outbox::new());
                let generation = log.attach(Box::new(output));
                outbox.copy_to(Arc::clone(&log));
                Some((log, generation))
            }
            None => None,
        };
        if let ChardevBackend::Null = config.backend {
            outbox.swallow();
            let (id, filename) = (config.id.clone(), "null".into());
            return Ok(Self {
                id,
                filename,
                outbox,
                receiver,
                endpoint: None,
                mux: None,
                log,
                _terminal: None,
            });
        }
        if let ChardevBackend::RingBuf { size_bytes } = config.backend {
            outbox.keep_last(usize::try_from(size_bytes).unwrap_or(usize::MAX));
            let (id, filename) = (config.id.clone(), "ringbuf".into());
            return Ok(Self {
                id,
                filename,
                outbox,
                receiver,
                endpoint: None,
                mux: None,
                log,
                _terminal: None,
            });
        }
        let endpoint = Arc::new(Endpoint::open(&config.backend, fds).map_err(failed)?);
        let filename = endpoint.filename();
        let terminal = match config.backend {
            ChardevBackend::Stdio { signal } => RawTerminal::stdin(signal),
            _ => None,
        };
        let mux = config
            .mux
            .then(|| Arc::new(Mux::new(Arc::clone(&outbox), end)));
        if let Some(mux) = &mux {
            *receiver.lock().unwrap_or_else(PoisonError::into_inner) = Some(mux.clone());
        }
        let worker = Worker {
            endpoint: Arc::clone(&endpoint),
            outbox: Arc::clone(&outbox),
            receiver: Arc::clone(&receiver),
        };
        thread::Builder::new()
            .name(format!("char {}", config.id))
            .spawn(move || worker.run())
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            id: config.id.clone(),
            filename,
            outbox,
            receiver,
            endpoint: Some(endpoint),
            mux,
            log,
            _terminal: terminal,
        })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What `query-chardev` shows.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// Where to write what goes out.
    pub fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// From now on what comes in goes to `receiver`; with `mux=on`, when it is its turn.
    ///
    /// # Errors
    /// Too many share it, or the host has no threads left.
    pub fn connect(&self, receiver: Arc<dyn Receiver>) -> io::Result<()> {
        match &self.mux {
            Some(mux) => mux.add_port(receiver),
            None => {
                *self.receiver.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
                Ok(())
            }
        }
    }

    /// What a monitor that shares it is to read and write. `for_people`: lines are edited.
    ///
    /// # Errors
    /// It is not `mux=on`, too many share it, or the host has no pseudo-terminals left.
    pub fn monitor_end(&self, for_people: bool) -> io::Result<OwnedFd> {
        match &self.mux {
            Some(mux) => mux.add_monitor(for_people),
            None => Err(io::Error::other("it is not mux=on")),
        }
    }

    /// Waits until what was written has left, or nobody takes it.
    pub fn flush(&self) {
        self.outbox.flush();
    }
}

impl Drop for Chardev {
    fn drop(&mut self) {
        // The worker, which may wait for a client for ever, has a hold on the endpoint as well.
        if let Some(endpoint) = &self.endpoint {
            endpoint.remove_file();
        }
        if let Some((log, generation)) = &self.log {
            log.detach(*generation);
        }
    }
}

struct Worker {
    endpoint: Arc<Endpoint>,
    outbox: Arc<Outbox>,
    receiver: Arc<Mutex<Option<Arc<dyn Receiver>>>>,
}

impl Worker {
    /// One connection after the other, for as long as the endpoint has any.
    fn run(&self) {
        loop {
            match self.endpoint.next_connection() {
                Ok(Some((input, output))) => {
                    let generation = self.outbox.attach(output);
                    if let Some(input) = input {
                        self.read(input);
                        self.outbox.detach(generation);
                    } else {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(device = self.endpoint.filename(), %error, "a character device is gone");
                    return;
                }
            }
        }
    }

    fn read(&self, mut input: Box<dyn Read + Send>) {
        let mut buffer = [0; 4096];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let receiver = self
                        .receiver
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clone();
                    if let Some(receiver) = receiver {
                        receiver.receive(buffer.get(..count).unwrap_or_default());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(device = self.endpoint.filename(), %error, "input of a character device ended");
                    return;
                }
            }
        }
    }
}
