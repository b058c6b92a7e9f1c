//! A whole machine in this process, for tests: without processors, by a clock that is handed in.
//!
//! ```no_run
//! # use machine::clock::ManualClock;
//! # use machine::in_process::InProcess;
//! # struct Ear;
//! # impl machine::MachineListener for Ear { fn event(&self, _: machine::MachineEvent) {} }
//! let mut config = config::vm::VmConfig::default();
//! config.machine.accel = vec![config::vm::Accel::Qtest];
//! let machine = InProcess::start(config, &ManualClock::new(), Box::new(Ear))?;
//! assert!(machine.control.ask(|board| board.run_state().is_running())?);
//! assert_eq!(machine.end(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::clock::{Clocks, ManualClock};
use crate::{Control, FdSource, MachineError, MachineListener, control_with};
use config::vm::VmConfig;
use hypervisor::qtest::{Client, Gate};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// A machine whose control thread is one of this process. It ends when this is dropped.
pub struct InProcess {
    /// Asks what a monitor asks.
    pub control: Control,
    /// The processors' place.
    pub client: Arc<Client>,
    /// Whether it runs, for who is to keep to that.
    pub gate: Arc<Gate>,
    thread: Option<JoinHandle<u8>>,
}

struct NoFds;

impl FdSource for NoFds {
    fn take(&self, name: &str) -> Result<OwnedFd, String> {
        Err(format!("no descriptor '{name}'"))
    }
}

impl InProcess {
    /// Builds the machine and powers it up: its control thread runs, and so does the guest's place, unless a migration
    /// is awaited. Both of its clocks are `clock`.
    ///
    /// # Errors
    /// The configuration is wrong, its accelerator is not `qtest`, or the host refuses something.
    pub fn start(
        config: VmConfig,
        clock: &Arc<ManualClock>,
        listener: Box<dyn MachineListener>,
    ) -> Result<Self, MachineError> {
        config
            .validate()
            .map_err(|e| MachineError::refused(e.to_string()))?;
        let (control, control_loop) = control_with(Clocks::manual(clock));
        let mut board = crate::build(config, control.clone(), listener, &NoFds)?;
        board.power_up()?;
        let qtest = board.qtest();
        let place = qtest.and_then(|q| Some((q.client()?, Arc::clone(q.gate()))));
        let (client, gate) = place.ok_or_else(|| {
            MachineError::refused("a machine in this process needs the accelerator qtest")
        })?;
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || control_loop.run(board).0)
            .map_err(|e| MachineError::refused(e.to_string()))?;
        Ok(Self {
            control,
            client,
            gate,
            thread: Some(thread),
        })
    }

    /// Ends it, if it has not ended by itself; returns its exit status. All it had open is closed by then.
    pub fn end(mut self) -> u8 {
        self.finish()
    }

    fn finish(&mut self) -> u8 {
        self.control.post(|board| board.quit("host-qmp-quit"));
        let ended = self.thread.take().map(JoinHandle::join);
        // A control thread that panicked has said so.
        ended.and_then(Result::ok).unwrap_or(1)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.finish();
        }
    }
}
