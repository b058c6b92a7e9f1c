//! Migration by a monitor's order.

use super::{Answer, done, error};
use ::migration::{Capability, ParametersUpdate};
use machine::Board;
use monitor::types::{
    MigrationAddress, MigrationCapabilityStatus, MigrationChannel, MigrationParameters,
    MigrationStatus, SocketAddress,
};
use monitor::{MonitorFds, QmpError, Reply};
use std::os::fd::OwnedFd;

/// The one address, from either form.
fn address(
    uri: Option<String>,
    channels: Option<Vec<MigrationChannel>>,
) -> Result<String, QmpError> {
    let channels = match (uri, channels) {
        (Some(uri), None) => return Ok(uri),
        (None, Some(channels)) => channels,
        _ => {
            return Err(QmpError::generic(
                "need either 'uri' or 'channels' argument",
            ));
        }
    };
    let mut channels = channels.into_iter();
    let (Some(channel), None) = (channels.next(), channels.next()) else {
        return Err(QmpError::generic(
            "Channel list must have exactly one entry, of type 'main'",
        ));
    };
    Ok(match channel.addr {
        MigrationAddress::Socket(socket) => match socket {
            SocketAddress::Inet {
                host,
                port,
                ipv4: None,
                ipv6: None,
            } if host.contains(':') => {
                format!("tcp:[{host}]:{port}")
            }
            SocketAddress::Inet {
                host,
                port,
                ipv4: None,
                ipv6: None,
            } => format!("tcp:{host}:{port}"),
            SocketAddress::Inet { .. } => {
                return Err(QmpError::generic(
                    "'ipv4' and 'ipv6' are not supported: give an address of that family as 'host'",
                ));
            }
            SocketAddress::Unix { path } => format!("unix:{path}"),
            SocketAddress::Fd { str } => format!("fd:{str}"),
        },
        MigrationAddress::File {
            filename,
            offset_bytes,
        } => format!("file:{filename},offset={offset_bytes}"),
        MigrationAddress::Exec { args } => match args.as_slice() {
            [shell, flag, command] if shell.ends_with("sh") && flag == "-c" => {
                format!("exec:{command}")
            }
            _ => {
                return Err(QmpError::generic(
                    "exec: give the arguments 'sh', '-c' and one command",
                ));
            }
        },
    })
}

fn named(fds: &MonitorFds, name: &str) -> Option<OwnedFd> {
    // As of QEMU's: a name begins with no digit, and a number is that of a descriptor passed at the start.
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => crate::run::passed_as(name),
        false => fds.take(name).ok(),
    }
}

pub(super) fn migrate(
    board: &mut Board,
    uri: Option<String>,
    channels: Option<Vec<MigrationChannel>>,
    resume: Option<bool>,
    reply: Reply,
) {
    if resume == Some(true) {
        return reply.err(QmpError::generic(
            "resume: there is no paused post-copy migration to resume",
        ));
    }
    let uri = match address(uri, channels) {
        Ok(uri) => uri,
        Err(error) => return reply.err(error),
    };
    let fds = reply.fds().clone();
    board.migrate(
        &uri,
        &mut |name| named(&fds, name),
        Box::new(move |result| reply.send(done(result))),
    );
}

pub(super) fn migrate_incoming(
    board: &mut Board,
    uri: Option<String>,
    channels: Option<Vec<MigrationChannel>>,
    exit_on_error: bool,
    fds: &MonitorFds,
) -> Answer {
    let uri = address(uri, channels)?;
    done(board.migrate_incoming(&uri, exit_on_error, &mut |name| named(fds, name)))
}

pub(super) fn migrate_continue(board: &mut Board, state: MigrationStatus) -> Answer {
    if state != MigrationStatus::PreSwitchover {
        let now = board.migrate_info().and_then(|info| info.status);
        let now = now.map_or_else(|| "none".to_owned(), |state| state.to_string());
        return Err(QmpError::generic(format!(
            "Migration not in expected state: {now}"
        )));
    }
    done(board.migrate_continue())
}

/// The capability of that name.
pub(super) fn capability(name: &str) -> Option<Capability> {
    Capability::ALL.iter().copied().find(|c| c.name() == name)
}

/// The wishes in crate `migration`'s words.
pub(super) fn known_capabilities(
    wishes: &[MigrationCapabilityStatus],
) -> Result<Vec<(Capability, bool)>, QmpError> {
    let known = |wish: &MigrationCapabilityStatus| {
        let name = wish.capability.as_str();
        let capability =
            capability(name).ok_or_else(|| QmpError::not_accepted("capability", name))?;
        Ok((capability, wish.state))
    };
    wishes.iter().map(known).collect()
}

pub(super) fn set_capabilities(board: &mut Board, wishes: &[MigrationCapabilityStatus]) -> Answer {
    let known = known_capabilities(wishes)?;
    board
        .migrate_set_capabilities(&known)
        .map(|()| ().into())
        .map_err(error)
}

/// The changes in crate `migration`'s words.
pub(super) fn parameters_update(
    parameters: &MigrationParameters,
) -> Result<ParametersUpdate, QmpError> {
    use monitor::qapi::QapiType;
    const BITMAPS: &str = "block-bitmap-mapping";
    let mut members = match parameters.encode() {
        serde_json::Value::Object(members) => members,
        _ => serde_json::Map::new(),
    };
    if let Some(mapping) = members.remove(BITMAPS)
        && mapping.as_array().is_none_or(|list| !list.is_empty())
    {
        return Err(QmpError::generic(format!(
            "Parameter '{BITMAPS}' expects []: no block device here has dirty bitmaps"
        )));
    }
    // Both sides name the parameters as QMP does.
    serde_json::from_value(members.into())
        .map_err(|e| QmpError::generic(format!("migrate-set-parameters: {e}")))
}

pub(super) fn set_parameters(board: &mut Board, parameters: &MigrationParameters) -> Answer {
    done(board.migrate_set_parameters(&parameters_update(parameters)?))
}
