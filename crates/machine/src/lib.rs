//! The q35-compatible board: it wires all of the other crates together.

pub mod acpi;
pub mod address_map;
pub mod board;
pub mod boot;
pub mod chardev;
pub mod chipset;
