//! The program with `-machine none`, as libvirt starts it to learn what it can do. It needs no KVM.
#![allow(clippy::unwrap_used)]

mod monitor_client;

use monitor_client::{Client, PATIENCE};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The background process of a test, ended with it.
struct Daemon {
    folder: tempfile::TempDir,
    pid: rustix::process::Pid,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended by itself if all went well.
        let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::KILL);
    }
}

impl Daemon {
    /// libvirt's command line, word by word.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (socket, pid_file) = (
            folder.path().join("qmp.monitor"),
            folder.path().join("qmp.pid"),
        );
        let output = Command::new(env!("CARGO_BIN_EXE_standfast"))
            .args(["-S", "-no-user-config", "-nodefaults", "-nographic"])
            .args(["-machine", "none,accel=kvm:tcg", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-pidfile")
            .arg(&pid_file)
            .arg("-daemonize")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        // The pid file is there when the command has left, and so is the socket.
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        Self { folder, pid }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("qmp.monitor")
    }

    fn wait_for_the_end(&self) {
        wait_for_exit(self.pid);
        for name in ["qmp.monitor", "qmp.pid"] {
            assert!(!self.folder.path().join(name).exists(), "{name} is left");
        }
    }
}

/// Waits until the process is gone; at once if it is already.
fn wait_for_exit(pid: rustix::process::Pid) {
    let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    let mut watched = [rustix::event::PollFd::new(
        &process,
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::event::Timespec {
        tv_sec: PATIENCE.as_secs().try_into().unwrap(),
        tv_nsec: 0,
    };
    let ended = rustix::event::poll(&mut watched, Some(&limit)).unwrap();
    assert_eq!(ended, 1, "the process did not end");
}

fn names(list: &[Value]) -> Vec<&str> {
    list.iter()
        .filter_map(|each| each["name"].as_str())
        .collect()
}

#[test]
fn libvirt_learns_what_it_asks_for() {
    let daemon = Daemon::start();
    let mut client = Client::connect(&daemon.socket());

    let version = client.ok("query-version", json!({}));
    assert_eq!(version["qemu"]["major"], 10);
    assert_eq!(
        client.ok("query-target", json!({})),
        json!({"arch": "x86_64"})
    );
    let schema = client.list("query-qmp-schema", json!({}));
    let commands = client.list("query-commands", json!({}));
    for name in [
        "query-cpu-definitions",
        "query-cpu-model-expansion",
        "device_add",
    ] {
        assert!(names(&commands).contains(&name), "{name}");
        assert!(names(&schema).contains(&name), "{name}");
    }
    let kvm = client.ok("query-kvm", json!({}));
    assert_eq!(kvm["present"], true);
    assert!(kvm["enabled"].is_boolean());

    let types = client.list("qom-list-types", json!({}));
    for name in [
        "pcie-root-port",
        "virtio-net-pci",
        "virtio-net-pci-non-transitional",
        "vfio-pci",
        "isa-serial",
        "max-x86_64-cpu",
        "memory-backend-file",
        "kvm-accel",
    ] {
        assert!(names(&types).contains(&name), "{name}");
    }
    // A second run with accel=tcg would follow.
    assert!(!names(&types).contains(&"tcg-accel"));

    for device in [
        "virtio-net-pci",
        "vfio-pci",
        "pcie-root-port",
        "virtio-blk-pci",
    ] {
        let properties = client.list("device-list-properties", json!({"typename": device}));
        assert!(names(&properties).contains(&"failover_pair_id"), "{device}");
    }
    let cpu = client.list(
        "device-list-properties",
        json!({"typename": "max-x86_64-cpu"}),
    );
    assert!(names(&cpu).contains(&"migratable"));
    for absent in ["piix4-ide", "virtio-gpu-pci", "usb-redir"] {
        let class = client.class("device-list-properties", json!({"typename": absent}));
        assert_eq!(class, "DeviceNotFound");
    }
    let memory = client.list(
        "qom-list-properties",
        json!({"typename": "memory-backend-file"}),
    );
    assert!(names(&memory).contains(&"discard-data"));

    let machines = client.list("query-machines", json!({}));
    let q35 = machines.iter().find(|m| m["alias"] == "q35").unwrap();
    assert_eq!(q35["name"], "pc-q35-10.0");
    assert_eq!(q35["default-ram-id"], "pc.ram");
    assert_eq!(
        (&q35["hotpluggable-cpus"], &q35["acpi"]),
        (&json!(false), &json!(true))
    );
    assert!(q35["cpu-max"].as_i64().unwrap() >= 64);
    // An error here would crash libvirtd 11.3.
    for machine in ["none-machine", "generic-pc-machine", "pc-q35-10.0-machine"] {
        client.list("qom-list-properties", json!({"typename": machine}));
    }

    assert_eq!(
        client.class("query-tpm-models", json!({})),
        "CommandNotFound"
    );
    client.list("query-command-line-options", json!({}));
    let capabilities = client.list("query-migrate-capabilities", json!({}));
    let listed: Vec<_> = capabilities
        .iter()
        .map(|c| c["capability"].as_str().unwrap())
        .collect();
    assert!(listed.contains(&"events") && listed.contains(&"return-path"));

    let models = client.list("query-cpu-definitions", json!({}));
    assert_eq!(names(&models), ["host", "max"]);
    for (kind, model) in [("static", "max"), ("full", "host")] {
        let arguments = json!({"type": kind, "model": {"name": model}});
        let expansion = client.ok("query-cpu-model-expansion", arguments);
        assert_eq!(expansion["model"]["props"]["lm"], true);
    }

    client.ok("quit", json!({}));
    let shutdown = client.message();
    assert_eq!(shutdown["event"], "SHUTDOWN");
    assert_eq!(
        shutdown["data"],
        json!({"guest": false, "reason": "host-qmp-quit"})
    );
    daemon.wait_for_the_end();
}

#[test]
fn a_machine_that_is_none_has_states_and_no_parts() {
    let daemon = Daemon::start();
    let mut client = Client::connect(&daemon.socket());
    assert_eq!(
        client.ok("query-status", json!({})),
        json!({"status": "prelaunch", "running": false})
    );
    client.ok("cont", json!({}));
    assert_eq!(client.events.last().unwrap()["event"], "RESUME");
    assert_eq!(client.ok("query-status", json!({}))["running"], true);
    client.ok("stop", json!({}));
    assert_eq!(client.events.last().unwrap()["event"], "STOP");
    for (name, expected) in [("query-pci", 0), ("query-cpus-fast", 0), ("query-block", 0)] {
        assert_eq!(client.list(name, json!({})).len(), expected, "{name}");
    }
    let machine = client.ok("qom-get", json!({"path": "/machine", "property": "type"}));
    assert_eq!(machine, "none-machine");
    let refused = client.ask("device_add", json!({"driver": "virtio-rng-pci"}));
    assert_eq!(
        refused["error"]["desc"],
        "No 'PCI' bus found for device 'virtio-rng-pci'"
    );
    client.ok("object-add", json!({"qom-type": "iothread", "id": "io1"}));
    let again = client.ask("object-add", json!({"qom-type": "iothread", "id": "io1"}));
    assert_eq!(
        again["error"]["desc"],
        "attempt to add duplicate property 'io1' to object (type 'container')"
    );
    assert_eq!(client.list("query-iothreads", json!({}))[0]["id"], "io1");
    client.ok("object-del", json!({"id": "io1"}));
    let gone = client.ask("object-del", json!({"id": "io1"}));
    assert_eq!(gone["error"]["desc"], "object 'io1' not found");
    let qom = client.ok(
        "human-monitor-command",
        json!({"command-line": "info qom-tree"}),
    );
    assert!(qom.as_str().unwrap().contains("/peripheral"));
    rustix::process::kill_process(daemon.pid, rustix::process::Signal::TERM).unwrap();
    let shutdown = client.message();
    assert_eq!(shutdown["data"]["reason"], "host-signal");
    daemon.wait_for_the_end();
}

/// A process in the foreground, ended with its test.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_s_it_runs_and_ends_with_status_0() {
    let mut process = Foreground(
        Command::new(env!("CARGO_BIN_EXE_standfast"))
            .args([
                "-machine",
                "none",
                "-nodefaults",
                "-nographic",
                "-qmp",
                "stdio",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut input = process.0.stdin.take().unwrap();
    let mut output = BufReader::new(process.0.stdout.take().unwrap());
    input
        .write_all(b"{\"execute\": \"qmp_capabilities\"}{\"execute\": \"query-status\"}{\"execute\": \"quit\"}")
        .unwrap();
    let mut lines = Vec::new();
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        lines.push(serde_json::from_str::<Value>(&line).unwrap());
        line.clear();
    }
    assert_eq!(
        lines[2]["return"],
        json!({"status": "running", "running": true})
    );
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It has ended by itself if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// QEMU's own tests start even a machine that is none with a `-qtest` socket, and wait until it is connected.
#[test]
fn a_client_of_qtest_is_answered_where_there_is_no_machine() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("qtest");
    let listener = std::os::unix::net::UnixListener::bind(&at).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_standfast"))
        .args(["-M", "none", "-accel", "qtest", "-nodefaults"])
        .args(["-display", "none", "-qtest-log", "none", "-qtest"])
        .arg(format!("unix:{}", at.display()))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let expected = [
        ("endianness", "OK little"),
        ("inb 0x80", "OK 0x00ff"),
        ("readb 0x0", "OK 0x0000000000000000"),
        ("writeb 0x0 0x1", "OK"),
        ("irq_intercept_in ioapic", "FAIL Unknown device"),
        ("nope", "FAIL Unknown command 'nope'"),
    ];
    for (command, answer) in expected {
        writeln!(stream, "{command}").unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), answer, "{command}");
    }
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}
