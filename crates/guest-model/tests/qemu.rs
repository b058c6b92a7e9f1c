//! The drivers against a real QEMU over its qtest socket.

#![allow(clippy::unwrap_used)]

use guest_model::vmm::{Program, Vmm};
use guest_model::*;
use std::time::{Duration, Instant};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x11, 0x22, 0x33];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// QEMU, or the reason to skip.
fn qemu(test: &str) -> Option<Program> {
    let found = Program::installed_qemu();
    if found.is_none() {
        assert!(
            std::env::var_os("STANDFAST_NO_SKIP").is_none(),
            "qemu-system-x86_64 is missing"
        );
        println!("SKIPPED {test}: qemu-system-x86_64 is not installed");
    }
    found
}

/// Waits, without a busy loop, until `done` gives something.
fn until<T>(bus: &mut dyn GuestBus, mut done: impl FnMut(&mut dyn GuestBus) -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
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
    let Some(program) = qemu("frames_go_both_ways_by_interrupts_alone") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let host = HostEnd::bind(folder.path(), "net0").unwrap();
    let mut vmm = Vmm::start(
        &program,
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
            let arguments = serde_json::json!({ "name": "net0", "up": up });
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

/// The pair comes up, its primary is let go for a migration, by ACPI or by native hotplug.
fn pair_lets_go(test: &str, native: bool) {
    let Some(program) = qemu(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let standby = HostEnd::bind(folder.path(), "standby").unwrap();
    let primary = HostEnd::bind(folder.path(), "primary").unwrap();
    let (n0, n1) = (standby.netdev("n0"), primary.netdev("n1"));
    let mut args = vec![
        "-device",
        "pcie-root-port,id=root0,chassis=1",
        "-device",
        "pcie-root-port,id=root1,chassis=2",
        "-netdev",
        &n0,
        "-netdev",
        &n1,
        "-device",
        "virtio-net-pci,netdev=n0,id=standby0,bus=root0,failover=on,mac=52:54:00:11:11:11",
        "-device",
        "virtio-net-pci,netdev=n1,id=primary0,bus=root1,failover_pair_id=standby0,mac=52:54:00:11:11:11",
    ];
    if native {
        args.extend([
            "-global",
            "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
        ]);
    }
    let mut vmm = Vmm::start(&program, &folder.path().join("vmm"), &args).unwrap();
    let mut bus = vmm.bus().unwrap();
    let mut now = Duration::ZERO;
    let mut guest = Guest::boot(&mut bus, GuestOptions::default(), now).unwrap();
    assert_eq!(guest.has_acpi_hotplug(), !native);
    until(&mut bus, |bus| {
        now += Duration::from_millis(20);
        guest.step(bus, now).unwrap();
        guest.masters().first()?.primary
    });
    assert_eq!(guest.active(PAIR_MAC).unwrap().bus(), 2);

    let events = serde_json::json!({ "capabilities": [{ "capability": "events", "state": true }] });
    let set = vmm.qmp.execute("migrate-set-capabilities", Some(events));
    set.unwrap();
    let file = folder.path().join("stream");
    let uri = serde_json::json!({ "uri": format!("file:{}", file.display()) });
    vmm.qmp.execute("migrate", Some(uri)).unwrap();
    let asked = now;
    until(&mut bus, |bus| {
        now += Duration::from_millis(100);
        guest.step(bus, now).unwrap();
        let none = guest.masters().first()?.primary.is_none();
        none.then_some(())
    });
    if native {
        assert!(now - asked >= Duration::from_secs(5), "{:?}", now - asked);
    }
    until(&mut bus, |bus| {
        now += Duration::from_millis(100);
        guest.step(bus, now).unwrap();
        let event = vmm.qmp.next_event(Duration::ZERO).unwrap()?;
        (event.data["status"] == "completed").then_some(())
    });
    let news: Vec<_> = guest
        .take_news()
        .into_iter()
        .map(|(_, news)| news)
        .collect();
    assert!(news.contains(&News::Ejected(Bdf::new(0, 2, 0))), "{news:?}");
}

#[test]
fn a_primary_is_let_go_by_acpi() {
    pair_lets_go("a_primary_is_let_go_by_acpi", false);
}

#[test]
fn a_primary_is_let_go_by_native_hotplug() {
    pair_lets_go("a_primary_is_let_go_by_native_hotplug", true);
}
