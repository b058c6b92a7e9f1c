//! Primaries that are lost, on either host, and their return.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::{Bench, REACH_LIMIT, Skipped, address, migrate};
use crate::packages;
use crate::qmp::Event;
use crate::site::bind_vfio;
use crate::traffic::ping;
use crate::vm::Vm;

/// How long what is lost may take to be told.
const TOLD_LIMIT: Duration = Duration::from_secs(60);
/// For how long the link may be down.
const LINK_LIMIT_MS: u32 = 1000;
/// A driver for VFs that cannot pass them through.
const OTHER_DRIVER: &str = "igbvf";

fn ip(netns: Option<&str>, line: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    packages::run(command.args(line.split(' ')), &format!("ip {line}"))
}

/// Waits for an event that says this, from number `from` on.
fn told(vm: &Vm, from: usize, name: &str, member: &str, value: &str) -> Result<Event> {
    let mut at = from;
    loop {
        let event = vm
            .qmp
            .wait_event(at, name, TOLD_LIMIT)
            .with_context(|| format!("no {name} with {member} {value}"))?;
        if event.data.get(member) == Some(&json!(value)) {
            return Ok(event);
        }
        let events = vm.qmp.events();
        let seen = events.iter().skip(at);
        at += seen.take_while(|one| **one != event).count() + 1;
    }
}

/// The words of a pair's warnings.
fn warnings(vm: &Vm) -> Result<Vec<String>> {
    let pairs = vm.qmp.execute("query-failover", json!({}))?;
    let words = pairs.pointer("/0/warnings").and_then(Value::as_array);
    let words = words.with_context(|| format!("no warnings in {pairs}"))?;
    Ok(words
        .iter()
        .filter_map(|one| one.get("reason")?.as_str())
        .map(str::to_owned)
        .collect())
}

/// Takes a function from vfio-pci, as an operator would who needs it: the kernel waits until its user lets go of it.
fn take(function: &str) -> thread::JoinHandle<std::io::Result<()>> {
    let function = function.to_owned();
    thread::spawn(move || fs::write("/sys/bus/pci/drivers/vfio-pci/unbind", function))
}

/// Has another driver take a function that none has.
fn give_to_other(function: &str) -> Result<()> {
    let device = format!("/sys/bus/pci/devices/{function}");
    fs::write(format!("{device}/driver_override"), OTHER_DRIVER)?;
    fs::write("/sys/bus/pci/drivers_probe", function).context("probe for the other driver")
}

fn taken(thread: thread::JoinHandle<std::io::Result<()>>, function: &str) -> Result<()> {
    thread
        .join()
        .map_err(|_| anyhow!("who took it panicked"))?
        .with_context(|| format!("unbind {function}"))
}

/// The host's uplink is down for too long: the guest is on its standby, and reaches its own host; and it comes back.
fn link_down(bench: &Bench, source: &mut Vm) -> Result<()> {
    let host = bench.host(0)?;
    let netns = host.netns.as_deref();
    let own = "10.9.0.9/24";
    ip(netns, &format!("addr add {own} dev {}", host.bridge))?;
    let from = source.qmp.events().len();
    ip(netns, &format!("link set {} down", host.uplink))?;
    let result = told(
        source,
        from,
        "FAILOVER_PRIMARY_MISSING",
        "reason",
        "link-down",
    )
    .and_then(|_| told(source, from, "FAILOVER_PATH_CHANGED", "path", "standby"))
    .and_then(|_| bench.without_primary(source, 0))
    .and_then(|()| ping::reachable(netns, address(0), REACH_LIMIT).context("from its own host"));
    ip(netns, &format!("link set {} up", host.uplink))?;
    ip(netns, &format!("addr del {own} dev {}", host.bridge))?;
    result?;
    told(source, from, "FAILOVER_PATH_CHANGED", "path", "primary")?;
    bench.settled(source).context("with the link up again")?;
    Ok(())
}

/// A primary is lost in four ways: its link, before the guest comes, under the guest, and with the whole target.
pub fn primary_lost(bench: &Bench) -> Result<()> {
    if bench.vmm.name != "standfast" {
        return Err(Skipped(format!("{} brings none back", bench.vmm.name)).into());
    }
    let found = bench.site.seen(0, 0)?;
    let mut config = bench.config("source", 0)?;
    for pair in &mut config.pairs {
        pair.properties = format!(",failover-link-timeout={LINK_LIMIT_MS}");
    }
    let mut source = bench.boot_with_primary(config)?;
    link_down(bench, &mut source).context("the link down")?;

    // The target's VF belongs to another driver.
    let function = bench.host(1)?.functions.first().cloned().context("no VF")?;
    taken(take(&function), &function)?;
    give_to_other(&function)?;
    let mut config = bench.config("target", 1)?;
    config.incoming = Some(bench.uri(1)?);
    let mut target = bench.start(config)?;
    let before = warnings(&target)?;
    ensure!(
        before.iter().any(|word| word == "host-device-other-driver"),
        "asked before, the target warns of {before:?}"
    );
    let booted = source.state()?.boot;
    let from = target.qmp.events().len();
    migrate::run(&mut source, &mut target, &bench.uri(1)?)?;
    let missing = "FAILOVER_PRIMARY_MISSING";
    told(&target, from, missing, "reason", "host-device-other-driver")?;
    bench.reachable(0).context("without its primary")?;
    bind_vfio(&function)?;
    bench
        .settled(&mut target)
        .context("with the VF given back")?;

    // It is taken from the running guest, which is asked for it first.
    let from = target.qmp.events().len();
    let taker = take(&function);
    told(&target, from, missing, "reason", "device-failed")?;
    bench.without_primary(&mut target, 0)?;
    taken(taker, &function)?;
    bench.reachable(0).context("with its primary taken")?;
    told(&target, from, missing, "reason", "host-device-other-driver")?;
    bind_vfio(&function)?;
    bench.settled(&mut target).context("given back again")?;
    ensure!(target.state()?.boot == booted, "the guest booted anew");

    // The target dies, and with it the guest that ran there; an operator who knows that has the source go on.
    target.kill();
    drop(target);
    let status = source.qmp.execute("query-status", json!({}))?;
    ensure!(
        status.get("running") == Some(&json!(false)),
        "the source runs what was on the target: {status}"
    );
    source.qmp.execute("cont", json!({}))?;
    let state = bench.settled(&mut source).context("on the source again")?;
    ensure!(state.boot == booted, "the guest booted anew");
    ensure!(source.quit()?.success(), "the source did not quit with 0");
    bench.nothing_left(0, &found)
}
