//! What a monitor answers before any guest has run: the message table by QMP, and what the queries say of a pair.

use anyhow::Result;
use serde_json::{Value, json};

use super::look;
use crate::intended::{
    BROADCAST, CHECKED, DANGLING, DELETE_HIDDEN, EMPTY_ID, IDS, NO_FD, REMEDY, REPEAT, SETTINGS,
    SLOT_WORDS, SOCKET_ADDRESS, STRING_BOOL,
};
use crate::machine::{add_primary, add_standby, board, pairs, standby, words};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;

/// A stopped machine with a standby at the first of three ports is asked, in this order.
fn ask(stage: &mut Stage, commands: &[(&str, Value)]) -> Result<()> {
    let mut line = board(3);
    line.extend(standby(0));
    line.push("-S".into());
    asked(stage, &line, commands)
}

fn asked(stage: &mut Stage, line: &[String], commands: &[(&str, Value)]) -> Result<()> {
    let mut vmm = stage.start("vm", line)?;
    for (command, arguments) in commands {
        vmm.ask(command, arguments.clone())?;
    }
    vmm.finish()
}

/// `device_add` of a primary with `more` in place of, or beside, what an ordinary one has.
fn primary_with(more: Value) -> Value {
    let mut arguments = add_primary(0);
    if let (Some(map), Some(more)) = (arguments.as_object_mut(), more.as_object()) {
        for (name, value) in more {
            if value.is_null() {
                map.remove(name);
            } else {
                map.insert(name.clone(), value.clone());
            }
        }
    }
    arguments
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!(
        "qmp-hidden-primary",
        "a pair that no guest has accepted",
        |stage| {
            let mut vmm = stage.start("vm", &pairs(1))?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "qmp-stopped-pair",
        "the same, stopped, continued, stopped",
        |stage| {
            let mut line = pairs(1);
            line.push("-S".into());
            let mut vmm = stage.start("vm", &line)?;
            vmm.ask("query-status", Value::Null)?;
            vmm.ask("cont", Value::Null)?;
            vmm.ask("query-status", Value::Null)?;
            vmm.ask("stop", Value::Null)?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!("qmp-primary-no-id", "a primary without an id", |stage| {
        ask(stage, &[("device_add", primary_with(json!({"id": null})))])
    }),
    row!(
        "qmp-primary-no-bus",
        "a primary to no bus, and to pcie.0",
        |stage| {
            ask(
                stage,
                &[
                    ("device_add", primary_with(json!({"bus": null}))),
                    ("device_add", primary_with(json!({"bus": "pcie.0"}))),
                ],
            )
        }
    ),
    row!(
        "qmp-primary-port-off",
        "a primary to a port that cannot hotplug",
        |stage| {
            let mut line = board(1);
            line.extend(standby(0));
            line.extend(words(
                "-device pcie-root-port,id=fixed,chassis=9,hotplug=off",
            ));
            asked(
                stage,
                &line,
                &[("device_add", primary_with(json!({"bus": "fixed"})))],
            )
        }
    ),
    row!(
        "qmp-device-port-off",
        "any device to such a port, to no bus, to pcie.0",
        |stage| {
            let line = [
                board(1),
                words("-device pcie-root-port,id=fixed,chassis=9,hotplug=off"),
            ]
            .concat();
            let add = |bus: &str| {
                (
                    "device_add",
                    json!({"driver": "virtio-net-pci", "id": "x", "bus": bus}),
                )
            };
            asked(
                stage,
                &line,
                &[
                    add("fixed"),
                    add("pcie.0"),
                    ("device_add", json!({"driver": "virtio-net-pci", "id": "x"})),
                ],
            )
        }
    ),
    row!(
        "qmp-second-primary",
        "a second primary with another id",
        |stage| {
            ask(
                stage,
                &[
                    ("device_add", add_primary(0)),
                    (
                        "device_add",
                        primary_with(json!({"id": "primary1", "bus": "root2"})),
                    ),
                ],
            )
        }
    ),
    row!(
        "qmp-primary-twice",
        "the same primary again",
        |stage| {
            ask(
                stage,
                &[
                    ("device_add", add_primary(0)),
                    ("device_add", add_primary(0)),
                ],
            )
        },
        &[CHECKED]
    ),
    row!(
        "qmp-not-ethernet",
        "a primary of another class",
        |stage| {
            ask(
                stage,
                &[(
                    "device_add",
                    json!({"driver": "virtio-rng-pci", "id": "primary0", "bus": "root1", "failover_pair_id": "standby0"}),
                )],
            )
        },
        &[CHECKED]
    ),
    row!(
        "qmp-multifunction",
        "a primary of several functions",
        |stage| {
            ask(
                stage,
                &[("device_add", primary_with(json!({"multifunction": true})))],
            )
        },
        &[CHECKED]
    ),
    row!(
        "qmp-function-1",
        "a primary that is function 1",
        |stage| {
            ask(
                stage,
                &[("device_add", primary_with(json!({"addr": "0.1"})))],
            )
        },
        &[CHECKED]
    ),
    row!(
        "qmp-duplicate-id",
        "an id that is there, and one that is hidden",
        |stage| {
            ask(
                stage,
                &[
                    ("device_add", primary_with(json!({"id": "standby0"}))),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "standby0", "bus": "root1"}),
                    ),
                ],
            )
        },
        &[CHECKED]
    ),
    row!("qmp-unknown-bus", "a bus that is not there", |stage| {
        ask(
            stage,
            &[(
                "device_add",
                json!({"driver": "virtio-net-pci", "id": "x", "bus": "nope"}),
            )],
        )
    }),
    row!(
        "qmp-unknown-driver",
        "a device that is not there, and no device",
        |stage| {
            ask(
                stage,
                &[
                    ("device_add", json!({"driver": "nope", "id": "x"})),
                    ("device_add", json!({"id": "x"})),
                ],
            )
        }
    ),
    row!("qmp-wrong-bus", "an ISA device on PCI Express", |stage| {
        ask(
            stage,
            &[
                (
                    "device_add",
                    json!({"driver": "isa-serial", "id": "x", "bus": "pcie.0"}),
                ),
                (
                    "device_add",
                    json!({"driver": "isa-serial", "id": "x", "bus": "root1"}),
                ),
            ],
        )
    }),
    row!("qmp-bad-bool", "failover is a number", |stage| {
        ask(
            stage,
            &[(
                "device_add",
                json!({"driver": "virtio-net-pci", "id": "x", "bus": "root1", "failover": 1}),
            )],
        )
    }),
    row!(
        "qmp-string-bool",
        "failover is the string \"on\"",
        |stage| {
            ask(
                stage,
                &[(
                    "device_add",
                    json!({"driver": "virtio-net-pci", "id": "x", "bus": "root1", "failover": "on"}),
                )],
            )
        },
        &[STRING_BOOL]
    ),
    row!(
        "qmp-unknown-property",
        "a property that is not there",
        |stage| {
            ask(
                stage,
                &[(
                    "device_add",
                    json!({"driver": "virtio-net-pci", "id": "x", "bus": "root1", "nope": 1}),
                )],
            )
        }
    ),
    row!(
        "qmp-bad-values",
        "values that are none",
        |stage| {
            ask(
                stage,
                &[
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "x", "bus": "root1", "mac": "nope"}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "x", "bus": "root1", "netdev": "nope"}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "x", "bus": "root1", "addr": "99"}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "x", "bus": "root1", "rx_queue_size": 1}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "", "bus": "root1"}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "1x", "bus": "root1"}),
                    ),
                ],
            )
        },
        &[REMEDY, IDS]
    ),
    row!(
        "qmp-slot-taken",
        "a place that is taken",
        |stage| {
            ask(
                stage,
                &[
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "x", "bus": "root0", "addr": "0"}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "x", "bus": "root0", "addr": "0.1"}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "x", "bus": "root0", "addr": "1"}),
                    ),
                    (
                        "device_add",
                        json!({"driver": "virtio-net-pci", "id": "x", "bus": "root0"}),
                    ),
                ],
            )
        },
        &[SLOT_WORDS]
    ),
    row!(
        "qmp-del-unknown",
        "device_del of what is not there",
        |stage| {
            ask(
                stage,
                &[
                    ("device_del", json!({"id": "nope"})),
                    ("device_del", json!({"id": "/machine/peripheral/nope"})),
                    ("device_del", json!({"id": ""})),
                ],
            )
        },
        &[EMPTY_ID]
    ),
    row!(
        "qmp-del-hidden",
        "device_del of a hidden primary",
        |stage| {
            ask(
                stage,
                &[
                    ("device_add", add_primary(0)),
                    ("device_del", json!({"id": "primary0"})),
                ],
            )
        },
        &[DELETE_HIDDEN]
    ),
    row!("qmp-del-port", "device_del of a root port", |stage| {
        ask(stage, &[("device_del", json!({"id": "root1"}))])
    }),
    row!(
        "qmp-del-by-path",
        "device_del of a stopped guest's device by its path, twice",
        |stage| {
            ask(
                stage,
                &[
                    ("device_del", json!({"id": "/machine/peripheral/standby0"})),
                    ("device_del", json!({"id": "standby0"})),
                    ("qom-list", json!({"path": "/machine/peripheral"})),
                ],
            )
        },
        &[REPEAT]
    ),
    row!(
        "qmp-standby-first",
        "both by the monitor, the standby first",
        |stage| {
            asked(
                stage,
                &board(2),
                &[
                    ("device_add", add_standby(0)),
                    ("device_add", add_primary(0)),
                    ("query-pci", Value::Null),
                    ("qom-list", json!({"path": "/machine/peripheral"})),
                ],
            )
        }
    ),
    row!(
        "qmp-primary-first",
        "both by the monitor, the primary first",
        |stage| {
            asked(
                stage,
                &board(2),
                &[
                    ("device_add", add_primary(0)),
                    ("query-pci", Value::Null),
                    ("device_add", add_standby(0)),
                    ("query-pci", Value::Null),
                    ("qom-list", json!({"path": "/machine/peripheral"})),
                ],
            )
        },
        &[DANGLING]
    ),
    row!(
        "qmp-mismatched-id",
        "a primary that names another standby",
        |stage| {
            ask(
                stage,
                &[
                    (
                        "device_add",
                        primary_with(json!({"failover_pair_id": "nope"})),
                    ),
                    ("query-pci", Value::Null),
                    (
                        "qom-get",
                        json!({"path": "/machine/peripheral/primary0", "property": "failover_pair_id"}),
                    ),
                ],
            )
        },
        &[DANGLING]
    ),
    row!(
        "qmp-failover-off",
        "a primary for a standby with failover=off",
        |stage| {
            let line = [
                board(2),
                words(
                    "-device virtio-net-pci,id=standby0,bus=root0,romfile=,mac=52:54:00:00:00:01",
                ),
            ]
            .concat();
            asked(
                stage,
                &line,
                &[
                    ("device_add", add_primary(0)),
                    ("query-pci", Value::Null),
                    (
                        "qom-get",
                        json!({"path": "/machine/peripheral/standby0", "property": "failover"}),
                    ),
                ],
            )
        },
        &[DANGLING]
    ),
    row!(
        "qmp-migrate-uri",
        "URIs that are none",
        |stage| {
            ask(
                stage,
                &[
                    ("migrate", json!({"uri": "bogus:xx"})),
                    ("migrate", json!({})),
                    ("migrate", json!({"uri": ""})),
                    ("migrate", json!({"uri": "tcp:nowhere"})),
                    ("migrate", json!({"uri": "fd:nope"})),
                    ("migrate", json!({"uri": "unix:"})),
                    ("query-migrate", Value::Null),
                ],
            )
        },
        &[NO_FD]
    ),
    row!(
        "qmp-incoming-without",
        "migrate-incoming without -incoming",
        |stage| {
            ask(
                stage,
                &[("migrate-incoming", json!({"uri": "tcp:127.0.0.1:0"}))],
            )
        }
    ),
    row!(
        "qmp-incoming-target",
        "what a waiting target refuses",
        |stage| {
            let mut line = pairs(1);
            line.extend(words("-incoming defer"));
            let first = format!("unix:{}", stage.text("first"));
            let mut vmm = stage.start("vm", &line)?;
            vmm.ask("query-status", Value::Null)?;
            vmm.ask("query-migrate", Value::Null)?;
            vmm.ask("migrate", json!({"uri": "exec:cat"}))?;
            vmm.ask("migrate-incoming", json!({"uri": "bogus:xx"}))?;
            vmm.ask("migrate-incoming", json!({"uri": first}))?;
            vmm.ask("migrate-incoming", json!({"uri": first}))?;
            vmm.ask("query-migrate", Value::Null)?;
            vmm.ask("cont", Value::Null)?;
            vmm.ask("query-status", Value::Null)?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[SOCKET_ADDRESS]
    ),
    row!(
        "qmp-negotiation",
        "a second qmp_capabilities, an unknown command, an unknown argument",
        |stage| {
            ask(
                stage,
                &[
                    ("qmp_capabilities", Value::Null),
                    ("nope", Value::Null),
                    ("query-status", json!({"x": 1})),
                    ("device_del", json!({"id": "x", "x": 1})),
                ],
            )
        }
    ),
    row!(
        "qmp-migration-settings",
        "capabilities and parameters, as they are and as they are set",
        |stage| {
            ask(
                stage,
                &[
                    (
                        "migrate-set-capabilities",
                        json!({"capabilities": [{"capability": "events", "state": true}, {"capability": "pause-before-switchover", "state": true}]}),
                    ),
                    ("query-migrate-capabilities", Value::Null),
                    (
                        "migrate-set-parameters",
                        json!({"max-bandwidth": 1_000_000, "downtime-limit": 500}),
                    ),
                    (
                        "migrate-set-parameters",
                        json!({"downtime-limit": 99_999_999}),
                    ),
                    ("migrate-set-parameters", json!({"max-bandwidth": 0})),
                    ("query-migrate-parameters", Value::Null),
                    ("migrate_cancel", Value::Null),
                    ("migrate-continue", json!({"state": "pre-switchover"})),
                    ("query-migrate", Value::Null),
                ],
            )
        },
        &[SETTINGS]
    ),
    row!(
        "qmp-two-pairs-hidden",
        "two pairs that no guest has accepted",
        |stage| {
            asked(
                stage,
                &pairs(2),
                &[
                    ("query-pci", Value::Null),
                    ("qom-list", json!({"path": "/machine/peripheral"})),
                ],
            )
        }
    ),
    row!(
        "qmp-eight-pairs-hidden",
        "eight pairs that no guest has accepted",
        |stage| {
            asked(
                stage,
                &pairs(8),
                &[
                    ("query-pci", Value::Null),
                    ("qom-list", json!({"path": "/machine/peripheral"})),
                ],
            )
        }
    ),
    row!(
        "qmp-rx-filter",
        "what the standby receives",
        |stage| {
            ask(
                stage,
                &[
                    ("query-rx-filter", Value::Null),
                    ("query-rx-filter", json!({"name": "standby0"})),
                    ("set_link", json!({"name": "standby0", "up": false})),
                    ("set_link", json!({"name": "nope", "up": false})),
                ],
            )
        },
        &[BROADCAST]
    ),
    row!(
        "qmp-reset",
        "system_reset of a machine whose guest never ran",
        |stage| {
            asked(
                stage,
                &pairs(1),
                &[("system_reset", Value::Null), ("query-status", Value::Null)],
            )
        }
    ),
];
