//! Two transcripts, entry by entry.
//!
//! Entries are brought together by their keys: the longest common order is the same, the rest came in another order (*moved*) or
//! from one program only. What belongs together is compared member by member.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::transcript::{Entry, Transcript};

/// One thing that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference(pub String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Compares what QEMU's client and ours saw, part by part.
pub fn compare(qemu: &[Transcript], ours: &[Transcript]) -> Vec<Difference> {
    let mut differences = Vec::new();
    let none = Transcript::default();
    let parts = qemu.iter().chain(ours).map(|each| &each.part);
    let mut seen: Vec<&String> = Vec::new();
    for part in parts {
        if seen.contains(&part) {
            continue;
        }
        seen.push(part);
        let of = |all: &'_ [Transcript]| all.iter().find(|each| &each.part == part).cloned();
        let theirs = of(qemu).unwrap_or_else(|| none.clone());
        let own = of(ours).unwrap_or_else(|| none.clone());
        entries(part, &theirs.entries, &own.entries, &mut differences);
    }
    differences
}

fn entries(part: &str, qemu: &[Entry], ours: &[Entry], out: &mut Vec<Difference>) {
    let pairs = common_order(qemu, ours);
    for (i, j) in &pairs {
        if let (Some(a), Some(b)) = (qemu.get(*i), ours.get(*j)) {
            values(&format!("{part}: {}", a.key), &a.value, &b.value, out);
        }
    }
    let mut lonely: Vec<usize> = (0..ours.len())
        .filter(|j| !pairs.iter().any(|(_, b)| b == j))
        .collect();
    for (i, entry) in qemu.iter().enumerate() {
        if pairs.iter().any(|(a, _)| *a == i) {
            continue;
        }
        let says_more = lonely
            .iter()
            .position(|j| ours.get(*j).is_some_and(|other| extends(entry, other)));
        if let Some(at) = says_more {
            let j = lonely.remove(at);
            let other = ours.get(j).map_or(&Value::Null, |other| &other.value);
            values(&format!("{part}: stderr"), &entry.value, other, out);
            continue;
        }
        let twin = lonely
            .iter()
            .position(|j| ours.get(*j).is_some_and(|other| other.key == entry.key));
        match twin {
            Some(at) => {
                let j = lonely.remove(at);
                let other = ours.get(j).map_or(&Value::Null, |other| &other.value);
                out.push(Difference(format!(
                    "{part}: moved {}: QEMU after {}, ours after {}",
                    entry.key,
                    before(qemu, i),
                    before(ours, j)
                )));
                values(&format!("{part}: {}", entry.key), &entry.value, other, out);
            }
            None => out.push(Difference(format!("{part}: only QEMU: {}", shown(entry)))),
        }
    }
    for j in lonely {
        if let Some(entry) = ours.get(j) {
            out.push(Difference(format!("{part}: only ours: {}", shown(entry))));
        }
    }
}

/// The key of a line of standard error is the line.
fn shown(entry: &Entry) -> String {
    if entry.key.starts_with("stderr ") {
        format!("stderr {}", entry.value)
    } else {
        entry.to_string()
    }
}

/// Whether both are lines of standard error, and the second begins with the first.
fn extends(qemu: &Entry, ours: &Entry) -> bool {
    let texts = (qemu.value.as_str(), ours.value.as_str());
    matches!(texts, (Some(a), Some(b)) if qemu.key.starts_with("stderr") && ours.key.starts_with("stderr") && b.starts_with(a))
}

fn before(entries: &[Entry], at: usize) -> String {
    at.checked_sub(1)
        .and_then(|at| entries.get(at))
        .map_or_else(|| "nothing".to_owned(), |entry| entry.key.clone())
}

