//! The guest's init.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};

use super::{agent, links};
use crate::modules;

/// How long the guest waits for its NICs before it says that it is ready.
const NIC_LIMIT: Duration = Duration::from_secs(8);

/// An address the guest is to have: on the device (or failover master) with this MAC.
struct Address {
    mac: String,
    cidr: String,
    done: bool,
}

fn uptime() -> String {
    fs::read_to_string("/proc/uptime")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Runs as process 1 of the guest; returns only on failure.
///
/// On the kernel's command line: `lab.ip=MAC,ADDRESS/BITS` for each address, `lab.skip=MODULE` for
/// each module to leave out, `lab.iperf` to start an iperf3 server.
pub fn run() -> Result<()> {
    let none = MountFlags::empty();
    mount("proc", "/proc", "proc", none, None).context("mount /proc")?;
    println!("GUEST-INIT {}", uptime());
    mount("sysfs", "/sys", "sysfs", none, None).context("mount /sys")?;
    mount("devtmpfs", "/dev", "devtmpfs", none, None).context("mount /dev")?;
    // What net_failover and the drivers say is part of the timeline.
    let _ = fs::write("/proc/sys/kernel/printk", "7 4 1 7");
    // All NICs are on one switch: each is to answer for its own address alone, or what is told of one pair would be true of
    // another, whose NIC answered first.
    for (setting, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
        let _ = fs::write(format!("/proc/sys/net/ipv4/conf/all/{setting}"), value);
    }
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let values = |name: &str| -> Vec<String> {
        command_line
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(name))
            .map(str::to_owned)
            .collect()
    };
    let skip = values("lab.skip=");
    modules::load_all(&skip.iter().map(String::as_str).collect::<Vec<_>>());
    let _ = Command::new("/bin/busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    agent::start();
    let mut addresses: Vec<Address> = values("lab.ip=")
        .iter()
        .filter_map(|value| value.split_once(','))
        .map(|(mac, cidr)| Address {
            mac: mac.to_owned(),
            cidr: cidr.to_owned(),
            done: false,
        })
        .collect();
    let deadline = Instant::now() + NIC_LIMIT;
    while !configure(&mut addresses) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    if command_line
        .split_whitespace()
        .any(|word| word == "lab.iperf")
    {
        let _ = Command::new("/bin/iperf3").args(["-s", "-D"]).status();
    }
    println!("GUEST-READY {}", uptime());
    // A NIC that comes later (hot plug, a module loaded by hand) gets its address then.
    loop {
        configure(&mut addresses);
        thread::sleep(Duration::from_millis(250));
    }
}

/// Gives each device that is there its address; says whether all have theirs.
fn configure(addresses: &mut [Address]) -> bool {
    if addresses.iter().all(|address| address.done) {
        return true;
    }
    let links = links::read();
    for address in addresses.iter_mut().filter(|address| !address.done) {
        let Some(name) = links::upper(&links, &address.mac) else {
            continue;
        };
        let ip = |arguments: &[&str]| {
            Command::new("/bin/busybox")
                .arg("ip")
                .args(arguments)
                .status()
                .is_ok_and(|status| status.success())
        };
        address.done =
            ip(&["addr", "add", &address.cidr, "dev", name]) && ip(&["link", "set", name, "up"]);
    }
    addresses.iter().all(|address| address.done)
}
