//! The host's switch follows the guest as its operator chose: named ports, a VLAN, a hook; or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Bench, Skipped, address, mac, migrate};
use crate::packages;
use crate::progress::say;
use crate::seen::Seen;
use crate::site::Site;
use crate::topology::CABLES;
use crate::traffic::ping::Ping;
use crate::vm::Vm;

/// The VLAN that the guest is on, and knows nothing of.
const VLAN: u16 = 7;
const NO_MAC: &str = "00:00:00:00:00:00";
/// How long a change of the path may take to be told.
const PATH_LIMIT: Duration = Duration::from_secs(60);
/// How long a guest may be out of reach while it is moved by hand. A switch that sends the wrong way does so until its entry
/// ages, which here takes five minutes.
const GAP_LIMIT_MS: f64 = 5000.0;
const PING_INTERVAL: Duration = Duration::from_millis(20);
/// How long the kernel's tables may take to show what was told.
const TABLE_LIMIT: Duration = Duration::from_secs(5);

fn batch(program: &str, netns: Option<&str>, line: &str) -> Result<()> {
    let mut command = Command::new(program);
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    packages::run(command.args(line.split(' ')), &format!("{program} {line}"))
}

/// A bridge that is to know VLANs: its namespace, its name, the ports that are on the VLAN without a tag, and those with one.
struct VlanBridge {
    netns: Option<String>,
    name: String,
    untagged: Vec<String>,
    tagged: Vec<String>,
}

impl VlanBridge {
    fn all(site: &Site) -> Vec<Self> {
        let switch = site.switch.iter().map(|(netns, name)| Self {
            netns: Some(netns.clone()),
            name: name.clone(),
            untagged: vec!["client".to_owned()],
            tagged: CABLES
                .iter()
                .take(site.hosts.len())
                .map(|cable| cable.port.to_owned())
                .collect(),
        });
        let hosts = site.hosts.iter().map(|host| Self {
            netns: host.netns.clone(),
            name: host.bridge.clone(),
            untagged: host.taps.iter().take(1).cloned().collect(),
            tagged: vec![host.uplink.clone()],
        });
        switch.chain(hosts).collect()
    }

    fn ip(&self, filtering: bool) -> Result<()> {
        let value = u8::from(filtering);
        let line = format!("link set {} type bridge vlan_filtering {value}", self.name);
        batch("ip", self.netns.as_deref(), &line)
    }

    fn bridge(&self, line: &str) -> Result<()> {
        batch("bridge", self.netns.as_deref(), line)
    }

    fn enter(&self) -> Result<()> {
        for port in &self.untagged {
            self.bridge(&format!("vlan add dev {port} vid {VLAN} pvid untagged"))?;
        }
        for port in &self.tagged {
            self.bridge(&format!("vlan add dev {port} vid {VLAN}"))?;
        }
        self.ip(true)
    }

    fn leave(&self) -> Result<()> {
        self.ip(false)?;
        for port in self.untagged.iter().chain(&self.tagged) {
            self.bridge(&format!("vlan del dev {port} vid {VLAN}"))?;
            // The one that a port has from the start.
            self.bridge(&format!("vlan add dev {port} vid 1 pvid untagged"))?;
        }
        Ok(())
    }
}

/// The hosts' bridges and the switch know VLANs, and standby and client are on one. Undone when it is dropped.
struct OnVlan(Vec<VlanBridge>);

impl OnVlan {
    fn enter(site: &Site) -> Result<Self> {
        let guard = Self(VlanBridge::all(site));
        guard.0.iter().try_for_each(VlanBridge::enter)?;
        Ok(guard)
    }
}

impl Drop for OnVlan {
    fn drop(&mut self) {
        for bridge in &self.0 {
            if let Err(error) = bridge.leave() {
                say(format!("the VLAN of {}: {error:#}", bridge.name));
            }
        }
    }
}

/// A hook that keeps each object it is told.
struct Kept {
    file: PathBuf,
    program: PathBuf,
}

impl Kept {
    fn new(folder: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let (file, program) = (
            folder.join(format!("{name}.told")),
            folder.join(format!("{name}.hook")),
        );
        fs::write(&program, format!("#!/bin/sh\ncat >>'{}'\n", file.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { file, program })
    }

    fn told(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("the hook got {line}")))
            .collect()
    }

    /// The moments, in their order.
    fn moments(&self) -> Result<Vec<String>> {
        let told = self.told()?;
        let moment = |one: &Value| one.get("moment").and_then(Value::as_str).map(str::to_owned);
        told.iter()
            .map(|one| moment(one).with_context(|| format!("no moment in {one}")))
            .collect()
    }
}

