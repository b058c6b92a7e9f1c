//! A scenario step by step: a machine, the guest in it, and what is done with both.
//!
//! Each step takes the act and gives it back, so that a scenario reads from its start to its end. What a step waits for that does
//! not come ends the scenario with an error.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{look, plain_look, until_back};
use crate::guest::Guest;
use crate::machine::pairs;
use crate::stage::Stage;
use crate::vmm::Vmm;

/// A machine of one of the scenario's parts, its guest, and what they have come to.
pub(super) struct Act {
    vmm: Vmm,
    guest: Option<Guest>,
    /// Ports with a standby that its guest accepted: the primary is at the port after it.
    accepted: Vec<usize>,
    folder: String,
}

impl Act {
    /// A machine with this command line; nobody plays its guest yet.
    pub(super) fn start(stage: &mut Stage, part: &str, line: &[String]) -> Result<Self> {
        Ok(Self {
            vmm: stage.start(part, line)?,
            guest: None,
            accepted: Vec::new(),
            folder: stage.text(""),
        })
    }

    /// The same, with a guest that has set up PCI.
    pub(super) fn boot(stage: &mut Stage, part: &str, line: &[String]) -> Result<Self> {
        Self::start(stage, part, line)?.guest_boots()
    }

    /// The scenario's one machine, with this many pairs, all of them accepted.
    pub(super) fn pairs(stage: &mut Stage, count: usize) -> Result<Self> {
        Self::pairs_as(stage, "vm", count)
    }

    /// The same in another part than `vm`.
    pub(super) fn pairs_as(stage: &mut Stage, part: &str, count: usize) -> Result<Self> {
        (0..count).try_fold(Self::boot(stage, part, &pairs(count))?, |act, pair| {
            act.accept(2 * pair)
        })
    }

    /// The guest sets up PCI.
    pub(super) fn guest_boots(mut self) -> Result<Self> {
        self.guest = Some(Guest::boot(&mut self.vmm)?);
        Ok(self)
    }

    fn guest(&mut self) -> Result<&mut Guest> {
        self.guest.as_mut().context("nobody plays the guest")
    }

    /// A command, whatever is answered. `DIR` in its arguments is the stage's folder.
    pub(super) fn ask(mut self, command: &str, arguments: Value) -> Result<Self> {
        let arguments = self.placed(arguments);
        self.vmm.ask(command, arguments)?;
        Ok(self)
    }

    /// A command that sets off something beside it.
    pub(super) fn set_off(mut self, command: &str, arguments: Value) -> Result<Self> {
        self.vmm.set_off(command, arguments)?;
        Ok(self)
    }

    /// A command that sets off these events, in any order.
    pub(super) fn set_off_until(mut self, command: &str, labels: &[&str]) -> Result<Self> {
        self.vmm.set_off_until(command, Value::Null, labels)?;
        Ok(self)
    }

