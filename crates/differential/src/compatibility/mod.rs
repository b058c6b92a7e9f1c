//! `docs/compatibility.md`: what QEMU has and says, and what Standfast has and says, asked of both programs.

mod facts;
mod introspection;
mod reasons;
mod shape;

use std::fmt::Write;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::intended::{EVERYWHERE, LISTED};
use crate::program::Programs;
use crate::scenario::{Outcome, Scenario, play, play_all};
use crate::scenarios::GROUPS;
use crate::transcript::Transcript;
use facts::Facts;

const INTRODUCTION: &str = "\
# Compatibility with QEMU 10.0

Made by the comparison with QEMU (`crates/differential`): both programs were asked, and this is what they answered. Do not edit;
`STANDFAST_WRITE_DOCS=1 cargo test -p standfast --test differential` writes it anew, and a test fails when it is stale.
`cargo xtask differential` plays the scenarios and prints the table.

QEMU's own test of this feature, `virtio-net-failover` of its `tests/qtest` (10.0.2, built from its sources as they are), was run with
`QTEST_QEMU_BINARY` at this program under a name that ends in `-system-x86_64`: all 23 of its cases pass. With `-m slow` there is one
more, `migrate/abort/timeout`, which asks that a cancelled wait for the guest lasts half a minute: it does not, on purpose
(`cancelled-at-once`).
";

/// The page.
///
/// # Errors
/// A program cannot be asked, or something is QEMU's alone and nobody has said why.
pub fn page(programs: &Programs) -> Result<String> {
    let mut text = INTRODUCTION.to_owned();
    scenarios(&mut text);
    messages(&mut text, programs);
    migration(&mut text, programs);
    let (qemu, ours) = (Facts::of(&programs.qemu)?, Facts::of(&programs.ours)?);
    let unexplained = introspection::write(&mut text, &qemu, &ours);
    if !unexplained.is_empty() {
        bail!(
            "QEMU has these, we have not, and compatibility/reasons.rs does not say why: {}",
            unexplained.join(", ")
        );
    }
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
        .filter(|group| ["boot", "monitor", "device"].contains(&group.name))
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
