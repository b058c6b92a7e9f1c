//! Outgoing migration: to a file and to a process, and what is asked and refused meanwhile.

use anyhow::Result;
use serde_json::{Value, json};

use super::{accepted, completed, eject_primaries, events, look, plain_look};
use crate::guest::Guest;
use crate::intended::{LOGGED, MIGRATING, PARKED, PAUSED};
use crate::machine::{add_primary, board, mac, pairs, standby, words};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;
use crate::vmm::Vmm;

/// A migration of `count` accepted pairs to `uri`, in which DIR is the stage's folder, looked at at each step.
fn out(stage: &mut Stage, count: usize, uri: &str) -> Result<()> {
    let uri = uri.replace("DIR", &stage.text(""));
    let (mut vmm, mut guest) = accepted(stage, count)?;
    events(&mut vmm)?;
    vmm.step("migrate");
    vmm.ask("migrate", json!({"uri": uri}))?;
    vmm.wait("MIGRATION wait-unplug")?;
    look(&mut vmm)?;
    vmm.step("the guest ejects");
    eject_primaries(&mut guest, count)?;
    completed(&mut vmm)?;
    look(&mut vmm)?;
    vmm.finish()
}

/// The same for a machine in which no guest has to let go of anything.
fn out_plain(
    stage: &mut Stage,
    line: &[String],
    prepare: fn(&mut Vmm) -> Result<()>,
) -> Result<()> {
    let uri = format!("exec:cat > {}", stage.text("state"));
    let mut vmm = stage.start("vm", line)?;
    prepare(&mut vmm)?;
    events(&mut vmm)?;
    vmm.step("migrate");
    vmm.ask("migrate", json!({"uri": uri}))?;
    completed(&mut vmm)?;
    look(&mut vmm)?;
    vmm.finish()
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!(
        "migrate-exec",
        "a pair, to a file by exec:",
        |stage| out(stage, 1, "exec:cat > DIR/state"),
        &[PARKED]
    ),
    row!(
        "migrate-file",
        "a pair, to a file by file:",
        |stage| out(stage, 1, "file:DIR/state"),
        &[PARKED]
    ),
    row!(
        "migrate-two",
        "two pairs, to a file",
        |stage| out(stage, 2, "exec:cat > DIR/state"),
        &[PARKED]
    ),
    row!(
        "migrate-three",
        "three pairs, to a file",
        |stage| out(stage, 3, "exec:cat > DIR/state"),
        &[PARKED]
    ),
    row!(
        "migrate-eight",
        "eight pairs, to a file",
        |stage| out(stage, 8, "file:DIR/state"),
        &[PARKED]
    ),
    row!("migrate-no-nic", "a machine without a pair", |stage| {
        out_plain(stage, &board(1), |_| Ok(()))
    }),
    row!(
        "migrate-standby-alone",
        "a standby whose primary never came",
        |stage| {
            out_plain(stage, &[board(2), standby(0)].concat(), |vmm| {
                let mut guest = Guest::boot(vmm)?;
                guest.accept(0)?;
                vmm.wait("FAILOVER_NEGOTIATED").map(drop)
            })
        }
    ),
    row!(
        "migrate-hidden",
        "a pair that no guest has accepted",
        |stage| { out_plain(stage, &pairs(1), |_| Ok(())) }
    ),
    row!(
        "migrate-refused-standby",
        "a pair whose guest did not accept",
        |stage| { out_plain(stage, &pairs(1), |vmm| Guest::boot(vmm)?.refuse(0)) }
    ),
    row!(
        "migrate-failover-off",
        "a standby with failover=off",
        |stage| {
            let mut line = board(2);
            line.extend(words(&format!(
                "-device virtio-net-pci,id=standby0,bus=root0,romfile=,mac={}",
                mac(0)
            )));
            out_plain(stage, &line, |vmm| Guest::boot(vmm)?.accept(0))
        }
    ),
    row!(
        "migrate-after-del",
        "a pair whose primary was deleted",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            guest.eject(1)?;
            vmm.wait("DEVICE_DELETED primary0")?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            completed(&mut vmm)?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "migrate-added-late",
        "a pair whose primary came by the monitor",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let mut vmm = stage.start("vm", &[board(2), standby(0)].concat())?;
            let mut guest = Guest::boot(&mut vmm)?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            vmm.ask("device_add", add_primary(0))?;
            events(&mut vmm)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            guest.eject(1)?;
            completed(&mut vmm)?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[PARKED]
    ),
    row!(
        "migrate-partly",
        "two pairs, of which the guest accepted one",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let mut vmm = stage.start("vm", &pairs(2))?;
            let mut guest = Guest::boot(&mut vmm)?;
            guest.accept(2)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            events(&mut vmm)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            vmm.ask("query-pci", Value::Null)?;
            guest.eject(3)?;
            completed(&mut vmm)?;
            vmm.ask("query-pci", Value::Null)?;
            vmm.finish()
        },
        &[PARKED]
    ),
    row!(
        "migrate-refusals",
        "what is refused while the guest is waited for, and after",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.ask(
                "migrate-set-capabilities",
                json!({"capabilities": [{"capability": "events", "state": true}]}),
            )?;
            vmm.ask(
                "device_add",
                json!({"driver": "virtio-rng-pci", "id": "x", "bus": "root1"}),
            )?;
            vmm.ask("device_add", add_primary(0))?;
            vmm.ask("device_del", json!({"id": "standby0"}))?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            vmm.ask("device_del", json!({"id": "nope"}))?;
            vmm.ask("migrate-incoming", json!({"uri": uri}))?;
            vmm.ask("migrate-continue", json!({"state": "pre-switchover"}))?;
            guest.eject(1)?;
            completed(&mut vmm)?;
            vmm.step("completed");
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.ask("migrate-incoming", json!({"uri": uri}))?;
            vmm.ask("migrate_cancel", Value::Null)?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            vmm.ask("query-status", Value::Null)?;
            vmm.finish()
        },
        &[MIGRATING]
    ),
    row!(
        "migrate-failed-connection",
        "nobody listens there",
        |stage| {
            let uri = format!("unix:{}", stage.text("nobody"));
            let (mut vmm, _guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION failed")?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "migrate-failed-file",
        "a file that cannot be made",
        |stage| {
            let uri = format!("file:{}", stage.text("no/such/folder"));
            let (mut vmm, _guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[LOGGED]
    ),
    row!(
        "migrate-again",
        "a second migration after a failed connection",
        |stage| {
            let (nobody, file) = (stage.text("nobody"), stage.text("state"));
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask("migrate", json!({"uri": format!("unix:{nobody}")}))?;
            vmm.wait("MIGRATION failed")?;
            vmm.step("again");
            vmm.ask("migrate", json!({"uri": format!("file:{file}")}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            guest.eject(1)?;
            completed(&mut vmm)?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[PARKED]
    ),
    row!(
        "migrate-cont",
        "cont on the source after completed",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            guest.eject(1)?;
            completed(&mut vmm)?;
            vmm.step("cont");
            vmm.ask("cont", Value::Null)?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "migrate-cont-plain",
        "the same without a pair, and a second migration",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let mut vmm = stage.start("vm", &board(1))?;
            events(&mut vmm)?;
            for round in ["first", "second"] {
                vmm.step(round);
                vmm.ask("migrate", json!({"uri": uri}))?;
                completed(&mut vmm)?;
                vmm.ask("migrate", json!({"uri": uri}))?;
                vmm.ask("cont", Value::Null)?;
                plain_look(&mut vmm)?;
            }
            vmm.finish()
        }
    ),
    row!(
        "migrate-stopped-plain",
        "a stopped machine without a pair",
        |stage| {
            out_plain(stage, &board(1), |vmm| {
                vmm.ask("stop", Value::Null).map(drop)
            })
        }
    ),
    row!(
        "migrate-stopped",
        "a stopped machine with its primary plugged",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let (mut vmm, _guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask("stop", Value::Null)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            // Nothing more comes of QEMU's.
            vmm.ask("query-status", Value::Null)?;
            vmm.finish()
        },
        &[PAUSED]
    ),
    row!(
        "migrate-stop-meanwhile",
        "stop and cont while the guest is waited for",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            vmm.ask("stop", Value::Null)?;
            plain_look(&mut vmm)?;
            vmm.ask("cont", Value::Null)?;
            plain_look(&mut vmm)?;
            guest.eject(1)?;
            completed(&mut vmm)?;
            plain_look(&mut vmm)?;
            vmm.finish()
        },
        &[PARKED]
    ),
    row!(
        "migrate-pause-before-switchover",
        "the switch-over waits for migrate-continue",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            vmm.ask(
                "migrate-set-capabilities",
                json!({"capabilities": [{"capability": "pause-before-switchover", "state": true}]}),
            )?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            guest.eject(1)?;
            vmm.wait("MIGRATION pre-switchover")?;
            look(&mut vmm)?;
            vmm.ask("migrate-continue", json!({"state": "device"}))?;
            vmm.set_off("migrate-continue", json!({"state": "pre-switchover"}))?;
            completed(&mut vmm)?;
            vmm.ask("query-migrate", Value::Null)?;
            vmm.finish()
        },
        &[PARKED]
    ),
];
