//! The program: QEMU's command line → a validated configuration → a running machine.

pub mod run;
pub mod startup;
