//! What a monitor asks. Nothing here changes anything, and nothing needs a machine that was built: see [`Inspect`].

use super::migration::capability as capability_of;
use super::{Answer, block, cpus, machines, network, pairs, pci, qom};
use ::migration::channel::ListeningAt;
use ::migration::{Info, RamInfo};
use config::vm::{self, ChardevBackend, ChardevConfig, ObjectKind};
use machine::inspect::Inspect;
use monitor::qapi::{Path, QapiType};
use monitor::types::*;
use monitor::{Command, QmpError};

/// Answers a query. The match has no arm for "all others", so that a command cannot be declared and then forgotten here.
pub(crate) fn answer(machine: &dyn Inspect, query: Command) -> Answer {
    Ok(match query {
        Command::QueryStatus => status(machine)?.into(),
        Command::QueryName => NameInfo {
            name: machine.config().name.clone(),
        }
        .into(),
        Command::QueryUuid => UuidInfo {
            uuid: machine.config().uuid.unwrap_or_default().to_string(),
        }
        .into(),
        Command::QueryKvm => KvmInfo {
            enabled: machine.kvm_enabled(),
            present: true,
        }
        .into(),
        Command::QueryTarget => TargetInfo {
            arch: SysEmuTarget::X86_64,
        }
        .into(),
        Command::QueryMachines => machines::machines().into(),
        Command::QueryCpusFast => cpus::cpus(machine).into(),
        Command::QueryHotpluggableCpus => cpus::slots(machine)?.into(),
        Command::QueryCpuDefinitions => cpus::definitions(machine).into(),
        Command::QueryCpuModelExpansion { kind, model } => {
            cpus::expansion(machine, kind, &model)?.into()
        }
        Command::QueryMemorySizeSummary => MemoryInfo {
            base_memory_bytes: machine.config().memory_bytes,
            plugged_memory_bytes: Some(0),
        }
        .into(),
        Command::QueryChardev => chardevs(machine).into(),
        Command::QueryBlock => block::blocks(machine).into(),
        Command::QueryNamedBlockNodes { flat: _ } => block::nodes(machine).into(),
        Command::QueryJobs => Vec::<JobInfo>::new().into(),
        Command::QueryIothreads => iothreads(machine).into(),
        Command::QueryCommandLineOptions { option } => {
            machines::command_line_options(option.as_deref())?.into()
        }
        Command::QueryPci => pci::pci(machine).into(),
        Command::QueryRxFilter { name } => network::rx_filters(machine, name.as_deref())?.into(),
        Command::QomList { path } => qom::tree(machine).resolve(&path)?.1.list().into(),
        Command::QomGet { path, property } => {
            let tree = qom::tree(machine);
            let (path, node) = tree.resolve(&path)?;
            node.get(&path, &property)?.into()
        }
        Command::QomSet {
            path,
            property,
            value,
        } => {
            let tree = qom::tree(machine);
            tree.resolve(&path)?.1.set(&property, &value)?.into()
        }
        Command::QomListTypes {
            implements,
            is_abstract,
        } => qom::list_types(implements.as_deref(), is_abstract == Some(true)).into(),
        Command::QomListProperties { typename } => qom::type_properties(&typename)?.into(),
        Command::DeviceListProperties { typename } => qom::device_properties(&typename)?.into(),
        Command::QueryMigrate => migrate(machine).into(),
        Command::QueryMigrateCapabilities => capabilities(machine).into(),
        Command::QueryMigrateParameters => {
            convert::<CurrentMigrationParameters>(machine.migrate_parameters())?.into()
        }
        Command::MigratePause => {
            return Err(QmpError::generic(
                "migrate-pause is currently only supported during postcopy-active or postcopy-recover state",
            ));
        }
        Command::MigrateRecover { uri: _ } => {
            return Err(QmpError::generic(
                "Migrate recover can only be run when postcopy is paused.",
            ));
        }
        Command::QueryFailover => pairs::pairs(machine).into(),
        // A machine that runs answers from its record; one that was never built has nothing to report.
        Command::QueryFailoverReport => super::failover_report(&report::Document::default())?,
        Command::QueryNetwork => network::clients(machine).into(),
        Command::QueryQtree => qom::qtree(machine).into(),
        Command::QueryRoms => roms(machine).into(),
        order @ (Command::DeviceAdd(_)
        | Command::DeviceDel { .. }
        | Command::NetdevAdd(_)
        | Command::NetdevDel { .. }
        | Command::ObjectAdd(_)
        | Command::ObjectDel { .. }
        | Command::SetLink { .. }
        | Command::AnnounceSelf(_)
        | Command::Stop
        | Command::Cont
        | Command::SystemReset
        | Command::SystemPowerdown
        | Command::Quit
        | Command::Migrate { .. }
        | Command::MigrateIncoming { .. }
        | Command::MigrateCancel
        | Command::MigrateContinue { .. }
        | Command::MigrateSetCapabilities { .. }
        | Command::MigrateSetParameters(_)
        | Command::FailoverSwitch { .. }) => {
            return Err(QmpError::generic(format!(
                "{} is an order and was asked as a query",
                order.name()
            )));
        }
    })
}

fn status(machine: &dyn Inspect) -> Result<StatusInfo, QmpError> {
    let state = machine.run_state();
    let status =
        RunState::from_wire(state.name()).ok_or_else(|| QmpError::generic("unknown run state"))?;
    Ok(StatusInfo {
        status,
        running: state.is_running(),
    })
}

