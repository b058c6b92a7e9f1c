//! The source's side: a thread that sends the VM away, or gives it back.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io, thread};

use memory::{DirtyPages, PAGE_SIZE_BYTES, Ram};

use crate::cancel::CancelToken;
use crate::channel::{Address, ChannelError, connect};
use crate::clock::Clock;
use crate::info::{Info, Statistics};
use crate::link::{Link, SendError};
use crate::parameters::{SharedParameters, UnplugPolicy};
use crate::precopy::{PageSender, per_second};
use crate::reason::{Kept, Reason};
use crate::state::{OnChange, State, StateMachine};
use crate::stream::{Configuration, DevicePayload, Kind, PassEnd};

/// After this many passes that did not leave fewer dirty pages, the operator is told.
const PATIENT_PASSES: u32 = 3;

/// Whether the guest has primaries to let go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplug {
    /// None: it goes straight on.
    NotNeeded,
    /// The guest was asked; [`Source::wait_unplugged`] waits for it.
    Asked,
}

/// A VM that [`Source::stop_vm`] has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoppedVm {
    /// Whether it ran before: whether the target, or the source if it gets it back, shall run it.
    pub was_running: bool,
}

/// Where the VM is after a migration that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmIs {
    /// Here, as it was before.
    Here,
    /// Stopped here; it may be running on the target. Only an operator can tell, and `cont` it.
    PerhapsThere,
}

/// How a migration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The VM is the target's. Here it stays stopped (run state `postmigrate`); its primaries are released.
    Completed,
    /// Cancelled: the VM is here as it was before; its primaries come back.
    Cancelled,
    /// It failed.
    Failed {
        /// Why, in one line.
        why: String,
        /// Where the VM is now; here, its primaries come back.
        vm: VmIs,
    },
}

/// The machine that is to be sent. Called on the sender's thread only, in the order of the methods here where nothing goes
/// wrong; an implementation passes most calls on to the control thread and waits for its answer.
pub trait Source: Send {
    /// Its RAM.
    fn ram(&self) -> Arc<Ram>;

    /// What it is: machine type, RAM blocks, and every device that [`Source::save_devices`] will save. `page_bytes` and
    /// `answers` are filled in by the sender.
    ///
    /// # Errors
    /// Whatever keeps it from being migrated.
    fn configuration(&mut self) -> Result<Configuration, Reason>;

    /// The target is connected, and (where it can answer) says that it is a fit: ask the guest to let its primaries go.
    ///
    /// # Errors
    /// What keeps them from being asked for.
    fn connected(&mut self) -> Result<Unplug, Reason>;

    /// Waits until every primary asked for is let go of; only called after [`Unplug::Asked`]. Returns, with whatever
    /// result, soon after `interrupt` is cancelled: the migration was cancelled, or the connection is lost. The deadline is the
    /// implementation's. Where a primary is out otherwise than by the guest's eject, it says how, in a word for programs.
    ///
    /// # Errors
    /// A guest that does not let go, and why. What becomes of the migration then goes by
    /// [`Parameters::failover_unplug_policy`](crate::Parameters::failover_unplug_policy).
    fn wait_unplugged(&mut self, interrupt: &CancelToken) -> Result<Option<&'static str>, Kept>;

    /// The migration was cancelled after [`Unplug::Asked`] and before the guest had let go: gives the guest the moment that
    /// it needs to finish what it may have begun, and returns. The state is `cancelling` meanwhile. By default not at all.
    fn cancelled_while_unplugging(&mut self) {}

    /// Starts logging which pages vCPUs write. What the device model writes through vm-memory is seen without.
    ///
    /// # Errors
    /// When it cannot be logged.
    fn start_dirty_log(&mut self) -> Result<(), Reason>;

    /// Adds the pages written since the last call (or the start of the log) to `into`, and forgets them.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn sync_dirty(&mut self, into: &mut DirtyPages) -> Result<(), Reason>;

    /// The dirty pages were looked at for the `count`th time: emit MIGRATION_PASS.
    fn pass(&mut self, count: u64);

    /// Stops the VM: vCPUs, and every device that writes guest memory. Emit STOP if it ran.
    ///
    /// # Errors
    /// When it cannot be stopped: it then runs on.
    fn stop_vm(&mut self) -> Result<StoppedVm, Reason>;

