//! Where a function is: bus, device, function.

use std::fmt;
use std::str::FromStr;

/// Bus, device and function number of the one PCI segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf(u16);

/// A text that names no function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a PCI address (bus:device.function, in hexadecimal)")]
pub struct NotABdf(String);

impl Bdf {
    /// Device below 32 and function below 8; more is cut off.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | ((device & 31) as u16) << 3 | (function & 7) as u16)
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device on its bus.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 31
    }

    /// The function in its device.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }

    /// All sixteen bits.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "{bus:02x}:{device:02x}.{function}")
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Bdf {
    type Err = NotABdf;

    fn from_str(text: &str) -> Result<Self, NotABdf> {
        let parsed = || {
            let (bus, rest) = text.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let number =
                |digits, limit| u8::from_str_radix(digits, 16).ok().filter(|&n| n <= limit);
            Some(Self::new(
                number(bus, 0xff)?,
                number(device, 31)?,
                number(function, 7)?,
            ))
        };
        parsed().ok_or_else(|| NotABdf(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_agree() {
        let bdf = Bdf::new(0x1a, 31, 7);
        assert_eq!(bdf.to_string(), "1a:1f.7");
        assert_eq!("1a:1f.7".parse(), Ok(bdf));
        for wrong in ["", "1:2", "1:20.0", "1:2.8", "100:0.0", "1:x.0"] {
            assert!(wrong.parse::<Bdf>().is_err(), "{wrong}");
        }
    }
}
