//! `docs/compatibility.md`: what QEMU has and says, and what Standfast has and says, asked of both programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::intended::{EVERYWHERE, LISTED};
use crate::machine::board;
use crate::program::{Program, Programs};
use crate::scenario::{Outcome, Scenario, play, play_all};
use crate::scenarios::GROUPS;
use crate::stage::Stage;
use crate::transcript::Transcript;

/// The device types whose properties are compared.
const DEVICES: &[&str] = &[
    "virtio-net-pci",
    "vfio-pci",
    "pcie-root-port",
    "virtio-blk-pci",
    "virtio-rng-pci",
    "isa-serial",
];

const INTRODUCTION: &str = "\
# Compatibility with QEMU 10.0

Made by the comparison with QEMU (`crates/differential`): both programs were asked, and this is what they answered. Do not edit;
`STANDFAST_WRITE_DOCS=1 cargo test -p standfast --test differential` writes it anew, and a test fails when it is stale.
`cargo xtask differential` plays the scenarios and prints the table.
";

/// The page.
///
/// # Errors
/// A program cannot be asked.
pub fn page(programs: &Programs) -> Result<String> {
    let mut text = INTRODUCTION.to_owned();
    scenarios(&mut text);
    messages(&mut text, programs);
    migration(&mut text, programs);
    let (qemu, ours) = (Facts::of(&programs.qemu)?, Facts::of(&programs.ours)?);
    schema(&mut text, &qemu, &ours);
    options(&mut text, &qemu, &ours);
    properties(&mut text, &qemu, &ours);
    Ok(text)
}

fn scenarios(text: &mut String) {
    text.push_str("\n## Scenarios\n\nEach is played to both programs; replies, events and their order, standard error and exit status are compared.\n");
    text.push_str("`same`, or the differences that are meant (below).\n\n| scenario | plays | |\n|---|---|---|\n");
    for Scenario {
        name,
        about,
        intended,
        ..
    } in GROUPS.iter().flat_map(|group| group.scenarios)
    {
        let names: Vec<&str> = intended.iter().map(|each| each.name).collect();
        let verdict = if names.is_empty() {
            "same".to_owned()
        } else {
            names.join(", ")
        };
        let _ = writeln!(text, "| {name} | {about} | {verdict} |");
    }
    text.push_str("\n## What differs on purpose\n\n| difference | Standfast |\n|---|---|\n");
    for each in LISTED {
        let _ = writeln!(text, "| {} | {} |", each.name, each.reason);
    }
    text.push_str("\nIn any scenario:\n\n| difference | Standfast |\n|---|---|\n");
    for each in EVERYWHERE {
        let _ = writeln!(text, "| {} | {} |", each.name, each.reason);
    }
}

/// What was said, in a cell of a table.
fn quoted(text: &str) -> String {
    match text {
        NOTHING | DONE => text.to_owned(),
        said => format!("`{}`", said.replace('|', "\\|")),
    }
}

/// Of a command line or a command that nothing is said of.
const NOTHING: &str = "nothing";

/// Of a command that was carried out.
const DONE: &str = "done";

/// What a client was refused with, or what stands on standard error.
fn told(transcripts: &[Transcript]) -> Vec<(String, String)> {
    let entries = transcripts.iter().flat_map(|each| &each.entries);
    let mut told = Vec::new();
    for entry in entries {
        if let Some(line) = entry
            .value
            .as_str()
            .filter(|_| entry.key.starts_with("stderr"))
        {
            if !line.ends_with("has no peer") {
                told.push(("standard error".to_owned(), line.to_owned()));
            }
        } else if entry.value.get("return").is_some() {
            told.push((entry.key.clone(), DONE.to_owned()));
        } else if let Some(why) = entry.value.pointer("/error/desc").and_then(Value::as_str) {
            told.push((entry.key.clone(), why.to_owned()));
        }
    }
    told
}

