//! Incoming migration: from a process and from a file, and targets that do not fit.

use anyhow::Result;
use serde_json::{Value, json};

use super::{accepted_as, completed, eject_primaries, events, look, plain_look, until_back};
use crate::guest::Guest;
use crate::intended::{DELETE_HIDDEN, HIDDEN, LOAD_ERROR, NO_STATE};
use crate::machine::{add_primary, board, mac, pairs, primary, standby, words};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;
use crate::vmm::Vmm;

/// A target that waits for `migrate-incoming`.
fn target(stage: &mut Stage, line: &[String]) -> Result<Vmm> {
    let mut line = line.to_vec();
    line.extend(words("-incoming defer"));
    let mut vmm = stage.start("target", &line)?;
    events(&mut vmm)?;
    Ok(vmm)
}

/// Migrates `count` accepted pairs to a target with this command line; both are returned once both have completed.
fn to(stage: &mut Stage, count: usize, line: &[String]) -> Result<(Vmm, Vmm)> {
    let uri = format!("unix:{}", stage.text("channel"));
    let mut target = target(stage, line)?;
    target.ask("migrate-incoming", json!({"uri": uri}))?;
    let (mut source, mut guest) = accepted_as(stage, "source", count)?;
    events(&mut source)?;
    source.ask("migrate", json!({"uri": uri}))?;
    source.wait("MIGRATION wait-unplug")?;
    eject_primaries(&mut guest, count)?;
    completed(&mut source)?;
    target.wait("MIGRATION completed")?;
    Ok((source, target))
}

/// The same, and both looked at.
fn there(stage: &mut Stage, count: usize) -> Result<()> {
    let (mut source, mut target) = to(stage, count, &pairs(count))?;
    target.ask("query-status", Value::Null)?;
    target.ask("query-migrate", Value::Null)?;
    for pair in 0..count {
        until_back(&mut target, pair)?;
    }
    look(&mut target)?;
    source.ask("query-status", Value::Null)?;
    source.ask("query-migrate", Value::Null)?;
    source.finish()?;
    target.finish()
}

/// A source without a primary in use migrates to a target that must refuse it.
fn refused(stage: &mut Stage, line: &[String]) -> Result<()> {
    let uri = format!("unix:{}", stage.text("channel"));
    let mut target = target(stage, line)?;
    target.ask("migrate-incoming", json!({"uri": uri}))?;
    let mut source = stage.start("source", &[board(2), standby(0)].concat())?;
    let mut guest = Guest::boot(&mut source)?;
    guest.accept(0)?;
    source.wait("FAILOVER_NEGOTIATED")?;
    events(&mut source)?;
    source.ask("migrate", json!({"uri": uri}))?;
    // Whether QEMU's source hears of it is a matter of luck.
    target.conclude()?;
    source.abandon();
    Ok(())
}

