//! Where monitors are to be reached, from the command line's character devices.

use anyhow::{Context, bail};
use config::vm::{
    ChardevBackend, ChardevConfig, FdRef, MachineKind, MonitorConfig, MonitorMode, SocketAddress,
    VmConfig,
};
use machine::{Board, passed};
use monitor::{Endpoint, Mode, OpenEndpoint};

/// The language of a monitor.
pub fn mode(monitor: &MonitorConfig) -> Mode {
    match monitor.mode {
        MonitorMode::Control => Mode::Qmp {
            pretty: monitor.pretty,
        },
        MonitorMode::Readline => Mode::Hmp,
    }
}

/// Opens what a monitor's character device names.
///
/// # Errors
/// The socket cannot be had, or the kind of device cannot carry a monitor.
pub fn endpoint(chardev: &ChardevConfig) -> anyhow::Result<OpenEndpoint> {
    open(chardev).with_context(|| format!("{} {}", chardev.option, chardev.text))
}

/// Opens what all monitors of a configuration listen on, but for those that the board opens since they may share it with its
/// serial ports: see [`shared_monitors`].
///
/// # Errors
/// As [`endpoint`], or a monitor names a character device that does not exist.
pub fn open_monitors(config: &VmConfig) -> anyhow::Result<Vec<(&MonitorConfig, OpenEndpoint)>> {
    let mut endpoints = Vec::with_capacity(config.monitors.len());
    for wanted in &config.monitors {
        let chardev = config.chardevs.iter().find(|c| c.id == wanted.chardev);
        let chardev =
            chardev.with_context(|| format!("chardev \"{}\" not found", wanted.chardev))?;
        if !is_shared(config, chardev) {
            endpoints.push((wanted, endpoint(chardev)?));
        }
    }
    Ok(endpoints)
}

/// Opens the monitors that share a character device of the board.
///
/// # Errors
/// Too many share one.
pub fn shared_monitors<'c>(
    config: &'c VmConfig,
    board: &Board,
) -> anyhow::Result<Vec<(&'c MonitorConfig, OpenEndpoint)>> {
    let mut endpoints = Vec::new();
    for wanted in &config.monitors {
        let chardev = config.chardevs.iter().find(|c| c.id == wanted.chardev);
        if chardev.is_some_and(|chardev| is_shared(config, chardev)) {
            let for_people = wanted.mode == MonitorMode::Readline;
            let end = board.monitor_end(&wanted.chardev, for_people)?;
            endpoints.push((wanted, Endpoint::ConnectedFd(end).open()?));
        }
    }
    Ok(endpoints)
}

/// Without a board there are no serial ports, and a monitor has the device to itself.
fn is_shared(config: &VmConfig, chardev: &ChardevConfig) -> bool {
    chardev.mux && config.machine.kind != MachineKind::None
}

fn open(chardev: &ChardevConfig) -> anyhow::Result<OpenEndpoint> {
    if chardev.logfile.is_some() {
        bail!("logfile= is for serial ports: of what a monitor says there is no copy");
    }
    if matches!(&chardev.backend, ChardevBackend::Socket(socket) if socket.reconnect_ms != 0) {
        bail!(
            "a monitor does not connect again; leave reconnect-ms= out, or let it listen (server=on)"
        );
    }
    let endpoint = match &chardev.backend {
        ChardevBackend::Stdio { .. } => Endpoint::Stdio,
        ChardevBackend::Socket(socket) => match (&socket.address, socket.server) {
            (
                SocketAddress::Unix {
                    abstract_name: true,
                    ..
                },
                _,
            ) => {
                bail!("sockets in the abstract name space are not supported; give a path")
            }
            (SocketAddress::Unix { path, .. }, true) => Endpoint::UnixServer {
                path: path.clone(),
                wait: socket.wait,
            },
            (SocketAddress::Unix { path, .. }, false) => {
                Endpoint::UnixClient { path: path.clone() }
            }
            (SocketAddress::Tcp { host, port, .. }, true) => Endpoint::TcpServer {
                host: host.clone(),
                port: *port,
                wait: socket.wait,
            },
            (SocketAddress::Tcp { host, port, .. }, false) => Endpoint::TcpClient {
                host: host.clone(),
                port: *port,
            },
            (SocketAddress::Fd(FdRef::Number(number)), true) => Endpoint::ListeningFd {
                fd: passed::take(*number)?,
                wait: socket.wait,
            },
            (SocketAddress::Fd(FdRef::Number(number)), false) => {
                Endpoint::ConnectedFd(passed::take(*number)?)
            }
            (SocketAddress::Fd(FdRef::Name(name)), _) => {
                bail!("fd={name}: give the number of an inherited file descriptor")
            }
        },
        _ => bail!("a monitor needs a socket or stdio"),
    };
    Ok(endpoint.open()?)
}
