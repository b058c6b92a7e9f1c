//! Entry points for fuzzers: what a client sends, without sockets and threads. Only built for fuzzing and for tests.

use crate::command::AnyCommand;
use crate::command::SessionCommand;
use crate::hmp;
use crate::introspect;
use crate::json::JsonStream;
use crate::qapi::QapiType;
use crate::request::{State, decode};
use crate::server::Identity;
use crate::types::VersionTriple;
use crate::wire::{answer, to_line};
use serde_json::{Map, Value, json};

fn identity() -> Identity {
    Identity {
        qemu: VersionTriple {
            major: 10,
            minor: 0,
            micro: 2,
        },
        package: "fuzz".to_owned(),
        netdev_types: Vec::new(),
        object_types: Vec::new(),
        device_help: |_| None,
    }
}

/// Reads `data` as what a client of QMP sends, and answers as a session does.
///
/// # Panics
/// Something that must hold for every input does not: an answer is no line of JSON, or the stream is stuck after a reset.
pub fn fuzz_qmp(data: &[u8]) {
    let mut stream = JsonStream::new();
    let mut state = State {
        negotiated: data.len().is_multiple_of(2),
        oob: data.len().is_multiple_of(3),
    };
    for byte in data {
        stream.feed(*byte);
        while let Some(message) = stream.next_message() {
            respond(message, &mut state);
        }
    }
    // Whatever was open is forgotten, and what follows is understood.
    let mut understood = false;
    for byte in b"\xff\n{\"execute\": \"query-status\"}" {
        stream.feed(*byte);
        while let Some(message) = stream.next_message() {
            understood = message.is_ok();
        }
    }
    assert!(understood, "the stream did not recover");
}

fn respond(message: Result<Value, String>, state: &mut State) {
    let Ok(Value::Object(mut object)) = message else {
        return;
    };
    let id = object.shift_remove("id");
    let result = decode(object, *state);
    match &result {
        Ok(AnyCommand::Session(SessionCommand::QmpCapabilities { .. })) => state.negotiated = true,
        Ok(AnyCommand::Session(SessionCommand::HumanMonitorCommand { command_line, .. })) => {
            fuzz_hmp_line(command_line)
        }
        Ok(_) | Err(_) => {}
    }
    let line = to_line(&answer(&result.map(|_| ().into()), id.clone()), false);
    // A promise that is broken ends a fuzz target.
    #[allow(clippy::expect_used)]
    let read: Value = serde_json::from_slice(&line).expect("an answer is JSON");
    assert_eq!(read.get("id").is_some(), id.is_some());
    assert!(line.is_ascii() && line.iter().filter(|byte| **byte == b'\n').count() == 1);
}

/// An argument of the type that `name` is in `schema`; unlikely to be wanted, likely to be well-formed.
// By the index of JSON what is not there is null.
#[allow(clippy::indexing_slicing)]
fn sample(schema: &[Value], name: &str, depth: usize) -> Value {
    let entry = schema.iter().find(|entry| entry["name"] == name);
    let entry = entry.unwrap_or(&Value::Null);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match entry["meta-type"].as_str() {
        Some("enum") => entry["members"][0]["name"].clone(),
        Some("array") if depth < 4 => {
            json!([sample(schema, &text(&entry["element-type"]), depth + 1)])
        }
        Some("alternate") => sample(schema, &text(&entry["members"][0]["type"]), depth + 1),
        Some("object") if depth < 4 => {
            let mut object = Map::new();
            let members = entry["members"].as_array();
            for member in members.into_iter().flatten() {
                let value = sample(schema, &text(&member["type"]), depth + 1);
                object.insert(text(&member["name"]), value);
            }
            Value::Object(object)
        }
        _ => match entry["json-type"].as_str() {
            Some("string") => json!("x"),
            Some("int" | "number") => json!(1),
            Some("boolean") => json!(true),
            Some("array") => json!([]),
            _ => json!({}),
        },
    }
}

