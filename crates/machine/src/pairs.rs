//! Failover pairs: carries out what the state machine of crate `failover` decides, and tells it what happened.
//!
//! ```text
//!   slots, NICs, monitor, migration ──events──▶ failover::Pairs ──actions──▶ here ──▶ slots, host's switch, events
//! ```
//! Opening a primary is slow (its DMA mappings, its reset): it happens on a thread of its own beside the running
//! guest, which posts the result back.

use crate::MachineError;
use crate::board::Board;
use crate::control::Control;
use crate::devices::{Body, Made, Place, device_path, function, host_spec};
use crate::event::MachineEvent;
use crate::inspect::{PairCounters, device_of};
use crate::primary_watch::{SharedSteering, WatchedPrimary};
use config::vm::{DeviceConfig, DeviceKind};
use failover::{
    Action, Event, Illegal, Moment, Notice, Pairs, Placing, PlugStage, PrimarySpec, Slot,
    StandbySpec, State, Timing, When,
};
use net::steer::{Report, Steering};
use pci::{PciDevice, SlotEvent, SlotListener};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use vfio::{Container, HostDevice, VfioConfig, VfioListener, VfioPci};

/// Hands what slots tell on to the control thread.
pub(crate) struct SlotWatcher(Control);

impl SlotWatcher {
    pub(crate) fn new(control: Control) -> Self {
        Self(control)
    }
}

impl SlotListener for SlotWatcher {
    fn slot_event(&self, event: SlotEvent) {
        self.0.post(move |board| board.slot_event(event));
    }
}

/// Hands what a passed-through function tells on to the control thread.
struct FunctionWatcher(Control);

impl VfioListener for FunctionWatcher {
    fn device_error(&self, id: &str) {
        let id = id.to_owned();
        self.0
            .post(move |board| board.primary_failed(&id, "it reported an uncorrectable error"));
    }

    fn device_requested(&self, id: &str) {
        let id = id.to_owned();
        self.0
            .post(move |board| board.primary_failed(&id, "the host wants it back"));
    }
}

/// What the board keeps of a primary.
pub(crate) struct Primary {
    pub(crate) config: DeviceConfig,
    place: Place,
    /// Open, whether it is in its slot or not.
    vfio: Option<Arc<VfioPci>>,
    /// A primary without hardware behind it.
    other: Option<Made>,
    in_slot: bool,
    /// Set to break off the thread that opens it.
    opening: Option<Arc<AtomicBool>>,
}

impl Primary {
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether its state can be migrated, should it be an ordinary device to the guest.
    pub(crate) fn migrates(&self) -> bool {
        migrates(&self.config)
    }
}

/// The pairs, and what belongs to them.
pub struct PairKeeper {
    pairs: Pairs,
    primaries: BTreeMap<String, Primary>,
    steering: BTreeMap<String, SharedSteering>,
    container: Option<Arc<Container>>,
    /// Set to break off the thread that populates memory.
    populating: Option<Arc<AtomicBool>>,
    /// Standbys that a migration brought accepted: told when the guest is this machine's, and its primaries are being
    /// plugged. A client that hears of one looks for its primary.
    arrived: Option<Vec<String>>,
    counters: BTreeMap<String, PairCounters>,
}

impl PairKeeper {
    pub(crate) fn new(incoming: bool) -> Self {
        let pairs = if incoming {
            Pairs::incoming(Timing::default())
        } else {
            Pairs::new(Timing::default())
        };
        Self {
            pairs,
            primaries: BTreeMap::new(),
            steering: BTreeMap::new(),
            container: None,
            populating: None,
            arrived: None,
            counters: BTreeMap::new(),
        }
    }

    /// The state machine, to be looked at.
    pub fn pairs(&self) -> &Pairs {
        &self.pairs
    }

    pub(crate) fn pairs_mut(&mut self) -> &mut Pairs {
        &mut self.pairs
    }

    pub(crate) fn primaries(&self) -> impl Iterator<Item = (&String, &Primary)> {
        self.primaries.iter()
    }

    /// What happened to the pair of this standby so far.
    pub(crate) fn counters_of(&self, standby: &str) -> PairCounters {
        self.counters.get(standby).copied().unwrap_or_default()
    }

