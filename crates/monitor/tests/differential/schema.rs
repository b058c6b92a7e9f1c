//! What both programs say about the commands and events that both have.

use super::{answers, both};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Where we differ on purpose, or not yet: the beginning of the difference, and why.
const INTENDED: &[(&str, &str)] = &[
    (
        "query-events: not in QEMU",
        "QEMU dropped it for query-qmp-schema; older clients ask for it",
    ),
    ("query-failover: not in QEMU", "ours"),
    ("query-failover-report: not in QEMU", "ours"),
    ("failover-switch: not in QEMU", "ours"),
    ("x-query-network: not in QEMU", "ours, for `info network`"),
    ("x-query-qtree: not in QEMU", "ours, for `info qtree`"),
    ("FAILOVER_PATH_CHANGED: not in QEMU", "ours"),
    ("FAILOVER_PRIMARY_MISSING: not in QEMU", "ours"),
    ("FAILOVER_STEERING_FAILED: not in QEMU", "ours"),
    ("FAILOVER_UNPLUG_FAILED: not in QEMU", "ours"),
    (
        "human-monitor-command features",
        "snapshots are not supported",
    ),
    ("query-target->.arch values", "one instruction set"),
    ("query-cpus-fast->[].target values", "one instruction set"),
    (
        "query-cpus-fast->[].props members",
        "x86 has no drawers, books, clusters and modules here",
    ),
    (
        "query-hotpluggable-cpus->[].props members",
        "x86 has no drawers, books, clusters and modules here",
    ),
    (
        "query-machines() members",
        "no compatibility properties are told",
    ),
    (
        "query-machines->[] members",
        "no compatibility properties are told",
    ),
    ("query-block->[] members", "no removable media"),
    (
        "query-block->[].inserted members",
        "raw images without throttling, caching modes and bitmaps",
    ),
    (
        "query-block->[].inserted.image members",
        "raw images have none of it",
    ),
    (
        "query-named-block-nodes->[] members",
        "raw images without throttling, caching modes and bitmaps",
    ),
    ("netdev_add().type values", "fewer back ends"),
    ("object-add().qom-type values", "fewer objects"),
    ("migrate().channels[].addr.transport values", "no RDMA"),
    (
        "migrate-incoming().channels[].addr.transport values",
        "no RDMA",
    ),
    (
        "query-migrate-> members",
        "the unplug's time and reason are ours; no post-copy, XBZRLE and dirty limit",
    ),
    (
        "query-migrate->.socket-address[].type values",
        "a migration listens on no vsock",
    ),
    (
        "migrate-set-parameters() members",
        "the unplug's limit is ours; no bitmaps and no compression",
    ),
    (
        "query-migrate-parameters-> members",
        "the unplug's limit is ours; no bitmaps and no compression",
    ),
    ("GUEST_PANICKED() members", "no details of the panic"),
];

type Entries = BTreeMap<String, Value>;

fn entries(answers: &[Value]) -> Entries {
    let first = answers.first().expect("an answer");
    let list = first["return"]
        .as_array()
        .unwrap_or_else(|| panic!("no schema: {answers:?}"));
    list.iter()
        .map(|entry| {
            (
                entry["name"].as_str().expect("a name").to_owned(),
                entry.clone(),
            )
        })
        .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} of {value}"))
}

fn members(entry: &Value) -> BTreeMap<&str, &Value> {
    entry["members"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|member| (text(member, "name"), member))
        .collect()
}

struct Comparison {
    ours: Entries,
    theirs: Entries,
    differences: Vec<String>,
}

