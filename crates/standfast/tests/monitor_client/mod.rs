//! A QMP client for tests.
#![allow(dead_code, reason = "no test needs all of it")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A test that waits longer has found a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client of a monitor.
pub(crate) struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    /// Those that came while an answer was waited for.
    pub(crate) events: Vec<Value>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let events = Vec::new();
        let mut client = Self {
            stream,
            reader,
            events,
        };
        let greeting = client.message();
        assert_eq!(greeting["QMP"]["version"]["qemu"]["major"], 10);
        client.ok("qmp_capabilities", json!({}));
        client
    }

    pub(crate) fn message(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub(crate) fn ask(&mut self, name: &str, arguments: Value) -> Value {
        let request = json!({"execute": name, "arguments": arguments, "id": name});
        self.stream
            .write_all(request.to_string().as_bytes())
            .unwrap();
        loop {
            let answer = self.message();
            if answer.get("event").is_some() {
                self.events.push(answer);
                continue;
            }
            assert_eq!(answer["id"], name);
            return answer;
        }
    }

    pub(crate) fn ok(&mut self, name: &str, arguments: Value) -> Value {
        let answer = self.ask(name, arguments);
        let value = answer.get("return");
        value.cloned().unwrap_or_else(|| panic!("{name}: {answer}"))
    }

    pub(crate) fn list(&mut self, name: &str, arguments: Value) -> Vec<Value> {
        let value = self.ok(name, arguments);
        value
            .as_array()
            .cloned()
            .unwrap_or_else(|| panic!("{name}: {value}"))
    }

    pub(crate) fn class(&mut self, name: &str, arguments: Value) -> String {
        let answer = self.ask(name, arguments);
        let class = answer["error"]["class"].as_str();
        class
            .unwrap_or_else(|| panic!("{name}: {answer}"))
            .to_owned()
    }
}
