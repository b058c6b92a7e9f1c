//! Two hosts, a switch and a client, built from L1's devices (see [`crate::topology`]).

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::packages;
use crate::topology::{CABLES, GUEST_MAC};

/// Which NIC is the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum PrimaryKind {
    /// An SR-IOV virtual function of the host's uplink, an igb.
    Vf,
    /// An e1000e of its own, on its own port of the switch.
    E1000e,
}

/// One of the two hosts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// Its network namespace; none is the machine itself.
    pub netns: Option<String>,
    /// The bridge that joins the guests' taps with the uplink.
    pub bridge: String,
    /// The taps for a guest's standbys.
    pub taps: Vec<String>,
    /// The uplink's device, whose virtual functions are the primaries.
    pub uplink: String,
    /// The virtual functions' PCI addresses.
    pub functions: Vec<String>,
    /// Their numbers among the uplink's functions.
    pub function_numbers: Vec<u32>,
    /// The e1000e's PCI address.
    pub e1000e: Option<String>,
    /// Its port on the switch.
    pub e1000e_port: String,
    /// Its address on the link between the two hosts.
    pub address: Ipv4Addr,
}

/// The whole of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Site {
    /// The two hosts.
    pub hosts: [Host; 2],
    /// Where the client is.
    pub client: Option<String>,
    /// Where the switch is, and its bridge.
    pub switch: Option<(String, String)>,
}

/// How many pairs a guest may have: the functions that Linux's igb makes of one NIC, at most.
pub const MAX_PAIRS: usize = 7;
/// How many there are unless more are asked for.
const PAIRS: usize = 2;

/// The guest's MAC addresses, one a pair.
pub const MACS: [&str; MAX_PAIRS] = [
    GUEST_MAC,
    "52:54:00:6f:55:cd",
    "52:54:00:6f:55:ce",
    "52:54:00:6f:55:cf",
    "52:54:00:6f:55:d0",
    "52:54:00:6f:55:d1",
    "52:54:00:6f:55:d2",
];

/// The guest's address on a pair; the client is .1 in each network.
pub fn guest_address(pair: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, u8::try_from(pair).unwrap_or(u8::MAX), 2)
}

const PCI: &str = "/sys/bus/pci/devices";
const LIMIT: Duration = Duration::from_secs(10);

fn ip(arguments: &[&str]) -> Result<()> {
    packages::run(
        Command::new("ip").args(arguments).stdin(Stdio::null()),
        &format!("ip {}", arguments.join(" ")),
    )
}

/// Runs `ip` once for many lines, which saves most of the time.
fn ip_batch(netns: Option<&str>, lines: &[String]) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), lines.join("\n") + "\n")?;
    let mut command = Command::new("ip");
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    packages::run(command.arg("-batch").arg(file.path()), "ip -batch")
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what} did not appear within {} s", LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn first_entry(folder: &Path, starts: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let mut fit: Vec<PathBuf> = entries
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(starts))
        })
        .collect();
    fit.sort();
    fit.into_iter().next()
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The PCI address of the device in the root port of this slot.
fn behind_port(slot: u8) -> Result<String> {
    let own = format!("0000:00:{slot:02x}.0");
    let port = PathBuf::from("/sys/devices/pci0000:00").join(&own);
    // The port's own services are there too, as 0000:00:10.0:pcie001 and so on.
    let entries = fs::read_dir(&port).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .find(|name| name.starts_with("0000:") && !name.starts_with(&own))
        .with_context(|| format!("no NIC in slot {slot:#x}"))
}

fn netdev_of(device: &Path) -> Option<String> {
    first_entry(&device.join("net"), "").map(|path| name_of(&path))
}

/// The network device of the virtio NIC in this slot of the root complex.
fn virtio_netdev(slot: u8) -> Result<String> {
    let device = PathBuf::from(format!("{PCI}/0000:00:{slot:02x}.0"));
    first_entry(&device, "virtio")
        .and_then(|virtio| netdev_of(&virtio))
        .with_context(|| format!("no virtio NIC in slot {slot:#x}"))
}

/// Gives a PCI device to vfio-pci.
pub fn bind_vfio(address: &str) -> Result<()> {
    let device = PathBuf::from(PCI).join(address);
    let driver = || {
        fs::read_link(device.join("driver"))
            .ok()
            .map(|link| name_of(&link))
    };
    if driver().as_deref() == Some("vfio-pci") {
        return Ok(());
    }
    if driver().is_some() {
        fs::write(device.join("driver/unbind"), address)
            .with_context(|| format!("unbind {address}"))?;
    }
    fs::write(device.join("driver_override"), "vfio-pci")
        .with_context(|| format!("override {address}"))?;
    fs::write("/sys/bus/pci/drivers_probe", address).with_context(|| format!("probe {address}"))?;
    match driver() {
        Some(name) if name == "vfio-pci" => Ok(()),
        other => bail!(
            "{address} is bound to {} and not to vfio-pci",
            other.as_deref().unwrap_or("nothing")
        ),
    }
}

fn tap_name(letter: &str, pair: usize) -> String {
    format!("tap{letter}{pair}")
}

