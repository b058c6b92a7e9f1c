//! The host's network follows the guest's driver: the traffic flips when it lets go, by whichever sign, and not later; and
//! what a hook is told of it.

#![allow(clippy::unwrap_used)]

mod pair;

use guest_model::hotplug::AcpiHotplug;
use guest_model::pci::regs;
use machine::MachineEvent;
use machine::inspect::{Inspect, Path as Way};
use pair::{Host, Wanted};
use std::fs;
use std::path::Path;

/// Orders the guest onto its standby; it does nothing about it by itself from here on.
fn ask_to_let_go(host: &Host) {
    assert!(host.order(Way::Standby));
    assert_eq!(host.way(), Way::Primary);
}

/// Ends the machine; what the hook was told.
fn end(host: &mut Host, folder: &Path) -> Vec<serde_json::Value> {
    host.quit();
    let told = fs::read_to_string(folder.join("told")).unwrap();
    told.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The guest lets go by this sign alone: the traffic is on the standby, and the hook told, when the access returns.
fn flips_at(native: bool, reason: &str, sign: impl FnOnce(&mut Host)) {
    let folder = tempfile::tempdir().unwrap();
    let wanted = Wanted {
        native,
        hook: Some("cat >> $here/told"),
        ..Wanted::default()
    };
    let mut host = Host::on_primary(folder.path(), &wanted);
    ask_to_let_go(&host);
    sign(&mut host);
    assert_eq!(host.way(), Way::Standby);
    let flips: Vec<_> = host
        .events
        .try_iter()
        .filter_map(|event| match event {
            MachineEvent::FailoverPathChanged { path, .. } => Some(path),
            _ => None,
        })
        .collect();
    assert_eq!(flips, ["primary", "standby"]);
    let told = end(&mut host, folder.path());
    let moments: Vec<_> = told
        .iter()
        .map(|record| record["moment"].as_str().unwrap())
        .collect();
    let expected = ["arm-primary", "to-primary", "to-both", "to-standby", "end"];
    assert_eq!(moments, expected);
    assert_eq!(told[3]["reason"], reason);
    assert_eq!(told[3]["standby"], "standby0");
    assert_eq!(told[3]["primary"], "primary0");
    assert_eq!(told[3]["mac"], "52:54:00:11:11:11");
}

const CLOSED: &str = "the guest's driver has closed the primary";
const GONE: &str = "the guest has let go of the primary";

#[test]
fn bus_mastering_off() {
    flips_at(false, CLOSED, |host| {
        let (access, primary) = (host.guest.as_ref().unwrap().access(), host.primary());
        access
            .command(&mut host.bus, primary, 0, regs::COMMAND_MASTER)
            .unwrap();
    });
}

#[test]
fn msi_x_off() {
    flips_at(false, CLOSED, |host| {
        let guest = host.guest.as_ref().unwrap();
        let (access, primary) = (guest.access(), host.primary());
        let function = guest.tree().function(primary).unwrap();
        let control = function.capability(regs::CAP_MSIX).unwrap().offset + 2;
        access.write16(&mut host.bus, primary, control, 0).unwrap();
    });
}

#[test]
fn slot_power_off() {
    const POWER_OFF: u16 = 1 << 10;
    flips_at(true, GONE, |host| {
        let guest = host.guest.as_ref().unwrap();
        let (access, primary) = (guest.access(), host.primary());
        let port = guest.tree().functions().iter().find(|function| {
            let bridge = function.bridge.as_ref();
            bridge.is_some_and(|bridge| bridge.secondary == primary.bus())
        });
        let port = port.unwrap();
        let control = port.capability(regs::CAP_EXPRESS).unwrap().offset + regs::SLOT_CONTROL;
        let word = access.read16(&mut host.bus, port.bdf, control).unwrap();
        access
            .write16(&mut host.bus, port.bdf, control, word | POWER_OFF)
            .unwrap();
    });
}

#[test]
fn ej0() {
    flips_at(false, GONE, |host| {
        let guest = host.guest.as_ref().unwrap();
        let acpi = AcpiHotplug::find(&mut host.bus, guest.tree())
            .unwrap()
            .unwrap();
        // The second port was declared last: its number is 0.
        acpi.eject(&mut host.bus, acpi.ports()[0]).unwrap();
    });
}

/// Nobody asked: the primary stays the guest's path, but its frames go both ways until it is open again.
#[test]
fn a_primary_that_is_closed_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::on_primary(
        folder.path(),
        &Wanted {
            hook: Some("cat >> $here/told"),
            ..Wanted::default()
        },
    );
    let guest = host.guest.as_ref().unwrap();
    let (access, primary) = (guest.access(), host.primary());
    let function = guest.tree().function(primary).unwrap();
    let control = function.capability(regs::CAP_MSIX).unwrap().offset + 2;
    let enabled = access.read16(&mut host.bus, primary, control).unwrap();
    for word in [0, enabled] {
        access
            .write16(&mut host.bus, primary, control, word)
            .unwrap();
        assert_eq!(host.way(), Way::Primary);
    }
    let flips = host
        .events
        .try_iter()
        .filter(|event| matches!(event, MachineEvent::FailoverPathChanged { .. }))
        .count();
    assert_eq!(flips, 1);
    let told = end(&mut host, folder.path());
    let moments: Vec<_> = told
        .iter()
        .map(|record| record["moment"].as_str().unwrap())
        .collect();
    let expected = ["arm-primary", "to-primary", "to-both", "to-primary", "end"];
    assert_eq!(moments, expected);
    assert_eq!(told[2]["reason"], CLOSED);
}

