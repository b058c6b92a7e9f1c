//! The whole machine in this process, driven by the model guest: boot, pair, migration, cancel, misbehaviour.
//!
//! `GUEST_MODEL_RUNS=100` plays the random scenario a hundred times; `GUEST_MODEL_SEED=…` replays one, or with
//! `GUEST_MODEL_RUNS` is the first of so many.

#![allow(clippy::unwrap_used)]

mod stage;

use anyhow::{Result, ensure};
use guest_model::*;
use hypervisor::Bus as _;
use machine::MachineEvent;
use stage::*;
use std::time::Duration;

/// Plays with ACPI's hotplug and with the native one.
fn each_hotplug(play: impl Fn(Journey, bool) -> Result<()>) {
    for native in [false, true] {
        journey(native, 0, |journey| play(journey, native))
            .unwrap_or_else(|error| panic!("native hotplug {native}: {error:?}"));
    }
}

fn journey(native: bool, seed: u64, play: impl FnOnce(Journey) -> Result<()>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let setup = Setup {
        native,
        ..Setup::default()
    };
    play(Journey::start(folder.path(), seed, &setup)?)
}

#[test]
fn a_pair_migrates_with_frames_on_the_way_and_comes_back_to_its_primary() {
    each_hotplug(|mut journey, native| {
        let stage = &mut journey.stage;
        stage.reachable()?;
        journey.relay.hold(Section::Ram);
        journey.migrate()?;
        let stage = &mut journey.stage;
        // Up to the guest's eject, which takes its time with native hotplug; then memory stands still on the wire.
        stage.until_with_frames("pre-copy", |stage| Ok(stage.host(SOURCE)?.was("active")))?;
        ensure!(!stage.has_primary() && stage.host(SOURCE)?.was("wait-unplug"));
        if native {
            ensure!(stage.now >= Duration::from_secs(5), "{:?}", stage.now);
        }
        stage.reachable()?;
        journey.relay.release();
        stage.wait_with_frames("the end", |stage| Ok(stage.host(SOURCE)?.was("completed")))?;
        ensure!(stage.running()? == Some(TARGET));
        let (at, reason) = journey.arrives()?;
        ensure!(at == TARGET && reason.is_empty(), "{reason:?}");
        Ok(())
    });
}

#[test]
fn a_cancel_in_each_state_leaves_the_guest_with_its_primary() {
    for halt in [Halt::Setup, Halt::WaitUnplug, Halt::Active, Halt::Device] {
        each_hotplug(|mut journey, _| {
            journey.to(halt)?;
            journey.source()?.cancel()?;
            journey.go_on()?;
            let stage = &mut journey.stage;
            stage.wait("the cancel", |s| Ok(s.host(SOURCE)?.was("cancelled")))?;
            let (at, reason) = journey.arrives()?;
            ensure!(at == SOURCE && reason.is_empty(), "{halt:?}: {reason:?}");
            Ok(())
        });
    }
}

/// With native hotplug a guest that has begun to let go may do so after a cancel: from the moment its driver is out it
/// is reached over its standby, and not only once the slot is off, a second later.
#[test]
fn a_driver_that_leaves_after_a_cancel_moves_the_path_at_once() {
    journey(true, 0, |mut journey| {
        // At five seconds it is past calling off; the driver takes three more to leave.
        let (begins, leaves) = (Duration::from_secs(5), Duration::from_secs(8));
        let slow = Act::Slow(leaves - begins);
        journey.stage.guest.misbehave(Moment::DriverOut, slow, 1);
        journey.to(Halt::WaitUnplug)?;
        let stage = &mut journey.stage;
        stage.still = false;
        stage.until("the guest to begin", |stage| Ok(stage.now >= begins))?;
        stage.host(SOURCE)?.cancel()?;
        stage.wait("the cancel", |s| Ok(s.host(SOURCE)?.was("cancelled")))?;
        ensure!(stage.has_primary());
        stage.until("the standby", |s| Ok(s.host(SOURCE)?.path(0) == 0))?;
        ensure!(stage.now == leaves, "{:?}", stage.now);
        let (at, reason) = journey.arrives()?;
        ensure!(at == SOURCE && reason.is_empty(), "{reason:?}");
        Ok(())
    })
    .unwrap();
}

