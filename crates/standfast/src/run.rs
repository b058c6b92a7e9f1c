//! A configuration becomes a running machine.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use config::vm::{Accel, Incoming, MachineKind, MemLock, VmConfig};
use machine::clock::{Clocks, ManualClock};
use machine::inspect::Inspect;
use machine::{Board, Control, FdSource, control_with, passed, qtest};
use monitor::{EventSink, FdSets, Monitors};

use crate::backend::{MachineBackend, identity};
use crate::endpoints::{open_monitors, shared_monitors};
use crate::events::EventForwarder;
use crate::metrics;
use crate::record::Recorder;
use crate::startup::Startup;

/// How long clients may take to read the last answers and events.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the command line can name: the sets of `-add-fd`.
struct OnCommandLine<'a>(&'a FdSets);

impl FdSource for OnCommandLine<'_> {
    fn take(&self, name: &str) -> Result<OwnedFd, String> {
        Err(format!(
            "fd={name}: on the command line, give the number of an inherited file descriptor"
        ))
    }

    fn open_set(&self, set: i64, write: bool) -> Result<OwnedFd, String> {
        self.0.open(set, write).map_err(|error| error.desc)
    }
}

/// `-add-fd`: the descriptors go into their sets, for this program's paths and for monitors' clients.
pub(crate) fn add_fds(config: &VmConfig, sets: &FdSets) -> anyhow::Result<()> {
    for member in &config.fd_sets {
        let added = passed::take(member.fd)
            .map_err(anyhow::Error::from)
            .and_then(|fd| {
                Ok(sets.add(Some(member.set.into()), Some(fd), member.opaque.clone())?)
            });
        added.with_context(|| format!("-add-fd set={}", member.set))?;
    }
    Ok(())
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
    // The guest's clock of a machine without processors moves when its client says so.
    let guest_clock = ManualClock::new();
    let by_client = config.qtest.is_some() || config.machine.accelerators() == [Accel::Qtest];
    let clocks = if by_client {
        Clocks::guest_by_hand(&guest_clock)
    } else {
        Clocks::host()
    };
    let (control, control_loop) = control_with(clocks);
    let (recorder, woken) = Recorder::new(config.name.as_deref().unwrap_or_default());
    let backend = MachineBackend::new(control.clone(), &config, recorder.clone());
    let backend = Arc::new(backend);
    let mut monitors = Monitors::new(identity(), backend, events.clone())?;
    add_fds(&config, monitors.fd_sets())?;
    let sets = monitors.fd_sets().clone();
    let incoming = config.incoming.clone();

    // Monitors listen before the machine is built, so that a client that waits for the socket sees it early; what it asks
    // is answered once the control thread runs.
    let endpoints = open_monitors(&config)?;
    let qtest_server = open_qtest(&config, &sets)?;
    let forwarder = Box::new(EventForwarder::new(
        events,
        recorder.clone(),
        crate::backend::rtc_path(&config),
    ));
    lock_memory(config.machine.mem_lock)?;
    let mut board = machine::build(
        config.clone(),
        control.clone(),
        forwarder,
        &OnCommandLine(&sets),
    )?;
    let shared = shared_monitors(&config, &board)?;
    // As QEMU does, once nothing is wrong that would end the program.
    for warning in config.warnings() {
        eprintln!("{}: warning: {warning}", crate::log::program_name());
    }
    board.power_up()?;
    if let Some(Incoming::Uri(uri)) = incoming {
        board
            .migrate_incoming(&uri, true, &mut passed_as)
            .with_context(|| format!("-incoming {uri}"))?;
    }
    if let Some(server) = qtest_server {
        let client = board.qtest().and_then(|qtest| qtest.client());
        let client = client.context("-qtest: the guest has processors; give -accel qtest too")?;
        server.serve(client, guest_clock, control.clone())?;
    }
    // Whoever has spoken to a monitor may end the program in order.
    end_on_signals(control.clone())?;
    // A client hears nothing of what the start did: QEMU's finds a machine that runs already.
    for (wanted, endpoint) in endpoints.into_iter().chain(shared) {
        monitors.serve(crate::endpoints::mode(wanted), endpoint)?;
    }
    let writer = recorder.start(woken, control.clone(), config.failover_report.clone())?;
    // Held to the end of the machine.
    let _metrics = match &config.metrics {
        Some(address) => Some(metrics::serve(address, source(control.clone(), recorder))?),
        None => None,
    };
    startup.ready().context("-daemonize")?;
    let (status, board) = control_loop.run(board);
    board.flush();
    writer.finish();
    monitors.close(GOODBYE);
    drop(board);
    Ok(ExitCode::from(status))
}

/// `-overcommit mem-lock=`.
fn lock_memory(lock: MemLock) -> anyhow::Result<()> {
    use rustix::mm::{MlockAllFlags, mlockall};
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    let (flags, shown) = match lock {
        MemLock::Off => return Ok(()),
        MemLock::On => (all, "on"),
        MemLock::OnFault => (all | MlockAllFlags::ONFAULT, "on-fault"),
    };
    mlockall(flags).with_context(|| {
        format!("-overcommit mem-lock={shown}: memory cannot be locked (see ulimit -l)")
    })
}

/// The descriptor of an address `fd:N`.
pub(crate) fn passed_as(number: &str) -> Option<OwnedFd> {
    passed::take(number.parse().ok()?).ok()
}

/// What `-metrics` tells: taken on the control thread, as the answer to a query is.
fn source(control: Control, recorder: Recorder) -> metrics::Source {
    Arc::new(move || {
        let recorder = recorder.clone();
        let taken = control.ask(move |board| snapshot(board, &recorder));
        taken.ok().map(|snapshot| metrics::text(&snapshot))
    })
}

fn snapshot(board: &Board, recorder: &Recorder) -> metrics::Snapshot {
    let (ended, outgoing) = recorder.ended();
    metrics::Snapshot {
        name: board.config().name.clone().unwrap_or_default(),
        run_state: board.run_state(),
        pairs: board.pairs(),
        nics: board.nics(),
        migration: board.migrate_info(),
        outgoing,
        ended,
    }
}

/// Opens what the client of `-qtest` talks on.
pub(crate) fn open_qtest(
    config: &VmConfig,
    sets: &FdSets,
) -> anyhow::Result<Option<qtest::Server>> {
    let Some(wanted) = &config.qtest else {
        return Ok(None);
    };
    let chardev = config.chardevs.iter().find(|c| c.id == wanted.chardev);
    let chardev =
        chardev.with_context(|| format!("-qtest: chardev \"{}\" not found", wanted.chardev))?;
    Ok(Some(qtest::Server::open(
        chardev,
        &wanted.log,
        &OnCommandLine(sets),
    )?))
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
