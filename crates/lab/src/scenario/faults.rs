//! Migrations that do not arrive: each ends with the guest reachable where it was, on its primary.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{Bench, migrate};
use crate::vm::Vm;

const STATE_LIMIT: Duration = Duration::from_secs(60);

/// A migration that is under way, and slow enough to be interfered with.
struct UnderWay {
    source: Vm,
    target: Vm,
    from: usize,
    booted: String,
}

fn begin(bench: &Bench, native: bool, state: &str) -> Result<UnderWay> {
    let mut config = bench.config("source", 0)?;
    config.native_hotplug = native;
    let mut source = bench.boot_with_primary(config)?;
    let mut config = bench.config("target", 1)?;
    config.native_hotplug = native;
    config.incoming = Some(bench.uri(1)?);
    let target = bench.start(config)?;
    migrate::announce_states(&source, Some(&target))?;
    source.qmp.execute(
        "migrate-set-parameters",
        json!({"max-bandwidth": 256 * 1024}),
    )?;
    let booted = source.state()?.boot;
    let from = source.qmp.events().len();
    source
        .qmp
        .execute("migrate", json!({"uri": bench.uri(1)?}))?;
    if source
        .qmp
        .wait_event(from, &format!("MIGRATION:{state}"), STATE_LIMIT)
        .is_none()
    {
        source.check_alive()?;
        let events: Vec<String> = source
            .qmp
            .events()
            .iter()
            .skip(from)
            .map(|event| event.label())
            .collect();
        bail!("the migration did not get to {state}: {events:?}");
    }
    Ok(UnderWay {
        source,
        target,
        from,
        booted,
    })
}

fn back_in_order(bench: &Bench, under_way: &mut UnderWay, ended: &str) -> Result<()> {
    let UnderWay {
        source,
        from,
        booted,
        ..
    } = under_way;
    let ends = [
        "MIGRATION:cancelled",
        "MIGRATION:failed",
        "MIGRATION:completed",
    ];
    let end = source
        .qmp
        .wait_any(*from, &ends, STATE_LIMIT)
        .context("the migration did not end")?;
    ensure!(
        end.label() == ended,
        "the migration ended as {}, not {ended}",
        end.label()
    );
    let status = source.qmp.execute("query-status", json!({}))?;
    ensure!(
        status.get("running") == Some(&json!(true)),
        "the source does not run: {status}"
    );
    let state = bench
        .settled(source)
        .with_context(|| format!("after {ended}"))?;
    ensure!(state.boot == *booted, "the guest booted anew");
    Ok(())
}

/// Cancelled while the guest has been asked to let go and has not done so.
pub fn cancel_wait_unplug(bench: &Bench) -> Result<()> {
    // With native hotplug the guest takes five seconds, so the cancel is sure to come before.
    let mut under_way = begin(bench, true, "wait-unplug")?;
    under_way.source.qmp.execute("migrate_cancel", json!({}))?;
    back_in_order(bench, &mut under_way, "MIGRATION:cancelled")?;
    // A late answer of the guest to the withdrawn request must not take the primary away again.
    std::thread::sleep(Duration::from_secs(9));
    bench
        .settled(&mut under_way.source)
        .context("nine seconds after the cancel")?;
    Ok(())
}

/// Cancelled while memory is copied.
pub fn cancel_active(bench: &Bench) -> Result<()> {
    let mut under_way = begin(bench, false, "active")?;
    under_way.source.qmp.execute("migrate_cancel", json!({}))?;
    back_in_order(bench, &mut under_way, "MIGRATION:cancelled")
}

/// The target's VMM dies while memory is copied.
pub fn target_killed(bench: &Bench) -> Result<()> {
    let mut under_way = begin(bench, false, "active")?;
    under_way.target.kill();
    back_in_order(bench, &mut under_way, "MIGRATION:failed")
}

/// The target has another device layout: it refuses the guest, which stays where it was.
pub fn target_refuses(bench: &Bench) -> Result<()> {
    let mut source = bench.boot_with_primary(bench.config("source", 0)?)?;
    let mut config = bench.config("target", 1)?;
    for pair in &mut config.pairs {
        pair.failover = false;
        pair.primary = None;
    }
    config.incoming = Some(bench.uri(1)?);
    let target = bench.start(config)?;
    migrate::announce_states(&source, Some(&target))?;
    let booted = source.state()?.boot;
    let from = source.qmp.events().len();
    source
        .qmp
        .execute("migrate", json!({"uri": bench.uri(1)?}))?;
    let mut under_way = UnderWay {
        source,
        target,
        from,
        booted,
    };
    back_in_order(bench, &mut under_way, "MIGRATION:failed")?;
    let events = under_way.target.qmp.events();
    ensure!(
        !events.iter().any(|event| event.name == "RESUME"),
        "the target resumed a guest it cannot run"
    );
    Ok(())
}
