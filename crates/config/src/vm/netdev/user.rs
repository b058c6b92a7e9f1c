//! `-netdev user`: a network inside this process.

use std::net::Ipv4Addr;

use crate::error::{Error, Result};
use crate::syntax::Reader;

/// A network of the guest and this process alone: a gateway that answers, a DHCP server, and no way outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserConfig {
    /// `net=`, or by an older name `ip=`, which has no mask: its address.
    pub network: Ipv4Addr,
    /// The mask that belongs to it.
    pub mask: Ipv4Addr,
    /// `host=`: the gateway's address.
    pub host: Ipv4Addr,
    /// `dns=`: the name server's address; no names are resolved there.
    pub dns: Ipv4Addr,
    /// `dhcpstart=`: the first address leased.
    pub dhcp_start: Ipv4Addr,
    /// `hostname=`: told by DHCP.
    pub hostname: Option<String>,
    /// `domainname=`: told by DHCP.
    pub domain_name: Option<String>,
    /// `restrict=`: DHCP names no router and no name server.
    pub restrict: bool,
}

/// What asks for a way outside, or for a service, that there is not.
const NOT_HERE: &[&str] = &[
    "hostfwd",
    "guestfwd",
    "tftp",
    "tftp-server-name",
    "bootfile",
    "smb",
    "smbserver",
    "dnssearch",
    "ipv6-net",
    "ipv6-prefix",
    "ipv6-prefixlen",
    "ipv6-host",
    "ipv6-dns",
];

/// The longest text that a DHCP option carries, in bytes.
const DHCP_TEXT_MAX: usize = 255;

/// Addresses that may be leased, from `dhcpstart` on.
const LEASES: u32 = 16;

/// The mask of an address that comes without one, by its class.
fn class_mask(network: u32) -> u32 {
    match network {
        n if n & 0x8000_0000 == 0 => 0xff00_0000,
        n if n & 0xfff0_0000 == 0xac10_0000 => 0xfff0_0000,
        n if n & 0xc000_0000 == 0x8000_0000 => 0xffff_0000,
        n if n & 0xffff_0000 == 0xc0a8_0000 => 0xffff_0000,
        n if n & 0xffff_0000 == 0xc612_0000 => 0xfffe_0000,
        n if n & 0xe000_0000 == 0xc000_0000 => 0xffff_ff00,
        _ => 0xffff_fff0,
    }
}

/// `net=ADDRESS[/BITS or /MASK]`.
fn network(text: &str) -> Result<(u32, u32)> {
    let bad = || Error::other("Failed to parse netmask");
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
    let mask = match mask {
        None => class_mask(address.to_bits()),
        Some(mask) => match mask.parse::<u32>() {
            Ok(bits @ 4..=32) => u32::MAX << (32 - bits),
            Ok(_) => {
                return Err(Error::other(
                    "Invalid netmask provided (must be in range 4-32)",
                ));
            }
            Err(_) => mask.parse::<Ipv4Addr>().map_err(|_| bad())?.to_bits(),
        },
    };
    Ok((address.to_bits() & mask, mask))
}

pub(super) fn user(reader: &mut Reader) -> Result<UserConfig> {
    for key in NOT_HERE {
        for key in [
            (*key).to_owned(),
            format!("{key}.0"),
            format!("{key}.0.str"),
        ] {
            if reader.string(&key)?.is_some() {
                return Err(Error::Other(format!(
                    "{key}= is not supported: this network ends in this process; use type 'tap' for a way outside"
                )));
            }
        }
    }
    if reader.flag("ipv6")? == Some(true) || reader.flag("ipv4")? == Some(false) {
        return Err(Error::other(
            "this network speaks IPv4 only: leave out ipv4= and ipv6=",
        ));
    }
    let restrict = reader.flag_or("restrict", false)?;
    let older = reader.string("ip")?.map(|ip| format!("{ip}/24"));
    let given = reader.string("net")?.or(older);
    let (network, mask) = network(&given.unwrap_or("10.0.2.0/24".to_owned()))?;
    let mut member = |key: &str, name: &str, default: u32| match reader.string(key)? {
        None => Ok(network | default & !mask),
        Some(text) => {
            let address: Ipv4Addr = text
                .parse()
                .map_err(|_| Error::Other(format!("Failed to parse {name}")))?;
            if address.to_bits() & mask != network {
                return Err(Error::Other(format!("{name} doesn't belong to network")));
            }
            Ok(address.to_bits())
        }
    };
    // The names are those of QEMU's messages.
    let host = member("host", "host", 0x0202).map_err(host_capital)?;
    let dns = member("dns", "DNS", 0x0203)?;
    let dhcp_start = member("dhcpstart", "DHCP", 0x020f)?;
    if dns == host {
        return Err(Error::other("DNS must be different from host"));
    }
    let last = dhcp_start.saturating_add(LEASES - 1);
    if (dhcp_start..=last).contains(&host) || (dhcp_start..=last).contains(&dns) {
        return Err(Error::other("DHCP must be different from host and DNS"));
    }
    Ok(UserConfig {
        network: Ipv4Addr::from_bits(network),
        mask: Ipv4Addr::from_bits(mask),
        host: Ipv4Addr::from_bits(host),
        dns: Ipv4Addr::from_bits(dns),
        dhcp_start: Ipv4Addr::from_bits(dhcp_start),
        hostname: dhcp_text(reader, "hostname")?,
        domain_name: dhcp_text(reader, "domainname")?,
        restrict,
    })
}

/// One of QEMU's two messages about the host begins with a capital.
fn host_capital(error: Error) -> Error {
    match error {
        Error::Other(text) if text.starts_with("host doesn't") => {
            Error::other("Host doesn't belong to network")
        }
        other => other,
    }
}

fn dhcp_text(reader: &mut Reader, key: &str) -> Result<Option<String>> {
    let text = reader.string(key)?;
    if text
        .as_ref()
        .is_some_and(|t| t.is_empty() || t.len() > DHCP_TEXT_MAX)
    {
        return Err(Error::BadValue {
            name: key.to_owned(),
            expected: format!("a name of at most {DHCP_TEXT_MAX} bytes"),
        });
    }
    Ok(text)
}
