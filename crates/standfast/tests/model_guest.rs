//! The model guest on programs, over their qtest sockets: on this one, and the same on QEMU.

#![allow(clippy::unwrap_used)]

use guest_model::vmm::{Event, Program, Qmp, Vmm};
use guest_model::*;
use serde_json::json;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x11, 0x22, 0x33];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Plays `scenario` on this program and on QEMU; without QEMU that part is SKIPPED.
fn on_both(scenario: impl Fn(&Program)) {
    scenario(&Program::Qtest(env!("CARGO_BIN_EXE_standfast").into()));
    match Program::installed_qemu() {
        Some(qemu) => scenario(&qemu),
        None => {
            assert!(
                std::env::var_os("STANDFAST_NO_SKIP").is_none(),
                "qemu-system-x86_64 is missing"
            );
            // Past the test harness, which hides what a passing test prints.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: the model guest was not played to QEMU: qemu-system-x86_64 is not installed"
            );
        }
    }
}

/// What must happen has happened by then, however busy the host is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again until `done` gives something: over a socket nobody tells of a message-signalled interrupt.
fn until<T>(bus: &mut QtestBus, mut done: impl FnMut(&mut QtestBus) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = done(bus) {
            return result;
        }
        assert!(Instant::now() < end, "waited in vain");
        bus.pause(Duration::from_millis(1)).unwrap();
    }
}

#[test]
fn frames_go_both_ways_by_interrupts_alone() {
    on_both(frames_go);
}

fn frames_go(program: &Program) {
    let folder = tempfile::tempdir().unwrap();
    let host = HostEnd::bind(folder.path(), "net0").unwrap();
    let mut vmm = Vmm::start(
        program,
        &folder.path().join("vmm"),
        &[
            "-device",
            "pcie-root-port,id=root0,chassis=1",
            "-netdev",
            &host.netdev("n0"),
            "-device",
            "virtio-net-pci,netdev=n0,id=net0,bus=root0,mac=52:54:00:11:22:33,host_mtu=1400",
        ],
    )
    .unwrap();
    let mut bus = vmm.bus().unwrap();
    for (access, msix) in [
        (ConfigAccess::Ports, true),
        (
            ConfigAccess::open_ecam(&mut bus, 0xb000_0000).unwrap(),
            false,
        ),
    ] {
        let mut ram = GuestRam::ask(&mut bus).unwrap();
        let mut words = MsiWords::new(&mut bus, &mut ram).unwrap();
        let tree = PciTree::enumerate(&mut bus, access, &Windows::default()).unwrap();
        let function = tree.functions().iter().find(|f| f.is_virtio_net()).unwrap();
        let options = NetOptions {
            msix,
            ..NetOptions::default()
        };
        let mut net =
            NetDriver::probe(&mut bus, &mut ram, &mut words, access, function, &options).unwrap();
        assert_eq!(net.mac(), MAC);
        assert_eq!(net.mtu(), Some(1400));
        assert!(net.link().up);

        let (mut out, mut back) = (Ledger::default(), Ledger::default());
        for number in 0..200 {
            let mut frame = NumberedFrame {
                to: HOST,
                from: MAC,
                stream: 0,
                number,
            };
            out.sent(number);
            assert!(net.send(&mut bus, &frame.encode()).unwrap());
            let arrived = until(&mut bus, |_| host.receive().unwrap());
            out.arrived(NumberedFrame::decode(&arrived).unwrap().number);

            (frame.to, frame.from) = (MAC, HOST);
            back.sent(number);
            assert!(host.send(&frame.encode()).unwrap());
            let arrived = until(&mut bus, |bus| {
                net.service(bus).unwrap();
                net.next_frame()
            });
            back.arrived(NumberedFrame::decode(&arrived).unwrap().number);
        }
        assert_eq!(out.account().delivered, 200);
        assert!(out.account().is_clean() && back.account().is_clean());

        // The link goes down and up, and the interrupt for it comes.
        for up in [false, true] {
            let arguments = json!({ "name": "net0", "up": up });
            vmm.qmp.execute("set_link", Some(arguments)).unwrap();
            until(&mut bus, |bus| net.service(bus).unwrap().then_some(()));
            assert_eq!(net.link().up, up);
        }
        assert!(net.set_promiscuous(&mut bus, false).unwrap());
        assert!(
            net.set_address_tables(&mut bus, &[HOST], &[[1; 6]])
                .unwrap()
        );
        assert!(net.set_vlan(&mut bus, 5, true).unwrap());
        assert!(!net.control(&mut bus, 77, 0, &[]).unwrap());
        net.remove(&mut bus, &mut ram, &mut words).unwrap();
    }
    assert!(vmm.quit().unwrap().success());
}

