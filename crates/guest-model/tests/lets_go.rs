//! The host's network follows the guest's driver: the traffic flips when it lets go, by whichever sign, and not later; and
//! what a hook is told of it.

#![allow(clippy::unwrap_used)]

use config::vm::{Accel, DeviceConfig, VmConfig};
use config::{Options, Source};
use guest_model::hotplug::AcpiHotplug;
use guest_model::pci::regs;
use guest_model::*;
use machine::clock::{Clocks, ManualClock};
use machine::inspect::{Inspect, Path as Way};
use machine::{Control, FdSource, MachineEvent, MachineListener, control_with};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(20);

struct Ear(Sender<MachineEvent>);

impl MachineListener for Ear {
    fn event(&self, event: MachineEvent) {
        // A test that has ended hears nothing any more.
        let _ = self.0.send(event);
    }
}

struct NoFds;

impl FdSource for NoFds {
    fn take(&self, name: &str) -> Result<OwnedFd, String> {
        Err(format!("no descriptor '{name}'"))
    }
}

/// A machine with a pair whose guest uses its primary, and a hook.
struct Host {
    control: Control,
    clock: Arc<ManualClock>,
    bus: InProcessBus,
    events: Receiver<MachineEvent>,
    guest: Option<Guest>,
    now: Duration,
    thread: Option<JoinHandle<u8>>,
}

impl Host {
    fn start(folder: &Path, acpi: bool, hook: &str) -> Self {
        let program = folder.join("hook");
        let here = folder.display();
        fs::write(&program, format!("#!/bin/sh\nhere='{here}'\n{hook}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = VmConfig {
            memory_bytes: 16 << 20,
            ..VmConfig::default()
        };
        config.machine.accel = vec![Accel::Qtest];
        config.machine.acpi_pci_hotplug = acpi;
        for text in [
            "pcie-root-port,id=root0,bus=pcie.0,addr=0x1,chassis=1".to_owned(),
            "pcie-root-port,id=root1,bus=pcie.0,addr=0x2,chassis=2".to_owned(),
            format!(
                "virtio-net-pci,id=standby0,bus=root0,failover=on,mac=52:54:00:11:11:11,failover-hook={}",
                program.display()
            ),
            "virtio-net-pci,id=primary0,bus=root1,failover_pair_id=standby0,mac=52:54:00:11:11:11"
                .to_owned(),
        ] {
            let options = Options::parse(&text, Some("driver")).unwrap();
            let device = DeviceConfig::from_options(options, Source::CommandLine).unwrap();
            config.devices.push(device);
        }
        config.validate().unwrap();
        let clock = ManualClock::new();
        let (control, control_loop) = control_with(Clocks::manual(&clock));
        let (sender, events) = channel();
        let mut board =
            machine::build(config, control.clone(), Box::new(Ear(sender)), &NoFds).unwrap();
        board.power_up().unwrap();
        let client = board.qtest().and_then(|qtest| qtest.client()).unwrap();
        let mut host = Self {
            control,
            clock,
            bus: InProcessBus::new(client),
            events,
            guest: None,
            now: Duration::ZERO,
            thread: Some(std::thread::spawn(move || control_loop.run(board).0)),
        };
        let guest = Guest::boot(&mut host.bus, GuestOptions::default(), host.now).unwrap();
        host.guest = Some(guest);
        host.step_until("the primary", |host| host.way() == Way::Primary);
        host
    }

    fn step_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < end, "waited in vain for: {what}");
            self.now += TICK;
            self.clock.advance(TICK);
            let guest = self.guest.as_mut().unwrap();
            guest.step(&mut self.bus, self.now).unwrap();
            std::thread::yield_now();
        }
    }

    fn way(&self) -> Way {
        let pairs = self.control.ask(|board| Inspect::pairs(board)).unwrap();
        pairs[0].path
    }

    fn primary(&self) -> Bdf {
        self.guest.as_ref().unwrap().masters()[0].primary.unwrap()
    }

    /// Orders the guest onto its standby; the guest does nothing about it by itself from here on.
    fn ask_to_let_go(&self) {
        let asked = self
            .control
            .ask(|board| board.failover_switch("primary0", Way::Standby).is_ok());
        assert!(matches!(asked, Ok(true)));
        assert_eq!(self.way(), Way::Primary);
    }

    /// Ends the machine; what the hook was told.
    fn end(mut self, folder: &Path) -> Vec<serde_json::Value> {
        self.quit();
        let told = fs::read_to_string(folder.join("told")).unwrap();
        told.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn quit(&mut self) {
        self.control.post(|board| board.quit("host-qmp-quit"));
        if let Some(thread) = self.thread.take() {
            assert_eq!(thread.join().unwrap(), 0);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.quit();
        }
    }
}

/// The guest lets go by this sign alone: the traffic is on the standby, and the hook told, when the access returns.
fn flips_at(acpi: bool, reason: &str, sign: impl FnOnce(&mut Host)) {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(folder.path(), acpi, "cat >> $here/told");
    host.ask_to_let_go();
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
    let told = host.end(folder.path());
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
    flips_at(true, CLOSED, |host| {
        let (access, primary) = (host.guest.as_ref().unwrap().access(), host.primary());
        access
            .command(&mut host.bus, primary, 0, regs::COMMAND_MASTER)
            .unwrap();
    });
}

#[test]
fn msi_x_off() {
    flips_at(true, CLOSED, |host| {
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
    flips_at(false, GONE, |host| {
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
    flips_at(true, GONE, |host| {
        let guest = host.guest.as_ref().unwrap();
        let acpi = AcpiHotplug::find(&mut host.bus, guest.tree())
            .unwrap()
            .unwrap();
        // The second port was declared last: its number is 0.
        acpi.eject(&mut host.bus, acpi.ports()[0]).unwrap();
    });
}

/// A driver that lets go in the usual order: the first sign flips, the ones after it change nothing.
#[test]
fn a_guest_that_goes_by_the_book_flips_once_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(folder.path(), true, "cat >> $here/told");
    host.ask_to_let_go();
    host.step_until("the standby", |host| host.way() == Way::Standby);
    let order = |host: &Host| {
        host.control
            .ask(|board| board.failover_switch("primary0", Way::Primary).is_ok())
            .unwrap()
    };
    host.step_until("the order to be taken", order);
    host.step_until("the primary", |host| host.way() == Way::Primary);
    let flips = host
        .events
        .try_iter()
        .filter(|event| matches!(event, MachineEvent::FailoverPathChanged { .. }))
        .count();
    assert_eq!(flips, 3);
    let told = host.end(folder.path());
    let paths: Vec<_> = told
        .iter()
        .map(|record| record["path"].as_str().unwrap())
        .collect();
    // Closed and ejected both say "standby".
    let expected = [
        "both", "primary", "both", "standby", "standby", "both", "primary", "none",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn a_hook_that_fails_is_told_by_an_event_and_the_guest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::start(folder.path(), true, "echo no switch here; exit 4");
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
    host.ask_to_let_go();
    host.step_until("the standby", |host| host.way() == Way::Standby);
}
