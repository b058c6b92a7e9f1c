//! Devices and netdevs by a monitor's order.

use super::{Answer, done};
use config::vm::{DeviceConfig, GlobalProperty, NetdevConfig};
use config::{Options, Source, Value};
use machine::{Board, FdSource};
use monitor::types::{DeviceOptions, NetdevOptions, OpenOptions, OptionKind, Syntax};
use monitor::{MonitorFds, QmpError};
use std::os::fd::OwnedFd;

/// The descriptors a client has handed over.
pub(super) struct Named<'a>(pub(super) &'a MonitorFds);

impl FdSource for Named<'_> {
    fn take(&self, name: &str) -> Result<OwnedFd, String> {
        self.0.take(name).map_err(|e| e.desc)
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

pub(super) fn device_add(
    board: &mut Board,
    open: &DeviceOptions,
    globals: &[GlobalProperty],
) -> Answer {
    let (options, source) = options(open, "driver")?;
    let config = DeviceConfig::with_globals(options, source, globals).map_err(bad)?;
    done(board.device_add(config))
}

pub(super) fn netdev_add(board: &mut Board, open: &NetdevOptions, fds: &MonitorFds) -> Answer {
    let (options, source) = options(open, "type")?;
    let config = NetdevConfig::from_options(options, source).map_err(bad)?;
    done(board.netdev_add(&config, &Named(fds)))
}