const PAIR_MAC: [u8; 6] = [0x52, 0x54, 0, 0x11, 0x11, 0x11];

/// The arguments of a machine with a pair.
fn pair(ends: &[HostEnd; 2], native: bool, incoming: bool) -> Vec<String> {
    let mut args: Vec<String> = [
        "-device",
        "pcie-root-port,id=root0,chassis=1",
        "-device",
        "pcie-root-port,id=root1,chassis=2",
        "-netdev",
        &ends[0].netdev("n0"),
        "-netdev",
        &ends[1].netdev("n1"),
        "-device",
        "virtio-net-pci,netdev=n0,id=standby0,bus=root0,failover=on,mac=52:54:00:11:11:11",
        "-device",
        "virtio-net-pci,netdev=n1,id=primary0,bus=root1,failover_pair_id=standby0,romfile=,mac=52:54:00:11:11:11",
    ]
    .map(str::to_owned)
    .into();
    let mut add = |option: &str, value: &str| args.extend([option.into(), value.into()]);
    if native {
        add(
            "-global",
            "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
        );
    }
    if incoming {
        add("-incoming", "defer");
    }
    args
}

fn ends(folder: &Path) -> [HostEnd; 2] {
    std::fs::create_dir_all(folder).unwrap();
    ["standby", "primary"].map(|name| HostEnd::bind(folder, name).unwrap())
}

const fn frame(to: [u8; 6], from: [u8; 6]) -> NumberedFrame {
    NumberedFrame {
        to,
        from,
        stream: 0,
        number: 7,
    }
}

fn numbered(bytes: Option<Vec<u8>>) -> Option<NumberedFrame> {
    bytes.as_deref().and_then(NumberedFrame::decode)
}

/// A frame out over the device that the guest uses, which is on this bus.
fn sends(bus: &mut QtestBus, guest: &mut Guest, ends: &[HostEnd; 2], on: u8) {
    let frame = frame(HOST, PAIR_MAC);
    let over = guest.send(bus, PAIR_MAC, &frame.encode()).unwrap();
    assert_eq!(over.map(Bdf::bus), Some(on));
    let end = &ends[usize::from(on - 1)];
    let arrived = until(bus, |_| numbered(end.receive().unwrap()));
    assert_eq!(arrived, frame);
}

/// And one in.
fn receives(bus: &mut QtestBus, guest: &mut Guest, ends: &[HostEnd; 2], on: u8, now: Duration) {
    let frame = frame(PAIR_MAC, HOST);
    let end = &ends[usize::from(on - 1)];
    assert!(end.send(&frame.encode()).unwrap());
    let arrived = until(bus, |bus| {
        guest.step(bus, now).unwrap();
        numbered(guest.receive().map(|delivery| delivery.frame))
    });
    assert_eq!(arrived, frame);
}

