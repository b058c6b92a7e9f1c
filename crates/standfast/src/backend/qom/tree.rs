//! The tree of objects, put together from what the machine is at the moment of a query.

use super::super::cpus;
use super::node::{Access, Node};
use super::{Parts, bus_below, values};
use config::vm::{
    ChardevBackend, DeviceKind, MachineKind, MemoryBackend, MemoryBackendSource, NumaPolicy,
    ObjectConfig, ObjectKind, VmConfig,
};
use machine::inspect::{DeviceView, Inspect, ROOT_BUS};
use serde_json::{Value, json};

/// The whole tree.
pub(crate) fn tree(machine: &dyn Inspect) -> Node {
    let parts = Parts::of(machine);
    let config = parts.config;
    let mut objects = Node::new("container");
    for each in &config.objects {
        objects = objects.child(each.id.clone(), object(each));
    }
    let mut chardevs = Node::new("container");
    for each in &config.chardevs {
        chardevs = chardevs.child(each.id.clone(), Node::new(chardev_type(&each.backend)));
    }
    Node::new("container")
        .child("machine", board(&parts))
        .child("objects", objects)
        .child("chardevs", chardevs)
        .child("backend", Node::new("container"))
}

fn chardev_type(backend: &ChardevBackend) -> &'static str {
    match backend {
        ChardevBackend::Null => "chardev-null",
        ChardevBackend::Socket(_) => "chardev-socket",
        ChardevBackend::Stdio { .. } => "chardev-stdio",
        ChardevBackend::File { .. } => "chardev-file",
        ChardevBackend::Pty { .. } => "chardev-pty",
        ChardevBackend::Pipe { .. } => "chardev-pipe",
        ChardevBackend::RingBuf { .. } => "chardev-ringbuf",
    }
}

fn path_of(path: Option<&std::path::PathBuf>) -> String {
    path.map(|path| path.display().to_string())
        .unwrap_or_default()
}

fn board(parts: &Parts<'_>) -> Node {
    let config = parts.config;
    let (boot, smp, kind) = (&config.boot, &config.smp, &config.machine);
    let backend = kind.memory_backend.as_ref();
    let backend = backend.map_or_else(String::new, |id| format!("/objects/{id}"));
    let cpus = json!({
        "cpus": smp.cpus, "maxcpus": smp.max_cpus, "sockets": smp.sockets, "dies": smp.dies,
        "cores": smp.cores, "threads": smp.threads,
    });
    let on_off = |on: bool| if on { "on" } else { "off" };
    let mut node = Node::new(format!("{}-machine", kind.type_name))
        .with("kernel", "string", path_of(boot.kernel.as_ref()))
        .with("initrd", "string", path_of(boot.initrd.as_ref()))
        .with("append", "string", boot.append.clone())
        .with(
            "memory",
            "MemorySizeConfiguration",
            json!({"size": config.memory_bytes}),
        )
        .with("smp", "SMPConfiguration", cpus)
        .with("memory-backend", "link<memory-backend>", backend)
        .with("dump-guest-core", "bool", kind.dump_guest_core)
        .with("mem-merge", "bool", kind.mem_merge)
        .with("graphics", "bool", false)
        .with("usb", "bool", false);
    let mut peripheral = Node::new("container");
    let mut anonymous = Node::new("container");
    for device in &parts.devices {
        let made = user_device(parts, device);
        match &device.config.id {
            Some(id) => peripheral = peripheral.child(id.clone(), made),
            None => anonymous = anonymous.child(device.key.clone(), made),
        }
    }
    if kind.kind == MachineKind::Q35 {
        node = node
            .with("acpi", "OnOffAuto", on_off(kind.acpi))
            .child("q35", host_bridge(parts));
    }
    node.child("peripheral", peripheral)
        .child("peripheral-anon", anonymous)
        .child("unattached", unattached(parts))
}

/// A device with the properties that all devices have.
fn device(kind: &str, bus: Option<String>, hotplugged: bool, hotpluggable: bool) -> Node {
    let bus = bus.unwrap_or_default();
    let mut node = Node::new(kind).with("parent_bus", "link<bus>", bus);
    node.put("realized", "bool", true.into(), Access::Realized);
    node.with("hotplugged", "bool", hotplugged)
        .with("hotpluggable", "bool", hotpluggable)
}

/// A bus, with what is on it as links.
fn bus(parts: &Parts<'_>, id: &str) -> Node {
    let mut node = Node::new("PCIE").with("realized", "bool", true);
    for (index, device) in parts.on_bus(id).enumerate() {
        let kind = format!("link<{}>", device.config.driver);
        node = node.with(&format!("child[{index}]"), &kind, device.path.clone());
    }
    node
}

fn host_bridge(parts: &Parts<'_>) -> Node {
    let mch = device("mch", Some(parts.bus_path(ROOT_BUS)), false, false);
    device("q35-pcihost", None, false, false)
        .child("mch", mch.with("addr", "str", 0))
        .child(ROOT_BUS, bus(parts, ROOT_BUS))
}

