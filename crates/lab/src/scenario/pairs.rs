//! The pair in a running guest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Bench, mac, migrate};
use crate::guest::links;
use crate::vm::Vm;

/// The ids of the devices that `query-pci` lists, those behind bridges too.
fn listed(vm: &Vm) -> Result<Vec<String>> {
    fn walk(value: &Value, ids: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, ids)),
            Value::Object(map) => {
                if let Some(id) = map.get("qdev_id").and_then(Value::as_str) {
                    ids.push(id.to_owned());
                }
                map.values().for_each(|item| walk(item, ids));
            }
            _ => {}
        }
    }
    let mut ids = Vec::new();
    walk(&vm.qmp.execute("query-pci", json!({}))?, &mut ids);
    Ok(ids)
}

fn pair(bench: &Bench, driver: &str) -> Result<()> {
    let mut vm = bench.boot_with_primary(bench.config("guest", 0)?)?;
    let state = vm.state()?;
    let (_, primary) = links::primary(&state.links, &mac(0)).context("no primary")?;
    ensure!(
        primary.driver.as_deref() == Some(driver),
        "the primary's driver is {:?}",
        primary.driver
    );
    let events = vm.qmp.events();
    let accepted = events
        .iter()
        .find(|event| event.name == "FAILOVER_NEGOTIATED");
    let accepted = accepted.context("no FAILOVER_NEGOTIATED")?;
    ensure!(
        accepted.data.get("device-id") == Some(&json!("net1")),
        "FAILOVER_NEGOTIATED of {}",
        accepted.data
    );
    let ids = listed(&vm)?;
    ensure!(
        ids.iter().any(|id| id == "hostdev0"),
        "query-pci lists {ids:?}"
    );
    ensure!(
        vm.quit()?.success(),
        "the VMM did not quit with status 0: {}",
        vm.said().trim()
    );
    Ok(())
}

/// The pair with an SR-IOV virtual function.
pub fn pair_vf(bench: &Bench) -> Result<()> {
    pair(bench, "igbvf")
}

/// The pair with an e1000e.
pub fn pair_e1000e(bench: &Bench) -> Result<()> {
    pair(bench, "e1000e")
}

/// A guest with two pairs moves, and has both primaries there.
pub fn two_pairs(bench: &Bench) -> Result<()> {
    let mut source = bench.boot_with_primary(bench.config_pairs("source", 0, 2)?)?;
    let mut target = bench.config_pairs("target", 1, 2)?;
    target.incoming = Some(bench.uri(1)?);
    let mut target = bench.start(target)?;
    let from = source.qmp.events().len();
    migrate::run(&mut source, &mut target, &bench.uri(1)?)?;
    let asked: Vec<Value> = source
        .qmp
        .events()
        .into_iter()
        .skip(from)
        .filter(|event| event.name == "UNPLUG_PRIMARY")
        .filter_map(|event| event.data.get("device-id").cloned())
        .collect();
    ensure!(
        asked == [json!("hostdev1"), json!("hostdev0")],
        "asked to unplug: {asked:?}"
    );
    bench.settled(&mut target)?;
    Ok(())
}

/// A guest whose virtio-net driver is not there does not accept STANDBY: its primary stays
/// hidden, nothing has to be unplugged, and once the driver comes, on the target, so does the primary.
pub fn no_standby(bench: &Bench) -> Result<()> {
    let mut config = bench.config("source", 0)?;
    config.append.push("lab.skip=virtio_net".to_owned());
    let mut source = bench.boot(config)?;
    ensure!(
        source.state()?.links.is_empty(),
        "the guest sees {:?}",
        source.state()?.links
    );
    let ids = listed(&source)?;
    ensure!(
        !ids.iter().any(|id| id == "hostdev0"),
        "query-pci lists the hidden primary: {ids:?}"
    );
    let mut config = bench.config("target", 1)?;
    config.incoming = Some(bench.uri(1)?);
    let mut target = bench.start(config)?;
    let (seen, _) = migrate::run(&mut source, &mut target, &bench.uri(1)?)?;
    let labels: Vec<String> = seen.iter().map(|event| event.label()).collect();
    for unwanted in [
        "FAILOVER_NEGOTIATED",
        "UNPLUG_PRIMARY",
        "MIGRATION:wait-unplug",
    ] {
        ensure!(
            !labels.iter().any(|label| label == unwanted),
            "{unwanted} among {labels:?}"
        );
    }
    ensure!(
        target.state()?.links.is_empty(),
        "the guest sees {:?}",
        target.state()?.links
    );
    target.agent.load_module("virtio_net")?;
    let accepted = target
        .qmp
        .wait_event(0, "FAILOVER_NEGOTIATED", Duration::from_secs(30));
    ensure!(
        accepted.is_some(),
        "no FAILOVER_NEGOTIATED after the driver was loaded"
    );
    bench
        .settled(&mut target)
        .context("after the driver was loaded")?;
    Ok(())
}
