//! Why a function cannot be put into a slot or taken out, in the words a monitor client knows.

/// A function could not be put into a slot, or its slot could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// No such bus.
    #[error("Bus '{0}' not found")]
    BusNotFound(String),
    /// The slot is taken; a guest would not look for a further function in it.
    #[error(
        "PCI: slot {slot} function {function} already occupied by {by}, new func {new} cannot be exposed to guest."
    )]
    Occupied {
        /// Device number.
        slot: u8,
        /// Function number.
        function: u8,
        /// Model of the function that is there.
        by: String,
        /// Model of the one that came.
        new: String,
    },
    /// Another function has this number.
    #[error("PCI: slot {slot} function {function} not available for {new}, in use by {by},id={id}")]
    InUse {
        /// Device number.
        slot: u8,
        /// Function number.
        function: u8,
        /// Model of the one that came.
        new: String,
        /// Model of the function that is there.
        by: String,
        /// Its id.
        id: String,
    },
    /// A port has one slot below it.
    #[error(
        "PCI: slot {slot} is not valid for {new}, parent device only allows plugging into slot 0."
    )]
    NoSuchSlot {
        /// Device number.
        slot: u8,
        /// Model of the function that came.
        new: String,
    },
    /// Two functions of one id.
    #[error("Duplicate device ID '{0}'")]
    DuplicateId(String),
    /// Two ports of the same chassis and slot.
    #[error(
        "pcie-root-port '{new}': chassis={chassis},slot={slot} is that of '{by}' already, give it another"
    )]
    DuplicateSlot {
        /// Chassis number.
        chassis: u8,
        /// Slot number.
        slot: u16,
        /// The port that has it.
        by: String,
        /// The port that came.
        new: String,
    },
    /// The bus has no hotplug controller.
    #[error("Bus '{0}' does not support hotplugging")]
    NoHotplug(String),
    /// No function of this id is in a slot.
    #[error("Device '{0}' not found")]
    DeviceNotFound(String),
    /// An unplug was asked for already.
    #[error("Device {0} is already in the process of unplug")]
    AlreadyUnplugging(String),
    /// The guest is changing the slot's power.
    #[error("Hot-unplug failed: guest is busy (power indicator blinking)")]
    GuestBusy,
}
