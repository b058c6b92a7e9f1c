//! A machine in this process with a pair or two, and the host around it: the ends of the networks and the switch between.

use super::operator::{Beginning, Operator};
use anyhow::{Context as _, Result, bail, ensure};
use config::vm::{Accel, DeviceConfig, Incoming, NetdevConfig, ObjectConfig, VmConfig};
use config::{Options, Source};
use guest_model::{Bdf, Bell, HostEnd};
use machine::clock::{Clock as _, ManualClock};
use machine::in_process::InProcess;
use machine::inspect::{Inspect, PairView};
use machine::{Board, MachineEvent, MachineListener, MigrationNews};
use migration::{Capability, ParametersUpdate};
use serde_json::{Value, json};
use standfast::events::EventForwarder;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The other end of the network.
pub const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The first pair is number 0.
pub const fn mac(pair: usize) -> [u8; 6] {
    [0x52, 0x54, 0, 0x11, 0x11, 0x11 + pair as u8]
}

pub fn standby(pair: usize) -> String {
    format!("standby{pair}")
}

pub fn primary(pair: usize) -> String {
    format!("primary{pair}")
}

/// The number of a pair's network, which is behind the port of this number: the standby's, or the primary's.
pub const fn network(pair: usize, primary: bool) -> usize {
    2 * pair + primary as usize
}

/// The port behind which a pair's primary is.
pub const fn port(pair: usize) -> Bdf {
    Bdf::new(0, network(pair, true) as u8 + 1, 0)
}

/// The pair that a function is of.
pub fn pair_of(function: Bdf) -> usize {
    usize::from(function.bus().saturating_sub(1)) / 2
}

const MEMORY_BYTES: u64 = 16 << 20;

/// What differs between machines.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Native PCIe hotplug; otherwise ACPI's.
    pub native: bool,
    /// Two pairs; otherwise one.
    pub two: bool,
    /// It is ordered over a monitor where a client would: `migrate`, `migrate-incoming` and `migrate-continue`.
    pub monitor: bool,
    /// It waits for its guest.
    pub incoming: bool,
    /// Guest memory is a file in this folder; otherwise a memfd.
    pub memory: Option<PathBuf>,
}

impl Setup {
    pub const fn pairs(&self) -> usize {
        1 + self.two as usize
    }
}

struct Ear {
    heard: Arc<Mutex<Vec<MachineEvent>>>,
    bell: Bell,
    forwarder: Option<EventForwarder>,
}

impl MachineListener for Ear {
    fn migration(&self, news: MigrationNews) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.migration(news);
        }
    }

    fn event(&self, event: MachineEvent) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.event(event.clone());
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push(event);
        self.bell.ring();
    }
}

pub struct Host {
    pub machine: InProcess,
    pub clock: Arc<ManualClock>,
    /// By [`network`].
    pub ends: Vec<HostEnd>,
    operator: Mutex<Option<Operator>>,
    heard: Arc<Mutex<Vec<MachineEvent>>>,
    folder: PathBuf,
}

fn configuration(setup: &Setup, ends: &[HostEnd]) -> Result<VmConfig> {
    let mut config = VmConfig {
        memory_bytes: MEMORY_BYTES,
        ..VmConfig::default()
    };
    config.machine.accel = vec![Accel::Qtest];
    config.machine.acpi_pci_hotplug = !setup.native;
    config.incoming = setup.incoming.then_some(Incoming::Defer);
    if let Some(folder) = &setup.memory {
        let text = format!(
            "memory-backend-file,id=pc.ram,size={MEMORY_BYTES},share=on,mem-path={}",
            folder.display()
        );
        let options = Options::parse(&text, Some("qom-type"))?;
        let object = ObjectConfig::from_options(options, Source::CommandLine)?;
        config.objects.push(object);
        config.machine.memory_backend = Some("pc.ram".into());
    }
    for (number, end) in ends.iter().enumerate() {
        let options = Options::parse(&end.netdev(&format!("n{number}")), Some("type"))?;
        let netdev = NetdevConfig::from_options(options, Source::CommandLine)?;
        config.netdevs.push(netdev);
    }
    let ports = (0..ends.len()).map(|number| {
        let at = number + 1;
        format!("pcie-root-port,id=root{number},bus=pcie.0,addr=0x{at:x},chassis={at}")
    });
    let functions = (0..setup.pairs()).flat_map(|pair| {
        let mac = mac(pair).map(|byte| format!("{byte:02x}")).join(":");
        let (slow, fast) = (network(pair, false), network(pair, true));
        let function = |network: usize, rest: String| {
            format!("virtio-net-pci,netdev=n{network},bus=root{network},mac={mac},{rest}")
        };
        [
            function(slow, format!("id={},failover=on", standby(pair))),
            function(
                fast,
                format!("id={},failover_pair_id={}", primary(pair), standby(pair)),
            ),
        ]
    });
    for text in ports.chain(functions) {
        let options = Options::parse(&text, Some("driver"))?;
        config
            .devices
            .push(DeviceConfig::from_options(options, Source::CommandLine)?);
    }
    Ok(config)
}