fn messages(text: &mut String, programs: &Programs) {
    text.push_str("\n## Messages\n\nOn standard error for a command line, in `error.desc` for a monitor's command. PROGRAM is the program's name.\n\n");
    text.push_str("| case | QEMU | Standfast |\n|---|---|---|\n");
    for group in GROUPS
        .iter()
        .filter(|group| ["boot", "monitor"].contains(&group.name))
    {
        for outcome in play_all(group.scenarios, programs, 4) {
            rows(text, &outcome);
        }
    }
}

fn rows(text: &mut String, outcome: &Outcome) {
    let (qemu, ours) = (told(&outcome.qemu), told(&outcome.ours));
    for i in 0..qemu.len().max(ours.len()) {
        let at = |list: &[(String, String)]| {
            list.get(i)
                .map_or_else(|| NOTHING.to_owned(), |(_, what)| what.clone())
        };
        let (theirs, own) = (at(&qemu), at(&ours));
        if theirs == DONE && own == DONE {
            continue;
        }
        let own = if own == theirs {
            "same".to_owned()
        } else {
            quoted(&own)
        };
        let _ = writeln!(text, "| {} | {} | {own} |", outcome.name, quoted(&theirs));
    }
}

fn migration(text: &mut String, programs: &Programs) {
    text.push_str("\n## The events of a migration\n\nOf a pair, to another process; the primary is ejected in `wait-unplug`.\n");
    let all = || GROUPS.iter().flat_map(|group| group.scenarios);
    let Some(scenario) = all().find(|each| each.name == "target-pair") else {
        return;
    };
    let outcome = play(scenario, programs);
    for (label, transcripts) in [("QEMU", &outcome.qemu), ("Standfast", &outcome.ours)] {
        for transcript in transcripts {
            let events = transcript.entries.iter().filter_map(|entry| {
                let name = entry.key.strip_prefix("event ")?;
                (name != "SHUTDOWN").then_some(name)
            });
            let events: Vec<&str> = events.collect();
            let _ = writeln!(
                text,
                "\n- {label}, {}: {}",
                transcript.part,
                events.join(", ")
            );
        }
    }
}

/// What one program says of itself.
struct Facts {
    schema: BTreeMap<String, Value>,
    options: BTreeSet<String>,
    properties: BTreeMap<&'static str, BTreeMap<String, String>>,
}

impl Facts {
    fn of(program: &Program) -> Result<Self> {
        let mut stage = Stage::new(program)?;
        let mut vmm = stage.start("vm", &board(1))?;
        let entries = vmm.must("query-qmp-schema", Value::Null)?;
        let entries = entries.as_array().context("query-qmp-schema")?;
        let name = |entry: &Value| entry.get("name").and_then(Value::as_str).map(str::to_owned);
        let schema = entries
            .iter()
            .filter_map(|each| Some((name(each)?, each.clone())))
            .collect();
        let mut properties = BTreeMap::new();
        for device in DEVICES {
            let list = vmm.must("device-list-properties", json!({"typename": device}))?;
            let kind = |each: &Value| each.get("type").and_then(Value::as_str).map(str::to_owned);
            let list = list.as_array().into_iter().flatten();
            let list = list
                .filter_map(|each| Some((name(each)?, kind(each)?)))
                .collect();
            properties.insert(*device, list);
        }
        vmm.finish()?;
        let help = Command::new(&program.path).arg("-help").output()?;
        Ok(Self {
            schema,
            options: option_names(&String::from_utf8_lossy(&help.stdout)),
            properties,
        })
    }

    /// Names of the commands or the events.
    fn named(&self, meta: &str) -> BTreeSet<&str> {
        let of_kind = |entry: &Value| entry.get("meta-type").and_then(Value::as_str) == Some(meta);
        let named = self.schema.iter().filter(|(_, entry)| of_kind(entry));
        named.map(|(name, _)| name.as_str()).collect()
    }

