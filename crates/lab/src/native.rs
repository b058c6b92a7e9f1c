//! This machine itself as both hosts: its KVM, its IOMMU, two of its virtual functions.
//!
//! What is made (two taps, a namespace for the client, a veth pair) and what is changed (the
//! functions' drivers and addresses) is undone at the end, and when a signal ends the program.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::packages;
use crate::site::{Host, Site, bind_vfio};
use crate::topology::GUEST_MAC;

/// What of this machine is to be used, for the source and for the target.
#[derive(Debug, Clone, clap::Args)]
pub struct NativeOptions {
    /// The virtual function of the source.
    #[arg(
        long,
        requires = "native_target",
        requires = "native_bridge",
        requires = "share"
    )]
    pub native_primary: Option<String>,
    /// The virtual function of the target.
    #[arg(long)]
    pub native_target: Option<String>,
    /// The bridge of the source's physical function, and that of the target's.
    #[arg(long, num_args = 2)]
    pub native_bridge: Vec<String>,
    /// The folder with the kernel, the images and the VMM.
    #[arg(long)]
    pub share: Option<PathBuf>,
}

static UNDO: Mutex<Vec<Undo>> = Mutex::new(Vec::new());

#[derive(Debug)]
enum Undo {
    Ip(Vec<String>),
    Fdb(String),
    Driver {
        address: String,
        driver: Option<String>,
    },
}

impl Undo {
    fn perform(self) {
        match self {
            Self::Ip(arguments) => drop(Command::new("ip").args(arguments).status()),
            Self::Fdb(line) => drop(fdb(&line)),
            Self::Driver { address, driver } => {
                let device = Path::new(PCI).join(&address);
                let _ = fs::write(device.join("driver/unbind"), &address);
                let _ = fs::write(device.join("driver_override"), "\n");
                if driver.is_some() {
                    let _ = fs::write("/sys/bus/pci/drivers_probe", &address);
                }
            }
        }
    }
}

const PCI: &str = "/sys/bus/pci/devices";

/// Undoes everything when it is dropped.
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        undo();
    }
}

fn undo() {
    // Held to the end, so that a second caller waits for the first.
    let mut steps = UNDO.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(step) = steps.pop() {
        step.perform();
    }
}

fn later(step: Undo) {
    UNDO.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(step);
}

fn ip(line: &str) -> Result<()> {
    packages::run(
        Command::new("ip").args(line.split(' ')),
        &format!("ip {line}"),
    )
}

fn fdb(line: &str) -> Result<()> {
    packages::run(
        Command::new("bridge").arg("fdb").args(line.split(' ')),
        &format!("bridge fdb {line}"),
    )
}

fn undo_ip(line: &str) {
    later(Undo::Ip(line.split(' ').map(str::to_owned).collect()));
}

/// The physical function's network device and the number of a virtual function.
fn function(address: &str) -> Result<(String, u32)> {
    let physical = fs::canonicalize(Path::new(PCI).join(address).join("physfn"))
        .with_context(|| format!("{address} is no virtual function"))?;
    let name = fs::read_dir(physical.join("net"))?
        .flatten()
        .next()
        .with_context(|| format!("the physical function of {address} has no network device"))?;
    for number in 0..256 {
        let Ok(link) = fs::read_link(physical.join(format!("virtfn{number}"))) else {
            break;
        };
        if link
            .file_name()
            .is_some_and(|name| name.to_string_lossy() == address)
        {
            return Ok((name.file_name().to_string_lossy().into_owned(), number));
        }
    }
    bail!("{address} is not among its physical function's functions")
}

/// Makes the site out of this machine; `None` if the options do not ask for it.
pub fn site(options: &NativeOptions) -> Result<Option<(Site, Guard)>> {
    let (Some(source), Some(target)) = (&options.native_primary, &options.native_target) else {
        return Ok(None);
    };
    let [source_bridge, target_bridge] = options.native_bridge.as_slice() else {
        bail!("--native-bridge takes two bridges");
    };
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            undo();
            std::process::exit(128 + signal);
        }
    });
    let guard = Guard(());
    let own = std::process::id() % 100_000;
    let client = format!("lab{own}");
    ip(&format!("netns add {client}"))?;
    undo_ip(&format!("netns del {client}"));
    let [.., high, middle, low] = own.to_be_bytes();
    let client_mac = format!("02:6c:61:{high:02x}:{middle:02x}:{low:02x}");
    ip(&format!(
        "link add labc{own} type veth peer name eth0 address {client_mac} netns {client}"
    ))?;
    undo_ip(&format!("link del labc{own}"));
    ip(&format!("link set labc{own} master {source_bridge} up"))?;
    // Some NICs hand a broadcast back to the host that sent it, and the bridge would learn from it. Goes with the port.
    fdb(&format!(
        "replace {client_mac} dev labc{own} master static sticky"
    ))?;
    ip(&format!("-n {client} link set lo up"))?;
    ip(&format!("-n {client} link set eth0 up"))?;
    ip(&format!("-n {client} addr add 10.9.0.1/24 dev eth0"))?;
    let host = |letter: &str, bridge: &str, address: &str| -> Result<Host> {
        let (uplink, number) = function(address)?;
        let tap = format!("lab{letter}{own}");
        ip(&format!("tuntap add dev {tap} mode tap"))?;
        undo_ip(&format!("link del {tap}"));
        ip(&format!("link set {tap} master {bridge} up"))?;
        let driver = fs::read_link(Path::new(PCI).join(address).join("driver")).ok();
        let driver = driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
        ip(&format!("link set {uplink} vf {number} mac {GUEST_MAC}"))?;
        undo_ip(&format!(
            "link set {uplink} vf {number} mac 00:00:00:00:00:00"
        ));
        // A VMM that is killed leaves its entry to age.
        later(Undo::Fdb(format!("del {GUEST_MAC} dev {uplink} master")));
        if driver.as_deref() != Some("vfio-pci") {
            later(Undo::Driver {
                address: address.to_owned(),
                driver,
            });
        }
        if !Path::new("/sys/bus/pci/drivers/vfio-pci").exists() {
            packages::run(
                Command::new("modprobe").arg("vfio-pci"),
                "modprobe vfio-pci",
            )?;
        }
        bind_vfio(address)?;
        Ok(Host {
            netns: None,
            bridge: bridge.to_owned(),
            taps: vec![tap],
            uplink,
            functions: vec![address.to_owned()],
            function_numbers: vec![number],
            e1000e: None,
            e1000e_port: String::new(),
            address: Ipv4Addr::LOCALHOST,
        })
    };
    let hosts = [
        host("a", source_bridge, source)?,
        host("b", target_bridge, target)?,
    ];
    // Many NICs hand a frame from a VF to the wire alone unless they know the receiver as the PF's.
    let [source_host, _] = &hosts;
    let entry = format!("{client_mac} dev {} self", source_host.uplink);
    fdb(&format!("add {entry}"))?;
    later(Undo::Fdb(format!("del {entry}")));
    if let [first, second] = &hosts
        && first.uplink == second.uplink
    {
        bail!(
            "{source} and {target} are functions of one physical function, {}: with one address on both it \
             cannot tell the source's frames from the target's; take functions of two ports",
            first.uplink
        );
    }
    Ok(Some((
        Site {
            hosts,
            client: Some(client),
            switch: None,
        },
        guard,
    )))
}
