//! PCI as a firmware and a kernel see it: configuration accesses, buses, regions, capabilities, MSI-X.

mod address;
mod config;
mod enumerate;
mod function;
mod interrupts;
mod plan;
pub mod regs;

pub use address::{Bdf, NotABdf};
pub use config::ConfigAccess;
pub use enumerate::{PciTree, Windows};
pub use function::{Bar, BarKind, Bridge, Capability, Function};
pub use interrupts::{MessageCell, Msi, MsiWords, Msix};
