//! A machine with a pair in this process, and the model guest that uses it; time passes when a test says so, and nothing
//! else is under way.
#![allow(dead_code)] // each test program uses its part

#[path = "../stage/crew.rs"]
#[allow(unreachable_pub)] // as it is for a stage
mod crew;
#[path = "../../../net/tests/netns/mod.rs"]
pub(crate) mod netns;

use config::vm::{Accel, DeviceConfig, Incoming, NetdevConfig, VmConfig};
use config::{Options, Source};
use crew::Crew;
use guest_model::*;
use machine::clock::ManualClock;
use machine::in_process::InProcess;
use machine::inspect::{Inspect, Path as Way};
use machine::{Control, MachineEvent, MachineListener};
use migration::Capability;
use netns::PATIENCE;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x11, 0x11, 0x11];
const TICK: Duration = Duration::from_millis(20);

struct Ear(Sender<MachineEvent>);

impl MachineListener for Ear {
    fn event(&self, event: MachineEvent) {
        // A test that has ended hears nothing any more.
        let _ = self.0.send(event);
    }
}

/// What a machine is to be.
#[derive(Default)]
pub(crate) struct Wanted<'t> {
    /// Native hotplug in ACPI's place.
    pub(crate) native: bool,
    /// The guest's processor does not stop with the machine: for a guest that leaves and is not followed.
    pub(crate) unstopped: bool,
    /// The text of a hook, which can name the folder as `$here`.
    pub(crate) hook: Option<&'t str>,
    /// It awaits a migration.
    pub(crate) incoming: bool,
    /// The tap that the standby is on.
    pub(crate) tap: Option<&'t str>,
    /// More properties of the standby.
    pub(crate) standby: &'t str,
}

/// A machine with a pair and a NIC without one, `plain0`.
pub(crate) struct Host {
    pub(crate) control: Control,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) bus: InProcessBus,
    pub(crate) events: Receiver<MachineEvent>,
    /// The host's ends of the NICs: the standby's, the primary's, the other one's.
    pub(crate) ends: [HostEnd; 3],
    pub(crate) guest: Option<Guest>,
    pub(crate) now: Duration,
    machine: Option<InProcess>,
    crew: Rc<Crew>,
}

fn device(text: &str) -> DeviceConfig {
    let options = Options::parse(text, Some("driver")).unwrap();
    DeviceConfig::from_options(options, Source::CommandLine).unwrap()
}

impl Host {
    /// A machine that runs, without a guest.
    pub(crate) fn start(folder: &Path, wanted: &Wanted<'_>) -> Self {
        fs::create_dir_all(folder).unwrap();
        let crew = Crew::gather(folder).unwrap();
        Self::of(Rc::new(crew), folder, wanted)
    }

    /// Another one, on the same test's stage.
    pub(crate) fn start_beside(&self, folder: &Path, wanted: &Wanted<'_>) -> Self {
        fs::create_dir_all(folder).unwrap();
        Self::of(Rc::clone(&self.crew), folder, wanted)
    }

    fn of(crew: Rc<Crew>, folder: &Path, wanted: &Wanted<'_>) -> Self {
        let ends = ["standby", "primary", "plain"].map(|name| HostEnd::bind(folder, name).unwrap());
        let mut config = VmConfig {
            memory_bytes: 16 << 20,
            ..VmConfig::default()
        };
        config.machine.accel = vec![Accel::Qtest];
        config.machine.acpi_pci_hotplug = !wanted.native;
        config.incoming = wanted.incoming.then_some(Incoming::Defer);
        for (id, end) in ["n0", "n1", "n2"].into_iter().zip(&ends) {
            let tap = wanted.tap.filter(|_| id == "n0");
            let text = tap.map_or_else(
                || end.netdev(id),
                |tap| format!("tap,id={id},ifname={tap},script=no,downscript=no"),
            );
            let options = Options::parse(&text, Some("type")).unwrap();
            let netdev = NetdevConfig::from_options(options, Source::CommandLine);
            config.netdevs.push(netdev.unwrap());
        }
        let mut standby =
            "virtio-net-pci,netdev=n0,id=standby0,bus=root0,failover=on,mac=52:54:00:11:11:11"
                .to_owned();
        standby += wanted.standby;
        if let Some(hook) = wanted.hook {
            let program = netns::program(folder, "hook", hook);
            let long = PATIENCE.as_millis();
            standby += &format!(
                ",failover-hook={},failover-hook-timeout={long}",
                program.display()
            );
        }
        for text in [
            "pcie-root-port,id=root0,bus=pcie.0,addr=0x1,chassis=1",
            "pcie-root-port,id=root1,bus=pcie.0,addr=0x2,chassis=2",
            &standby,
            "virtio-net-pci,netdev=n1,id=primary0,bus=root1,failover_pair_id=standby0,mac=52:54:00:11:11:11",
            "virtio-net-pci,netdev=n2,id=plain0,bus=pcie.0,addr=0x3,mac=52:54:00:22:22:22",
        ] {
            config.devices.push(device(text));
        }
        let clock = ManualClock::new();
        let (sender, events) = channel();
        let machine = InProcess::start(config, &clock, Box::new(Ear(sender))).unwrap();
        let mut bus = InProcessBus::new(Bell::new().unwrap());
        if wanted.unstopped {
            bus.add_unstopped(&machine.client);
        } else {
            bus.add(&machine.client, &machine.gate);
        }
        Self {
            control: machine.control.clone(),
            clock,
            bus,
            events,
            ends,
            guest: None,
            now: Duration::ZERO,
            machine: Some(machine),
            crew,
        }
    }

