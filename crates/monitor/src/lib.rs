//! QMP and HMP: typed commands and events.
//!
//! The crate knows the languages and nothing of the machine. The program implements [`Backend`], emits [`Event`]s into an
//! [`EventSink`] and serves [`Monitors`] on [`Endpoint`]s:
//!
//! ```no_run
//! # use monitor::*;
//! # use std::sync::Arc;
//! struct Machine;
//!
//! impl Backend for Machine {
//!     fn submit(&self, command: Command, reply: Reply) {
//!         // A real one sends both to its control thread, which answers when it knows.
//!         match command {
//!             Command::QueryStatus => reply.ok(types::StatusInfo::new(types::RunState::Running)),
//!             other => reply.err(QmpError::generic(format!("{} is not supported", other.name()))),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let events = EventSink::with_host_clock();
//! let identity = Identity {
//!     qemu: types::VersionTriple { major: 10, minor: 0, micro: 2 },
//!     package: "Standfast 0.1.0".to_owned(),
//!     netdev_types: vec!["tap".to_owned()],
//!     object_types: vec![],
//!     device_help: |_| None,
//! };
//! let mut monitors = Monitors::new(identity, Arc::new(Machine), events.clone())?;
//! let endpoint = Endpoint::UnixServer { path: "qmp.sock".into(), wait: false }.open()?;
//! monitors.serve(Mode::Qmp { pretty: false }, endpoint)?;
//! events.emit(Event::Resume);
//! monitors.close(std::time::Duration::from_secs(1));
//! # Ok(())
//! # }
//! ```

// What a guest, a stream or a client sends ends no program: see "Hostile input" in CONTRIBUTING.md.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable
    )
)]

pub mod command;
mod endpoint;
mod error;
mod event;
mod fds;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hmp;
mod introspect;
pub mod json;
mod outbox;
pub mod qapi;
mod qmp;
mod reply;
mod request;
mod response;
mod schema;
mod server;
mod sink;
mod stream;
pub mod types;
mod wire;

pub use command::{AnyCommand, Command, SessionCommand};
pub use endpoint::{Endpoint, EndpointError, OpenEndpoint};
pub use error::{ErrorClass, QmpError};
pub use event::{EVENTS, Event, EventDescription};
pub use fds::{FdSets, MAX_FDS, MonitorFds};
pub use outbox::{COMMAND_PENDING_BYTES, MAX_PENDING_BYTES};
pub use reply::{Backend, Reply};
pub use response::{Response, ResponseOf};
pub use schema::{Schema, SchemaMember};
pub use server::{Identity, Mode, Monitors};
pub use sink::{EventSink, MAX_SUBSCRIBER_LAG, TimedEvent};
