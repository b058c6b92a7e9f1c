//! The same scenario, played to Standfast and to QEMU, and what comes back compared one by one.
//!
//! ```text
//!                      ┌── Stage ── Vmm: QEMU       ── transcript ──┐
//!   Scenario::play ────┤                                            ├── compare ── differences ── intended? ── table
//!                      └── Stage ── Vmm: Standfast  ── transcript ──┘
//! ```
//!
//! A scenario is a function of its [`Stage`]: it starts VMMs, asks their monitors, waits for events, plays the guest on their
//! `qtest` sockets. It does not know which program it plays to, and checks nothing itself: all that a client can see (replies,
//! events in their order, standard error, exit status) goes into a [`Transcript`], freed of what is never twice the same by the
//! rules of [`normalise`]. The two transcripts are compared; each difference has to be one that the scenario lists as
//! [`Intended`], with its reason, and each listed one has to occur.
//!
//! Nothing here sleeps: a VMM's messages are waited for, with a deadline, and a VMM ends with its [`Vmm`].
//!
//! *Rejected: assertions in the scenarios.* They would say what the author believes of QEMU; the other transcript says what it
//! does. *Rejected: recorded transcripts of QEMU.* They age in silence with the QEMU that users have.

pub mod compare;
pub mod compatibility;
pub mod guest;
pub mod intended;
pub mod machine;
pub mod normalise;
pub mod program;
pub mod qmp;
pub mod scenario;
pub mod scenarios;
pub mod stage;
pub mod table;
pub mod transcript;
pub mod vmm;

pub use compare::{Difference, compare};
pub use intended::Intended;
pub use program::{Kind, Program, Programs};
pub use scenario::{Outcome, Scenario};
pub use stage::Stage;
pub use transcript::{Entry, Transcript};
pub use vmm::Vmm;
