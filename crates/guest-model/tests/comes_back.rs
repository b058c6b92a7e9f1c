//! The primary comes back, and why it is away is told: the machine in this process, with the model guest in it.

#![allow(clippy::unwrap_used)]

mod pair;

use guest_model::{Act, Moment};
use machine::MachineEvent;
use machine::inspect::{Inspect, NoteView, PairView, Path as Way, Phase};
use migration::{Capability, Info, ParametersUpdate, State, UnplugPolicy};
use pair::{Host, Wanted, netns};
use std::path::Path;
use std::time::Duration;

/// The link's limit, and what lets it pass.
const LINK_TIMEOUT: Duration = Duration::from_millis(3_000);

fn view(host: &Host) -> PairView {
    let mut pairs = host.control.ask(|board| Inspect::pairs(board)).unwrap();
    pairs.remove(0)
}

fn reason(host: &Host) -> &'static str {
    view(host).reason.map_or("", |note| note.name)
}

fn names(notes: &[NoteView]) -> Vec<&'static str> {
    notes.iter().map(|note| note.name).collect()
}

fn set_link(host: &Host, name: &'static str, up: bool) {
    let done = host
        .control
        .ask(move |board| board.set_link(name, up).is_ok());
    assert!(done.unwrap());
}

fn migrate(host: &Host) {
    let begun = host.control.ask(|board| {
        board
            .migrate_set_capabilities(&[(Capability::Events, true)])
            .unwrap();
        board.migrate("exec:cat > /dev/null", &mut |_| None, Box::new(|_| {}));
    });
    begun.unwrap();
}

fn info(host: &Host) -> Info {
    let info = host.control.ask(|board| board.migrate_info()).unwrap();
    info.unwrap_or_default()
}

/// What the machine has told since it was last asked.
fn told(host: &Host) -> Vec<MachineEvent> {
    host.events.try_iter().collect()
}

/// Reasons of the changes of the path, and of the absences, in their order.
fn reasons(events: &[MachineEvent]) -> Vec<&'static str> {
    let reason = |event: &MachineEvent| match event {
        MachineEvent::FailoverPathChanged { reason, .. }
        | MachineEvent::FailoverPrimaryMissing { reason, .. }
        | MachineEvent::FailoverUnplugFailed { reason, .. } => Some(*reason),
        _ => None,
    };
    events.iter().filter_map(reason).collect()
}

fn host(folder: &Path) -> Host {
    let host = Host::on_primary(folder, &Wanted::default());
    assert_eq!(reasons(&told(&host)), ["driver-ready"]);
    host
}

#[test]
fn with_its_link() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path());
    set_link(&host, "primary0", false);
    host.step();
    assert_eq!(host.way(), Way::Primary, "not at once");
    host.clock.advance(LINK_TIMEOUT);
    host.now += LINK_TIMEOUT;
    host.step_until("the standby", |host| {
        view(host).phase == Some(Phase::Parked)
    });
    assert_eq!((host.way(), reason(&host)), (Way::Standby, "link-down"));
    assert_eq!(view(&host).counters.link_failures, 1);
    assert_eq!(reasons(&told(&host)), ["link-down", "link-down"]);

    set_link(&host, "primary0", true);
    host.step_until("the primary", |host| host.way() == Way::Primary);
    assert_eq!(reason(&host), "");
    assert_eq!(reasons(&told(&host)), ["driver-ready"]);
}

#[test]
fn with_the_carrier_of_its_pf() {
    netns::in_namespace(|| {
        // The PF, and the bridge's port of the standby.
        for (one, other) in [("pf0", "wire0"), ("port0", "wire1")] {
            netns::sh(&format!("ip link add {one} type veth peer name {other}"));
            netns::sh(&format!("ip link set {one} up"));
            netns::sh(&format!("ip link set {other} up"));
        }
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            standby: ",failover-pf=pf0,failover-vf=0,failover-standby-port=port0",
            ..Wanted::default()
        };
        let mut host = Host::on_primary(folder.path(), &wanted);
        netns::sh("ip link set wire0 down");
        // The host's news come when they come: time passes here once they have.
        host.step_until("the standby", |host| {
            view(host).phase == Some(Phase::Parked)
        });
        assert_eq!(reason(&host), "link-down");
        netns::sh("ip link set wire0 up");
        host.step_until("the primary", |host| host.way() == Way::Primary);
        // The PF's driver is loaded anew: nothing is known of what is gone.
        netns::sh("ip link set wire0 down");
        host.step_until("the standby", |host| {
            view(host).phase == Some(Phase::Parked)
        });
        netns::sh("ip link del pf0");
        host.step_until("the primary", |host| host.way() == Way::Primary);
        // There again, it is found by the next plug.
        assert!(host.order(Way::Standby));
        host.step_until("the order", |host| {
            reason(host) == "operator" && view(host).phase == Some(Phase::Parked)
        });
        netns::sh("ip link add pf0 type veth peer name wire0");
        netns::sh("ip link set pf0 up");
        netns::sh("ip link set wire0 up");
        assert!(host.order(Way::Primary));
        host.step_until("the primary", |host| host.way() == Way::Primary);
        netns::sh("ip link set wire0 down");
        host.step_until("the loss of the new link", |host| {
            reason(host) == "link-down"
        });
    });
}

