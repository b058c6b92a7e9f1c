//! The scenarios of crate `differential`, played to this program and to QEMU.
//!
//! Needs a QEMU 10.0 on the PATH (or in `STANDFAST_QEMU`); without one the tests are SKIPPED, loudly, and with
//! `STANDFAST_NO_SKIP=1` they fail. `cargo xtask differential` prints the whole table.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;

use differential::scenarios::GROUPS;
use differential::{Programs, scenario, table};

/// Scenarios of a group that are played at a time: they wait more than they work.
const AT_ONCE: usize = 4;

fn programs() -> Option<Programs> {
    match Programs::find(Path::new(env!("CARGO_BIN_EXE_standfast"))) {
        Ok(programs) => Some(programs),
        Err(why) => {
            // Past the test harness, which hides what a passing test prints.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: no scenario was compared with QEMU: {why:#}"
            );
            assert!(
                std::env::var_os("STANDFAST_NO_SKIP").is_none(),
                "STANDFAST_NO_SKIP is set"
            );
            None
        }
    }
}

fn group(name: &str) {
    let Some(programs) = programs() else { return };
    let group = GROUPS.iter().find(|group| group.name == name).unwrap();
    let outcomes = scenario::play_all(group.scenarios, &programs, AT_ONCE);
    let table = table::table(&outcomes);
    println!("{table}");
    assert!(outcomes.iter().all(|outcome| outcome.passed()), "\n{table}");
}

#[test]
fn command_lines() {
    group("boot");
}

#[test]
fn monitor() {
    group("monitor");
}

#[test]
fn devices() {
    group("device");
}

#[test]
fn native_hotplug() {
    group("native");
}

#[test]
fn registers() {
    group("registers");
}

#[test]
fn pairs() {
    group("pair");
}

#[test]
fn migration_out() {
    group("migrate");
}

#[test]
fn migration_in() {
    group("target");
}

#[test]
fn cancel() {
    group("cancel");
}

/// QEMU gives a guest half a minute: the one test that lasts that long.
#[test]
fn cancel_while_the_guest_ignores_the_request() {
    group("slow");
}

#[test]
fn every_group_is_played() {
    let played = [
        "boot",
        "monitor",
        "device",
        "pair",
        "migrate",
        "cancel",
        "target",
        "native",
        "registers",
        "slow",
    ];
    assert!(GROUPS.iter().map(|group| group.name).eq(played));
    let scenarios: usize = GROUPS.iter().map(|group| group.scenarios.len()).sum();
    assert!(scenarios >= 60, "{scenarios}");
}

#[test]
fn the_page_is_fresh() {
    let Some(programs) = programs() else { return };
    let made = differential::compatibility::page(&programs).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    if std::env::var_os("STANDFAST_WRITE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = committed.lines().zip(made.lines()).find(|(a, b)| a != b);
    assert!(
        committed == made,
        "docs/compatibility.md is stale ({differs:?}); STANDFAST_WRITE_DOCS=1 cargo test -p standfast --test differential writes it anew"
    );
}