    /// A machine whose guest uses its primary.
    pub(crate) fn on_primary(folder: &Path, wanted: &Wanted<'_>) -> Self {
        let mut host = Self::start(folder, wanted);
        host.boot_to_primary();
        host
    }

    /// Boots a guest, until it uses its primary.
    pub(crate) fn boot_to_primary(&mut self) {
        let guest = Guest::boot(&mut self.bus, GuestOptions::default(), self.now).unwrap();
        self.guest = Some(guest);
        self.step_until("the primary", |host| host.way() == Way::Primary);
    }

    /// Waits until no thread is at anything. A thread that does not get its turn on a busy host would see time pass that
    /// it had no part in.
    fn rest(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.crew.waits().unwrap() {
            assert!(Instant::now() < end, "{:?}", self.crew.names());
            std::thread::yield_now();
        }
    }

    /// Lets a moment pass.
    pub(crate) fn step(&mut self) {
        self.rest();
        self.now += TICK;
        self.clock.advance(TICK);
        // What is due is done after each job: once the second was carried out, all of it is.
        for _ in 0..2 {
            let _ = self.control.ask(|_| ());
        }
        if let Some(guest) = &mut self.guest {
            guest.step(&mut self.bus, self.now).unwrap();
        }
    }

    pub(crate) fn step_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited in vain for: {what}");
            self.step();
        }
    }

    /// Waits without letting time pass.
    pub(crate) fn until_now(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited in vain for: {what}");
            std::thread::yield_now();
        }
    }

    /// The path of the traffic, as the machine has it.
    pub(crate) fn way(&self) -> Way {
        let pairs = self.control.ask(|board| Inspect::pairs(board)).unwrap();
        pairs[0].path
    }

    pub(crate) fn primary(&self) -> Bdf {
        self.guest.as_ref().unwrap().masters()[0].primary.unwrap()
    }

    pub(crate) fn order(&self, path: Way) -> bool {
        let order =
            move |board: &mut machine::Board| board.failover_switch("primary0", path).is_ok();
        self.control.ask(order).unwrap()
    }

    /// Moves the guest to `target`.
    pub(crate) fn migrate(&mut self, target: &mut Self, socket: &Path) {
        let uri = format!("unix:{}", socket.display());
        let listen = uri.clone();
        let listening = target.control.ask(move |board| {
            board
                .migrate_incoming(&listen, false, &mut |_| None)
                .is_ok()
        });
        assert!(listening.unwrap());
        let asked = self.control.ask(move |board| {
            board
                .migrate_set_capabilities(&[(Capability::Events, true)])
                .unwrap();
            board.migrate(&uri, &mut |_| None, Box::new(|_| {}));
        });
        assert!(asked.is_ok());
        if let Some(machine) = &target.machine {
            // Its processor may be in the midst of something when it moves.
            self.bus.add(&machine.client, &machine.gate);
        }
        let mut states = Vec::new();
        let end = Instant::now() + PATIENCE;
        let was = |states: &[String], state| states.iter().any(|seen| seen == state);
        while !was(&states, "completed") {
            assert!(Instant::now() < end, "{states:?}");
            // From `active` on the guest may be stopped at any moment: its processor stands still.
            if !was(&states, "active") {
                self.step();
            }
            states.extend(self.events.try_iter().filter_map(|event| match event {
                MachineEvent::Migration(state) => Some(state),
                _ => None,
            }));
        }
        target.guest = self.guest.take();
        target.now = self.now;
    }

    /// Ends the machine.
    pub(crate) fn quit(&mut self) {
        if let Some(machine) = self.machine.take() {
            assert_eq!(machine.end(), 0);
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
