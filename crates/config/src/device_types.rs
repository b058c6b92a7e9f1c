//! The table of all device types and their properties.

use crate::property::DeviceType;

/// All device types, by name.
pub static DEVICE_TYPES: &[DeviceType] = &[];

/// The device type of this name or alias.
pub fn find(name: &str) -> Option<&'static DeviceType> {
    DEVICE_TYPES
        .iter()
        .find(|device| device.name == name || device.alias == Some(name))
}
