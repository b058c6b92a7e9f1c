//! The pair while nothing migrates: what the guest accepts, and what is plugged and unplugged.

use anyhow::Result;
use serde_json::{Value, json};

use super::act::Act;
use crate::intended::{DANGLING, HIDDEN, ONCE, OTHER_ID, RESET, SLOT_WORDS, UNASKED, UNMADE};
use crate::machine::{
    add_primary, add_standby, board, pairs, plain_nic, primary, standby, with, words,
};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;

/// Several pairs, looked at.
fn several(stage: &mut Stage, count: usize) -> Result<()> {
    Act::pairs(stage, count)?
        .ask("query-pci", Value::Null)?
        .ask("qom-list", json!({"path": "/machine/peripheral"}))?
        .finish()
}

/// Both devices by the monitor, in this order, and the guest accepts.
fn hotplugged(act: Act, devices: [Value; 2]) -> Result<()> {
    let [first, second] = devices;
    act.ask("device_add", first)?
        .ask("device_add", second)?
        .enumerate()?
        .accept(0)?
        .look()?
        .finish()
}

/// A guest accepts, and then comes a primary that cannot be one, and one that can.
fn wrong_primary(stage: &mut Stage, device: Value) -> Result<()> {
    Act::boot(stage, "vm", &[board(2), standby(0)].concat())?
        .accept(0)?
        .ask("device_add", device)?
        .look()?
        .ask("device_add", add_primary(0))?
        .look()?
        .finish()
}