    /// The state of every device of the stopped VM, in the order to load them.
    ///
    /// # Errors
    /// Names the device that cannot be saved.
    fn save_devices(&mut self) -> Result<Vec<DevicePayload>, Reason>;

    /// Undoes [`Source::stop_vm`]: the VM is and stays here. It runs again if it `was_running`; emit RESUME then.
    fn resume_vm(&mut self, stopped: StoppedVm);

    /// Stops logging. Called once after a successful [`Source::start_dirty_log`], however it ends.
    fn stop_dirty_log(&mut self);

    /// It is over; the state changes to the final one after this returns.
    fn ended(&mut self, outcome: &Outcome);
}

/// What a migration is started with.
pub struct OutgoingOptions {
    /// Where to.
    pub address: Address,
    /// Bandwidth, downtime and deadlines; changes count at once.
    pub parameters: SharedParameters,
    /// Wait in `pre-switchover` for [`Outgoing::proceed`].
    pub pause_before_switchover: bool,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long the state is `active` at least, while the guest runs: a client that polls is to see it, and to be able to
    /// cancel, however little there is to send.
    pub least_active: Duration,
    /// Told of every change of the state.
    pub on_change: OnChange,
}

/// A migration that could not even begin: the state is none, as before.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host has no descriptor or thread left.
    #[error("cannot start a migration: {0}")]
    Host(#[from] io::Error),
}

/// `migrate-continue` out of turn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Migration not in expected state: {0}")]
pub struct ContinueError(State);

pub(crate) struct Shared {
    pub(crate) state: StateMachine,
    pub(crate) statistics: Statistics,
    pub(crate) cancel: CancelToken,
    pub(crate) proceed: CancelToken,
    pub(crate) parameters: SharedParameters,
    pub(crate) clock: Arc<dyn Clock>,
    least_active: Duration,
}

/// A migration of this machine to somewhere else.
pub struct Outgoing {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({})", self.state())
    }
}

impl Outgoing {
    /// Starts it. In state `setup` when this returns (or further); everything else, connecting included, happens on its thread.
    /// `named_fd` finds the descriptor of an `fd:NAME` address.
    ///
    /// # Errors
    /// [`StartError`]; the machine has not been asked for anything, and `on_change` was not called.
    pub fn start(
        mut source: Box<dyn Source>,
        options: OutgoingOptions,
        named_fd: &mut dyn FnMut(&str) -> Option<OwnedFd>,
    ) -> Result<Self, StartError> {
        let mut fd = match &options.address {
            // One that was never handed over is a connection that fails, as QEMU has it.
            Address::Fd(name) => named_fd(name),
            _ => None,
        };
        let shared = Arc::new(Shared {
            state: StateMachine::new(options.on_change),
            statistics: Statistics::default(),
            cancel: CancelToken::new()?,
            proceed: CancelToken::new()?,
            parameters: options.parameters,
            clock: options.clock,
            least_active: options.least_active,
        });
        let mine = shared.clone();
        let pause_before_switchover = options.pause_before_switchover;
        let address = options.address;
        let answered_at_once = address.is_of_network();
        // The thread begins once the state says so.
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let thread = thread::Builder::new()
            .name("outgoing".to_owned())
            .spawn(move || {
                if begun.recv().is_err() {
                    return;
                }
                let mut job = Job {
                    shared: &mine,
                    source: source.as_mut(),
                    pause_before_switchover,
                    answered_at_once,
                    link: None,
                    stopped: None,
                    logging: false,
                    syncs: 0,
                };
                let result = job.drive(&address, &mut |_| fd.take());
                job.conclude(result);
            })?;
        let started = shared.clock.now();
        shared
            .statistics
            .update(|figures| figures.started = Some(started));
        let to_setup = shared.state.advance(State::Setup);
        debug_assert!(to_setup.is_ok());
        let _ = begin.send(());
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
        let now = self.shared.clock.now();
        self.shared.statistics.info(self.state(), now)
    }

