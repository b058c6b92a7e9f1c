//! `failover-hook=` with real programs: what they are told, and what becomes of those that misbehave. Those that take too
//! long are in `src/steer/hook_tests.rs`.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is a failed test

mod netns;

use std::fs;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use net::steer::{Choice, HookConfig, Moment, Steering, Trouble, Wanted};
use netns::{PATIENCE as LONG, eventually, in_namespace, program, sh};
use serde_json::{Value, json};
use tempfile::TempDir;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x6f, 0x55, 0xcc];
const MAC_TEXT: &str = "52:54:00:6f:55:cc";

struct Bench {
    folder: TempDir,
    steering: Steering,
    troubles: Receiver<Trouble>,
}

fn bench_of(wanted: Wanted, text: &str, timeout: Duration) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let hook = HookConfig {
        program: program(folder.path(), "hook", text),
        timeout,
    };
    let mut steering = Steering::discover(Wanted {
        hook: Some(hook),
        ..wanted
    })
    .unwrap();
    let (sender, troubles) = channel();
    steering.on_trouble(move |trouble| {
        let _ = sender.send(trouble);
    });
    Bench {
        folder,
        steering,
        troubles,
    }
}

fn bench(text: &str, timeout: Duration) -> Bench {
    let wanted = Wanted {
        standby: "net1".into(),
        primary: Some("vf0".into()),
        mac: MAC,
        ..Wanted::default()
    };
    bench_of(wanted, text, timeout)
}

