//! The state machine of a standby/primary pair, and of all pairs of a machine.
//!
//! Pure: events in, actions out, the time handed in. The machine's control thread feeds [`Pairs`] and
//! carries out the [`Action`]s it answers with, in their order; nothing here touches a device.
//!
//! ```text
//!             guest accepts STANDBY                     guest's driver is in
//!   Hidden ────────────────────────▶ Plugging ──────────────────────────────▶ Active
//!     ▲                      opening │ ▲ │ backoff ◀─ failed: told, retried     │
//!     │ guest rebooted, or           ▼ │ │ offered ◀──── driver out, late eject ┤
//!     │ refuses STANDBY              └─┘ │                                      │ migrate, order,
//!     │                                  │ migrate                              │ device_del, error
//!     │                                  ▼                                      ▼
//!     ├◀──────────────────────────── Unplugging ◀───────────────────────────────┘
//!     │  deleted                      │  │  ▲ └─ deadline, refusal, cancel ─▶ Active / Plugging
//!     │                     let go ┌──┘  └──┘ asked again
//!     │                            ▼
//!     └◀──────────────────────── Parked ── cancel, failure, target resumed, order ─▶ Plugging
//!                                  │
//!                                  ▼ migration completed
//!                               Released ── source continues after all ─▶ Plugging
//! ```
//!
//! [`TRANSITIONS`] is this picture as a table; [`Illegal`] is what an event gets that has no place in it.
//!
//! # Rules
//! - A plug happens only if the guest accepted STANDBY (or never had to), the primary is out, and no
//!   migration holds it. So there are never two plugs at once, and none between the first request to
//!   unplug for a migration and its end.
//! - An unplug is done when the guest let go, never when the request returned. A request that was
//!   taken back may still be followed: that late eject leads to a new plug.
//! - A primary in use blocks the switch-over: by the gate, and again by [`Pairs::may_switch_over`].
//! - Each wait has a deadline ([`Pairs::next_deadline`]), a typed [`Reason`] and a way back. A paused guest's
//!   waits stand still, unless a migration is not to wait for it ([`WhenPaused`]).
//! - A primary is brought back until it is there, is deleted, or an operator says stop; a device that
//!   fails again and again is tried ever more slowly.
//! - A primary whose link is down carries nothing: it is neither plugged nor steered to, and taken out
//!   when the link has been down for too long.
//! - Whatever ends badly, the guest is steered to its standby before anything else.
//!
//! # Rejected
//! - *One state for guest, migration and device together.* A reset of the guest during a migration
//!   would need a state of its own, and so would each other combination. Three fields, each set by
//!   one party, say the same with none of them derived.
//! - *Deadlines as actions.* A timer that an action set has to be cancelled by another; a query after
//!   each step cannot be forgotten.
//! - *Hiding a primary by pulling it from a guest that reset its driver.* A driver that is reloaded
//!   would lose its fast path for nothing; only a negotiation without STANDBY asks it to go.
//! - *Leaving a primary without its link to the guest's driver.* It sends over its standby then, and drops
//!   what comes back that way for as long as the primary is registered.

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

mod clock;
mod event;
mod pair;
mod pairing;
mod pairs;
mod reason;
mod state;

pub use clock::{Moment, Timing};
pub use event::{Action, Event, Notice};
pub use pair::{Consent, Hold, Pair, Situation, WhenPaused};
pub use pairing::{CLASS_ETHERNET, PairingError, PairingWarning, PrimarySpec, Slot, StandbySpec};
pub use pairs::{Added, Dangling, Gate, Pairs, Placing, When};
pub use reason::{PlugError, PlugFault, Reason, Refusal};
pub use state::{
    HiddenWhy, Illegal, ParkedWhy, Path, PathWhy, Phase, PlugStage, State, TRANSITIONS, UnplugWhy,
};
