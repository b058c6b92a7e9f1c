//! Addresses as a user writes them: slots on a bus, functions on the host, MAC addresses.

use std::fmt;
use std::str::FromStr;

/// A device's place on its bus: `addr=1`, `addr=0x1.0x3`, `addr=1.0`; numbers are hexadecimal with or without `0x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotAddr {
    /// Slot (device) number, 0 to 31.
    pub slot: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl FromStr for SlotAddr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
        let slot = hex(slot, 31)?;
        let function = hex(function, 7)?;
        Ok(Self {
            slot: u8::try_from(slot).map_err(drop)?,
            function: u8::try_from(function).map_err(drop)?,
        })
    }
}

impl fmt::Display for SlotAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{:x}", self.slot, self.function)
    }
}

/// A PCI function of the host: `[DDDD:]BB:DD.F`, all hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPciAddr {
    /// Domain (segment).
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl FromStr for HostPciAddr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (rest, function) = text.rsplit_once('.').ok_or(())?;
        let mut parts = rest.rsplit(':');
        let device = parts.next().ok_or(())?;
        let bus = parts.next().ok_or(())?;
        let domain = parts.next().unwrap_or("0");
        if parts.next().is_some() {
            return Err(());
        }
        Ok(Self {
            domain: hex(domain, u32::MAX)?,
            bus: u8::try_from(hex(bus, 0xff)?).map_err(drop)?,
            device: u8::try_from(hex(device, 31)?).map_err(drop)?,
            function: u8::try_from(hex(function, 7)?).map_err(drop)?,
        })
    }
}

impl fmt::Display for HostPciAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

/// Reads a MAC address: six hexadecimal bytes with `:` or `-` between them; `None` if it is not one.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut mac = [0u8; 6];
    let mut parts = text.split(separator);
    for byte in &mut mac {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Writes a MAC address the way [`parse_mac`] reads it: lower case, with colons.
pub fn format_mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// An unsigned hexadecimal number, `0x` optional, at most `max`.
fn hex(text: &str, max: u32) -> Result<u32, ()> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(());
    }
    u32::from_str_radix(digits, 16)
        .ok()
        .filter(|n| *n <= max)
        .ok_or(())
}
