//! A machine in this process with a pair, and the host around it: the ends of both networks and the switch between.

use anyhow::{Context as _, Result, bail, ensure};
use config::vm::{Accel, DeviceConfig, Incoming, NetdevConfig, ObjectConfig, VmConfig};
use config::{Options, Source};
use guest_model::{Bell, HostEnd};
use machine::clock::{Clock as _, ManualClock};
use machine::in_process::InProcess;
use machine::inspect::{Inspect, PairView};
use machine::{Board, MachineEvent, MachineListener};
use migration::{Capability, ParametersUpdate};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x11, 0x11, 0x11];
/// The other end of the network.
pub const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const STANDBY: &str = "standby0";
pub const PRIMARY: &str = "primary0";

const MEMORY_BYTES: u64 = 16 << 20;

/// What differs between machines.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Native PCIe hotplug; otherwise ACPI's.
    pub native: bool,
    /// It waits for its guest.
    pub incoming: bool,
    /// Guest memory is a file in this folder; otherwise a memfd.
    pub memory: Option<PathBuf>,
}

struct Ear {
    heard: Arc<Mutex<Vec<MachineEvent>>>,
    bell: Bell,
}

impl MachineListener for Ear {
    fn event(&self, event: MachineEvent) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push(event);
        self.bell.ring();
    }
}

pub struct Host {
    pub machine: InProcess,
    pub clock: Arc<ManualClock>,
    /// By bus: the standby's, the primary's.
    pub ends: [HostEnd; 2],
    heard: Arc<Mutex<Vec<MachineEvent>>>,
    folder: PathBuf,
}

fn configuration(setup: &Setup, ends: &[HostEnd; 2]) -> Result<VmConfig> {
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
    for (id, end) in ["n0", "n1"].into_iter().zip(ends) {
        let options = Options::parse(&end.netdev(id), Some("type"))?;
        let netdev = NetdevConfig::from_options(options, Source::CommandLine)?;
        config.netdevs.push(netdev);
    }
    for text in [
        "pcie-root-port,id=root0,bus=pcie.0,addr=0x1,chassis=1",
        "pcie-root-port,id=root1,bus=pcie.0,addr=0x2,chassis=2",
        "virtio-net-pci,netdev=n0,id=standby0,bus=root0,failover=on,mac=52:54:00:11:11:11",
        "virtio-net-pci,netdev=n1,id=primary0,bus=root1,failover_pair_id=standby0,mac=52:54:00:11:11:11",
    ] {
        let options = Options::parse(text, Some("driver"))?;
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
        let ends = [
            HostEnd::bind(folder, "standby")?,
            HostEnd::bind(folder, "primary")?,
        ];
        let clock = ManualClock::new();
        let heard = Arc::<Mutex<Vec<MachineEvent>>>::default();
        let ear = Box::new(Ear {
            heard: Arc::clone(&heard),
            bell: bell.clone(),
        });
        let machine = InProcess::start(configuration(setup, &ends)?, &clock, ear)?;
        let host = Self {
            machine,
            clock,
            ends,
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

    /// Which network its switch sends the guest's frames to: where the machine steered them last.
    pub fn path(&self) -> usize {
        let path = |event| match event {
            MachineEvent::FailoverPathChanged { path, .. } => Some(usize::from(path == "primary")),
            _ => None,
        };
        self.events()
            .into_iter()
            .rev()
            .find_map(path)
            .unwrap_or_default()
    }

    /// Whether it said that the primary is missing, and not since that it is back.
    pub fn told_missing(&self) -> bool {
        let told = |event| match event {
            MachineEvent::FailoverPathChanged { path, .. } if path == "primary" => Some(false),
            MachineEvent::FailoverPrimaryMissing { .. } => Some(true),
            _ => None,
        };
        let mut events = self.events().into_iter().rev();
        events.find_map(told).unwrap_or_default()
    }

    pub fn pair(&self) -> Result<PairView> {
        let pairs = self.ask(|board| Inspect::pairs(board))?;
        pairs.into_iter().next().context("no pair")
    }

    /// How long until something of the machine's own is due; all it was asked for so far is done by then.
    pub fn due_in(&self) -> Result<Option<Duration>> {
        let deadline = self.ask(|board| board.next_deadline())?;
        let now = self.machine.control.now();
        Ok(deadline.map(|at| Duration::from_millis(at.ms_since(now))))
    }

    pub fn listen(&self, uri: &str) -> Result<()> {
        let uri = uri.to_owned();
        self.ask(move |board| board.migrate_incoming(&uri, false, &mut |_| None))??;
        Ok(())
    }

    /// Begins a migration; it is in `setup` by then.
    pub fn migrate(&self, uri: &str) -> Result<()> {
        let uri = uri.to_owned();
        self.ask(move |board| board.migrate(&uri, &mut |_| None, Box::new(|_| {})))?;
        ensure!(self.was("setup"), "the migration was refused");
        Ok(())
    }

    pub fn cancel(&self) -> Result<()> {
        self.ask(Board::migrate_cancel)
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
            ..
        } = self;
        machine.end();
        drop(ends);
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