/// The longest sequence of keys that both have in this order, as pairs of indices.
fn common_order(qemu: &[Entry], ours: &[Entry]) -> Vec<(usize, usize)> {
    let width = ours.len() + 1;
    let mut length = vec![0usize; (qemu.len() + 1) * width];
    let at = |table: &[usize], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in qemu.iter().enumerate().rev() {
        for (j, b) in ours.iter().enumerate().rev() {
            let best = if a.key == b.key {
                at(&length, i + 1, j + 1) + 1
            } else {
                at(&length, i + 1, j).max(at(&length, i, j + 1))
            };
            if let Some(cell) = length.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while let (Some(a), Some(b)) = (qemu.get(i), ours.get(j)) {
        if a.key == b.key {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if at(&length, i + 1, j) >= at(&length, i, j + 1) {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

/// Compares two values member by member; `path` says where they are.
pub fn values(path: &str, qemu: &Value, ours: &Value, out: &mut Vec<Difference>) {
    match (qemu, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                match b.get(name) {
                    Some(other) => values(&format!("{path}.{name}"), value, other, out),
                    None => out.push(Difference(format!("{path}.{name}: only QEMU: {value}"))),
                }
            }
            for (name, value) in b.iter().filter(|(name, _)| !a.contains_key(*name)) {
                out.push(Difference(format!("{path}.{name}: only ours: {value}")));
            }
        }
        (Value::Array(a), Value::Array(b)) => arrays(path, a, b, out),
        _ if qemu == ours => {}
        (Value::String(a), Value::String(b)) if b.starts_with(a.as_str()) => {
            out.push(Difference(format!(
                "{path}: ours adds {:?} to {a:?}",
                b.get(a.len()..).unwrap_or_default()
            )));
        }
        _ => out.push(Difference(format!("{path}: QEMU {qemu}, ours {ours}"))),
    }
}

fn arrays(path: &str, qemu: &[Value], ours: &[Value], out: &mut Vec<Difference>) {
    let named = |list: &[Value]| -> Option<BTreeMap<String, Value>> {
        let map: BTreeMap<_, _> = list
            .iter()
            .map(|each| Some((identity(each)?, each.clone())))
            .collect::<Option<_>>()?;
        (map.len() == list.len()).then_some(map)
    };
    let (Some(a), Some(b)) = (named(qemu), named(ours)) else {
        for i in 0..qemu.len().max(ours.len()) {
            let here = format!("{path}[{i}]");
            match (qemu.get(i), ours.get(i)) {
                (Some(a), Some(b)) => values(&here, a, b, out),
                (Some(a), None) => out.push(Difference(format!("{here}: only QEMU: {a}"))),
                (None, Some(b)) => out.push(Difference(format!("{here}: only ours: {b}"))),
                (None, None) => {}
            }
        }
        return;
    };
    for (name, value) in &a {
        let here = format!("{path}[{name}]");
        match b.get(name) {
            Some(other) => values(&here, value, other, out),
            None => out.push(Difference(format!("{here}: only QEMU: {value}"))),
        }
    }
    for (name, value) in b.iter().filter(|(name, _)| !a.contains_key(*name)) {
        out.push(Difference(format!("{path}[{name}]: only ours: {value}")));
    }
}

/// What tells one element of a list from the others.
fn identity(value: &Value) -> Option<String> {
    let map = value.as_object()?;
    let text = |name: &str| match map.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    if let (Some(slot), Some(function)) = (text("slot"), text("function")) {
        return Some(format!("{slot}.{function}"));
    }
    ["name", "bar", "capability", "bus", "cpu-index"]
        .into_iter()
        .find_map(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(entries: &[(&str, Value)]) -> Vec<Transcript> {
        let mut transcript = Transcript {
            part: "vm".into(),
            entries: Vec::new(),
        };
        for (key, value) in entries {
            transcript.push(*key, value.clone());
        }
        vec![transcript]
    }

    fn differences(qemu: &[(&str, Value)], ours: &[(&str, Value)]) -> Vec<String> {
        let differences = compare(&seen(qemu), &seen(ours));
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_is_the_same_in_any_order_of_members() {
        let a = json!({"x": 1, "list": [{"name": "a"}, {"name": "b"}]});
        let b = json!({"list": [{"name": "b"}, {"name": "a"}], "x": 1});
        assert!(differences(&[("query", a)], &[("query", b)]).is_empty());
    }

    #[test]
    fn each_member_is_told_by_its_place() {
        let a = json!({"x": 1, "list": [{"name": "a", "y": 1}], "gone": null});
        let b = json!({"x": 2, "list": [{"name": "a", "y": 2}, {"name": "b"}]});
        let expected = [
            "vm: query.x: QEMU 1, ours 2",
            "vm: query.list[a].y: QEMU 1, ours 2",
            "vm: query.list[b]: only ours: {\"name\":\"b\"}",
            "vm: query.gone: only QEMU: null",
        ];
        assert_eq!(differences(&[("query", a)], &[("query", b)]), expected);
    }

    #[test]
    fn an_event_may_be_missing_or_come_at_another_time() {
        let [a, b, c] = ["a", "b", "c"].map(|key| (key, Value::Null));
        let three = [a.clone(), b.clone(), c.clone()];
        assert_eq!(
            differences(&three, &[a.clone(), c.clone()]),
            ["vm: only QEMU: b null"]
        );
        assert_eq!(
            differences(&three, &[a, c, b]),
            ["vm: moved b: QEMU after a, ours after c"]
        );
    }

    #[test]
    fn a_longer_message_is_told_by_what_it_adds() {
        let line = |text: &str| json!(text);
        assert_eq!(
            differences(
                &[("stderr no", line("no"))],
                &[("stderr no: why", line("no: why"))]
            ),
            ["vm: stderr: ours adds \": why\" to \"no\""]
        );
    }
}
