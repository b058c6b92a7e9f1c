//! A configuration becomes a running machine.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use config::vm::{Incoming, MachineKind, VmConfig};
use machine::{Control, FdSource, control};
use monitor::{EventSink, Monitors};

use crate::backend::{MachineBackend, identity};
use crate::endpoints::open_monitors;
use crate::events::EventForwarder;
use crate::startup::Startup;

/// How long clients may take to read the last answers and events.
const GOODBYE: Duration = Duration::from_secs(1);

/// Descriptors named on the command line: there are none but inherited numbers.
struct NoNames;

impl FdSource for NoNames {
    fn take(&self, name: &str) -> Result<OwnedFd, String> {
        Err(format!(
            "fd={name}: on the command line, give the number of an inherited file descriptor"
        ))
    }
}

/// Builds the machine and runs it until it ends.
///
/// # Errors
/// The machine cannot be built, or ends badly.
pub fn run(config: VmConfig, startup: Startup) -> anyhow::Result<ExitCode> {
    if config.machine.kind == MachineKind::None {
        return crate::probe::run(config, startup, GOODBYE);
    }
    let events = EventSink::with_host_clock();
    let (control, control_loop) = control();
    let backend = Arc::new(MachineBackend::new(control.clone(), &config));
    let mut monitors = Monitors::new(identity(), backend, events.clone())?;
    let incoming = config.incoming.clone();

    // Monitors listen before the machine is built, so that a client that waits for the socket sees it early; what it asks
    // is answered once the control thread runs.
    let endpoints = open_monitors(&config)?;
    let forwarder = Box::new(EventForwarder::new(events));
    let mut board = machine::build(config.clone(), control.clone(), forwarder, &NoNames)?;
    for (wanted, endpoint) in endpoints {
        monitors.serve(crate::endpoints::mode(wanted), endpoint)?;
    }
    board.power_up()?;
    if let Some(Incoming::Uri(uri)) = incoming {
        board
            .migrate_incoming(&uri, true, &mut |_| None)
            .with_context(|| format!("-incoming {uri}"))?;
    }
    end_on_signals(control)?;
    startup.ready().context("-daemonize")?;
    let (status, board) = control_loop.run(board);
    board.flush();
    monitors.close(GOODBYE);
    drop(board);
    Ok(ExitCode::from(status))
}

/// SIGTERM, SIGINT and SIGHUP end the machine in order.
fn end_on_signals(control: Control) -> anyhow::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                tracing::info!(signal, "ending");
                control.post(|board| board.quit("host-signal"));
            }
        })?;
    Ok(())
}
