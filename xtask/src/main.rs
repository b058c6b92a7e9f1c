//! `cargo xtask`: every set-up step of the project.
fn main() {}
