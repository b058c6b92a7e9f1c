//! `-machine none`: no board, no guest; a monitor that answers what there is. libvirt asks it once for each build of the program.

use super::{Answer, devices, error, migration, queries};
use ::migration::{Capabilities, Info, Parameters, SharedParameters};
use config::property::BusKind;
use config::vm::{MachineKind, VmConfig};
use machine::RunState;
use machine::inspect::{
    BusSnapshot, ChardevView, CpuModel, DeviceView, Inspect, NetdevView, NicView, PairView,
    RomView, check_new_object, host_cpu_model, kvm_runs_guests,
};
use monitor::types::ShutdownCause;
use monitor::{Backend, Command, Event, EventSink, QmpError, Reply};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What stands in for a machine.
pub(crate) struct Nothing {
    config: VmConfig,
    run_state: RunState,
    capabilities: Capabilities,
    parameters: SharedParameters,
    /// Whether KVM runs guests here, found out when first asked.
    kvm: OnceLock<bool>,
}

impl Nothing {
    pub(crate) fn new(config: VmConfig) -> Self {
        Self {
            config,
            run_state: RunState::Prelaunch,
            capabilities: Capabilities::default(),
            parameters: SharedParameters::default(),
            kvm: OnceLock::new(),
        }
    }

    fn refuse(&self, what: &str) -> QmpError {
        QmpError::generic(format!("{what}: machine 'none' has no guest"))
    }

    fn set_running(&mut self, running: bool) -> Result<Option<Event>, QmpError> {
        if self.run_state.is_running() == running {
            return Ok(None);
        }
        let (to, event) = if running {
            (RunState::Running, Event::Resume)
        } else {
            (RunState::Paused, Event::Stop)
        };
        self.run_state
            .go(to)
            .map_err(|e| QmpError::generic(e.to_string()))?;
        Ok(Some(event))
    }

    /// Carries out a command; the events that come before its answer.
    pub(crate) fn execute(&mut self, command: Command) -> (Vec<Event>, Answer) {
        let mut events = Vec::new();
        let answer = match command {
            Command::Stop => self.set_running(false).map(|event| events.extend(event)),
            Command::Cont => self.set_running(true).map(|event| events.extend(event)),
            Command::SystemReset => {
                events.push(Event::Reset {
                    guest: false,
                    reason: ShutdownCause::HostQmpSystemReset,
                });
                Ok(())
            }
            Command::SystemPowerdown => {
                events.push(Event::Powerdown);
                Ok(())
            }
            Command::ObjectAdd(options) => devices::object_config(&options).and_then(|object| {
                check_new_object(&self.config, &object).map_err(error)?;
                self.config.objects.push(object);
                Ok(())
            }),
            Command::ObjectDel { id } => {
                let at = self.config.objects.iter().position(|o| o.id == id);
                at.map(|at| drop(self.config.objects.remove(at)))
                    .ok_or_else(|| QmpError::generic(format!("object '{id}' not found")))
            }
            Command::DeviceAdd(options) => Err(self.no_bus(&options)),
            Command::NetdevAdd(options) => Err(match devices::netdev_config(&options) {
                Ok(netdev) => self.refuse(&format!("netdev_add {}", netdev.id)),
                Err(wrong) => wrong,
            }),
            Command::DeviceDel { id }
            | Command::NetdevDel { id }
            | Command::SetLink { name: id, .. } => Err(QmpError::device_not_found(&id)),
            Command::FailoverSwitch { id, .. } => Err(QmpError::generic(format!(
                "no failover pair has a device '{id}'"
            ))),
            Command::AnnounceSelf(order) => devices::announcement(order).map(drop),
            Command::Migrate { .. } => Err(self.refuse("migrate")),
            Command::MigrateIncoming { .. } => Err(QmpError::generic(
                "'-incoming' was not specified on the command line",
            )),
            Command::MigrateCancel => Ok(()),
            Command::MigrateContinue { state: _ } => {
                Err(QmpError::generic("Migration not in expected state: none"))
            }
            Command::MigrateSetCapabilities { capabilities } => {
                migration::known_capabilities(&capabilities).and_then(|known| {
                    self.capabilities
                        .set(&known)
                        .map_err(|e| QmpError::generic(e.to_string()))
                })
            }
            Command::MigrateSetParameters(parameters) => migration::parameters_update(&parameters)
                .and_then(|update| {
                    self.parameters
                        .update(&update)
                        .map_err(|e| QmpError::generic(e.to_string()))
                }),
            // The one who waits for the end makes it.
            Command::Quit => Ok(()),
            query => return (events, queries::answer(self, query)),
        };
        (events, answer.map(Into::into))
    }

