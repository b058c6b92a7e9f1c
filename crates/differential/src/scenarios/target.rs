//! Incoming migration: from a process and from a file, there and back, and targets that do not fit.

use anyhow::Result;
use serde_json::{Value, json};

use super::act::Act;
use crate::intended::{
    DELETE_HIDDEN, FEATURES, FRESH, HIDDEN, LOAD_ERROR, NO_STATE, NOTHING_BEGAN, NOWHERE,
};
use crate::machine::{add_primary, board, pairs, plain_nic, primary, standby, words};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;

const CHANNEL: &str = "unix:DIR/channel";

/// A machine that waits for `migrate-incoming`.
fn waiting(stage: &mut Stage, part: &str, line: &[String]) -> Result<Act> {
    let line = [line, &words("-incoming defer")].concat();
    Act::start(stage, part, &line)?.events()
}

/// … and listens.
fn listening(stage: &mut Stage, part: &str, line: &[String], uri: &str) -> Result<Act> {
    waiting(stage, part, line)?.ask("migrate-incoming", json!({"uri": uri}))
}

/// A source with this many pairs sends them to a target that listens; both are returned once both have completed.
fn deliver(stage: &mut Stage, count: usize, target: Act) -> Result<(Act, Act)> {
    let source = Act::pairs_as(stage, "source", count)?
        .events()?
        .migrate_all(CHANNEL)?;
    Ok((source, target.wait("MIGRATION completed")?))
}

/// Migrates `count` accepted pairs to a target with this command line.
fn to(stage: &mut Stage, count: usize, line: &[String]) -> Result<(Act, Act)> {
    let target = listening(stage, "target", line, CHANNEL)?;
    deliver(stage, count, target)
}

/// The same, and both looked at.
fn there(stage: &mut Stage, count: usize) -> Result<()> {
    let (source, target) = to(stage, count, &pairs(count))?;
    let target = target
        .ask("query-status", Value::Null)?
        .ask("query-migrate", Value::Null)?;
    let target = (0..count).try_fold(target, Act::until_back)?.look()?;
    source
        .ask("query-status", Value::Null)?
        .ask("query-migrate", Value::Null)?
        .finish()?;
    target.finish()
}

/// A source without a primary in use migrates to a target that must refuse it.
fn refused(stage: &mut Stage, line: &[String]) -> Result<()> {
    let target = listening(stage, "target", line, CHANNEL)?;
    let source = Act::boot(stage, "source", &[board(2), standby(0)].concat())?
        .accept(0)?
        .events()?
        .migrate(CHANNEL)?;
    // Whether QEMU's source hears of it is a matter of luck.
    target.conclude()?;
    source.abandon();
    Ok(())
}

