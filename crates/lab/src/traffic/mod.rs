//! What the client on the switch does: pings the guest, holds a TCP connection with it.

pub mod ping;
pub mod tcp;
