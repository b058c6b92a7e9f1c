//! A guest moves.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Bench;
use crate::qmp::Event;
use crate::vm::{Config, Vm, Vmm};

/// How long a migration may take in the lab.
pub const MIGRATION_LIMIT: Duration = Duration::from_secs(120);

/// Asks both monitors to tell of every change of the migration's state.
pub fn announce_states(source: &Vm, target: Option<&Vm>) -> Result<()> {
    for vm in [Some(source), target].into_iter().flatten() {
        vm.qmp.execute(
            "migrate-set-capabilities",
            json!({"capabilities": [{"capability": "events", "state": true}]}),
        )?;
    }
    Ok(())
}

/// Moves a guest; returns the events of the source and of the target from `migrate` on.
pub fn run(source: &mut Vm, target: &mut Vm, uri: &str) -> Result<(Vec<Event>, Vec<Event>)> {
    announce_states(source, Some(target))?;
    let (from, onto) = (source.qmp.events().len(), target.qmp.events().len());
    source.qmp.execute("migrate", json!({"uri": uri}))?;
    let ended = [
        "MIGRATION:completed",
        "MIGRATION:failed",
        "MIGRATION:cancelled",
    ];
    let end = source.qmp.wait_any(from, &ended, MIGRATION_LIMIT);
    let status = source
        .qmp
        .execute("query-migrate", json!({}))
        .unwrap_or(Value::Null);
    let Some(end) = end else {
        source.check_alive()?;
        bail!(
            "the migration did not end within {} s: {status}",
            MIGRATION_LIMIT.as_secs()
        );
    };
    if end.label() != "MIGRATION:completed" {
        target.check_alive()?;
        bail!(
            "the migration ended as {}: {status}; the target said: {}",
            end.label(),
            target.said().trim()
        );
    }
    if target
        .qmp
        .wait_event(onto, "RESUME", Duration::from_secs(60))
        .is_none()
    {
        target.check_alive()?;
        bail!("no RESUME on the target: {}", target.said().trim());
    }
    let later = |vm: &Vm, from: usize| vm.qmp.events().into_iter().skip(from).collect();
    Ok((later(source, from), later(target, onto)))
}

/// What tells a guest that moved from one that booted again.
fn same_guest(
    before: &crate::guest::agent::Reply,
    after: &crate::guest::agent::Reply,
) -> Result<()> {
    ensure!(
        before.boot == after.boot,
        "the guest booted anew: {} and {}",
        before.boot,
        after.boot
    );
    ensure!(
        before.up <= after.up,
        "the guest's uptime went back from {} to {}",
        before.up,
        after.up
    );
    Ok(())
}

/// Moves a guest from one host to the other; returns the machine it ends in.
fn step(bench: &Bench, source: Vm, name: &str, onto: usize) -> Result<Vm> {
    step_to(bench, source, bench.config(name, onto)?, onto)
}

/// The same, into a machine of this configuration.
pub fn step_to(bench: &Bench, source: Vm, config: Config, onto: usize) -> Result<Vm> {
    step_by(bench, &bench.vmm, source, config, onto)
}

/// The same, into a machine of this VMM's.
pub fn step_by(
    bench: &Bench,
    vmm: &Vmm,
    mut source: Vm,
    mut config: Config,
    onto: usize,
) -> Result<Vm> {
    let name = config.name.clone();
    config.incoming = Some(bench.uri(onto)?);
    let mut target = Vm::start(vmm, config, &bench.runs)?;
    let before = source.state()?;
    run(&mut source, &mut target, &bench.uri(onto)?).with_context(|| format!("to {name}"))?;
    let status = source.qmp.execute("query-status", json!({}))?;
    ensure!(
        status.get("running") == Some(&json!(false)),
        "the source still runs after the migration: {status}"
    );
    let after = bench
        .settled(&mut target)
        .with_context(|| format!("on {name}"))?;
    same_guest(&before, &after)?;
    source.quit()?;
    Ok(target)
}

/// Moves a guest without a primary, and checks that it answers; returns the machine it ends in.
pub fn plain_step(bench: &Bench, mut source: Vm, mut config: Config, onto: usize) -> Result<Vm> {
    let name = config.name.clone();
    config.incoming = Some(bench.uri(onto)?);
    let mut target = bench.start(config)?;
    let before = source.state()?;
    run(&mut source, &mut target, &bench.uri(onto)?).with_context(|| format!("to {name}"))?;
    source.quit()?;
    bench.reachable(0).with_context(|| format!("on {name}"))?;
    same_guest(&before, &target.state()?)?;
    // What is in memory is what was there: the guest answers by its agent, with its programs.
    target.agent.shell("ip addr | grep -q 10.9.0.2")?;
    Ok(target)
}

/// To the other host and back, each time into a fresh process.
pub fn there_and_back(bench: &Bench) -> Result<()> {
    let first = bench.boot_with_primary(bench.config("first", 0)?)?;
    let second = step(bench, first, "second", 1)?;
    let mut third = step(bench, second, "third", 0)?;
    ensure!(
        third.quit()?.success(),
        "the last VMM did not quit with status 0"
    );
    Ok(())
}

/// To the other host.
pub fn once(bench: &Bench) -> Result<()> {
    let first = bench.boot_with_primary(bench.config("first", 0)?)?;
    step(bench, first, "second", 1)?;
    Ok(())
}
