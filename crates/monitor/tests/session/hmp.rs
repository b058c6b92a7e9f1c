use crate::client::Client;
use crate::{qmp, setup};
use monitor::Mode;
use serde_json::json;

fn session() -> (crate::Setup, Client) {
    let setup = setup(Mode::Hmp);
    let mut client = Client::connect(&setup.socket);
    assert_eq!(
        client.until_prompt(),
        "Standfast 0.1.0 monitor - type 'help' for more information\r\n"
    );
    (setup, client)
}

fn say(client: &mut Client, line: &str) -> String {
    client.send(format!("{line}\n"));
    client.until_prompt()
}

#[test]
fn a_person_can_do_the_same_things() {
    let (setup, mut client) = session();
    assert_eq!(say(&mut client, ""), "");
    assert_eq!(say(&mut client, "info status\r"), "VM status: running\r\n");
    assert_eq!(say(&mut client, "stop"), "");
    assert_eq!(say(&mut client, "info status"), "VM status: paused\r\n");
    assert_eq!(say(&mut client, "c"), "");
    assert_eq!(
        say(
            &mut client,
            "device_add e1000e,id=hostdev0,failover_pair_id=net1"
        ),
        ""
    );
    assert_eq!(
        say(&mut client, "device_add e1000e,id=hostdev0"),
        "Error: Duplicate device ID 'hostdev0'\r\n"
    );
    assert_eq!(
        say(&mut client, "device_add id=x"),
        "Error: Parameter 'driver' is missing\r\n"
    );
    assert_eq!(
        say(&mut client, "info qom-tree"),
        "/machine\r\n  /peripheral\r\n    /hostdev0\r\n"
    );
    assert_eq!(say(&mut client, "device_del hostdev0"), "");
    assert_eq!(
        say(&mut client, "device_del hostdev0"),
        "Error: Device 'hostdev0' not found\r\n"
    );
    assert_eq!(
        say(&mut client, "set_link net1 maybe"),
        "Expected 'on' or 'off'\r\nTry \"help set_link\" for more information\r\n"
    );
    assert_eq!(
        say(&mut client, "migrate -d fd:x"),
        "Error: unknown migration protocol: fd:x\r\n"
    );
    assert_eq!(say(&mut client, "migrate tcp:h:1"), "");
    assert_eq!(
        say(&mut client, "info status"),
        "VM status: paused (postmigrate)\r\n"
    );
    assert_eq!(
        say(&mut client, "info migrate"),
        "Migration status: completed\r\ntotal time: 12 ms\r\n"
    );
    drop(setup);
}

#[test]
fn info_shows_the_machine() {
    let (_setup, mut client) = session();
    assert_eq!(
        say(&mut client, "info version"),
        "10.0.2 (Standfast 0.1.0)\r\n"
    );
    assert_eq!(say(&mut client, "info name"), "guest\r\n");
    assert_eq!(say(&mut client, "info block"), "");
    assert_eq!(
        say(&mut client, "info network"),
        "net1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:6f:55:cc\r\n \
         \\ hostnet1: index=0,type=tap,ifname=tap0\r\n"
    );
    assert_eq!(
        say(&mut client, "info pci"),
        "  Bus  0, device   1, function 0:\r\n    Ethernet controller: PCI device 1af4:1041\r\n      \
         PCI subsystem 1af4:1100\r\n      IRQ 11, pin A\r\n      \
         BAR4: 64 bit prefetchable memory at 0xfe000000 [0xfe003fff].\r\n      id \"net1\"\r\n"
    );
    let failover = say(&mut client, "info failover");
    assert!(
        failover.starts_with("net1: primary=hostdev0 state=active path=primary\r\n"),
        "{failover}"
    );
    assert_eq!(
        say(&mut client, "info nothing"),
        "unknown command: 'info nothing'\r\n"
    );
}

#[test]
fn wrong_lines_are_told_and_harmless() {
    let (_setup, mut client) = session();
    assert_eq!(say(&mut client, "nope x"), "unknown command: 'nope'\r\n");
    assert_eq!(
        say(&mut client, "device_del"),
        "device_del: string expected\r\nTry \"help device_del\" for more information\r\n"
    );
    assert_eq!(
        say(&mut client, "stop now"),
        "stop|s: extraneous characters at the end of line\r\nTry \"help stop\" for more information\r\n"
    );
    assert_eq!(
        say(&mut client, "info  status now"),
        "status: extraneous characters at the end of line\r\nTry \"help info  status\" for more information\r\n"
    );
    assert_eq!(
        say(&mut client, "migrate tcp:h:1 now"),
        "migrate: extraneous characters at the end of line\r\nTry \"help migrate\" for more information\r\n"
    );
    // Quotes hold a command together, and are none of it.
    assert_eq!(
        say(&mut client, "migrate -d \"fd:x  y\""),
        "Error: unknown migration protocol: fd:x  y\r\n"
    );
    assert!(
        say(&mut client, "migrate_set_parameter nope 1")
            .starts_with("Error: invalid parameter value: nope")
    );
    assert!(say(&mut client, &"x".repeat(10_000)).starts_with("Error: the line is longer than"));
    client.send(b"\xff\xfe\x00\x01\n");
    assert!(client.until_prompt().starts_with("unknown command: "));
    let help = say(&mut client, "help");
    for name in [
        "device_add driver",
        "migrate [-d] [-r] uri",
        "failover_switch",
        "cont|c -- ",
    ] {
        assert!(help.contains(name), "{name}: {help}");
    }
    assert!(say(&mut client, "help info").contains("info pci -- "));
    assert!(say(&mut client, "help info").contains("info block [-n] [-v] [device] -- "));
    assert_eq!(
        say(&mut client, "help info pci"),
        "info pci -- show the PCI functions\r\n"
    );
    assert_eq!(say(&mut client, "help nope"), "unknown command: 'nope'\r\n");
    assert_eq!(
        say(&mut client, "help info nope"),
        "unknown command: 'info nope'\r\n"
    );
    assert_eq!(
        say(&mut client, "migrate -x tcp:host:1"),
        "migrate: unsupported option -x\r\nTry \"help migrate\" for more information\r\n"
    );
    assert_eq!(say(&mut client, "device_add help"), "name \"e1000e\"\r\n");
    assert_eq!(
        say(&mut client, "device_add e1000e,help"),
        "e1000e options:\r\n"
    );
    assert_eq!(
        say(&mut client, "device_add nope,help"),
        "Error: Device 'nope' not found\r\n"
    );
    assert!(say(&mut client, "help device_del").starts_with("device_del device -- "));
}

#[test]
fn lines_come_by_qmp_too() {
    let setup = qmp();
    let mut client = Client::negotiated(&setup.socket);
    let mut say = |line: &str| {
        let command =
            json!({"execute": "human-monitor-command", "arguments": {"command-line": line}});
        client.execute(&command.to_string())
    };
    assert_eq!(
        say("info status"),
        json!({"return": "VM status: running\r\n"})
    );
    assert_eq!(
        say("device_del x"),
        json!({"return": "Error: Device 'x' not found\r\n"})
    );
    assert_eq!(
        say("info qom-tree"),
        json!({"return": "/machine\r\n  /peripheral\r\n"})
    );
}
