//! Who orders a machine of this process over a monitor, as a program does: the monitor is the program's own, its backend
//! and its events too.

use anyhow::{Context as _, Result, ensure};
use config::vm::VmConfig;
use guest_model::vmm::Qmp;
use machine::Control;
use monitor::{Endpoint, EventSink, Mode, Monitors};
use serde_json::Value;
use standfast::backend::{self, MachineBackend};
use standfast::events::EventForwarder;
use standfast::record::{Recorder, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// What hears the machine's events before there is a monitor.
pub struct Beginning {
    events: EventSink,
    recorder: Recorder,
    woken: Receiver<()>,
}

/// A monitor with its client.
pub struct Operator {
    socket: PathBuf,
    client: Option<Qmp>,
    monitors: Monitors,
    recorder: Writer,
}

impl Beginning {
    pub fn new() -> Self {
        let (recorder, woken) = Recorder::new("");
        Self {
            events: EventSink::with_host_clock(),
            recorder,
            woken,
        }
    }

    pub fn forwarder(&self, config: &VmConfig) -> EventForwarder {
        let rtc = backend::rtc_path(config);
        EventForwarder::new(self.events.clone(), self.recorder.clone(), rtc)
    }

    /// A monitor of the machine behind `control`, on a socket in `folder`, and a client of it.
    pub fn listen(self, config: &VmConfig, control: &Control, folder: &Path) -> Result<Operator> {
        let backend = MachineBackend::new(control.clone(), config, self.recorder.clone());
        let mut monitors = Monitors::new(backend::identity(), Arc::new(backend), self.events)?;
        let socket = folder.join("qmp");
        let endpoint = Endpoint::UnixServer {
            path: socket.clone(),
            wait: false,
        };
        monitors.serve(Mode::Qmp { pretty: false }, endpoint.open()?)?;
        let recorder = self.recorder.start(self.woken, control.clone(), None)?;
        let client = Some(Qmp::connect(&socket)?);
        Ok(Operator {
            socket,
            client,
            monitors,
            recorder,
        })
    }
}

impl Operator {
    pub fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value> {
        let client = self.client.as_mut().context("no client")?;
        Ok(client.execute(command, arguments)?)
    }

    /// The client goes with an answer that it does not read; another comes and goes in the middle of this line; and a
    /// third comes. The monitor has one client at a time: the session of the one before is over by then.
    pub fn clients_go(&mut self, half: &str) -> Result<()> {
        for last_words in ["{\"execute\": \"query-failover\"}\n", half] {
            let mut client = self.client.take().context("no client")?;
            client.say(last_words)?;
            // Whatever it has not read is lost.
            drop(client);
            self.client = Some(Qmp::connect(&self.socket)?);
        }
        Ok(())
    }

    /// After its machine has ended.
    pub fn end(self) -> Result<()> {
        let Self {
            socket,
            client,
            monitors,
            recorder,
        } = self;
        recorder.finish();
        drop(monitors);
        drop(client);
        ensure!(!socket.exists(), "the monitor's socket was left behind");
        Ok(())
    }
}
