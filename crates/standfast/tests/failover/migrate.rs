//! Migration to a file and from it, and migrations that are broken off.

use crate::client::{Machine, PATIENCE};
use crate::pair::{PORTS, accept, add_primary, add_standby, expect};
use crate::pci::Pci;
use serde_json::json;
use std::path::Path;
use std::time::Instant;

/// The eject register of the hotplug block; the selector is beyond it.
pub(crate) const EJECT: &str = "outl 0xcc8 1";
const MORE_PORTS: &str = "-device pcie-root-port,id=root2,addr=0x3,bus=pcie.0,chassis=3 \
     -device pcie-root-port,id=root3,addr=0x4,bus=pcie.0,chassis=4 -netdev user,id=hs2 -netdev user,id=hs3 ";

pub(crate) fn migrate(machine: &mut Machine, file: &Path) {
    let uri = format!("exec: cat > {}", file.display());
    machine.qmp("migrate", json!({ "uri": uri })).unwrap();
}

/// Has the machine tell of each state of its migrations.
pub(crate) fn tell_states(machine: &mut Machine) {
    let events = json!({"capabilities": [{"capability": "events", "state": true}]});
    machine.qmp("migrate-set-capabilities", events).unwrap();
}

/// Waits until it was told that the migration completed: then everybody knows. `query-migrate` says so a little earlier.
pub(crate) fn completed(machine: &mut Machine) {
    while machine.event("MIGRATION")["status"] != "completed" {}
}

pub(crate) fn incoming(machine: &mut Machine, file: &Path) {
    tell_states(machine);
    let uri = format!("exec: cat {}", file.display());
    machine
        .qmp("migrate-incoming", json!({ "uri": uri }))
        .unwrap();
    while machine.event("MIGRATION")["status"] != "setup" {}
}

/// Has a migration stay where memory is sent, for as long as a test does something meanwhile: there is more of it than goes out
/// in that time.
pub(crate) fn dawdle(machine: &mut Machine) {
    machine.command("memset 0x100000 0x800000 0x5a");
    machine.set_parameters(json!({"max-bandwidth": 1024}));
}

/// A machine whose guest has both devices.
pub(crate) fn plugged() -> Machine {
    let mut machine = Machine::start(PORTS);
    let mut pci = Pci::set_up(&mut machine, 2);
    add_standby(&mut machine, 0, true);
    accept(&mut machine, &mut pci, 1, "standby0");
    add_primary(&mut machine, 0);
    expect(&mut machine, &["standby0", "primary0"], &[]);
    machine
}

pub(crate) fn resumed(machine: &mut Machine) {
    machine.event("RESUME");
    assert_eq!(machine.status(), "completed");
}

#[test]
fn there_and_back() {
    let mut source = plugged();
    let file = source.folder.path().join("stream");
    migrate(&mut source, &file);
    assert_eq!(source.event("UNPLUG_PRIMARY")["device-id"], "primary0");
    source.until("wait-unplug", &["setup"]);
    source.command(EJECT);
    source.until("completed", &["wait-unplug", "active", "device"]);
    source.event("STOP");

    let target = &mut Machine::start(&(PORTS.to_owned() + "-incoming defer"));
    Pci::set_up(target, 2);
    add_standby(target, 0, true);
    add_primary(target, 0);
    expect(target, &["standby0"], &["primary0"]);
    incoming(target, &file);
    assert_eq!(target.event("FAILOVER_NEGOTIATED")["device-id"], "standby0");
    expect(target, &["standby0", "primary0"], &[]);
    resumed(target);
    source.stop();
}

#[test]
fn a_pair_that_is_none_migrates_with_both_devices() {
    let mut source = Machine::start(PORTS);
    let mut pci = Pci::set_up(&mut source, 2);
    add_standby(&mut source, 0, false);
    add_primary(&mut source, 0);
    pci.start_nic(&mut source, 1, true);
    pci.start_nic(&mut source, 2, true);
    let file = source.folder.path().join("stream");
    migrate(&mut source, &file);
    source.until("completed", &["setup", "active", "device"]);
    source.event("STOP");

    let target = &mut Machine::start(&(PORTS.to_owned() + "-incoming defer"));
    Pci::set_up(target, 2);
    add_standby(target, 0, false);
    add_primary(target, 0);
    expect(target, &["standby0", "primary0"], &[]);
    incoming(target, &file);
    resumed(target);
    for bus in [1, 2] {
        let command = Pci::read(target, bus << 8, 4, 'w');
        assert_eq!(command & 7, 7, "what the guest wrote has arrived");
    }
}

