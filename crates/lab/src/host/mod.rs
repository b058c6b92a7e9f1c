//! L1, the lab host, seen from inside: its init and its agent.

pub mod init;
pub mod server;
