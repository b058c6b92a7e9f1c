use crate::client::{Client, PATIENCE};
use crate::{qmp, setup};
use monitor::{Event, Mode};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::time::Duration;

fn error(class: &str, desc: &str) -> Value {
    json!({"error": {"class": class, "desc": desc}})
}

fn generic(desc: &str) -> Value {
    error("GenericError", desc)
}

#[test]
fn negotiation_comes_first_and_once() {
    let setup = qmp();
    let mut client = Client::connect(&setup.socket);
    client.greeting();
    assert_eq!(
        client.execute(r#"{"execute": "query-status"}"#),
        error(
            "CommandNotFound",
            "Expecting capabilities negotiation with 'qmp_capabilities'"
        )
    );
    client.send(r#"{"execute": "qmp_capabilities", "id": 7}"#);
    assert_eq!(client.line(), "{\"return\": {}, \"id\": 7}\r\n");
    assert_eq!(
        client.execute(r#"{"execute": "qmp_capabilities"}"#),
        error(
            "CommandNotFound",
            "Capabilities negotiation is already complete, command ignored"
        )
    );
    assert_eq!(
        client.execute(r#"{"execute": "query-status"}"#),
        json!({"return": {"status": "running", "running": true}})
    );
}

#[test]
fn errors_read_as_qemus() {
    let setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    for (command, desc) in [
        (
            r#"{"execute": "query-status", "arguments": {"x": 1}}"#,
            "Parameter 'x' is unexpected",
        ),
        (r#"{"execute": "device_del"}"#, "Parameter 'id' is missing"),
        (
            r#"{"execute": "device_del", "arguments": {"id": 3}}"#,
            "Invalid parameter type for 'id', expected: string",
        ),
        (
            r#"{"execute": "device_add", "arguments": {"id": "x"}}"#,
            "Parameter 'driver' is missing",
        ),
        (
            r#"{"execute": "set_link", "arguments": {"name": "a", "up": "on"}}"#,
            "Invalid parameter type for 'up', expected: boolean",
        ),
        (
            r#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": "1"}}"#,
            "Parameter 'max-bandwidth' expects uint64",
        ),
        (
            r#"{"execute": "migrate-set-parameters", "arguments": {"multifd-channels": 300}}"#,
            "Parameter 'multifd-channels' expects uint8_t",
        ),
        (
            r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "x", "state": true}]}}"#,
            "Parameter 'capability' does not accept value 'x'",
        ),
        (
            r#"{"execute": "migrate", "arguments": {"channels": [{"channel-type": "main", "addr": {"transport": "file", "filename": "f", "offset": 0, "y": 1}}]}}"#,
            "Parameter 'channels[0].addr.y' is unexpected",
        ),
        (
            r#"{"execute": bad}"#,
            "JSON parse error, invalid keyword 'bad'",
        ),
        (r#"[1]"#, "QMP input must be a JSON object"),
        (
            r#"{"execute": 1}"#,
            "QMP input member 'execute' must be a string",
        ),
        (
            r#"{"execute": "stop", "arguments": []}"#,
            "QMP input member 'arguments' must be an object",
        ),
        (
            r#"{"execute": "stop", "extra": 1}"#,
            "QMP input member 'extra' is unexpected",
        ),
        (
            r#"{"exec-oob": "stop"}"#,
            "QMP input member 'exec-oob' is unexpected",
        ),
        (r#"{}"#, "QMP input lacks member 'execute'"),
        (
            r#"{"execute": "getfd", "arguments": {"fdname": "a"}}"#,
            "No file descriptor supplied via SCM_RIGHTS",
        ),
        (
            r#"{"execute": "closefd", "arguments": {"fdname": "a"}}"#,
            "File descriptor named 'a' not found",
        ),
    ] {
        assert_eq!(client.execute(command), generic(desc), "{command}");
    }
    assert_eq!(
        client.execute(r#"{"execute": "nope", "id": {"a": [1]}}"#),
        json!({"error": {"class": "CommandNotFound", "desc": "The command nope has not been found"}, "id": {"a": [1]}})
    );
    assert_eq!(
        client.execute(r#"{"execute": "device_del", "arguments": {"id": "primary0"}}"#),
        error("DeviceNotFound", "Device 'primary0' not found")
    );
}

#[test]
fn events_and_answers_keep_the_machines_order() {
    let setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    client.send(r#"{"execute": "migrate", "arguments": {"uri": "tcp:h:1", "detach": true, "resume": false}, "id": "m"}"#);
    let stamp = json!({"seconds": 1_700_000_000, "microseconds": 250_000});
    let event = |name: &str, data: Value| json!({"timestamp": stamp, "event": name, "data": data});
    let status = |status: &str| event("MIGRATION", json!({"status": status}));
    for expected in [
        status("setup"),
        event("UNPLUG_PRIMARY", json!({"device-id": "hostdev0"})),
        json!({"return": {}, "id": "m"}),
        event("MIGRATION_PASS", json!({"pass": 1})),
        status("wait-unplug"),
        status("active"),
        json!({"timestamp": stamp, "event": "STOP"}),
        status("completed"),
    ] {
        assert_eq!(client.message(), expected);
    }
    // The same when the command came as a line of HMP.
    client.send(r#"{"execute": "human-monitor-command", "arguments": {"command-line": "cont"}}"#);
    assert_eq!(
        client.message(),
        json!({"timestamp": stamp, "event": "RESUME"})
    );
    assert_eq!(client.message(), json!({"return": ""}));
}

#[test]
fn commands_of_one_client_wait_for_each_other() {
    let setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    client.send(r#"{"execute": "system_powerdown", "id": 1}{"execute": "query-status", "id": 2}"#);
    let held = setup
        .machine
        .held
        .lock()
        .expect("not poisoned")
        .recv()
        .expect("the command came");
    // The second is not executed yet: another client's stop still shows in its answer.
    setup.machine.events.emit(Event::Powerdown);
    held.ok(());
    assert_eq!(client.message()["event"], "POWERDOWN");
    assert_eq!(client.message(), json!({"return": {}, "id": 1}));
    assert_eq!(client.message()["id"], 2);
}

#[test]
fn out_of_band_commands_overtake() {
    let setup = qmp();
    let mut client = Client::connect(&setup.socket);
    client.greeting();
    client.execute(r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}"#);
    client.send(r#"{"execute": "system_powerdown", "id": 1}{"execute": "query-status", "id": 2}"#);
    let held = setup
        .machine
        .held
        .lock()
        .expect("not poisoned")
        .recv()
        .expect("the command came");
    client.send(r#"{"exec-oob": "migrate-pause", "id": 3}{"exec-oob": "query-status", "id": 4}"#);
    assert_eq!(client.message()["id"], 3);
    assert_eq!(
        client.message(),
        json!({"error": {"class": "GenericError", "desc": "The command query-status does not support OOB"}, "id": 4})
    );
    held.ok(());
    assert_eq!(client.message(), json!({"return": {}, "id": 1}));
    assert_eq!(client.message()["id"], 2);
    assert_eq!(
        client.execute(r#"{"execute": "stop", "exec-oob": "stop"}"#),
        generic("QMP input member 'execute' clashes with 'exec-oob'")
    );
}

#[test]
fn an_answer_that_is_dropped_or_of_a_wrong_type_is_an_error() {
    let setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    let dropped = client.execute(r#"{"execute": "device_del", "arguments": {"id": "forgotten"}}"#);
    assert_eq!(dropped["error"]["class"], "GenericError");
    let wrong = client.execute(r#"{"execute": "query-kvm"}"#);
    assert_eq!(
        wrong,
        generic("Internal error: the answer to query-kvm is of a wrong type")
    );
}

#[test]
fn descriptors_come_along_by_name_and_in_sets() {
    let setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    let file = |text: &str| {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes())
            .and_then(|()| file.rewind())
            .expect("writes");
        file
    };
    // Pipelined: each command has its own descriptor.
    client.send_with_fd(
        br#"{"execute": "getfd", "arguments": {"fdname": "a"}}"#,
        file("first").as_fd(),
    );
    client.send_with_fd(
        br#"{"execute": "getfd", "arguments": {"fdname": "b"}}"#,
        file("second").as_fd(),
    );
    assert_eq!(
        [client.message(), client.message()],
        [json!({"return": {}}), json!({"return": {}})]
    );
    for (name, text) in [("b", "second"), ("a", "first")] {
        let command =
            json!({"execute": "netdev_add", "arguments": {"type": "tap", "id": "n", "fd": name}});
        assert_eq!(
            client.execute(&command.to_string()),
            generic(&format!("the descriptor says: {text}"))
        );
        // It was taken: the name is free again.
        assert_eq!(
            client.execute(&command.to_string()),
            generic(&format!(
                "File descriptor named '{name}' has not been found"
            ))
        );
    }
    client.send_with_fd(
        br#"{"execute": "add-fd", "arguments": {"fdset-id": 3, "opaque": "o"}}"#,
        file("set").as_fd(),
    );
    let added = client.message();
    assert_eq!(added["return"]["fdset-id"], 3);
    let sets = setup.monitors.fd_sets();
    assert!(
        sets.open(3, false).is_ok() && sets.open(3, true).is_ok() && sets.open(4, false).is_err()
    );
    let query = client.execute(r#"{"execute": "query-fdsets"}"#);
    assert_eq!(
        query["return"],
        json!([{"fdset-id": 3, "fds": [{"fd": added["return"]["fd"], "opaque": "o"}]}])
    );
    assert_eq!(
        client.execute(r#"{"execute": "remove-fd", "arguments": {"fdset-id": 3}}"#),
        json!({"return": {}})
    );
    assert_eq!(
        client.execute(r#"{"execute": "query-fdsets"}"#),
        json!({"return": []})
    );
    // One that nobody asked for is closed, not kept for the next.
    client.send_with_fd(br#"{"execute": "query-status"}"#, file("unasked").as_fd());
    client.message();
    client.send_with_fd(
        br#"{"execute": "getfd", "arguments": {"fdname": "c"}}"#,
        file("asked").as_fd(),
    );
    client.message();
    assert_eq!(
        client.execute(
            r#"{"execute": "netdev_add", "arguments": {"type": "tap", "id": "n", "fd": "c"}}"#
        ),
        generic("the descriptor says: asked")
    );
}

#[test]
fn introspection_comes_from_the_tables() {
    let setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    let commands = client.execute(r#"{"execute": "query-commands"}"#);
    let names: Vec<&str> = commands["return"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert!(
        names.contains(&"device_add") && names.contains(&"qmp_capabilities") && names.len() > 60
    );
    let schema = client.execute(r#"{"execute": "query-qmp-schema"}"#);
    let entries = schema["return"].as_array().expect("a list");
    let find = |name: &str| {
        entries
            .iter()
            .find(|entry| entry["name"] == name)
            .unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(
        find("device_add")["features"],
        json!(["json-cli", "json-cli-hotplug"])
    );
    assert_eq!(find("migrate-pause")["allow-oob"], json!(true));
    assert_eq!(find("NetClientDriver")["values"], json!(["tap", "dgram"]));
    assert_eq!(find("MIGRATION")["meta-type"], "event");
    // Every type that is named is described, and each once.
    let mut described = std::collections::BTreeSet::new();
    for entry in entries {
        let name = entry["name"].as_str().expect("a name").to_owned();
        assert!(described.insert(name.clone()), "{name} twice");
    }
    let named =
        |key: &str, entry: &Value| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    for entry in entries {
        let mut types: Vec<String> = ["arg-type", "ret-type", "element-type"]
            .iter()
            .filter_map(|key| named(key, entry))
            .collect();
        for list in ["members", "variants"] {
            types.extend(
                entry
                    .get(list)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(|m| named("type", m)),
            );
        }
        for ty in types {
            assert!(described.contains(&ty), "{ty}, named by {entry}");
        }
    }
    assert_eq!(
        client.execute(r#"{"execute": "query-version"}"#)["return"],
        json!({"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "Standfast 0.1.0"})
    );
}

#[test]
fn a_pretty_monitor_indents() {
    let setup = setup(Mode::Qmp { pretty: true });
    let mut client = Client::connect(&setup.socket);
    assert_eq!(client.line(), "{\n");
    assert_eq!(client.line(), "    \"QMP\": {\n");
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_the_machine_goes_on() {
    let setup = qmp();
    let silent = Client::negotiated(&setup.socket);
    // More than the socket's buffers and the outbox hold. emit never waits, or this would not end.
    for pass in 0..100_000 {
        setup.machine.events.emit(Event::MigrationPass { pass });
    }
    // The place is free for another, although the first client has not hung up.
    let mut next = Client::negotiated(&setup.socket);
    assert_eq!(
        next.execute(r#"{"execute": "query-status"}"#)["return"]["running"],
        json!(true)
    );
    drop(silent);
}

#[test]
fn a_client_that_floods_and_does_not_read_is_held_back_not_dropped() {
    let setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    let flood = {
        let mut stream = client.stream.try_clone().expect("descriptors are left");
        std::thread::spawn(move || {
            let command = r#"{"execute": "query-qmp-schema"}"#.repeat(200);
            stream
                .write_all(command.as_bytes())
                .expect("the monitor reads on");
        })
    };
    for _ in 0..200 {
        assert!(client.message()["return"].is_array());
    }
    flood.join().expect("it ended");
}

#[test]
fn closing_sends_what_waits_and_removes_the_socket() {
    let mut setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    setup.machine.events.emit(Event::Powerdown);
    setup.monitors.close(PATIENCE);
    assert!(client.until_end().contains("POWERDOWN"));
    assert!(!setup.socket.exists());
}

#[test]
fn closing_does_not_wait_for_a_machine_that_does_not_answer() {
    let mut setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    client.send(r#"{"execute": "system_powerdown"}"#.repeat(50));
    let held = setup
        .machine
        .held
        .lock()
        .expect("not poisoned")
        .recv()
        .expect("the command came");
    setup.monitors.close(Duration::from_millis(1));
    assert_eq!(client.until_end(), "");
    held.ok(());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_garbage_ends_the_connection(garbage in prop::collection::vec(
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            "[\\[\\]{}:,\"'a-z\\\\0-9.\\- \n]{0,120}".prop_map(String::into_bytes),
            Just(br#"{"execute": "query-status", "id": "#.to_vec()),
            Just(br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info pci"}}"#.to_vec()),
            Just(br#"{"execute": "device_add", "arguments": {"driver": [], "id": {}}}"#.to_vec()),
        ],
        0..12,
    )) {
        let setup = qmp();
        let mut client = Client::negotiated(&setup.socket);
        for piece in &garbage {
            client.send(piece);
        }
        client.send(b"\xff\n{\"execute\": \"query-status\", \"id\": \"the end\"}");
        loop {
            let message = client.message();
            if message["id"] == "the end" {
                prop_assert_eq!(&message["return"]["status"], "running");
                break;
            }
        }
    }
}
