//! This machine as the source of a migration.
//!
//! The sender's thread (crate `migration`) asks; the control thread answers. What the sender needs often, RAM and
//! dirty pages, it gets without the control thread.

use crate::MachineError;
use crate::board::Board;
use crate::clock::MigrationClock;
use crate::control::Control;
use crate::event::{MachineEvent, MigrationNews};
use crate::run_state::RunState;
use hypervisor::Accelerator;
use memory::{DirtyPages, Ram};
use migration::channel::Address;
use migration::{
    CancelToken, Capabilities, Capability, Configuration, DevicePayload, Info, Kept, Outcome,
    Outgoing, OutgoingOptions, Parameters, ParametersUpdate, Reason, SharedParameters, Source,
    State, StoppedVm, Unplug, VmIs,
};
use net::announce::AnnounceParameters;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use vm_memory::GuestAddress;

/// For how long after a cancel the machine stays `cancelling` if the guest has not let go by then. What the guest does
/// about the request later does no harm: an eject leads to a plug. But a client of QEMU's that ejects by hand expects to
/// find the migration `cancelling` until it has, and does so at once; and a guest that is just about to eject gets its
/// primary back by one clean plug.
const CANCEL_GRACE: Duration = Duration::from_millis(80);

/// A guest that has hardly any memory in use is sent within a millisecond. QEMU takes longer, and its users' scripts poll for
/// `active` without an eye on `completed`. With a guest of any size this has passed long before its memory is sent.
const LEAST_ACTIVE: Duration = Duration::from_millis(100);

/// Answers `migrate` when the transport is there or has failed.
pub type MigrateReply = Box<dyn FnOnce(Result<(), MachineError>) + Send>;

/// What the control thread keeps of migrations away from here.
pub(crate) struct OutgoingSide {
    current: Option<Outgoing>,
    reply: Option<MigrateReply>,
    /// What `migrate` is answered once the final state was told.
    verdict: Option<Result<(), MachineError>>,
    /// The sender waits here for the guest to let go.
    unplugged: Option<Sender<Unplugged>>,
    /// How a primary got out, if not by the guest's eject.
    unplug_moot: Option<&'static str>,
    /// The run state to go back to.
    stopped_from: Option<RunState>,
    /// Settings.
    pub(crate) parameters: SharedParameters,
    pub(crate) capabilities: Capabilities,
}

impl OutgoingSide {
    pub(crate) fn new() -> Self {
        Self {
            current: None,
            reply: None,
            verdict: None,
            unplugged: None,
            unplug_moot: None,
            stopped_from: None,
            parameters: SharedParameters::default(),
            capabilities: Capabilities::default(),
        }
    }

    /// A migration has begun and not ended.
    pub(crate) fn in_progress(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|m| m.state().is_running())
    }

    /// `query-migrate` of the source, if there ever was a migration.
    pub(crate) fn info(&self) -> Option<Info> {
        self.current.as_ref().map(Outgoing::info)
    }

    pub(crate) fn announce_parameters(&self) -> AnnounceParameters {
        let p = self.parameters.get();
        AnnounceParameters {
            initial_ms: p.announce_initial_ms,
            max_ms: p.announce_max_ms,
            rounds: p.announce_rounds,
            step_ms: p.announce_step_ms,
        }
    }

    /// A primary is out, and not by the guest's eject.
    pub(crate) fn unplug_moot(&mut self, how: &'static str) {
        self.unplug_moot = Some(how);
    }

    /// The guest has let go of everything.
    pub(crate) fn all_unplugged(&mut self) {
        let how = self.unplug_moot.take();
        self.unplugged(Ok(how));
    }

    /// The guest has let go of everything, or will not.
    pub(crate) fn unplugged(&mut self, result: Unplugged) {
        if let Some(waiting) = &self.unplugged {
            // The sender may have given up for a reason of its own.
            let _ = waiting.send(result);
        }
    }

    fn answer(&mut self, result: Result<(), MachineError>) {
        if let Some(reply) = self.reply.take() {
            reply(result);
        }
    }
}