impl Comparison {
    fn types(&mut self, path: &str, ours: &str, theirs: &str) {
        // Types that contain themselves (bridges behind bridges) are the same further down.
        if path.matches('.').count() > 6 {
            return;
        }
        let (a, b) = (self.ours[ours].clone(), self.theirs[theirs].clone());
        let (kind_a, kind_b) = (text(&a, "meta-type"), text(&b, "meta-type"));
        if kind_a != kind_b {
            return self
                .differences
                .push(format!("{path} kind: ours {kind_a}, QEMU {kind_b}"));
        }
        match kind_a {
            "builtin" if a["json-type"] != b["json-type"] => {
                self.differences.push(format!(
                    "{path} kind: ours {}, QEMU {}",
                    a["json-type"], b["json-type"]
                ));
            }
            "array" => self.types(
                &format!("{path}[]"),
                text(&a, "element-type"),
                text(&b, "element-type"),
            ),
            "enum" => {
                let (x, y): (BTreeSet<_>, BTreeSet<_>) = (
                    members(&a).into_keys().collect(),
                    members(&b).into_keys().collect(),
                );
                if x != y {
                    let (more, less): (Vec<_>, Vec<_>) =
                        (x.difference(&y).collect(), y.difference(&x).collect());
                    self.differences.push(format!(
                        "{path} values: ours has {more:?} more and lacks {less:?}"
                    ));
                }
            }
            "object" => {
                let (x, y) = (members(&a), members(&b));
                let more: Vec<_> = x.keys().filter(|name| !y.contains_key(*name)).collect();
                let less: Vec<_> = y.keys().filter(|name| !x.contains_key(*name)).collect();
                if !more.is_empty() || !less.is_empty() {
                    self.differences.push(format!(
                        "{path} members: ours has {more:?} more and lacks {less:?}"
                    ));
                }
                for (name, member) in &x {
                    let Some(other) = y.get(name) else { continue };
                    if member.get("default") != other.get("default") {
                        self.differences
                            .push(format!("{path}.{name} optional: only one of them"));
                    }
                    self.types(
                        &format!("{path}.{name}"),
                        text(member, "type"),
                        text(other, "type"),
                    );
                }
            }
            _ => {}
        }
    }

    fn entry(&mut self, name: &str) {
        let entry = self.ours[name].clone();
        let Some(other) = self.theirs.get(name).cloned() else {
            return self.differences.push(format!("{name}: not in QEMU"));
        };
        self.types(
            &format!("{name}()"),
            text(&entry, "arg-type"),
            text(&other, "arg-type"),
        );
        if entry["meta-type"] == "command" {
            self.types(
                &format!("{name}->"),
                text(&entry, "ret-type"),
                text(&other, "ret-type"),
            );
        }
        for key in ["allow-oob", "features"] {
            if entry.get(key) != other.get(key) {
                let (ours, theirs) = (entry.get(key), other.get(key));
                self.differences
                    .push(format!("{name} {key}: ours {ours:?}, QEMU {theirs:?}"));
            }
        }
    }
}

#[test]
fn the_schema_describes_what_qemus_does() {
    let Some(both) = both() else { return };
    let query = br#"{"execute": "query-qmp-schema"}"#;
    let ours = entries(&answers(&both.ours, "", query));
    let theirs = entries(&answers(&both.qemu.socket, "", query));
    let names: Vec<String> = ours
        .iter()
        .filter(|(_, entry)| entry["meta-type"] == "command" || entry["meta-type"] == "event")
        .map(|(name, _)| name.clone())
        .collect();
    assert!(names.len() > 80, "{names:?}");
    let mut comparison = Comparison {
        ours,
        theirs,
        differences: Vec::new(),
    };
    for name in names {
        comparison.entry(&name);
    }
    let is_intended = |difference: &String| {
        INTENDED
            .iter()
            .any(|(beginning, _)| difference.starts_with(beginning))
    };
    let unexpected: Vec<_> = comparison
        .differences
        .iter()
        .filter(|difference| !is_intended(difference))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let stale: Vec<_> = INTENDED
        .iter()
        .filter(|(beginning, _)| {
            !comparison
                .differences
                .iter()
                .any(|difference| difference.starts_with(beginning))
        })
        .collect();
    assert!(
        stale.is_empty(),
        "listed, but no longer different: {stale:#?}"
    );
}
