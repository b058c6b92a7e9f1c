//! The migration stream, the pre-copy loop, channels, and the state machine.