/// How the wait for the guest ends.
type Unplugged = Result<Option<&'static str>, Kept>;

/// The machine as the sender's thread sees it.
struct MachineSource {
    control: Control,
    ram: Arc<Ram>,
    vm: Arc<dyn Accelerator>,
    unplugged: Receiver<Unplugged>,
    interrupt: Sender<Unplugged>,
}

fn ended() -> Reason {
    "the machine has ended".into()
}

impl MachineSource {
    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Board) -> Result<T, Reason> + Send + 'static,
    ) -> Result<T, Reason> {
        self.control.ask(job).map_err(|_| ended())?
    }
}

impl Source for MachineSource {
    fn ram(&self) -> Arc<Ram> {
        Arc::clone(&self.ram)
    }

    fn configuration(&mut self) -> Result<Configuration, Reason> {
        self.ask(|board| match board.migration_blocker() {
            Some(why) => Err(Reason(why)),
            None => Ok(board.configuration()),
        })
    }

    fn connected(&mut self) -> Result<Unplug, Reason> {
        self.ask(Board::source_connected)
    }

    fn wait_unplugged(&mut self, interrupt: &CancelToken) -> Unplugged {
        let sender = self.interrupt.clone();
        interrupt.on_cancel(move || {
            // Nobody waits any more: then nobody is to be woken.
            let _ = sender.send(Err(Kept::interrupted()));
        });
        self.unplugged
            .recv()
            .unwrap_or_else(|_| Err(Kept::interrupted()))
    }

    fn cancelled_while_unplugging(&mut self) {
        let Some(grace) = self.control.host_clock().host_wait(CANCEL_GRACE) else {
            return;
        };
        // Whatever comes, the primaries are brought back next.
        let _ = self.unplugged.recv_timeout(grace);
    }

    fn start_dirty_log(&mut self) -> Result<(), Reason> {
        // From here on this thread has much to do, and the guest still runs.
        crate::control::give_way();
        self.ram.forget_device_dirty();
        let kernel = self.ram.kernel_log();
        kernel.start().map_err(Reason::new)?;
        self.vm.set_dirty_log(true).map_err(Reason::new)
    }

    fn sync_dirty(&mut self, into: &mut DirtyPages) -> Result<(), Reason> {
        for log in self.vm.dirty_log().map_err(Reason::new)? {
            if !into.merge_slot_log(&self.ram, GuestAddress(log.guest), &log.bitmap) {
                return Err("the hypervisor's dirty log does not fit guest RAM".into());
            }
        }
        self.ram.take_device_dirty(into);
        Ok(())
    }

    fn pass(&mut self, count: u64) {
        self.control.post(move |board| {
            if board.outgoing.capabilities.has(Capability::Events) {
                board.emit(MachineEvent::MigrationPass(count));
            }
        });
    }

    fn stop_vm(&mut self) -> Result<StoppedVm, Reason> {
        self.ask(Board::stop_for_migration)
    }

    fn save_devices(&mut self) -> Result<Vec<DevicePayload>, Reason> {
        self.ask(|board| board.save_all())
    }

    fn resume_vm(&mut self, stopped: StoppedVm) {
        // The machine may be ending: then nothing is to be resumed.
        let _ = self
            .control
            .ask(move |board| board.resume_after_migration(stopped));
    }

