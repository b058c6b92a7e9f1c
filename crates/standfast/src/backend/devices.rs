//! Devices and netdevs by a monitor's order.

use super::{Answer, done};
use config::vm::{DeviceConfig, GlobalProperty, NetdevConfig, ObjectConfig};
use config::{Options, Source, Value};
use machine::inspect::AnnounceOrder;
use machine::{Board, FdSource, MachineError};
use monitor::types::{
    AnnounceParameters, DeviceOptions, NetdevOptions, ObjectOptions, OpenOptions, OptionKind,
    Syntax,
};
use monitor::{MonitorFds, QmpError};
use std::os::fd::OwnedFd;

/// The descriptors a client has handed over.
pub(super) struct Named<'a>(pub(super) &'a MonitorFds);

impl FdSource for Named<'_> {
    fn take(&self, name: &str) -> Result<OwnedFd, String> {
        self.0.take(name).map_err(|e| e.desc)
    }

    fn open_set(&self, set: i64, write: bool) -> Result<OwnedFd, String> {
        self.0.sets().open(set, write).map_err(|e| e.desc)
    }
}

fn bad(error: config::Error) -> QmpError {
    QmpError::generic(error.to_string())
}

/// The options as crate `config` takes them, whichever way they were written.
fn options<K: OptionKind>(
    open: &OpenOptions<K>,
    kind: &str,
) -> Result<(Options, Source), QmpError> {
    let (mut options, source) = match open.syntax {
        Syntax::Json => (
            Options::from_json(&open.members).map_err(bad)?,
            Source::Monitor,
        ),
        Syntax::KeyValue => {
            let mut options = Options::new();
            for (key, value) in &open.members {
                options.set(
                    key,
                    Value::Text(
                        value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned),
                    ),
                );
            }
            (options, Source::CommandLine)
        }
    };
    options.set(kind, Value::Text(open.kind.clone()));
    Ok((options, source))
}

/// `device_del` takes a path too.
pub(super) fn id_of(name: &str) -> &str {
    name.strip_prefix("/machine/peripheral/").unwrap_or(name)
}

/// The device that `device_add` describes.
pub(super) fn device_config(
    open: &DeviceOptions,
    globals: &[GlobalProperty],
) -> Result<DeviceConfig, QmpError> {
    let (options, source) = options(open, "driver")?;
    DeviceConfig::with_globals(options, source, globals).map_err(bad)
}

pub(super) fn device_add(
    board: &mut Board,
    open: &DeviceOptions,
    globals: &[GlobalProperty],
    fds: &MonitorFds,
) -> Answer {
    done(board.device_add(device_config(open, globals)?, &Named(fds)))
}

/// An error names the device as the client did.
pub(super) fn device_del(board: &mut Board, name: &str) -> Answer {
    let result = board.device_del(id_of(name));
    done(result.map_err(|error| match error {
        MachineError::DeviceNotFound(_) => MachineError::DeviceNotFound(name.to_owned()),
        other => other,
    }))
}

/// The netdev that `netdev_add` describes.
pub(super) fn netdev_config(open: &NetdevOptions) -> Result<NetdevConfig, QmpError> {
    let (options, source) = options(open, "type")?;
    NetdevConfig::from_options(options, source).map_err(bad)
}

pub(super) fn netdev_add(board: &mut Board, open: &NetdevOptions, fds: &MonitorFds) -> Answer {
    done(board.netdev_add(&netdev_config(open)?, &Named(fds)))
}

/// The object that `object-add` describes.
pub(super) fn object_config(open: &ObjectOptions) -> Result<ObjectConfig, QmpError> {
    let (options, source) = options(open, "qom-type")?;
    ObjectConfig::from_options(options, source).map_err(bad)
}

pub(super) fn object_add(board: &mut Board, open: &ObjectOptions, fds: &MonitorFds) -> Answer {
    done(board.object_add(object_config(open)?, &Named(fds)))
}

/// What `announce-self` orders.
pub(super) fn announcement(order: AnnounceParameters) -> Result<AnnounceOrder, QmpError> {
    let ms = |name: &str, value: i64| {
        u64::try_from(value).map_err(|_| QmpError::invalid_value(name, "a number of ms"))
    };
    Ok(AnnounceOrder {
        initial_ms: ms("initial", order.initial_ms)?,
        max_ms: ms("max", order.max_ms)?,
        rounds: u32::try_from(order.rounds)
            .map_err(|_| QmpError::invalid_value("rounds", "a number of announcements"))?,
        step_ms: ms("step", order.step_ms)?,
        interfaces: order.interfaces,
        id: order.id,
    })
}