fn unattached(parts: &Parts<'_>) -> Node {
    let config = parts.config;
    let mut node = Node::new("container");
    let count = parts.cpu_count;
    for index in 0..count {
        node = node.child(format!("device[{index}]"), cpu(config, index));
    }
    if config.machine.kind != MachineKind::Q35 {
        return node;
    }
    let root = parts.bus_path(ROOT_BUS);
    let isa = format!("{}/isa.0", parts.lpc_path());
    let lpc = device("ICH9-LPC", Some(root), false, false)
        .with("addr", "str", 0x1f << 3)
        .with(
            "acpi-pci-hotplug-with-bridge-support",
            "bool",
            config.machine.acpi_pci_hotplug,
        )
        .child("isa.0", Node::new("ISA").with("realized", "bool", true))
        .child(
            "rtc",
            device("mc146818rtc", Some(isa.clone()), false, false),
        );
    node = node.child(format!("device[{count}]"), lpc);
    for (index, serial) in config.serials.iter().enumerate() {
        let port = device("isa-serial", Some(isa.clone()), false, false)
            .with("index", "uint32", serial.index)
            .with("chardev", "str", serial.chardev.clone());
        node = node.child(format!("device[{}]", count + 1 + index), port);
    }
    node
}

fn cpu(config: &VmConfig, index: usize) -> Node {
    let place = cpus::place(&config.smp, index);
    let id = |id: Option<i64>| Value::from(id.unwrap_or(0));
    device(&cpus::type_of(&config.cpu.model), None, false, false)
        .with("socket-id", "int32", id(place.socket_id))
        .with("die-id", "int32", id(place.die_id))
        .with("core-id", "int32", id(place.core_id))
        .with("thread-id", "int32", id(place.thread_id))
        .with("apic-id", "uint32", index)
        .with("migratable", "bool", config.cpu.migratable)
        .with("kvm", "bool", config.cpu.kvm)
}

fn user_device(parts: &Parts<'_>, view: &DeviceView) -> Node {
    let config = parts.config;
    let declared = config::device_types::find(view.config.driver);
    let on = match &view.place {
        Some((bus, _)) => Some(parts.bus_path(bus)),
        None => Some(format!("{}/isa.0", parts.lpc_path())),
    };
    let hotpluggable = declared.is_some_and(|d| d.hotpluggable);
    let mut node = device(view.config.driver, on, view.hotplugged, hotpluggable);
    node.id.clone_from(&view.config.id);
    let values = values::current(view, &config.globals);
    for (property, value) in &values {
        node.put(
            property.name,
            &values::type_name(property),
            value.clone(),
            Access::Frozen,
        );
    }
    if let Some(backend) = virtio_type(&view.config.kind) {
        // The half of the device that knows nothing of PCI, by which clients name disks.
        let bus = format!("{}/virtio-bus", view.path);
        let own = declared.and_then(|d| d.groups.first().copied());
        let mut half = device(backend, Some(bus), view.hotplugged, false);
        for property in own.unwrap_or_default() {
            let value = values.iter().find(|(p, _)| p.name == property.name);
            let value = value.map(|(_, value)| value.clone()).unwrap_or_default();
            let kind = values::type_name(property);
            half.put(property.name, &kind, value, Access::Frozen);
        }
        node = node
            .child("virtio-backend", half)
            .child("virtio-bus", Node::new("virtio-pci-bus"));
    }
    if matches!(view.config.kind, DeviceKind::RootPort(_)) {
        node = node.child(bus_below(view), bus(parts, &view.key));
    }
    node
}

fn virtio_type(kind: &DeviceKind) -> Option<&'static str> {
    match kind {
        DeviceKind::VirtioNet(_) => Some("virtio-net-device"),
        DeviceKind::VirtioBlk(_) => Some("virtio-blk-device"),
        DeviceKind::VirtioRng(_) => Some("virtio-rng-device"),
        DeviceKind::RootPort(_) | DeviceKind::VfioPci(_) | DeviceKind::IsaSerial(_) => None,
    }
}

fn object(object: &ObjectConfig) -> Node {
    match &object.kind {
        ObjectKind::Memory(memory) => memory_backend(memory),
        ObjectKind::Rng { path } => {
            Node::new("rng-random").with("filename", "string", path.display().to_string())
        }
        ObjectKind::IommuFd { .. } => Node::new("iommufd"),
        ObjectKind::Secret => Node::new("secret"),
        ObjectKind::IoThread => Node::new("iothread"),
    }
}

fn memory_backend(memory: &MemoryBackend) -> Node {
    let kind = match &memory.source {
        MemoryBackendSource::Ram => "memory-backend-ram",
        MemoryBackendSource::MemFd => "memory-backend-memfd",
        MemoryBackendSource::File { .. } => "memory-backend-file",
    };
    let policy = match memory.policy {
        NumaPolicy::Default => "default",
        NumaPolicy::Preferred => "preferred",
        NumaPolicy::Bind => "bind",
        NumaPolicy::Interleave => "interleave",
    };
    let mut node = Node::new(kind)
        .with("share", "bool", memory.share)
        .with("size", "int", memory.size_bytes)
        .with("dump", "bool", memory.dump)
        .with("prealloc", "bool", memory.prealloc)
        .with("prealloc-threads", "int", memory.prealloc_threads)
        .with("reserve", "bool", memory.reserve)
        .with("merge", "bool", memory.merge)
        .with("policy", "HostMemPolicy", policy)
        .with("host-nodes", "int", memory.host_nodes.clone());
    match &memory.source {
        MemoryBackendSource::Ram => {}
        MemoryBackendSource::MemFd => {
            node = node.with("hugetlb", "bool", memory.hugetlb).with(
                "hugetlbsize",
                "int",
                memory.hugetlb_size_bytes.unwrap_or(0),
            );
        }
        MemoryBackendSource::File {
            path,
            readonly,
            discard_data,
            offset_bytes,
        } => {
            node = node
                .with("mem-path", "string", path.display().to_string())
                .with("offset", "int", *offset_bytes)
                .with("readonly", "bool", *readonly)
                .with("discard-data", "bool", *discard_data);
        }
    }
    node
}