/// A file made by a source with one pair is loaded by a target.
fn from_file(stage: &mut Stage, out: &str, back: &str) -> Result<()> {
    let at = stage.text("state");
    let (mut source, mut guest) = accepted_as(stage, "source", 1)?;
    events(&mut source)?;
    source.ask("migrate", json!({"uri": out.replace("FILE", &at)}))?;
    source.wait("MIGRATION wait-unplug")?;
    guest.eject(1)?;
    completed(&mut source)?;
    source.finish()?;
    let mut target = target(stage, &pairs(1))?;
    target.ask(
        "migrate-incoming",
        json!({"uri": back.replace("FILE", &at)}),
    )?;
    target.wait("MIGRATION completed")?;
    until_back(&mut target, 0)?;
    look(&mut target)?;
    target.finish()
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("target-pair", "a pair, to a process", |stage| there(
        stage, 1
    )),
    row!("target-two", "two pairs, to a process", |stage| there(
        stage, 2
    )),
    row!("target-three", "three pairs, to a process", |stage| there(
        stage, 3
    )),
    row!("target-eight", "eight pairs, to a process", |stage| there(
        stage, 8
    )),
    row!("target-exec", "a pair, from a file by exec:", |stage| {
        from_file(stage, "exec:cat > FILE", "exec:cat FILE")
    }),
    row!("target-file", "a pair, from a file by file:", |stage| {
        from_file(stage, "file:FILE", "file:FILE")
    }),
    row!("target-uri", "-incoming with a URI", |stage| {
        let uri = format!("unix:{}", stage.text("channel"));
        let line = [pairs(1), vec!["-incoming".into(), uri.clone()]].concat();
        let mut target = stage.start("target", &line)?;
        events(&mut target)?;
        let (mut source, mut guest) = accepted_as(stage, "source", 1)?;
        events(&mut source)?;
        source.ask("migrate", json!({"uri": uri}))?;
        source.wait("MIGRATION wait-unplug")?;
        guest.eject(1)?;
        completed(&mut source)?;
        target.wait("MIGRATION completed")?;
        until_back(&mut target, 0)?;
        look(&mut target)?;
        source.finish()?;
        target.finish()
    }),
    row!(
        "target-stopped",
        "a target with -S, continued then",
        |stage| {
            let line = [pairs(1), words("-S")].concat();
            let (source, mut target) = to(stage, 1, &line)?;
            target.ask("query-status", Value::Null)?;
            target.ask("cont", Value::Null)?;
            until_back(&mut target, 0)?;
            look(&mut target)?;
            source.finish()?;
            target.finish()
        }
    ),
    row!(
        "target-no-primary",
        "neither has a primary; the target gets one by the monitor",
        |stage| {
            let line = [board(2), standby(0)].concat();
            let uri = format!("unix:{}", stage.text("channel"));
            let mut target = target(stage, &line)?;
            target.ask("migrate-incoming", json!({"uri": uri}))?;
            let mut source = stage.start("source", &line)?;
            Guest::boot(&mut source)?.accept(0)?;
            source.wait("FAILOVER_NEGOTIATED")?;
            events(&mut source)?;
            source.ask("migrate", json!({"uri": uri}))?;
            completed(&mut source)?;
            target.wait("MIGRATION completed")?;
            look(&mut target)?;
            target.ask("device_add", add_primary(0))?;
            until_back(&mut target, 0)?;
            look(&mut target)?;
            source.finish()?;
            target.finish()
        }
    ),
    row!(
        "target-primary-missing",
        "the source has a primary, the target has none",
        |stage| {
            let uri = format!("unix:{}", stage.text("channel"));
            let mut target = target(stage, &[board(2), standby(0)].concat())?;
            target.ask("migrate-incoming", json!({"uri": uri}))?;
            let (mut source, mut guest) = accepted_as(stage, "source", 1)?;
            events(&mut source)?;
            source.ask("migrate", json!({"uri": uri}))?;
            source.wait("MIGRATION wait-unplug")?;
            guest.eject(1)?;
            source.wait_any(&["MIGRATION completed", "MIGRATION failed"])?;
            target.wait_any(&["MIGRATION completed", "MIGRATION failed"])?;
            source.finish()?;
            target.finish()
        },
        &[NO_STATE]
    ),
    row!(
        "target-primary-first",
        "a target whose primary is listed first",
        |stage| {
            let (source, mut target) = to(stage, 1, &[board(2), primary(0), standby(0)].concat())?;
            until_back(&mut target, 0)?;
            look(&mut target)?;
            source.finish()?;
            target.finish()
        },
        &[HIDDEN]
    ),
    row!(
        "target-failover-off",
        "a target whose standby does not offer it",
        |stage| {
            let mut line = board(2);
            line.extend(words(&format!(
                "-device virtio-net-pci,id=standby0,bus=root0,romfile=,mac={}",
                mac(0)
            )));
            refused(stage, &line)
        },
        &[LOAD_ERROR]
    ),
    row!(
        "target-no-standby",
        "a target without the standby",
        |stage| refused(stage, &board(2)),
        &[LOAD_ERROR]
    ),
    row!(
        "target-hidden",
        "a pair that no guest has accepted, to a process",
        |stage| {
            let uri = format!("unix:{}", stage.text("channel"));
            let mut target = target(stage, &pairs(1))?;
            target.ask("migrate-incoming", json!({"uri": uri}))?;
            let mut source = stage.start("source", &pairs(1))?;
            events(&mut source)?;
            source.ask("migrate", json!({"uri": uri}))?;
            completed(&mut source)?;
            target.wait("MIGRATION completed")?;
            look(&mut target)?;
            source.finish()?;
            target.finish()
        }
    ),
    row!(
        "target-garbage",
        "a stream that is none",
        |stage| {
            let file = stage.path("garbage");
            std::fs::write(&file, [0x55; 4096])?;
            let mut vmm = target(stage, &pairs(1))?;
            vmm.ask(
                "migrate-incoming",
                json!({"uri": format!("exec:cat {}", file.display())}),
            )?;
            vmm.conclude()
        },
        &[LOAD_ERROR]
    ),
    row!(
        "target-device-del-meanwhile",
        "device_add and device_del on a target that waits",
        |stage| {
            let mut vmm = target(stage, &[board(2), standby(0)].concat())?;
            vmm.ask("device_add", add_primary(0))?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            vmm.ask("device_del", json!({"id": "standby0"}))?;
            plain_look(&mut vmm)?;
            vmm.finish()
        },
        &[DELETE_HIDDEN]
    ),
    row!(
        "target-and-back",
        "device_del of the primary on the target after it came",
        |stage| {
            let (source, mut target) = to(stage, 1, &pairs(1))?;
            let mut guest = Guest::boot(&mut target)?;
            until_back(&mut target, 0)?;
            target.ask("device_del", json!({"id": "primary0"}))?;
            guest.eject(1)?;
            target.wait("DEVICE_DELETED primary0")?;
            look(&mut target)?;
            source.finish()?;
            target.finish()
        }
    ),
];
