//! Which interfaces stand around a pair: the tap's bridge, the VF's PF, the PF's way into that bridge.
//!
//! Interfaces come from netlink, so they are those of this thread's network namespace. sysfs is asked
//! for what has no namespace (which PF a VF belongs to) and, on kernels older than 5.14, for the PF's
//! interface.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::route::{Kernel, Kind, Link};
use super::wanted::{Choice, Wanted};
use crate::announce::Mac;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

impl Port {
    fn of(link: &Link) -> Self {
        Self {
            index: link.index,
            name: link.name.clone(),
        }
    }
}

/// The VLAN that a PF puts a VF's frames on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VfVlan {
    /// Its id; 0: none.
    pub id: u16,
    /// The priority in its tags.
    pub qos: u32,
}

/// A VF as its PF sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vf {
    /// The PF's interface.
    pub pf: Port,
    /// The VF's number on its PF.
    pub number: u32,
    /// The administrative MAC address it was found with; `None` if it could not be read.
    pub mac_found: Option<Mac>,
    /// The administrative VLAN it was found with; `None` if it could not be read.
    pub vlan_found: Option<VfVlan>,
}

/// What was found; what was not, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The tap (or what stands for it), if it is a port of a Linux bridge.
    pub tap: Result<Port, String>,
    /// What the tap is a port of, of whatever kind.
    pub bridge: Option<String>,
    /// The bridge's port towards the VF: its PF, or a bond or VLAN above it.
    pub uplink: Result<Port, String>,
    /// The VF.
    pub vf: Result<Vf, String>,
}

pub(super) fn look(
    kernel: &mut dyn Kernel,
    sysfs: &Path,
    wanted: &Wanted,
) -> std::io::Result<Surroundings> {
    let links = kernel.links()?;
    let tap = match &wanted.standby_port {
        Choice::Named(port) => Some(port),
        Choice::Auto | Choice::Off => wanted.interface.as_ref(),
    };
    let bridge = tap
        .and_then(|name| links.values().find(|link| link.name == *name))
        .and_then(|link| links.get(&link.master?))
        .map(|master| master.name.clone());
    let tap = tap
        .ok_or_else(|| "the standby is on no interface of this host".to_owned())
        .and_then(|name| tap_port(&links, name));
    let (tap, on) = match tap {
        Ok((port, bridge)) => (Ok(port), Some(bridge)),
        Err(why) => (Err(why), None),
    };
    let vf = vf(&links, sysfs, wanted).map(|mut vf| {
        let found = kernel.vf(vf.pf.index, vf.number).unwrap_or_default();
        (vf.mac_found, vf.vlan_found) = (found.mac, found.vlan);
        vf
    });
    let uplink = match (&wanted.primary_port, &vf, on) {
        (_, _, None) => Err("the tap is on no bridge".to_owned()),
        (Choice::Named(name), _, Some(bridge)) => match tap_port(&links, name) {
            Ok((port, master)) if master == bridge => Ok(port),
            Ok(_) => Err(format!("'{name}' is on another bridge than the tap")),
            Err(why) => Err(why),
        },
        (_, Ok(vf), Some(bridge)) => uplink(&links, vf.pf.index, bridge)
            .ok_or_else(|| format!("'{}' leads to no port of the tap's bridge", vf.pf.name)),
        (_, Err(why), Some(_)) => Err(why.clone()),
    };
    Ok(Surroundings {
        tap,
        bridge,
        uplink,
        vf,
    })
}

/// The VF, by what is found or chosen.
fn vf(links: &BTreeMap<u32, Link>, sysfs: &Path, wanted: &Wanted) -> Result<Vf, String> {
    let address = wanted
        .vf_address
        .as_deref()
        .ok_or_else(|| "the primary has no PCI address on this host".to_owned());
    let Choice::Named(pf) = &wanted.pf else {
        let mut vf = address.and_then(|address| find_vf(links, sysfs, address))?;
        vf.number = wanted.vf.unwrap_or(vf.number);
        return Ok(vf);
    };
    let pf = links
        .values()
        .find(|link| link.name == *pf)
        .ok_or_else(|| format!("no interface '{pf}' in this network namespace"))?;
    let found = || {
        let address = address.ok()?;
        let (folder, _) = physical_function(sysfs, address)?;
        vf_number(&folder, address)
    };
    let number = wanted.vf.or_else(found).ok_or_else(|| {
        format!(
            "which VF of '{}' the primary is was not found: give failover-vf=",
            pf.name
        )
    })?;
    Ok(Vf {
        pf: Port::of(pf),
        number,
        mac_found: None,
        vlan_found: None,
    })
}

fn tap_port(links: &BTreeMap<u32, Link>, name: &str) -> Result<(Port, u32), String> {
    let tap = links
        .values()
        .find(|l| l.name == name)
        .ok_or_else(|| format!("no interface '{name}' in this network namespace"))?;
    if tap.kind == Kind::MacVtap {
        return Err(format!(
            "'{name}' is a macvtap, which is on no bridge: failover-hook= can steer it"
        ));
    }
    let master = tap
        .master
        .and_then(|index| links.get(&index))
        .ok_or_else(|| format!("'{name}' is on no bridge"))?;
    if master.kind != Kind::Bridge {
        return Err(format!(
            "'{name}' is on '{}', which is no Linux bridge: failover-hook= can steer it",
            master.name
        ));
    }
    Ok((Port::of(tap), master.index))
}