/// `device_del`, and the guest ejects.
fn delete(act: Act, id: &str, port: usize) -> Result<Act> {
    act.ask("device_del", json!({"id": id}))?
        .eject(port)?
        .wait(&format!("DEVICE_DELETED {id}"))
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("pair-accepted", "the guest accepts STANDBY", |stage| {
        Act::pairs(stage, 1)?.look()?.guest_looks(1)?.finish()
    }),
    row!("pair-refused", "the guest does not accept it", |stage| {
        Act::boot(stage, "vm", &pairs(1))?
            .guest_does(|guest| guest.refuse(0))?
            .look()?
            .guest_looks(1)?
            .finish()
    }),
    row!(
        "pair-accepted-again",
        "the driver is loaded anew",
        |stage| {
            Act::pairs(stage, 1)?
                .guest_does(|guest| guest.reset(0))?
                .look()?
                .guest_does(|guest| guest.accept(0))?
                .look()?
                .finish()
        },
        &[ONCE]
    ),
    row!(
        "pair-refused-later",
        "a driver that does not accept follows one that did",
        |stage| {
            Act::pairs(stage, 1)?
                .guest_does(|guest| guest.reset(0))?
                .guest_does(|guest| guest.refuse(0))?
                .look()?
                .finish()
        },
        &[ONCE]
    ),
    row!(
        "pair-guest-reset",
        "the machine is reset, and the guest accepts again",
        |stage| {
            Act::pairs(stage, 1)?
                .ask("system_reset", Value::Null)?
                .look()?
                .enumerate()?
                .accept(0)?
                .look()?
                .finish()
        },
        &[ONCE, RESET]
    ),
    row!(
        "pair-primary-listed-first",
        "the primary before its standby on the command line",
        |stage| {
            Act::start(stage, "vm", &[board(2), primary(0), standby(0)].concat())?
                .look()?
                .guest_boots()?
                .accept(0)?
                .look()?
                .finish()
        },
        &[HIDDEN]
    ),
    row!(
        "pair-mismatched-id",
        "the primary names another standby",
        |stage| {
            let other = words(
                "-device virtio-net-pci,id=primary0,bus=root1,romfile=,mac=52:54:00:00:00:01,failover_pair_id=nope",
            );
            Act::boot(stage, "vm", &[board(2), standby(0), other].concat())?
                .accept(0)?
                .look()?
                .finish()
        },
        &[DANGLING]
    ),
    row!(
        "pair-failover-off",
        "the standby does not offer it",
        |stage| {
            Act::boot(stage, "vm", &[board(2), plain_nic(0), primary(0)].concat())?
                .guest_does(|guest| guest.accept(0))?
                .look()?
                .finish()
        },
        &[DANGLING]
    ),
    row!("pair-two", "two pairs", |stage| several(stage, 2)),
    row!("pair-three", "three pairs", |stage| several(stage, 3)),
    row!("pair-eight", "eight pairs", |stage| several(stage, 8)),
    row!("pair-stop-cont", "stop and cont around it", |stage| {
        Act::boot(stage, "vm", &pairs(1))?
            .ask("stop", Value::Null)?
            .accept(0)?
            .look()?
            .ask("cont", Value::Null)?
            .look()?
            .finish()
    }),
    row!(
        "hotplug-primary-late",
        "the primary comes after the guest has accepted",
        |stage| {
            Act::boot(stage, "vm", &[board(2), standby(0)].concat())?
                .accept(0)?
                .look()?
                .ask("device_add", add_primary(0))?
                .look()?
                .finish()
        }
    ),
    row!(
        "hotplug-standby-first",
        "both by the monitor, the standby first, and the guest accepts",
        |stage| {
            hotplugged(
                Act::boot(stage, "vm", &board(2))?,
                [add_standby(0), add_primary(0)],
            )
        }
    ),
    row!(
        "hotplug-standby-alone",
        "the standby by the monitor, accepted before there is a primary",
        |stage| {
            Act::boot(stage, "vm", &board(2))?
                .ask("device_add", add_standby(0))?
                .enumerate()?
                .accept(0)?
                .ask("device_add", add_primary(0))?
                .look()?
                .finish()
        }
    ),
    row!(
        "hotplug-primary-first",
        "both by the monitor, the primary first, and the guest accepts",
        |stage| {
            Act::boot(stage, "vm", &board(2))?
                .ask("device_add", add_primary(0))?
                .look()?
                .ask("device_add", add_standby(0))?
                .enumerate()?
                .accept(0)?
                .look()?
                .finish()
        },
        &[DANGLING]
    ),
    row!(
        "hotplug-after-reset",
        "both by the monitor after a reset",
        |stage| {
            let reset = Act::boot(stage, "vm", &board(2))?.ask("system_reset", Value::Null)?;
            hotplugged(reset, [add_standby(0), add_primary(0)])
        }
    ),
    row!(
        "hotplug-stopped",
        "both by the monitor while the machine is stopped",
        |stage| {
            Act::boot(stage, "vm", &board(2))?
                .ask("stop", Value::Null)?
                .ask("device_add", add_standby(0))?
                .ask("device_add", add_primary(0))?
                .ask("cont", Value::Null)?
                .enumerate()?
                .accept(0)?
                .look()?
                .finish()
        }
    ),
    row!(
        "hotplug-not-ethernet",
        "a primary of another class after the guest accepted",
        |stage| {
            wrong_primary(
                stage,
                json!({"driver": "virtio-rng-pci", "id": "primary0", "bus": "root1", "failover_pair_id": "standby0"}),
            )
        },
        &[UNMADE]
    ),
    row!(
        "hotplug-multifunction",
        "a primary of several functions after the guest accepted",
        |stage| {
            let several = json!({"multifunction": true});
            wrong_primary(stage, with(add_primary(0), several))
        },
        &[UNMADE]
    ),
    row!(
        "hotplug-function-1",
        "a primary that is function 1 after the guest accepted",
        |stage| wrong_primary(stage, with(add_primary(0), json!({"addr": "0.1"}))),
        &[UNMADE]
    ),
    row!(
        "hotplug-standby-slot",
        "a primary in its standby's slot after the guest accepted",
        |stage| wrong_primary(stage, with(add_primary(0), json!({"bus": "root0"}))),
        &[SLOT_WORDS]
    ),
    row!(
        "unplug-primary",
        "device_del of the primary, and device_add again",
        |stage| {
            delete(Act::pairs(stage, 1)?, "primary0", 1)?
                .look()?
                .ask("device_add", add_primary(0))?
                .look()?
                .finish()
        }
    ),
    row!(
        "unplug-primary-other-id",
        "device_del of the primary, and another in its stead",
        |stage| {
            delete(Act::pairs(stage, 1)?, "primary0", 1)?
                .ask(
                    "device_add",
                    with(add_primary(0), json!({"id": "primary9"})),
                )?
                .ask("query-pci", Value::Null)?
                .finish()
        },
        &[OTHER_ID]
    ),
    row!(
        "unplug-primary-twice",
        "device_del twice before the guest ejects",
        |stage| {
            let act = Act::pairs(stage, 1)?.ask("device_del", json!({"id": "primary0"}))?;
            let act = act
                .ask("device_del", json!({"id": "primary0"}))?
                .look()?
                .eject(1)?;
            act.wait("DEVICE_DELETED primary0")?
                .ask("device_del", json!({"id": "primary0"}))?
                .finish()
        }
    ),
    row!("unplug-standby", "device_del of the standby", |stage| {
        delete(Act::pairs(stage, 1)?, "standby0", 0)?
            .look()?
            .finish()
    }),
    row!(
        "unplug-both",
        "device_del of the primary, then of the standby, then both again",
        |stage| {
            let act = delete(Act::pairs(stage, 1)?, "primary0", 1)?;
            delete(act, "standby0", 0)?
                .look()?
                .ask("device_add", add_standby(0))?
                .ask("device_add", add_primary(0))?
                .look()?
                .finish()
        }
    ),
    row!(
        "unplug-unasked",
        "the guest ejects the primary by its own choice",
        |stage| Act::pairs(stage, 1)?.eject(1)?.look()?.finish(),
        &[UNASKED]
    ),
    row!(
        "unplug-while-reset",
        "device_del of the primary, and a reset before the guest ejects",
        |stage| {
            Act::pairs(stage, 1)?
                .ask("device_del", json!({"id": "primary0"}))?
                .set_off_until("system_reset", &["RESET", "DEVICE_DELETED primary0"])?
                .look()?
                .finish()
        }
    ),
];
