//! What is never twice the same is taken out of a transcript, by rules that have names.

use serde_json::{Map, Value};

/// A rule: what it takes out, and why that says nothing about behaviour.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// The reason.
    pub why: &'static str,
    apply: fn(&str, &mut Value),
}

/// All rules, in the order in which they are applied to each entry.
pub const RULES: &[Rule] = &[
    Rule {
        name: "time",
        why: "time stamps, and how long things took, are another in each run",
        apply: time,
    },
    Rule {
        name: "version",
        why: "a package's name belongs to the program, and QEMU may be a later release of its line",
        apply: version,
    },
    Rule {
        name: "size",
        why: "pages and bytes sent depend on the host's speed and on what a program keeps in guest memory",
        apply: size,
    },
];

/// Applies all rules to what an entry says.
pub fn normalise(value: &mut Value) {
    for rule in RULES {
        walk(value, rule.apply);
    }
}

fn walk(value: &mut Value, apply: fn(&str, &mut Value)) {
    match value {
        Value::Object(map) => {
            for (name, member) in map.iter_mut() {
                apply(name, member);
                walk(member, apply);
            }
        }
        Value::Array(list) => {
            for each in list {
                walk(each, apply);
            }
        }
        _ => {}
    }
}

/// A number becomes a word that still says that it was one.
fn blur(value: &mut Value) {
    if value.is_number() {
        *value = Value::from("NUMBER");
    }
}

fn time(name: &str, value: &mut Value) {
    const TIMES: &[&str] = &[
        "total-time",
        "setup-time",
        "downtime",
        "expected-downtime",
        "thread-id",
    ];
    if TIMES.contains(&name) {
        blur(value);
    }
}

fn version(name: &str, value: &mut Value) {
    if name == "package" && value.is_string() {
        *value = Value::from("PACKAGE");
    }
    if name == "micro" {
        blur(value);
    }
}

fn size(name: &str, value: &mut Value) {
    const SIZES: &[&str] = &[
        "transferred",
        "remaining",
        "duplicate",
        "normal",
        "normal-bytes",
        "mbps",
        "dirty-sync-count",
        "dirty-sync-missed-zero-copy",
        "dirty-pages-rate",
        "pages-per-second",
        "precopy-bytes",
        "downtime-bytes",
        "postcopy-bytes",
        "multifd-bytes",
        "postcopy-requests",
        "total",
    ];
    if SIZES.contains(&name) {
        blur(value);
    }
}

/// An event's passes after the first: their number depends on the host's speed.
pub fn is_later_pass(event: &str, data: &Map<String, Value>) -> bool {
    event == "MIGRATION_PASS" && data.get("pass").and_then(Value::as_i64) != Some(1)
}

/// A line of text: the program's name and its folder become words, and what a libc says of an errno stays.
pub fn text(line: &str, program: &str, folder: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    let line = line.replace(folder, "DIR").replace(program, "PROGRAM");
    line.strip_prefix(name)
        .map_or(line.clone(), |rest| format!("PROGRAM{rest}"))
}

/// The same for each string in a value.
pub fn paths(value: &mut Value, program: &str, folder: &str) {
    match value {
        Value::String(string) => *string = text(string, program, folder),
        Value::Array(list) => list
            .iter_mut()
            .for_each(|each| paths(each, program, folder)),
        Value::Object(map) => map
            .values_mut()
            .for_each(|each| paths(each, program, folder)),
        _ => {}
    }
}
