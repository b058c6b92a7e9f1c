//! The one error a monitor client sees: a class and a sentence.

/// The classes of a QMP error. Nearly everything is [`GenericError`](ErrorClass::GenericError); clients test for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Anything without a class of its own.
    GenericError,
    /// No such command, or not now (capabilities negotiation).
    CommandNotFound,
    /// The device that the command names is not there.
    DeviceNotFound,
    /// The device is there and is not in use.
    DeviceNotActive,
    /// The host's KVM lacks what the command needs.
    KvmMissingCap,
}

impl ErrorClass {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::KvmMissingCap => "KVMMissingCap",
        }
    }
}

/// Why a command failed, as its client reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{desc}")]
pub struct QmpError {
    /// What a program looks at.
    pub class: ErrorClass,
    /// What a person reads: one line, no full stop.
    pub desc: String,
}

impl QmpError {
    /// An error of the class `GenericError`.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::GenericError,
            desc: desc.into(),
        }
    }

    /// An error of the class `CommandNotFound` with a text of its own.
    pub fn command_not_found(desc: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::CommandNotFound,
            desc: desc.into(),
        }
    }

    /// `Device 'x' not found`, class `DeviceNotFound`.
    pub fn device_not_found(id: &str) -> Self {
        Self {
            class: ErrorClass::DeviceNotFound,
            desc: format!("Device '{id}' not found"),
        }
    }

    /// `Parameter 'x' is missing`.
    pub fn missing(name: &str) -> Self {
        Self::generic(format!("Parameter '{name}' is missing"))
    }

    /// `Parameter 'x' is unexpected`.
    pub fn unexpected(name: &str) -> Self {
        Self::generic(format!("Parameter '{name}' is unexpected"))
    }

    /// `Invalid parameter type for 'x', expected: boolean`.
    pub fn invalid_type(name: &str, expected: &str) -> Self {
        Self::generic(format!(
            "Invalid parameter type for '{name}', expected: {expected}"
        ))
    }

    /// `Parameter 'x' does not accept value 'y'`.
    pub fn not_accepted(name: &str, value: &str) -> Self {
        Self::generic(format!(
            "Parameter '{name}' does not accept value '{value}'"
        ))
    }

    /// `Parameter 'x' expects uint8_t`.
    pub fn invalid_value(name: &str, expected: &str) -> Self {
        Self::generic(format!("Parameter '{name}' expects {expected}"))
    }
}