/// Each command with all its arguments, after the negotiation.
pub fn qmp_seeds() -> Vec<Vec<u8>> {
    let schema = introspect::schema(&identity());
    let commands = schema
        .iter()
        .filter(|entry| entry["meta-type"] == "command");
    let mut seeds: Vec<Vec<u8>> = commands
        .map(|command| {
            let arguments = sample(&schema, command["arg-type"].as_str().unwrap_or_default(), 0);
            let execute = if command["allow-oob"] == true {
                "exec-oob"
            } else {
                "execute"
            };
            let request = json!({execute: command["name"], "arguments": arguments, "id": [1, "a"]});
            format!(
                "{{'execute': 'qmp_capabilities', 'arguments': {{'enable': ['oob']}}}}\n{request}\n"
            )
            .into_bytes()
        })
        .collect();
    seeds.push(
        b"[{\"\\u00e4\\ud83d\\ude00\": [1.5e3, -9223372036854775808, true, null]}]\xff{".to_vec(),
    );
    seeds
}

/// Names of commands, members and values.
pub fn qmp_words() -> Vec<String> {
    let schema = introspect::schema(&identity());
    let mut words: Vec<String> = ["execute", "exec-oob", "arguments", "id", "command-line"]
        .map(str::to_owned)
        .to_vec();
    for entry in &schema {
        if entry["meta-type"] == "command" {
            words.extend(entry["name"].as_str().map(str::to_owned));
        }
        for member in entry["members"].as_array().into_iter().flatten() {
            words.extend(member["name"].as_str().map(str::to_owned));
        }
    }
    words.sort();
    words.dedup();
    words
}

/// Each command of HMP, with words behind it.
pub fn hmp_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = hmp::names()
        .map(|name| {
            format!("{name}\n{name} a b\n{name} -d tcp:0:4444 1 on\n{name} a,id=b,c=\"d,,e\"\n")
                .into_bytes()
        })
        .collect();
    seeds.push(
        b"info pci\ninfo migrate\nhelp info\nx /4xw 0\nmigrate_set_parameter max-bandwidth 1g"
            .to_vec(),
    );
    seeds
}

/// Names of commands, and of what they take.
pub fn hmp_words() -> Vec<String> {
    let names = hmp::names().map(|name| format!("{name} "));
    names.chain(qmp_words()).collect()
}

/// Reads `data` as lines of HMP.
pub fn fuzz_hmp(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        fuzz_hmp_line(line);
    }
}

fn fuzz_hmp_line(text: &str) {
    if let Some(command) = hmp::command_of(&hmp::Line { text, in_qmp: true }, &identity()) {
        // What a person typed is what a program could have sent, as far as it is not open-ended.
        let _ = command.name().to_owned().encode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pieces that get further than random bytes do.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let names: Vec<&'static str> = crate::command::all().map(|command| command.name).collect();
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[\\[\\]{}:,\"'a-z\\\\0-9.eE+\\- \n]{0,60}".prop_map(String::into_bytes),
            (
                prop::sample::select(names),
                "[{}\\[\\]:,\"a-z0-9\\- ]{0,40}"
            )
                .prop_map(|(name, arguments)| {
                    format!("{{\"execute\": \"{name}\", \"arguments\": {{{arguments}}}}}")
                        .into_bytes()
                }),
            "(device_add|migrate|info|migrate_set_parameter|help) [a-z0-9,=\"\\\\ -]{0,40}"
                .prop_map(|line| {
                    json!({
                    "execute": "human-monitor-command", "arguments": {"command-line": line}, "id": 1
                })
                .to_string()
                .into_bytes()
                }),
        ]
    }

    proptest! {
        #[test]
        fn no_input_breaks_a_session(pieces in prop::collection::vec(piece(), 0..20)) {
            fuzz_qmp(&pieces.concat());
        }

        #[test]
        fn no_line_breaks_hmp(line in "(\\PC|[a-z_]){0,10} \\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            fuzz_hmp(line.as_bytes());
            fuzz_hmp(&bytes);
        }
    }
}
