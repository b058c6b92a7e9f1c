//! The tables of what there is: commands, events, options, properties, machines, processors, types.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::facts::{DEVICES, Facts, Named};
use super::reasons::{About, sort};
use super::shape::{Apart, places};

/// Writes them all; returns what is QEMU's alone without a reason.
pub(super) fn write(text: &mut String, qemu: &Facts, ours: &Facts) -> Vec<String> {
    let mut tables = Tables {
        text,
        qemu,
        ours,
        unexplained: Vec::new(),
    };
    tables.schema("command", "Commands", About::Commands);
    tables.schema("event", "Events", About::Events);
    tables.options();
    tables.parameters();
    tables.properties();
    tables.machines();
    tables.processors();
    tables.types();
    tables.unexplained
}

struct Tables<'a> {
    text: &'a mut String,
    qemu: &'a Facts,
    ours: &'a Facts,
    unexplained: Vec<String>,
}

/// Names as code, or `none`.
fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn strings(names: &[String]) -> impl Iterator<Item = &str> {
    names.iter().map(String::as_str)
}

impl Tables<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// What is QEMU's alone, by the reasons.
    fn alone(&mut self, about: About, names: &[&str]) {
        let (sorted, unknown) = sort(about, names);
        if !sorted.is_empty() {
            self.line("\n| QEMU's alone | why not here |\n|---|---|");
        }
        for (why, names) in sorted {
            self.line(&format!("| {} | {why} |", list(names)));
        }
        self.unexplained.extend(
            unknown
                .into_iter()
                .map(|name| format!("{name} ({about:?})")),
        );
    }

    fn schema(&mut self, meta: &str, heading: &str, about: About) {
        let (qemu, ours) = (self.qemu, self.ours);
        let (theirs, own) = (qemu.of_kind(meta), ours.of_kind(meta));
        let both: Vec<&str> = own.intersection(&theirs).copied().collect();
        let parts: &[(&str, &str)] = if meta == "command" {
            &[("arg-type", "arguments"), ("ret-type", "answer")]
        } else {
            &[("arg-type", "members")]
        };
        let mut same = Vec::new();
        let mut rows = Vec::new();
        for name in both {
            let mut is_same = true;
            for (key, what) in parts {
                let apart = Apart::of(
                    &places(&qemu.schema, name, key),
                    &places(&ours.schema, name, key),
                );
                if !apart.is_empty() {
                    is_same = false;
                    rows.push(apart_row(name, what, &apart));
                }
            }
            if is_same {
                same.push(name);
            }
        }
        self.line(&format!(
            "\n## {heading}\n\nBy `query-qmp-schema`, down to the members of members.\n\nThe same in both: {}.",
            list(same)
        ));
        if !rows.is_empty() {
            self.line(&format!(
                "\nIn both, and not in every detail the same. `a.b` is a member of a member, `a[]` an element, `a=b` a value, `a{{b}}` what is \
                 there in the case `b`.\n\n| {meta} | of its | QEMU's alone | ours alone | otherwise |\n|---|---|---|---|---|"
            ));
            for row in rows {
                self.line(&row);
            }
        }
        let added: Vec<&str> = own.difference(&theirs).copied().collect();
        self.line(&format!("\nOurs alone: {}.", list(added)));
        let missing: Vec<&str> = theirs.difference(&own).copied().collect();
        self.alone(about, &missing);
    }

    fn options(&mut self) {
        let (qemu, ours) = (&self.qemu.options, &self.ours.options);
        let both = list(qemu.intersection(ours).map(String::as_str));
        let added = list(ours.difference(qemu).map(String::as_str));
        let missing: Vec<&str> = qemu.difference(ours).map(String::as_str).collect();
        self.line(
            "\n## Options\n\nAs the help texts list them (QEMU takes `-M`, `-qtest` and `-qtest-log` too, and leaves them out);\n\
             [options.md](options.md) says what each takes.\n",
        );
        self.line(&format!("- Both: {both}.\n- Ours alone: {added}."));
        self.alone(About::Options, &missing);
    }

    /// `query-command-line-options`.
    fn parameters(&mut self) {
        let (qemu, ours) = (&self.qemu.parameters, &self.ours.parameters);
        self.line("\n## Parameters of options\n\nBy `query-command-line-options`.\n\n| option | same | of another type | ours alone |\n|---|---|---|---|");
        let mut missing: Vec<String> = Vec::new();
        let none = BTreeMap::new();
        let names: BTreeSet<&String> = qemu.keys().chain(ours.keys()).collect();
        for name in names {
            let Some(own) = ours.get(name) else {
                missing.push(name.clone());
                continue;
            };
            let theirs = qemu.get(name).unwrap_or(&none);
            let row = Row::of(theirs, own);
            missing.extend(row.missing.iter().map(|each| format!("{name}.{each}")));
            self.line(&format!(
                "| `{name}` | {} | {} | {} |",
                list(row.same.iter().copied()),
                row.other(theirs, own),
                list(row.added.iter().copied())
            ));
        }
        self.alone(About::Options, &strings(&missing).collect::<Vec<_>>());
    }

    fn properties(&mut self) {
        self.line("\n## Properties\n\nBy `device-list-properties`.");
        let none = BTreeMap::new();
        let (qemu, ours) = (self.qemu, self.ours);
        for device in DEVICES {
            let theirs = qemu.properties.get(device).unwrap_or(&none);
            let own = ours.properties.get(device).unwrap_or(&none);
            let row = Row::of(theirs, own);
            self.line(&format!(
                "\n### {device}\n\n- Same: {}.\n- Of another type: {}.\n- Ours alone: {}.",
                list(row.same.iter().copied()),
                row.other(theirs, own),
                list(row.added.iter().copied())
            ));
            self.alone(About::Properties, &row.missing);
        }
    }

    fn machines(&mut self) {
        self.line("\n## Machines\n\nBy `query-machines`. QEMU's other machines are not here: no `pc` (no port of it can take PCI Express), no `microvm`, no `isapc`.\n");
        let groups = unlike(&self.qemu.machines, &self.ours.machines);
        self.line("| machine | member | QEMU | Standfast |\n|---|---|---|---|");
        for ((member, theirs, own), names) in groups {
            self.line(&format!(
                "| {} | `{member}` | {theirs} | {own} |",
                list(names)
            ));
        }
        self.line(
            "\nThe guest gets the host's own processor and at most 64 of them, and none is added later: hence `cpu-max`, \
             `default-cpu-type` and `hotpluggable-cpus`. There are no NUMA nodes. `q35` is the machine without `-machine`.",
        );
    }

    fn processors(&mut self) {
        let (qemu, ours) = (self.qemu, self.ours);
        self.line("\n## Processors\n\nBy `query-cpu-definitions`; QEMU was asked under TCG.\n\n| model | member | QEMU | Standfast |\n|---|---|---|---|");
        for ((member, theirs, own), names) in unlike(&qemu.cpus, &ours.cpus) {
            self.line(&format!(
                "| {} | `{member}` | {theirs} | {own} |",
                list(names)
            ));
        }
        let alone = qemu
            .cpus
            .keys()
            .filter(|name| !ours.cpus.contains_key(*name))
            .count();
        self.line(&format!(
            "\nQEMU's other {alone} models are not here: the guest gets the host's own processor, by `host` or `max`."
        ));
    }

    fn types(&mut self) {
        let (qemu, ours) = (&self.qemu.types, &self.ours.types);
        let same = ours
            .iter()
            .filter(|(name, each)| qemu.get(*name) == Some(each));
        let same: Vec<&str> = same.map(|(name, _)| name.as_str()).collect();
        self.line(&format!(
            "\n## Types\n\nBy `qom-list-types`, abstract ones among them.\n\n- The same, with the same parent: {}.",
            list(same)
        ));
        let text = |value: Option<&Value>| value.map_or_else(String::new, Value::to_string);
        for (name, own) in ours {
            if qemu.get(name) != Some(own) {
                self.line(&format!(
                    "- `{name}`: QEMU {}, ours `{own}`.",
                    if qemu.contains_key(name) {
                        format!("`{}`", text(qemu.get(name)))
                    } else {
                        "has none".to_owned()
                    }
                ));
            }
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in qemu.keys().filter(|name| !ours.contains_key(*name)) {
            *counts.entry(family(qemu, name)).or_default() += 1;
        }
        let counts: Vec<String> = counts
            .into_iter()
            .map(|(family, count)| format!("{count} of `{family}`"))
            .collect();
        self.line(&format!(
            "\nQEMU's alone, by the family: {}. What is not here is not listed: a client takes a listed type for what it can use.",
            counts.join(", ")
        ));
    }
}