impl Bench {
    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    fn records(&self) -> Vec<Value> {
        let text = self.file("told");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn trouble(&self) -> Trouble {
        self.troubles.recv_timeout(LONG).unwrap()
    }
}

#[test]
fn each_moment_is_told_in_order_and_the_program_has_nothing_of_ours() {
    let mut bench = bench(
        "cat >> $here/told; env > $here/env; pwd > $here/pwd; ls -l /proc/self/fd > $here/fds; echo good",
        LONG,
    );
    bench.steering.set_vlans(vec![7, 42]);
    bench.steering.arm_primary();
    bench.steering.to_primary("its driver has opened it");
    bench.steering.to_both("a migration");
    bench.steering.to_standby("the guest let go");
    bench.steering.guest_left("a migration");
    bench.steering.restore("the machine ends");
    bench.steering.finish();

    let records = bench.records();
    let moments: Vec<_> = records
        .iter()
        .map(|r| r["moment"].as_str().unwrap())
        .collect();
    let expected = [
        "arm-primary",
        "to-primary",
        "to-both",
        "to-standby",
        "guest-left",
        "end",
    ];
    assert_eq!(moments, expected);
    assert_eq!(
        records[3],
        json!({
            "version": 1, "moment": "to-standby", "path": "standby", "reason": "the guest let go",
            "standby": "net1", "primary": "vf0", "mac": MAC_TEXT, "vlans": [7, 42], "interface": null,
            "bridge": null, "standby-port": null, "primary-port": null, "pf": null, "vf": null,
            "vf-address": null, "steps": []
        })
    );
    let env = bench.file("env");
    let ours = |line: &&str| {
        !["PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD="]
            .iter()
            .any(|own| line.starts_with(own))
    };
    assert_eq!(env.lines().find(ours), None, "{env}");
    assert_eq!(bench.file("pwd").trim(), "/");
    let fds = bench.file("fds");
    assert!(
        fds.contains("/memfd:hook-input") && !fds.contains("socket:"),
        "{fds}"
    );
    assert!(bench.troubles.try_recv().is_err());
    let text = bench.steering.describe();
    assert!(
        text.contains("frames to none; last end (the machine ends): nothing to do"),
        "{text}"
    );
    assert!(text.contains("/hook: end done"), "{text}");
}

#[test]
fn one_that_fails_is_told_with_what_it_said_and_the_next_moment_comes_all_the_same() {
    let mut bench = bench("cat >> $here/told; echo no such port >&2; exit 3", LONG);
    bench.steering.to_standby("a");
    let trouble = bench.trouble();
    assert_eq!(
        (trouble.standby.as_str(), trouble.moment),
        ("net1", Moment::ToStandby)
    );
    assert!(trouble.step.ends_with("/hook"));
    assert_eq!(trouble.error, "exit status: 3: no such port");
    bench.steering.to_primary("b");
    assert_eq!(bench.trouble().moment, Moment::ToPrimary);
    assert_eq!(bench.records().len(), 2);
    let text = bench.steering.describe();
    assert!(
        text.contains("to-primary failed: exit status: 3: no such port"),
        "{text}"
    );
}

#[test]
fn one_that_is_not_there_cannot_be_run_or_reads_and_ends_nothing_is_told() {
    let mut gone = bench("", LONG);
    fs::remove_file(gone.folder.path().join("hook")).unwrap();
    gone.steering.to_standby("a");
    let error = gone.trouble().error;
    assert!(error.starts_with("cannot be run: No such file"), "{error}");

    let mut endless = bench("exec yes", LONG);
    endless.steering.to_standby("a");
    // `yes` ends when its output is full.
    let error = endless.trouble().error;
    assert!(error.starts_with("exit status: 1: y; y; "), "{error}");
    assert!(error.len() < 600, "{}", error.len());

    let mut deaf = bench("exit 0", LONG);
    deaf.steering.set_vlans((0..4096).collect());
    deaf.steering.to_standby("a");
    deaf.steering.finish();
    assert!(deaf.troubles.try_recv().is_err());
}

/// What was done by ourselves is told with its outcome; what is off is only told.
#[test]
fn what_was_done_and_found_is_in_the_record() {
    in_namespace(|| {
        sh("ip link add br0 type bridge");
        sh("ip link add pf0 type veth peer name wire0");
        sh("ip link add st0 type veth peer name far0");
        for port in ["pf0", "st0"] {
            sh(&format!("ip link set {port} master br0 up"));
        }
        for up in ["wire0", "far0", "br0"] {
            sh(&format!("ip link set {up} up"));
        }
        eventually("the bridge forwards", || {
            (sh("bridge link").matches("state forwarding").count() == 2).then_some(())
        });
        let wanted = Wanted {
            standby: "net1".into(),
            vf: Some(2),
            vf_vlan: Some(42),
            pf: Choice::Named("pf0".into()),
            standby_port: Choice::Named("st0".into()),
            ..Wanted::pair("tap0", None, MAC)
        };
        let mut bench = bench_of(wanted.clone(), "cat >> $here/told", LONG);
        bench.steering.arm_primary();
        bench.steering.finish();
        let record = &bench.records()[0];
        let found = [
            "interface",
            "bridge",
            "standby-port",
            "primary-port",
            "pf",
            "vf",
        ];
        assert_eq!(
            found.map(|name| record[name].clone()),
            [
                json!("tap0"),
                json!("br0"),
                json!("st0"),
                json!("pf0"),
                json!("pf0"),
                json!(2)
            ]
        );
        // A veth has no VFs: the kernel says so.
        let no = "Operation not supported (os error 95)";
        assert_eq!(
            record["steps"],
            json!([
                {"step": format!("bridge fdb replace {MAC_TEXT} dev st0 master dynamic sticky"), "outcome": "done"},
                {"step": format!("bridge fdb add {MAC_TEXT} dev pf0 self"), "outcome": "done"},
                {"step": "ip link set dev pf0 vf 2 vlan 42", "outcome": "failed", "error": no},
                {"step": format!("ip link set dev pf0 vf 2 mac {MAC_TEXT}"), "outcome": "failed", "error": no},
            ])
        );
        let steps: Vec<_> = bench
            .troubles
            .try_iter()
            .map(|trouble| trouble.step)
            .collect();
        assert_eq!(steps.len(), 2, "{steps:?}");

        let off = Wanted {
            pf: Choice::Off,
            standby_port: Choice::Off,
            primary_port: Choice::Off,
            ..wanted
        };
        let mut bench = bench_of(off, "cat >> $here/told", LONG);
        bench.steering.to_standby("a");
        bench.steering.to_primary("b");
        bench.steering.restore("c");
        bench.steering.finish();
        let steps: Vec<_> = bench.records().iter().map(|r| r["steps"].clone()).collect();
        assert_eq!(steps, [json!([]), json!([]), json!([])]);
        assert!(
            bench.steering.describe().contains("(off)"),
            "{}",
            bench.steering.describe()
        );
    });
}