    /// The counters of the pair that a device belongs to, by either id.
    fn counters_mut(&mut self, device: &str) -> Option<&mut PairCounters> {
        let pair = self.pairs.by_standby(device);
        let pair = pair.or_else(|| self.pairs.by_primary(device))?;
        Some(self.counters.entry(pair.standby().to_owned()).or_default())
    }

    fn count(&mut self, action: &Action) {
        if let Some(counters) = device_of(action).and_then(|device| self.counters_mut(device)) {
            counters.note_action(action);
        }
    }

    pub(crate) fn primary(&self, id: &str) -> Option<&Primary> {
        self.primaries.get(id)
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.pairs.next_deadline()
    }

    pub(crate) fn set_guest_running(&mut self, running: bool) {
        self.pairs.set_guest_running(running);
    }

    /// A standby was taken out of the machine; whether it was one.
    pub(crate) fn forget_standby(&mut self, id: &str) -> bool {
        self.steering.remove(id);
        self.counters.remove(id);
        self.pairs.remove_standby(id).is_ok()
    }

    pub(crate) fn incoming_failed(&mut self, now: Moment) {
        if let Err(error) = self.pairs.incoming_failed(now) {
            tracing::debug!(%error, "failover");
        }
    }

    /// The guest is here, or does not come: what is not populated by now is when it is mapped.
    pub(crate) fn stop_populating(&mut self) {
        if let Some(stop) = self.populating.take() {
            stop.store(true, Ordering::Relaxed);
        }
    }

    /// How the host's switch is steered for a standby, for `info network`.
    pub fn steering_of(&self, standby: &str) -> Option<String> {
        self.steering.get(standby).map(|s| lock(s).describe())
    }
}

fn migrates(primary: &DeviceConfig) -> bool {
    !matches!(primary.kind, DeviceKind::VfioPci(_))
}

fn lock(steering: &SharedSteering) -> MutexGuard<'_, Steering> {
    steering.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs what steering did; a step that failed never stops anything.
pub(crate) fn report(what: &str, standby: &str, report: &Report) {
    for (step, error) in report.failures() {
        tracing::warn!(standby, %step, %error, "steering the host's switch to the {what}: a step failed");
    }
    for (step, outcome) in &report.steps {
        tracing::debug!(standby, %step, ?outcome, "steering the host's switch to the {what}");
    }
}

impl Board {
    fn now(&self) -> Moment {
        self.control.now()
    }

    fn container(&mut self) -> Arc<Container> {
        let (ram, platform) = (Arc::clone(&self.ram), self.vm.clone());
        Arc::clone(
            self.pairs
                .container
                .get_or_insert_with(|| Container::new(ram, platform)),
        )
    }

    fn vfio_config(&self, config: &DeviceConfig, key: &str) -> Result<VfioConfig, MachineError> {
        let DeviceKind::VfioPci(vfio) = &config.kind else {
            return Err(MachineError::refused(format!(
                "'{}' is no vfio-pci",
                config.driver
            )));
        };
        if vfio.iommufd.is_some() {
            return Err(MachineError::refused(
                "iommufd=: not supported yet; leave it out to use the group interface",
            ));
        }
        let mut wanted = VfioConfig::new(key, host_spec(vfio));
        wanted.listener = Some(Arc::new(FunctionWatcher(self.control.clone())));
        Ok(wanted)
    }

    /// Opens a passed-through function now, on this thread.
    pub(crate) fn open_now(
        &mut self,
        config: &DeviceConfig,
        key: &str,
    ) -> Result<Made, MachineError> {
        let wanted = self.vfio_config(config, key)?;
        let container = self.container();
        let device = VfioPci::open(wanted, &container, &mut |_| ControlFlow::Continue(()))
            .map_err(|e| MachineError::refused(e.to_string()))?;
        Ok(Made {
            body: Body::Vfio(Arc::clone(&device)),
            function: device,
        })
    }

