//! `device_add` and `device_del` before any guest has run: each message by QMP.

use serde_json::{Value, json};

use super::{ask, asked};
use crate::intended::{
    CHECKED, DANGLING, DELETE_HIDDEN, EMPTY_ID, IDS, REMEDY, REPEAT, SLOT_WORDS, STRING_BOOL,
};
use crate::machine::{add_primary, add_standby, board, plain_nic, standby, with, words};
use crate::scenario::{Scenario, row};

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("qmp-primary-no-id", "a primary without an id", |stage| {
        ask(
            stage,
            &[("device_add", with(add_primary(0), json!({"id": null})))],
        )
    }),
    row!(
        "qmp-primary-no-bus",
        "a primary to no bus, and to pcie.0",
        |stage| {
            ask(
                stage,
                &[
                    ("device_add", with(add_primary(0), json!({"bus": null}))),
                    ("device_add", with(add_primary(0), json!({"bus": "pcie.0"}))),
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
                &[("device_add", with(add_primary(0), json!({"bus": "fixed"})))],
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
                        with(add_primary(0), json!({"id": "primary1", "bus": "root2"})),
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
                &[(
                    "device_add",
                    with(add_primary(0), json!({"multifunction": true})),
                )],
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
                &[("device_add", with(add_primary(0), json!({"addr": "0.1"})))],
            )
        },
        &[CHECKED]
    ),
    row!(
        "qmp-standby-slot",
        "a primary in its standby's slot",
        |stage| {
            ask(
                stage,
                &[("device_add", with(add_primary(0), json!({"bus": "root0"})))],
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
                    (
                        "device_add",
                        with(add_primary(0), json!({"id": "standby0"})),
                    ),
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
        "qmp-iommufd",
        "an iommufd, and functions by it: what is not there, and what is something else",
        |stage| {
            let vfio = |more: Value| {
                let device = json!({"driver": "vfio-pci", "id": "x", "bus": "root1"});
                ("device_add", with(device, more))
            };
            let object = |more: Value| {
                let object = json!({"qom-type": "iommufd", "id": "iommufd0"});
                ("object-add", with(object, more))
            };
            ask(
                stage,
                &[
                    vfio(json!({"host": "0000:ff:1f.7", "iommufd": "iommufd0"})),
                    object(json!({"fd": "nope"})),
                    object(json!({})),
                    object(json!({})),
                    ("object-add", json!({"qom-type": "iothread", "id": "io"})),
                    vfio(json!({"host": "0000:ff:1f.7", "iommufd": "io"})),
                    vfio(json!({"iommufd": "iommufd0", "fd": "nope"})),
                    vfio(json!({"iommufd": "iommufd0"})),
                    ("object-del", json!({"id": "iommufd0"})),
                    ("object-del", json!({"id": "iommufd0"})),
                ],
            )
        },
        &[REMEDY]
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
                        with(add_primary(0), json!({"failover_pair_id": "nope"})),
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
            asked(
                stage,
                &[board(2), plain_nic(0)].concat(),
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
];
