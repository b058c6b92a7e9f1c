//! Entry points for fuzzers: what a client sends, without sockets and threads. Only built for fuzzing and for tests.

use crate::command::AnyCommand;
use crate::command::SessionCommand;
use crate::hmp;
use crate::json::JsonStream;
use crate::qapi::QapiType;
use crate::request::{State, decode};
use crate::server::Identity;
use crate::types::VersionTriple;
use crate::wire::{answer, to_line};
use serde_json::Value;

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
    let read: Value = serde_json::from_slice(&line).expect("an answer is JSON");
    assert_eq!(read.get("id").is_some(), id.is_some());
    assert!(line.is_ascii() && line.iter().filter(|byte| **byte == b'\n').count() == 1);
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
                    serde_json::json!({
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
