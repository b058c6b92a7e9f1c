//! Sessions over real sockets, with a small machine behind.

mod client;
mod endpoints;
mod hmp;
mod machine;
mod qmp;

use monitor::{Endpoint, Mode, Monitors};
use std::path::PathBuf;
use std::sync::Arc;

/// A machine with one monitor on a socket in a folder of its own.
pub(crate) struct Setup {
    pub(crate) machine: Arc<machine::Machine>,
    pub(crate) monitors: Monitors,
    pub(crate) socket: PathBuf,
    _folder: tempfile::TempDir,
}

pub(crate) fn setup(mode: Mode) -> Setup {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("monitor.sock");
    let machine = machine::start();
    let mut monitors = Monitors::new(machine::identity(), machine.clone(), machine.events.clone())
        .expect("descriptors");
    let endpoint = Endpoint::UnixServer {
        path: socket.clone(),
        wait: false,
    }
    .open()
    .expect("a socket");
    monitors.serve(mode, endpoint).expect("threads");
    Setup {
        machine,
        monitors,
        socket,
        _folder: folder,
    }
}

pub(crate) fn qmp() -> Setup {
    setup(Mode::Qmp { pretty: false })
}
