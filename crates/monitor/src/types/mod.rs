//! The values that commands take and return, in the shapes of QAPI.

mod failover;
mod machine;
mod migration;
mod netdev;
mod network;
mod pci;
mod qom;
mod schema_info;
mod socket;

pub use failover::*;
pub use machine::*;
pub use migration::*;
pub use netdev::*;
pub use network::*;
pub use pci::*;
pub use qom::*;
pub use schema_info::*;
pub use socket::*;