    /// A guest is on its way that will want its passed-through primary back: has the host provide the memory now,
    /// while the stream comes in, which is most of what opening the primary takes.
    pub(crate) fn prepare_memory(&mut self) {
        let waited_for = self
            .pairs
            .primaries
            .values()
            .any(|primary| matches!(primary.config.kind, DeviceKind::VfioPci(_)));
        if !waited_for || self.pairs.populating.is_some() {
            return;
        }
        let container = self.container();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            // Only what the receiver and other guests leave over.
            if let Err(error) = rustix::process::setpriority_process(None, 19) {
                tracing::debug!(%error, "the priority cannot be lowered");
            }
            let result = container.populate(&mut |_| {
                if stopped.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            tracing::debug!(?result, "memory populated for the primaries");
        };
        match thread::Builder::new().name("populate".into()).spawn(work) {
            Ok(_) => self.pairs.populating = Some(stop),
            Err(error) => tracing::debug!(%error, "memory is populated when it is mapped"),
        }
    }

    /// What is known of a primary before it is opened; refused here if it cannot be had.
    fn primary_spec(
        &mut self,
        config: &DeviceConfig,
        place: &Place,
    ) -> Result<PrimarySpec, MachineError> {
        let class = match &config.kind {
            DeviceKind::VfioPci(vfio) => {
                let host = HostDevice::find(&host_spec(vfio), Path::new("/sys"))
                    .and_then(|host| host.check_usable().map(|()| host))
                    .map_err(|e| MachineError::refused(e.to_string()))?;
                // A target opens it once its guest has come; until then another may use it.
                if self.config.incoming.is_none() {
                    self.container()
                        .check_free(&host)
                        .map_err(|e| MachineError::refused(e.to_string()))?;
                }
                u16::try_from(host.class >> 8 & 0xffff).unwrap_or(0)
            }
            DeviceKind::VirtioNet(_) => failover::CLASS_ETHERNET,
            _ => 0,
        };
        let mac = match &config.kind {
            DeviceKind::VirtioNet(net) => net.mac,
            _ => None,
        };
        Ok(PrimarySpec {
            id: config.id.clone(),
            standby: config.failover_pair_id.clone().unwrap_or_default(),
            slot: Some(Slot {
                bus: place.bus.clone(),
                device: place.devfn >> 3,
            }),
            mac,
            on_pcie: true,
            class,
            multifunction: config.multifunction,
            function: place.devfn & 7,
            migratable: migrates(config),
        })
    }

    /// A device with `failover_pair_id` was given.
    pub(crate) fn add_primary(
        &mut self,
        config: DeviceConfig,
        when: When,
    ) -> Result<(), MachineError> {
        let id = config.id.clone().ok_or_else(|| {
            MachineError::refused("Device with failover_pair_id needs to have id")
        })?;
        let place = self.place_of(&config)?;
        let hotplug = self
            .root
            .port(&place.bus)
            .is_some_and(|port| port.config().hotplug);
        if !hotplug {
            return Err(MachineError::refused(format!(
                "Bus '{}' does not support hotplugging",
                place.bus
            )));
        }
        let spec = self.primary_spec(&config, &place)?;
        let other = match &config.kind {
            DeviceKind::VfioPci(_) => None,
            _ => Some(self.make(&config, &id, &place)?),
        };
        let now = self.now();
        let added = match self.pairs.pairs.add_primary(now, spec, when) {
            Ok(added) => added,
            Err(error) => {
                self.netdevs.release(&id);
                return Err(MachineError::refused(error.to_string()));
            }
        };
        for warning in &added.warnings {
            tracing::warn!("{warning}");
        }
        let primary = Primary {
            config,
            place,
            vfio: None,
            other,
            in_slot: false,
            opening: None,
        };
        self.pairs.primaries.insert(id.clone(), primary);
        if added.placing == Placing::PlugNow
            && let Err(error) = self.plug_visible(&id, When::Hotplug)
        {
            self.pairs.pairs.remove_unpaired(&id);
            self.pairs.primaries.remove(&id);
            self.netdevs.release(&id);
            return Err(error);
        }
        self.perform(added.actions);
        Ok(())
    }

    /// A primary that came before its standby is an ordinary device to the guest.
    fn plug_visible(&mut self, id: &str, when: When) -> Result<(), MachineError> {
        let config = self.pairs.primary(id).map(|p| p.config.clone());
        if let Some(config) = config.filter(|c| matches!(c.kind, DeviceKind::VfioPci(_))) {
            let wanted = self.vfio_config(&config, id)?;
            let container = self.container();
            let device = VfioPci::open(wanted, &container, &mut |_| ControlFlow::Continue(()))
                .map_err(|e| MachineError::refused(e.to_string()))?;
            if let Some(primary) = self.pairs.primaries.get_mut(id) {
                primary.vfio = Some(device);
            }
        }
        self.insert_primary(id, when).map_err(MachineError::refused)
    }

    /// A standby is in its slot: it joins its pair.
    pub(crate) fn add_standby(
        &mut self,
        id: &str,
        mac: [u8; 6],
        place: &Place,
    ) -> Result<(), MachineError> {
        let slot = Some(Slot {
            bus: place.bus.clone(),
            device: place.devfn >> 3,
        });
        let spec = StandbySpec {
            id: id.to_owned(),
            slot,
            mac: Some(mac),
        };
        let added = self
            .pairs
            .pairs
            .add_standby(self.now(), spec)
            .map_err(|e| MachineError::refused(e.to_string()))?;
        for warning in &added.warnings {
            tracing::warn!("{warning}");
        }
        self.perform(added.actions);
        Ok(())
    }

    /// The command line is read: what is left to say and to do.
    ///
    /// # Errors
    /// A primary without a standby cannot be had.
    pub(crate) fn finish_pairs(&mut self) -> Result<(), MachineError> {
        for warning in self.pairs.pairs.unpaired() {
            tracing::warn!("{warning}");
        }
        for id in self.pairs.pairs.show_unpaired() {
            let text = self.pairs.primary(&id).map(|p| p.config.text.clone());
            self.plug_visible(&id, When::AtStart)
                .map_err(|e| MachineError::Device(text.unwrap_or_default(), e.to_string()))?;
        }
        // Announcing and steering wait until the guest runs; what they steer is looked up here, where a user still reads.
        let standbys: Vec<String> = self
            .pairs
            .pairs
            .iter()
            .map(|p| p.standby().to_owned())
            .collect();
        for standby in standbys {
            if let Some(steering) = self.steering(&standby) {
                tracing::info!(
                    standby,
                    network = lock(&steering).describe(),
                    "failover pair"
                );
            }
        }
        Ok(())
    }

    fn steering(&mut self, standby: &str) -> Option<SharedSteering> {
        if !self.pairs.steering.contains_key(standby) {
            let mac = self.devices.net(standby)?.configured_mac().0;
            let tap = self.netdevs.interface_of(standby)?.to_owned();
            let primary = self
                .pairs
                .pairs
                .by_standby(standby)
                .and_then(|p| p.primary().map(str::to_owned));
            let host = primary
                .and_then(|id| self.pairs.primary(&id))
                .and_then(|p| match &p.config.kind {
                    DeviceKind::VfioPci(vfio) => {
                        HostDevice::find(&host_spec(vfio), Path::new("/sys")).ok()
                    }
                    _ => None,
                });
            match Steering::discover(&tap, host.as_ref().map(|h| h.name.as_str()), mac) {
                Ok(steering) => {
                    self.pairs
                        .steering
                        .insert(standby.to_owned(), Arc::new(Mutex::new(steering)));
                }
                Err(error) => {
                    tracing::warn!(standby, %error, "the host's switch cannot be steered");
                    return None;
                }
            }
        }
        self.pairs.steering.get(standby).cloned()
    }

    /// Makes the host's switch send to the standby.
    pub(crate) fn steer_to_standby(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            let done = lock(&steering).to_standby();
            report("standby", standby, &done);
        }
    }

