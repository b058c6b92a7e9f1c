//! The migration stream, the pre-copy loop, channels, and the state machine.
mod cancel;
mod capabilities;
pub mod channel;
mod clock;
pub mod fuzz;
mod incoming;
mod info;
mod parameters;
mod payloads;
mod reason;
mod receive;
mod state;
mod stream;
pub use cancel::CancelToken;
pub use capabilities::{Capabilities, Capability, Unsupported};
pub use clock::{Clock, MonotonicClock};
pub use incoming::{Incoming, IncomingOptions, Target};
pub use info::{Info, RamInfo};
pub use parameters::{ParameterError, Parameters, ParametersUpdate};
pub use payloads::DevicePayloads;
pub use reason::Reason;
pub use state::{IllegalTransition, OnChange, State, StateMachine};
pub use stream::{
    BlockShape, Configuration, DevicePayload, DeviceShape, STREAM_VERSION, StreamError,
};
