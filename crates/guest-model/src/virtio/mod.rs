//! The driver's side of virtio 1.2: the PCI transport, split rings, the network device.

mod control;
mod net;
mod ring;
mod transport;

pub use net::{LinkStatus, NetDriver, NetOptions, features};
pub use ring::{Completion, Segment, SplitRing};
pub use transport::VirtioPci;