impl Host {
    /// A machine by a clock of its own; its sockets go to `folder`. Whatever it tells rings `bell`.
    pub fn start(folder: &Path, setup: &Setup, bell: &Bell) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let names = (0..setup.pairs()).flat_map(|pair| [standby(pair), primary(pair)]);
        let ends: Vec<_> = names
            .map(|name| HostEnd::bind(folder, &name))
            .collect::<Result<_, _>>()?;
        let clock = ManualClock::new();
        let heard = Arc::<Mutex<Vec<MachineEvent>>>::default();
        let config = configuration(setup, &ends)?;
        let beginning = setup.monitor.then(Beginning::new);
        let ear = Box::new(Ear {
            heard: Arc::clone(&heard),
            bell: bell.clone(),
            forwarder: beginning.as_ref().map(|begun| begun.forwarder(&config)),
        });
        let machine = InProcess::start(config.clone(), &clock, ear)?;
        let listen = |begun: Beginning| begun.listen(&config, &machine.control, folder);
        let operator = beginning.map(listen).transpose()?;
        let host = Self {
            machine,
            clock,
            ends,
            operator: Mutex::new(operator),
            heard,
            folder: folder.to_owned(),
        };
        host.ask(|board| board.migrate_set_capabilities(&[(Capability::Events, true)]))??;
        // Waiting for its turn a sender would sleep by the host's clock, as if there was nothing to do.
        let update = ParametersUpdate {
            max_bandwidth_bytes: Some(0),
            ..ParametersUpdate::default()
        };
        host.ask(move |board| board.migrate_set_parameters(&update))??;
        Ok(host)
    }

    pub fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Board) -> T + Send + 'static,
    ) -> Result<T> {
        Ok(self.machine.control.ask(job)?)
    }

    /// All it told so far.
    pub fn events(&self) -> Vec<MachineEvent> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }

    /// How its migrations went so far, state by state.
    pub fn states(&self) -> Vec<String> {
        let state = |event| match event {
            MachineEvent::Migration(state) => Some(state),
            _ => None,
        };
        self.events().into_iter().filter_map(state).collect()
    }

    /// Why its migration failed.
    pub fn failure(&self) -> Option<String> {
        let info = self.ask(|board| Inspect::migrate_info(board));
        info.ok().flatten().and_then(|info| info.error_desc)
    }

    pub fn was(&self, state: &str) -> bool {
        self.states().iter().any(|seen| seen == state)
    }

    /// Whether its latest migration has ended, however.
    pub fn ended(&self) -> bool {
        let last = self.states().pop();
        last.is_some_and(|s| ["completed", "cancelled", "failed"].contains(&s.as_str()))
    }

    pub fn runs(&self) -> bool {
        self.machine.gate.is_open()
    }

    /// Which network its switch sends a pair's frames to: where the machine steered them last.
    pub fn path(&self, pair: usize) -> usize {
        let path = |event| match event {
            MachineEvent::FailoverPathChanged { id, path, .. } if id == standby(pair) => {
                Some(path == "primary")
            }
            _ => None,
        };
        let last = self.events().into_iter().rev().find_map(path);
        network(pair, last.unwrap_or_default())
    }

    /// Whether it said that a pair's primary is missing, and not since that it is back.
    pub fn told_missing(&self, pair: usize) -> bool {
        let of = standby(pair);
        let told = |event| match event {
            MachineEvent::FailoverPathChanged { id, path, .. } if id == of && path == "primary" => {
                Some(false)
            }
            MachineEvent::FailoverPrimaryMissing { standby, .. } if standby == of => Some(true),
            _ => None,
        };
        let mut events = self.events().into_iter().rev();
        events.find_map(told).unwrap_or_default()
    }

    /// All pairs, by number.
    pub fn pairs(&self) -> Result<Vec<PairView>> {
        let mut pairs = self.ask(|board| Inspect::pairs(board))?;
        pairs.sort_by(|one, other| one.standby.cmp(&other.standby));
        Ok(pairs)
    }

    pub fn pair(&self, pair: usize) -> Result<PairView> {
        self.pairs()?.into_iter().nth(pair).context("no such pair")
    }

    fn operator(&self) -> MutexGuard<'_, Option<Operator>> {
        self.operator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The monitor's client goes, and another in the middle of this line; the next one finds the migration as it was.
    pub fn clients_go(&self, half: &str) -> Result<()> {
        let mut operator = self.operator();
        let operator = operator.as_mut().context("no monitor")?;
        let was = self.states().pop();
        operator.clients_go(half)?;
        let info = operator.execute("query-migrate", None)?;
        let is = info["status"].as_str().map(str::to_owned);
        ensure!(
            is == was,
            "it was {was:?}, and is {is:?} once its client has gone"
        );
        Ok(())
    }

    /// An order over the monitor; `false` where there is none.
    fn order(&self, command: &str, arguments: Value) -> Result<bool> {
        match &mut *self.operator() {
            Some(operator) => operator.execute(command, Some(arguments)).map(|_| true),
            None => Ok(false),
        }
    }

    /// How long until something of the machine's own is due; all it was asked for so far is done by then.
    pub fn due_in(&self) -> Result<Option<Duration>> {
        let deadline = self.ask(|board| board.next_deadline())?;
        let now = self.machine.control.now();
        Ok(deadline.map(|at| Duration::from_millis(at.ms_since(now))))
    }

    /// How long until a migration, which waits on a thread of its own, waits no longer.
    pub fn alarm_in(&self) -> Option<Duration> {
        let at = self.clock.next_alarm()?;
        Some(at.saturating_sub(self.clock.now()))
    }

    pub fn listen(&self, uri: &str) -> Result<()> {
        let order = json!({ "uri": uri, "exit-on-error": false });
        if self.order("migrate-incoming", order)? {
            return Ok(());
        }
        let uri = uri.to_owned();
        self.ask(move |board| board.migrate_incoming(&uri, false, &mut |_| None))??;
        Ok(())
    }

    /// Begins a migration; it is in `setup` by then.
    pub fn migrate(&self, uri: &str) -> Result<()> {
        if self.order("migrate", json!({ "uri": uri }))? {
            ensure!(self.was("setup"), "no migration began");
            return Ok(());
        }
        let uri = uri.to_owned();
        self.ask(move |board| board.migrate(&uri, &mut |_| None, Box::new(|_| {})))?;
        ensure!(self.was("setup"), "the migration was refused");
        Ok(())
    }

    pub fn cancel(&self) -> Result<()> {
        self.ask(Board::migrate_cancel)
    }

    /// `migrate-continue`, where something waits for it.
    pub fn go_on(&self) -> Result<()> {
        let waits = self.states().pop().is_some_and(|s| s == "pre-switchover");
        let state = json!({ "state": "pre-switchover" });
        if waits && !self.order("migrate-continue", state)? {
            // Not any more if it was cancelled.
            let _ = self.ask(Board::migrate_continue)?;
        }
        Ok(())
    }

    pub fn jump(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Ends the machine, and looks for what it leaves of files in its folder.
    pub fn end(self) -> Result<()> {
        let Self {
            machine,
            ends,
            folder,
            operator,
            ..
        } = self;
        machine.end();
        drop(ends);
        if let Some(operator) = operator
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            operator.end()?;
        }
        for left in std::fs::read_dir(&folder)? {
            let name = left?.file_name().to_string_lossy().into_owned();
            // The ends of the wire are this test's own.
            if !name.ends_with(".host") {
                bail!("'{name}' was left behind");
            }
        }
        Ok(())
    }
}
