//! Garbage, wrong arguments, and the commands that a monitor answers by itself.

use super::{answers, both};
use serde_json::json;

/// Inputs after an ordinary negotiation.
const CASES: &[&[u8]] = &[
    br#"{"execute": bad}"#,
    b"bad",
    b"{bad: 1}",
    b"{1: 2}",
    b"{[1]: 2}",
    br#"{"a" 1}"#,
    br#"{"a": 1 "b": 2}"#,
    b"[1 2]",
    br#"{"a": }"#,
    br#"{"a": 1,}"#,
    b"[1,]",
    b"}",
    b"]",
    b":",
    b"{]",
    b"[}",
    b"{[}]",
    br#"{"a": 1, "a": 2}"#,
    b"%",
    b"01",
    b"-x",
    b"1.x",
    b"1e",
    b"12 34",
    br#"{"a": $ }"#,
    br#"{"a": $ , "b": 1}"#,
    b"\"abc",
    b"'abc",
    b"\"a\x01b\" {}",
    b"'single' \"double\"",
    b"\"x\"",
    b"1",
    b"null true false",
    br#""\x""#,
    br#""\u12""#,
    br#""\ud800""#,
    br#""\ud800\u0041""#,
    br#""\udc00""#,
    b"\"\xc3(\"",
    b"\xff\xff",
    b"{\"a\": \xff",
    b"@#$ junk\n",
    b"[1]",
    b"{}",
    b"{}{}",
    br#"{"execute": 1}"#,
    br#"{"execute": "stop", "arguments": []}"#,
    br#"{"execute": "stop", "extra": 1}"#,
    br#"{"exec-oob": "stop"}"#,
    br#"{"execute": "nope"}"#,
    br#"{"execute": "nope", "id": {"a": [1, null, "x"]}}"#,
    br#"{"execute": "", "id": null}"#,
    br#"{"id": 1}"#,
    br#"{'execute': 'nope', 'id': 'it"s'}"#,
    br#"{"execute": "qmp_capabilities"}"#,
    br#"{"execute": "qmp_capabilities", "arguments": {"enable": ["nope"]}}"#,
    br#"{"execute": "query-fdsets", "id": [0.1, -0.0, 1E5, 1.0, 1e300, 1.5e-7, 2.50, null, false]}"#,
    br#"{"execute": "query-status", "arguments": {"x": 1}}"#,
    br#"{"execute": "query-fdsets", "id": 18446744073709551615}"#,
    br#"{"execute": "query-fdsets", "id": -9223372036854775808}"#,
    br#"{"execute": "device_del"}"#,
    br#"{"execute": "device_del", "arguments": {"id": 3}}"#,
    br#"{"execute": "device_del", "arguments": {"id": "x", "y": 1}}"#,
    br#"{"execute": "device_add", "arguments": {"id": "x"}}"#,
    br#"{"execute": "set_link", "arguments": {"name": "a", "up": "on"}}"#,
    br#"{"execute": "set_link", "arguments": {"up": true}}"#,
    br#"{"execute": "qom-get", "arguments": {"path": "/"}}"#,
    br#"{"execute": "qom-list-types", "arguments": {"abstract": 1}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": "1"}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 1.5}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 18446744073709551616}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"multifd-channels": 300}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"multifd-channels": "3"}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"cpu-throttle-tailslow": 1}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"mode": "x"}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"nope": 1}}"#,
    br#"{"execute": "migrate-set-parameters", "arguments": {"tls-creds": 1}}"#,
    br#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "x", "state": true}]}}"#,
    br#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "events"}]}}"#,
    br#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": 3}}"#,
    br#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [3]}}"#,
    br#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": 3, "state": true}]}}"#,
    br#"{"execute": "migrate", "arguments": {"uri": "tcp:a:1", "blk": true}}"#,
    br#"{"execute": "migrate", "arguments": {"channels": [{"channel-type": "main"}]}}"#,
    br#"{"execute": "migrate", "arguments": {"channels": [{"channel-type": "x", "addr": {}}]}}"#,
    br#"{"execute": "migrate", "arguments": {"channels": [{"channel-type": "main", "addr": {"transport": "zzz"}}]}}"#,
    br#"{"execute": "migrate", "arguments": {"channels": [{"channel-type": "main", "addr": {"transport": "socket"}}]}}"#,
    br#"{"execute": "migrate", "arguments": {"channels": [{"channel-type": "main", "addr": {"transport": "socket", "type": "inet", "host": "a"}}]}}"#,
    br#"{"execute": "migrate", "arguments": {"channels": [{"channel-type": "main", "addr": {"transport": "file", "filename": "f", "offset": 0, "y": 1}}]}}"#,
    br#"{"execute": "migrate-continue", "arguments": {"state": "x"}}"#,
    br#"{"execute": "announce-self"}"#,
    br#"{"execute": "announce-self", "arguments": {"initial": "1"}}"#,
    br#"{"execute": "announce-self", "arguments": {"initial": 1, "max": 1, "rounds": 1, "step": 1, "interfaces": "a"}}"#,
    br#"{"execute": "getfd", "arguments": {"fdname": "a"}}"#,
    br#"{"execute": "getfd", "arguments": {"fdname": "1"}}"#,
    br#"{"execute": "closefd", "arguments": {"fdname": "a"}}"#,
    br#"{"execute": "add-fd"}"#,
    br#"{"execute": "add-fd", "arguments": {"fdset-id": -1}}"#,
    br#"{"execute": "remove-fd", "arguments": {"fdset-id": 1}}"#,
    br#"{"execute": "remove-fd", "arguments": {"fdset-id": 1, "fd": 3}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "nope"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": ""}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "device_del"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "device_del x"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "device_del \"x"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "device_add"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "device_add id=x"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "stop now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info nope"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info block"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "set_link a maybe"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_set_parameter nope 1"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_set_capability nope on"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_set_parameter max-bandwidth x"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info status now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info  nope now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info block a b"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info qtree now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info qtree -x"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info qom-tree /machine now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "help info nope"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "quit now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate tcp:h:1 now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate -d \"tcp:h:1\" now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_incoming a b"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_recover a b"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_set_parameter max-bandwidth 1 2"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_set_parameter"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_set_capability events on now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "device_del x y"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "set_link a on now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "qom-list / now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "qom-get / type now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "announce_self a b c"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_continue device now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_cancel now"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "netdev_del a b"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "object_del a b"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "migrate \"bogus:a  b\""}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "stop"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "c"}}"#,
    br#"{"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}"#,
    br#"{"execute": "query-status"}"#,
    br#"{"execute": "query-uuid"}"#,
];

