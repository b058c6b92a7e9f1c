//! The migration stream, the pre-copy loop, channels, and the state machine.
//!
//! A machine implements [`Source`] and [`Target`]; [`Outgoing`] and [`Incoming`] are a migration each, on a thread of its own
//! that asks the machine for stops and device state. What it may ask when, and who has the VM when something goes wrong, is in
//! the `handover` module's table; the bytes on the wire are in `stream`'s.
//!
//! ```text
//!        source: Outgoing                                     target: Incoming
//!   setup     connect, configuration  ───────────────────▶  compare, prepare
//!                                     ◀───────────────────  Ready
//!             Source::connected: ask the guest to let its primaries go
//!             dirty log on, MIGRATION_PASS 1
//!   wait-     Source::wait_unplugged
//!   unplug
//!   active    pass after pass of RAM  ───────────────────▶  RAM in place
//!             Source::stop_vm
//!   [pre-     Outgoing::proceed
//!   switchover]
//!   device    devices, last pages, TakeOver  ────────────▶  load_devices
//!             seal, Go                ◀──── Loaded ── ────▶ resume: runs, on the standby
//!   completed                         ◀──── Resumed ──────  completed, RESUME; primaries plug
//! ```
//!
//! How a `Source` waits for its guest without a lock: the reply of the control thread and the interruption arrive on the same
//! channel.
//!
//! ```
//! # use std::sync::mpsc::{channel, Sender};
//! # use migration::{CancelToken, Kept};
//! # type Answer = Result<Option<&'static str>, Kept>;
//! # struct Control; impl Control { fn on_unplugged(&self, reply: Sender<Answer>) { reply.send(Ok(None)).ok(); } }
//! fn wait_unplugged(control: &Control, interrupt: &CancelToken) -> Answer {
//!     let (reply, answer) = channel();
//!     control.on_unplugged(reply.clone());
//!     interrupt.on_cancel(move || {
//!         let _ = reply.send(Err(Kept::interrupted()));
//!     });
//!     answer.recv().unwrap_or_else(|_| Err(Kept::interrupted()))
//! }
//! # assert!(wait_unplugged(&Control, &CancelToken::new().unwrap()).is_ok());
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

mod cancel;
mod capabilities;
pub mod channel;
mod clock;
pub mod fuzz;
mod handover;
mod incoming;
mod inert;
mod info;
mod link;
mod outgoing;
mod parameters;
mod payloads;
mod precopy;
mod reason;
mod receive;
mod state;
mod stream;
pub use cancel::CancelToken;
pub use capabilities::{Capabilities, Capability, Unsupported};
pub use clock::{Alarm, Clock, MonotonicClock};
pub use incoming::{Incoming, IncomingOptions, Target};
pub use inert::{Inert, Setting};
pub use info::{Info, RamInfo};
pub use outgoing::{
    ContinueError, Outcome, Outgoing, OutgoingOptions, Source, StartError, StoppedVm, Unplug, VmIs,
};
pub use parameters::{
    ParameterError, Parameters, ParametersUpdate, PausedPolicy, SharedParameters, UnplugPolicy,
};
pub use payloads::DevicePayloads;
pub use reason::{Kept, Reason};
pub use state::{IllegalTransition, OnChange, State, StateMachine};
pub use stream::{
    BlockShape, Configuration, DevicePayload, DeviceShape, STREAM_VERSION, StreamError,
};