    /// The names of a command's arguments, or of an event's members.
    fn members(&self, name: &str) -> BTreeSet<&str> {
        let kind = self
            .schema
            .get(name)
            .and_then(|entry| entry.get("arg-type"));
        let kind = kind
            .and_then(Value::as_str)
            .and_then(|kind| self.schema.get(kind));
        let members = kind
            .and_then(|kind| kind.get("members"))
            .and_then(Value::as_array);
        let names = members.into_iter().flatten();
        names
            .filter_map(|member| member.get("name").and_then(Value::as_str))
            .collect()
    }
}

/// The options that a help text begins lines with: `-h or -help`, `-fda/-fdb file`, `-machine …`.
fn option_names(help: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in help.lines().filter(|line| line.starts_with('-')) {
        let mut words = line.split([' ', '\t']);
        names.extend(
            words
                .next()
                .into_iter()
                .flat_map(|word| word.split('/'))
                .map(str::to_owned),
        );
        while words.next() == Some("or") {
            names.extend(words.next().map(str::to_owned));
        }
    }
    names.retain(|name| name.starts_with('-'));
    names
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn schema(text: &mut String, qemu: &Facts, ours: &Facts) {
    for (meta, heading, what) in [
        ("command", "Commands", "arguments"),
        ("event", "Events", "members"),
    ] {
        let (theirs, own) = (qemu.named(meta), ours.named(meta));
        let _ = writeln!(
            text,
            "\n## {heading}\n\n| {meta} | QEMU's {what} | Standfast |\n|---|---|---|"
        );
        for name in &own {
            let (a, b) = (qemu.members(name), ours.members(name));
            let verdict = if !theirs.contains(name) {
                format!("ours alone: {}", list(b.iter().copied()))
            } else if a == b {
                "same".to_owned()
            } else {
                let less = list(a.difference(&b).copied());
                let more = list(b.difference(&a).copied());
                format!("not there: {less}; added: {more}")
            };
            let _ = writeln!(
                text,
                "| `{name}` | {} | {verdict} |",
                list(a.iter().copied())
            );
        }
        let missing = list(theirs.difference(&own).copied());
        let _ = writeln!(text, "\nQEMU's alone: {missing}.");
    }
}

fn options(text: &mut String, qemu: &Facts, ours: &Facts) {
    let both = qemu.options.intersection(&ours.options).map(String::as_str);
    let theirs = qemu.options.difference(&ours.options).map(String::as_str);
    let own = ours.options.difference(&qemu.options).map(String::as_str);
    let _ = writeln!(
        text,
        "\n## Options\n\nAs the help texts list them (QEMU takes `-M`, `-qtest` and `-qtest-log` too, and leaves them out);\n[options.md](options.md) says what each takes.\n\n- Both: {}.\n- QEMU's alone: {}.\n- Ours alone: {}.",
        list(both),
        list(theirs),
        list(own)
    );
}

fn properties(text: &mut String, qemu: &Facts, ours: &Facts) {
    text.push_str("\n## Properties\n\nAs `device-list-properties` has them.\n");
    let none = BTreeMap::new();
    for device in DEVICES {
        let theirs = qemu.properties.get(device).unwrap_or(&none);
        let own = ours.properties.get(device).unwrap_or(&none);
        let same = |name: &&String| theirs.get(*name) == own.get(*name);
        let both = || own.keys().filter(|name| theirs.contains_key(*name));
        let _ = writeln!(
            text,
            "\n### {device}\n\n- Same: {}.",
            list(both().filter(same).map(String::as_str))
        );
        for name in both().filter(|name| !same(name)) {
            let (a, b) = (theirs.get(name), own.get(name));
            let kind = |kind: Option<&String>| kind.cloned().unwrap_or_default();
            let _ = writeln!(text, "- `{name}`: QEMU's is {}, ours {}.", kind(a), kind(b));
        }
        let missing = theirs.keys().filter(|name| !own.contains_key(*name));
        let added = own.keys().filter(|name| !theirs.contains_key(*name));
        let _ = writeln!(
            text,
            "- QEMU's alone: {}.",
            list(missing.map(String::as_str))
        );
        let _ = writeln!(text, "- Ours alone: {}.", list(added.map(String::as_str)));
    }
}