#[test]
fn a_guest_without_the_feature_migrates_at_once() {
    let mut source = Machine::start(PORTS);
    let mut pci = Pci::set_up(&mut source, 2);
    add_standby(&mut source, 0, true);
    add_primary(&mut source, 0);
    pci.start_nic(&mut source, 1, false);
    let file = source.folder.path().join("stream");
    migrate(&mut source, &file);
    source.until("completed", &["setup", "active", "device"]);
    expect(&mut source, &["standby0"], &["primary0"]);

    let target = &mut Machine::start(&(PORTS.to_owned() + "-incoming defer"));
    Pci::set_up(target, 2);
    add_standby(target, 0, true);
    add_primary(target, 0);
    incoming(target, &file);
    expect(target, &["standby0"], &["primary0"]);
    resumed(target);
    expect(target, &["standby0"], &["primary0"]);
}

#[test]
fn a_cancel_while_the_guest_is_waited_for_ends_when_it_ejects() {
    let mut machine = plugged();
    let file = machine.folder.path().join("stream");
    migrate(&mut machine, &file);
    machine.event("UNPLUG_PRIMARY");
    machine.qmp("migrate_cancel", json!({})).unwrap();
    // Cancelling, unless this client is slow.
    assert!(machine.status().starts_with("cancell"));
    machine.command(EJECT);
    machine.until("cancelled", &["cancelling"]);
    expect(&mut machine, &["standby0", "primary0"], &[]);
    assert_eq!(Pci::read(&mut machine, 2 << 8, 0, 'l'), 0x1041_1af4);
}

#[test]
fn a_cancel_does_not_wait_for_a_guest_that_does_nothing_and_a_late_eject_deletes_nothing() {
    let mut machine = plugged();
    // Nothing but the cancel ends the wait.
    machine.set_parameters(json!({"failover-unplug-timeout": 600_000}));
    let file = machine.folder.path().join("stream");
    migrate(&mut machine, &file);
    machine.until("wait-unplug", &["setup"]);
    machine.qmp("migrate_cancel", json!({})).unwrap();
    machine.until("cancelled", &["cancelling"]);
    expect(&mut machine, &["standby0", "primary0"], &[]);
    // The guest follows the request that was taken back: it gets its primary again at once.
    machine.command(EJECT);
    expect(&mut machine, &["standby0", "primary0"], &[]);
    assert_eq!(Pci::read(&mut machine, 2 << 8, 0, 'l'), 0x1041_1af4);
    assert_eq!(machine.pair()["counters"]["plugs"], 2);
    assert!(!machine.has_told("DEVICE_DELETED"));
    // A second migration asks anew.
    migrate(&mut machine, &file);
    machine.event("UNPLUG_PRIMARY");
    machine.command(EJECT);
    machine.until("completed", &["setup", "wait-unplug", "active", "device"]);
}

#[test]
fn a_cancel_while_memory_is_sent_brings_the_primary_back() {
    let mut machine = plugged();
    dawdle(&mut machine);
    let file = machine.folder.path().join("stream");
    migrate(&mut machine, &file);
    machine.event("UNPLUG_PRIMARY");
    machine.command(EJECT);
    machine.until("active", &["setup", "wait-unplug"]);
    machine.qmp("migrate_cancel", json!({})).unwrap();
    machine.until("cancelled", &["cancelling"]);
    expect(&mut machine, &["standby0", "primary0"], &[]);
}

#[test]
fn two_pairs_wait_for_both() {
    let options = PORTS.to_owned() + MORE_PORTS;
    let mut source = Machine::start(&options);
    let mut pci = Pci::set_up(&mut source, 4);
    for n in 0..2 {
        add_standby(&mut source, n, true);
        add_primary(&mut source, n);
        let id = format!("standby{n}");
        accept(&mut source, &mut pci, 1 + 2 * n as u64, &id);
    }
    let all = ["standby0", "primary0", "standby1", "primary1"];
    expect(&mut source, &all, &[]);
    let file = source.folder.path().join("stream");
    migrate(&mut source, &file);
    assert_eq!(source.event("UNPLUG_PRIMARY")["device-id"], "primary1");
    assert_eq!(source.event("UNPLUG_PRIMARY")["device-id"], "primary0");
    source.until("wait-unplug", &["setup"]);
    // The ports are selected from the last one on: 0 is root3, 2 is root1.
    source.command(EJECT);
    assert_eq!(source.status(), "wait-unplug");
    source.command("outl 0xcd0 2");
    source.command(EJECT);
    source.until("completed", &["wait-unplug", "active", "device"]);

    let target = &mut Machine::start(&(options + "-incoming defer"));
    for n in 0..2 {
        add_standby(target, n, true);
        add_primary(target, n);
    }
    incoming(target, &file);
    for id in ["standby0", "standby1"] {
        assert_eq!(target.event("FAILOVER_NEGOTIATED")["device-id"], id);
    }
    expect(target, &all, &[]);
    resumed(target);
}

