//! When the guest sees which of the two.

use crate::client::Machine;
use crate::pci::{Pci, STANDBY};
use serde_json::{Value, json};

pub(crate) const PORTS: &str = "-M q35 -nodefaults -device pcie-root-port,id=root0,addr=0x1,bus=pcie.0,chassis=1 \
     -device pcie-root-port,id=root1,addr=0x2,bus=pcie.0,chassis=2 \
     -netdev user,id=hs0 -netdev hubport,hubid=0,id=hs1 ";
const MAC_STANDBY: &str = "52:54:00:22:22:22";
const MAC_PRIMARY: &str = "52:54:00:11:11:11";

pub(crate) fn standby(failover: &str) -> String {
    format!(
        "-device virtio-net,bus=root0,id=standby0,failover={failover},netdev=hs0,mac={MAC_STANDBY} "
    )
}

fn primary(pair: &str) -> String {
    format!(
        "-device virtio-net,bus=root1,id=primary0,failover_pair_id={pair},netdev=hs1,mac={MAC_PRIMARY} "
    )
}

/// Hot-adds standby number `n`.
pub(crate) fn add_standby(machine: &mut Machine, n: usize, failover: bool) {
    let device = json!({"driver": "virtio-net", "id": format!("standby{n}"), "bus": format!("root{}", 2 * n),
        "failover": failover, "netdev": format!("hs{}", 2 * n), "mac": MAC_STANDBY});
    machine.qmp("device_add", device).unwrap();
}

/// Hot-adds primary number `n`.
pub(crate) fn add_primary(machine: &mut Machine, n: usize) {
    let device = json!({"driver": "virtio-net", "id": format!("primary{n}"), "bus": format!("root{}", 2 * n + 1),
        "failover_pair_id": format!("standby{n}"), "netdev": format!("hs{}", 2 * n + 1),
        "rombar": 0, "romfile": "", "mac": MAC_PRIMARY});
    machine.qmp("device_add", device).unwrap();
}

fn listed(devices: &Value, id: &str) -> bool {
    let devices = devices.as_array().map(Vec::as_slice).unwrap_or_default();
    devices
        .iter()
        .any(|device| device["qdev_id"] == id || listed(&device["pci_bridge"]["devices"], id))
}

/// Asserts which devices `query-pci` shows and which it does not.
pub(crate) fn expect(machine: &mut Machine, present: &[&str], absent: &[&str]) {
    let buses = machine.qmp("query-pci", json!({})).unwrap();
    for id in present {
        assert!(listed(&buses[0]["devices"], id), "{id} is absent");
        let path = format!("/machine/peripheral/{id}");
        let mac = machine.qmp("qom-get", json!({"path": path, "property": "mac"}));
        let expected = if id.starts_with("standby") {
            MAC_STANDBY
        } else {
            MAC_PRIMARY
        };
        assert_eq!(mac.unwrap(), expected);
    }
    for id in absent {
        assert!(!listed(&buses[0]["devices"], id), "{id} is there");
    }
}

/// The guest accepts, and the machine says so.
pub(crate) fn accept(machine: &mut Machine, pci: &mut Pci, bus: u64, id: &str) {
    assert_ne!(pci.start_nic(machine, bus, true) & STANDBY, 0);
    assert_eq!(machine.event("FAILOVER_NEGOTIATED")["device-id"], id);
}

#[test]
fn the_primary_is_hidden_until_the_guest_accepts() {
    let machine = &mut Machine::start(&(PORTS.to_owned() + &standby("on") + &primary("standby0")));
    let pci = &mut Pci::set_up(machine, 2);
    expect(machine, &["standby0"], &["primary0"]);
    accept(machine, pci, 1, "standby0");
    expect(machine, &["standby0", "primary0"], &[]);
    assert_eq!(
        Pci::read(machine, 2 << 8, 0, 'l'),
        0x1041_1af4,
        "the guest sees it too"
    );
}

#[test]
fn a_guest_without_the_feature_gets_the_standby_alone() {
    let machine = &mut Machine::start(&(PORTS.to_owned() + &standby("on") + &primary("standby0")));
    let pci = &mut Pci::set_up(machine, 2);
    pci.start_nic(machine, 1, false);
    expect(machine, &["standby0"], &["primary0"]);
}

#[test]
fn a_primary_without_its_standby_is_an_ordinary_device() {
    for (failover, pair, offered) in [("on", "standby1", true), ("off", "standby0", false)] {
        let machine =
            &mut Machine::start(&(PORTS.to_owned() + &standby(failover) + &primary(pair)));
        let pci = &mut Pci::set_up(machine, 2);
        expect(machine, &["standby0", "primary0"], &[]);
        assert_eq!(pci.start_nic(machine, 1, true) & STANDBY != 0, offered);
        expect(machine, &["standby0", "primary0"], &[]);
    }
}

#[test]
fn hotplugged_in_either_order() {
    let machine = &mut Machine::start(PORTS);
    let pci = &mut Pci::set_up(machine, 2);
    expect(machine, &[], &["standby0", "primary0"]);
    add_standby(machine, 0, true);
    accept(machine, pci, 1, "standby0");
    expect(machine, &["standby0"], &["primary0"]);
    add_primary(machine, 0);
    expect(machine, &["standby0", "primary0"], &[]);

    let machine = &mut Machine::start(PORTS);
    let pci = &mut Pci::set_up(machine, 2);
    add_primary(machine, 0);
    expect(machine, &["primary0"], &["standby0"]);
    add_standby(machine, 0, true);
    expect(machine, &["standby0", "primary0"], &[]);
    accept(machine, pci, 1, "standby0");
    expect(machine, &["standby0", "primary0"], &[]);
}

#[test]
fn a_standby_is_added_to_a_primary_of_the_command_line() {
    let machine = &mut Machine::start(&(PORTS.to_owned() + &primary("standby0")));
    let pci = &mut Pci::set_up(machine, 2);
    expect(machine, &["primary0"], &["standby0"]);
    add_standby(machine, 0, true);
    expect(machine, &["standby0", "primary0"], &[]);
    accept(machine, pci, 1, "standby0");
    expect(machine, &["standby0", "primary0"], &[]);
}

#[test]
fn what_cannot_be_is_refused_in_qemus_words() {
    let machine = &mut Machine::start(&(PORTS.to_owned() + &standby("on")));
    let refused = |machine: &mut Machine, device: Value| machine.qmp("device_add", device);
    assert_eq!(
        refused(
            machine,
            json!({"driver": "virtio-net", "bus": "root1", "failover_pair_id": "standby0"})
        )
        .unwrap_err(),
        "Device with failover_pair_id needs to have id"
    );
    assert_eq!(
        refused(
            machine,
            json!({"driver": "virtio-net", "id": "primary0", "bus": "pcie.0", "failover_pair_id": "standby0"})
        )
        .unwrap_err(),
        "Bus 'pcie.0' does not support hotplugging"
    );
}
