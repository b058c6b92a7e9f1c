//! The scenarios, by what they are about.

mod boot;
mod cancel;
mod migrate;
mod monitor;
mod pair;
mod target;

use anyhow::Result;
use serde_json::{Value, json};

use crate::guest::Guest;
use crate::machine::pairs;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::vmm::Vmm;

/// A group of scenarios.
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// Its scenarios.
    pub scenarios: &'static [Scenario],
}

/// All of them.
pub const GROUPS: &[Group] = &[
    Group {
        name: "boot",
        scenarios: boot::SCENARIOS,
    },
    Group {
        name: "monitor",
        scenarios: monitor::SCENARIOS,
    },
    Group {
        name: "pair",
        scenarios: pair::SCENARIOS,
    },
    Group {
        name: "migrate",
        scenarios: migrate::SCENARIOS,
    },
    Group {
        name: "cancel",
        scenarios: cancel::SCENARIOS,
    },
    Group {
        name: "target",
        scenarios: target::SCENARIOS,
    },
    Group {
        name: "slow",
        scenarios: cancel::SLOW,
    },
];

/// What is there, in all the ways a client can ask.
fn look(vmm: &mut Vmm) -> Result<()> {
    vmm.ask("query-status", Value::Null)?;
    vmm.ask("query-migrate", Value::Null)?;
    vmm.ask("query-pci", Value::Null)?;
    vmm.ask("qom-list", json!({"path": "/machine/peripheral"}))?;
    for (id, property) in [
        ("standby0", "failover"),
        ("standby0", "realized"),
        ("standby0", "hotplugged"),
        ("primary0", "failover_pair_id"),
        ("primary0", "realized"),
        ("primary0", "hotplugged"),
    ] {
        let path = format!("/machine/peripheral/{id}");
        vmm.ask("qom-get", json!({"path": path, "property": property}))?;
    }
    Ok(())
}

/// The part of it that has to do with the machine and the migration.
fn plain_look(vmm: &mut Vmm) -> Result<()> {
    vmm.ask("query-status", Value::Null)?;
    vmm.ask("query-migrate", Value::Null)?;
    vmm.ask("query-pci", Value::Null)?;
    Ok(())
}

/// A running machine with this many pairs, all of them accepted.
fn accepted(stage: &mut Stage, count: usize) -> Result<(Vmm, Guest)> {
    accepted_as(stage, "vm", count)
}

/// The same in another part than `vm`.
fn accepted_as(stage: &mut Stage, part: &str, count: usize) -> Result<(Vmm, Guest)> {
    let mut vmm = stage.start(part, &pairs(count))?;
    let mut guest = Guest::boot(&mut vmm)?;
    for pair in 0..count {
        guest.accept(2 * pair)?;
        vmm.wait("FAILOVER_NEGOTIATED")?;
    }
    Ok((vmm, guest))
}

/// The guest lets go of all primaries, in the order of their ports.
fn eject_primaries(guest: &mut Guest, count: usize) -> Result<()> {
    (0..count).try_for_each(|pair| guest.eject(2 * pair + 1).map(drop))
}

/// Has a migration's states told.
fn events(vmm: &mut Vmm) -> Result<()> {
    vmm.must(
        "migrate-set-capabilities",
        json!({"capabilities": [{"capability": "events", "state": true}]}),
    )
    .map(drop)
}

/// Waits until the primary of a pair is in its slot: on a target that may be after the guest has gone on.
fn until_back(vmm: &mut Vmm, pair: usize) -> Result<()> {
    let path = format!("/machine/peripheral/primary{pair}");
    let realized = json!({"path": path, "property": "realized"});
    vmm.until("qom-get", realized, |reply| {
        reply.get("return") == Some(&Value::Bool(true))
    })
}

/// Waits until an outgoing migration has completed, and its machine has come to rest: the event comes a little before that.
fn completed(vmm: &mut Vmm) -> Result<()> {
    vmm.wait("MIGRATION completed")?;
    vmm.until("query-status", Value::Null, |reply| {
        reply.pointer("/return/status") == Some(&Value::from("postmigrate"))
    })
}
