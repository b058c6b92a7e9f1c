//! What a type of `query-qmp-schema` is made of, whatever its name: QEMU hides its names behind numbers.
//!
//! A type is taken apart into *places*: `channels[].addr.host` is a member of a member of an array, `status=active` a value of an
//! enumeration, `addr{socket}.path` a member that is there when the type's tag is `socket`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::facts::Named;

/// Each place and what stands there.
pub(super) type Places = BTreeMap<String, String>;

/// A type that contains itself is not followed for ever.
const DEEPEST: usize = 8;

/// The places of the type that `entry` names in its member `key`.
pub(super) fn places(schema: &Named, entry: &str, key: &str) -> Places {
    let mut found = Places::new();
    let named = schema.get(entry).and_then(|entry| text(entry, key));
    if let Some(named) = named {
        walk(schema, named, "", 0, &mut found);
    }
    found
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn walk(schema: &Named, name: &str, path: &str, depth: usize, into: &mut Places) {
    let Some(entry) = schema.get(name).filter(|_| depth < DEEPEST) else {
        return;
    };
    let mut put = |path: &str, what: &str| {
        if !path.is_empty() {
            into.entry(path.to_owned())
                .and_modify(|there| {
                    if there.is_empty() {
                        what.clone_into(there);
                    }
                })
                .or_insert_with(|| what.to_owned());
        }
    };
    match text(entry, "meta-type").unwrap_or_default() {
        "builtin" => put(path, text(entry, "json-type").unwrap_or_default()),
        "enum" => {
            put(path, "word");
            for member in list(entry, "members") {
                let value = text(member, "name").unwrap_or_default();
                put(&format!("{path}={value}"), "value");
            }
        }
        "array" => {
            put(path, "array");
            let element = text(entry, "element-type").unwrap_or_default();
            walk(schema, element, &format!("{path}[]"), depth + 1, into);
        }
        "alternate" => {
            put(path, "one of several");
            for member in list(entry, "members") {
                let kind = text(member, "type").unwrap_or_default();
                walk(schema, kind, &format!("{path}|"), depth + 1, into);
            }
        }
        "object" => {
            put(path, "object");
            for member in list(entry, "members") {
                let name = join(path, text(member, "name").unwrap_or_default());
                walk(
                    schema,
                    text(member, "type").unwrap_or_default(),
                    &name,
                    depth + 1,
                    into,
                );
                if member.get("default").is_some()
                    && let Some(what) = into.get_mut(&name)
                {
                    what.push_str(", may be left out");
                }
            }
            for variant in list(entry, "variants") {
                let case = text(variant, "case").unwrap_or_default();
                let inner = format!("{path}{{{case}}}");
                walk(
                    schema,
                    text(variant, "type").unwrap_or_default(),
                    &inner,
                    depth + 1,
                    into,
                );
            }
        }
        _ => {}
    }
}

/// Places that only one has, and places in which other things stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Apart {
    /// Only QEMU has them; not told again for what is within them.
    pub(super) qemu: Vec<String>,
    /// Only ours.
    pub(super) ours: Vec<String>,
    /// Where, QEMU's, ours.
    pub(super) other: Vec<(String, String, String)>,
}

impl Apart {
    /// Compares.
    pub(super) fn of(qemu: &Places, ours: &Places) -> Self {
        let both = qemu
            .iter()
            .filter_map(|(place, a)| Some((place, a, ours.get(place)?)));
        Self {
            qemu: without(qemu, ours),
            ours: without(ours, qemu),
            other: both
                .filter(|(_, a, b)| a != b)
                .map(|(place, a, b)| (place.clone(), a.clone(), b.clone()))
                .collect(),
        }
    }

    /// Whether both are the same.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The places of `a` that are not in `b`, but for those within another such place.
fn without(a: &Places, b: &Places) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for place in a.keys().filter(|place| !b.contains_key(*place)) {
        let within = |outer: &String| {
            place
                .strip_prefix(outer.as_str())
                .is_some_and(|rest| rest.starts_with(['.', '[', '{', '|', '=']))
        };
        if !found.iter().any(within) {
            found.push(place.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(kind: &str) -> Named {
        let entries = json!([
            {"name": "do", "meta-type": "command", "arg-type": "1"},
            {"name": "1", "meta-type": "object", "members": [
                {"name": "list", "type": "2", "default": null}, {"name": "state", "type": "4"}]},
            {"name": "2", "meta-type": "array", "element-type": "3"},
            {"name": "3", "meta-type": "object", "tag": "t", "members": [{"name": "t", "type": "4"}],
             "variants": [{"case": "a", "type": "5"}]},
            {"name": "4", "meta-type": "enum", "members": [{"name": "a"}, {"name": "b"}]},
            {"name": "5", "meta-type": "object", "members": [{"name": "x", "type": kind}, {"name": "again", "type": "2"}]},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
        ]);
        let list = entries.as_array().cloned().unwrap_or_default();
        list.into_iter()
            .filter_map(|each| Some((text(&each, "name")?.to_owned(), each)))
            .collect()
    }

    #[test]
    fn a_type_is_its_places() {
        let found = places(&schema("int"), "do", "arg-type");
        assert_eq!(
            found.get("list").map(String::as_str),
            Some("array, may be left out")
        );
        assert_eq!(found.get("list[]{a}.x").map(String::as_str), Some("int"));
        assert!(found.contains_key("state=b"));
        assert!(found.len() < 200, "a type that contains itself ends");
    }

    #[test]
    fn what_is_apart_is_told_once() {
        let qemu = places(&schema("int"), "do", "arg-type");
        let ours = places(&schema("str"), "do", "arg-type");
        assert!(Apart::of(&qemu, &qemu).is_empty());
        let apart = Apart::of(&qemu, &ours);
        assert!(apart.qemu.is_empty() && apart.ours.is_empty());
        assert_eq!(
            apart.other.first(),
            Some(&(
                "list[]{a}.again[]{a}.x".to_owned(),
                "int".to_owned(),
                "string".to_owned()
            ))
        );
        let mut less = qemu.clone();
        less.retain(|place, _| !place.starts_with("list"));
        assert_eq!(Apart::of(&qemu, &less).qemu, ["list"]);
    }
}
