//! The monitors' commands, carried out by the machine.
//!
//! Each command becomes a job on the control thread and is answered from there, so that its answer and the
//! machine's events reach a client in the order in which they happened.

mod block;
mod cpu_features;
mod cpus;
mod devices;
mod machines;
mod migration;
mod network;
mod pairs;
mod pci;
pub(crate) mod probe;
mod qom;
mod queries;
#[cfg(test)]
mod testing;

use config::vm::VmConfig;
use machine::{Board, Control, MachineError};
use monitor::types::VersionTriple;
use monitor::{Backend, Command, Identity, QmpError, Reply, Response};

use crate::cli::help;
use crate::message;
use crate::record::Recorder;

/// The release of QEMU whose protocol is spoken.
const QEMU: VersionTriple = VersionTriple {
    major: 10,
    minor: 0,
    micro: 2,
};

/// Who answers.
pub fn identity() -> Identity {
    Identity {
        qemu: QEMU,
        package: format!("Standfast {}", env!("CARGO_PKG_VERSION")),
        netdev_types: config::vm::NETDEV_TYPES
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect(),
        object_types: config::vm::OBJECT_TYPES
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect(),
        device_help,
    }
}

/// The path of a machine's real-time clock in the tree of objects: it is on the LPC bridge, which follows the vCPUs.
pub fn rtc_path(config: &VmConfig) -> String {
    let lpc = usize::try_from(config.smp.cpus).unwrap_or(usize::MAX);
    format!("{}/rtc", cpus::path(lpc))
}

/// What objects of a type have; nothing if there is no such type.
pub(crate) fn type_properties(name: &str) -> Option<Vec<monitor::types::ObjectPropertyInfo>> {
    qom::type_properties(name).ok()
}

/// The texts of `-device help` and `-device DRIVER,help`, which HMP gives too.
fn device_help(driver: Option<&str>) -> Option<String> {
    let Some(driver) = driver else {
        return Some(help::devices());
    };
    config::device_types::find(driver).map(help::device)
}

/// The machine as the monitors see it.
pub struct MachineBackend {
    control: Control,
    globals: Vec<config::vm::GlobalProperty>,
    recorder: Recorder,
}

impl MachineBackend {
    /// In front of the machine behind `control`, whose failovers are in `recorder`.
    pub fn new(control: Control, config: &VmConfig, recorder: Recorder) -> Self {
        Self {
            control,
            globals: config.globals.clone(),
            recorder,
        }
    }
}

/// The machine's refusal as a client reads it.
fn error(error: MachineError) -> QmpError {
    match error {
        MachineError::DeviceNotFound(id) => QmpError::device_not_found(&id),
        other => QmpError::generic(message::one_line(&other.to_string())),
    }
}

type Answer = Result<Response, QmpError>;

fn done(result: Result<(), MachineError>) -> Answer {
    result.map(|()| ().into()).map_err(error)
}

/// `query-failover-report`.
fn failover_report(document: &report::Document) -> Answer {
    let value = serde_json::to_value(document).map_err(|e| QmpError::generic(e.to_string()))?;
    Ok(value.into())
}

impl Backend for MachineBackend {
    fn submit(&self, command: Command, reply: Reply) {
        if command == Command::QueryFailoverReport {
            let recorder = self.recorder.clone();
            // In its turn, as any other: what was done before is in it.
            return self
                .control
                .post(move |_| reply.send(failover_report(&recorder.document())));
        }
        let globals = self.globals.clone();
        self.control
            .post(move |board| execute(board, command, reply, &globals));
    }
}

fn execute(
    board: &mut Board,
    command: Command,
    reply: Reply,
    globals: &[config::vm::GlobalProperty],
) {
    let answer = match command {
        Command::Migrate {
            uri,
            channels,
            resume,
            detach: _,
        } => {
            return migration::migrate(board, uri, channels, resume, reply);
        }
        Command::MigrateIncoming {
            uri,
            channels,
            exit_on_error,
        } => migration::migrate_incoming(
            board,
            uri,
            channels,
            exit_on_error.unwrap_or(true),
            reply.fds(),
        ),
        Command::MigrateCancel => {
            board.migrate_cancel();
            Ok(().into())
        }
        Command::MigrateContinue { state } => migration::migrate_continue(board, state),
        Command::MigrateSetCapabilities { capabilities } => {
            migration::set_capabilities(board, &capabilities)
        }
        Command::MigrateSetParameters(parameters) => migration::set_parameters(board, &parameters),
        Command::DeviceAdd(options) => devices::device_add(board, &options, globals, reply.fds()),
        Command::DeviceDel { id } => devices::device_del(board, &id),
        Command::NetdevAdd(options) => devices::netdev_add(board, &options, reply.fds()),
        Command::NetdevDel { id } => done(board.netdev_del(&id)),
        Command::ObjectAdd(options) => devices::object_add(board, &options, reply.fds()),
        Command::ObjectDel { id } => done(board.object_del(&id)),
        Command::SetLink { name, up } => done(board.set_link(&name, up)),
        Command::AnnounceSelf(order) => devices::announcement(order).map(|order| {
            board.announce_self(&order);
            ().into()
        }),
        Command::FailoverSwitch { id, path } => done(board.failover_switch(&id, pairs::path(path))),
        Command::Stop => done(board.stop()),
        Command::Cont => done(board.cont()),
        Command::SystemReset => done(board.reset(false)),
        Command::SystemPowerdown => {
            board.powerdown();
            Ok(().into())
        }
        Command::Quit => {
            // The answer comes before SHUTDOWN, as clients expect it.
            reply.ok(());
            return board.quit("host-qmp-quit");
        }
        query => queries::answer(board, query),
    };
    reply.send(answer);
}
