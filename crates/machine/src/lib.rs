//! The q35-compatible board: it wires all of the other crates together.