#[test]
fn an_incoming_command_is_given_on_the_command_line() {
    let mut source = Machine::start(PORTS);
    let file = source.folder.path().join("stream");
    migrate(&mut source, &file);
    source.until("completed", &["setup", "active", "device"]);
    // One word for the program, as options are split at white space here.
    let copy = format!("{PORTS} -incoming exec:cat<{}", file.display());
    let target = &mut Machine::start(&copy);
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "it does not run");
        if target.qmp("query-status", json!({})).unwrap()["status"] == "running" {
            break;
        }
    }
}

#[test]
fn a_target_with_the_other_hotplug_is_told_apart_by_its_devices() {
    let mut source = Machine::start("-M q35 -nodefaults -m 32");
    let file = source.folder.path().join("stream");
    migrate(&mut source, &file);
    source.until("completed", &["", "setup", "active", "device"]);
    let mut target = Machine::start(
        "-M q35 -nodefaults -m 32 -incoming defer -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    );
    let uri = format!("exec: cat {}", file.display());
    let arguments = json!({"uri": uri, "exit-on-error": false});
    target.qmp("migrate-incoming", arguments).unwrap();
    target.until("failed", &["", "setup", "active"]);
    let info = target.qmp("query-migrate", json!({})).unwrap();
    assert_eq!(
        info["error-desc"],
        "device 'acpi-pci-hotplug' is a acpi-pci-hotplug on the source and a native-pcie-hotplug here: start the target with the source's -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support"
    );
}

const BARE: &str = "-M q35 -nodefaults -m 32 ";

/// Begins a migration over a socket to a target with these options; what the target ends with is its caller's to see.
fn over_a_socket(source: &mut Machine, options: &str) -> Machine {
    let mut target = Machine::start(&format!("{BARE}{options} -incoming defer"));
    let uri = format!("unix:{}", target.folder.path().join("stream").display());
    let arguments = json!({"uri": uri, "exit-on-error": false});
    target.qmp("migrate-incoming", arguments).unwrap();
    source.qmp("migrate", json!({ "uri": uri })).unwrap();
    target
}

#[test]
fn other_serial_ports_are_refused_before_memory_is_sent_and_the_option_is_named() {
    const ONE: &str = "-serial null";
    const TWO: &str = "-serial null -serial null";
    const ELSEWHERE: &str =
        "-chardev null,id=c -device isa-serial,index=0,iobase=0x2f8,irq=3,chardev=c";
    for (here, there, why) in [
        (
            TWO,
            ONE,
            "device 'serial/1' (isa-serial at 0x2f8, irq 3) of the source does not exist here",
        ),
        (
            ONE,
            TWO,
            "device 'serial/1' (isa-serial at 0x2f8, irq 3) does not exist on the source",
        ),
        (
            ONE,
            ELSEWHERE,
            "device 'serial/0' is a isa-serial at 0x3f8, irq 4 on the source and a isa-serial at 0x2f8, irq 3 here",
        ),
    ] {
        let source = &mut Machine::start(&format!("{BARE}{here}"));
        let target = &mut over_a_socket(source, there);
        let why =
            format!("{why}: start the target with the source's -serial and -device isa-serial");
        source.until("failed", &["setup", "active"]);
        let error = source.qmp("query-migrate", json!({})).unwrap();
        assert_eq!(error["error-desc"], format!("the target refused: {why}"));
        assert!(!source.has_told("STOP"), "the guest stood still for it");
        target.until("failed", &["setup", "active"]);
        let error = target.qmp("query-migrate", json!({})).unwrap();
        assert_eq!(error["error-desc"], why);
    }
}

#[test]
fn serial_ports_go_by_their_numbers_in_whatever_order_they_were_given() {
    let source = &mut Machine::start(&format!("{BARE}-serial null -serial null"));
    // Each has a register that nothing else uses.
    source.command("outb 0x3ff 0x11");
    source.command("outb 0x2ff 0x22");
    let target = &mut over_a_socket(
        source,
        "-chardev null,id=a -device isa-serial,index=1,chardev=a -chardev null,id=b -device isa-serial,index=0,chardev=b",
    );
    source.until("completed", &["setup", "active", "device"]);
    target.until("completed", &["setup", "active"]);
    assert_eq!(target.number("inb 0x3ff"), 0x11);
    assert_eq!(target.number("inb 0x2ff"), 0x22);
}