/// A file made by a source with one pair is loaded by a target.
fn from_file(stage: &mut Stage, out: &str, back: &str) -> Result<()> {
    Act::pairs_as(stage, "source", 1)?
        .events()?
        .migrate_all(out)?
        .finish()?;
    listening(stage, "target", &pairs(1), back)?
        .wait("MIGRATION completed")?
        .until_back(0)?
        .look()?
        .finish()
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("target-pair", "a pair, to a process", |stage| there(
        stage, 1
    )),
    row!(
        "target-told",
        "the target's guest is told of its primary by ACPI, and finds it",
        |stage| {
            let (source, target) = to(stage, 1, &pairs(1))?;
            let target = target
                .until_back(0)?
                .guest_boots()?
                // The last port has number 0.
                .lines(&["outl 0xcd0 0x0", "inl 0xcc0", "inl 0xcc4", "inl 0xcc0"])?
                .lines(&["outl 0xcd0 0x1", "inl 0xcc0", "inl 0xcc4"])?
                .guest_looks(1)?;
            source.finish()?;
            target.finish()
        }
    ),
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
        from_file(stage, "exec:cat > DIR/state", "exec:cat DIR/state")
    }),
    row!(
        "target-exec-blanks",
        "the same, with blanks that count in the command",
        |stage| from_file(stage, "exec:cat  >  'DIR/a  b'", "exec:cat  'DIR/a  b'")
    ),
    row!("target-file", "a pair, from a file by file:", |stage| {
        from_file(stage, "file:DIR/state", "file:DIR/state")
    }),
    row!(
        "target-file-offset",
        "a pair, from the middle of a file",
        |stage| {
            from_file(
                stage,
                "file:DIR/state,offset=8192",
                "file:DIR/state,offset=8192",
            )
        }
    ),
    row!("target-uri", "-incoming with a URI", |stage| {
        let uri = format!("unix:{}", stage.text("channel"));
        let line = [pairs(1), vec!["-incoming".into(), uri]].concat();
        let target = Act::start(stage, "target", &line)?.events()?;
        let (source, target) = deliver(stage, 1, target)?;
        let target = target.until_back(0)?.look()?;
        source.finish()?;
        target.finish()
    }),
    row!(
        "target-stopped",
        "a target with -S, continued then",
        |stage| {
            let (source, target) = to(stage, 1, &[pairs(1), words("-S")].concat())?;
            let target = target
                .ask("query-status", Value::Null)?
                .ask("cont", Value::Null)?
                .until_back(0)?
                .look()?;
            source.finish()?;
            target.finish()
        }
    ),
    row!(
        "target-of-stopped",
        "a stopped machine without a pair, continued on the target",
        |stage| {
            let target = listening(stage, "target", &board(1), CHANNEL)?;
            let source = Act::start(stage, "source", &board(1))?
                .events()?
                .ask("stop", Value::Null)?
                .migrate(CHANNEL)?
                .completed()?;
            let target = target
                .wait("MIGRATION completed")?
                .plain_look()?
                .ask("cont", Value::Null)?
                .plain_look()?;
            source.finish()?;
            target.finish()
        }
    ),
    row!(
        "target-there-and-back",
        "a pair, to a process and from there to a third",
        |stage| {
            let (source, target) = to(stage, 1, &pairs(1))?;
            source.finish()?;
            let home = listening(stage, "home", &pairs(1), "unix:DIR/back")?;
            let target = target
                .until_back(0)?
                .guest_boots()?
                .step("back")
                .migrate_and_wait("unix:DIR/back")?
                .eject(1)?
                .completed()?
                .look()?;
            let home = home.wait("MIGRATION completed")?.until_back(0)?.look()?;
            target.finish()?;
            home.finish()
        },
        &[NOWHERE, FRESH]
    ),
    row!(
        "target-there-and-back-eight",
        "eight pairs, to a process and from there to a third",
        |stage| {
            let (source, target) = to(stage, 8, &pairs(8))?;
            source.finish()?;
            let home = listening(stage, "home", &pairs(8), "unix:DIR/back")?;
            let target = (0..8).try_fold(target, Act::until_back)?;
            let target = target
                .guest_boots()?
                .step("back")
                .migrate_and_wait("unix:DIR/back")?;
            let target = (0..8).try_fold(target, |act, pair| act.eject(2 * pair + 1))?;
            let target = target.completed()?;
            let home = home.wait("MIGRATION completed")?;
            let home = (0..8).try_fold(home, Act::until_back)?;
            target.finish()?;
            home.ask("query-pci", Value::Null)?.finish()
        },
        &[FRESH]
    ),
    row!(
        "target-no-primary",
        "neither has a primary; the target gets one by the monitor",
        |stage| {
            let line = [board(2), standby(0)].concat();
            let target = listening(stage, "target", &line, CHANNEL)?;
            let source = Act::boot(stage, "source", &line)?
                .accept(0)?
                .events()?
                .migrate(CHANNEL)?
                .completed()?;
            let target = target
                .wait("MIGRATION completed")?
                .look()?
                .ask("device_add", add_primary(0))?
                .until_back(0)?
                .look()?;
            source.finish()?;
            target.finish()
        }
    ),
    row!(
        "target-primary-missing",
        "the source has a primary, the target has none",
        |stage| {
            const ENDS: &[&str] = &["MIGRATION completed", "MIGRATION failed"];
            let line = [board(2), standby(0)].concat();
            let target = listening(stage, "target", &line, CHANNEL)?;
            let source = Act::pairs_as(stage, "source", 1)?
                .events()?
                .migrate_and_wait(CHANNEL)?
                .eject(1)?
                .wait_any(ENDS)?;
            let target = target.wait_any(ENDS)?;
            source.finish()?;
            target.finish()
        },
        &[NO_STATE]
    ),
    row!(
        "target-primary-first",
        "a target whose primary is listed first",
        |stage| {
            let (source, target) = to(stage, 1, &[board(2), primary(0), standby(0)].concat())?;
            let target = target.until_back(0)?.look()?;
            source.finish()?;
            target.finish()
        },
        &[HIDDEN]
    ),
    row!(
        "target-failover-off",
        "a target whose standby does not offer it",
        |stage| refused(stage, &[board(2), plain_nic(0)].concat()),
        &[FEATURES]
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
            let target = listening(stage, "target", &pairs(1), CHANNEL)?;
            let source = Act::start(stage, "source", &pairs(1))?
                .events()?
                .migrate(CHANNEL)?
                .completed()?;
            let target = target.wait("MIGRATION completed")?.look()?;
            source.finish()?;
            target.finish()
        }
    ),
    row!(
        "target-garbage",
        "a stream that is none",
        |stage| {
            std::fs::write(stage.path("garbage"), [0x55; 4096])?;
            listening(stage, "target", &pairs(1), "exec:cat DIR/garbage")?.conclude()
        },
        &[LOAD_ERROR]
    ),
    row!(
        "target-no-file",
        "a file that is not there",
        |stage| {
            listening(stage, "target", &pairs(1), "file:DIR/nope")?
                .ask("query-status", Value::Null)?
                .ask("query-migrate", Value::Null)?
                .finish()
        },
        &[NOTHING_BEGAN]
    ),
    row!(
        "target-device-del-meanwhile",
        "device_add and device_del on a target that waits",
        |stage| {
            waiting(stage, "target", &[board(2), standby(0)].concat())?
                .ask("device_add", add_primary(0))?
                .ask("device_del", json!({"id": "primary0"}))?
                .ask("device_del", json!({"id": "standby0"}))?
                .plain_look()?
                .finish()
        },
        &[DELETE_HIDDEN]
    ),
    row!(
        "target-device-del",
        "device_del of the primary on the target after it came, and device_add again",
        |stage| {
            let (source, target) = to(stage, 1, &pairs(1))?;
            let target = target
                .guest_boots()?
                .until_back(0)?
                .ask("device_del", json!({"id": "primary0"}))?
                .eject(1)?
                .wait("DEVICE_DELETED primary0")?
                .look()?
                .ask("device_add", add_primary(0))?
                .until_back(0)?
                .look()?;
            source.finish()?;
            target.finish()
        }
    ),
];
