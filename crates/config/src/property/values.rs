//! The values a user gave to a device's properties, over the declared defaults.

use super::{DeviceType, Property, PropertyKind, Support};
use crate::address::{HostPciAddr, SlotAddr, parse_mac};
use crate::error::{Error, Result};
use crate::syntax::{Value, nearest, parse_bool, parse_number, parse_signed, parse_size};

/// A property's value, of the property's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// [`PropertyKind::Bool`].
    Bool(bool),
    /// Unsigned numbers and sizes.
    Unsigned(u64),
    /// [`PropertyKind::I32`].
    Signed(i64),
    /// Text, words and names of other things.
    Text(String),
    /// [`PropertyKind::Mac`].
    Mac([u8; 6]),
    /// [`PropertyKind::PciAddr`].
    Slot(SlotAddr),
    /// [`PropertyKind::HostPciAddr`].
    Host(HostPciAddr),
}

/// The values of one device: those given, and the declared defaults for the rest.
#[derive(Debug)]
pub struct PropertyValues {
    device: &'static DeviceType,
    given: Vec<(&'static str, Parsed)>,
}

impl PropertyValues {
    /// All properties at their defaults.
    pub fn new(device: &'static DeviceType) -> Self {
        Self {
            device,
            given: Vec::new(),
        }
    }

    /// Sets a property from what the user gave.
    ///
    /// # Errors
    /// The device has no such property, the value does not fit, or it asks for what cannot be had.
    pub fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let Some(property) = self.device.property(name) else {
            let known = self
                .device
                .properties()
                .map(|property| property.name)
                .chain(["id", "bus"]);
            return Err(Error::UnknownProperty {
                device: self.device.name.to_owned(),
                name: name.to_owned(),
                suggestion: nearest(name, known).map(str::to_owned),
            });
        };
        let parsed = parse(self.device, property, value)?;
        self.given.retain(|(given, _)| *given != property.name);
        self.given.push((property.name, parsed));
        Ok(())
    }

    fn get(&self, name: &str) -> Option<Parsed> {
        if let Some((_, parsed)) = self.given.iter().find(|(given, _)| *given == name) {
            return Some(parsed.clone());
        }
        let property = self.device.property(name);
        debug_assert!(
            property.is_some(),
            "{}.{name} is read but not declared",
            self.device.name
        );
        let property = property?;
        parse(self.device, property, &Value::from(property.default?)).ok()
    }

    /// A boolean.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Parsed::Bool(true)))
    }

    /// A number that the property's type lets fit `T`.
    pub fn number<T: TryFrom<u64>>(&self, name: &str) -> Option<T> {
        match self.get(name)? {
            Parsed::Unsigned(number) => T::try_from(number).ok(),
            _ => None,
        }
    }

    /// A signed number.
    pub fn signed(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Parsed::Signed(number) => Some(number),
            _ => None,
        }
    }

    /// Text.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Parsed::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A MAC address.
    pub fn mac(&self, name: &str) -> Option<[u8; 6]> {
        match self.get(name)? {
            Parsed::Mac(mac) => Some(mac),
            _ => None,
        }
    }

    /// A place on the bus.
    pub fn slot(&self, name: &str) -> Option<SlotAddr> {
        match self.get(name)? {
            Parsed::Slot(slot) => Some(slot),
            _ => None,
        }
    }

    /// A device of the host.
    pub fn host(&self, name: &str) -> Option<HostPciAddr> {
        match self.get(name)? {
            Parsed::Host(host) => Some(host),
            _ => None,
        }
    }

    /// The error of a value that is of the right type and yet cannot be taken.
    pub fn refuse(&self, name: &str, why: &str) -> Error {
        let value = match self.get(name) {
            Some(Parsed::Unsigned(number)) => number.to_string(),
            Some(Parsed::Signed(number)) => number.to_string(),
            Some(Parsed::Text(text)) => text,
            Some(Parsed::Bool(on)) => if on { "on" } else { "off" }.to_owned(),
            Some(Parsed::Slot(slot)) => slot.to_string(),
            Some(Parsed::Host(host)) => host.to_string(),
            Some(Parsed::Mac(mac)) => crate::address::format_mac(mac),
            None => String::new(),
        };
        Error::BadProperty {
            device: self.device.owner(name),
            name: name.to_owned(),
            value,
            why: why.to_owned(),
        }
    }
}

fn parse(device: &DeviceType, property: &Property, value: &Value) -> Result<Parsed> {
    let text = value.text();
    let parsed = parse_kind(device, property, value, &text)?;
    if let Support::Only(allowed, why) = property.support {
        let normal = match parsed {
            Parsed::Bool(true) => "on",
            Parsed::Bool(false) => "off",
            _ => text.as_str(),
        };
        if !allowed.contains(&normal) {
            return Err(Error::BadProperty {
                device: device.owner(property.name),
                name: property.name.to_owned(),
                value: text,
                why: why.to_owned(),
            });
        }
    }
    Ok(parsed)
}

