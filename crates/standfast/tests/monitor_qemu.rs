//! The program and QEMU, both with `-machine none`, are asked the same: what does not depend on a board must come back the same, or be
//! listed here with a reason.
//!
//! Needs a QEMU 10 on the PATH (or in `STANDFAST_QEMU`); without one the test is SKIPPED, loudly, and with `STANDFAST_NO_SKIP=1` it
//! fails.
#![allow(clippy::unwrap_used)]

mod monitor_client;

use monitor_client::{Client, PATIENCE};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program under comparison, ended with its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn skipped(why: &str) {
    // Past the test harness, which hides what a passing test prints.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: nothing was compared with QEMU: {why}"
    );
    assert!(
        std::env::var_os("STANDFAST_NO_SKIP").is_none(),
        "STANDFAST_NO_SKIP is set"
    );
}

fn start(program: &Path, machine: &str, folder: &Path, socket: &str) -> (Program, Client) {
    let child = Command::new(program)
        .args([
            "-M",
            machine,
            "-S",
            "-nodefaults",
            "-display",
            "none",
            "-qmp",
        ])
        .arg(format!("unix:{socket},server=on,wait=off"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut program = Program(child);
    let begin = Instant::now();
    let socket = folder.join(socket);
    // The socket cannot be waited for: it is not there yet.
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert_eq!(program.0.try_wait().unwrap(), None, "it ended at once");
        assert!(begin.elapsed() < PATIENCE, "{}", socket.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    (program, Client::connect(&socket))
}

/// Ours and QEMU's, unless there is no QEMU.
fn both(folder: &Path) -> Option<[(Program, Client); 2]> {
    let qemu = std::env::var_os("STANDFAST_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
    let version = match Command::new(&qemu).arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            skipped(&format!("{}: {error}", Path::new(&qemu).display()));
            return None;
        }
    };
    if !version.contains("version 10.") {
        skipped(&format!("it is not QEMU 10 but {version}"));
        return None;
    }
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_standfast"));
    Some([
        start(&ours, "none,accel=kvm", folder, "ours"),
        start(Path::new(&qemu), "none,accel=tcg", folder, "qemu"),
    ])
}

/// What must be answered alike, in this order: commands with their arguments.
fn cases() -> Vec<(&'static str, Value)> {
    let none = || json!({});
    let path = |path: &str| json!({"path": path});
    let property = |path: &str, name: &str| json!({"path": path, "property": name});
    let set = |path: &str, name: &str| json!({"path": path, "property": name, "value": 1});
    let kind = |typename: &str| json!({"typename": typename});
    let id = |id: &str| json!({"id": id});
    let rng = |id: &str| json!({"qom-type": "rng-random", "id": id});
    let line = |text: &str| ("human-monitor-command", json!({"command-line": text}));
    vec![
        ("query-target", none()),
        ("query-status", none()),
        ("query-name", none()),
        ("query-uuid", none()),
        ("query-jobs", none()),
        ("query-block", none()),
        ("query-named-block-nodes", none()),
        ("query-iothreads", none()),
        ("query-pci", none()),
        ("query-cpus-fast", none()),
        ("query-hotpluggable-cpus", none()),
        ("query-rx-filter", none()),
        ("query-rx-filter", json!({"name": "nope"})),
        ("query-migrate", none()),
        ("query-command-line-options", json!({"option": "nope"})),
        (
            "query-cpu-model-expansion",
            json!({"type": "static", "model": {"name": "nope"}}),
        ),
        ("qom-list", path("/nope")),
        ("qom-list", path("")),
        ("qom-list", path("/machine/peripheral")),
        ("qom-list", path("/objects")),
        ("qom-get", property("/machine", "type")),
        ("qom-get", property("/machine", "nope")),
        ("qom-get", property("/machine", "peripheral")),
        ("qom-get", property("machine", "type")),
        ("qom-get", property("/", "machine")),
        ("qom-get", property("/nope", "x")),
        ("qom-set", set("/machine", "type")),
        ("qom-set", set("/nope", "type")),
        ("qom-set", set("/", "machine")),
        ("qom-list-types", json!({"implements": "nope"})),
        ("qom-list-properties", kind("nope")),
        ("device-list-properties", kind("nope")),
        ("device-list-properties", kind("memory-backend-ram")),
        ("device-list-properties", kind("pci-device")),
        ("object-add", json!({"qom-type": "nope", "id": "x"})),
        ("object-add", json!({"qom-type": "rng-random"})),
        ("object-add", rng("r1")),
        ("object-add", rng("r1")),
        ("qom-list", path("/objects")),
        ("qom-get", property("/objects/r1", "filename")),
        (
            "object-add",
            json!({"qom-type": "rng-random", "id": "r2", "filename": "/nope"}),
        ),
        (
            "object-add",
            json!({"qom-type": "rng-random", "id": "r2", "nope": 1}),
        ),
        ("object-del", id("r1")),
        ("object-del", id("r1")),
        (
            "object-add",
            json!({"qom-type": "memory-backend-ram", "id": "m1", "size": 4096}),
        ),
        ("qom-get", property("/objects/m1", "size")),
        ("object-del", id("m1")),
        ("device_add", json!({"driver": "virtio-rng-pci"})),
        ("device_add", json!({"driver": "nope"})),
        ("device_del", id("nope")),
        ("device_del", id("/machine/peripheral/nope")),
        ("netdev_del", id("nope")),
        ("set_link", json!({"name": "nope", "up": true})),
        (
            "announce-self",
            json!({"initial": 1, "max": 2, "rounds": 3, "step": 4}),
        ),
        (
            "announce-self",
            json!({"initial": 1, "max": 2, "rounds": 3}),
        ),
        ("migrate-pause", none()),
        ("migrate-recover", json!({"uri": "tcp:x:1"})),
        ("migrate-continue", json!({"state": "pre-switchover"})),
        ("migrate-incoming", json!({"uri": "tcp:x:1"})),
        ("migrate_cancel", none()),
        ("cont", none()),
        ("query-status", none()),
        ("stop", none()),
        ("query-status", none()),
        ("system_powerdown", none()),
        line("info status now"),
        line("info qom-tree /nope"),
        line("info block nope"),
        line("info block -n"),
        line("info block -x"),
        line("info qtree -x"),
        line("migrate_incoming \"exec:cat  x\""),
        line("migrate_incoming exec:cat x"),
    ]
}

#[test]
fn both_answer_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let Some([(_ours, mut ours), (_qemu, mut qemu)]) = both(folder.path()) else {
        return;
    };
    let mut differences = Vec::new();
    for (name, arguments) in cases() {
        let expected = qemu.ask(name, arguments.clone());
        let answer = ours.ask(name, arguments.clone());
        if answer != expected {
            differences.push(format!(
                "{name} {arguments}\n  QEMU: {expected}\n  ours: {answer}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let names = |client: &Client| -> Vec<String> {
        let events = client.events.iter();
        events.map(|event| event["event"].to_string()).collect()
    };
    assert_eq!(names(&ours), names(&qemu));
}

/// Properties that are not QEMU's, or not of its type: the beginning of the difference, and why.
const INTENDED: &[(&str, &str)] = &[
    ("virtio-blk-pci.scsi:", "of older releases; taken and off"),
    ("vfio-pci.ramfb:", "of vfio-pci-nohotplug; taken and off"),
    ("pcie-root-port.x-native-hotplug:", "of older releases"),
    ("pcie-root-port.x-speed:", "a word by any name"),
    ("pcie-root-port.x-width:", "a word by any name"),
    ("isa-serial.", "the range that a PC has"),
    ("virtio-net-pci.vectors:", "the range that PCI has"),
    ("virtio-blk-pci.vectors:", "the range that PCI has"),
    ("virtio-rng-pci.vectors:", "the range that PCI has"),
    ("virtio-net-pci.rombar:", "no ROM: there is no 'auto'"),
    ("virtio-blk-pci.rombar:", "no ROM: there is no 'auto'"),
    ("virtio-rng-pci.rombar:", "no ROM: there is no 'auto'"),
    ("pcie-root-port.rombar:", "no ROM: there is no 'auto'"),
    ("vfio-pci.rombar:", "on or off: there is no 'auto'"),
    (
        "virtio-net-pci.failover-",
        "how the host's network follows a pair is ours",
    ),
];

fn by_name(list: &[Value]) -> BTreeMap<String, Value> {
    let entry = |each: &Value| (each["name"].as_str().unwrap().to_owned(), each.clone());
    list.iter().map(entry).collect()
}

#[test]
fn types_and_properties_are_among_qemus() {
    let folder = tempfile::tempdir().unwrap();
    let Some([(_ours, mut ours), (_qemu, mut qemu)]) = both(folder.path()) else {
        return;
    };
    let mut differences = Vec::new();
    let all = json!({"abstract": true});
    let known = by_name(&qemu.list("qom-list-types", all.clone()));
    let types = ours.list("qom-list-types", all);
    for each in &types {
        let name = each["name"].as_str().unwrap();
        if known.get(name) != Some(each) {
            differences.push(format!("type {each}: QEMU has {:?}", known.get(name)));
        }
    }
    let devices = [
        "isa-serial",
        "pcie-root-port",
        "vfio-pci",
        "virtio-blk-pci",
        "virtio-net-pci",
        "virtio-rng-pci",
    ];
    let objects = [
        "generic-pc-machine",
        "iommufd",
        "iothread",
        "memory-backend-file",
        "memory-backend-memfd",
        "memory-backend-ram",
        "none-machine",
        "rng-random",
        "secret",
    ];
    let devices = devices.map(|name| ("device-list-properties", name));
    let objects = objects.map(|name| ("qom-list-properties", name));
    for (command, name) in devices.into_iter().chain(objects) {
        let arguments = json!({"typename": name});
        let known = by_name(&qemu.list(command, arguments.clone()));
        for (property, ours) in by_name(&ours.list(command, arguments)) {
            let theirs = known.get(&property).map(|theirs| &theirs["type"]);
            if theirs != Some(&ours["type"]) {
                differences.push(format!(
                    "{name}.{property}: ours is {}, QEMU's {theirs:?}",
                    ours["type"]
                ));
            }
        }
    }
    let model = json!({"type": "full", "model": {"name": "max"}});
    let expand = |client: &mut Client| {
        let expansion = client.ok("query-cpu-model-expansion", model.clone());
        expansion["model"]["props"].as_object().cloned().unwrap()
    };
    let known = expand(&mut qemu);
    let features = expand(&mut ours);
    let unknown = features.keys().filter(|name| !known.contains_key(*name));
    differences.extend(unknown.map(|name| format!("feature {name}: QEMU has none of this name")));

    for (beginning, why) in INTENDED {
        assert!(
            differences.iter().any(|d| d.starts_with(beginning)),
            "no longer differs: {beginning} {why}"
        );
    }
    differences.retain(|d| !INTENDED.iter().any(|(b, _)| d.starts_with(b)));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
