//! Guests that do not let go of their primary when they are asked, and what happens meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::relay::Relay;
use super::{BOOT_LIMIT, Bench, Skipped, migrate};
use crate::vm::Vm;

const STATE_LIMIT: Duration = Duration::from_secs(60);
/// How long the guest has that ignores the request.
const SHORT_MS: u32 = 3000;
/// How long it has when something else is to end the wait.
const LONG_MS: u32 = 600_000;
/// The driver of the slots no longer hears of their buttons; what is plugged stays.
const IGNORE: &str =
    "cd /sys/bus/pci_express/drivers/pciehp && for slot in *:pcie*; do echo $slot > unbind; done";

const ENDS: [&str; 3] = [
    "MIGRATION:completed",
    "MIGRATION:failed",
    "MIGRATION:cancelled",
];

fn target(bench: &Bench, name: &str) -> Result<Vm> {
    let mut config = bench.config(name, 1)?;
    config.native_hotplug = true;
    config.reboots = true;
    config.incoming = Some(bench.uri(1)?);
    bench.start(config)
}

/// Begins to migrate, and waits until the guest is waited for; the number of the first event.
fn begin(source: &Vm, target: &Vm, uri: &str, timeout_ms: u32) -> Result<usize> {
    migrate::announce_states(source, Some(target))?;
    source.qmp.execute(
        "migrate-set-parameters",
        json!({"failover-unplug-timeout": timeout_ms}),
    )?;
    let from = source.qmp.events().len();
    source.qmp.execute("migrate", json!({"uri": uri}))?;
    source
        .qmp
        .wait_event(from, "MIGRATION:wait-unplug", STATE_LIMIT)
        .context("the guest is not waited for")?;
    Ok(from)
}

/// Waits for the migration's failure; what is said of it.
fn failed(source: &Vm, from: usize) -> Result<Value> {
    let end = source
        .qmp
        .wait_any(from, &ENDS, STATE_LIMIT)
        .context("the migration did not end")?;
    ensure!(
        end.label() == "MIGRATION:failed",
        "the migration ended as {}",
        end.label()
    );
    source.qmp.execute("query-migrate", json!({}))
}

/// The source runs its guest, on its primary, and the target does not.
fn stays(bench: &Bench, source: &mut Vm, target: &Vm, booted: &str) -> Result<()> {
    let resumed = target.qmp.events().iter().any(|one| one.name == "RESUME");
    ensure!(!resumed, "the target runs the guest");
    let state = bench.settled(source)?;
    ensure!(state.boot == booted, "the guest booted anew");
    Ok(())
}

/// One guest, asked three times: it ignores it, the stream is cut, it panics.
pub fn stubborn_guest(bench: &Bench) -> Result<()> {
    if bench.vmm.name != "standfast" {
        return Err(Skipped(format!("{} waits for ever", bench.vmm.name)).into());
    }
    let found = [bench.site.seen(0, 0)?, bench.site.seen(1, 0)?];
    let mut config = bench.config("source", 0)?;
    config.native_hotplug = true;
    config.reboots = true;
    let mut source = bench.boot_with_primary(config)?;
    source.agent.shell(IGNORE)?;
    let booted = source.state()?.boot;

    // It ignores the request.
    let first = target(bench, "first")?;
    let from = begin(&source, &first, &bench.uri(1)?, SHORT_MS)?;
    let info = failed(&source, from)?;
    ensure!(
        info.get("failover-reason") == Some(&json!("guest-ignored")),
        "a guest that ignores the request: {info}"
    );
    let told = source
        .qmp
        .wait_event(from, "FAILOVER_UNPLUG_FAILED", STATE_LIMIT)
        .context("no FAILOVER_UNPLUG_FAILED")?;
    ensure!(
        told.data.get("reason") == Some(&json!("guest-ignored")),
        "FAILOVER_UNPLUG_FAILED {}",
        told.data
    );
    stays(bench, &mut source, &first, &booted).context("after the deadline")?;
    drop(first);

    // The stream is cut while it is waited for.
    let second = target(bench, "second")?;
    let (here, there) = (bench.host(0)?, bench.host(1)?);
    let relay = Relay::start(here.netns.as_deref(), there.address, 4444)?;
    let from = begin(&source, &second, &relay.uri(), LONG_MS)?;
    relay.cut();
    let info = failed(&source, from)?;
    ensure!(
        info.get("failover-reason").is_none(),
        "a stream that was cut: {info}"
    );
    stays(bench, &mut source, &second, &booted).context("after the stream was cut")?;
    drop(second);

    // It panics while it is waited for, and boots again: nothing of it holds the primary then, and it moves.
    let mut third = target(bench, "third")?;
    let from = begin(&source, &third, &bench.uri(1)?, LONG_MS)?;
    // There is no answer to this.
    let _ = source
        .agent
        .shell("(sleep 1; echo c > /proc/sysrq-trigger) &");
    let end = source
        .qmp
        .wait_any(from, &ENDS, BOOT_LIMIT)
        .context("the migration did not end after the panic")?;
    ensure!(
        end.label() == "MIGRATION:completed",
        "after the panic the migration ended as {}: {}",
        end.label(),
        source.qmp.execute("query-migrate", json!({}))?
    );
    third.wait_console("GUEST-READY", BOOT_LIMIT)?;
    let state = bench
        .settled(&mut third)
        .context("on the target after the panic")?;
    ensure!(state.boot != booted, "the guest did not boot anew");
    let status = source.qmp.execute("query-status", json!({}))?;
    ensure!(
        status.get("running") == Some(&json!(false)),
        "both sides run: {status}"
    );
    source.quit()?;
    ensure!(third.quit()?.success(), "the target did not quit with 0");
    bench.nothing_left(0, &found[0])?;
    bench.nothing_left(1, &found[1])
}
