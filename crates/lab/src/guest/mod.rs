//! L2, the guest, seen from inside: its init, its agent and what it knows of its NICs.

pub mod agent;
pub mod init;
pub mod links;