/// The request is repeated in the moment in which the guest lets go, of which the control thread has not heard yet.
#[test]
fn a_request_that_is_repeated_too_late_harms_nothing() {
    journey(false, 0, |mut journey| {
        journey.to(Halt::WaitUnplug)?;
        let (go, held) = std::sync::mpsc::channel::<()>();
        let source = journey.stage.host(SOURCE)?;
        source
            .machine
            .control
            .post(move |_| held.recv().unwrap_or_default());
        let stage = &mut journey.stage;
        stage.guest.step(&mut stage.bus, stage.now)?;
        ensure!(!stage.has_primary());
        // Due when the control thread is free again, before it learns of the eject.
        stage.host(SOURCE)?.jump(Duration::from_secs(6));
        go.send(())?;
        journey.go_on()?;
        let stage = &mut journey.stage;
        stage.wait("the end", |s| Ok(s.host(SOURCE)?.ended()))?;
        let (at, reason) = journey.arrives()?;
        ensure!(at == TARGET && reason.is_empty(), "{at}: {reason:?}");
        Ok(())
    })
    .unwrap();
}

/// A guest that reboots in the midst of a migration: wherever in its boot it is when the machine stops, it boots on
/// from there where it goes on.
#[test]
fn a_reboot_while_memory_is_sent_goes_on_wherever_the_guest_is() {
    each_hotplug(|mut journey, _| {
        journey.to(Halt::Active)?;
        // The migration goes on in its own threads, while the guest boots here: somewhere in that it is stopped.
        journey.relay.release();
        let stage = &mut journey.stage;
        stage.guest.reboot(&mut stage.bus, stage.now)?;
        stage.wait("the end", |stage| Ok(stage.host(SOURCE)?.ended()))?;
        ensure!(stage.host(SOURCE)?.was("completed"));
        let (at, reason) = journey.arrives()?;
        ensure!(at == TARGET && reason.is_empty(), "{reason:?}");
        Ok(())
    });
}

/// The guest writes the reset register as it is stopped: the reset happens where it runs next.
#[test]
fn a_reset_asked_for_as_the_machine_stops_happens_where_the_guest_goes_on() {
    for cancel in [false, true] {
        each_hotplug(|mut journey, _| {
            journey.to(Halt::PreSwitchover)?;
            let source = journey.source()?;
            ensure!(!source.runs());
            // As the exit of a processor that was under way when it was stopped.
            source.machine.client.port_write(0xcf9, &[6]);
            if cancel {
                source.cancel()?;
            }
            journey.go_on()?;
            let stage = &mut journey.stage;
            // The guest is in the midst of its boot then, wherever that is.
            stage.still = true;
            stage.wait("the end", |s| Ok(s.host(SOURCE)?.ended()))?;
            let at = if cancel { SOURCE } else { TARGET };
            let reset = MachineEvent::Reset(true);
            stage.wait("the reset", |s| Ok(s.host(at)?.events().contains(&reset)))?;
            ensure!(stage.running()? == Some(at));
            Ok(())
        });
    }
}

/// One guest that does one thing wrong during a migration; afterwards it must be reachable where it runs.
fn misbehaving(seed: u64) {
    let mut random = Seed::new(seed);
    let native = random.below(2) == 1;
    let moment = random.pick(&Moment::ALL[1..]);
    let slow = Duration::from_millis(1 + random.below(2000));
    let act = random.pick(&Act::all(slow));
    let hotplug = if native { "native" } else { "ACPI" };
    println!("{SEED_VARIABLE}={seed}: {act:?} at {moment:?}, {hotplug}");
    journey(native, seed, |mut journey| {
        journey.stage.guest.misbehave(moment, act, 1);
        journey.migrate()?;
        let stage = &mut journey.stage;
        stage.until("the migration's end", |s| Ok(s.host(SOURCE)?.ended()))?;
        let states = stage.host(SOURCE)?.states();
        let (at, reason) = journey.arrives()?;
        println!("    on host {at}, {reason:?}, {states:?}");
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{SEED_VARIABLE}={seed}: {error:?}"));
}

#[test]
fn a_misbehaving_guest_stays_reachable() {
    let runs = std::env::var("GUEST_MODEL_RUNS").ok();
    let replays = std::env::var_os(SEED_VARIABLE).is_some();
    let runs: u64 = runs
        .and_then(|text| text.parse().ok())
        .unwrap_or(if replays { 1 } else { 5 });
    let first = Seed::for_this_run();
    (first..first + runs).for_each(misbehaving);
}

#[test]
fn a_guest_that_reboots_gets_its_primary_back() {
    for native in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let setup = Setup {
            native,
            ..Setup::default()
        };
        let mut stage = Stage::start(folder.path(), &setup, 0).unwrap();
        for _ in 0..3 {
            stage.guest.reboot(&mut stage.bus, stage.now).unwrap();
            let back = |stage: &Stage| Ok(stage.has_primary());
            stage.until("the primary", back).unwrap();
            stage.reachable().unwrap();
        }
        stage.check_frames().unwrap();
        stage.end().unwrap();
    }
}
