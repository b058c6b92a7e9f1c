//! `demo --native`, on a machine that has what it needs: here one of the two hosts, with the other's NIC as its second.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, Skipped};
use crate::packages;
use crate::report::Run;
use crate::site::Host;
use crate::topology::GUEST_MAC;

/// The bridge of the second NIC for the time.
const SECOND_BRIDGE: &str = "brN";

fn ip(line: &str) -> Result<()> {
    packages::run(
        Command::new("ip").args(line.split(' ')),
        &format!("ip {line}"),
    )
}

fn shown(netns: &str, program: &str, arguments: &str) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, program]);
    packages::output(command.args(arguments.split(' ')), program)
}

/// The second host's NIC, lent to the first one.
struct Lent<'h> {
    from: &'h Host,
    to: &'h str,
    home: &'h str,
    client: &'h str,
}

impl<'h> Lent<'h> {
    fn lend(bench: &'h Bench) -> Result<Self> {
        let (to, from) = (bench.host(0)?, bench.host(1)?);
        let (Some(to), Some(home), Some(client)) = (
            to.netns.as_deref(),
            from.netns.as_deref(),
            bench.site.client.as_deref(),
        ) else {
            bail!("the site is no lab");
        };
        let lent = Self {
            from,
            to,
            home,
            client,
        };
        let nic = &from.uplink;
        // It has the address that the demo's own client takes.
        ip(&format!("-n {client} link set eth0 down"))?;
        ip(&format!("-n {home} link set {nic} nomaster"))?;
        ip(&format!("-n {home} link set {nic} netns {to}"))?;
        ip(&format!("-n {to} link add {SECOND_BRIDGE} type bridge"))?;
        ip(&format!("-n {to} link set {nic} master {SECOND_BRIDGE} up"))?;
        ip(&format!("-n {to} link set {SECOND_BRIDGE} up"))?;
        Ok(lent)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Self {
            from,
            to,
            home,
            client,
        } = self;
        let (nic, bridge) = (&from.uplink, &from.bridge);
        for line in [
            format!("-n {to} link set {nic} nomaster"),
            format!("-n {to} link del {SECOND_BRIDGE}"),
            format!("-n {to} link set {nic} netns {home}"),
            format!("-n {home} link set {nic} master {bridge} up"),
            format!("-n {client} link set eth0 up"),
        ] {
            if let Err(error) = ip(&line) {
                crate::progress::say(format!("native: {error:#}"));
            }
        }
    }
}

/// The demo on this machine itself: the guest moves between two of its functions, and nothing that was made is left.
pub fn native(bench: &Bench) -> Result<()> {
    if bench.vmm.name != "standfast" {
        return Err(Skipped("it is the demo that is tried".to_owned()).into());
    }
    let (first, second) = (bench.host(0)?, bench.host(1)?);
    let (Some(source), Some(target)) = (first.functions.first(), second.functions.first()) else {
        bail!("the hosts have no VFs");
    };
    let lent = Lent::lend(bench)?;
    let before = shown(lent.to, "ip", "-br link")?;
    let lock = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", lent.to])
        .arg(std::env::current_exe()?)
        .args(["demo", "--vmm"])
        .arg(format!("standfast={}", bench.vmm.program.display()))
        .args(["--native-primary", source, "--native-target", target])
        .args(["--native-bridge", &first.bridge, SECOND_BRIDGE])
        .arg("--share")
        .arg(&bench.images)
        .arg("--lock")
        .arg(lock.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let done = command.output().context("cannot run the demo")?;
    ensure!(done.status.success(), "the demo ended with {}", done.status);
    let text = String::from_utf8_lossy(&done.stdout);
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    let run: Run = serde_json::from_str(line.context("the demo left no report")?)?;
    ensure!(
        run.faults.is_empty() && run.tcp_survived,
        "the demo's run: {:?}",
        run.faults
    );
    let after = shown(lent.to, "ip", "-br link")?;
    let names = |text: &str| -> Vec<String> {
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    };
    ensure!(
        names(&before) == names(&after),
        "interfaces were left: {after}"
    );
    let entries = shown(lent.to, "bridge", "fdb show")?;
    // What the bridges learned they forget by themselves.
    let held = |line: &&str| line.starts_with(GUEST_MAC) && line.contains("sticky");
    if let Some(left) = entries.lines().find(held) {
        bail!("an entry was left: {left}");
    }
    for function in [source, target] {
        let driver = fs::read_link(format!("/sys/bus/pci/devices/{function}/driver"));
        ensure!(
            driver.is_ok_and(|driver| driver.ends_with("vfio-pci")),
            "{function} has another driver than before"
        );
    }
    Ok(())
}
