//! Runs `-machine none`: opens the monitors and waits for the end.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use config::vm::VmConfig;
use monitor::types::ShutdownCause;
use monitor::{Event, EventSink, Monitors};

use crate::backend::identity;
use crate::backend::probe::ProbeBackend;
use crate::endpoints::open_monitors;
use crate::startup::Startup;

/// Answers until a client or a signal ends it; clients may then read for as long as `goodbye`.
///
/// # Errors
/// A monitor's socket cannot be had.
pub fn run(config: VmConfig, startup: Startup, goodbye: Duration) -> anyhow::Result<ExitCode> {
    let events = EventSink::with_host_clock();
    let (end, ended) = channel();
    let backend = Arc::new(ProbeBackend::new(
        config.clone(),
        events.clone(),
        end.clone(),
    ));
    let mut monitors = Monitors::new(identity(), backend.clone(), events.clone())?;
    crate::run::add_fds(&config, monitors.fd_sets())?;
    let endpoints = open_monitors(&config)?;
    if let Some(qtest) = crate::run::open_qtest(&config, monitors.fd_sets())? {
        qtest.serve_nothing()?;
    }
    // Before anybody can ask: the first answer is as definite as the last.
    backend.start();
    // Whoever has spoken to a monitor may end the program in order.
    end_on_signals(end)?;
    for (wanted, endpoint) in endpoints {
        monitors.serve(crate::endpoints::mode(wanted), endpoint)?;
    }
    startup.ready().context("-daemonize")?;
    let cause = ended.recv().unwrap_or(ShutdownCause::None);
    events.emit(Event::Shutdown {
        guest: false,
        reason: cause,
    });
    monitors.close(goodbye);
    Ok(ExitCode::SUCCESS)
}

fn end_on_signals(end: Sender<ShutdownCause>) -> anyhow::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                tracing::info!(signal, "ending");
                // It may be ending already.
                let _ = end.send(ShutdownCause::HostSignal);
            }
        })?;
    Ok(())
}