/// A driver that lets go in the usual order: the first sign flips, the ones after it change nothing.
#[test]
fn a_guest_that_goes_by_the_book_flips_once_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::on_primary(
        folder.path(),
        &Wanted {
            hook: Some("cat >> $here/told"),
            ..Wanted::default()
        },
    );
    ask_to_let_go(&host);
    host.step_until("the standby", |host| host.way() == Way::Standby);
    host.step_until("the order to be taken", |host| host.order(Way::Primary));
    host.step_until("the primary", |host| host.way() == Way::Primary);
    let flips = host
        .events
        .try_iter()
        .filter(|event| matches!(event, MachineEvent::FailoverPathChanged { .. }))
        .count();
    assert_eq!(flips, 3);
    let told = end(&mut host, folder.path());
    let paths: Vec<_> = told
        .iter()
        .map(|record| record["path"].as_str().unwrap())
        .collect();
    // What is done when it closes is not done again when it ejects.
    let expected = [
        "both", "primary", "both", "standby", "both", "primary", "none",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn a_hook_that_fails_is_told_by_an_event_and_the_guest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::on_primary(
        folder.path(),
        &Wanted {
            hook: Some("echo no switch here; exit 4"),
            ..Wanted::default()
        },
    );
    let event = host
        .events
        .iter()
        .find(|event| matches!(event, MachineEvent::FailoverSteeringFailed { .. }));
    let program = folder.path().join("hook").display().to_string();
    assert_eq!(
        event,
        Some(MachineEvent::FailoverSteeringFailed {
            id: "standby0".into(),
            moment: "arm-primary",
            step: program.clone(),
            reason: "exit status: 4: no switch here".into(),
        })
    );
    let nics = host.control.ask(|board| Inspect::nics(board)).unwrap();
    let steering = nics.iter().find_map(|nic| nic.steering.clone()).unwrap();
    assert!(steering.contains(&program), "{steering}");
    ask_to_let_go(&host);
    host.step_until("the standby", |host| host.way() == Way::Standby);
}

#[test]
fn a_host_that_wants_a_function_of_no_pair_back_has_the_guest_let_go_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::on_primary(folder.path(), &Wanted::default());
    // Not the primary of any, and hotpluggable.
    let wanted = |board: &mut machine::Board| board.function_wanted_back("standby0");
    host.control.ask(wanted).unwrap();
    // The kernel asks again and again.
    host.control.ask(wanted).unwrap();
    host.step_until("its deletion", |host| {
        host.events.try_iter().any(
            |event| matches!(event, MachineEvent::DeviceDeleted { id: Some(id), .. } if id == "standby0"),
        )
    });
}
