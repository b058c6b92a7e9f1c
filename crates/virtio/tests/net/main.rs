//! The network device, driven as a guest's driver drives it, on a wire of datagram sockets.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "../driver/mod.rs"]
mod driver;
mod hostile;
mod kernel;
mod registers;
mod state;
mod traffic;
