//! Everything that can be wrong with what a user asked for.

use std::path::PathBuf;

/// The result of reading a piece of configuration.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong with an option, a device, a back end or a whole configuration.
///
/// The `Display` text is the message for the user, word for word the one of QEMU where a client may compare it. It
/// never contains a line break, and it does not name the option it came from: [`OptionError`] does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A mandatory parameter is absent.
    #[error("Parameter '{0}' is missing")]
    Missing(String),
    /// A parameter that nobody knows here.
    #[error("Invalid parameter '{name}'{}", hint(.suggestion))]
    UnknownParameter {
        /// The parameter.
        name: String,
        /// The known parameter nearest to it, if one is near.
        suggestion: Option<String>,
    },
    /// An argument of a monitor command that nobody knows.
    #[error("Parameter '{0}' is unexpected")]
    Unexpected(String),
    /// A value of the right type that is not one of those allowed; `expected` completes "expects …".
    #[error("Parameter '{name}' expects {expected}")]
    BadValue {
        /// The parameter.
        name: String,
        /// What would be right.
        expected: String,
    },
    /// A JSON value of the wrong type.
    #[error("Invalid parameter type for '{name}', expected: {expected}")]
    BadType {
        /// The parameter.
        name: String,
        /// The JSON type wanted.
        expected: &'static str,
    },
    /// A device property that the device does not have.
    #[error("Property '{device}.{name}' not found{}", hint(.suggestion))]
    UnknownProperty {
        /// The device type.
        device: String,
        /// The property.
        name: String,
        /// The property nearest to it, if one is near.
        suggestion: Option<String>,
    },
    /// A device property whose value cannot be taken.
    #[error("Property '{device}.{name}' doesn't take value '{value}'{}", because(.why))]
    BadProperty {
        /// The device type.
        device: String,
        /// The property.
        name: String,
        /// The value given.
        value: String,
        /// Why not, or what would be right; may be empty.
        why: String,
    },
    /// A device property that names something which does not exist, such as a netdev.
    #[error("Property '{device}.{name}' can't find value '{value}'")]
    UnresolvedProperty {
        /// The device type.
        device: String,
        /// The property.
        name: String,
        /// The name that leads nowhere.
        value: String,
    },
    /// A device property that names something another device uses already.
    #[error("Property '{device}.{name}' can't take value '{value}', it's in use")]
    PropertyInUse {
        /// The device type.
        device: String,
        /// The property.
        name: String,
        /// The name in use.
        value: String,
    },
    /// A driver that is not a device type.
    #[error("'{name}' is not a valid device model name{}", hint(.suggestion))]
    UnknownDevice {
        /// The driver asked for.
        name: String,
        /// The nearest device type, if one is near.
        suggestion: Option<String>,
    },
    /// An identifier used twice. `what` is "device", "netdev", "chardev", ...
    #[error("Duplicate ID '{id}' for {what}")]
    DuplicateId {
        /// The identifier.
        id: String,
        /// The kind of thing.
        what: &'static str,
    },
    /// The monitor's wording for a device id used twice.
    #[error("Duplicate device ID '{0}'")]
    DuplicateDeviceId(String),
    /// An identifier that is not well formed.
    #[error(
        "Parameter 'id' expects an identifier (letters, digits, '-', '.', '_', starting with a letter), not '{0}'"
    )]
    BadId(String),
    /// A bus that does not exist.
    #[error("Bus '{0}' not found")]
    UnknownBus(String),
    /// A device on a bus of another kind.
    #[error("Device '{device}' can't go on {bus} bus")]
    WrongBus {
        /// The device type.
        device: String,
        /// The kind of the bus named.
        bus: &'static str,
    },
    /// Two devices in one place; `slot` and `function` as QEMU words it.
    #[error(
        "PCI: slot {slot} function {function} not available for {device}, in use by {occupant},id={id}"
    )]
    SlotTaken {
        /// The slot on the bus.
        slot: u8,
        /// The function whose presence is in the way.
        function: u8,
        /// The device type there.
        occupant: String,
        /// Its id.
        id: String,
        /// The device type that wants in.
        device: String,
    },
    /// A primary without an id.
    #[error("Device with failover_pair_id needs to have id")]
    PrimaryWithoutId,
    /// A primary that shares its slot, or might.
    #[error("failover: primary device must be in its own PCI slot")]
    PrimarySharesSlot,
    /// A primary that is no NIC.
    #[error("failover primary device is not an Ethernet device")]
    PrimaryNotEthernet,
    /// Two primaries of one standby.
    #[error("Cannot attach more than one primary device to '{standby}': '{first}' and '{second}'")]
    SecondPrimary {
        /// The standby's id.
        standby: String,
        /// The id of the primary it has.
        first: String,
        /// The id of the one that wants in.
        second: String,
    },
    /// A file that is named and cannot be read.
    #[error("could not open {what} '{path}': {reason}")]
    File {
        /// What the file is for ("kernel", "initrd", ...).
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Malformed JSON.
    #[error("JSON parse error, {0}")]
    Json(String),
    /// Something QEMU can do and this program cannot, or anything else worth one clear sentence.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// An error that is one clear sentence naming the cause and the remedy.
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    /// The bare message, for a monitor whose clients may compare it with QEMU's.
    #[must_use]
    pub fn without_suggestion(mut self) -> Self {
        if let Self::UnknownParameter { suggestion, .. }
        | Self::UnknownProperty { suggestion, .. }
        | Self::UnknownDevice { suggestion, .. } = &mut self
        {
            *suggestion = None;
        }
        self
    }
}

/// An [`Error`] together with the option it came from; displays as `-device foo,bar=1: message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {error}")]
pub struct OptionError {
    /// The option as the user wrote it, with its argument.
    pub option: String,
    /// What is wrong with it.
    #[source]
    pub error: Error,
}

impl OptionError {
    /// Ties an error to the option `name` (with its dash) and the argument that was given to it.
    pub fn new(name: &str, argument: &str, error: Error) -> Self {
        let option = if argument.is_empty() {
            name.to_owned()
        } else {
            format!("{name} {argument}")
        };
        Self { option, error }
    }
}

fn hint(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map_or_else(String::new, |name| format!(" (did you mean '{name}'?)"))
}

fn because(why: &str) -> String {
    if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    }
}