/// The machine's character devices, then the monitors'.
fn chardevs(machine: &dyn Inspect) -> Vec<ChardevInfo> {
    let info = |label: &str, filename: String| ChardevInfo {
        label: label.to_owned(),
        filename,
        frontend_open: true,
    };
    let open = machine.chardevs();
    let config = machine.config();
    let monitors = config
        .chardevs
        .iter()
        .filter(|c| config.monitors.iter().any(|m| m.chardev == c.id))
        .filter(|c| open.iter().all(|known| known.id != c.id));
    let mut all: Vec<_> = open
        .iter()
        .map(|c| info(&c.id, c.filename.clone()))
        .collect();
    all.extend(monitors.map(|c| info(&c.id, filename(c))));
    all
}

/// Where a monitor's character device leads.
fn filename(chardev: &ChardevConfig) -> String {
    let server = |on: bool| if on { ",server=on" } else { "" };
    match &chardev.backend {
        ChardevBackend::Socket(socket) => match &socket.address {
            vm::SocketAddress::Unix { path, .. } => {
                format!("unix:{}{}", path.display(), server(socket.server))
            }
            vm::SocketAddress::Tcp { host, port, .. } => {
                format!("tcp:{host}:{port}{}", server(socket.server))
            }
            vm::SocketAddress::Fd(_) => format!("fd{}", server(socket.server)),
        },
        ChardevBackend::Stdio { .. } => "stdio".to_owned(),
        ChardevBackend::Null => "null".to_owned(),
        ChardevBackend::File { .. } => "file".to_owned(),
        ChardevBackend::Pty { .. } => "pty".to_owned(),
        ChardevBackend::Pipe { .. } => "pipe".to_owned(),
        ChardevBackend::RingBuf { .. } => "ringbuf".to_owned(),
    }
}

/// The `iothread` objects. Each queue has a thread of its own, so these have none: a client that pins one pins the control thread.
fn iothreads(machine: &dyn Inspect) -> Vec<IoThreadInfo> {
    let objects = machine.config().objects.iter();
    let threads = objects.filter(|o| o.kind == ObjectKind::IoThread);
    threads
        .map(|object| IoThreadInfo {
            id: object.id.clone(),
            thread_id: machine.control_thread().into(),
            poll_max_ns: 0,
            poll_grow: 0,
            poll_shrink: 0,
            aio_max_batch: 0,
        })
        .collect()
}

/// Both sides name the parameters as QMP does.
fn convert<T: QapiType>(value: impl serde::Serialize) -> Result<T, QmpError> {
    let value = serde_json::to_value(value).map_err(|e| QmpError::generic(e.to_string()))?;
    T::decode(value, &Path::ROOT)
}

fn migrate(machine: &dyn Inspect) -> MigrationInfo {
    machine
        .migrate_info()
        .map_or_else(MigrationInfo::default, migration_info)
}

/// QAPI's signed numbers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn migration_info(info: Info) -> MigrationInfo {
    let ram = |r: RamInfo| MigrationRamStats {
        transferred_bytes: signed(r.transferred_bytes),
        remaining_bytes: signed(r.remaining_bytes),
        total_bytes: signed(r.total_bytes),
        duplicate_pages: signed(r.zero_pages),
        normal_pages: signed(r.normal_pages),
        normal_bytes: signed(r.normal_bytes),
        dirty_pages_rate: signed(r.dirty_pages_rate),
        mbps: r.mbps,
        dirty_sync_count: signed(r.dirty_sync_count),
        page_size_bytes: signed(r.page_bytes),
        pages_per_second: r.pages_per_second,
        precopy_bytes: r.precopy_bytes,
        downtime_bytes: r.downtime_bytes,
        // Of post-copy, of additional connections and of zero-copy there is none.
        ..MigrationRamStats::default()
    };
    MigrationInfo {
        status: info
            .status
            .and_then(|state| MigrationStatus::from_wire(&state.to_string())),
        ram: info.ram.map(ram),
        total_time_ms: info.total_time_ms.map(signed),
        expected_downtime_ms: info.expected_downtime_ms.map(signed),
        downtime_ms: info.downtime_ms.map(signed),
        setup_time_ms: info.setup_time_ms.map(signed),
        error_desc: info.error_desc,
        socket_address: info
            .listening
            .map(|at| at.into_iter().map(socket_address).collect()),
        blocked_reasons: None,
        failover_unplug_time_ms: info.unplug_time_ms.map(signed),
        failover_reason: info.failover_reason.map(str::to_owned),
    }
}

fn socket_address(at: ListeningAt) -> SocketAddress {
    match at {
        ListeningAt::Inet(at) => SocketAddress::Inet {
            host: at.ip().to_string(),
            port: at.port().to_string(),
            ipv4: at.is_ipv4().then_some(true),
            ipv6: at.is_ipv6().then_some(true),
        },
        ListeningAt::Unix(path) => SocketAddress::Unix {
            path: path.display().to_string(),
        },
    }
}

/// All that QEMU has; those that are not there are off, and are refused when they are switched on.
fn capabilities(machine: &dyn Inspect) -> Vec<MigrationCapabilityStatus> {
    let on = machine.migrate_capabilities();
    let status = |&capability: &MigrationCapability| MigrationCapabilityStatus {
        capability,
        state: capability_of(capability.as_str()).is_some_and(|known| on.has(known)),
    };
    MigrationCapability::ALL.iter().map(status).collect()
}

fn roms(machine: &dyn Inspect) -> HumanReadableText {
    let line = |rom: machine::inspect::RomView| match rom.address {
        Some(at) => format!(
            "addr={at:016x} size=0x{:06x} mem=ram name=\"{}\"\n",
            rom.size_bytes, rom.name
        ),
        None => format!("file size=0x{:06x} name=\"{}\"\n", rom.size_bytes, rom.name),
    };
    HumanReadableText {
        human_readable_text: machine.roms().into_iter().map(line).collect(),
    }
}
