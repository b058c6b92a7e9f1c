//! QMP and HMP: typed commands and events.

pub mod command;
mod error;
mod event;
mod fds;
pub mod qapi;
mod reply;
mod response;
mod schema;
pub mod types;

pub use command::{AnyCommand, Command, SessionCommand};
pub use error::{ErrorClass, QmpError};
pub use event::{EVENTS, Event, EventDescription};
pub use fds::{FdSets, MAX_FDS, MonitorFds};
pub use reply::{Backend, Reply};
pub use response::{Response, ResponseOf};
pub use schema::{Schema, SchemaMember};