    fn stop_dirty_log(&mut self) {
        self.ram.kernel_log().stop();
        if let Err(error) = self.vm.set_dirty_log(false) {
            tracing::warn!(%error, "the dirty log stays on");
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        let outcome = outcome.clone();
        // As above.
        let _ = self
            .control
            .ask(move |board| board.outgoing_ended(&outcome));
    }
}

impl Board {
    /// `migrate`: begins to send this machine to `uri`. `named_fd` finds the descriptor of an `fd:NAME`. Answers once
    /// the transport is there (then every primary has been asked for) or has failed.
    pub fn migrate(
        &mut self,
        uri: &str,
        named_fd: &mut dyn FnMut(&str) -> Option<OwnedFd>,
        reply: MigrateReply,
    ) {
        if let Err(error) = self.may_migrate() {
            return reply(Err(error));
        }
        let address = match uri.parse::<Address>() {
            Ok(address) => address,
            Err(error) => return reply(Err(MachineError::refused(error.to_string()))),
        };
        let (sender, receiver) = channel();
        let source = MachineSource {
            control: self.control.clone(),
            ram: Arc::clone(&self.ram),
            vm: Arc::clone(&self.vm),
            unplugged: receiver,
            interrupt: sender.clone(),
        };
        let control = self.control.clone();
        let options = OutgoingOptions {
            address,
            parameters: self.outgoing.parameters.clone(),
            pause_before_switchover: self
                .outgoing
                .capabilities
                .has(Capability::PauseBeforeSwitchover),
            clock: Arc::new(MigrationClock(Arc::clone(self.control.host_clock()))),
            least_active: self
                .control
                .host_clock()
                .host_wait(LEAST_ACTIVE)
                .unwrap_or_default(),
            on_change: Box::new(move |_, to: State| {
                // The first one is told below, before the answer.
                if to != State::Setup {
                    control.post(move |board| board.migration_state(true, to));
                }
            }),
        };
        // As QEMU: who connects over a network is answered at once, and hears of a refusal by `query-migrate`.
        let at_once = options.address.is_of_network();
        self.outgoing.unplugged = Some(sender);
        self.outgoing.unplug_moot = None;
        self.outgoing.reply = Some(reply);
        match Outgoing::start(Box::new(source), options, named_fd) {
            Ok(outgoing) => {
                self.outgoing.current = Some(outgoing);
                self.migration_state(true, State::Setup);
                if at_once {
                    self.outgoing.answer(Ok(()));
                }
            }
            Err(error) => {
                self.outgoing.unplugged = None;
                self.outgoing
                    .answer(Err(MachineError::refused(error.to_string())));
            }
        }
    }

    fn may_migrate(&self) -> Result<(), MachineError> {
        if self.outgoing.in_progress() {
            return Err(MachineError::refused(
                "There's a migration process in progress",
            ));
        }
        match self.run_state {
            RunState::InMigrate => Err(MachineError::refused(
                "Guest is waiting for an incoming migration",
            )),
            RunState::PostMigrate => Err(MachineError::refused(
                "Can't migrate the vm that was paused due to previous migration",
            )),
            _ => match self.migration_blocker() {
                Some(why) => Err(MachineError::refused(why)),
                None => Ok(()),
            },
        }
    }

    /// The state of the migration from here, or else to here, changed; told in order.
    pub(crate) fn migration_state(&mut self, outgoing: bool, state: State) {
        let info = if outgoing {
            self.outgoing.info()
        } else {
            self.incoming.info()
        };
        let paths = self.pairs.pairs().iter();
        self.listener.migration(MigrationNews {
            outgoing,
            state,
            info: info.unwrap_or_default(),
            paths: paths
                .map(|pair| (pair.standby().to_owned(), pair.path()))
                .collect(),
        });
        if self.outgoing.capabilities.has(Capability::Events) {
            self.emit(MachineEvent::Migration(state.name().to_owned()));
        }
        if state == State::Failed && self.incoming.leaves_on_failure() {
            self.exit = Some(1);
        }
        if !state.is_running()
            && let Some(verdict) = self.outgoing.verdict.take()
        {
            self.outgoing.answer(verdict);
        }
    }

    fn source_connected(&mut self) -> Result<Unplug, Reason> {
        let before = self.pairs.pairs().gate();
        let begun = self.begin_unplug().map_err(Reason::new);
        tracing::debug!(?before, after = ?self.pairs.pairs().gate(), "asked for the primaries");
        self.outgoing.answer(Ok(()));
        begun?;
        match self.pairs.pairs().gate() {
            failover::Gate::Waiting => Ok(Unplug::Asked),
            failover::Gate::Open => Ok(Unplug::NotNeeded),
            // Refused: the reason waits in the channel.
            _ => Ok(Unplug::Asked),
        }
    }

