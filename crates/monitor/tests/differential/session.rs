//! Garbage, wrong arguments, and the commands that a monitor answers by itself.

use super::{answers, both};

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