fn parse_kind(
    device: &DeviceType,
    property: &Property,
    value: &Value,
    text: &str,
) -> Result<Parsed> {
    let name = property.name;
    let bad_value = || match value {
        Value::Json(serde_json::Value::String(_)) | Value::Text(_) => Error::BadValue {
            name: name.to_owned(),
            expected: property.kind.expects(),
        },
        Value::Json(_) => Error::BadType {
            name: name.to_owned(),
            expected: json_type(property.kind),
        },
    };
    let bad_property = || Error::BadProperty {
        device: device.owner(name),
        name: name.to_owned(),
        value: text.to_owned(),
        why: format!("expected {}", property.kind.expects()),
    };
    let json_number = match value {
        Value::Json(serde_json::Value::Number(number)) => Some(number),
        _ => None,
    };
    let unsigned = |max: u64| {
        let number = match json_number {
            Some(number) => number.as_u64(),
            None => string_of(value).and_then(parse_number),
        };
        number
            .filter(|n| *n <= max)
            .map(Parsed::Unsigned)
            .ok_or_else(|| match json_number {
                Some(_) => Error::BadValue {
                    name: name.to_owned(),
                    expected: property.kind.expects(),
                },
                None => bad_value(),
            })
    };
    match property.kind {
        PropertyKind::Bool => crate::syntax::bool_of(name, value).map(Parsed::Bool),
        PropertyKind::OnOffAuto => match value {
            Value::Json(serde_json::Value::Bool(on)) => {
                Ok(Parsed::Text(if *on { "on" } else { "off" }.to_owned()))
            }
            _ => match string_of(value) {
                Some("auto") => Ok(Parsed::Text("auto".to_owned())),
                Some(text) => match parse_bool(text) {
                    Some(on) => Ok(Parsed::Text(if on { "on" } else { "off" }.to_owned())),
                    None => Err(bad_value()),
                },
                None => Err(bad_value()),
            },
        },
        PropertyKind::U8 => unsigned(u64::from(u8::MAX)),
        PropertyKind::U16 => unsigned(u64::from(u16::MAX)),
        PropertyKind::U32 => unsigned(u64::from(u32::MAX)),
        PropertyKind::U64 => unsigned(u64::MAX),
        PropertyKind::I32 => {
            let number = match json_number {
                Some(number) => number.as_i64(),
                None => string_of(value).and_then(parse_signed),
            };
            let fits = number.filter(|n| i32::try_from(*n).is_ok());
            fits.map(Parsed::Signed).ok_or_else(bad_value)
        }
        PropertyKind::Size => {
            let size = match json_number {
                Some(number) => number.as_u64(),
                None => string_of(value).and_then(|text| parse_size(text, 1)),
            };
            size.map(Parsed::Unsigned).ok_or_else(bad_value)
        }
        PropertyKind::Mac => string_of(value)
            .and_then(parse_mac)
            .map(Parsed::Mac)
            .ok_or_else(bad_property),
        PropertyKind::PciAddr => match value {
            Value::Json(serde_json::Value::Bool(_)) => Err(bad_value()),
            _ => text.parse().map(Parsed::Slot).map_err(|()| bad_property()),
        },
        PropertyKind::HostPciAddr => match string_of(value).map(str::parse) {
            Some(Ok(host)) => Ok(Parsed::Host(host)),
            _ => Err(bad_property()),
        },
        PropertyKind::Choice(words) => {
            if words.contains(&text) {
                Ok(Parsed::Text(text.to_owned()))
            } else {
                Err(bad_property())
            }
        }
        PropertyKind::Str
        | PropertyKind::Netdev
        | PropertyKind::Chardev
        | PropertyKind::Drive
        | PropertyKind::Object
        | PropertyKind::Fd => match value {
            Value::Json(serde_json::Value::Bool(_)) => Err(bad_value()),
            _ => Ok(Parsed::Text(text.to_owned())),
        },
    }
}

fn string_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Json(serde_json::Value::String(text)) => Some(text),
        Value::Json(_) => None,
    }
}

fn json_type(kind: PropertyKind) -> &'static str {
    match kind {
        PropertyKind::Bool => "boolean",
        PropertyKind::U8
        | PropertyKind::U16
        | PropertyKind::U32
        | PropertyKind::U64
        | PropertyKind::I32 => "integer",
        PropertyKind::Size => "size",
        _ => "string",
    }
}
