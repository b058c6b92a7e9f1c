//! What a monitor answers before any guest has run, but for devices: what the queries say of a pair, and of a migration.

use serde_json::{Value, json};

use super::act::Act;
use super::{ask, asked};
use crate::intended::{BROADCAST, OWN_LIMITS, PROMISES};
use crate::machine::{board, pairs, words};
use crate::scenario::{Scenario, row};

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("qmp-greeting", "what a client is greeted with", |stage| {
        Act::start(stage, "vm", &board(1))?.greeting().finish()
    }),
    row!(
        "qmp-hidden-primary",
        "a pair that no guest has accepted",
        |stage| { Act::start(stage, "vm", &pairs(1))?.look()?.finish() }
    ),
    row!(
        "qmp-stopped-pair",
        "the same, stopped, continued, stopped",
        |stage| {
            Act::start(stage, "vm", &[pairs(1), words("-S")].concat())?
                .ask("query-status", Value::Null)?
                .ask("cont", Value::Null)?
                .ask("query-status", Value::Null)?
                .ask("stop", Value::Null)?
                .look()?
                .finish()
        }
    ),
    row!("qmp-migrate-uri", "URIs that are none", |stage| {
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
    }),
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
            let first = || json!({"uri": "unix:DIR/first"});
            Act::start(stage, "vm", &[pairs(1), words("-incoming defer")].concat())?
                .ask_all(&[
                    ("query-status", Value::Null),
                    ("query-migrate", Value::Null),
                    ("migrate", json!({"uri": "exec:cat"})),
                    ("migrate-incoming", json!({"uri": "bogus:xx"})),
                    ("migrate-incoming", first()),
                    ("migrate-incoming", first()),
                    ("query-migrate", Value::Null),
                    ("cont", Value::Null),
                    ("query-status", Value::Null),
                ])?
                .look()?
                .finish()
        }
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
        &[OWN_LIMITS]
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
    row!(
        "qmp-settings-of-others",
        "parameters and capabilities that govern what is not here",
        |stage| {
            let parameter =
                |name: &str, value: Value| ("migrate-set-parameters", json!({ name: value }));
            ask(
                stage,
                &[
                    parameter("multifd-channels", json!(0)),
                    parameter("multifd-channels", json!(4)),
                    parameter("multifd-compression", json!("zstd")),
                    parameter("multifd-compression", json!("nope")),
                    parameter("multifd-zlib-level", json!(10)),
                    parameter("cpu-throttle-initial", json!(100)),
                    parameter("cpu-throttle-initial", json!(30)),
                    parameter("max-cpu-throttle", json!(20)),
                    parameter("throttle-trigger-threshold", json!(0)),
                    parameter("xbzrle-cache-size", json!(5000)),
                    parameter("max-postcopy-bandwidth", json!(1)),
                    parameter("vcpu-dirty-limit", json!(0)),
                    parameter("x-vcpu-dirty-limit-period", json!(0)),
                    parameter("zero-page-detection", json!("none")),
                    parameter("tls-creds", json!("")),
                    parameter("tls-hostname", json!("there")),
                    parameter("mode", json!("normal")),
                    parameter("direct-io", json!(false)),
                    parameter("announce-initial", json!(100_001)),
                    parameter("announce-rounds", json!(1001)),
                    parameter("announce-step", json!(0)),
                    ("query-migrate-parameters", Value::Null),
                    (
                        "migrate-set-capabilities",
                        json!({"capabilities": [{"capability": "multifd", "state": false}]}),
                    ),
                    (
                        "migrate-set-capabilities",
                        json!({"capabilities": [{"capability": "nope", "state": true}]}),
                    ),
                    ("query-migrate-capabilities", Value::Null),
                ],
            )
        },
        &[OWN_LIMITS]
    ),
    row!(
        "qmp-promises",
        "settings that would promise what is not here",
        |stage| {
            ask(
                stage,
                &[
                    ("migrate-set-parameters", json!({"tls-creds": "tls0"})),
                    ("migrate-set-parameters", json!({"mode": "cpr-reboot"})),
                    ("migrate-set-parameters", json!({"direct-io": true})),
                    (
                        "migrate-set-capabilities",
                        json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]}),
                    ),
                    (
                        "migrate-set-capabilities",
                        json!({"capabilities": [{"capability": "auto-converge", "state": true}]}),
                    ),
                ],
            )
        },
        &[PROMISES]
    ),
    row!("qmp-signal", "the machine is ended by SIGTERM", |stage| {
        Act::start(stage, "vm", &pairs(1))?.signalled(rustix::process::Signal::TERM)
    }),
];