/// The pair comes up, lets its primary go for a migration, arrives on the target's standby, and gets its primary there.
fn pair_moves(program: &Program, native: bool) {
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str, incoming| {
        let folder = folder.path().join(name);
        let ends = ends(&folder);
        let args = pair(&ends, native, incoming);
        let mut vmm = Vmm::start(program, &folder.join("vmm"), &args).unwrap();
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        let set = vmm.qmp.execute("migrate-set-capabilities", Some(events));
        set.unwrap();
        let bus = vmm.bus().unwrap();
        (vmm, bus, ends)
    };
    let (mut source, mut bus, source_ends) = start("source", false);
    let mut now = Duration::ZERO;
    let mut guest = Guest::boot(&mut bus, GuestOptions::default(), now).unwrap();
    assert_eq!(guest.has_acpi_hotplug(), !native);
    until(&mut bus, |bus| {
        now += Duration::from_millis(20);
        guest.step(bus, now).unwrap();
        guest.masters().first()?.primary
    });
    sends(&mut bus, &mut guest, &source_ends, 2);
    receives(&mut bus, &mut guest, &source_ends, 2, now);

    let (mut target, mut target_bus, target_ends) = start("target", true);
    let uri = json!({ "uri": format!("unix:{}", folder.path().join("stream").display()) });
    let listens = target.qmp.execute("migrate-incoming", Some(uri.clone()));
    listens.unwrap();
    source.qmp.execute("migrate", Some(uri)).unwrap();
    let asked = now;
    until(&mut bus, |bus| {
        now += Duration::from_millis(100);
        guest.step(bus, now).unwrap();
        let none = guest.masters().first()?.primary.is_none();
        none.then_some(())
    });
    if native {
        assert!(now - asked >= Duration::from_secs(5), "{:?}", now - asked);
        // The slot's power goes, a second later.
        until(&mut bus, |bus| {
            now += Duration::from_millis(100);
            guest.step(bus, now).unwrap();
            guest.next_deadline().is_none().then_some(())
        });
    }
    for vmm in [&mut target, &mut source] {
        let ended = |event: &Event| event.data["status"] == "completed";
        let ended = vmm.qmp.wait_event(PATIENCE, ended);
        let said = vmm.stderr().unwrap();
        assert!(
            matches!(ended, Ok(Some(_))),
            "{:?} {said}",
            vmm.qmp.history()
        );
    }
    // Its primary may be in already, and then nothing that comes in by the standby is taken.
    sends(&mut target_bus, &mut guest, &target_ends, 1);
    until(&mut target_bus, |bus| {
        now += Duration::from_millis(20);
        guest.step(bus, now).unwrap();
        guest.masters().first()?.primary
    });
    sends(&mut target_bus, &mut guest, &target_ends, 2);
    receives(&mut target_bus, &mut guest, &target_ends, 2, now);
    let news = guest.take_news();
    let ejected = News::Ejected(Bdf::new(0, 2, 0));
    assert!(news.iter().any(|(_, news)| *news == ejected), "{news:?}");
    for vmm in [source, target] {
        assert!(vmm.quit().unwrap().success());
    }
}

#[test]
fn a_pair_moves_with_hotplug_by_acpi() {
    on_both(|program| pair_moves(program, false));
}

#[test]
fn a_pair_moves_with_native_hotplug() {
    on_both(|program| pair_moves(program, true));
}

/// The target's process is killed, and the client that asked for the migration is gone: the guest stays, with its primary.
#[test]
fn a_killed_target_and_a_lost_client_leave_the_guest_its_primary() {
    let program = Program::Qtest(env!("CARGO_BIN_EXE_standfast").into());
    let folder = tempfile::tempdir().unwrap();
    let [source_ends, target_ends] =
        ["source", "target"].map(|name| ends(&folder.path().join(name)));
    let second = folder.path().join("second");
    let mut args = pair(&source_ends, false, false);
    let listens = format!("unix:{},server=on,wait=off", second.display());
    args.extend(["-qmp".to_owned(), listens]);
    let mut source = Vmm::start(&program, &folder.path().join("source/vmm"), &args).unwrap();
    let mut other = Qmp::connect(&second).unwrap();
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    let set = other.execute("migrate-set-capabilities", Some(events));
    set.unwrap();
    let mut bus = source.bus().unwrap();
    let mut now = Duration::ZERO;
    let mut guest = Guest::boot(&mut bus, GuestOptions::default(), now).unwrap();
    let mut primary = |bus: &mut QtestBus, guest: &mut Guest| {
        until(bus, |bus| {
            now += Duration::from_millis(20);
            guest.step(bus, now).unwrap();
            guest.masters().first()?.primary
        });
        now
    };
    primary(&mut bus, &mut guest);

    let args = pair(&target_ends, false, true);
    let mut target = Vmm::start(&program, &folder.path().join("target/vmm"), &args).unwrap();
    let uri = json!({ "uri": format!("unix:{}", folder.path().join("stream").display()) });
    let listens = target.qmp.execute("migrate-incoming", Some(uri.clone()));
    listens.unwrap();
    source.qmp.execute("migrate", Some(uri)).unwrap();
    source.qmp.hang_up().unwrap();
    let mut state = |wanted: &str| {
        let is = |event: &Event| event.data["status"] == wanted;
        let came = other.wait_event(PATIENCE, is).unwrap();
        assert!(came.is_some(), "{wanted}: {:?}", other.history());
    };
    // The guest has not looked yet.
    state("wait-unplug");
    target.kill().unwrap();
    state("failed");
    let now = primary(&mut bus, &mut guest);
    sends(&mut bus, &mut guest, &source_ends, 2);
    receives(&mut bus, &mut guest, &source_ends, 2, now);
    let pairs = other.execute("query-failover", None).unwrap();
    assert_eq!(pairs[0]["path"], "primary", "{pairs}");
    other.execute("quit", None).unwrap();
}
