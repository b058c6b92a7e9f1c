//! The pair while nothing migrates: what the guest accepts, and what is plugged and unplugged.

use anyhow::Result;
use serde_json::{Value, json};

use super::{accepted, look};
use crate::guest::Guest;
use crate::intended::{DANGLING, HIDDEN, ONCE, OTHER_ID, RESET};
use crate::machine::{add_primary, add_standby, board, pairs, primary, standby, words};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;
use crate::vmm::Vmm;

/// Several pairs, looked at.
fn several(stage: &mut Stage, count: usize) -> Result<()> {
    let (mut vmm, _guest) = accepted(stage, count)?;
    vmm.ask("query-pci", Value::Null)?;
    vmm.ask("qom-list", json!({"path": "/machine/peripheral"}))?;
    vmm.finish()
}

/// What the guest sees of the port's slot.
fn guest_looks(vmm: &mut Vmm, guest: &mut Guest, port: usize) -> Result<()> {
    let seen = guest.identity(port)?;
    vmm.saw("guest sees", json!({"port": port, "function": seen}));
    Ok(())
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!("pair-accepted", "the guest accepts STANDBY", |stage| {
        let (mut vmm, mut guest) = accepted(stage, 1)?;
        look(&mut vmm)?;
        guest_looks(&mut vmm, &mut guest, 1)?;
        vmm.finish()
    }),
    row!("pair-refused", "the guest does not accept it", |stage| {
        let mut vmm = stage.start("vm", &pairs(1))?;
        let mut guest = Guest::boot(&mut vmm)?;
        guest.refuse(0)?;
        look(&mut vmm)?;
        guest_looks(&mut vmm, &mut guest, 1)?;
        vmm.finish()
    }),
    row!(
        "pair-accepted-again",
        "the driver is loaded anew",
        |stage| {
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            guest.reset(0)?;
            look(&mut vmm)?;
            guest.accept(0)?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[ONCE]
    ),
    row!(
        "pair-refused-later",
        "a driver that does not accept follows one that did",
        |stage| {
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            guest.reset(0)?;
            guest.refuse(0)?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[ONCE]
    ),
    row!(
        "pair-guest-reset",
        "the machine is reset, and the guest accepts again",
        |stage| {
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            vmm.ask("system_reset", Value::Null)?;
            look(&mut vmm)?;
            guest.enumerate()?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[ONCE, RESET]
    ),
    row!(
        "pair-primary-listed-first",
        "the primary before its standby on the command line",
        |stage| {
            let line = [board(2), primary(0), standby(0)].concat();
            let mut vmm = stage.start("vm", &line)?;
            look(&mut vmm)?;
            let mut guest = Guest::boot(&mut vmm)?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[HIDDEN]
    ),
    row!(
        "pair-mismatched-id",
        "the primary names another standby",
        |stage| {
            let mut line = [board(2), standby(0)].concat();
            line.extend(words("-device virtio-net-pci,id=primary0,bus=root1,romfile=,mac=52:54:00:00:00:01,failover_pair_id=nope"));
            let mut vmm = stage.start("vm", &line)?;
            let mut guest = Guest::boot(&mut vmm)?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[DANGLING]
    ),
    row!(
        "pair-failover-off",
        "the standby does not offer it",
        |stage| {
            let mut line = board(2);
            line.extend(words(
                "-device virtio-net-pci,id=standby0,bus=root0,romfile=,mac=52:54:00:00:00:01",
            ));
            line.extend(primary(0));
            let mut vmm = stage.start("vm", &line)?;
            let mut guest = Guest::boot(&mut vmm)?;
            guest.accept(0)?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[DANGLING]
    ),
    row!("pair-two", "two pairs", |stage| several(stage, 2)),
    row!("pair-three", "three pairs", |stage| several(stage, 3)),
    row!("pair-eight", "eight pairs", |stage| several(stage, 8)),
    row!("pair-stop-cont", "stop and cont around it", |stage| {
        let mut vmm = stage.start("vm", &pairs(1))?;
        let mut guest = Guest::boot(&mut vmm)?;
        vmm.ask("stop", Value::Null)?;
        guest.accept(0)?;
        vmm.wait("FAILOVER_NEGOTIATED")?;
        look(&mut vmm)?;
        vmm.ask("cont", Value::Null)?;
        look(&mut vmm)?;
        vmm.finish()
    }),
    row!(
        "hotplug-primary-late",
        "the primary comes after the guest has accepted",
        |stage| {
            let mut vmm = stage.start("vm", &[board(2), standby(0)].concat())?;
            let mut guest = Guest::boot(&mut vmm)?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            look(&mut vmm)?;
            vmm.ask("device_add", add_primary(0))?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "hotplug-standby-first",
        "both by the monitor, the standby first, and the guest accepts",
        |stage| {
            let mut vmm = stage.start("vm", &board(2))?;
            let mut guest = Guest::boot(&mut vmm)?;
            vmm.ask("device_add", add_standby(0))?;
            vmm.ask("device_add", add_primary(0))?;
            guest.enumerate()?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "hotplug-standby-alone",
        "the standby by the monitor, accepted before there is a primary",
        |stage| {
            let mut vmm = stage.start("vm", &board(2))?;
            let mut guest = Guest::boot(&mut vmm)?;
            vmm.ask("device_add", add_standby(0))?;
            guest.enumerate()?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            vmm.ask("device_add", add_primary(0))?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "hotplug-primary-first",
        "both by the monitor, the primary first, and the guest accepts",
        |stage| {
            let mut vmm = stage.start("vm", &board(2))?;
            let mut guest = Guest::boot(&mut vmm)?;
            vmm.ask("device_add", add_primary(0))?;
            look(&mut vmm)?;
            vmm.ask("device_add", add_standby(0))?;
            guest.enumerate()?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            look(&mut vmm)?;
            vmm.finish()
        },
        &[DANGLING]
    ),
    row!(
        "hotplug-after-reset",
        "both by the monitor after a reset",
        |stage| {
            let mut vmm = stage.start("vm", &board(2))?;
            let mut guest = Guest::boot(&mut vmm)?;
            vmm.ask("system_reset", Value::Null)?;
            vmm.ask("device_add", add_standby(0))?;
            vmm.ask("device_add", add_primary(0))?;
            guest.enumerate()?;
            guest.accept(0)?;
            vmm.wait("FAILOVER_NEGOTIATED")?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "unplug-primary",
        "device_del of the primary, and device_add again",
        |stage| {
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            guest.eject(1)?;
            vmm.wait("DEVICE_DELETED primary0")?;
            look(&mut vmm)?;
            vmm.ask("device_add", add_primary(0))?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "unplug-primary-other-id",
        "device_del of the primary, and another in its stead",
        |stage| {
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            guest.eject(1)?;
            vmm.wait("DEVICE_DELETED primary0")?;
            let mut other = add_primary(0);
            if let Some(map) = other.as_object_mut() {
                map.insert("id".into(), json!("primary9"));
            }
            vmm.ask("device_add", other)?;
            vmm.ask("query-pci", Value::Null)?;
            vmm.finish()
        },
        &[OTHER_ID]
    ),
    row!(
        "unplug-primary-twice",
        "device_del twice before the guest ejects",
        |stage| {
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            look(&mut vmm)?;
            guest.eject(1)?;
            vmm.wait("DEVICE_DELETED primary0")?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            vmm.finish()
        }
    ),
    row!("unplug-standby", "device_del of the standby", |stage| {
        let (mut vmm, mut guest) = accepted(stage, 1)?;
        vmm.ask("device_del", json!({"id": "standby0"}))?;
        guest.eject(0)?;
        vmm.wait("DEVICE_DELETED standby0")?;
        look(&mut vmm)?;
        vmm.finish()
    }),
    row!(
        "unplug-both",
        "device_del of the primary, then of the standby, then both again",
        |stage| {
            let (mut vmm, mut guest) = accepted(stage, 1)?;
            for (id, port) in [("primary0", 1), ("standby0", 0)] {
                vmm.ask("device_del", json!({"id": id}))?;
                guest.eject(port)?;
                vmm.wait(&format!("DEVICE_DELETED {id}"))?;
            }
            look(&mut vmm)?;
            vmm.ask("device_add", add_standby(0))?;
            vmm.ask("device_add", add_primary(0))?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
    row!(
        "unplug-while-reset",
        "device_del of the primary, and a reset before the guest ejects",
        |stage| {
            let (mut vmm, _guest) = accepted(stage, 1)?;
            vmm.ask("device_del", json!({"id": "primary0"}))?;
            vmm.set_off("system_reset", Value::Null)?;
            vmm.wait("DEVICE_DELETED primary0")?;
            look(&mut vmm)?;
            vmm.finish()
        }
    ),
];