    fn steer_to_primary(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            let done = lock(&steering).to_primary();
            report("primary", standby, &done);
        }
    }

    fn steer_away(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            let done = lock(&steering).guest_left();
            report("wire", standby, &done);
        }
    }

    fn feed(&mut self, device: &str, event: &Event) {
        let now = self.now();
        tracing::debug!(device, event = event.name(), "failover");
        if let Some(counters) = self.pairs.counters_mut(device) {
            counters.note_event(event);
        }
        match self.pairs.pairs.handle(now, device, event) {
            Ok(actions) => self.perform(actions),
            Err(Illegal::UnknownDevice(_)) => {}
            Err(error) => tracing::warn!(device, %error, "failover"),
        }
    }

    fn apply(&mut self, outcome: Result<Vec<Action>, Illegal>) {
        match outcome {
            Ok(actions) => self.perform(actions),
            Err(Illegal::NoMigration) => {}
            Err(error) => tracing::warn!(%error, "failover"),
        }
    }

    /// Carries actions out in their order.
    pub(crate) fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            tracing::debug!(?action, "failover");
            self.pairs.count(&action);
            match action {
                Action::Plug { primary, .. } => self.begin_plug(&primary),
                Action::Withdraw { primary } => self.take_out(&primary),
                Action::AskUnplug { primary, attempt } => self.ask_unplug(&primary, attempt),
                Action::CancelUnplugAsk { primary } => self.cancel_unplug_ask(&primary),
                Action::SteerToStandby { standby } => self.steer_to_standby(&standby),
                Action::SteerToPrimary { standby } => self.steer_to_primary(&standby),
                Action::SteerAway { standby } => self.steer_away(&standby),
                Action::Announce { standby } => self.announce(&standby),
                Action::Delete { primary } => self.forget_primary(&primary, true),
                Action::Release { primary } => self.release_primary(&primary),
                Action::Emit(notice) => self.notice(notice),
                Action::LetMigrationProceed => self.outgoing.unplugged(Ok(())),
                Action::RefuseMigration(refusal) => {
                    self.outgoing.unplugged(Err(refusal.to_string()))
                }
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        if let Some(lines) = notice.warning_lines() {
            let mut lines = lines.into_iter();
            if let Some(warning) = lines.next() {
                tracing::warn!("{warning}");
            }
            for line in lines {
                tracing::warn!(target: "hint", "{line}");
            }
            return;
        }
        let event = match notice {
            Notice::FailoverNegotiated { standby } => match &mut self.pairs.arrived {
                Some(arrived) => return arrived.push(standby),
                None => MachineEvent::FailoverNegotiated { id: standby },
            },
            Notice::UnplugPrimary { primary } => MachineEvent::UnplugPrimary { id: primary },
            Notice::PathChanged { standby, path } => MachineEvent::FailoverPathChanged {
                id: standby,
                path: match path {
                    failover::Path::Standby => "standby".into(),
                    failover::Path::Primary => "primary".into(),
                },
                reason: String::new(),
            },
            Notice::PrimaryMissing { primary, reason } => {
                tracing::warn!(primary, %reason, "the primary is not with its guest");
                MachineEvent::FailoverPrimaryMissing {
                    standby: self
                        .pairs
                        .pairs
                        .by_primary(&primary)
                        .map(|p| p.standby().to_owned())
                        .unwrap_or_default(),
                    id: primary,
                    reason: reason.to_string(),
                }
            }
            Notice::UnplugFailed { primary, reason } => {
                tracing::warn!(primary, %reason, "the primary could not be unplugged");
                let path = format!("/machine/peripheral/{primary}");
                MachineEvent::UnplugGuestError { id: primary, path }
            }
            Notice::PrimaryNotFound { .. } => return,
        };
        self.emit(event);
    }

    /// Announces the guest by its standby: RARP by the host, and the guest's own announcement.
    pub(crate) fn announce(&mut self, standby: &str) {
        let Some(net) = self.devices.net(standby) else {
            return;
        };
        net.announce();
        let mac = net.configured_mac();
        let now = self.now();
        let parameters = self.outgoing.announce_parameters();
        self.netdevs.announce(standby, mac, now, parameters);
    }

    // ---- plugging ----

    /// Opens the primary if need be, on a thread of its own, which posts the result.
    fn begin_plug(&mut self, id: &str) {
        let Some(primary) = self.pairs.primary(id) else {
            return;
        };
        if primary.other.is_some() {
            return self.primary_ready(id, Ok(None));
        }
        let (config, open) = (primary.config.clone(), primary.vfio.clone());
        let wanted = match self.vfio_config(&config, id) {
            Ok(wanted) => wanted,
            Err(error) => return self.feed(id, &Event::PlugFailed(error.to_string())),
        };
        let container = self.container();
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(primary) = self.pairs.primaries.get_mut(id) {
            primary.opening = Some(Arc::clone(&stop));
        }
        let (control, name) = (self.control.clone(), id.to_owned());
        let work = move || {
            crate::control::give_way();
            let result = match open {
                // It was let go of: fresh hardware for a fresh driver.
                Some(device) => device.prepare_replug().map(|()| device),
                None => VfioPci::open(wanted, &container, &mut |progress| {
                    tracing::trace!(?progress, "mapping guest memory for the primary");
                    if stop.load(Ordering::Relaxed) {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                }),
            };
            let result = result.map(Some).map_err(|e| e.to_string());
            control.post(move |board| board.primary_ready(&name, result));
        };
        if let Err(error) = thread::Builder::new()
            .name(format!("open {id}"))
            .spawn(work)
        {
            self.feed(id, &Event::PlugFailed(error.to_string()));
        }
    }

    /// The primary is open, or not: into its slot with it, if it is still wanted there.
    fn primary_ready(&mut self, id: &str, result: Result<Option<Arc<VfioPci>>, String>) {
        let Some(primary) = self.pairs.primaries.get_mut(id) else {
            return;
        };
        primary.opening = None;
        let outcome = match result {
            Ok(device) => {
                if device.is_some() {
                    primary.vfio = device;
                }
                let wanted = self.pairs.pairs.by_primary(id).is_some_and(|p| {
                    matches!(p.state(), State::Plugging(PlugStage::Opening { .. }))
                });
                if !wanted {
                    tracing::debug!(primary = id, "open, and no longer wanted in its slot");
                    return self.feed(id, &Event::PlugFailed("it is no longer wanted".into()));
                }
                self.insert_primary(id, When::Hotplug)
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => self.feed(id, &Event::PlugSucceeded),
            Err(error) => {
                tracing::warn!(primary = id, error, "the primary could not be plugged");
                self.feed(id, &Event::PlugFailed(error));
            }
        }
    }

    /// Puts the primary into its slot.
    fn insert_primary(&mut self, id: &str, when: When) -> Result<(), String> {
        let standby = self
            .pairs
            .pairs
            .by_primary(id)
            .map(|p| p.standby().to_owned());
        let steering = standby.and_then(|standby| self.steering(&standby));
        let control = self.control.clone();
        let primary = self.pairs.primaries.get_mut(id).ok_or("it was deleted")?;
        let device: Arc<dyn PciDevice> = match (&primary.vfio, &primary.other) {
            (Some(vfio), _) => vfio.clone(),
            (None, Some(made)) => made.function.clone(),
            (None, None) => return Err("it is not open".into()),
        };
        let device = WatchedPrimary::new(device, id.to_owned(), control, steering);
        let shown = function(&primary.config, id, device);
        let Place { bus, devfn } = &primary.place;
        match when {
            When::AtStart => self.root.insert(bus, *devfn, shown),
            When::Hotplug => self.hotplug.plug(bus, *devfn, shown),
        }
        .map_err(|e| e.to_string())?;
        primary.in_slot = true;
        let body = match (&primary.vfio, &primary.other) {
            (Some(vfio), _) => Body::Vfio(vfio.clone()),
            (None, Some(made)) => made.body.clone(),
            (None, None) => return Err("it is not open".into()),
        };
        let config = primary.config.clone();
        self.devices.add(crate::devices::Device {
            key: id.to_owned(),
            config,
            body,
        });
        Ok(())
    }

    /// The guest's driver uses its primary now, or no longer.
    pub(crate) fn primary_in_use(&mut self, id: &str, in_use: bool) {
        let unplugging = self
            .pairs
            .pairs
            .by_primary(id)
            .is_some_and(|p| matches!(p.state(), State::Unplugging { .. }));
        if in_use {
            self.feed(id, &Event::DriverIn);
        } else if unplugging {
            // Outside of an unplug a closed primary is still the guest's path: nothing reaches the standby then.
            self.feed(id, &Event::DriverOut);
        }
    }

    // ---- unplugging ----

    fn ask_unplug(&mut self, id: &str, attempt: u32) {
        let standby = self
            .pairs
            .pairs
            .by_primary(id)
            .map(|p| p.standby().to_owned());
        if let Some(standby) = standby
            && let Some(steering) = self.steering(&standby)
        {
            let done = lock(&steering).to_both();
            report("standby as well", &standby, &done);
        }
        let asked = if attempt == 1 {
            self.hotplug.request_unplug(id)
        } else {
            self.hotplug.repeat_unplug_request(id)
        };
        if let Err(error) = asked {
            self.feed(id, &Event::UnplugRefused(error.to_string()));
        }
    }

    fn cancel_unplug_ask(&mut self, id: &str) {
        if let Err(error) = self.hotplug.withdraw_unplug(id) {
            tracing::debug!(primary = id, %error, "nothing to take back");
        }
        let pair = self
            .pairs
            .pairs
            .by_primary(id)
            .filter(|p| p.path() == failover::Path::Primary);
        if let Some(standby) = pair.map(|p| p.standby().to_owned()) {
            self.steer_to_primary(&standby);
        }
    }

    /// Takes a primary out of its slot without asking.
    fn take_out(&mut self, id: &str) {
        self.hotplug.remove(id);
        self.left_slot(id);
    }

    fn left_slot(&mut self, id: &str) {
        self.devices.remove(id);
        if let Some(primary) = self.pairs.primaries.get_mut(id) {
            primary.in_slot = false;
        }
    }

    /// A slot has something to tell.
    pub(crate) fn slot_event(&mut self, event: SlotEvent) {
        match event {
            SlotEvent::Noticed { bus } => tracing::debug!(bus, "the guest has seen the request"),
            SlotEvent::DriverLetGo { id, .. } => self.feed(&id, &Event::DriverOut),
            SlotEvent::LetGo {
                id, cause, asked, ..
            } => {
                tracing::info!(device = id, ?cause, asked, "the guest has let go");
                if self.pairs.primary(&id).is_none() {
                    return self.device_let_go(&id);
                }
                self.left_slot(&id);
                if self.pairs.pairs.by_primary(&id).is_some() {
                    self.feed(&id, &Event::GuestLetGo);
                } else {
                    self.forget_primary(&id, true);
                }
            }
        }
    }

    fn primary_failed(&mut self, id: &str, why: &str) {
        tracing::error!(primary = id, why, "a passed-through function is lost");
        self.feed(id, &Event::DeviceFailed(why.to_owned()));
    }

    /// `device_del` of a primary.
    pub(crate) fn delete_primary(&mut self, id: &str) -> Result<(), MachineError> {
        if self.outgoing.in_progress() {
            return Err(MachineError::refused(
                "device_del not allowed while migrating",
            ));
        }
        if self.pairs.pairs.by_primary(id).is_some() {
            let now = self.now();
            let actions = self
                .pairs
                .pairs
                .handle(now, id, &Event::DeletionAsked)
                .map_err(|e| MachineError::refused(e.to_string()))?;
            self.perform(actions);
            return Ok(());
        }
        if self.pairs.primary(id).is_some_and(|p| p.in_slot) {
            return self
                .hotplug
                .request_unplug(id)
                .map_err(|e| MachineError::refused(e.to_string()));
        }
        self.forget_primary(id, true);
        Ok(())
    }

    /// The primary exists no more.
    fn forget_primary(&mut self, id: &str, tell: bool) {
        let Some(primary) = self.pairs.primaries.remove(id) else {
            return;
        };
        if let Some(opening) = &primary.opening {
            opening.store(true, Ordering::Relaxed);
        }
        self.pairs.pairs.remove_unpaired(id);
        if primary.in_slot {
            self.hotplug.remove(id);
            self.devices.remove(id);
        }
        self.netdevs.release(id);
        if let Some(standby) = &primary.config.failover_pair_id {
            // What it was steered to is gone; the next primary is looked up afresh.
            self.pairs.steering.remove(standby);
        }
        if tell {
            let path = device_path(&primary.config, id);
            match &primary.vfio {
                Some(vfio) => self.tell_deleted_once_closed(vfio, &primary.config, path),
                None => self.tell_deleted(&primary.config, path),
            }
        }
    }

    /// The guest runs elsewhere: another may have the primary.
    fn release_primary(&mut self, id: &str) {
        if let Some(primary) = self.pairs.primaries.get_mut(id) {
            primary.vfio = None;
        }
    }

    // ---- what concerns all pairs ----

    /// A NIC has something to tell.
    pub(crate) fn net_event(&mut self, id: &str, event: virtio::NetEvent) {
        let standby = self.pairs.pairs.by_standby(id).is_some();
        match event {
            virtio::NetEvent::FeaturesNegotiated { standby: accepted } if standby => {
                self.feed(
                    id,
                    if accepted {
                        &Event::StandbyNegotiated
                    } else {
                        &Event::StandbyRefused
                    },
                );
            }
            virtio::NetEvent::Reset if standby => self.feed(id, &Event::StandbyReset),
            virtio::NetEvent::FeaturesNegotiated { .. } | virtio::NetEvent::Reset => {}
            virtio::NetEvent::RxFilterChanged => self.rx_filter_changed(id),
            virtio::NetEvent::AnnounceAcked => {
                tracing::debug!(nic = id, "the guest has announced itself")
            }
        }
    }

    pub(crate) fn pairs_tick(&mut self, now: Moment) {
        let outcome = self.pairs.pairs.tick(now);
        self.apply(outcome);
    }

    pub(crate) fn pairs_reset(&mut self) {
        let now = self.now();
        let outcome = self.pairs.pairs.machine_reset(now);
        self.apply(outcome);
    }

    pub(crate) fn source_continued(&mut self) {
        let now = self.now();
        let outcome = self.pairs.pairs.source_continued(now);
        self.apply(outcome);
    }

    /// A migration begins: asks for every primary. Whether there is anything to wait for.
    pub(crate) fn begin_unplug(&mut self) -> Result<(), Illegal> {
        let now = self.now();
        let mut timing = self.pairs.pairs.timing();
        timing.unplug_timeout_ms = self.outgoing.parameters.get().failover_unplug_timeout_ms;
        self.pairs.pairs.set_timing(timing);
        let actions = self.pairs.pairs.begin_migration(now)?;
        self.perform(actions);
        Ok(())
    }

    pub(crate) fn migration_ended(&mut self, completed: bool) {
        let now = self.now();
        let outcome = if completed {
            self.pairs.pairs.migration_completed(now)
        } else {
            self.pairs.pairs.migration_ended(now)
        };
        self.apply(outcome);
    }

    /// The devices' state is loaded: standbys that were accepted say so, in the order of their creation, and the host's
    /// switch sends to them.
    pub(crate) fn standbys_restored(&mut self) {
        let standbys: Vec<String> = self
            .pairs
            .pairs
            .iter()
            .map(|p| p.standby().to_owned())
            .collect();
        self.pairs.arrived = Some(Vec::new());
        for standby in standbys {
            if self
                .devices
                .net(&standby)
                .is_some_and(|net| net.standby_negotiated())
            {
                self.feed(&standby, &Event::StandbyNegotiated);
            }
            self.steer_to_standby(&standby);
        }
    }

    /// The guest is this machine's: what it accepted on the source is told.
    pub(crate) fn tell_arrived(&mut self) {
        for id in self.pairs.arrived.take().unwrap_or_default() {
            self.emit(MachineEvent::FailoverNegotiated { id });
        }
    }

    pub(crate) fn target_resumed(&mut self) {
        let now = self.now();
        let outcome = self.pairs.pairs.target_resumed(now);
        self.apply(outcome);
    }
}

impl Drop for PairKeeper {
    fn drop(&mut self) {
        for primary in self.primaries.values() {
            if let Some(opening) = &primary.opening {
                opening.store(true, Ordering::Relaxed);
            }
        }
        for (standby, steering) in &self.steering {
            let done = lock(steering).restore();
            report("way it was found", standby, &done);
        }
    }
}
