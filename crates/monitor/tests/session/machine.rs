//! A small machine with a control thread, as the program has: it answers, emits, holds answers back and drops them.

use monitor::types::*;
use monitor::{Backend, Command, Event, EventSink, Identity, QmpError, Reply, Response};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The handle that monitors submit to.
pub(crate) struct Machine {
    control: Mutex<Sender<(Command, Reply)>>,
    pub(crate) events: EventSink,
    /// Answers that are held back: `system_powerdown`, until the test takes them.
    pub(crate) held: Mutex<Receiver<Reply>>,
}

impl Backend for Machine {
    fn submit(&self, command: Command, reply: Reply) {
        // When the control thread has ended, the reply is dropped and answers by itself.
        let _ = self
            .control
            .lock()
            .expect("not poisoned")
            .send((command, reply));
    }
}

pub(crate) fn identity() -> Identity {
    Identity {
        qemu: VersionTriple {
            major: 10,
            minor: 0,
            micro: 2,
        },
        package: "Standfast 0.1.0".to_owned(),
        netdev_types: vec!["tap".to_owned(), "dgram".to_owned()],
        object_types: vec!["memory-backend-ram".to_owned()],
        device_help: |driver| match driver {
            None => Some("name \"e1000e\"\n".to_owned()),
            Some("e1000e") => Some("e1000e options:\n".to_owned()),
            Some(_) => None,
        },
    }
}

/// Starts the control thread; the clock stands still at 1700000000.25 s.
pub(crate) fn start() -> Arc<Machine> {
    let events = EventSink::new(|| Duration::new(1_700_000_000, 250_000_000));
    let (control, commands) = channel();
    let (holder, held) = channel();
    let machine = Arc::new(Machine {
        control: Mutex::new(control),
        events: events.clone(),
        held: Mutex::new(held),
    });
    std::thread::spawn(move || {
        let mut state = State {
            status: RunState::Running,
            devices: BTreeMap::new(),
            events,
            holder,
        };
        for (command, reply) in commands {
            state.execute(command, reply);
        }
    });
    machine
}

struct State {
    status: RunState,
    devices: BTreeMap<String, String>,
    events: EventSink,
    holder: Sender<Reply>,
}

impl State {
    fn execute(&mut self, command: Command, reply: Reply) {
        match command {
            Command::QueryStatus => reply.ok(StatusInfo::new(self.status)),
            Command::QueryName => reply.ok(NameInfo {
                name: Some("guest".to_owned()),
            }),
            Command::QueryUuid => reply.ok(UuidInfo {
                uuid: "00000000-0000-0000-0000-000000000000".to_owned(),
            }),
            Command::QueryPci => reply.ok(pci()),
            Command::QueryBlock => reply.ok(Vec::<BlockInfo>::new()),
            Command::QueryMigrate => reply.ok(MigrationInfo {
                status: Some(MigrationStatus::Completed),
                total_time_ms: Some(12),
                ..MigrationInfo::default()
            }),
            Command::Stop => {
                self.status = RunState::Paused;
                self.events.emit(Event::Stop);
                reply.ok(());
            }
            Command::Cont => {
                self.status = RunState::Running;
                self.events.emit(Event::Resume);
                reply.ok(());
            }
            Command::Migrate { uri: Some(uri), .. } => self.migrate(&uri, reply),
            Command::DeviceAdd(options) => match options.id() {
                Some(id) if self.devices.contains_key(id) => {
                    reply.err(QmpError::generic(format!("Duplicate device ID '{id}'")));
                }
                Some(id) => {
                    self.devices.insert(
                        id.to_owned(),
                        format!("{} {:?}", options.kind, options.syntax),
                    );
                    reply.ok(());
                }
                None => reply.ok(()),
            },
            Command::DeviceDel { id } if id == "forgotten" => drop(reply),
            Command::DeviceDel { id } => match self.devices.remove(&id) {
                Some(_) => {
                    reply.ok(());
                    let path = format!("/machine/peripheral/{id}");
                    self.events.emit(Event::DeviceDeleted {
                        device: Some(id),
                        path,
                    });
                }
                None => reply.err(QmpError::device_not_found(&id)),
            },
            Command::QomList { path } => reply.ok(self.qom_list(&path)),
            Command::QomGet { path, property } => {
                reply.ok(serde_json::json!({"path": path, "property": property}))
            }
            Command::SystemPowerdown => drop(self.holder.send(reply)),
            Command::MigratePause => reply.err(QmpError::generic("Not in post-copy")),
            Command::QueryKvm => reply.ok(String::from("of a wrong type")),
            Command::NetdevAdd(options) => {
                let fd = options
                    .members
                    .get("fd")
                    .and_then(|fd| fd.as_str())
                    .unwrap_or_default();
                let mut text = String::new();
                let read = reply
                    .fds()
                    .take(fd)
                    .map(std::fs::File::from)
                    .and_then(|mut file| {
                        file.read_to_string(&mut text)
                            .map_err(|error| QmpError::generic(error.to_string()))
                    });
                match read {
                    Ok(_) => reply.err(QmpError::generic(format!("the descriptor says: {text}"))),
                    Err(error) => reply.err(error),
                }
            }
            Command::QueryFailover => reply.ok(vec![FailoverInfo {
                device_id: "net1".to_owned(),
                primary_id: Some("hostdev0".to_owned()),
                state: FailoverState::Active,
                since_ms: 1500,
                path: FailoverPath::Primary,
                negotiated: true,
                reason: None,
                message: None,
                attempts: None,
                retry_ms: None,
                counters: FailoverCounters {
                    plugs: 1,
                    ..FailoverCounters::default()
                },
                blockers: vec![],
                warnings: vec![],
            }]),
            Command::QueryNetwork => {
                let client = |name: &str, kind, info: &str, peer| NetworkClientInfo {
                    name: name.to_owned(),
                    index: 0,
                    kind,
                    info: info.to_owned(),
                    link_down: false,
                    peer,
                };
                let tap = client("hostnet1", NetworkClientKind::Tap, "ifname=tap0", None);
                let nic = "model=virtio-net-pci,macaddr=52:54:00:6f:55:cc";
                reply.ok(vec![client(
                    "net1",
                    NetworkClientKind::Nic,
                    nic,
                    Some(Box::new(tap)),
                )]);
            }
            other => reply.err(QmpError::generic(format!(
                "{} is not for this test",
                other.name()
            ))),
        }
    }