    fn no_bus(&self, options: &monitor::types::DeviceOptions) -> QmpError {
        let device = match devices::device_config(options, &self.config.globals) {
            Ok(device) => device,
            Err(wrong) => return wrong,
        };
        let bus = config::device_types::find(device.driver).map_or(BusKind::Pcie, |d| d.bus);
        QmpError::generic(format!(
            "No '{}' bus found for device '{}'",
            bus.name(),
            device.driver
        ))
    }
}

impl Inspect for Nothing {
    fn config(&self) -> &VmConfig {
        &self.config
    }
    fn run_state(&self) -> RunState {
        self.run_state
    }
    fn cpu_threads(&self) -> Vec<i32> {
        Vec::new()
    }
    fn control_thread(&self) -> i32 {
        rustix::thread::gettid().as_raw_nonzero().get()
    }
    fn chardevs(&self) -> Vec<ChardevView> {
        Vec::new()
    }
    fn pci(&self) -> Option<BusSnapshot> {
        None
    }
    fn devices(&self) -> Vec<DeviceView> {
        Vec::new()
    }
    fn nics(&self) -> Vec<NicView> {
        Vec::new()
    }
    fn spare_netdevs(&self) -> Vec<NetdevView> {
        Vec::new()
    }
    fn pairs(&self) -> Vec<PairView> {
        Vec::new()
    }
    fn roms(&self) -> Vec<RomView> {
        Vec::new()
    }
    fn cpu_model(&self) -> Result<CpuModel, String> {
        host_cpu_model()
    }
    fn kvm_enabled(&self) -> bool {
        *self.kvm.get_or_init(|| match kvm_runs_guests() {
            Ok(()) => true,
            Err(reason) => {
                tracing::warn!(reason, "KVM runs no guests here, and clients are told so");
                false
            }
        })
    }
    fn migrate_info(&self) -> Option<Info> {
        None
    }
    fn migrate_capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }
    fn migrate_parameters(&self) -> Parameters {
        self.parameters.get()
    }
}

/// The monitors' way to [`Nothing`]. Commands are carried out one at a time, on the thread that brings them.
pub(crate) struct ProbeBackend {
    nothing: Mutex<Nothing>,
    events: EventSink,
    end: Mutex<Sender<ShutdownCause>>,
}

impl ProbeBackend {
    /// Tells `end` when a client wants the program to end.
    pub(crate) fn new(config: VmConfig, events: EventSink, end: Sender<ShutdownCause>) -> Self {
        debug_assert!(config.machine.kind == MachineKind::None);
        Self {
            nothing: Mutex::new(Nothing::new(config)),
            events,
            end: Mutex::new(end),
        }
    }

    /// Without `-S` the machine that is none runs.
    pub(crate) fn start(&self) {
        let mut nothing = self.nothing.lock().unwrap_or_else(PoisonError::into_inner);
        if !nothing.config.start_paused
            && let Ok(Some(event)) = nothing.set_running(true)
        {
            self.events.emit(event);
        }
    }
}

impl Backend for ProbeBackend {
    fn submit(&self, command: Command, reply: Reply) {
        let quit = command == Command::Quit;
        let mut nothing = self.nothing.lock().unwrap_or_else(PoisonError::into_inner);
        let (events, answer) = nothing.execute(command);
        for event in events {
            self.events.emit(event);
        }
        reply.send(answer);
        if quit {
            let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            // Who waited for it may have had another reason to end.
            let _ = end.send(ShutdownCause::HostQmpQuit);
        }
    }
}
