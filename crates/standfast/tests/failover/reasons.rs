//! Migrations that do not get their guest's primary: how they end, and what a client reads of why.

use crate::client::Machine;
use crate::migrate::{EJECT, migrate, plugged};
use crate::pair::expect;
use serde_json::{Value, json};

const WAITED_FOR: [&str; 2] = ["setup", "wait-unplug"];

fn started(parameters: Value) -> Machine {
    let mut machine = plugged();
    machine.set_parameters(parameters);
    let file = machine.folder.path().join("stream");
    migrate(&mut machine, &file);
    machine
}

fn info(machine: &mut Machine) -> Value {
    machine.qmp("query-migrate", json!({})).unwrap()
}

#[test]
fn a_guest_that_ignores_the_request_fails_the_migration_and_keeps_its_primary() {
    let machine = &mut started(json!({"failover-unplug-timeout": 50}));
    let told = machine.event("FAILOVER_UNPLUG_FAILED");
    assert_eq!(told["device-id"], "standby0");
    assert_eq!(told["primary-id"], "primary0");
    assert_eq!(told["reason"], "guest-ignored");
    machine.until("failed", &WAITED_FOR);
    let info = info(machine);
    assert_eq!(info["failover-reason"], "guest-ignored");
    let text = info["error-desc"].as_str().unwrap();
    assert!(text.contains(told["message"].as_str().unwrap()), "{text}");
    expect(machine, &["standby0", "primary0"], &[]);
    assert_eq!(machine.pair()["counters"]["unplug-timeouts"], 1);
    // QEMU has this event for device_del alone.
    assert!(!machine.has_told("DEVICE_UNPLUG_GUEST_ERROR"));
    // Late, it gets it again.
    machine.command(EJECT);
    expect(machine, &["standby0", "primary0"], &[]);
    assert!(!machine.has_told("DEVICE_DELETED"));
}

#[test]
fn a_migration_whose_guest_does_not_let_go_is_cancelled_where_that_is_the_policy() {
    let machine = &mut started(json!({
        "failover-unplug-timeout": 50, "failover-unplug-policy": "cancel"
    }));
    machine.until("cancelled", &["setup", "wait-unplug", "cancelling"]);
    let info = info(machine);
    assert_eq!(info["failover-reason"], "guest-ignored");
    assert_eq!(info.get("error-desc"), None);
    expect(machine, &["standby0", "primary0"], &[]);
}

#[test]
fn a_paused_guest_is_refused_and_told_before() {
    let mut machine = plugged();
    assert_eq!(machine.pair()["blockers"], json!([]));
    machine.qmp("stop", json!({})).unwrap();
    assert_eq!(machine.pair()["blockers"][0]["reason"], "guest-paused");
    let file = machine.folder.path().join("stream");
    migrate(&mut machine, &file);
    machine.until("failed", &WAITED_FOR);
    assert_eq!(info(&mut machine)["failover-reason"], "guest-paused");
    let told = machine.event("FAILOVER_UNPLUG_FAILED");
    assert_eq!(
        (&told["device-id"], &told["reason"]),
        (&json!("standby0"), &json!("guest-paused"))
    );
    assert!(!machine.has_told("UNPLUG_PRIMARY"));
    machine.qmp("cont", json!({})).unwrap();
    assert_eq!(machine.pair()["blockers"], json!([]));
}

#[test]
fn a_paused_guest_is_waited_for_where_that_is_asked() {
    let mut machine = plugged();
    machine.set_parameters(json!({
        "failover-unplug-timeout": 600_000, "failover-when-paused": "wait"
    }));
    machine.qmp("stop", json!({})).unwrap();
    assert_eq!(machine.pair()["blockers"], json!([]));
    let file = machine.folder.path().join("stream");
    migrate(&mut machine, &file);
    machine.event("UNPLUG_PRIMARY");
    machine.until("wait-unplug", &["setup"]);
    machine.qmp("cont", json!({})).unwrap();
    machine.command(EJECT);
    machine.until("completed", &["wait-unplug", "active", "device"]);
}

#[test]
fn a_guest_that_reboots_while_it_is_waited_for_is_migrated_and_that_is_told() {
    let machine = &mut started(json!({}));
    machine.until("wait-unplug", &["setup"]);
    machine.qmp("system_reset", json!({})).unwrap();
    machine.until("completed", &["wait-unplug", "active", "device"]);
    assert_eq!(info(machine)["failover-reason"], "guest-rebooted");
}
