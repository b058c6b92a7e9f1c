//! A guest's network devices as its kernel shows them in /sys.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One network device of the guest; the names are short because they cross a serial line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its address.
    #[serde(rename = "a")]
    pub mac: String,
    /// Whether it is up and carries: `operstate` is `up`.
    #[serde(rename = "c")]
    pub carrying: bool,
    /// The device it is enslaved to.
    #[serde(rename = "m", skip_serializing_if = "Option::is_none", default)]
    pub master: Option<String>,
    /// The driver of the device behind it; a failover master has none.
    #[serde(rename = "d", skip_serializing_if = "Option::is_none", default)]
    pub driver: Option<String>,
}

/// All of a guest's network devices by name, the loopback left out.
pub type Links = BTreeMap<String, Link>;

/// What the kernel says at this moment.
pub fn read() -> Links {
    let mut links = Links::new();
    for entry in fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "lo" {
            continue;
        }
        let path = entry.path();
        let text = |file: &str| {
            fs::read_to_string(path.join(file))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let link = Link {
            mac: text("address"),
            carrying: text("operstate") == "up",
            master: target(&path.join("master")),
            driver: target(&path.join("device/driver")),
        };
        if !link.mac.is_empty() {
            links.insert(name, link);
        }
    }
    links
}

fn target(link: &Path) -> Option<String> {
    Some(
        fs::read_link(link)
            .ok()?
            .file_name()?
            .to_string_lossy()
            .into_owned(),
    )
}

/// The device that holds the addresses for `mac`: the failover master, or the plain device.
pub fn upper<'a>(links: &'a Links, mac: &str) -> Option<&'a str> {
    let of_mac = || links.iter().filter(|(_, link)| link.mac == mac);
    of_mac()
        .find_map(|(_, link)| link.master.as_deref())
        .or_else(|| {
            // A master whose slaves have not come yet has no driver; a plain device has one.
            let mut plain = of_mac().map(|(name, _)| name.as_str());
            match (plain.next(), plain.next()) {
                (Some(name), None) => Some(name),
                _ => None,
            }
        })
}

/// The primary of the pair with address `mac`: enslaved, and not the virtio standby.
pub fn primary<'a>(links: &'a Links, mac: &str) -> Option<(&'a str, &'a Link)> {
    links
        .iter()
        .find(|(_, link)| {
            link.mac == mac
                && link.master.is_some()
                && link
                    .driver
                    .as_deref()
                    .is_some_and(|driver| !driver.starts_with("virtio"))
        })
        .map(|(name, link)| (name.as_str(), link))
}
