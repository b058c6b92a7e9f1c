//! The state machine of a standby/primary pair.
