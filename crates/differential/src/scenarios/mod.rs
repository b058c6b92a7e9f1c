//! The scenarios, by what they are about.

mod act;
mod boot;
mod cancel;
mod device;
mod migrate;
mod monitor;
mod native;
mod pair;
mod registers;
mod target;

use act::Act;
use anyhow::Result;
use serde_json::{Value, json};

use crate::machine::{board, standby, words};
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
        name: "device",
        scenarios: device::SCENARIOS,
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
        name: "native",
        scenarios: native::SCENARIOS,
    },
    Group {
        name: "registers",
        scenarios: registers::SCENARIOS,
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

/// A stopped machine with a standby at the first of three ports is asked, in this order.
fn ask(stage: &mut Stage, commands: &[(&str, Value)]) -> Result<()> {
    asked(
        stage,
        &[board(3), standby(0), words("-S")].concat(),
        commands,
    )
}

fn asked(stage: &mut Stage, line: &[String], commands: &[(&str, Value)]) -> Result<()> {
    Act::start(stage, "vm", line)?.ask_all(commands)?.finish()
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
