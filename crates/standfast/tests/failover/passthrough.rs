//! A `vfio-pci` by iommufd, as far as it goes without hardware: what is refused, and what stays.

use crate::client::Machine;
use crate::pair::{PORTS, standby};
use serde_json::{Value, json};

/// A function that no host has.
const NOBODYS: &str = "0000:ff:1f.7";

fn refused(machine: &mut Machine, command: &str, arguments: Value) -> String {
    machine.qmp(command, arguments).unwrap_err()
}

fn object(fd: Option<&str>) -> Value {
    let mut object = json!({"qom-type": "iommufd", "id": "iommufd0"});
    if let Some(fd) = fd {
        object["fd"] = fd.into();
    }
    object
}

fn primary(iommufd: &str) -> Value {
    json!({"driver": "vfio-pci", "id": "primary0", "bus": "root1", "failover_pair_id": "standby0",
        "host": NOBODYS, "iommufd": iommufd})
}

#[test]
fn what_is_wrong_with_it_is_told_when_it_is_given() {
    let machine = &mut Machine::start(&(PORTS.to_owned() + &standby("on")));
    assert_eq!(
        refused(machine, "device_add", primary("iommufd0")),
        "Device 'iommufd0' not found"
    );
    machine
        .qmp("object-add", json!({"qom-type": "iothread", "id": "io"}))
        .unwrap();
    assert_eq!(
        refused(machine, "device_add", primary("io")),
        "Invalid parameter type for 'iommufd', expected: iommufd"
    );
    assert_eq!(
        refused(machine, "object-add", object(Some("nobody"))),
        "Could not parse remote object fd nobody:File descriptor named 'nobody' has not been found"
    );
    assert_eq!(
        refused(machine, "object-add", object(Some("999"))),
        "fd=999: that descriptor is not open; pass it to this process"
    );
    // Whether /dev/iommu is there is not asked before something needs it.
    machine.qmp("object-add", object(None)).unwrap();
    let missing = refused(machine, "device_add", primary("iommufd0"));
    assert!(
        missing.starts_with(&format!("no PCI device {NOBODYS} on this host")),
        "{missing}"
    );
    let given = json!({"driver": "vfio-pci", "id": "primary0", "bus": "root1", "iommufd": "iommufd0", "fd": "nobody"});
    assert_eq!(
        refused(machine, "device_add", given),
        "Could not parse remote object fd nobody:File descriptor named 'nobody' has not been found"
    );
    let by_group =
        json!({"driver": "vfio-pci", "id": "primary0", "bus": "root1", "host": NOBODYS, "fd": "1"});
    assert_eq!(
        refused(machine, "device_add", by_group),
        "Use FD passing only with iommufd backend: give iommufd=, the id of an -object iommufd"
    );
    // Nothing of all that is left.
    machine
        .qmp("object-del", json!({"id": "iommufd0"}))
        .unwrap();
    machine.qmp("object-add", object(None)).unwrap();
}

#[test]
fn an_iommufd_stays_as_long_as_a_device_needs_it() {
    // A target takes a function that is not there: it may be once the guest comes.
    let device = format!(
        "-object iommufd,id=iommufd0 -device vfio-pci,host={NOBODYS},id=primary0,bus=root1,failover_pair_id=standby0,iommufd=iommufd0 "
    );
    let machine =
        &mut Machine::start(&(PORTS.to_owned() + &standby("on") + &device + "-incoming defer"));
    assert_eq!(
        refused(machine, "object-del", json!({"id": "iommufd0"})),
        "object 'iommufd0' is in use, can not be deleted"
    );
    let link = json!({"path": "/machine/peripheral/primary0", "property": "iommufd"});
    let link = machine.qmp("qom-get", link);
    assert!(
        link.is_err() || link == Ok(json!("/objects/iommufd0")),
        "{link:?}"
    );
    machine
        .qmp("device_del", json!({"id": "primary0"}))
        .unwrap();
    machine
        .qmp("object-del", json!({"id": "iommufd0"}))
        .unwrap();
}