/// Inputs after `oob` was enabled.
const OUT_OF_BAND: &[&[u8]] = &[
    br#"{"exec-oob": "query-status", "id": 1}"#,
    br#"{"exec-oob": "nope", "id": 1}"#,
    br#"{"exec-oob": 1, "id": 1}"#,
    br#"{"exec-oob": "migrate-recover", "id": 1}"#,
    br#"{"execute": "query-fdsets", "id": 1}"#,
    br#"{"exec-oob": "qmp_capabilities", "id": 1}"#,
    br#"{"execute": "qmp_capabilities", "arguments": {"x": 1}, "id": 1}"#,
    br#"{"execute": "qmp_capabilities", "id": 1}"#,
    br#"{"exec-oob": "migrate-pause", "execute": "query-status", "id": 1}"#,
    br#"{"execute": "query-status", "exec-oob": "migrate-pause", "id": 1}"#,
    br#"{"exec-oob": "migrate-recover", "arguments": {"uri": 3}, "id": {"a": [1, {"b": null}]}}"#,
    br#"{"exec-oob": "migrate-recover", "arguments": [], "id": true}"#,
    br#"{"exec-oob": "migrate-pause", "control": {"run-oob": true}}"#,
];

/// What we answer otherwise on purpose.
const INTENDED: &[(&[u8], &str)] = &[];

#[test]
fn a_session_reads_as_qemus() {
    let Some(both) = both() else { return };
    let mut differences = Vec::new();
    let cases = CASES
        .iter()
        .map(|case| ("", case))
        .chain(OUT_OF_BAND.iter().map(|case| ("\"oob\"", case)));
    for (enable, case) in cases {
        let theirs = answers(&both.qemu.socket, enable, case);
        let ours = answers(&both.ours, enable, case);
        let intended = INTENDED.iter().find(|(input, _)| input == case);
        let text = String::from_utf8_lossy(case);
        match (theirs == ours, intended) {
            (true, None) | (false, Some(_)) => {}
            (true, Some((_, reason))) => {
                differences.push(format!("{text}\n  no longer differs: {reason}"))
            }
            (false, None) => {
                differences.push(format!("{text}\n  QEMU: {theirs:?}\n  ours: {ours:?}"))
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What a line for a person is answered.
fn hmp(socket: &std::path::Path, line: &str) -> String {
    let command = json!({"execute": "human-monitor-command", "arguments": {"command-line": line}});
    let answer = answers(socket, "", command.to_string().as_bytes());
    let text = answer.first().and_then(|first| first["return"].as_str());
    text.unwrap_or_else(|| panic!("{line}: {answer:?}"))
        .to_owned()
}

/// The names of what takes no word, by what help says: `info status -- …`, `stop|s -- …`.
fn without_words(help: &str) -> Vec<String> {
    let heading = |line: &str| {
        line.split_once(" -- ")
            .map(|(heading, _)| heading.to_owned())
    };
    let mut names = Vec::new();
    for heading in help.lines().filter_map(heading) {
        let words = heading.split_whitespace().collect::<Vec<_>>();
        match words[..] {
            ["info", item] if !item.starts_with('[') => names.push(heading),
            [all] => names.extend(all.split('|').map(str::to_owned)),
            _ => {}
        }
    }
    names
}

#[test]
fn a_word_too_many_is_refused_by_all_that_take_none() {
    let Some(both) = both() else { return };
    let help = ["help", "help info"]
        .map(|line| hmp(&both.ours, line))
        .concat();
    let names = without_words(&help);
    assert!(names.len() > 25, "{names:?}");
    let (mut compared, mut differences) = (0, Vec::new());
    for name in names {
        let line = format!("{name} now");
        let [theirs, ours] = [&both.qemu.socket, &both.ours].map(|socket| hmp(socket, &line));
        if theirs.starts_with("unknown command") {
            assert!(ours.contains("extraneous characters"), "{line}: {ours}");
        } else {
            compared += 1;
            if ours != theirs {
                differences.push(format!("{line}\n  QEMU: {theirs:?}\n  ours: {ours:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(compared > 20, "{compared}");
}
