//! Native PCI Express hotplug: the guest drives a port's slot by its registers. Without ACPI's way, as `-global` asks for it.

use anyhow::Result;
use serde_json::{Value, json};

use super::act::Act;
use crate::intended::NO_BUTTON;
use crate::machine::{add_primary, board, pairs, standby, words};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;

const FILE: &str = "exec:cat > DIR/state";

/// A machine whose slots are all native.
fn native(line: Vec<String>) -> Vec<String> {
    let mut all = line;
    all.extend(words(
        "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    ));
    all
}

/// A pair that the guest accepted, its primary plugged and its slot under power.
fn accepted(stage: &mut Stage) -> Result<Act> {
    Act::boot(stage, "vm", &native(pairs(1)))?
        .accept(0)?
        .guest_does(|guest| guest.power_on(1))
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!(
        "native-accepted",
        "the guest accepts, and switches the primary's slot on",
        |stage| {
            Act::boot(stage, "vm", &native(pairs(1)))?
                .accept(0)?
                .look()?
                .slot(1)?
                .guest_does(|guest| guest.power_on(1))?
                .slot(1)?
                .guest_looks(1)?
                .finish()
        },
        &[NO_BUTTON]
    ),
    row!(
        "native-added-late",
        "the primary by the monitor after the guest accepted",
        |stage| {
            Act::boot(stage, "vm", &native([board(2), standby(0)].concat()))?
                .accept(0)?
                .slot(1)?
                .ask("device_add", add_primary(0))?
                .slot(1)?
                .guest_does(|guest| guest.power_on(1))?
                .look()?
                .finish()
        },
        &[NO_BUTTON]
    ),
    row!(
        "native-unplug",
        "device_del of the primary, twice, and the guest lets go",
        |stage| {
            accepted(stage)?
                .ask("device_del", json!({"id": "primary0"}))?
                .slot(1)?
                .ask("device_del", json!({"id": "primary0"}))?
                .guest_does(|guest| guest.power_off(1))?
                .wait("DEVICE_DELETED primary0")?
                .slot(1)?
                .look()?
                .finish()
        },
        &[NO_BUTTON]
    ),
    row!(
        "native-unplug-blinking",
        "device_del while the power indicator blinks",
        |stage| {
            accepted(stage)?
                .guest_does(|guest| guest.blink(1))?
                .ask("device_del", json!({"id": "primary0"}))?
                .slot(1)?
                .finish()
        },
        &[NO_BUTTON]
    ),
    row!("native-migrate", "a pair, to a file", |stage| {
        accepted(stage)?
            .events()?
            .migrate_and_wait(FILE)?
            .slot(1)?
            .look()?
            .guest_does(|guest| guest.power_off(1))?
            .completed()?
            .look()?
            .finish()
    }),
    row!(
        "native-cancel",
        "cancelled while the guest is waited for, and the guest lets go then",
        |stage| {
            accepted(stage)?
                .events()?
                .migrate_and_wait(FILE)?
                .set_off("migrate_cancel", Value::Null)?
                .guest_does(|guest| guest.power_off(1))?
                .wait("MIGRATION cancelled")?
                .guest_does(|guest| guest.power_on(1))?
                .look()?
                .finish()
        }
    ),
    row!(
        "native-target",
        "a pair, to a process whose slots are native too",
        |stage| {
            let line = native(pairs(1));
            let incoming = [line.clone(), words("-incoming defer")].concat();
            let target = Act::start(stage, "target", &incoming)?
                .events()?
                .ask("migrate-incoming", json!({"uri": "unix:DIR/channel"}))?;
            let source = Act::boot(stage, "source", &line)?
                .accept(0)?
                .guest_does(|guest| guest.power_on(1))?
                .events()?
                .migrate_and_wait("unix:DIR/channel")?
                .guest_does(|guest| guest.power_off(1))?
                .completed()?;
            let target = target
                .wait("MIGRATION completed")?
                .until_back(0)?
                .guest_boots()?
                .slot(1)?
                .look()?;
            source.finish()?;
            target.finish()
        },
        &[NO_BUTTON]
    ),
];
