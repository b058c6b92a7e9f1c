//! What a monitor asks.

use super::migration::capability as capability_of;
use super::{Answer, not_supported};
use machine::Board;
use monitor::qapi::{Path, QapiType};
use monitor::types::*;
use monitor::{Command, QmpError};

pub(super) fn answer(board: &Board, query: Command) -> Answer {
    Ok(match query {
        Command::QueryStatus => status(board)?.into(),
        Command::QueryName => NameInfo {
            name: board.config().name.clone(),
        }
        .into(),
        Command::QueryUuid => UuidInfo {
            uuid: board.config().uuid.unwrap_or_default().to_string(),
        }
        .into(),
        Command::QueryKvm => KvmInfo {
            enabled: true,
            present: true,
        }
        .into(),
        Command::QueryTarget => TargetInfo {
            arch: SysEmuTarget::X86_64,
        }
        .into(),
        Command::QueryCpusFast => cpus(board).into(),
        Command::QueryChardev => chardevs(board).into(),
        Command::QueryBlock => Vec::<BlockInfo>::new().into(),
        Command::QueryNamedBlockNodes { .. } => Vec::<BlockNodeInfo>::new().into(),
        Command::QueryJobs => Vec::<JobInfo>::new().into(),
        Command::QueryIothreads => Vec::<IoThreadInfo>::new().into(),
        Command::QueryMigrate => migrate(board)?.into(),
        Command::QueryMigrateCapabilities => capabilities(board).into(),
        Command::QueryMigrateParameters => parameters(board)?.into(),
        other => return Err(not_supported(other.name())),
    })
}

fn status(board: &Board) -> Result<StatusInfo, QmpError> {
    let state = board.run_state();
    let status =
        RunState::from_wire(state.name()).ok_or_else(|| QmpError::generic("unknown run state"))?;
    Ok(StatusInfo {
        status,
        running: state.is_running(),
    })
}

fn cpus(board: &Board) -> Vec<CpuInfoFast> {
    let info = |(index, thread): (i64, &i32)| CpuInfoFast {
        cpu_index: index,
        qom_path: format!("/machine/unattached/device[{index}]"),
        thread_id: i64::from(*thread),
        props: None,
        target: SysEmuTarget::X86_64,
    };
    (0..).zip(board.cpu_threads()).map(info).collect()
}

fn chardevs(board: &Board) -> Vec<ChardevInfo> {
    let info = |c: &machine::chardev::Chardev| ChardevInfo {
        label: c.id().to_owned(),
        filename: c.filename().to_owned(),
        frontend_open: true,
    };
    board.chardevs().iter().map(info).collect()
}

/// Both sides name the fields as QMP does.
fn convert<T: QapiType>(value: impl serde::Serialize) -> Result<T, QmpError> {
    let value = serde_json::to_value(value).map_err(|e| QmpError::generic(e.to_string()))?;
    T::decode(value, &Path::ROOT)
}

fn migrate(board: &Board) -> Result<MigrationInfo, QmpError> {
    board
        .migrate_info()
        .map_or_else(|| Ok(MigrationInfo::default()), convert)
}

fn capabilities(board: &Board) -> Vec<MigrationCapabilityStatus> {
    let on = board.migrate_capabilities();
    MigrationCapability::ALL
        .iter()
        .map(|&capability| MigrationCapabilityStatus {
            capability,
            state: capability_of(capability.as_str()).is_some_and(|known| on.has(known)),
        })
        .collect()
}

fn parameters(board: &Board) -> Result<MigrationParameters, QmpError> {
    convert(board.migrate_parameters())
}