/// Waits until a host's network shows this of the first pair.
fn shows(bench: &Bench, host: usize, when: &str, wanted: &Seen) -> Result<()> {
    let deadline = Instant::now() + TABLE_LIMIT;
    loop {
        let seen = bench.site.seen(host, 0)?;
        if seen == *wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{when} the host's network shows {seen:?} and not {wanted:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An order by the monitor, and the event that says that it is so.
fn switch(vm: &Vm, path: &str) -> Result<()> {
    let from = vm.qmp.events().len();
    vm.qmp
        .execute("failover-switch", json!({"id": "net1", "path": path}))?;
    let changed = vm
        .qmp
        .wait_event(from, "FAILOVER_PATH_CHANGED", PATH_LIMIT)
        .with_context(|| format!("no change of the path to {path}"))?;
    ensure!(
        changed.data.get("path") == Some(&json!(path)),
        "ordered to {path}, and {}",
        changed.data
    );
    Ok(())
}

/// Of each moment that was told: no step failed, and it was about this pair.
fn all_done(told: &[Value]) -> Result<()> {
    for one in told {
        let failed = one
            .get("steps")
            .and_then(Value::as_array)
            .with_context(|| format!("no steps in {one}"))?
            .iter()
            .any(|step| step.get("outcome") == Some(&json!("failed")));
        ensure!(!failed, "a step failed: {one}");
        ensure!(
            one.get("mac") == Some(&json!(mac(0))),
            "not about the guest: {one}"
        );
    }
    Ok(())
}

/// On a host with everything named, by order there and back, and to a host that is left alone.
pub fn steered(bench: &Bench) -> Result<()> {
    if bench.vmm.name != "standfast" {
        return Err(Skipped(format!("{} does not steer", bench.vmm.name)).into());
    }
    let vlan = OnVlan::enter(&bench.site)?;
    let (here, there) = (bench.host(0)?, bench.host(1)?);
    let (here_pf, there_pf) = (here.uplink.clone(), there.uplink.clone());
    let found = bench.site.seen(0, 0)?;
    let mut config = bench.config("source", 0)?;
    let tap = here.taps.first().cloned().context("no tap")?;
    let hook = Kept::new(&bench.runs, "source")?;
    let number = here.function_numbers.first().context("no VF")?;
    if let Some(pair) = config.pairs.first_mut() {
        pair.properties = format!(
            ",failover-pf={here_pf},failover-vf={number},failover-vf-vlan={VLAN},failover-standby-port={tap},failover-primary-port={here_pf},failover-hook={}",
            hook.program.display()
        );
    }
    let mut source = bench.boot_with_primary(config)?;
    let on_primary = Seen {
        ports: vec![here_pf.clone()],
        on_pf: false,
        vf_mac: mac(0),
        vf_vlan: VLAN,
    };
    shows(bench, 0, "on the primary", &on_primary)?;

    // Away from the primary and back, by an operator's order, under a client's eyes.
    let ping = Ping::start(bench.site.client.as_deref(), address(0), PING_INTERVAL)?;
    switch(&source, "standby")?;
    bench.without_primary(&mut source, 0)?;
    let on_standby = Seen {
        ports: vec![tap.clone()],
        on_pf: false,
        vf_mac: NO_MAC.to_owned(),
        vf_vlan: VLAN,
    };
    // The driver set the VF's address anew on its way out: what is seen now is what remains.
    let seen = bench.site.seen(0, 0)?;
    ensure!(
        seen.ports == on_standby.ports && seen.vf_mac == NO_MAC,
        "on the standby the host's network shows {seen:?}"
    );
    bench.reachable(0).context("on the standby")?;
    switch(&source, "primary")?;
    bench.settled(&mut source).context("back by order")?;
    shows(bench, 0, "back on the primary", &on_primary)?;
    let seen = ping.finish();
    say(format!(
        "to the standby and back by order: {} of {} lost, longest gap {:.0} ms",
        seen.lost, seen.sent, seen.longest_gap_ms
    ));
    ensure!(
        seen.longest_gap_ms < GAP_LIMIT_MS,
        "the guest was out of reach for {:.0} ms",
        seen.longest_gap_ms
    );
    let expected = [
        "arm-primary",
        "to-primary",
        "to-both",
        "to-standby",
        "arm-primary",
        "to-primary",
    ];
    let told = hook.moments()?;
    ensure!(
        in_order(&told, &expected),
        "the hook was told {told:?}, not {expected:?} in this order"
    );

    // To a host on which nothing is touched but the hook told; its operator has put the VF on the VLAN.
    let line = format!(
        "link set {there_pf} vf {} vlan {VLAN}",
        there.function_numbers.first().context("no VF")?
    );
    batch("ip", there.netns.as_deref(), &line)?;
    let untouched = bench.site.seen(1, 0)?;
    let far_hook = Kept::new(&bench.runs, "target")?;
    let mut config = bench.config("target", 1)?;
    if let Some(pair) = config.pairs.first_mut() {
        pair.properties = format!(
            ",failover-steer=off,failover-hook={}",
            far_hook.program.display()
        );
    }
    let mut target = migrate::step_to(bench, source, config, 1)?;
    // The source has ended: its host is as it was found.
    bench.nothing_left(0, &found)?;
    let told = hook.told()?;
    all_done(&told)?;
    let moments = hook.moments()?;
    ensure!(
        in_order(&moments, &["to-both", "to-standby", "guest-left", "end"]),
        "the source's hook was told {moments:?}"
    );
    let now = bench.site.seen(1, 0)?;
    ensure!(
        (&now.vf_mac, now.vf_vlan, now.on_pf) == (&untouched.vf_mac, untouched.vf_vlan, false),
        "with steering off the host's network shows {now:?}, and before {untouched:?}"
    );
    let moments = far_hook.moments()?;
    ensure!(
        in_order(&moments, &["to-standby", "arm-primary", "to-primary"]),
        "the target's hook was told {moments:?}"
    );
    let told = far_hook.told()?;
    let did = |one: &Value| one.get("steps") != Some(&json!([]));
    ensure!(
        !told.iter().any(did),
        "with steering off there were steps: {told:?}"
    );
    ensure!(target.quit()?.success(), "the target did not quit with 0");
    ensure!(
        far_hook.moments()?.last().is_some_and(|last| last == "end"),
        "the target's hook was not told the end"
    );
    drop(vlan);
    Ok(())
}

/// Whether these come in this order, with others between them or not.
fn in_order(told: &[String], expected: &[&str]) -> bool {
    let mut told = told.iter();
    expected.iter().all(|one| told.any(|moment| moment == one))
}