/// The bridge's port through which `from` is reached: itself, what it is bundled in, or a VLAN of
/// these.
fn uplink(links: &BTreeMap<u32, Link>, from: u32, bridge: u32) -> Option<Port> {
    const LAYERS_MAX: usize = 4;
    let mut layer = vec![from];
    for _ in 0..LAYERS_MAX {
        let mut above = Vec::new();
        for index in layer {
            let link = links.get(&index)?;
            match link.master {
                Some(master) if master == bridge => return Some(Port::of(link)),
                Some(master) => above.push(master),
                None => {}
            }
            above.extend(
                links
                    .values()
                    .filter(|l| l.kind == Kind::Vlan && l.lower == Some(index))
                    .map(|l| l.index),
            );
        }
        layer = above;
    }
    None
}

fn find_vf(links: &BTreeMap<u32, Link>, sysfs: &Path, address: &str) -> Result<Vf, String> {
    if !is_pci_address(address) {
        return Err(format!("'{address}' is no PCI address"));
    }
    let (physical, pf_address) = physical_function(sysfs, address)
        .ok_or_else(|| format!("{address} is no virtual function: nothing to steer on its NIC"))?;
    let pf_address = pf_address.as_str();
    let number = vf_number(&physical, address)
        .ok_or_else(|| format!("{pf_address} does not list {address} as its VF"))?;
    let by_netlink = links
        .values()
        .find(|l| l.parent.as_deref() == Some(pf_address));
    let by_sysfs = || {
        let entries = fs::read_dir(physical.join("net")).ok()?;
        let names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
        links
            .values()
            .find(|l| names.iter().any(|n| n.to_str() == Some(l.name.as_str())))
    };
    let pf = by_netlink.or_else(by_sysfs).ok_or_else(|| {
        format!("the PF {pf_address} of {address} has no interface in this network namespace")
    })?;
    Ok(Vf {
        pf: Port::of(pf),
        number,
        mac_found: None,
        vlan_found: None,
    })
}

/// The PF of the VF at `address`: its folder in sysfs and its PCI address.
fn physical_function(sysfs: &Path, address: &str) -> Option<(PathBuf, String)> {
    if !is_pci_address(address) {
        return None;
    }
    let link = sysfs.join("bus/pci/devices").join(address).join("physfn");
    let folder = fs::canonicalize(link).ok()?;
    let name = folder.file_name()?.to_str()?.to_owned();
    is_pci_address(&name).then_some((folder, name))
}

/// Which `virtfnN` of the PF is the VF.
fn vf_number(physical: &Path, address: &str) -> Option<u32> {
    fs::read_dir(physical).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        let number = name.to_str()?.strip_prefix("virtfn")?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        (target.file_name()?.to_str()? == address).then_some(number)
    })
}

/// `dddd:bb:ss.f`, which also keeps it from being any other path.
fn is_pci_address(text: &str) -> bool {
    let mut parts = text.split([':', '.']);
    let mut hex = |least: usize, most: usize| {
        parts.next().is_some_and(|p| {
            (least..=most).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_hexdigit())
        })
    };
    let shape = hex(4, 8) && hex(2, 2) && hex(2, 2) && hex(1, 1);
    shape && parts.next().is_none() && text.rfind(':') < text.find('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses() {
        for good in ["0000:01:10.0", "10000:e1:00.7"] {
            assert!(is_pci_address(good), "{good}");
        }
        for bad in [
            "",
            "01:10.0",
            "0000:01:10",
            "../..:01:10.0",
            "0000.01.10:0",
            "0000:01:10.0/x",
        ] {
            assert!(!is_pci_address(bad), "{bad}");
        }
    }

    fn link(index: u32, name: &str, master: Option<u32>) -> (u32, Link) {
        (
            index,
            Link {
                index,
                name: name.into(),
                master,
                ..Link::default()
            },
        )
    }

    #[test]
    fn only_a_port_of_a_linux_bridge_is_one() {
        let mut links = BTreeMap::from([
            link(1, "tap0", Some(2)),
            link(2, "ovs-system", None),
            link(3, "tap1", Some(77)),
        ]);
        let why = |links: &BTreeMap<u32, Link>, name| tap_port(links, name).map(|(p, _)| p);
        assert_eq!(
            why(&links, "tap0"),
            Err(
                "'tap0' is on 'ovs-system', which is no Linux bridge: failover-hook= can steer it"
                    .into()
            )
        );
        assert_eq!(why(&links, "tap1"), Err("'tap1' is on no bridge".into()));
        if let Some(master) = links.get_mut(&2) {
            master.kind = Kind::Bridge;
        }
        assert_eq!(
            why(&links, "tap0"),
            Ok(Port {
                index: 1,
                name: "tap0".into()
            })
        );
    }

    #[test]
    fn the_uplink_is_found_through_a_bond_and_a_vlan_and_loops_end() {
        let mut links = BTreeMap::from([
            link(1, "pf", Some(2)),
            link(2, "bond0", None),
            link(3, "bond0.7", Some(9)),
        ]);
        assert_eq!(uplink(&links, 1, 9), None);
        if let Some(vlan) = links.get_mut(&3) {
            (vlan.kind, vlan.lower) = (Kind::Vlan, Some(2));
        }
        assert_eq!(uplink(&links, 1, 9).map(|p| p.name), Some("bond0.7".into()));
        assert_eq!(uplink(&links, 1, 8), None);
        let circle = BTreeMap::from([link(1, "a", Some(2)), link(2, "b", Some(1))]);
        assert_eq!(uplink(&circle, 1, 9), None);
    }
}
