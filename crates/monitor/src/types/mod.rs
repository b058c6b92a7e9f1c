//! The values that commands take and return, in the shapes of QAPI.

mod failover;
mod machine;
mod migration;
mod network;
mod pci;
mod qom;
mod socket;

pub use failover::*;
pub use machine::*;
pub use migration::*;
pub use network::*;
pub use pci::*;
pub use qom::*;
pub use socket::*;
