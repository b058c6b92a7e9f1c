//! The q35-compatible board: it wires all of the other crates together.
//!
//! ```text
//!   monitor ─┐                                        ┌─ vCPU threads ─▶ bus ─▶ chipset, root complex
//!   slots   ─┼─jobs─▶ control thread: Board ──owns────┼─ devices' workers
//!   NICs    ─┤        (run state, pairs, devices,     └─ netdevs, character devices
//!   sender, receiver ─┘  migration's two sides)
//! ```

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

pub mod acpi;
pub mod address_map;
mod announcing;
pub mod board;
pub mod boot;
pub mod build;
mod bus;
pub mod chardev;
pub mod chipset;
pub mod clock;
pub mod control;
pub mod devices;
mod error;
mod event;
#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(feature = "fuzz")]
pub mod fuzz_board;
pub mod in_process;
mod incoming;
pub mod inspect;
pub mod network;
mod outgoing;
pub mod pairs;
pub mod passed;
mod passthrough;
mod primary_watch;
pub mod qtest;
mod run_state;
mod saved;

pub use board::Board;
pub use build::build;
pub use control::{Control, ControlLoop, Ended, control, control_with};
pub use error::MachineError;
pub use event::{MachineEvent, MachineListener, MigrationNews};
pub use network::FdSource;
pub use outgoing::MigrateReply;
pub use run_state::{IllegalTransition, RunState};
