//! The host side of a NIC: tap with vhost-net, hub, sockets and a network of our own; announcing; steering the host's
//! switch.

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

pub mod addresses;
pub mod announce;
mod child;
pub mod dgram;
pub mod hub;
mod netdev;
mod offload;
mod socket_file;
pub mod steer;
pub mod stream;
pub mod tap;
#[cfg(test)]
mod testing;
pub mod user;
mod vhost;
mod watched;
mod wire;

pub use netdev::Netdev;
pub use offload::Offload;
pub use vhost::VhostError;
pub use watched::Watched;
pub use wire::{FRAME_BYTES_MAX, FRAME_BYTES_MIN};
