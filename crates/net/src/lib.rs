//! The host side of a NIC: tap, announcing, steering the host's switch.

pub mod announce;
mod offload;
pub mod steer;
pub mod tap;

pub use offload::Offload;
