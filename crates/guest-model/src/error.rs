//! What can go wrong for a guest.

use crate::bus::BusError;
use crate::pci::Bdf;

/// Why the guest could not go on with what it was doing.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The machine is gone or refuses accesses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// There is no function where one was expected.
    #[error("{0}: no function answers")]
    Absent(Bdf),
    /// A function lacks what its driver needs.
    #[error("{bdf}: {what}")]
    Unfit {
        /// The function.
        bdf: Bdf,
        /// What it lacks, or does wrong.
        what: String,
    },
    /// The address space or the RAM that the guest hands out is used up.
    #[error("no room left for {0}")]
    NoRoom(String),
    /// A device did what no device may do.
    #[error("a device broke the rules: {0}")]
    Broken(String),
    /// Something the guest waited for did not come.
    #[error("waited in vain for {0}")]
    Waited(String),
}

impl GuestError {
    pub(crate) fn unfit(bdf: Bdf, what: impl Into<String>) -> Self {
        Self::Unfit {
            bdf,
            what: what.into(),
        }
    }
}