#[test]
fn after_a_cancel_that_the_guest_follows_too_late() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path());
    let slow = Act::Slow(Duration::from_millis(500));
    let guest = host.guest.as_mut().unwrap();
    guest.misbehave(Moment::DriverOut, slow, 1);
    guest.misbehave(Moment::Eject, slow, 1);
    guest.take_news();
    migrate(&host);
    host.step_until("the wait", |host| {
        info(host).status == Some(State::WaitUnplug)
    });
    host.step_until("the guest's notice", |host| {
        let guest = host.guest.as_mut().unwrap();
        !guest.take_news().is_empty()
    });
    host.control.ask(|board| board.migrate_cancel()).unwrap();
    // No time passes for it: the guest has no part in the cancel.
    host.until_now("the cancel", |host| {
        info(host).status == Some(State::Cancelled)
    });
    assert_eq!(view(&host).phase, Some(Phase::Active));
    // It goes on with what it was asked: the traffic flips when the driver leaves, not when the slot is ejected.
    host.step_until("the standby", |host| host.way() == Way::Standby);
    assert_eq!(view(&host).counters.plugs, 1);
    host.step_until("the primary", |host| host.way() == Way::Primary);
    assert_eq!(view(&host).counters.plugs, 2);
    let told = told(&host);
    assert_eq!(reasons(&told), ["migration", "driver-ready"]);
    let deleted = |event: &MachineEvent| matches!(event, MachineEvent::DeviceDeleted { .. });
    assert!(!told.iter().any(deleted), "{told:?}");
}

#[test]
fn a_slot_whose_driver_calls_the_removal_off_is_a_refusal_at_once() {
    for policy in [UnplugPolicy::Abort, UnplugPolicy::Cancel] {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            native: true,
            unstopped: true,
            ..Wanted::default()
        };
        let mut host = Host::on_primary(folder.path(), &wanted);
        let update = ParametersUpdate {
            failover_unplug_policy: Some(policy),
            ..ParametersUpdate::default()
        };
        let set = move |board: &mut machine::Board| board.migrate_set_parameters(&update).is_ok();
        assert_eq!(host.control.ask(set), Ok(true));
        let guest = host.guest.as_mut().unwrap();
        guest.misbehave(Moment::DriverOut, Act::Refuse, 1);
        migrate(&host);
        let end = match policy {
            UnplugPolicy::Abort => State::Failed,
            UnplugPolicy::Cancel => State::Cancelled,
        };
        host.step_until("the end", |host| info(host).status == Some(end));
        assert_eq!(info(&host).failover_reason, Some("guest-refused"));
        assert!(host.now < Duration::from_secs(20), "before the deadline");
        assert_eq!(view(&host).phase, Some(Phase::Active));
        assert!(reasons(&told(&host)).contains(&"guest-refused"));
        // The next one goes through.
        migrate(&host);
        host.step_until("the end", |host| {
            // The guest is stopped when its memory is sent.
            info(host)
                .status
                .is_some_and(|state| state != State::WaitUnplug && state != State::Setup)
        });
    }
}

#[test]
fn after_a_reboot_of_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path());
    let reset = host.control.ask(|board| board.reset(false).is_ok());
    assert_eq!(reset, Ok(true));
    assert_eq!(
        (host.way(), reason(&host)),
        (Way::Standby, "guest-rebooted")
    );
    assert_eq!(names(&view(&host).warnings), ["not-accepted"]);
    let now = host.now;
    let mut guest = host.guest.take().unwrap();
    guest.reboot(&mut host.bus, now).unwrap();
    host.guest = Some(guest);
    host.step_until("the primary", |host| host.way() == Way::Primary);
    assert_eq!(names(&view(&host).warnings), [""; 0]);
    assert_eq!(reasons(&told(&host)), ["guest-rebooted", "driver-ready"]);
}