fn tap_lines(tap: &str, bridge: &str) -> [String; 2] {
    [
        format!("tuntap add dev {tap} mode tap"),
        format!("link set {tap} master {bridge} up"),
    ]
}

/// Makes virtual functions with the guest's addresses, bound to vfio-pci; returns their PCI addresses.
fn make_functions(
    device: &Path,
    netns: Option<&str>,
    uplink: &str,
    count: usize,
) -> Result<Vec<String>> {
    fs::write(device.join("sriov_numvfs"), count.to_string()).context("create the VFs")?;
    let mut functions = Vec::new();
    for (number, mac) in MACS.iter().enumerate().take(count) {
        let link = device.join(format!("virtfn{number}"));
        let function = wait_for("a VF", || {
            fs::read_link(&link).ok().map(|path| name_of(&path))
        })?;
        // Before any driver of a guest's probes it: the guest pairs by this address.
        let line = format!("link set {uplink} vf {number} mac {mac}");
        ip_batch(netns, &[line])?;
        bind_vfio(&function)?;
        functions.push(function);
    }
    Ok(functions)
}

impl Site {
    /// The site of this L1: built if it is not there yet.
    pub fn ensure(record: &Path) -> Result<Self> {
        if let Ok(text) = fs::read(record) {
            return serde_json::from_slice(&text).context("the site's record is damaged");
        }
        let site = Self::build().context("cannot build the two hosts")?;
        fs::write(record, serde_json::to_vec(&site)?)?;
        Ok(site)
    }

    fn build() -> Result<Self> {
        for name in ["hA", "hB", "sw", "client"] {
            // What an attempt that failed has left behind.
            let _ = ip(&["netns", "del", name]);
            ip(&["netns", "add", name])?;
        }
        let mut lines = vec![
            "link add sw0 type bridge ageing_time 30000".to_owned(),
            "link set sw0 up".to_owned(),
        ];
        for cable in &CABLES {
            let device = virtio_netdev(cable.port_slot)?;
            ip(&["link", "set", &device, "netns", "sw", "name", cable.port])?;
            let state = if cable.model == "igb" { "up" } else { "down" };
            lines.push(format!("link set {} master sw0 {state}", cable.port));
        }
        ip_batch(Some("sw"), &lines)?;
        ip(&[
            "link", "add", "eth0", "netns", "client", "type", "veth", "peer", "name", "client",
            "netns", "sw",
        ])?;
        ip(&["-n", "sw", "link", "set", "client", "master", "sw0", "up"])?;
        let mut client = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
        client.extend((0..PAIRS).map(|pair| format!("addr add 10.9.{pair}.1/24 dev eth0")));
        ip_batch(Some("client"), &client)?;
        let hosts = [Self::host(0)?, Self::host(1)?];
        ip(&[
            "link", "add", "mig", "netns", "hA", "type", "veth", "peer", "name", "mig", "netns",
            "hB",
        ])?;
        for host in &hosts {
            let lines = [
                format!("addr add {}/24 dev mig", host.address),
                "link set mig up".to_owned(),
            ];
            ip_batch(host.netns.as_deref(), &lines)?;
        }
        Ok(Self {
            hosts,
            client: Some("client".to_owned()),
            switch: Some(("sw".to_owned(), "sw0".to_owned())),
        })
    }

