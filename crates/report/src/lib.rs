//! The record of a migration as a page that a person reads at a glance.
//!
//! ```text
//!   standfast (one recording a migration) ─┐
//!                                          ├─▶ Document ─▶ JSON, for programs
//!   the demo (one recording a VMM)      ───┘         └───▶ page(): one HTML file, for people
//! ```
//! A [`Document`] is plain typed values, and the page holds nothing that is not in it. The page needs no network and
//! no script: inline SVG and a style sheet, light or dark as the reader's desktop is. Whatever text comes in (ids,
//! reasons, a guest's console) is escaped by the template (`maud`), class names are this crate's own, and numbers that
//! are not finite are left out.

mod chart;
mod document;
mod events;
mod figures;
mod file;
mod page;
mod progress;
mod scale;

pub use document::{
    Cell, Document, Event, Figure, Gap, Lane, LaneKind, Pings, Recording, Sample, Span, spans,
};
pub use file::{WriteError, write_atomically, write_both};
pub use page::page;
pub use progress::{Progress, progress_line};
pub use scale::utc;
