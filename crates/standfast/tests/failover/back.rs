//! The primary comes back, or a client is told why not; and what it is told before.

use crate::client::{Machine, PATIENCE};
use crate::migrate::{EJECT, incoming, migrate, plugged};
use crate::pair::{PORTS, expect, standby};
use crate::pci::Pci;
use serde_json::{Value, json};
use std::time::Instant;

fn words(notes: &Value) -> Vec<&str> {
    let notes = notes.as_array().map(Vec::as_slice).unwrap_or_default();
    notes.iter().filter_map(|n| n["reason"].as_str()).collect()
}

fn switch(machine: &mut Machine, path: &str) {
    let order = json!({"id": "standby0", "path": path});
    machine.qmp("failover-switch", order).unwrap();
}

#[test]
fn after_cont_on_the_source_of_a_migration_that_completed() {
    let mut machine = plugged();
    let file = machine.folder.path().join("stream");
    migrate(&mut machine, &file);
    machine.event("UNPLUG_PRIMARY");
    machine.command(EJECT);
    machine.until("completed", &["setup", "wait-unplug", "active", "device"]);
    let pair = machine.pair();
    assert_eq!(
        (&pair["state"], &pair["reason"]),
        (&json!("released"), &json!("migration"))
    );
    machine.qmp("cont", json!({})).unwrap();
    expect(&mut machine, &["standby0", "primary0"], &[]);
    assert_eq!(Pci::read(&mut machine, 2 << 8, 0, 'l'), 0x1041_1af4);
}

#[test]
fn on_a_target_whose_vf_does_not_exist() {
    let mut source = plugged();
    let file = source.folder.path().join("stream");
    migrate(&mut source, &file);
    source.event("UNPLUG_PRIMARY");
    source.command(EJECT);
    source.until("completed", &["setup", "wait-unplug", "active", "device"]);

    let vf = "-device vfio-pci,host=0000:ff:1f.7,id=primary0,bus=root1,failover_pair_id=standby0 ";
    let target = &mut Machine::start(&(PORTS.to_owned() + &standby("on") + vf + "-incoming defer"));
    let before = target.pair();
    assert_eq!(words(&before["warnings"]), ["host-device-missing"]);
    assert_eq!(words(&before["blockers"]), [""; 0]);
    incoming(target, &file);
    target.event("RESUME");
    let told = target.event("FAILOVER_PRIMARY_MISSING");
    assert_eq!(told["device-id"], "standby0");
    assert_eq!(told["primary-id"], "primary0");
    assert_eq!(told["reason"], "host-device-missing");
    assert_eq!(told["retry-ms"], 500);
    assert!(told["message"].as_str().unwrap().contains("0000:ff:1f.7"));
    // Tried again by itself, twice as late.
    let again = target.event("FAILOVER_PRIMARY_MISSING");
    assert_eq!(again["retry-ms"], 1000);
    // It may be at the next one already: then it waits again soon.
    let end = Instant::now() + PATIENCE;
    let pair = loop {
        let pair = target.pair();
        if pair.get("attempts").is_some() {
            break pair;
        }
        assert!(Instant::now() < end, "{pair}");
    };
    assert_eq!(pair["state"], "plugging");
    assert_eq!(pair["reason"], "host-device-missing");
    // The two, and those that came since, each of them told before the answer.
    let attempts = 2 + target.told("FAILOVER_PRIMARY_MISSING");
    assert_eq!(pair["attempts"], attempts);
    assert_eq!(pair["counters"]["plug-failures"], attempts);
    // Until an operator says stop.
    switch(target, "standby");
    let pair = target.pair();
    assert_eq!(
        (&pair["state"], &pair["reason"]),
        (&json!("parked"), &json!("operator"))
    );
    assert_eq!(pair.get("retry-ms"), None);
}

#[test]
fn what_a_migration_would_meet_is_told_before() {
    let mut machine = plugged();
    let pair = machine.pair();
    assert_eq!(words(&pair["blockers"]), [""; 0]);
    // Linux would not pair these two.
    assert_eq!(words(&pair["warnings"]), ["mac-mismatch"]);
    let text = machine.qmp(
        "human-monitor-command",
        json!({"command-line": "info failover"}),
    );
    let text = text.unwrap();
    let text = text.as_str().unwrap();
    assert!(
        text.contains("warning: primary 'primary0' has MAC"),
        "{text}"
    );

    // A primary whose standby does not exist, and that migrates like any device.
    let alone = "-device virtio-net,bus=root1,id=primary0,failover_pair_id=standby1,netdev=hs1 ";
    let machine = &mut Machine::start(&(PORTS.to_owned() + &standby("on") + alone));
    let pairs = machine.qmp("query-failover", json!({})).unwrap();
    assert_eq!(pairs[0]["device-id"], "standby0");
    assert_eq!(words(&pairs[0]["warnings"]), ["no-primary"]);
    let dangling = &pairs[1];
    assert_eq!(
        (&dangling["device-id"], &dangling["primary-id"]),
        (&json!("standby1"), &json!("primary0"))
    );
    assert_eq!(
        (&dangling["state"], &dangling["reason"], &dangling["path"]),
        (&json!("unpaired"), &json!("no-standby"), &json!("primary"))
    );
    assert_eq!(words(&dangling["blockers"]), [""; 0]);
}
