//! The target's side: a thread that reads the stream, loads the machine and, told so, runs it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::{io, thread};

use memory::{HostSpan, Ram};

use crate::cancel::CancelToken;
use crate::channel::iov::Piece;
use crate::channel::{Channel, ChannelError, Listener, Patience};
use crate::info::{Info, Statistics};
use crate::payloads::DevicePayloads;
use crate::reason::Reason;
use crate::receive::{IncomingError, Peer, receive};
use crate::state::{OnChange, State, StateMachine};
use crate::stream::{Configuration, Farewell, Input, Kind, section, section_of};

/// The machine that is to be loaded. Called on the receiver's thread, in the order of the methods here.
pub trait Target: Send {
    /// Its RAM.
    fn ram(&self) -> Arc<Ram>;

    /// What it is: machine type, RAM blocks and devices, to be compared with the source's. `page_bytes` and `answers` are
    /// not looked at.
    ///
    /// # Errors
    /// Whatever keeps it from being a target.
    fn configuration(&mut self) -> Result<Configuration, Reason>;

    /// The source is known, and has the same machine type, RAM blocks and devices. Whatever else has to agree is checked
    /// here; the source has not asked its guest for anything yet.
    ///
    /// # Errors
    /// The migration is refused, for this reason; the source is told.
    fn prepare(&mut self, source: &Configuration) -> Result<(), Reason>;

    /// The source has begun to send memory: its guest has let its primaries go. What takes time and needs no memory of the
    /// guest's can be begun here. By default nothing.
    fn memory_comes(&mut self) {}

    /// All of RAM is in place. Every device takes its state, which is hostile input; what is left is refused after.
    ///
    /// # Errors
    /// The migration is refused, for this reason; the source goes on running the VM.
    fn load_devices(&mut self, payloads: &mut DevicePayloads) -> Result<(), Reason>;

    /// Runs the VM (`run`), or leaves it stopped as it was on the source. From here on it is this side's. Announce the
    /// guest's addresses; emit no event yet.
    ///
    /// # Errors
    /// The VM does not run here, and never will: the source is told so, and goes on running it.
    fn resume(&mut self, run: bool) -> Result<(), Reason>;

    /// [`Incoming::info`] says completed: emit RESUME (if it was to run). The event MIGRATION completed follows after this
    /// returns. Now is the time to plug primaries.
    fn resumed(&mut self);

    /// It failed: told before the state changes.
    fn failed(&mut self, why: &str);
}

/// A migration into this machine.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: StateMachine,
    statistics: Statistics,
    cancel: CancelToken,
}

/// What the receiver is told beside where from and where to.
pub struct IncomingOptions {
    /// Told of every change of the state.
    pub on_change: OnChange,
    /// Refuse a VM of another uuid.
    pub validate_uuid: bool,
}

impl Incoming {
    /// Starts receiving from `listener`. In state `setup` when this returns; `active` once the source is connected.
    ///
    /// # Errors
    /// When the host has no descriptor or thread left.
    pub fn start(
        listener: Listener,
        mut target: Box<dyn Target>,
        options: IncomingOptions,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: StateMachine::new(options.on_change),
            statistics: Statistics::default(),
            cancel: CancelToken::new()?,
        });
        let listening = listener.listening_at().into_iter().collect();
        shared
            .statistics
            .update(|figures| figures.listening = listening);
        let to_setup = shared.state.advance(State::Setup);
        debug_assert!(to_setup.is_ok());
        let validate_uuid = options.validate_uuid;
        let mine = shared.clone();
        let thread = thread::Builder::new()
            .name("incoming".to_owned())
            .spawn(move || mine.run(listener, target.as_mut(), validate_uuid))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state.get()
    }

    /// `query-migrate`'s answer.
    #[must_use]
    pub fn info(&self) -> Info {
        self.shared.statistics.incoming_info(self.state())
    }

    /// Breaks it off, for a machine that shuts down. Says whether that was still possible: not after the source said `Go`.
    pub fn cancel(&self) -> bool {
        self.shared.cancel.cancel()
    }

    /// Waits for its end. Not to be called by the thread that serves the [`Target`].
    pub fn join(mut self) -> State {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.state()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.shared.cancel.cancel();
    }
}

impl Shared {
    fn run(&self, listener: Listener, target: &mut dyn Target, validate_uuid: bool) {
        let accepted = listener.accept(&self.cancel);
        let outcome = accepted.map_err(IncomingError::from).and_then(|channel| {
            self.advance(State::Active);
            let mut link = Link {
                channel,
                cancel: &self.cancel,
                answers: false,
            };
            let result = receive(&mut link, target, validate_uuid);
            if let Err(error) = &result {
                link.refuse(&error.to_string());
            }
            result
        });
        match outcome {
            Ok(()) => {
                let to_completed = self
                    .state
                    .advance_around(State::Completed, || target.resumed());
                debug_assert!(to_completed.is_ok());
            }
            Err(error) => {
                let why = error.to_string();
                if self.cancel.is_cancelled() {
                    // The machine shuts down while it waits: nothing went wrong.
                    tracing::debug!("load of migration ended: {why}");
                } else {
                    tracing::error!("load of migration failed: {why}");
                }
                self.statistics
                    .update(|figures| figures.error = Some(why.clone()));
                target.failed(&why);
                self.advance(State::Failed);
            }
        }
    }

    fn advance(&self, to: State) {
        if let Err(error) = self.state.advance(to) {
            tracing::error!("{error}");
        }
    }
}

struct Link<'a> {
    channel: Channel,
    cancel: &'a CancelToken,
    answers: bool,
}

impl Input for Link<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ChannelError> {
        self.channel.fill(buffer, self.cancel, &Patience::Endless)
    }

    fn fill_guest(&mut self, span: HostSpan<'_>) -> Result<usize, ChannelError> {
        self.channel.fill_guest(span, self.cancel)
    }
}

impl Peer for Link<'_> {
    fn expect_answers(&mut self) -> Result<(), IncomingError> {
        if !self.channel.is_bidirectional() {
            return Err(IncomingError::NoWayBack);
        }
        self.answers = true;
        Ok(())
    }

    fn answer(&mut self, kind: Kind) -> Result<(), ChannelError> {
        let Some(bytes) = section(kind, &[]).filter(|_| self.answers) else {
            return Ok(());
        };
        let mut pieces = [Piece::bytes(&bytes)];
        self.channel
            .write_all(&mut pieces, self.cancel, None, &mut |_| Ok(()))
    }

    fn seal(&mut self) -> bool {
        self.cancel.seal()
    }
}

impl Link<'_> {
    fn refuse(&self, why: &str) {
        if self.answers
            && let Some(bytes) = section_of(Kind::Failed, &Farewell::new(why))
        {
            self.channel.try_write(&bytes);
        }
    }
}
