//! A primary comes and goes by the monitor.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Bench;
use crate::vm::Vm;

const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

fn add_primary(vm: &Vm, host: &str) -> Result<()> {
    vm.qmp.execute(
        "device_add",
        json!({"driver": "vfio-pci", "host": host, "id": "hostdev0", "bus": "root1", "failover_pair_id": "net1"}),
    )?;
    Ok(())
}

/// A primary that was not there at boot joins its standby.
pub fn hot_add(bench: &Bench) -> Result<()> {
    let mut config = bench.config("guest", 0)?;
    let host = config
        .pairs
        .first_mut()
        .and_then(|pair| pair.primary.take())
        .context("no primary")?;
    // Until there is a primary no VMM knows which VF to take the address from.
    bench.site.steer(0, 0, true)?;
    let mut vm = bench.boot(config)?;
    bench.reachable(0)?;
    bench.site.steer(0, 0, false)?;
    add_primary(&vm, &host)?;
    bench.settled(&mut vm)?;
    Ok(())
}

fn remove_and_return(bench: &Bench, native: bool) -> Result<()> {
    let mut config = bench.config("guest", 0)?;
    config.native_hotplug = native;
    let host = config
        .pairs
        .first()
        .and_then(|pair| pair.primary.clone())
        .context("no primary")?;
    let mut vm = bench.boot_with_primary(config)?;
    let from = vm.qmp.events().len();
    vm.qmp.execute("device_del", json!({"id": "hostdev0"}))?;
    let deleted = vm.qmp.wait_event(from, "DEVICE_DELETED", REMOVAL_LIMIT);
    let deleted = deleted.context("no DEVICE_DELETED: the guest did not let go")?;
    ensure!(
        deleted.data.get("device") == Some(&json!("hostdev0")),
        "DEVICE_DELETED of {}",
        deleted.data
    );
    bench.without_primary(&mut vm, 0)?;
    bench.operator_steers(0, true)?;
    bench.reachable(0).context("on the standby")?;
    bench.operator_steers(0, false)?;
    add_primary(&vm, &host)?;
    bench
        .settled(&mut vm)
        .context("after the primary was added again")?;
    Ok(())
}

/// A primary leaves by ACPI eject, and comes back.
pub fn remove_acpi(bench: &Bench) -> Result<()> {
    remove_and_return(bench, false)
}

/// A primary leaves by native PCIe hotplug, and comes back.
pub fn remove_native(bench: &Bench) -> Result<()> {
    remove_and_return(bench, true)
}