    fn migrate(&mut self, uri: &str, reply: Reply) {
        let migration = |status| Event::Migration { status };
        if !uri.starts_with("tcp:") {
            return reply.err(QmpError::generic(format!(
                "unknown migration protocol: {uri}"
            )));
        }
        self.events.emit(migration(MigrationStatus::Setup));
        self.events.emit(Event::UnplugPrimary {
            device_id: "hostdev0".to_owned(),
        });
        reply.send(Ok(Response::from(())));
        self.events.emit(Event::MigrationPass { pass: 1 });
        for status in [MigrationStatus::WaitUnplug, MigrationStatus::Active] {
            self.events.emit(migration(status));
        }
        self.status = RunState::PostMigrate;
        self.events.emit(Event::Stop);
        self.events.emit(migration(MigrationStatus::Completed));
    }

    fn qom_list(&self, path: &str) -> Vec<ObjectPropertyInfo> {
        let child = |name: &str, kind: &str| ObjectPropertyInfo {
            name: name.to_owned(),
            kind: kind.to_owned(),
            description: None,
            default_value: None,
        };
        match path {
            "/machine" => vec![
                child("type", "string"),
                child("peripheral", "child<container>"),
            ],
            "/machine/peripheral" => self
                .devices
                .keys()
                .map(|id| child(id, "child<device>"))
                .collect(),
            _ => vec![],
        }
    }
}

fn pci() -> Vec<PciInfo> {
    vec![PciInfo {
        bus: 0,
        devices: vec![PciDeviceInfo {
            bus: 0,
            slot: 1,
            function: 0,
            class_info: PciDeviceClass {
                desc: Some("Ethernet controller".to_owned()),
                class: 0x0200,
            },
            id: PciDeviceId {
                device: 0x1041,
                vendor: 0x1af4,
                subsystem: Some(0x1100),
                subsystem_vendor: Some(0x1af4),
            },
            irq: Some(11),
            irq_pin: 1,
            qdev_id: "net1".to_owned(),
            pci_bridge: None,
            regions: vec![PciMemoryRegion {
                bar: 4,
                kind: "memory".to_owned(),
                address: 0xfe00_0000,
                size_bytes: 0x4000,
                prefetch: Some(true),
                mem_type_64: Some(true),
            }],
        }],
    }]
}
