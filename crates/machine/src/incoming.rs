//! This machine as the target of a migration.

use crate::MachineError;
use crate::board::Board;
use crate::control::Control;
use crate::event::MachineEvent;
use crate::run_state::RunState;
use memory::Ram;
use migration::channel::{Address, Listener};
use migration::{
    Capability, Configuration, DevicePayloads, Incoming, IncomingOptions, Info, Reason, State,
    Target,
};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What the control thread keeps of a migration to here.
pub(crate) struct IncomingSide {
    current: Option<Incoming>,
    exit_on_error: bool,
    /// It failed, and the program ends with it once that was told.
    leaving: bool,
}

impl IncomingSide {
    pub(crate) fn new() -> Self {
        Self {
            current: None,
            exit_on_error: true,
            leaving: false,
        }
    }

    /// Whether the program ends because the guest did not get here.
    pub(crate) fn leaves_on_failure(&self) -> bool {
        self.leaving
    }

    /// `query-migrate` of the target.
    pub(crate) fn info(&self) -> Option<Info> {
        self.current.as_ref().map(Incoming::info)
    }
}

/// The machine as the receiver's thread sees it.
struct MachineTarget {
    control: Control,
    ram: Arc<Ram>,
}

impl MachineTarget {
    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Board) -> Result<T, Reason> + Send + 'static,
    ) -> Result<T, Reason> {
        self.control
            .ask(job)
            .map_err(|_| Reason::from("the machine has ended"))?
    }
}

impl Target for MachineTarget {
    fn ram(&self) -> Arc<Ram> {
        Arc::clone(&self.ram)
    }

    fn configuration(&mut self) -> Result<Configuration, Reason> {
        self.ask(|board| Ok(board.configuration()))
    }

    fn prepare(&mut self, source: &Configuration) -> Result<(), Reason> {
        // Whoever else runs on this host has the right of way until the guest is here.
        crate::control::give_way();
        tracing::info!(source = source.program, "a guest is on its way");
        Ok(())
    }

    fn memory_comes(&mut self) {
        self.control.post(Board::prepare_memory);
    }

    fn load_devices(&mut self, payloads: &mut DevicePayloads) -> Result<(), Reason> {
        // The control thread needs them for as long as the call lasts; they come back emptied.
        let mut all = std::mem::take(payloads);
        let (loaded, rest) = self.ask(move |board| {
            let loaded = board.load_all(&mut all);
            if loaded.is_ok() {
                board.standbys_restored();
            }
            Ok((loaded, all))
        })?;
        *payloads = rest;
        loaded
    }

    fn resume(&mut self, run: bool) -> Result<(), Reason> {
        self.ask(move |board| board.take_over(run))
    }

    fn resumed(&mut self) {
        self.control.post(Board::taken_over);
    }

    fn failed(&mut self, why: &str) {
        let why = why.to_owned();
        self.control.post(move |board| board.incoming_failed(&why));
    }
}

impl Board {
    /// `migrate-incoming`, and `-incoming URI`: listens by the time this returns.
    ///
    /// # Errors
    /// Not waiting for a guest, or one is on its way already, or the address cannot be had.
    pub fn migrate_incoming(
        &mut self,
        uri: &str,
        exit_on_error: bool,
        named_fd: &mut dyn FnMut(&str) -> Option<OwnedFd>,
    ) -> Result<(), MachineError> {
        if self.config.incoming.is_none() {
            return Err(MachineError::refused(
                "'-incoming' was not specified on the command line",
            ));
        }
        let retry = self
            .incoming
            .current
            .as_ref()
            .is_some_and(|i| i.state() == State::Failed);
        if self.run_state != RunState::InMigrate || (self.incoming.current.is_some() && !retry) {
            return Err(MachineError::refused(
                "The incoming migration has already been started",
            ));
        }
        let refused = |e: String| MachineError::refused(e);
        let address: Address = uri
            .parse()
            .map_err(|e: migration::channel::AddressError| refused(e.to_string()))?;
        let listener = Listener::open(&address, named_fd).map_err(|e| refused(e.to_string()))?;
        let control = self.control.clone();
        let options = IncomingOptions {
            on_change: Box::new(move |_, to: State| {
                // The first one is told below, before the answer.
                if to != State::Setup {
                    control.post(move |board| board.migration_state(false, to));
                }
            }),
            validate_uuid: self.outgoing.capabilities.has(Capability::ValidateUuid),
        };
        let target = MachineTarget {
            control: self.control.clone(),
            ram: Arc::clone(&self.ram),
        };
        self.incoming.exit_on_error = exit_on_error;
        let incoming = Incoming::start(listener, Box::new(target), options)
            .map_err(|e| refused(e.to_string()))?;
        self.incoming.current = Some(incoming);
        self.migration_state(false, State::Setup);
        Ok(())
    }

    /// From here on the guest is this machine's.
    fn take_over(&mut self, run: bool) -> Result<(), Reason> {
        let run = run && !self.config.start_paused;
        let to = if run {
            RunState::Running
        } else {
            RunState::Paused
        };
        self.run_state.go(to).map_err(Reason::new)?;
        if run {
            self.go();
        }
        Ok(())
    }

    fn taken_over(&mut self) {
        self.config.incoming = None;
        self.pairs.stop_populating();
        // All of it in one job: a client that asks after one of the events finds the primaries on their way, and those
        // without hardware in their slots.
        self.tell_arrived();
        if self.run_state.is_running() {
            self.emit(MachineEvent::Resume);
        }
        self.target_resumed();
        self.announce_arrival();
        if let Some(request) = self.pending_power.take() {
            self.power_request(request);
        }
    }

    fn incoming_failed(&mut self, why: &str) {
        tracing::debug!(why, "the incoming migration failed");
        self.pairs.stop_populating();
        let now = self.control.now();
        self.pairs.incoming_failed(now);
        self.incoming.leaving = self.incoming.exit_on_error;
    }
}
