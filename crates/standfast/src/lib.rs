//! The program: QEMU's command line → a validated configuration → a running machine.
//!
//! ```text
//!  argv ─▶ cli::parse ─▶ VmConfig ─▶ validate ─▶ (fork, -daemonize) ─▶ pid file ─▶ log ─▶ run::run ─▶ exit status
//!                │                                                                          │
//!                └─▶ text (-help, -device help, -version)                 Startup::ready ◀──┘ when all sockets listen
//! ```
//!
//! | exit status | when |
//! |---|---|
//! | 0 | help or version printed; the guest powered off; `quit`; SIGTERM or SIGINT; the parent of `-daemonize`, once all listens |
//! | 1 | a wrong option, or a machine that could not be started: one line on standard error says why, nothing is left behind |

pub mod backend;
pub mod cli;
pub mod daemon;
pub mod docs;
pub mod endpoints;
pub mod events;
pub mod log;
pub mod message;
pub mod metrics;
pub mod pidfile;
pub mod probe;
pub mod record;
pub mod run;
pub mod startup;

/// Version, and the QEMU release whose command line and QMP it speaks.
pub const VERSION: &str = concat!(
    "Standfast ",
    env!("CARGO_PKG_VERSION"),
    " (QEMU 10.0.2 compatible)"
);