    fn host(index: usize) -> Result<Host> {
        let letter = if index == 0 { "A" } else { "B" };
        let (Some(cable), Some(extra)) = (CABLES.get(index), CABLES.get(index + 2)) else {
            bail!("there are two hosts only");
        };
        let netns = format!("h{letter}");
        let uplink_device = PathBuf::from(PCI).join(behind_port(cable.nic_slot)?);
        let found = netdev_of(&uplink_device).context("the uplink has no driver")?;
        let uplink = format!("pf{letter}");
        ip(&["link", "set", &found, "name", &uplink, "up"])?;
        let functions = make_functions(&uplink_device, None, &uplink, PAIRS)?;
        ip(&["link", "set", &uplink, "netns", &netns])?;
        let bridge = format!("br{letter}");
        let taps: Vec<String> = (0..PAIRS).map(|pair| tap_name(letter, pair)).collect();
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link add {bridge} type bridge"),
            format!("link set {bridge} up"),
            format!("link set {uplink} master {bridge} up"),
        ];
        for tap in &taps {
            lines.extend(tap_lines(tap, &bridge));
        }
        ip_batch(Some(&netns), &lines)?;
        let e1000e = behind_port(extra.nic_slot)?;
        bind_vfio(&e1000e)?;
        Ok(Host {
            netns: Some(netns),
            bridge,
            taps,
            uplink,
            function_numbers: (0..).take(functions.len()).collect(),
            functions,
            e1000e: Some(e1000e),
            e1000e_port: extra.port.to_owned(),
            address: Ipv4Addr::new(10, 1, 0, u8::try_from(index + 1)?),
        })
    }

    /// Has `count` functions and taps on both hosts, and notes it in `record`. No VMM may run.
    pub fn set_pairs(&mut self, record: &Path, count: usize) -> Result<()> {
        if count > MAX_PAIRS {
            bail!(
                "a guest has {MAX_PAIRS} pairs at most here: so many functions igb makes of a NIC"
            );
        }
        for (index, cable) in CABLES.iter().take(self.hosts.len()).enumerate() {
            let letter = if index == 0 { "A" } else { "B" };
            let Some(host) = self.hosts.get_mut(index) else {
                bail!("there are two hosts only");
            };
            let device = PathBuf::from(PCI).join(behind_port(cable.nic_slot)?);
            fs::write(device.join("sriov_numvfs"), "0").context("remove the VFs")?;
            host.functions = make_functions(&device, host.netns.as_deref(), &host.uplink, count)?;
            host.function_numbers = (0..).take(count).collect();
            let missing: Vec<String> = (host.taps.len()..count)
                .map(|pair| tap_name(letter, pair))
                .collect();
            let lines: Vec<String> = missing
                .iter()
                .flat_map(|tap| tap_lines(tap, &host.bridge))
                .collect();
            if !lines.is_empty() {
                ip_batch(host.netns.as_deref(), &lines)?;
            }
            host.taps.extend(missing);
        }
        if let Some(client) = &self.client {
            let lines: Vec<String> = (0..count)
                .map(|pair| format!("addr replace 10.9.{pair}.1/24 dev eth0"))
                .collect();
            ip_batch(Some(client), &lines)?;
        }
        fs::write(record, serde_json::to_vec(self)?)?;
        Ok(())
    }

    /// Undoes what a guest or a VMM may have left: learnt addresses, moved settings, lost bindings.
    pub fn reset(&self, primary: PrimaryKind) -> Result<()> {
        for (index, host) in self.hosts.iter().enumerate() {
            let netns = host.netns.as_deref();
            let mut lines = vec![
                format!(
                    "link set {} type bridge_slave learning on flood on",
                    host.uplink
                ),
                format!(
                    "link set {} type bridge vlan_filtering 0 fdb_flush",
                    host.bridge
                ),
                format!("link set {} up", host.uplink),
            ];
            // While the e1000e is the primary, no filter of a VF may hold the guest's address.
            for (pair, (number, mac)) in host.function_numbers.iter().zip(MACS).enumerate() {
                // Not where there is none: igb then gives the idle VF the frames of its address.
                if self.seen(index, pair)?.vf_vlan != 0 {
                    lines.push(format!("link set {} vf {number} vlan 0", host.uplink));
                }
                let mac = if primary == PrimaryKind::Vf {
                    mac
                } else {
                    "00:00:00:00:00:00"
                };
                lines.push(format!("link set {} vf {number} mac {mac}", host.uplink));
            }
            for tap in &host.taps {
                lines.push(format!(
                    "link set {tap} type bridge_slave learning on flood on"
                ));
            }
            ip_batch(netns, &lines)?;
            for device in host.functions.iter().chain(&host.e1000e) {
                bind_vfio(device)?;
            }
        }
        if let Some((netns, bridge)) = &self.switch {
            let state = if primary == PrimaryKind::E1000e {
                "up"
            } else {
                "down"
            };
            let mut lines = vec![format!(
                "link set {bridge} type bridge vlan_filtering 0 fdb_flush"
            )];
            lines.extend(
                self.hosts
                    .iter()
                    .map(|host| format!("link set {} {state}", host.e1000e_port)),
            );
            ip_batch(Some(netns), &lines)?;
        }
        if let Some(client) = &self.client {
            ip(&["-n", client, "neigh", "flush", "all"])?;
        }
        Ok(())
    }

    /// What an operator can prepare for a VMM that does not steer: neither bridge learns an address behind its uplink,
    /// and the target's NIC does not claim the guest's until its VF is about to be used.
    pub fn prepare_by_hand(&self) -> Result<()> {
        for (index, host) in self.hosts.iter().enumerate() {
            let mut lines = vec![format!(
                "link set {} type bridge_slave learning off",
                host.uplink
            )];
            if index == 1 {
                lines.extend(host.function_numbers.iter().map(|number| {
                    format!("link set {} vf {number} mac 00:00:00:00:00:00", host.uplink)
                }));
            }
            lines.push(format!("link set {} type bridge fdb_flush", host.bridge));
            ip_batch(host.netns.as_deref(), &lines)?;
        }
        Ok(())
    }

    /// Does by hand what lets a host's NIC and bridge give a pair's frames to the standby, or to
    /// the VF again: what the operator of a VMM that does not steer has to do.
    pub fn steer(&self, host: usize, pair: usize, to_standby: bool) -> Result<()> {
        let Some(host) = self.hosts.get(host) else {
            bail!("there is no such host")
        };
        let (Some(number), Some(mac)) = (host.function_numbers.get(pair), MACS.get(pair)) else {
            bail!("there is no such pair");
        };
        let netns = host.netns.as_deref();
        let filter = if to_standby { "00:00:00:00:00:00" } else { mac };
        ip_batch(
            netns,
            &[
                format!("link set {} vf {number} mac {filter}", host.uplink),
                // What the bridge learnt of the other way would black-hole the guest's frames.
                format!("link set {} type bridge fdb_flush", host.bridge),
            ],
        )
    }
}