    /// `migrate_cancel`: breaks it off, wherever it is, and returns at once. Says `false` when it is too late: the target was
    /// told to take over, or it has ended.
    pub fn cancel(&self) -> bool {
        let cancelled = self.shared.cancel.cancel();
        if cancelled {
            // Illegal only if the sender's thread has come that far, or further, itself.
            let _ = self.shared.state.advance(State::Cancelling);
        }
        cancelled
    }

    /// `migrate-continue`: goes on from `pre-switchover`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn proceed(&self) -> Result<(), ContinueError> {
        match self.state() {
            State::PreSwitchover => {
                self.shared.proceed.cancel();
                Ok(())
            }
            state => Err(ContinueError(state)),
        }
    }

    /// Waits for its end. Not to be called by the thread that serves the [`Source`].
    pub fn join(mut self) -> State {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.state()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// A migration on its thread, and what of it would have to be undone.
pub(crate) struct Job<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) source: &'a mut dyn Source,
    pub(crate) pause_before_switchover: bool,
    /// Whoever asked for it has his answer already, and hears of a refusal elsewhere.
    answered_at_once: bool,
    pub(crate) link: Option<Link<'a>>,
    pub(crate) stopped: Option<StoppedVm>,
    logging: bool,
    syncs: u64,
}

impl<'a> Job<'a> {
    pub(crate) fn link(&mut self) -> Result<&mut Link<'a>, SendError> {
        self.link
            .as_mut()
            .ok_or(SendError::Channel(ChannelError::Closed))
    }

    pub(crate) fn advance(&self, to: State) -> Result<(), SendError> {
        self.shared.state.advance(to).map_err(|error| {
            if self.shared.cancel.is_cancelled() {
                SendError::Cancelled
            } else {
                SendError::Machine(Reason::new(error))
            }
        })
    }

    /// How long the target has for an answer.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.shared.parameters.get().handover_timeout_ms)
    }

    /// What to say when the channel has shown itself broken, or was cancelled, while nothing was sent.
    pub(crate) fn broken(&mut self) -> Result<SendError, SendError> {
        if self.shared.cancel.is_cancelled() {
            return Ok(SendError::Cancelled);
        }
        let link = self.link()?;
        if link.is_bidirectional() {
            Ok(link.farewell())
        } else {
            Ok(SendError::Channel(ChannelError::Closed))
        }
    }

    fn drive(
        &mut self,
        address: &Address,
        named_fd: &mut dyn FnMut(&str) -> Option<OwnedFd>,
    ) -> Result<(), SendError> {
        let shared = self.shared;
        let channel = connect(address, named_fd, &shared.cancel)?;
        let link = self
            .link
            .insert(Link::new(channel, &shared.cancel, &*shared.clock));
        let answers = link.is_bidirectional();
        let configuration = Configuration {
            page_bytes: u32::try_from(PAGE_SIZE_BYTES).unwrap_or(0),
            answers,
            ..self.source.configuration()?
        };
        link.prolog()?;
        link.send(
            Kind::Configuration,
            &configuration,
            "the machine's configuration",
        )?;
        if answers {
            let within = self.patience();
            self.link()?.expect(Kind::Ready, within)?;
        }

        let asked = shared.clock.now();
        let unplug = self.source.connected()?;
        // Clients expect the first pass here; what is written before the first page is sent needs no log.
        self.looked();
        if unplug == Unplug::Asked {
            let waited = match self.advance(State::WaitUnplug) {
                Ok(()) => self.wait_unplugged(),
                Err(error) => Err(error),
            };
            // Where the guest was given up it has had its time.
            let given_up = shared.statistics.failover_reason().is_some();
            if waited.is_err() && shared.cancel.is_cancelled() && !given_up {
                self.source.cancelled_while_unplugging();
            }
            waited?;
            let took = shared.clock.now().saturating_sub(asked);
            shared
                .statistics
                .update(|figures| figures.unplug = Some(took));
        }
        self.precopy()
    }

    /// Notes that the dirty pages were looked at, and tells of it.
    fn looked(&mut self) {
        self.syncs += 1;
        let count = self.syncs;
        self.shared
            .statistics
            .update(|figures| figures.ram.dirty_sync_count = count);
        self.source.pass(count);
    }

    /// Waits for the guest, with an eye on the connection: a target that has died must not be found out only at the end.
    fn wait_unplugged(&mut self) -> Result<(), SendError> {
        let shared = self.shared;
        let host = |error: io::Error| SendError::Machine(Reason::new(error));
        let interrupt = CancelToken::new().map_err(host)?;
        let done = CancelToken::new().map_err(host)?;
        let Some(link) = &self.link else {
            return Err(SendError::Channel(ChannelError::Closed));
        };
        let channel = link.channel();
        let (waited, watched) = thread::scope(|scope| {
            let watch = || {
                let watched = channel.wait_for(&done, &shared.cancel);
                if watched.is_err() {
                    interrupt.cancel();
                }
                watched
            };
            let watcher = thread::Builder::new()
                .name("outgoing-watch".to_owned())
                .spawn_scoped(scope, watch);
            let waited = self.source.wait_unplugged(&interrupt);
            done.cancel();
            // Without a watcher the guest's deadline still ends the wait.
            let watched = watcher.map_or(Ok(()), |watcher| watcher.join().unwrap_or(Ok(())));
            (waited, watched)
        });
        if watched.is_err() {
            return Err(self.broken()?);
        }
        match waited {
            Ok(how) => {
                shared
                    .statistics
                    .update(|figures| figures.failover_reason = how);
                Ok(())
            }
            Err(kept) => Err(self.kept(kept)),
        }
    }

    /// The guest keeps its primaries: the end of the migration, of the kind that was asked for.
    fn kept(&mut self, kept: Kept) -> SendError {
        let shared = self.shared;
        if let Some(reason) = kept.name {
            shared
                .statistics
                .update(|figures| figures.failover_reason = Some(reason));
            let policy = shared.parameters.get().failover_unplug_policy;
            if policy == UnplugPolicy::Cancel && shared.cancel.cancel() {
                tracing::warn!(reason, "the migration is cancelled: {kept}");
                return SendError::Cancelled;
            }
        }
        SendError::Machine(Reason(kept.why))
    }

    /// Adds what vCPUs and devices wrote since the last time.
    pub(crate) fn sync_dirty(
        &mut self,
        ram: &Ram,
        dirty: &mut DirtyPages,
    ) -> Result<(), SendError> {
        ram.take_device_dirty(dirty);
        Ok(self.source.sync_dirty(dirty)?)
    }

    fn precopy(&mut self) -> Result<(), SendError> {
        let shared = self.shared;
        let ram = &*self.source.ram();
        let started = shared.clock.now();
        shared.statistics.update(|figures| {
            let begun = figures.started.unwrap_or(started);
            figures.setup = Some(started.saturating_sub(begun));
            figures.ram.total_bytes = ram.size_bytes();
            figures.ram.remaining_bytes = ram.size_bytes();
            let limit = shared.parameters.get().downtime_limit_ms;
            figures.expected_downtime = Some(Duration::from_millis(limit));
        });
        self.advance(State::Active)?;

        // Not earlier: a guest whose writes are logged is slow, and so would be its unplug.
        ram.forget_device_dirty();
        self.source.start_dirty_log()?;
        self.logging = true;
        let mut dirty = DirtyPages::all(ram);
        let mut sender = PageSender::new(ram, &*shared.clock, &shared.cancel, &shared.statistics);
        let limit = || shared.parameters.get().max_bandwidth_bytes;
        let mut convergence = Convergence::default();
        let mut last_look = started;
        for pass in 1.. {
            let link = self.link()?;
            sender.send(link, &mut dirty, &limit)?;
            let end = PassEnd {
                pass,
                pages: sender.pages(),
            };
            link.send(Kind::PassEnd, &end, "the end of a pass")?;
            sender.close_window(shared.clock.now());

            self.sync_dirty(ram, &mut dirty)?;
            let now = shared.clock.now();
            let pages = dirty.count();
            let rate = per_second(pages, now.saturating_sub(last_look));
            last_look = now;
            let remaining = pages.saturating_mul(PAGE_SIZE_BYTES);
            let parameters = shared.parameters.get();
            let bandwidth = match parameters.avail_switchover_bandwidth_bytes {
                0 => sender.bandwidth(),
                given => Some(given),
            };
            let downtime = bandwidth.map_or(Duration::ZERO, |bandwidth| {
                let nanos = u128::from(remaining) * 1_000_000_000 / u128::from(bandwidth.max(1));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            });
            shared.statistics.update(|figures| {
                figures.ram.remaining_bytes = remaining;
                figures.ram.dirty_pages_rate = rate;
                figures.expected_downtime = Some(downtime);
            });
            self.looked();
            tracing::debug!(pass, remaining, ?bandwidth, ?downtime, "pass done");
            if downtime <= Duration::from_millis(parameters.downtime_limit_ms) {
                break;
            }
            convergence.look(pages, rate, bandwidth.unwrap_or(0));
        }
        let active = shared.clock.now().saturating_sub(started);
        let left = shared.least_active.saturating_sub(active);
        if !left.is_zero() && shared.cancel.wait(left) {
            return Err(SendError::Cancelled);
        }
        self.hand_over(ram, &mut sender, &mut dirty)
    }

    /// Undoes what has to be undone, tells the machine, and takes the final state.
    fn conclude(&mut self, result: Result<(), SendError>) {
        let shared = self.shared;
        let told_by_answer = self.link.is_none() && !self.answered_at_once;
        // From here on nobody can cancel what has ended.
        let cancelled = !shared.cancel.seal();
        let outcome = match &result {
            Ok(()) => Outcome::Completed,
            Err(SendError::Unknown(_)) => Outcome::Failed {
                why: describe(&result),
                vm: VmIs::PerhapsThere,
            },
            Err(_) if cancelled => Outcome::Cancelled,
            Err(_) => Outcome::Failed {
                why: describe(&result),
                vm: VmIs::Here,
            },
        };
        if outcome == Outcome::Cancelled {
            // Illegal if whoever cancels has got round to it; but what is undone here must be seen after it.
            let _ = shared.state.advance(State::Cancelling);
        }
        let ours = matches!(
            outcome,
            Outcome::Cancelled | Outcome::Failed { vm: VmIs::Here, .. }
        );
        if ours && let Some(stopped) = self.stopped.take() {
            self.source.resume_vm(stopped);
        }
        if let Some(link) = self.link.take()
            && ours
        {
            link.abandon(&describe(&result));
        }
        if std::mem::take(&mut self.logging) {
            self.source.stop_dirty_log();
        }
        let now = shared.clock.now();
        shared.statistics.update(|figures| {
            figures.ended = Some(now);
            figures.ram.remaining_bytes = if result.is_ok() {
                0
            } else {
                figures.ram.remaining_bytes
            };
            if let Outcome::Failed { why, .. } = &outcome {
                figures.error = Some(why.clone());
            }
        });
        self.source.ended(&outcome);
        let advanced = match &outcome {
            Outcome::Completed => shared.state.advance(State::Completed),
            Outcome::Failed { why, .. } => {
                let reason = shared.statistics.failover_reason();
                match reason {
                    _ if told_by_answer => tracing::debug!("{why}"),
                    Some(reason) => tracing::error!(reason, "{why}"),
                    None => tracing::error!("{why}"),
                }
                shared.state.advance(State::Failed)
            }
            Outcome::Cancelled => shared.state.advance(State::Cancelled),
        };
        if let Err(error) = advanced {
            tracing::error!("{error}");
        }
    }
}

fn describe(result: &Result<(), SendError>) -> String {
    match result {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

/// Notices a guest that writes faster than it can be sent.
#[derive(Debug, Default)]
struct Convergence {
    fewest: Option<u64>,
    in_vain: u32,
    told: bool,
}

impl Convergence {
    fn look(&mut self, pages: u64, rate: u64, bandwidth: u64) {
        if self.fewest.is_none_or(|fewest| pages < fewest) {
            self.fewest = Some(pages);
            self.in_vain = 0;
            return;
        }
        self.in_vain += 1;
        if self.in_vain >= PATIENT_PASSES && !self.told {
            self.told = true;
            tracing::warn!(
                "the guest writes {} MiB/s and {} MiB/s are sent: the migration does not come to an end. Raise max-bandwidth \
                 or downtime-limit, or cancel it",
                rate.saturating_mul(PAGE_SIZE_BYTES) >> 20,
                bandwidth >> 20,
            );
        }
    }
}
