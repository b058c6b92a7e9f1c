//! What a user asks for: QEMU option syntax, declared device properties, the typed configuration.
//!
//! Everything here is pure: text (or JSON from a monitor) goes in, plain values come out, and nothing of the host is
//! touched except that [`vm::VmConfig::validate`] looks whether named files can be read.
//!
//! ```text
//!  argv ──▶ syntax::Options ──┐                        ┌──▶ vm::DeviceConfig, NetdevConfig, ChardevConfig, ObjectConfig
//!  QMP  ──▶ syntax::Options ──┴─▶ property (declared) ─┘            └──▶ vm::VmConfig ── validate ──▶ the machine
//! ```
//!
//! One path serves `-device`, `device_add` and their kin, so that the two can never drift apart. Where QEMU words an
//! error differently for the command line and for the monitor, [`Source`] tells which wording is due.

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

pub mod address;
pub mod cpu_features;
pub mod device_types;
pub mod error;
pub mod property;
pub mod syntax;
pub mod vm;

pub use address::{HostPciAddr, SlotAddr, format_mac, parse_mac};
pub use error::{Error, OptionError, Result};
pub use syntax::{Options, Source, Value};
