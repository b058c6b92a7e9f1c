//! A migration that is cancelled, at each of its states.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::act::Act;
use crate::intended::{AT_ONCE, CANCEL_ERROR, NOWHERE};
use crate::machine::board;
use crate::scenario::{Scenario, row};
use crate::stage::Stage;

const FILE: &str = "exec:cat > DIR/state";

/// A machine whose migration waits for its guest.
fn waiting(stage: &mut Stage) -> Result<Act> {
    Act::pairs(stage, 1)?.events()?.migrate_and_wait(FILE)
}

/// One that sends memory, for long enough.
fn sending(stage: &mut Stage) -> Result<Act> {
    Act::pairs(stage, 1)?
        .events()?
        .slowly()?
        .migrate_and_wait(FILE)?
        .eject(1)?
        .wait("MIGRATION active")
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("cancel-setup", "before the connection is made", |stage| {
        let uri = format!("tcp:127.0.0.1:{}", stage.silent_port()?.port());
        Act::pairs(stage, 1)?
            .events()?
            .migrate(&uri)?
            .look()?
            .cancel()?
            .look()?
            .finish()
    }),
    row!(
        "cancel-wait-unplug",
        "while the guest is waited for, and the guest ejects then",
        |stage| {
            waiting(stage)?
                .set_off("migrate_cancel", Value::Null)?
                .eject(1)?
                .wait("MIGRATION cancelled")?
                .look()?
                .finish()
        }
    ),
    row!("cancel-active", "while memory is sent", |stage| {
        sending(stage)?.look()?.cancel()?.look()?.finish()
    }),
    row!("cancel-active-plain", "the same without a pair", |stage| {
        Act::boot(stage, "vm", &board(1))?
            .events()?
            .slowly()?
            .migrate(FILE)?
            .wait("MIGRATION active")?
            .plain_look()?
            .cancel()?
            .plain_look()?
            .finish()
    }),
    row!(
        "cancel-stopped-meanwhile",
        "a machine that was stopped while memory was sent",
        |stage| {
            sending(stage)?
                .ask("stop", Value::Null)?
                .cancel()?
                .plain_look()?
                .ask("cont", Value::Null)?
                .look()?
                .finish()
        }
    ),
    row!(
        "cancel-pre-switchover",
        "while the switch-over waits for migrate-continue",
        |stage| {
            Act::pairs(stage, 1)?
                .events()?
                .capability("pause-before-switchover")?
                .migrate_and_wait(FILE)?
                .eject(1)?
                .wait("MIGRATION pre-switchover")?
                .cancel()?
                .look()?
                .finish()
        },
        &[CANCEL_ERROR]
    ),
    row!(
        "cancel-and-migrate",
        "a second migration after a cancelled one",
        |stage| {
            waiting(stage)?
                .set_off("migrate_cancel", Value::Null)?
                .eject(1)?
                .wait("MIGRATION cancelled")?
                .enumerate()?
                .step("again")
                .migrate_all("exec:cat > DIR/again")?
                .plain_look()?
                .finish()
        },
        &[NOWHERE]
    ),
    row!("cancel-twice", "migrate_cancel again and again", |stage| {
        waiting(stage)?
            .set_off("migrate_cancel", Value::Null)?
            .eject(1)?
            .wait("MIGRATION cancelled")?
            .set_off("migrate_cancel", Value::Null)?
            .ask("query-migrate", Value::Null)?
            .finish()
    }),
    row!(
        "cancel-and-delete",
        "device_del of the primary after it, and device_add again",
        |stage| {
            waiting(stage)?
                .set_off("migrate_cancel", Value::Null)?
                .eject(1)?
                .wait("MIGRATION cancelled")?
                .ask("device_del", json!({"id": "primary0"}))?
                .eject(1)?
                .wait("DEVICE_DELETED primary0")?
                .ask("device_add", crate::machine::add_primary(0))?
                .look()?
                .finish()
        }
    ),
    row!(
        "cancel-several",
        "two pairs, of which the guest ejected one before",
        |stage| {
            Act::pairs(stage, 2)?
                .events()?
                .migrate_and_wait(FILE)?
                .eject(1)?
                .set_off("migrate_cancel", Value::Null)?
                .eject(3)?
                .wait("MIGRATION cancelled")?
                .look()?
                .finish()
        }
    ),
];

/// What takes QEMU half a minute.
pub(super) const SLOW: &[Scenario] = &[row!(
    "cancel-ignored",
    "while the guest is waited for, and it never ejects",
    |stage| {
        waiting(stage)?
            .set_off("migrate_cancel", Value::Null)?
            .wait_within("MIGRATION cancelled", Duration::from_secs(90))?
            .look()?
            .finish()
    },
    &[AT_ONCE]
)];