/// The eldest ancestor of a type but for `object`.
fn family<'t>(types: &'t Named, name: &'t str) -> &'t str {
    let parent = |name: &str| types.get(name)?.get("parent")?.as_str();
    let mut name = name;
    // No family has so many generations.
    for _ in 0..32 {
        match parent(name) {
            Some("object") | None => return name,
            Some(next) => name = next,
        }
    }
    name
}

fn apart_row(name: &str, what: &str, apart: &Apart) -> String {
    let other: Vec<String> = apart
        .other
        .iter()
        .map(|(place, theirs, own)| format!("`{place}`: QEMU {theirs}; ours {own}"))
        .collect();
    format!(
        "| `{name}` | {what} | {} | {} | {} |",
        list(strings(&apart.qemu)),
        list(strings(&apart.ours)),
        if other.is_empty() {
            "none".to_owned()
        } else {
            other.join(", ")
        }
    )
    // `|` divides the cells.
    .replace("|`", "\\|`")
}

/// A member, QEMU's value and ours; and the things in which it is so.
type Unlike<'f> = ((String, String, String), Vec<&'f str>);

/// Members of things that both have, each with another value, and the things in which it is so.
fn unlike<'f>(qemu: &'f Named, ours: &'f Named) -> Vec<Unlike<'f>> {
    let mut groups: Vec<Unlike<'f>> = Vec::new();
    let shown = |value: Option<&Value>| {
        value.map_or_else(|| "absent".to_owned(), |value| format!("`{value}`"))
    };
    for (name, own) in ours {
        let Some(theirs) = qemu.get(name) else {
            continue;
        };
        let members = |value: &Value| -> BTreeSet<String> {
            let map = value.as_object().into_iter().flatten();
            map.map(|(member, _)| member.clone()).collect()
        };
        for member in members(theirs).union(&members(own)) {
            let (a, b) = (theirs.get(member), own.get(member));
            if a == b {
                continue;
            }
            let key = (member.clone(), shown(a), shown(b));
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, names)) => names.push(name),
                None => groups.push((key, vec![name])),
            }
        }
    }
    groups.sort();
    groups
}