    fn stop_for_migration(&mut self) -> Result<StoppedVm, Reason> {
        self.pairs.pairs().may_switch_over().map_err(Reason::new)?;
        let from = self.run_state;
        let was_running = from.is_running();
        if was_running {
            self.halt();
        }
        if let Err(error) = self.run_state.go(RunState::FinishMigrate) {
            if was_running {
                self.go();
            }
            return Err(Reason::new(error));
        }
        self.outgoing.stopped_from = Some(from);
        if was_running {
            self.emit(MachineEvent::Stop);
        }
        Ok(StoppedVm { was_running })
    }

    fn resume_after_migration(&mut self, stopped: StoppedVm) {
        let back = self
            .outgoing
            .stopped_from
            .take()
            .unwrap_or(RunState::Running);
        if let Err(error) = self.run_state.go(back) {
            tracing::error!(%error, "the machine could not be given back its run state");
        }
        if stopped.was_running {
            self.go();
            self.emit(MachineEvent::Resume);
        }
        if let Some(request) = self.pending_power.take() {
            self.power_request(request);
        }
    }

    fn outgoing_ended(&mut self, outcome: &Outcome) {
        self.outgoing.unplugged = None;
        self.outgoing.verdict = Some(match outcome {
            Outcome::Failed { why, .. } => Err(MachineError::refused(why.clone())),
            Outcome::Completed | Outcome::Cancelled => Ok(()),
        });
        match outcome {
            Outcome::Completed
            | Outcome::Failed {
                vm: VmIs::PerhapsThere,
                ..
            } => {
                self.outgoing.stopped_from = None;
                if let Err(error) = self.run_state.go(RunState::PostMigrate) {
                    tracing::error!(%error, "after the migration");
                }
                self.migration_ended(true);
            }
            Outcome::Cancelled | Outcome::Failed { vm: VmIs::Here, .. } => {
                self.migration_ended(false)
            }
        }
        if let Outcome::Failed { why, .. } = outcome {
            tracing::debug!(why, "the migration failed");
        }
    }

    /// `migrate_cancel`; does nothing when there is nothing to cancel.
    pub fn migrate_cancel(&mut self) {
        if let Some(outgoing) = &self.outgoing.current {
            outgoing.cancel();
        }
    }

    /// `migrate-continue`.
    ///
    /// # Errors
    /// No migration waits for it.
    pub fn migrate_continue(&mut self) -> Result<(), MachineError> {
        match &self.outgoing.current {
            Some(outgoing) => outgoing
                .proceed()
                .map_err(|e| MachineError::refused(e.to_string())),
            None => Err(MachineError::refused(
                "Migration not in expected state: none",
            )),
        }
    }

    /// The migration's settings.
    pub fn migrate_parameters(&self) -> Parameters {
        self.outgoing.parameters.get()
    }

    /// `migrate-set-parameters`: all of them, or none.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn migrate_set_parameters(
        &mut self,
        update: &ParametersUpdate,
    ) -> Result<(), MachineError> {
        self.outgoing
            .parameters
            .update(update)
            .map_err(|e| MachineError::refused(e.to_string()))?;
        self.pairs.take_parameters(&self.outgoing.parameters.get());
        Ok(())
    }

    /// Which capabilities are on.
    pub fn migrate_capabilities(&self) -> &Capabilities {
        &self.outgoing.capabilities
    }

    /// `migrate-set-capabilities`: all of them, or none.
    ///
    /// # Errors
    /// A migration is under way, or one is switched on that is not supported.
    pub fn migrate_set_capabilities(
        &mut self,
        wishes: &[(Capability, bool)],
    ) -> Result<(), MachineError> {
        if self.outgoing.in_progress() {
            return Err(MachineError::refused(
                "There's a migration process in progress",
            ));
        }
        self.outgoing
            .capabilities
            .set(wishes)
            .map_err(|e| MachineError::refused(e.to_string()))
    }

    /// `query-migrate`: of the migration away from here, or else of the one that brought the guest.
    pub fn migrate_info(&self) -> Option<Info> {
        self.outgoing.info().or_else(|| self.incoming.info())
    }
}