    fn placed(&self, arguments: Value) -> Value {
        match arguments {
            Value::String(text) => {
                Value::from(text.replace("DIR", self.folder.trim_end_matches('/')))
            }
            Value::Object(map) => map
                .into_iter()
                .map(|(name, value)| (name, self.placed(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => other,
        }
    }

    /// Several commands, one after the other.
    pub(super) fn ask_all(self, commands: &[(&str, Value)]) -> Result<Self> {
        let mut commands = commands.iter();
        commands.try_fold(self, |act, (command, arguments)| {
            act.ask(command, arguments.clone())
        })
    }

    /// Says in the transcript what comes next.
    pub(super) fn step(mut self, what: &str) -> Self {
        self.vmm.step(what);
        self
    }

    /// What its monitor said first.
    pub(super) fn greeting(mut self) -> Self {
        let greeting = self.vmm.greeting();
        self.vmm.saw("greeting", greeting);
        self
    }

    /// Waits for an event.
    pub(super) fn wait(mut self, label: &str) -> Result<Self> {
        self.vmm.wait(label)?;
        Ok(self)
    }

    /// Waits for one of several events.
    pub(super) fn wait_any(mut self, labels: &[&str]) -> Result<Self> {
        self.vmm.wait_any(labels)?;
        Ok(self)
    }

    /// The same with a limit of the caller's.
    pub(super) fn wait_within(mut self, label: &str, limit: Duration) -> Result<Self> {
        self.vmm.wait_within(&[label], limit)?;
        Ok(self)
    }

    /// The guest's driver accepts the standby at a port, which is told.
    pub(super) fn accept(mut self, port: usize) -> Result<Self> {
        self.guest()?.accept(port)?;
        self.accepted.push(port);
        self.wait("FAILOVER_NEGOTIATED")
    }

    /// The guest does something by itself.
    pub(super) fn guest_does(
        mut self,
        what: impl FnOnce(&mut Guest) -> Result<()>,
    ) -> Result<Self> {
        what(self.guest()?)?;
        Ok(self)
    }

    /// The guest looks at all of PCI again.
    pub(super) fn enumerate(self) -> Result<Self> {
        self.guest_does(Guest::enumerate)
    }

    /// The guest ejects what is at a port.
    pub(super) fn eject(self, port: usize) -> Result<Self> {
        self.guest_does(|guest| guest.eject(port).map(drop))
    }

    /// The guest lets go of the primaries of all standbys that it accepted, in the order in which it did.
    pub(super) fn eject_primaries(self) -> Result<Self> {
        let ports = self.accepted.clone();
        ports.iter().try_fold(self, |act, port| act.eject(port + 1))
    }

    /// What the guest sees in a port's slot.
    pub(super) fn guest_looks(mut self, port: usize) -> Result<Self> {
        let seen = self.guest()?.identity(port)?;
        self.vmm
            .saw("guest sees", json!({"port": port, "function": seen}));
        Ok(self)
    }

    /// A line of the `qtest` protocol, and its answer as it is.
    pub(super) fn line(mut self, request: &str) -> Result<Self> {
        let answer = self.guest()?.line(request)?;
        self.vmm.saw(&format!("qtest {request}"), json!(answer));
        Ok(self)
    }

    /// Several, one after the other.
    pub(super) fn lines(self, requests: &[&str]) -> Result<Self> {
        let mut requests = requests.iter();
        requests.try_fold(self, |act, request| act.line(request))
    }

    /// Where the registers of the virtio device at a port are.
    pub(super) fn virtio_registers(mut self, port: usize) -> Result<Self> {
        for each in self.guest()?.registers(port)? {
            self.vmm.saw(
                &format!("registers {}", each.kind),
                json!({
                    "region": each.bar,
                    "offset": each.offset,
                    "bytes": each.bytes,
                    "multiplier": each.multiplier,
                }),
            );
        }
        Ok(self)
    }

    /// What the virtio device at a port offers, feature by feature.
    pub(super) fn features(mut self, port: usize) -> Result<Self> {
        let offered = self.guest()?.offered(port)?;
        for bit in (0..64).filter(|bit| offered >> bit & 1 == 1) {
            self.vmm.saw(&format!("feature {bit}"), json!(true));
        }
        Ok(self)
    }

    /// What the registers of a port's slot say.
    pub(super) fn slot(mut self, port: usize) -> Result<Self> {
        let slot = self.guest()?.slot(port)?;
        self.vmm.saw(
            "guest's slot",
            json!({
                "port": port,
                "occupied": slot.occupied,
                "button": slot.button,
                "powered": slot.powered,
                "indicator": slot.indicator,
            }),
        );
        Ok(self)
    }

    /// Has a migration's states told.
    pub(super) fn events(self) -> Result<Self> {
        self.capability("events")
    }

    /// Switches a capability on.
    pub(super) fn capability(mut self, name: &str) -> Result<Self> {
        let on = json!({"capabilities": [{"capability": name, "state": true}]});
        self.vmm.must("migrate-set-capabilities", on)?;
        Ok(self)
    }

    /// Slow enough for a client to be in time while memory is sent.
    pub(super) fn slowly(mut self) -> Result<Self> {
        self.guest()?.fill(32)?;
        let slow = json!({"max-bandwidth": 1024});
        self.vmm.must("migrate-set-parameters", slow)?;
        Ok(self)
    }

    /// Begins to migrate.
    pub(super) fn migrate(self, uri: &str) -> Result<Self> {
        self.ask("migrate", json!({"uri": uri}))
    }

    /// … until the guest is waited for.
    pub(super) fn migrate_and_wait(self, uri: &str) -> Result<Self> {
        self.migrate(uri)?.wait("MIGRATION wait-unplug")
    }

    /// … the primaries are let go of, and the migration is over.
    pub(super) fn migrate_all(self, uri: &str) -> Result<Self> {
        self.migrate_and_wait(uri)?.eject_primaries()?.completed()
    }

    /// Waits until an outgoing migration has completed, and its machine has come to rest.
    pub(super) fn completed(mut self) -> Result<Self> {
        super::completed(&mut self.vmm)?;
        Ok(self)
    }

    /// Cancels the migration, and waits until it is.
    pub(super) fn cancel(self) -> Result<Self> {
        self.set_off("migrate_cancel", Value::Null)?
            .wait("MIGRATION cancelled")
    }

    /// Waits until the primary of a pair is in its slot.
    pub(super) fn until_back(mut self, pair: usize) -> Result<Self> {
        until_back(&mut self.vmm, pair)?;
        Ok(self)
    }

    /// What is there, in all the ways a client can ask.
    pub(super) fn look(mut self) -> Result<Self> {
        look(&mut self.vmm)?;
        Ok(self)
    }

    /// The part of it that has to do with the machine and the migration.
    pub(super) fn plain_look(mut self) -> Result<Self> {
        plain_look(&mut self.vmm)?;
        Ok(self)
    }

    /// Ends the machine by its monitor.
    pub(super) fn finish(self) -> Result<()> {
        self.vmm.finish()
    }

    /// Waits for the machine's end, which comes by itself.
    pub(super) fn conclude(mut self) -> Result<()> {
        self.vmm.conclude()
    }

    /// Ends it where nothing more of it is to be compared.
    pub(super) fn abandon(self) {
        self.vmm.abandon();
    }

    /// Its process ends by a signal.
    pub(super) fn signalled(mut self, signal: rustix::process::Signal) -> Result<()> {
        let pid = i32::try_from(self.vmm.pid()).ok();
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("no process")?, signal)?;
        self.vmm.conclude()
    }

    /// Gives the monitor a descriptor under a name.
    pub(super) fn hand_over(
        mut self,
        name: &str,
        descriptor: std::os::fd::OwnedFd,
    ) -> Result<Self> {
        self.vmm.hand_over(name, descriptor)?;
        Ok(self)
    }
}
