//! How a user names a function of the host.

use crate::error::VfioError;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Segment, bus, device and function number of a function of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress {
    /// PCI segment group; what Linux calls a domain. Some host bridges have numbers of more than 16 bits.
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0..32.
    pub device: u8,
    /// Function number, 0..8.
    pub function: u8,
}

impl fmt::Display for HostAddress {
    /// As sysfs writes it: `0000:5e:00.2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl FromStr for HostAddress {
    type Err = VfioError;

    /// Takes `[DDDD:]BB:DD.F`, all hexadecimal.
    fn from_str(text: &str) -> Result<Self, VfioError> {
        let hex = |part: &str, digits: usize, below: u32| {
            let plain = (1..=digits).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain
                .then(|| u32::from_str_radix(part, 16).ok())
                .flatten()
                .filter(|value| u64::from(*value) < u64::from(below))
        };
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            Some(Self {
                domain: hex(domain, 8, u32::MAX)?,
                bus: u8::try_from(hex(bus, 2, 0x100)?).ok()?,
                device: u8::try_from(hex(device, 2, 32)?).ok()?,
                function: u8::try_from(hex(function, 1, 8)?).ok()?,
            })
        };
        parse().ok_or_else(|| VfioError::BadAddress(text.to_owned()))
    }
}

/// The option that names the function: `host=` or `sysfsdev=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSpec {
    /// `host=[DDDD:]BB:DD.F`.
    Address(HostAddress),
    /// `sysfsdev=PATH`: the function's folder in sysfs, or a link to it.
    Sysfs(PathBuf),
}

impl fmt::Display for HostSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Sysfs(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_written_as_sysfs_does() {
        for (text, name) in [
            ("5e:00.2", "0000:5e:00.2"),
            ("0001:5e:1f.7", "0001:5e:1f.7"),
            ("10000:01:00.0", "10000:01:00.0"),
            ("1:2.3", "0000:01:02.3"),
        ] {
            let address: HostAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), name);
            assert_eq!(name.parse::<HostAddress>().unwrap(), address);
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_text() {
        for text in [
            "",
            "5e",
            "5e:00",
            "5e:20.0",
            "5e:00.8",
            "5e:00.",
            "100:00.0",
            "+5:00.0",
            "0:0:0:0.0",
            "fffffffff:00:00.0",
            "5e:00.2 ",
            "5e:-1.0",
        ] {
            let error = text.parse::<HostAddress>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }
}