/// Two lists of names with types, compared.
struct Row<'r> {
    same: Vec<&'r str>,
    changed: Vec<&'r str>,
    missing: Vec<&'r str>,
    added: Vec<&'r str>,
}

impl<'r> Row<'r> {
    fn of(qemu: &'r BTreeMap<String, String>, ours: &'r BTreeMap<String, String>) -> Self {
        let only = |a: &'r BTreeMap<String, String>, b: &BTreeMap<String, String>| {
            let names = a.keys().filter(|name| !b.contains_key(*name));
            names.map(String::as_str).collect()
        };
        let both = || qemu.keys().filter(|name| ours.contains_key(*name));
        let like = |name: &&String| qemu.get(*name) == ours.get(*name);
        Self {
            same: both().filter(like).map(String::as_str).collect(),
            changed: both()
                .filter(|name| !like(name))
                .map(String::as_str)
                .collect(),
            missing: only(qemu, ours),
            added: only(ours, qemu),
        }
    }

    fn other(&self, qemu: &BTreeMap<String, String>, ours: &BTreeMap<String, String>) -> String {
        let kind =
            |of: &BTreeMap<String, String>, name: &str| of.get(name).cloned().unwrap_or_default();
        let changed = self.changed.iter().map(|name| {
            format!(
                "`{name}`: QEMU {}, ours {}",
                kind(qemu, name),
                kind(ours, name)
            )
        });
        let changed: Vec<String> = changed.collect();
        if changed.is_empty() {
            "none".to_owned()
        } else {
            changed.join(", ")
        }
    }
}
