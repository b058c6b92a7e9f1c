//! Outgoing migration: to a file and to a process, and what is asked and refused meanwhile.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::act::Act;
use crate::intended::{BROKEN, EXIT_STATUS, MIGRATING, PAUSED};
use crate::machine::{add_primary, board, pairs, plain_nic, standby};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;

const FILE: &str = "exec:cat > DIR/state";

/// A migration of `count` accepted pairs, looked at at each step.
fn out(stage: &mut Stage, count: usize, uri: &str) -> Result<()> {
    Act::pairs(stage, count)?
        .events()?
        .step("migrate")
        .migrate_and_wait(uri)?
        .look()?
        .step("the guest ejects")
        .eject_primaries()?
        .completed()?
        .look()?
        .finish()
}

/// The same for a machine in which no guest has to let go of anything.
fn out_plain(act: Act) -> Result<()> {
    act.events()?
        .step("migrate")
        .migrate(FILE)?
        .completed()?
        .look()?
        .finish()
}

/// A migration of a pair that comes to nothing.
fn failed(stage: &mut Stage, uri: &str) -> Result<()> {
    Act::pairs(stage, 1)?
        .events()?
        .migrate(uri)?
        .wait("MIGRATION failed")?
        .look()?
        .finish()
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("migrate-exec", "a pair, to a file by exec:", |stage| out(
        stage, 1, FILE
    )),
    row!(
        "migrate-exec-blanks",
        "the same, with blanks that count in the command",
        |stage| out(stage, 1, "exec:cat  >  'DIR/two  blanks'")
    ),
    row!("migrate-file", "a pair, to a file by file:", |stage| out(
        stage,
        1,
        "file:DIR/state"
    )),
    row!(
        "migrate-file-offset",
        "a pair, into a file that has something before it",
        |stage| out(stage, 1, "file:DIR/state,offset=0x1000")
    ),
    row!(
        "migrate-fd",
        "a pair, to a descriptor that was handed over",
        |stage| {
            let mut sink = std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .spawn()?;
            let pipe = sink.stdin.take().context("cat has no input")?;
            Act::pairs(stage, 1)?
                .events()?
                .hand_over("out", pipe.into())?
                .migrate_all("fd:out")?
                .look()?
                .finish()?;
            sink.wait()?;
            Ok(())
        }
    ),
    row!(
        "migrate-ejected-slot",
        "what is left in the slot of a primary that was let go of: nothing to read, and nothing to write",
        |stage| {
            // Bus 2, where the guest found the primary; its command register, and its first region.
            const COMMAND: &str = "outl 0xcf8 0x80020004";
            const REGION: &str = "outl 0xcf8 0x80020010";
            Act::pairs(stage, 1)?
                .lines(&[COMMAND, "outl 0xcfc 0x7"])?
                .events()?
                .migrate_all(FILE)?
                .guest_looks(1)?
                .lines(&[COMMAND, "inl 0xcfc", "outl 0xcfc 0x6", "inl 0xcfc"])?
                .lines(&[REGION, "outl 0xcfc 0xffffffff", "inl 0xcfc"])?
                .look()?
                .finish()
        }
    ),
    row!("migrate-two", "two pairs, to a file", |stage| out(
        stage, 2, FILE
    )),
    row!("migrate-three", "three pairs, to a file", |stage| out(
        stage, 3, FILE
    )),
    row!("migrate-eight", "eight pairs, to a file", |stage| out(
        stage,
        8,
        "file:DIR/state"
    )),
    row!("migrate-no-nic", "a machine without a pair", |stage| {
        out_plain(Act::start(stage, "vm", &board(1))?)
    }),
    row!(
        "migrate-standby-alone",
        "a standby whose primary never came",
        |stage| { out_plain(Act::boot(stage, "vm", &[board(2), standby(0)].concat())?.accept(0)?) }
    ),
    row!(
        "migrate-hidden",
        "a pair that no guest has accepted",
        |stage| { out_plain(Act::start(stage, "vm", &pairs(1))?) }
    ),
    row!(
        "migrate-refused-standby",
        "a pair whose guest did not accept",
        |stage| {
            out_plain(Act::boot(stage, "vm", &pairs(1))?.guest_does(|guest| guest.refuse(0))?)
        }
    ),
    row!(
        "migrate-failover-off",
        "a standby with failover=off",
        |stage| {
            out_plain(
                Act::boot(stage, "vm", &[board(2), plain_nic(0)].concat())?
                    .guest_does(|guest| guest.accept(0))?,
            )
        }
    ),
    row!(
        "migrate-after-del",
        "a pair whose primary was deleted",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .ask("device_del", json!({"id": "primary0"}))?
                .eject(1)?
                .wait("DEVICE_DELETED primary0")?
                .migrate(FILE)?
                .completed()?
                .look()?
                .finish()
        }
    ),
    row!(
        "migrate-added-late",
        "a pair whose primary came by the monitor",
        |stage| {
            Act::boot(stage, "vm", &[board(2), standby(0)].concat())?
                .accept(0)?
                .ask("device_add", add_primary(0))?
                .events()?
                .migrate_all(FILE)?
                .look()?
                .finish()
        }
    ),
    row!(
        "migrate-partly",
        "two pairs, of which the guest accepted one",
        |stage| {
            Act::boot(stage, "vm", &pairs(2))?
                .accept(2)?
                .events()?
                .migrate_and_wait(FILE)?
                .ask("query-pci", Value::Null)?
                .eject_primaries()?
                .completed()?
                .ask("query-pci", Value::Null)?
                .finish()
        }
    ),
    row!(
        "migrate-refusals",
        "what is refused while the guest is waited for, and after",
        |stage| {
            let to = || json!({"uri": FILE});
            Act::pairs(stage, 1)?
                .events()?
                .migrate_and_wait(FILE)?
                .ask_all(&[
                    ("migrate", to()),
                    (
                        "migrate-set-capabilities",
                        json!({"capabilities": [{"capability": "events", "state": true}]}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-rng-pci", "id": "x", "bus": "root1"}),
                    ),
                    ("device_add", add_primary(0)),
                    ("device_del", json!({"id": "standby0"})),
                    ("device_del", json!({"id": "primary0"})),
                    ("device_del", json!({"id": "nope"})),
                    ("migrate-incoming", to()),
                    ("migrate-continue", json!({"state": "pre-switchover"})),
                ])?
                .eject(1)?
                .completed()?
                .step("completed")
                .ask_all(&[
                    ("migrate", to()),
                    ("migrate-incoming", to()),
                    ("migrate_cancel", Value::Null),
                    ("device_del", json!({"id": "primary0"})),
                    ("query-status", Value::Null),
                ])?
                .finish()
        },
        &[MIGRATING]
    ),
    row!(
        "migrate-failed-connection",
        "nobody listens there",
        |stage| failed(stage, "unix:DIR/nobody")
    ),
    row!(
        "migrate-failed-tcp",
        "nobody listens at that port",
        |stage| failed(stage, "tcp:127.0.0.1:1")
    ),
    row!(
        "migrate-failed-file",
        "a file that cannot be made",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .migrate("file:DIR/no/such/folder")?
                .look()?
                .finish()
        }
    ),
    row!(
        "migrate-exec-status",
        "a command that takes everything, and ends badly",
        |stage| {
            Act::start(stage, "vm", &board(1))?
                .events()?
                .migrate("exec:cat > /dev/null; exit 3")?
                .wait_any(&["MIGRATION completed", "MIGRATION failed"])?
                .finish()
        },
        &[EXIT_STATUS]
    ),
    row!(
        "migrate-broken",
        "whoever takes the stream is gone while memory is sent",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .guest_does(|guest| guest.fill(64))?
                .migrate_and_wait("exec:head -c 60000 > /dev/null")?
                .eject(1)?
                .wait("MIGRATION failed")?
                .until_back(0)?
                .look()?
                .finish()
        },
        &[BROKEN]
    ),
    row!(
        "migrate-again",
        "a second migration after a failed connection",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .migrate("unix:DIR/nobody")?
                .wait("MIGRATION failed")?
                .step("again")
                .migrate_all("file:DIR/state")?
                .look()?
                .finish()
        }
    ),
    row!(
        "migrate-cont",
        "cont on the source after completed",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .migrate_all(FILE)?
                .step("cont")
                .ask("cont", Value::Null)?
                .look()?
                .finish()
        }
    ),
    row!(
        "migrate-cont-plain",
        "the same without a pair, and a second migration",
        |stage| {
            let mut act = Act::start(stage, "vm", &board(1))?.events()?;
            for round in ["first", "second"] {
                act = act
                    .step(round)
                    .migrate(FILE)?
                    .completed()?
                    .migrate(FILE)?
                    .ask("cont", Value::Null)?
                    .plain_look()?;
            }
            act.finish()
        }
    ),
    row!(
        "migrate-stopped-plain",
        "a stopped machine without a pair",
        |stage| out_plain(Act::start(stage, "vm", &board(1))?.ask("stop", Value::Null)?)
    ),
    row!(
        "migrate-stopped",
        "a stopped machine with its primary plugged",
        |stage| {
            // Nothing more comes of QEMU's.
            Act::pairs(stage, 1)?
                .events()?
                .ask("stop", Value::Null)?
                .migrate_and_wait(FILE)?
                .ask("query-status", Value::Null)?
                .finish()
        },
        &[PAUSED]
    ),
    row!(
        "migrate-stop-meanwhile",
        "stop and cont while the guest is waited for",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .migrate_and_wait(FILE)?
                .ask("stop", Value::Null)?
                .plain_look()?
                .ask("cont", Value::Null)?
                .plain_look()?
                .eject(1)?
                .completed()?
                .plain_look()?
                .finish()
        }
    ),
    row!(
        "migrate-stop-while-sent",
        "stop while memory is sent: it arrives stopped, and so it stays here",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .slowly()?
                .migrate_and_wait(FILE)?
                .eject(1)?
                .wait("MIGRATION active")?
                .ask("stop", Value::Null)?
                .ask("migrate-set-parameters", json!({"max-bandwidth": 0}))?
                .completed()?
                .plain_look()?
                .ask("cont", Value::Null)?
                .look()?
                .finish()
        }
    ),
    row!(
        "migrate-pause-before-switchover",
        "the switch-over waits for migrate-continue",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .capability("pause-before-switchover")?
                .migrate_and_wait(FILE)?
                .eject(1)?
                .wait("MIGRATION pre-switchover")?
                .look()?
                .ask("migrate-continue", json!({"state": "device"}))?
                .set_off("migrate-continue", json!({"state": "pre-switchover"}))?
                .completed()?
                .ask("query-migrate", Value::Null)?
                .finish()
        }
    ),
];
