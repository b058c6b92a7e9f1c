//! Where a function sits: bus, device and function number (PCI Express Base 6.0, 2.2.4.2).

use std::fmt;
use std::str::FromStr;

/// Bus, device and function number within segment 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    bus: u8,
    devfn: u8,
}

impl Bdf {
    /// `device` is taken modulo 32 and `function` modulo 8, as the fields of a requester id are.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self {
            bus,
            devfn: (device & 0x1f) << 3 | function & 7,
        }
    }

    /// From the sixteen bits of a requester id.
    pub const fn from_requester_id(id: u16) -> Self {
        let [bus, devfn] = id.to_be_bytes();
        Self { bus, devfn }
    }

    /// The sixteen bits of a requester id.
    pub const fn requester_id(self) -> u16 {
        u16::from_be_bytes([self.bus, self.devfn])
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Device number, 0..32.
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// Function number, 0..8.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }

    /// Device and function number in one byte.
    pub const fn devfn(self) -> u8 {
        self.devfn
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.bus,
            self.device(),
            self.function()
        )
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not of the form `bb:dd.f`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a PCI address of the form bb:dd.f")]
pub struct BdfParseError(String);

impl FromStr for Bdf {
    type Err = BdfParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (bus, rest) = text.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let bus = u8::from_str_radix(bus, 16).ok()?;
            let device = u8::from_str_radix(device, 16).ok().filter(|d| *d < 32)?;
            let function = u8::from_str_radix(function, 16).ok().filter(|f| *f < 8)?;
            Some(Self::new(bus, device, function))
        };
        parse().ok_or_else(|| BdfParseError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_requester_id_round_trip() {
        let bdf: Bdf = "5e:1f.7".parse().unwrap();
        assert_eq!((bdf.bus(), bdf.device(), bdf.function()), (0x5e, 0x1f, 7));
        assert_eq!(bdf.to_string(), "5e:1f.7");
        assert_eq!(Bdf::from_requester_id(bdf.requester_id()), bdf);
        assert!("5e:20.0".parse::<Bdf>().is_err());
        assert!("5e:1f.8".parse::<Bdf>().is_err());
    }
}
