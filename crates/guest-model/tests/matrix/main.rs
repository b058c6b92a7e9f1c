//! The fault matrix: each moment of a migration × each fault, played in this process.
//!
//! ```text
//!   moments.rs (where) ─┐
//!                       ├─▶ cell.rs: play, then hold what was promised ─▶ table.rs ◀─▶ docs/fault-matrix.md
//!   faults.rs (what) ───┘
//! ```
//! After every cell exactly one side runs the guest; frames pass both ways within a bound of the guest's clock; the
//! primary is back, or the host says why not; and no thread, process, descriptor or file is left. Each cell says what the page
//! in `docs` says of it.
//!
//! A test plays the cells of one kind of hotplug and one group of faults; together they play all, at the same time, for
//! what belongs to a cell is told apart from what belongs to another ([`leftovers`], [`stage::Crew`]).
//!
//! `cargo xtask matrix` prints the table. `FAULT_MATRIX=active` (or `cancel`, or `active/cancel`) plays a part of it.

#![allow(clippy::unwrap_used)]

mod cell;
mod faults;
mod leftovers;
mod moments;
mod small_disk;
#[path = "../stage/mod.rs"]
mod stage;
mod table;

use cell::Cell;
use faults::{Fault, Group};
use guest_model::{SEED_VARIABLE, Seed};
use moments::Moment;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use table::Table;

/// As many cells as have to be played for real.
const LEAST_CELLS: usize = 590;

/// What the tests of this process have played, and how many of them.
static PLAYED: Mutex<(Table, usize)> = Mutex::new((Table::new(), 0));
const TESTS: usize = 2 * Group::ALL.len();

/// The part of the matrix that was asked for; all of it if none was.
fn chosen() -> impl Fn(Moment, Fault) -> bool {
    let wanted = std::env::var("FAULT_MATRIX").ok();
    move |moment, fault| {
        let (m, f) = (moment.name(), fault.name());
        let asked = wanted.as_deref();
        asked.is_none_or(|asked| asked == m || asked == f || asked == format!("{m}/{f}"))
    }
}

/// Plays the cells of these faults.
fn play(native: bool, group: Group) {
    let seed = Seed::for_this_run();
    println!("{SEED_VARIABLE}={seed}");
    leftovers::apart().unwrap();
    let small_disks = small_disk::possible();
    let (chosen, writes) = (chosen(), table::is_written());
    let page = Table::of_page();
    let mut table = Table::new();
    let mut failures = Vec::new();
    for moment in Moment::all() {
        let faults = Fault::ALL.into_iter().filter(|f| f.group() == group);
        for fault in faults.filter(|fault| chosen(moment, *fault)) {
            let cell = match fault.impossible_at(moment) {
                Some(why) => Cell::Impossible(why),
                None if fault.needs_small_disk() && !small_disks => Cell::Skipped,
                None => cell::play(moment, fault, native, seed).unwrap_or_else(|error| {
                    failures.push(format!("{}: {error:?}", name(native, moment, fault)));
                    Cell::Failed
                }),
            };
            let says = page.get(native, moment, fault);
            if !writes && cell.is_played() && says != Some(&cell.entry()) {
                failures.push(format!(
                    "{}: {:?}, and {} says {says:?}; {} writes it anew",
                    name(native, moment, fault),
                    cell.entry(),
                    table::PAGE,
                    table::ANEW
                ));
            }
            table.add(native, moment, fault, cell.entry());
        }
    }
    assert!(
        failures.is_empty(),
        "{} cells failed; {SEED_VARIABLE}={seed} plays them again\n{}",
        failures.len(),
        failures.join("\n\n")
    );
    if !small_disks && group == Group::Host {
        // Past the test harness, which hides what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: cells of the fault matrix with a full disk or memory: only root can mount a small one"
        );
    }
    gather(table);
}

fn name(native: bool, moment: Moment, fault: Fault) -> String {
    let hotplug = if native { "native" } else { "ACPI" };
    format!("{}/{}, {hotplug}", moment.name(), fault.name())
}

/// Once all tests have played theirs, the table is whole.
fn gather(part: Table) {
    let mut played = PLAYED.lock().unwrap_or_else(PoisonError::into_inner);
    let (table, tests) = &mut *played;
    table.merge(part);
    *tests += 1;
    if *tests == TESTS {
        println!("{table}");
        if table::is_written() {
            table.write();
        }
    }
}

/// What it says of cells that are played, their tests compare.
#[test]
fn the_page_has_every_cell_and_says_what_they_are() {
    if table::is_written() {
        return;
    }
    let page = Table::of_page();
    let mut table = Table::new();
    for native in [false, true] {
        for moment in Moment::all() {
            for fault in Fault::ALL {
                let entry = match fault.impossible_at(moment) {
                    Some(why) => Some(Cell::Impossible(why).entry()),
                    None => page.get(native, moment, fault).cloned(),
                };
                let entry = entry.filter(|e| e.is_played() || e.is_impossible());
                let entry = entry.unwrap_or_else(|| panic!("{}", name(native, moment, fault)));
                table.add(native, moment, fault, entry);
            }
        }
    }
    assert!(table.played() >= LEAST_CELLS, "{} cells", table.played());
    table.compare_with_page();
}

#[test]
#[ignore = "until a hundred runs of it in a row are seen; cargo xtask matrix plays it"]
fn channel_faults_with_acpi_hotplug() {
    play(false, Group::Channel);
}

#[test]
#[ignore = "until a hundred runs of it in a row are seen; cargo xtask matrix plays it"]
fn channel_faults_with_native_hotplug() {
    play(true, Group::Channel);
}

#[test]
#[ignore = "until a hundred runs of it in a row are seen; cargo xtask matrix plays it"]
fn host_faults_with_acpi_hotplug() {
    play(false, Group::Host);
}

#[test]
#[ignore = "until a hundred runs of it in a row are seen; cargo xtask matrix plays it"]
fn host_faults_with_native_hotplug() {
    play(true, Group::Host);
}

#[test]
#[ignore = "until a hundred runs of it in a row are seen; cargo xtask matrix plays it"]
fn guest_faults_with_acpi_hotplug() {
    play(false, Group::Guest);
}

#[test]
#[ignore = "until a hundred runs of it in a row are seen; cargo xtask matrix plays it"]
fn guest_faults_with_native_hotplug() {
    play(true, Group::Guest);
}
