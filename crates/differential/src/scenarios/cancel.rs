//! A migration that is cancelled, at each of its states.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{accepted, completed, events, look, plain_look};
use crate::guest::Guest;
use crate::intended::{AT_ONCE, CANCEL_ERROR, PARKED};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;
use crate::vmm::Vmm;

/// Slow enough for a client to be in time while memory is sent.
fn slowly(vmm: &mut Vmm, guest: &mut Guest) -> Result<()> {
    guest.fill(32)?;
    vmm.must("migrate-set-parameters", json!({"max-bandwidth": 1024}))
        .map(drop)
}

/// A machine whose migration waits for its guest.
fn waiting(stage: &mut Stage) -> Result<(Vmm, Guest)> {
    let uri = format!("exec:cat > {}", stage.text("state"));
    let (mut vmm, guest) = accepted(stage, 1)?;
    events(&mut vmm)?;
    vmm.ask("migrate", json!({"uri": uri}))?;
    vmm.wait("MIGRATION wait-unplug")?;
    Ok((vmm, guest))
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("cancel-setup", "before the connection is made", |stage| {
        let silent = stage.silent_port()?;
        let (mut vmm, _guest) = accepted(stage, 1)?;
        events(&mut vmm)?;
        vmm.ask(
            "migrate",
            json!({"uri": format!("tcp:127.0.0.1:{}", silent.port())}),
        )?;
        look(&mut vmm)?;
        vmm.set_off("migrate_cancel", Value::Null)?;
        vmm.wait("MIGRATION cancelled")?;
        look(&mut vmm)?;
        vmm.finish()
    }),
    row!(
        "cancel-wait-unplug",
        "while the guest is waited for, and the guest ejects then",
        |stage| {
            let (mut vmm, mut guest) = waiting(stage)?;
            vmm.set_off("migrate_cancel", Value::Null)?;
            guest.eject(1)?;
            vmm.wait("MIGRATION cancelled")?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "cancel-active",
        "while memory is sent",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            slowly(&mut vmm, &mut guest)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            guest.eject(1)?;
            vmm.wait("MIGRATION active")?;
            look(&mut vmm)?;
            vmm.set_off("migrate_cancel", Value::Null)?;
            vmm.wait("MIGRATION cancelled")?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[PARKED]
    ),
    row!("cancel-active-plain", "the same without a pair", |stage| {
        let uri = format!("exec:cat > {}", stage.text("state"));
        let mut vmm = stage.start("vm", &crate::machine::board(1))?;
        let mut guest = Guest::boot(&mut vmm)?;
        events(&mut vmm)?;
        slowly(&mut vmm, &mut guest)?;
        vmm.ask("migrate", json!({"uri": uri}))?;
        vmm.wait("MIGRATION active")?;
        plain_look(&mut vmm)?;
        vmm.set_off("migrate_cancel", Value::Null)?;
        vmm.wait("MIGRATION cancelled")?;
        plain_look(&mut vmm)?;
        vmm.finish()
    }),
    row!(
        "cancel-stopped-meanwhile",
        "a machine that was stopped while memory was sent",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("state"));
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            events(&mut vmm)?;
            slowly(&mut vmm, &mut guest)?;
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            guest.eject(1)?;
            vmm.wait("MIGRATION active")?;
            vmm.ask("stop", Value::Null)?;
            vmm.set_off("migrate_cancel", Value::Null)?;
            vmm.wait("MIGRATION cancelled")?;
            plain_look(&mut vmm)?;
            vmm.ask("cont", Value::Null)?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "cancel-pre-switchover",
        "while the switch-over waits for migrate-continue",
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
            vmm.set_off("migrate_cancel", Value::Null)?;
            vmm.wait("MIGRATION cancelled")?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[CANCEL_ERROR]
    ),
    row!(
        "cancel-and-migrate",
        "a second migration after a cancelled one",
        |stage| {
            let uri = format!("exec:cat > {}", stage.text("again"));
            let (mut vmm, mut guest) = waiting(stage)?;
            vmm.set_off("migrate_cancel", Value::Null)?;
            guest.eject(1)?;
            vmm.wait("MIGRATION cancelled")?;
            guest.enumerate()?;
            vmm.step("again");
            vmm.ask("migrate", json!({"uri": uri}))?;
            vmm.wait("MIGRATION wait-unplug")?;
            guest.eject(1)?;
            completed(&mut vmm)?;
            plain_look(&mut vmm)?;
            vmm.finish()
        },
        &[PARKED]
    ),
    row!("cancel-twice", "migrate_cancel again and again", |stage| {
        let (mut vmm, mut guest) = waiting(stage)?;
        vmm.set_off("migrate_cancel", Value::Null)?;
        guest.eject(1)?;
        vmm.wait("MIGRATION cancelled")?;
        vmm.set_off("migrate_cancel", Value::Null)?;
        vmm.ask("query-migrate", Value::Null)?;
        vmm.finish()
    }),
];

/// What takes QEMU half a minute.
pub(super) const SLOW: &[Scenario] = &[row!(
    "cancel-ignored",
    "while the guest is waited for, and it never ejects",
    |stage| {
        let (mut vmm, _guest) = waiting(stage)?;
        vmm.set_off("migrate_cancel", Value::Null)?;
        vmm.wait_within(&["MIGRATION cancelled"], Duration::from_secs(45))?;
        look(&mut vmm)?;
        vmm.finish()
    },
    &[AT_ONCE]
)];
