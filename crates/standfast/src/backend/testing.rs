//! A machine that was never built, as the queries see it: the configuration of a real command line, and what a guest would have made of it.

use super::probe::Nothing;
use super::queries;
use crate::cli::{self, Invocation};
use config::vm::{DeviceKind, VmConfig};
use machine::RunState;
use machine::inspect::{
    BarKind, BarRegion, Bdf, BridgeSnapshot, BridgeWindows, BusSnapshot, ChardevView, CpuModel,
    DeviceView, FunctionSnapshot, Inspect, MacAddr, NetCounters, NetdevView, NicView, NoteView,
    PairCounters, PairView, Path, Phase, ROOT_BUS, RegionSnapshot, RomView, RxFilter,
};
use migration::{Capabilities, Info, Parameters, RamInfo, SharedParameters, State};
use monitor::command::COMMANDS;
use monitor::{Command, ErrorClass, QmpError, Response};
use serde_json::{Value, json};

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x6f, 0x55, 0xcc]);

fn parse(arguments: &str) -> VmConfig {
    match cli::parse(arguments.split_whitespace().map(Into::into)) {
        Ok(Invocation::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

/// The machine of these tests.
struct Fixture {
    config: VmConfig,
}

fn fixture() -> Fixture {
    let config = parse(
        "-kernel /proc/self/exe -M q35,memory-backend=pc.ram -m 256 -smp 2 -nodefaults -display none -name guest=g1
         -object memory-backend-ram,id=pc.ram,size=256M -object rng-random,id=rng0,filename=/dev/urandom
         -object iothread,id=io1
         -device pcie-root-port,id=rp0,chassis=1,slot=1,port=8,addr=0x2 -device pcie-root-port,id=rp1,chassis=2
         -device pcie-root-port,chassis=3
         -netdev tap,id=hn0,ifname=tap0,script=no,downscript=no
         -device virtio-net-pci,id=net0,netdev=hn0,bus=rp0,failover=on,mac=52:54:00:6f:55:cc,x-txburst=7
         -device virtio-rng-pci,rng=rng0
         -drive file=/dev/null,format=raw,if=none,id=drive0 -device virtio-blk-pci,drive=drive0,id=disk0,addr=5
         -blockdev raw,node-name=spare,file.driver=file,file.filename=/dev/null,read-only=on
         -chardev null,id=c0 -device isa-serial,chardev=c0,id=ser0
         -chardev socket,id=mon0,path=/nowhere/qmp,server=on,wait=off -mon chardev=mon0,mode=control
         -device vfio-pci,host=0000:5e:00.2,id=pri0,failover_pair_id=net0,bus=rp1",
    );
    Fixture { config }
}

fn function(id: &str, model: &str, devfn: u8, ids: (u16, u16), class: u16) -> FunctionSnapshot {
    FunctionSnapshot {
        id: id.into(),
        model: model.into(),
        bdf: Bdf::from_requester_id(devfn.into()),
        vendor: ids.0,
        device: ids.1,
        class,
        subsystem: (0x1af4, 0x1100),
        interrupt_line: 11,
        interrupt_pin: 1,
        regions: Vec::new(),
        bridge: None,
    }
}

fn note(name: &'static str) -> NoteView {
    NoteView {
        name,
        text: format!("{name}, at length"),
    }
}

impl Inspect for Fixture {
    fn config(&self) -> &VmConfig {
        &self.config
    }
    fn run_state(&self) -> RunState {
        RunState::Running
    }
    fn cpu_threads(&self) -> Vec<i32> {
        vec![101, 102]
    }
    fn control_thread(&self) -> i32 {
        100
    }
    fn chardevs(&self) -> Vec<ChardevView> {
        vec![ChardevView {
            id: "c0".into(),
            filename: "null".into(),
        }]
    }
    fn pci(&self) -> Option<BusSnapshot> {
        let mut net = function("net0", "virtio-net-pci", 0, (0x1af4, 0x1041), 0x0200);
        net.bdf = Bdf::from_requester_id(0x100);
        net.regions = vec![
            RegionSnapshot {
                bar: 4,
                region: BarRegion {
                    kind: BarKind::Memory64,
                    base: 0,
                    size: 0x4000,
                    prefetchable: true,
                },
                at: Some(0x80_0000_0000),
            },
            RegionSnapshot {
                bar: 1,
                region: BarRegion {
                    kind: BarKind::Memory32,
                    base: 0,
                    size: 0x1000,
                    prefetchable: false,
                },
                at: None,
            },
        ];
        let mut port = function("rp0", "pcie-root-port", 0x10, (0x1b36, 0xc), 0x0604);
        port.bridge = Some(BridgeSnapshot {
            windows: BridgeWindows {
                secondary: 1,
                subordinate: 1,
                io: None,
                memory: Some(0xc000_0000..=0xc01f_ffff),
                ..BridgeWindows::default()
            },
            bus: BusSnapshot {
                id: "rp0".into(),
                number: 1,
                functions: vec![net],
            },
        });
        let host = FunctionSnapshot {
            interrupt_pin: 0,
            ..function("mch", "mch", 0, (0x8086, 0x29c0), 0x0600)
        };
        Some(BusSnapshot {
            id: ROOT_BUS.into(),
            number: 0,
            functions: vec![host, port],
        })
    }
    fn devices(&self) -> Vec<DeviceView> {
        // The primary is hidden.
        let seen = |d: &&config::vm::DeviceConfig| d.failover_pair_id.is_none();
        let mut anonymous = 0;
        let devices = self.config.devices.iter().filter(seen);
        let view = |config: &config::vm::DeviceConfig| {
            let key = config.id.clone().unwrap_or_else(|| {
                anonymous += 1;
                format!("device[{}]", anonymous - 1)
            });
            let folder = if config.id.is_some() {
                "peripheral"
            } else {
                "peripheral-anon"
            };
            let free = if config.bus.is_some() { 0 } else { 0x18 };
            let addr = config.addr.map_or(free, |a| a.slot << 3 | a.function);
            let isa = matches!(config.kind, DeviceKind::IsaSerial(_));
            let is_net = matches!(config.kind, DeviceKind::VirtioNet(_));
            DeviceView {
                path: format!("/machine/{folder}/{key}"),
                key,
                place: (!isa)
                    .then(|| (config.bus.clone().unwrap_or_else(|| ROOT_BUS.into()), addr)),
                hotplugged: false,
                msix_vectors: 4,
                mac: is_net.then_some(MAC),
                config: config.clone(),
            }
        };
        devices.map(view).collect()
    }
    fn nics(&self) -> Vec<NicView> {
        vec![NicView {
            key: "net0".into(),
            driver: "virtio-net-pci",
            mac: MAC,
            link_up: true,
            queue_pairs: (1, 1),
            filter: RxFilter::open(MAC),
            counters: NetCounters {
                rx_frames: 3,
                ..NetCounters::default()
            },
            netdev: Some(NetdevView {
                id: "hn0".into(),
                kind: "tap",
                description: "ifname=tap0".into(),
            }),
            steering: Some("bridge br0".into()),
        }]
    }
    fn spare_netdevs(&self) -> Vec<NetdevView> {
        vec![NetdevView {
            id: "hn9".into(),
            kind: "tap",
            description: "ifname=tap9".into(),
        }]
    }
    fn pairs(&self) -> Vec<PairView> {
        vec![PairView {
            standby: "net0".into(),
            primary: Some("pri0".into()),
            phase: Some(Phase::Hidden),
            since_ms: 7,
            path: Path::Standby,
            negotiated: false,
            reason: Some(note("not-accepted")),
            attempts: None,
            retry_ms: None,
            counters: PairCounters {
                plugs: 2,
                ..PairCounters::default()
            },
            blockers: vec![note("guest-paused")],
            warnings: vec![note("mtu-mismatch")],
        }]
    }
    fn roms(&self) -> Vec<RomView> {
        vec![RomView {
            name: "acpi tables".into(),
            address: Some(0xe_0000),
            size_bytes: 16,
        }]
    }
    fn cpu_model(&self) -> Result<CpuModel, String> {
        Err("not in this test".into())
    }
    fn kvm_enabled(&self) -> bool {
        true
    }
    fn migrate_info(&self) -> Option<Info> {
        Some(Info {
            status: Some(State::Active),
            total_time_ms: Some(5),
            ram: Some(RamInfo {
                remaining_bytes: 4096,
                mbps: 1.5,
                ..RamInfo::default()
            }),
            unplug_time_ms: Some(3),
            ..Info::default()
        })
    }
    fn migrate_capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
    fn migrate_parameters(&self) -> Parameters {
        SharedParameters::default().get()
    }
}

fn decode(name: &str, arguments: Value) -> Command {
    Command::decode(name, arguments)
        .unwrap_or_else(|| panic!("{name} is not declared"))
        .unwrap_or_else(|error| panic!("{name}: give it arguments in SAMPLES: {error}"))
}

fn ask(machine: &dyn Inspect, name: &str, arguments: Value) -> Result<Value, QmpError> {
    queries::answer(machine, decode(name, arguments)).map(|response: Response| response.encode())
}

fn get(machine: &dyn Inspect, name: &str, arguments: Value) -> Value {
    ask(machine, name, arguments).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn desc(machine: &dyn Inspect, name: &str, arguments: Value) -> String {
    match ask(machine, name, arguments) {
        Ok(value) => panic!("{name}: {value}"),
        Err(error) => error.desc,
    }
}

/// Arguments for the commands that need some.
fn sample(name: &str) -> Value {
    match name {
        "query-cpu-model-expansion" => json!({"type": "static", "model": {"name": "host"}}),
        "qom-list" => json!({"path": "/machine"}),
        "qom-get" => json!({"path": "/machine", "property": "type"}),
        "qom-set" => json!({"path": "/machine", "property": "type", "value": 1}),
        "qom-list-properties" => json!({"typename": "machine"}),
        "device-list-properties" => json!({"typename": "virtio-net-pci"}),
        "device_add" => json!({"driver": "virtio-rng-pci"}),
        "device_del" | "netdev_del" | "object-del" => json!({"id": "nope"}),
        "netdev_add" => json!({"type": "tap", "id": "n", "ifname": "tap0"}),
        "object-add" => json!({"qom-type": "iothread", "id": "io"}),
        "set_link" => json!({"name": "nope", "up": false}),
        "announce-self" => json!({"initial": 50, "max": 550, "rounds": 1, "step": 50}),
        "migrate" | "migrate-incoming" | "migrate-recover" => json!({"uri": "tcp:[::1]:4444"}),
        "migrate-continue" => json!({"state": "pre-switchover"}),
        "migrate-set-capabilities" => {
            json!({"capabilities": [{"capability": "events", "state": true}]})
        }
        "failover-switch" => json!({"id": "nope", "path": "standby"}),
        _ => json!({}),
    }
}

/// What a machine without a guest cannot do; anything else succeeds.
const REFUSED_WITHOUT_A_GUEST: &[&str] = &[
    "query-hotpluggable-cpus",
    "qom-set",
    "device_add",
    "device_del",
    "netdev_add",
    "netdev_del",
    "object-del",
    "set_link",
    "migrate",
    "migrate-incoming",
    "migrate-continue",
    "migrate-pause",
    "migrate-recover",
    "failover-switch",
];

#[test]
fn every_declared_command_is_answered_without_a_machine() {
    let mut nothing = Nothing::new(parse("-M none -nodefaults -S"));
    for command in COMMANDS {
        let (_, answer) = nothing.execute(decode(command.name, sample(command.name)));
        let refused = REFUSED_WITHOUT_A_GUEST.contains(&command.name);
        match answer {
            Ok(response) => {
                assert!((command.accepts)(&response), "{}", command.name);
                assert!(!refused, "{}", command.name);
            }
            Err(error) => {
                assert!(refused, "{}: {error}", command.name);
                assert!(error.class != ErrorClass::CommandNotFound);
                assert!(!error.desc.contains("not supported"), "{error}");
                assert!(!error.desc.contains("asked as a query"), "{error}");
            }
        }
    }
}

#[test]
fn every_query_is_answered_in_its_declared_shape() {
    let machine = fixture();
    for command in COMMANDS {
        let name = command.name;
        match queries::answer(&machine, decode(name, sample(name))) {
            Ok(response) => assert!((command.accepts)(&response), "{name}"),
            // Orders are carried out elsewhere.
            Err(error) if error.desc.contains("asked as a query") => {
                assert!(
                    !name.contains("query") && !name.starts_with("qom"),
                    "{name}"
                );
            }
            Err(_) => assert!(["qom-set", "migrate-pause", "migrate-recover"].contains(&name)),
        }
    }
}

#[test]
fn the_tree_of_objects_reads_as_qemus() {
    let m = fixture();
    let names = |path: &str| -> Vec<String> {
        let list = get(&m, "qom-list", json!({"path": path}));
        let entry = |e: &Value| format!("{} {}", e["name"], e["type"]).replace('"', "");
        list.as_array().into_iter().flatten().map(entry).collect()
    };
    assert_eq!(
        names("/machine/peripheral"),
        [
            "type string",
            "rp0 child<pcie-root-port>",
            "rp1 child<pcie-root-port>",
            "net0 child<virtio-net-pci>",
            "disk0 child<virtio-blk-pci>",
            "ser0 child<isa-serial>"
        ]
    );
    assert_eq!(
        names("/machine/peripheral-anon"),
        [
            "type string",
            "device[0] child<pcie-root-port>",
            "device[1] child<virtio-rng-pci>"
        ]
    );
    assert_eq!(
        names("/objects"),
        [
            "type string",
            "pc.ram child<memory-backend-ram>",
            "rng0 child<rng-random>",
            "io1 child<iothread>"
        ]
    );
    assert!(names("/").contains(&"machine child<pc-q35-10.0-machine>".to_owned()));
    assert!(names("/machine/unattached").contains(&"device[1] child<host-x86_64-cpu>".to_owned()));
    assert!(names("/machine/peripheral/rp0/rp0").contains(&"child[0] link<virtio-net-pci>".into()));
    // The end of a path will do, where it is the end of one only.
    assert_eq!(names("net0"), names("/machine/peripheral/net0"));
    assert_eq!(
        desc(&m, "qom-list", json!({"path": "/machine/peripheral/pri0"})),
        "Device '/machine/peripheral/pri0' not found"
    );
    assert!(desc(&m, "qom-list", json!({"path": "virtio-backend"})).contains("is ambiguous"));
}

#[test]
fn properties_have_the_values_that_were_given_chosen_or_declared() {
    let m = fixture();
    let value = |path: &str, property: &str| {
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/machine/peripheral/{path}")
        };
        get(&m, "qom-get", json!({"path": path, "property": property}))
    };
    assert_eq!(value("net0", "failover"), true);
    assert_eq!(value("net0", "mac"), "52:54:00:6f:55:cc");
    assert_eq!(value("net0", "netdev"), "hn0");
    assert_eq!(value("net0", "addr"), 0);
    assert_eq!(value("net0", "vectors"), 4);
    assert_eq!(value("net0", "type"), "virtio-net-pci");
    assert_eq!(value("net0", "parent_bus"), "/machine/peripheral/rp0/rp0");
    assert_eq!(value("net0", "x-txburst"), 7);
    assert_eq!(value("net0", "failover_pair_id"), "");
    assert_eq!(value("net0", "host_mtu"), 0);
    assert_eq!(value("net0", "rx_queue_size"), 256);
    assert_eq!(value("net0", "bootindex"), -1);
    assert_eq!(value("net0", "speed"), -1);
    assert_eq!(value("rp0", "io-reserve"), u64::MAX);
    assert_eq!(value("rp0", "port"), 8);
    assert_eq!(value("rp0", "addr"), 0x10);
    assert_eq!(value("rp0", "x-speed"), "16");
    assert_eq!(value("disk0", "drive"), "drive0");
    assert_eq!(value("disk0", "parent_bus"), "/machine/q35/pcie.0");
    assert_eq!(value("disk0", "serial"), "");
    assert_eq!(value("ser0", "chardev"), "c0");
    assert_eq!(
        value("/machine/peripheral", "net0"),
        "/machine/peripheral/net0"
    );
    assert_eq!(value("/machine", "memory-backend"), "/objects/pc.ram");
    assert_eq!(value("/machine", "memory"), json!({"size": 256 << 20}));
    assert_eq!(value("/objects/pc.ram", "size"), 256 << 20);
    assert_eq!(
        value("/machine/peripheral-anon/device[1]", "rng"),
        "/objects/rng0"
    );
    assert_eq!(
        desc(&m, "qom-get", json!({"path": "net0", "property": "nope"})),
        "Property 'virtio-net-pci.nope' not found"
    );
}

#[test]
fn what_is_settled_cannot_be_set() {
    let m = fixture();
    let set = |path: &str, property: &str, value: Value| {
        let arguments = json!({"path": path, "property": property, "value": value});
        ask(&m, "qom-set", arguments).err().map(|error| error.desc)
    };
    let net = "/machine/peripheral/net0";
    assert_eq!(
        set(net, "addr", json!("1")).as_deref(),
        Some(
            "Attempt to set property 'addr' on device 'net0' (type 'virtio-net-pci') after it was realized"
        )
    );
    assert_eq!(
        set("/machine/peripheral-anon/device[0]", "chassis", json!(9)).as_deref(),
        Some(
            "Attempt to set property 'chassis' on anonymous device (type 'pcie-root-port') after it was realized"
        )
    );
    assert_eq!(
        set(net, "hotplugged", json!(true)).as_deref(),
        Some("Property 'virtio-net-pci.hotplugged' is not writable")
    );
    assert_eq!(
        set("/machine/peripheral", "net0", json!("x")).as_deref(),
        Some("Property 'container.net0' is not writable")
    );
    assert_eq!(
        set(net, "realized", json!("x")).as_deref(),
        Some("Invalid parameter type for 'realized', expected: boolean")
    );
    assert_eq!(set(net, "realized", json!(true)), None);
    assert_eq!(
        set("/nope", "x", json!(1)).as_deref(),
        Some("Device '/nope' not found")
    );
}

#[test]
fn the_guests_pci_functions_are_told() {
    let pci = get(&fixture(), "query-pci", json!({}));
    let devices = &pci[0]["devices"];
    assert_eq!(devices[0]["qdev_id"], "");
    assert_eq!(devices[0]["class_info"]["desc"], "Host bridge");
    assert_eq!(devices[0].get("irq"), None);
    let port = &devices[1];
    assert_eq!(
        (&port["slot"], &port["qdev_id"]),
        (&json!(2), &json!("rp0"))
    );
    assert_eq!(port["id"].get("subsystem"), None);
    let bridge = &port["pci_bridge"];
    assert_eq!(
        bridge["bus"]["io_range"],
        json!({"base": 0xf000, "limit": 0xfff})
    );
    let net = &bridge["devices"][0];
    assert_eq!((&net["bus"], &net["qdev_id"]), (&json!(1), &json!("net0")));
    assert_eq!(
        net["class_info"],
        json!({"desc": "Ethernet controller", "class": 512})
    );
    assert_eq!(
        net["regions"][0],
        json!({"bar": 4, "type": "memory", "address": 0x80_0000_0000_u64, "size": 0x4000, "prefetch": true, "mem_type_64": true})
    );
    assert_eq!(net["regions"][1]["address"], -1);
}

#[test]
fn the_rest_of_the_machine_is_told() {
    let m = fixture();
    let block = get(&m, "query-block", json!({}));
    assert_eq!(block.as_array().map(Vec::len), Some(1));
    assert_eq!(block[0]["device"], "drive0");
    assert_eq!(block[0]["qdev"], "/machine/peripheral/disk0/virtio-backend");
    let nodes = get(&m, "query-named-block-nodes", json!({}));
    assert_eq!(
        (&nodes[1]["node-name"], &nodes[1]["ro"]),
        (&json!("spare"), &json!(true))
    );
    let chardevs = get(&m, "query-chardev", json!({}));
    assert_eq!(chardevs[1]["filename"], "unix:/nowhere/qmp,server=on");
    let threads = get(&m, "query-iothreads", json!({}));
    assert_eq!(
        (&threads[0]["id"], &threads[0]["thread-id"]),
        (&json!("io1"), &json!(100))
    );
    let filter = get(&m, "query-rx-filter", json!({"name": "net0"}));
    assert_eq!(
        (&filter[0]["promiscuous"], &filter[0]["vlan"]),
        (&json!(true), &json!("all"))
    );
    assert_eq!(filter[0]["broadcast-allowed"], true);
    assert_eq!(
        desc(&m, "query-rx-filter", json!({"name": "disk0"})),
        "invalid net client name: disk0"
    );
    let network = get(&m, "x-query-network", json!({}));
    let info = network[0]["info"].as_str().unwrap_or_default();
    assert!(info.starts_with("model=virtio-net-pci,macaddr=52:54:00:6f:55:cc,rx-frames=3"));
    assert_eq!(
        network[0]["peer"]["info"],
        "ifname=tap0,steering=bridge br0"
    );
    assert_eq!(network[1]["name"], "hn9");
    let pair = get(&m, "query-failover", json!({}))[0].clone();
    assert_eq!(
        (&pair["state"], &pair["since-ms"]),
        (&json!("hidden"), &json!(7))
    );
    assert_eq!(pair["counters"]["plugs"], 2);
    assert_eq!(pair["blockers"][0]["reason"], "guest-paused");
    assert_eq!(pair["warnings"][0]["reason"], "mtu-mismatch");
    assert_eq!(
        (&pair["reason"], &pair["message"]),
        (&json!("not-accepted"), &json!("not-accepted, at length"))
    );
    let cpus = get(&m, "query-cpus-fast", json!({}));
    assert_eq!(
        cpus[1]["props"],
        json!({"socket-id": 0, "core-id": 1, "thread-id": 0})
    );
    assert_eq!(cpus[1]["qom-path"], "/machine/unattached/device[1]");
    let slots = get(&m, "query-hotpluggable-cpus", json!({}));
    assert_eq!(slots[0]["qom-path"], "/machine/unattached/device[1]");
    assert_eq!(slots[0]["type"], "host-x86_64-cpu");
    let migration = get(&m, "query-migrate", json!({}));
    assert_eq!(
        (&migration["status"], &migration["failover-unplug-time"]),
        (&json!("active"), &json!(3))
    );
    assert_eq!(
        (
            &migration["ram"]["remaining"],
            &migration["ram"]["postcopy-bytes"]
        ),
        (&json!(4096), &json!(0))
    );
    let parameters = get(&m, "query-migrate-parameters", json!({}));
    assert_eq!(parameters["downtime-limit"], 300);
    let roms = get(&m, "x-query-roms", json!({}));
    assert_eq!(
        roms["human-readable-text"],
        "addr=00000000000e0000 size=0x000010 mem=ram name=\"acpi tables\"\n"
    );
}

#[test]
fn buses_and_devices_are_shown_with_their_properties() {
    let tree = get(&fixture(), "x-query-qtree", json!({}));
    let root = &tree[0]["devices"][0]["buses"][0];
    assert_eq!(root["name"], "pcie.0");
    let all = root["devices"].as_array().cloned().unwrap_or_default();
    let find = |id: &str| {
        all.iter()
            .find(|d| d["id"] == id)
            .cloned()
            .unwrap_or_default()
    };
    let net = find("rp0")["buses"][0]["devices"][0].clone();
    assert_eq!(net["id"], "net0");
    let of = |device: &Value, name: &str| {
        let properties = device["properties"].as_array().into_iter().flatten();
        let found = properties.into_iter().find(|p| p["name"] == name);
        found.map(|p| p["value"].clone()).unwrap_or_default()
    };
    assert_eq!(of(&net, "failover"), "true");
    assert_eq!(of(&net, "mac"), "\"52:54:00:6f:55:cc\"");
    assert_eq!(of(&net, "vectors"), "4 (0x4)");
    assert_eq!(of(&find("rp0"), "addr"), "02.0");
    assert_eq!(
        of(&find("rp0"), "io-reserve"),
        "18446744073709551615 (16 EiB)"
    );
    assert_eq!(of(&find("disk0"), "bootindex"), "-1 (0xffffffffffffffff)");
    let isa = all
        .iter()
        .find(|d| d["driver"] == "ICH9-LPC")
        .cloned()
        .unwrap_or_default();
    assert_eq!(isa["buses"][0]["devices"][1]["id"], "ser0");
}

#[test]
fn what_this_program_can_be_is_told() {
    let m = fixture();
    let machines = get(&m, "query-machines", json!({}));
    let named = |name: &str| {
        let mut all = machines.as_array().into_iter().flatten();
        all.find(|each| each["name"] == name)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(
        (
            &named("pc-q35-10.0")["alias"],
            &named("pc-q35-10.0")["hotpluggable-cpus"]
        ),
        (&json!("q35"), &json!(false))
    );
    assert_eq!(named("pc-q35-8.2").get("alias"), None);
    assert_eq!(named("none")["acpi"], false);
    let models = get(&m, "query-cpu-definitions", json!({}));
    assert_eq!(models[0]["typename"], "host-x86_64-cpu");
    let expand = |props: Value| {
        let model = json!({"name": "host", "props": props});
        ask(
            &m,
            "query-cpu-model-expansion",
            json!({"type": "full", "model": model}),
        )
    };
    let whole = expand(json!({})).expect("it is known");
    assert_eq!(whole["model"]["props"]["lm"], true);
    let less = expand(json!({"sse2": false})).expect("it is known");
    assert_eq!(less["model"]["props"]["sse2"], false);
    assert_eq!(
        expand(json!({"nope": true})).map_err(|e| e.desc),
        Err("Property 'host-x86_64-cpu.nope' not found".to_owned())
    );
    let capabilities = get(&m, "query-migrate-capabilities", json!({}));
    let listed = |name: &str| {
        let mut all = capabilities.as_array().into_iter().flatten();
        all.any(|each| each["capability"] == name)
    };
    // libvirt starts nothing without the one and migrates nothing without the other.
    assert!(listed("events") && listed("return-path"));
}
