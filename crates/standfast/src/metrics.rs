//! `-metrics`: what a monitoring system asks for, as OpenMetrics text over HTTP.
//!
//! ```text
//!   client ── GET /metrics ──▶ server (bounded in clients, bytes and time)
//!                                 │ one job on the control thread: plain values, as for a query
//!                                 ▼
//!                              families ──▶ text
//! ```
//! The names are documented in docs/metrics.md, which is made from the same declarations ([`FAMILIES`]).

mod families;
mod server;

pub use families::{FAMILIES, FamilySpec, Snapshot, text};
pub use server::{MetricsServer, Source, serve};

/// docs/metrics.md.
pub fn page() -> String {
    let mut text = "# Metrics\n\n\
         `-metrics unix:PATH` or `-metrics tcp:HOST:PORT` answers `GET /metrics` in the OpenMetrics text form. Nothing is asked of the\n\
         guest, and a client that dawdles is left. A counter's sample has the ending `_total`; a unit is the end of the name.\n\n\
         | name | type | labels | what it is |\n|---|---|---|---|\n"
        .to_owned();
    for family in FAMILIES {
        let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        text += &format!(
            "| `{}` | {} | {} | {} |\n",
            family.full_name(),
            family.kind.word(),
            labels.join(", "),
            family.help
        );
    }
    text += "\nA set of states is a gauge with a sample for each state: 1 for the one that is, 0 for the others. `direction` is \
         `outgoing` on the\nside that a guest leaves and `incoming` on the one it comes to.\n\n\
         ```sh\nstandfast … -metrics unix:/run/guest.metrics\ncurl --unix-socket /run/guest.metrics http://guest/metrics\n```\n";
    text
}
